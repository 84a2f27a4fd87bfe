"""Windows: consecutive lines of one series, counted and cut."""

from __future__ import annotations

from typing import Optional

import numpy as np
from numpy.typing import NDArray

from .reader import Reader, Selection

# Lines read at once.
MOST = 1 << 16


def count_windows(reader: Reader, id: str, window: int, skip: bool) -> tuple[int, bool]:
    """The windows within consecutive lines of one id, and whether an id comes again after another."""
    found, run, last = 0, 0, None
    seen: set[int] = set()
    interleaved = False
    for readings in reader.read(Selection(id=id, skip=skip), MOST):
        assert readings.ids is not None
        for ids in np.split(readings.ids, np.flatnonzero(np.diff(readings.ids)) + 1):
            if ids[0] == last:
                run += len(ids)
                continue
            found += max(0, run - window + 1)
            run, last = len(ids), int(ids[0])
            interleaved |= last in seen
            seen.add(last)
    return found + max(0, run - window + 1), interleaved


def last_lines(reader: Reader, id: str, window: int) -> NDArray[np.int64]:
    """The numbers of the lines that windows within one id end with, in the order of the windows."""
    parts = list(reader.read(Selection(id=id), MOST))
    lines = np.concatenate([part.lines for part in parts])
    ids = np.concatenate([part.ids for part in parts if part.ids is not None])
    return np.asarray(lines[window - 1 :][within_one_series(ids, len(lines), window)])


def within_one_series(ids: Optional[NDArray[np.int64]], lines: int, window: int) -> NDArray[np.bool_]:
    """Which windows of so many lines lie within one series: [lines - window + 1]."""
    count = max(0, lines - window + 1)
    if ids is None:
        return np.ones(count, bool)
    series = np.concatenate([[0], np.cumsum(ids[1:] != ids[:-1])])  # [lines]
    return np.asarray(series[window - 1 :] == series[:count])


def cut(values: NDArray[np.float64], window: Optional[int], longest: int) -> NDArray[np.float64]:
    """The windows that end with the same lines as those of `longest`: [count, window, columns], or [count, columns].

    `values` are [lines, columns]; a window of None is a line.
    """
    count = max(0, len(values) - longest + 1)
    if window is None:
        return values[longest - 1 : longest - 1 + count]
    if not count:
        return np.empty((0, window, values.shape[1]), values.dtype)
    view = np.lib.stride_tricks.sliding_window_view(values, window, axis=0)  # [lines - window + 1, columns, window]
    return view[longest - window : longest - window + count].transpose(0, 2, 1)
