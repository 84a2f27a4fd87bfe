"""Ordered: the lines of one or several files sorted by series and time, for series whose lines interleave.

Numbers go to a temporary file without a name, and about 30 bytes a line stay in memory: where it lies, its time and
its series.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.errors import InputError

from . import cells
from .reader import Reader, Readings, Selection

# Lines read at once.
MOST = 1 << 14


class OrderedReader:
    """Several readers as one :class:`~keepdrop.files.reader.Reader`, sorted by the id, where there is one, and time.

    Integer ids come first, in their order, then texts in theirs. A line without a readable time has no place, and is
    left out where such lines are skipped.
    """

    def __init__(self, readers: Sequence[Reader], id: Optional[str], time: str, time_format: Optional[str]) -> None:
        first = readers[0]
        others = f" and {len(readers) - 1} others" if len(readers) > 1 else ""
        self.name = f"{first.name}{others}"
        self.columns = first.columns
        self.dated = first.dated | {time}
        self.units: Mapping[str, str] = getattr(first, "units", {})
        self.of_rows: bool = getattr(first, "of_rows", False)
        self._readers = readers
        self._key = {"id": id, "time": time, "time_format": time_format}
        self._sorted: dict[Selection, _Sorted] = {}
        self.left_out: tuple[str, ...] = ()  # what is wrong with lines of the last selection that have no place

    @property
    def manner(self) -> str:
        """As :class:`~keepdrop.files.reader.Reader` says."""
        return self._readers[0].manner

    @property
    def zoned(self) -> Optional[bool]:
        """As :class:`~keepdrop.files.reader.Reader` says."""
        return self._readers[0].zoned

    def count(self) -> Optional[int]:
        """The number of lines."""
        counts = [reader.count() for reader in self._readers]
        return None if None in counts else sum(count or 0 for count in counts)

    def read(self, selection: Selection, most: int, start: int = 0, stop: Optional[int] = None) -> Iterator[Readings]:
        """As :class:`~keepdrop.files.reader.Reader` says, by position in the new order."""
        keyed = replace(selection, **self._key)  # type: ignore[arg-type]
        if keyed not in self._sorted:
            self._sorted[keyed] = _Sorted.of(self._readers, keyed)
        found = self._sorted[keyed]
        self.left_out = found.left_out
        stop = len(found.order) if stop is None else min(stop, len(found.order))
        for begin in range(start, stop, most):
            yield found.readings(found.order[begin : min(begin + most, stop)], selection)


@dataclass(frozen=True)
class _Sorted:
    """What was read, in the order of the files, and the order wanted."""

    order: NDArray[np.int64]  # [lines]
    lines: NDArray[np.int64]  # [lines]
    numbers: NDArray[Any]  # [lines, columns], mapped from the file
    times: NDArray[np.datetime64]  # [lines]
    series: NDArray[np.int32]  # [lines] places among `names`
    names: list[str]
    problems: dict[int, str]
    file: IO[bytes]

    @classmethod
    def of(cls, readers: Sequence[Reader], selection: Selection) -> _Sorted:
        """Everything that is selected of these files."""
        file = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as this
        lines, times, series = [np.empty(0, np.int64)], [np.empty(0, "datetime64[us]")], [np.empty(0, np.int32)]
        known: dict[str, int] = {}
        problems: dict[int, str] = {}
        count, zoned = 0, None
        for reader in readers:
            for readings in reader.read(selection, MOST):
                if zoned not in (None, reader.zoned):
                    raise InputError(f"{reader.name} has times with and {readers[0].name} without offset from UTC")
                zoned = reader.zoned
                problems.update({count + place: text for place, text in readings.problems.items()})
                count += len(readings.lines)
                with _telling(readers[0].name):
                    file.write(np.ascontiguousarray(readings.numbers).tobytes())
                assert readings.times is not None
                lines.append(readings.lines)
                times.append(readings.times)
                texts = [""] * len(readings.lines) if selection.id is None else readings.texts[selection.id]
                series.append(np.array([known.setdefault(text, len(known)) for text in texts], np.int32))
        shape = (count, len(selection.numbers))
        empty = 0 in shape
        numbers = np.empty(shape, selection.dtype) if empty else np.memmap(file, selection.dtype, "r", shape=shape)
        made = cls(
            np.empty(0, np.int64),
            np.concatenate(lines),
            numbers,
            np.concatenate(times),
            np.concatenate(series),
            list(known),
            problems,
            file,
        )
        return replace(made, order=made._order(selection, readers))

    @property
    def left_out(self) -> tuple[str, ...]:
        """What is wrong with lines that have no place."""
        return tuple(text for place, text in self.problems.items() if np.isnat(self.times[place]))

    def _order(self, selection: Selection, readers: Sequence[Reader]) -> NDArray[np.int64]:
        places = sorted(range(len(self.names)), key=lambda i: _series_key(self.names[i]))
        rank = np.empty(len(places), np.int64)
        rank[places] = np.arange(len(places))
        order = np.lexsort((self.times, rank[self.series]))
        order = order[~np.isnat(self.times[order])]
        same = (self.times[order[1:]] == self.times[order[:-1]]) & (self.series[order[1:]] == self.series[order[:-1]])
        if same.any():
            first, second = sorted(order[int(np.flatnonzero(same)[0]) :][:2])
            of = f" of {self.names[self.series[first]]!r}" if selection.id else ""
            cure = "keep one of them" if selection.id else "name the column of their series by id="
            raise InputError(
                f"{readers[0].name}{' and others' * (len(readers) > 1)}: lines {self.lines[first]} and "
                f"{self.lines[second]}{of} are both of {np.datetime_as_string(self.times[first], unit='s')}; {cure}"
            )
        return order

    def readings(self, places: NDArray[np.int64], selection: Selection) -> Readings:
        """The lines at these places."""
        names = np.array(self.names, object)[self.series[places]]
        has_id = selection.id is not None
        return Readings(
            self.lines[places],
            np.asarray(self.numbers[places]),
            np.array([cells.row_id(name) for name in names], np.int64) if has_id else None,
            self.times[places] if selection.time is not None else None,
            {str(selection.id): names} if has_id else {},
            {i: self.problems[place] for i, place in enumerate(places.tolist()) if place in self.problems},
        )


def _series_key(name: str) -> tuple[bool, int, str]:
    try:
        return False, int(name), name
    except ValueError:
        return True, 0, name


@contextlib.contextmanager
def _telling(name: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot sort {name} ({error.strerror}); make room where temporary files go") from error
