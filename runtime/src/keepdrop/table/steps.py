"""Steps of time: "1h", "15min", "1d" as whole microseconds, and back."""

from __future__ import annotations

import re

import numpy as np

from keepdrop.errors import InputError

# The times of a table are numpy's datetime64[us], its steps timedelta64[us]: what a datetime of Python holds.
_MICROSECONDS = {
    "ms": 1_000,
    "s": 1_000_000,
    "min": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}


# A year: a horizon of such steps stays within what datetime64 holds.
_LONGEST = 366 * 86_400_000_000


def parsed_step(text: object) -> np.timedelta64:
    """The step of time that a text such as "1h" or "15min" names.

    Raises
    ------
    InputError
        It is no number above 0 with one of the units ms, s, min, h, d, w, or more than a year.
    """
    match = (
        re.fullmatch(r"\s*(\d{1,15}(?:\.\d{1,15})?)?\s*(ms|s|min|h|d|w)\s*", text.lower())
        if isinstance(text, str)
        else None
    )
    microseconds = float(match[1] or 1) * _MICROSECONDS[match[2]] if match else 0.0
    if not 1 <= microseconds <= _LONGEST or microseconds != int(microseconds):
        raise InputError(
            f'a step of {text!r} is none that is known here; give a number and a unit such as "1h", "15min", "10s" or '
            f'"1d" (units: {", ".join(_MICROSECONDS)})'
        )
    return np.timedelta64(int(microseconds), "us")


def step_text(step: np.timedelta64) -> str:
    """A step as `parsed_step` reads it, in the largest unit that it is a whole number of."""
    microseconds = int(step / np.timedelta64(1, "us"))
    sign, size = "-" if microseconds < 0 else "", abs(microseconds)
    unit, of = next(((u, n) for u, n in reversed(_MICROSECONDS.items()) if size and size % n == 0), ("ms", 1_000))
    return f"{sign}{size / of:g}{unit}"
