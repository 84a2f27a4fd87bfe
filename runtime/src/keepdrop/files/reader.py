"""Reader: a file of lines by column, whatever its format; read in pieces, with the memory of a piece.

What builds on it (windows, units, calendars, an answer for each line) needs three names:

    with sources.reader_of(path, dialect) as reader:        # or text.TextReader(name, file) of a pipe
        reader.columns                                      # names, in the file's order
        for readings in reader.read(Selection(numbers=("temp", "hum"), time="when", id="station"), most=10_000):
            readings.numbers                                # [n, 2] float64, NaN where a cell is missing
            readings.times, readings.ids, readings.texts["station"], readings.lines

A line at a time, as `stream` has them, goes through :class:`keepdrop.files.lines.Picked`, which bulk reading falls
back to: the same cells, the same messages.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Protocol

import numpy as np
from numpy.typing import NDArray

from keepdrop.errors import InputError

CURE = "fill or drop such lines first"
# And how to go on without doing so.
MISSING_CURE, WRONG_CURE = f"{CURE}, or see missing=", f"{CURE}, or see on_error="


@dataclass(frozen=True)
class Selection:
    """What is read of every line.

    Attributes
    ----------
    numbers
        The columns that are read as numbers, in the order wanted.
    integers
        As int64, exactly, and no cell may be missing; otherwise as float64.
    id
        The column that names the series, or the row, that a line belongs to: integers or text.
    time
        The column of times.
    time_format
        None for ISO 8601, "s" or "ms" for seconds or milliseconds since 1970, or a format as strptime takes it.
    texts
        Columns that are handed through as they stand.
    missing
        Whether a missing number is NaN; otherwise it is refused.
    skip
        Whether a line that cannot be read counts as one without numbers, with its problem told; otherwise refused.
    """

    numbers: tuple[str, ...] = ()
    integers: bool = False
    id: Optional[str] = None
    time: Optional[str] = None
    time_format: Optional[str] = None
    texts: tuple[str, ...] = ()
    missing: bool = False
    skip: bool = False

    @property
    def dtype(self) -> Any:
        """That of the numbers."""
        return np.int64 if self.integers else np.float64


class Readings(NamedTuple):
    """Consecutive lines."""

    lines: NDArray[np.int64]  # [n] numbers of the lines in the text, from 1; of a Parquet file rows, from 0
    numbers: NDArray[Any]  # [n, columns] float64, NaN where missing; int64 where so selected
    ids: Optional[NDArray[np.int64]]  # [n], as keepdrop.files.cells.row_id has them
    times: Optional[NDArray[np.datetime64]]  # [n] microseconds; UTC where the times bear an offset, else as they stand
    texts: dict[str, NDArray[np.object_]]  # [n] str by column; of the id's column too
    problems: dict[int, str]  # by place in 0 ... n - 1: what a line that was skipped is

    def cut(self, part: slice) -> Readings:
        """Some of these lines."""
        places = range(len(self.lines))[part]
        return Readings(
            self.lines[part],
            self.numbers[part],
            None if self.ids is None else self.ids[part],
            None if self.times is None else self.times[part],
            {name: cells[part] for name, cells in self.texts.items()},
            {place - places.start: text for place, text in self.problems.items() if place in places},
        )


def joined_readings(parts: Sequence[Readings]) -> Readings:
    """Several as one."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    starts = np.cumsum([0, *(len(part.lines) for part in parts)]).tolist()
    return Readings(
        np.concatenate([part.lines for part in parts]),
        np.concatenate([part.numbers for part in parts]),
        None if first.ids is None else np.concatenate([part.ids for part in parts if part.ids is not None]),
        None if first.times is None else np.concatenate([part.times for part in parts if part.times is not None]),
        {name: np.concatenate([part.texts[name] for part in parts]) for name in first.texts},
        {start + place: text for start, part in zip(starts, parts) for place, text in part.problems.items()},
    )


class Reader(Protocol):
    """A file of lines by column; positions count its lines from 0, the header left out.

    `columns` are its names in the file's order, `dated` those that hold dates or times, as the types or the first line
    tell.
    """

    name: str
    columns: tuple[str, ...]
    dated: frozenset[str]

    @property
    def manner(self) -> str:
        """How the file was understood, where that was found out; otherwise empty."""

    @property
    def zoned(self) -> Optional[bool]:
        """Whether the times that were read bear an offset; None before."""

    def count(self) -> Optional[int]:
        """The number of lines; None where they can be read but once."""

    def read(self, selection: Selection, most: int, start: int = 0, stop: Optional[int] = None) -> Iterator[Readings]:
        """Lines `start` to `stop` by position, at most `most` at once.

        Raises
        ------
        InputError
            A column is not there, or a line or cell is not what was selected: it is told by line and column.
        """


def column_index(name: str, columns: Sequence[str], column: str) -> int:
    """Where `column` stands; InputError tells which there are."""
    try:
        return list(columns).index(column)
    except ValueError:
        raise InputError(f"{name} has no column {column!r}; its columns are {list(columns)}") from None
