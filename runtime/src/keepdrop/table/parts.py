"""Parts: what a table is made of: columns, inputs, the time, targets, and the rules for what is missing."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional, Union

import numpy as np

from keepdrop.errors import InputError

from .steps import parsed_step

REFUSE, SKIP, HOLD = "refuse", "skip", "hold"

# Attributes of the calendar: the value at a time counts from 0, and comes again after so many. Those of darts' cyclic
# encoders (0.35), which divide by the most values there can be: 366 days of a year, 31 of a month.
CYCLES = {
    "second": 60.0,
    "minute": 60.0,
    "hour": 24.0,
    "day_of_week": 7.0,
    "day": 31.0,
    "day_of_year": 366.0,
    "month": 12.0,
    "quarter": 4.0,
}

# The longest window and horizon: what a file says is read into memory, whoever wrote it.
MOST_LINES = 100_000

# The name of the only input, or the only output, as long as it is not said.
ONLY = ""


@dataclass(frozen=True)
class Column:
    """A column of readings.

    ``missing`` says what becomes of an empty cell: ``"refuse"``, ``"skip"`` (the windows that hold it are answered
    with nulls) or ``"hold N"`` (the last value, for at most N lines in a row); None is the table's own rule.
    """

    column: str
    unit: Optional[str] = None
    missing: Optional[str] = None

    @property
    def width(self) -> int:
        """How many of the model's features it is."""
        return 1

    @property
    def names(self) -> tuple[str, ...]:
        """The names of these features."""
        return (self.column,)


@dataclass(frozen=True)
class Cyclic:
    """Sine and cosine of an attribute of the time, in that order: ``sin(2 pi value / period)``.

    ``period`` is in values of the attribute (hours of ``"hour"``); None is that of the calendar, ``CYCLES``.
    """

    cyclic: str
    period: Optional[float] = None

    @property
    def width(self) -> int:
        """How many of the model's features it is."""
        return 2

    @property
    def names(self) -> tuple[str, ...]:
        """The names of these features, darts' own."""
        return f"{self.cyclic}_sin", f"{self.cyclic}_cos"


AnyColumn = Union[Column, Cyclic]


@dataclass(frozen=True)
class InputColumns:
    """What an input of the model is made of: columns in the model's order, and the lines of a window.

    ``window`` is None for an input that takes one line.
    """

    columns: tuple[AnyColumn, ...]
    window: Optional[int] = None

    @property
    def width(self) -> int:
        """The number of features."""
        return sum(column.width for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The features by name, in the model's order."""
        return tuple(name for column in self.columns for name in column.names)


@dataclass(frozen=True)
class Time:
    """The column of times: its name, the step from line to line, its format and its zone.

    ``format`` is one of ``time.strptime``, or ``"s"`` or ``"ms"`` since 1970; None is ISO 8601. ``zone`` is the zone
    of the calendar, such as ``"Europe/Berlin"``: times with an offset are turned into it, times without are in it.
    Without it, times with an offset are turned into UTC and times without are taken as they are.
    """

    column: str
    step: Optional[str] = None
    format: Optional[str] = None
    zone: Optional[str] = None

    @property
    def delta(self) -> Optional[np.timedelta64]:
        """The step."""
        return None if self.step is None else parsed_step(self.step)


@dataclass(frozen=True)
class Target:
    """What an output says: of which target, in which unit, how many steps after the last line of the window.

    ``name`` is how the answer is called (default: the output). ``target`` is the column of readings that the truth
    will be in (default: `name`). ``ahead`` has one number, or those of a horizon, which the output's first axis then
    counts. ``labels`` are the names of classes, in the order of the last axis.
    """

    name: str
    target: str
    unit: Optional[str] = None
    ahead: tuple[int, ...] = (0,)
    labels: Optional[tuple[str, ...]] = None

    @property
    def is_horizon(self) -> bool:
        """Whether the output's first axis counts steps ahead."""
        return len(self.ahead) > 1

    def class_number(self, text: str) -> int:
        """Which class a label is, counted from 0, or a number that is one.

        Raises
        ------
        ValueError
            It is none of them; the text names them.
        """
        labels = self.labels or ()
        if text in labels:
            return labels.index(text)
        if text.isdecimal() and int(text) < len(labels):
            return int(text)
        raise ValueError(f"{text!r}, none of the classes {list(labels)}")


def parsed_rule(text: str) -> tuple[str, int]:
    """A missing-value rule: "refuse", "skip" or "hold", and for how many lines (0 but for hold)."""
    match = re.fullmatch(r"(refuse|skip)|hold[ :](\d+)", text.strip())
    if not match or match[2] is not None and int(match[2]) < 1:
        raise InputError(f'{text!r} is no rule for missing values; give "refuse", "skip" or "hold N", such as "hold 3"')
    return (match[1], 0) if match[1] else (HOLD, int(match[2]))
