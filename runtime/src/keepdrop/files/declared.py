"""Declared: the rows of a table of readings, as an artifact's :class:`~keepdrop.table.Table` says what they mean.

A row is the window that ends with a line; its time is that line's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, Optional, Protocol

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import Tensor
from keepdrop.errors import InputError
from keepdrop.table import Column, Table, Target
from keepdrop.table.calendar import Times, cyclic_values
from keepdrop.table.parts import HOLD, REFUSE
from keepdrop.table.steps import step_text
from keepdrop.table.zones import local_times, zone_of

from . import cells, gaps, windows
from .gaps import Hold
from .reader import CURE, Reader, Readings, Selection, joined_readings
from .rows import Rows
from .skipped import Skipped

TIME = "time"
# Labels of the readings that go with a row begin with this; they are drawn, not written.
READING = "reading:"
# Readings before a forecast that are kept for a picture, for each step of the horizon; and of so many series.
BEFORE = 3
MOST_KEPT = 6
# "temp [°F]" and "temp (°F)" are the column temp in a unit.
_UNIT = re.compile(r"(?P<name>.*\S)\s*(?:\[(?P<square>[^\[\]]+)\]|\((?P<round>[^()]+)\))")


class HasColumns(Protocol):
    """What has columns by name."""

    name: str
    columns: tuple[str, ...]


class DeclaredSource:
    """Lines of a table as rows of the artifact's inputs, as a :class:`~keepdrop.files.sources.Source`.

    `table` is one that :func:`keepdrop.table.fitted` gave; `skipped` as in :class:`~keepdrop.files.sources.Choice`.

    Targets that are classes are read, as the numbers of their labels, where `with_classes` says so.

    Raises
    ------
    InputError
        A column is not there, or is in another unit.
    """

    def __init__(
        self,
        reader: Reader,
        table: Table,
        inputs: Sequence[Tensor],
        skipped: Optional[Skipped] = None,
        with_classes: bool = False,
    ) -> None:
        self.name = reader.name
        self._reader = reader
        self._skipped = skipped
        self._table = self.table = table
        self._dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in inputs}
        self._shapes = {tensor.name: tensor.shape for tensor in inputs}
        self._window = table.window or 1
        self._columns = {column.column: column for column in table.columns}
        headings = Headings(reader, table)
        self._targets = [t for t in headings.targets if t not in self._columns]
        self._classes = [(t, headings.found(t.target)) for t in headings.classes] if with_classes else []
        self._rules = [table.rule(column) for column in self._columns.values()]
        self.features = tuple(headings.found(column) for column in self._columns)
        time = table.time
        self._selection = Selection(
            (*self.features, *(headings.found(target) for target in self._targets)),
            id=None if table.id is None else headings.found(table.id),
            time=None if time is None else headings.found(time.column),
            time_format=None if time is None else time.format,
            texts=tuple(dict.fromkeys(heading for _, heading in self._classes)),
            missing=True,
            skip=skipped is not None,
        )
        self._zone = None if time is None or time.zone is None else zone_of(time.zone)
        self._step = None if time is None else time.delta
        self._interleaved = False
        self.recent: dict[str, dict[str, tuple[Times, NDArray[np.float64]]]] = {}
        self._kept = max([self._window, *(BEFORE * len(target.ahead) for target in table.outputs.values())])

    @property
    def manner(self) -> str:
        """How the file was understood, where that was found out."""
        return self._reader.manner

    @property
    def zoned(self) -> bool:
        """Whether the times bear an offset, and are of UTC therefore; known once lines were read."""
        return bool(self._reader.zoned)

    @property
    def with_readings(self) -> list[str]:
        """The targets whose readings are in the table."""
        return [t.target for t in self._table.outputs.values() if t.target in [*self._columns, *self._targets]]

    def count(self) -> Optional[int]:
        """The number of rows."""
        lines = self._reader.count()
        if lines is None:
            return None
        if self._selection.id is None or self._window == 1:
            return max(0, lines - self._window + 1)
        found, self._interleaved = windows.count_windows(
            self._reader, self._selection.id, self._window, self._selection.skip
        )
        return found

    def no_rows(self) -> str:
        """Why there is no row."""
        if self._interleaved:
            return (
                f"{self.name} has no {self._window} lines of one {self._table.id!r} in a row, since its series are "
                "interleaved; sort it by that and time, or let order= do so"
            )
        return (
            f"{self.name} has fewer than the {self._window} lines in a row that a window takes; give more lines before "
            "the time to forecast"
        )

    def example(self) -> Any:
        """Zeros: that the columns fit the inputs is known already."""
        inputs = {}
        for name, of in self._table.inputs.items():
            lines = () if of.window is None else (of.window,)
            inputs[name] = np.zeros((1, *self._fitted(name, (*lines, of.width))), self._dtypes[name])
        return inputs

    def read(self, start: int, stop: Optional[int], size: int) -> Iterator[Rows]:
        """As :class:`~keepdrop.files.sources.Source` says."""
        most = min(size, windows.MOST)
        if self._selection.id is None:
            last = None if stop is None else stop + self._window - 1
            yield from self._windows(self._lines(start, last, most))
            return
        end = 0
        for rows in self._windows(self._lines(0, None, most)):
            first, end = end, end + len(rows)
            yield rows.cut(slice(max(0, start - first), None if stop is None else max(0, stop - first)))
            if stop is not None and end >= stop:
                return

    def _lines(self, start: int, stop: Optional[int], most: int) -> Iterator[Readings]:
        """Lines `start` to `stop`, their times looked at, and missing values held where so declared."""
        held = [lines if rule == HOLD else 0 for rule, lines in self._rules] + [0] * len(self._targets)
        hold, before = Hold(held), max(held, default=0)
        position = max(0, start - before)
        last: Optional[Readings] = None
        self.recent = {target: {} for target in self.with_readings}
        for readings in self._reader.read(self._selection, most, position, stop):
            filled = hold.filled(readings)
            new = filled.cut(slice(max(0, start - position), None))
            position += len(readings.lines)
            if len(new.lines):
                if self._skipped:
                    self._skipped.note(self._reader, new)
                self._check_times(new if last is None else joined_readings([last, new]))
                self._check_missing(new)
                last = new.cut(slice(len(new.lines) - 1, None))
                self._remember(new)
                yield new

    def _remember(self, readings: Readings) -> None:
        """Keep the last readings of the targets, of the first series, for a picture."""
        if readings.times is None or not self.recent:
            return
        starts = [0] if readings.ids is None else [0, *(np.flatnonzero(np.diff(readings.ids)) + 1).tolist()]
        for start, stop in zip(starts, [*starts[1:], len(readings.lines)]):
            name = "" if self._selection.id is None else str(readings.texts[self._selection.id][start])
            for target, known in self.recent.items():
                if name in known or len(known) < MOST_KEPT:
                    place = [*self._columns, *self._targets].index(target)
                    new = readings.times[start:stop], readings.numbers[start:stop, place]
                    both = (np.concatenate(parts)[-self._kept :] for parts in zip(known.get(name, new), new))
                    known[name] = tuple(part[-self._kept :] for part in new) if name not in known else tuple(both)  # type: ignore[assignment]

    def _check_times(self, readings: Readings) -> None:
        """InputError where time runs back or stands still, where a step is not as declared, or where steps lack."""
        if readings.times is None or len(readings.times) < 2:
            return
        steps = np.diff(readings.times)
        same = np.ones(len(steps), bool) if readings.ids is None else readings.ids[1:] == readings.ids[:-1]
        same[[place - 1 for place in readings.problems if place > 0]] = False
        back = same & (steps <= np.timedelta64(0))
        other = np.zeros(len(steps), bool)
        if self._step is not None:
            other = steps % self._step != np.timedelta64(0) if self._table.missing != REFUSE else steps != self._step
        # Lines that are not sorted are told of first: of them one skips, and another runs back.
        for wrong in (back, same & other):
            if wrong.any():
                raise InputError(self._wrong_step(readings, int(np.argmax(wrong)) + 1, steps))

    def _wrong_step(self, readings: Readings, place: int, steps: NDArray[np.timedelta64]) -> str:
        assert readings.times is not None and self._table.time is not None
        then, now = (np.datetime_as_string(readings.times[i], unit="s") for i in (place - 1, place))
        where = f"{self._where(readings, place)}, column {self._table.time.column!r}: {now} comes after {then}"
        step = steps[place - 1]
        if step <= np.timedelta64(0):
            series = (
                "" if self._table.id else '; where there are several series, declare the column that tells them: "id"'
            )
            return f"{where}; sort the lines by time{series}"
        declared = step_text(self._step) if self._step is not None else ""
        if self._step is not None and step % self._step == np.timedelta64(0):
            lacking = int(step / self._step) - 1
            return (
                f"{where}, and {lacking} line{'s' * (lacking > 1)} in steps of {declared} "
                f"{'are' if lacking > 1 else 'is'} missing; add them, or let missing= skip the windows they are in"
            )
        return f"{where}, a step of {step_text(step)}, and the model was trained on steps of {declared}; resample them"

    def _check_missing(self, readings: Readings) -> None:
        """InputError for a value that is missing where the rule refuses that."""
        for i, (name, (rule, _)) in enumerate(zip(self._columns, self._rules)):
            lacking = np.isnan(readings.numbers[:, i])
            lacking[list(readings.problems)] = False
            if rule == REFUSE and lacking.any():
                where = self._where(readings, int(np.argmax(lacking)))
                raise InputError(f"{where}, column {name!r} is empty; {CURE}")

    def _where(self, readings: Readings, place: int) -> str:
        if getattr(self._reader, "of_rows", False):
            return f"{self.name}, row {readings.lines[place]} (from 0)"
        return f"{self.name}, line {readings.lines[place]}"

    def _windows(self, parts: Iterator[Readings]) -> Iterator[Rows]:
        before: Optional[Readings] = None
        for part in parts:
            readings = part if before is None else joined_readings([before, part])
            count = len(readings.lines) - self._window + 1
            if count > 0:
                yield self._rows(readings)
            before = readings.cut(slice(max(0, count), None))

    def _rows(self, readings: Readings) -> Rows:
        """Every window within these lines."""
        last = slice(self._window - 1, None)
        inputs = {name: self._input(name, readings) for name in self._table.inputs}
        labels: dict[str, NDArray[Any]] = {}
        if readings.times is not None:
            labels[TIME] = readings.times[last]
        if self._selection.id is not None and self._table.id is not None:
            labels[self._table.id] = readings.texts[self._selection.id][last].astype(str)
        for target in self.with_readings:
            place = [*self._columns, *self._targets].index(target)
            labels[READING + target] = readings.numbers[last, place]
        for classes, heading in self._classes:
            labels[READING + classes.target] = self._class_numbers(classes, heading, readings)[last]
        ids = None if readings.ids is None else readings.ids[last]
        rows = Rows(ids, inputs, labels, self._reasons(readings))
        return rows.cut(windows.within_one_series(readings.ids, len(readings.lines), self._window))

    def _class_numbers(self, target: Target, heading: str, readings: Readings) -> NDArray[np.float64]:
        """The classes that stand in a column, NaN where it is empty."""
        found = np.full(len(readings.lines), np.nan)
        for place, text in enumerate(readings.texts[heading]):
            if cells.is_missing(text):
                continue
            try:
                found[place] = target.class_number(text)
            except ValueError as error:
                where = f"{self._where(readings, place)}, column {target.target!r}"
                raise InputError(f"{where} holds {error}; mend it, or empty the cell") from None
        return found

    def _input(self, name: str, readings: Readings) -> NDArray[Any]:
        declared = self._table.inputs[name]
        parts: list[NDArray[np.float64]] = []
        for column in declared.columns:
            if isinstance(column, Column):
                parts.append(readings.numbers[:, [list(self._columns).index(column.column)]])
            else:
                assert readings.times is not None
                parts.append(cyclic_values(column, self._clock(readings.times)))
        values = windows.cut(np.concatenate(parts, axis=1), declared.window, self._window)
        return self._cast(name, values, readings)

    def _clock(self, times: Times) -> Times:
        """What the calendar is told of: the declared zone's clocks, or times as they are."""
        return local_times(times, self._zone) if self._zone is not None and self.zoned else times

    def _cast(self, name: str, values: NDArray[np.float64], readings: Readings) -> NDArray[Any]:
        dtype = self._dtypes[name]
        if dtype.kind == "f" and (np.abs(values) > np.finfo(dtype).max).any():
            line = self._where(readings, int(np.argmax((np.abs(readings.numbers) > np.finfo(dtype).max).any(axis=1))))
            raise InputError(f"{line} holds a number beyond {dtype}; rescale it")
        if dtype.kind in "iu":
            values = np.nan_to_num(values)  # those windows are not answered
            if (values != np.round(values)).any():
                raise InputError(f"input {name!r} takes {dtype}, and {self.name} holds numbers that are not whole")
        return values.astype(dtype).reshape(len(values), *self._fitted(name, values.shape[1:]))

    def _fitted(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of an example: without the axis of a single column where the input has none."""
        return shape if len(shape) == len(self._shapes[name]) - 1 else shape[:-1]

    def _reasons(self, readings: Readings) -> Optional[NDArray[np.object_]]:
        """Why windows have no answer; None where each has one."""
        if not self._selection.skip and self._table.missing == REFUSE and all(r == REFUSE for r, _ in self._rules):
            return None
        of_features = _first_columns(readings, len(self._columns))
        found = gaps.reasons(of_features, list(self._columns), self._window)
        if readings.times is None or self._step is None:
            return found
        jumps = np.flatnonzero(np.diff(readings.times) != self._step) + 1
        for line in jumps[::-1].tolist():  # backwards: the first line of a window tells
            for window in range(max(0, line - self._window + 1), min(line, len(found))):
                found[window] = found[window] or f"line {readings.lines[line]}: there is a gap in time before it"
        return found


def _first_columns(readings: Readings, count: int) -> Readings:
    return readings._replace(numbers=readings.numbers[:, :count])


class Headings:
    """Where the columns of a table are in a file, whose headings may bear units.

    Raises
    ------
    InputError
        A column is not there, or is in another unit.
    """

    def __init__(self, reader: HasColumns, table: Table) -> None:
        self._name = reader.name
        self._headings = list(reader.columns)
        self._of: dict[str, str] = {}
        parted = {heading: match for heading in self._headings if (match := _UNIT.fullmatch(heading))}
        known = getattr(reader, "units", {})
        wanted = [column.column for column in table.columns]
        wanted += [name for name in (table.id, table.time.column if table.time else None) if name is not None]
        there = [target for target in table.outputs.values() if self._has(target.target, parted)]
        self.targets = list(dict.fromkeys(target.target for target in there if target.labels is None))
        self.classes = [target for target in there if target.labels is not None]
        for name in dict.fromkeys([*wanted, *self.targets, *(target.target for target in self.classes)]):
            self._of[name] = self._heading(name, parted)
            match = parted.get(self._of[name]) if self._of[name] != name else None
            unit = (match["square"] or match["round"]) if match else known.get(self._of[name])
            declared = table.unit(name)
            if unit is not None and declared is not None and unit.strip() != declared:
                raise InputError(
                    f"{self._name}: column {name!r} is in {unit.strip()}, and the model was trained on {declared}; "
                    "convert it"
                )

    def found(self, name: str) -> str:
        """The heading of a column."""
        return self._of[name]

    def _has(self, name: str, parted: dict[str, Any]) -> bool:
        return name in self._headings or any(match["name"] == name for match in parted.values())

    def _heading(self, name: str, parted: dict[str, Any]) -> str:
        if name in self._headings:
            return name
        found = [heading for heading, match in parted.items() if match["name"] == name]
        if len(found) != 1:
            known = [heading for heading in self._headings if heading]
            raise InputError(f"{self._name} has no column {name!r}, which the model was trained on; it has {known}")
        return found[0]
