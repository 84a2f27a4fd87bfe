"""Gaps: what becomes of missing numbers, and why a row has no answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional, Union

import numpy as np
from numpy.typing import NDArray

from .reader import Readings

REFUSE, SKIP = "refuse", "skip"
# What becomes of a missing number: it is refused, or rows with it are not answered; or, as a number of lines, the last
# value of its column stands in for so many lines of one series, and rows with longer gaps are not answered.
Missing = Union[str, int]


class Hold:
    """The last value stands in for a missing one, at most `steps` lines on and within consecutive lines of one id.

    `steps` is a number for all columns, or one for each.
    """

    def __init__(self, steps: Union[int, Sequence[int]]) -> None:
        self._steps = np.asarray(steps, np.int64)
        self._most = int(np.max(self._steps, initial=0))
        self._numbers: Optional[NDArray[np.float64]] = None  # [up to steps, columns] of the lines before, with gaps
        self._ids: Optional[NDArray[np.int64]] = None

    def filled(self, readings: Readings) -> Readings:
        """These lines, which follow those that were given before."""
        new = len(readings.numbers)
        numbers = readings.numbers if self._numbers is None else np.concatenate([self._numbers, readings.numbers])
        ids = readings.ids
        if ids is not None and self._ids is not None:
            ids = np.concatenate([self._ids, ids])
        kept = slice(max(0, len(numbers) - self._most), None)
        self._numbers, self._ids = numbers[kept], None if ids is None else ids[kept]
        return readings._replace(numbers=_filled(numbers, ids, self._steps)[len(numbers) - new :])


def _filled(
    numbers: NDArray[np.float64], ids: Optional[NDArray[np.int64]], steps: NDArray[np.int64]
) -> NDArray[np.float64]:
    known = ~np.isnan(numbers)  # [lines, columns]
    lines = np.arange(len(numbers))[:, np.newaxis]
    last = np.maximum.accumulate(np.where(known, lines, -1), axis=0)
    held = np.take_along_axis(numbers, np.maximum(last, 0), axis=0)
    fits = (last >= 0) & (lines - last <= steps)
    if ids is not None:
        series = np.concatenate([[0], np.cumsum(ids[1:] != ids[:-1])])
        fits &= series[np.maximum(last, 0)] == series[:, np.newaxis]
    return np.where(known | ~fits, numbers, held)


def reasons(readings: Readings, columns: Sequence[str], window: int) -> NDArray[np.object_]:
    """Why the windows of so many lines have no answer [lines - window + 1], by the first line; empty where they have.

    Of integers none is missing.
    """
    count = len(readings.lines)
    found = np.full(max(0, count - window + 1), "", object)
    gaps = np.isnan(readings.numbers) if readings.numbers.dtype.kind == "f" else np.zeros(readings.numbers.shape, bool)
    bad: NDArray[np.bool_] = np.asarray(gaps.any(axis=1))
    bad[list(readings.problems)] = True
    for line in np.flatnonzero(bad)[::-1].tolist():  # backwards: the first line of a window tells
        why = readings.problems.get(line)
        if why is None:
            why = f"line {readings.lines[line]}: {columns[int(np.argmax(gaps[line]))]} is missing"
        found[max(0, line - window + 1) : line + 1] = why
    return found
