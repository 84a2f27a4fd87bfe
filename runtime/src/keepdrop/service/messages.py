"""Messages: what the lines of a pipe say to a stream, CSV with a header or JSON lines.

{"id": 3, "x": [0.1, 0.2]}        a reading; "x" is an object by input name where the model has several inputs
{"id": 3, "temp": 21.5, ...}      a reading by columns, where these were chosen
{"id": 3, "step": 17, "truth": 71.2}   what was observed where that step's answer had forecast it; by output in an
                                       object, null for steps of a horizon that are still to come
{"id": 3, "reset": true}          the row starts anew
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Optional, TypeVar, Union

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import Tensor
from keepdrop.errors import InputError
from keepdrop.files import cells
from keepdrop.files.declared import Headings
from keepdrop.files.gaps import REFUSE, Missing
from keepdrop.files.lines import Cells, Dialect, Header, Picked
from keepdrop.files.reader import CURE, MISSING_CURE, Selection
from keepdrop.table import Column, Table
from keepdrop.table.calendar import cyclic_values
from keepdrop.table.parts import HOLD
from keepdrop.table.zones import local_times, zone_of

from .missing import Rules

NAME = "standard input"
ID, X, RESET, STEP, TRUTH = "id", "x", "reset", "step", "truth"
# The row where readings bear no id.
ONLY_ROW = 0

RowId = Union[int, str]
Made = TypeVar("Made")
_NO_ID: tuple[int, RowId] = (ONLY_ROW, ONLY_ROW)


class Reading(NamedTuple):
    """A step of a row: by input, as :meth:`Stream.push` takes it, the axis of rows left out."""

    line: int
    row: int
    id: RowId
    x: Mapping[str, Any]
    time: Optional[float]  # microseconds of a date, or the number that stood there
    echoed: Mapping[str, Any]  # what comes back in the answer
    truths: Mapping[str, float]  # by column, those that it holds
    zoned: bool = False  # whether the time is of UTC
    lacking: Optional[str] = None  # why there can be no answer: a number is missing, and 0 stands in `x`
    held: Optional[NDArray[np.float64]] = None  # what the row's next reading may be filled with


class _Taken(NamedTuple):
    """What the columns of a reading give: as the fields of `Reading` say."""

    x: Mapping[str, Any]
    lacking: Optional[str] = None
    held: Optional[NDArray[np.float64]] = None


class Truth(NamedTuple):
    """What was observed where the answer of a step had forecast it, by output (None: the only one)."""

    line: int
    row: int
    id: RowId
    step: int
    values: Mapping[Optional[str], Any]
    echoed: Mapping[str, Any]


class Reset(NamedTuple):
    """A row is to start anew."""

    line: int
    row: int
    id: RowId


Message = Union[Reading, Truth, Reset]


class Misfit(InputError):
    """The header, or the choice of columns, does not fit: no later line can do better."""


@dataclass(frozen=True)
class MessageColumns:
    """Which columns, or keys of JSON, mean what.

    Attributes
    ----------
    columns
        The features in the model's order; of CSV by default all but `id`, `time`, those without a name and dates.
    id
        The column of row ids; of JSON by default "id".
    time, time_format
        The column of times, or of any number that grows from reading to reading of a row; None is ISO 8601 or a
        number, otherwise as :class:`keepdrop.files.reader.Selection` has it.
    table
        What the columns of readings mean to the model, where the artifact says it and `columns` does not.
    truths
        Columns that hold what earlier answers had forecast; an empty cell says nothing.
    missing
        What becomes of missing numbers of `columns`; a table has rules of its own.
    dialect
        What is known of CSV.
    """

    columns: Optional[tuple[str, ...]] = None
    id: Optional[str] = None
    time: Optional[str] = None
    time_format: Optional[str] = None
    truths: tuple[str, ...] = ()
    table: Optional[Table] = None
    missing: Missing = REFUSE
    dialect: Dialect = Dialect()


class Messages:
    """Reads line by line; `inputs` are those of a stream, [batch, steps, ...].

    `held_of` gives what a row's last reading left in `Reading.held`.
    """

    def __init__(
        self,
        inputs: tuple[Tensor, ...],
        choice: MessageColumns,
        held_of: Callable[[int], Optional[NDArray[np.float64]]] = lambda row: None,
    ) -> None:
        self._held_of = held_of
        self._inputs = inputs
        self._choice = choice
        self._times = cells.Times(choice.time_format)
        self._header: Optional[Header] = None
        self._first_line = ""
        self._picked: Optional[Picked] = None
        self._rules = Rules(())

    def read(self, number: int, line: bytes) -> Optional[Message]:
        """What the line of this number (from 1) says; None of a blank line and of a header, which may come again.

        Raises
        ------
        InputError
            It says nothing that is known; the text names the line, and the column of CSV.
        Misfit
            The header does not fit, so that no line below it can.
        """
        text = _text(number, line)
        if not text or text == self._first_line:  # `tail -F` gives the header of each new file
            return None
        if self._header is None:
            self._header = self._begun(number, text)
            if not self._header.is_json:
                self._first_line = text
                return None
        found = self._header.parsed(number, text)
        if isinstance(found, dict):
            return self._of_object(number, found)
        return self._of_cells(number, found)

    def _begun(self, number: int, text: str) -> Header:
        # JSON has no header: each line is an object of its own.
        header = _fitting(lambda: Header(NAME, number, "{}" if text.startswith("{") else text, self._choice.dialect))
        if header.is_json:
            table = self._choice.table
            others = (table.id, table.time.column if table.time else None) if table else ()
            header.columns = (*self._features, *(name for name in others if name))
        elif self._choice.id is not None and self._choice.id not in header.columns:
            raise Misfit(
                f"{NAME}, line {number} has no column {self._choice.id!r}; its columns are {list(header.columns)}"
            )
        return header

    def _of_object(self, number: int, found: dict[str, Any]) -> Message:
        column = self._choice.id or ID
        row, shown = _NO_ID if column not in found else self._id(number, column, found[column])
        if RESET in found and X not in found:
            if found[RESET] is not True:
                raise InputError(f'{NAME}, line {number}, "{RESET}" is {found[RESET]!r}; give true')
            return Reset(number, row, shown)
        if TRUTH in found and X not in found:
            return _truth(number, row, shown, {name: value for name, value in found.items() if name != column})
        taken: Optional[_Taken] = None
        if X in found:
            given = found[X]
            x: Mapping[str, Any] = given if isinstance(given, dict) else {self._inputs[0].name: given}
            if not isinstance(given, dict) and len(self._inputs) > 1:
                raise InputError(
                    f"{NAME}, line {number}: no array was given for input "
                    f'{[tensor.name for tensor in self._inputs[1:]]}; give "{X}" as an object by input name'
                )
        elif self._choice.columns or self._choice.table:
            x = (taken := self._columns(number, row, found)).x
        else:
            raise InputError(
                f'{NAME}, line {number} has no {X!r}; give one object a line, such as {{"{column}": 3, "{X}": [0.1, '
                "0.2]}, or choose keys by columns="
            )
        used = {X, column, *(self._features if X not in found else ())}
        echoed = {name: value for name, value in found.items() if name not in used}
        time = self._time(number, found.get(self._choice.time or ""))
        truths, more = self._truths(number, found), () if taken is None else taken[1:]
        return Reading(number, row, shown, x, time, echoed, truths, bool(self._times.zoned), *more)

    def _of_cells(self, number: int, found: Cells) -> Message:
        assert self._header is not None and not isinstance(found, dict)
        self._pick(number, found)
        by_column = dict(zip(self._header.columns, found))
        row, shown = _NO_ID
        if self._choice.id is not None:
            row, shown = self._id(number, self._choice.id, by_column[self._choice.id])
        time = by_column.get(self._choice.time or "")
        echoed = {} if self._choice.time is None else {self._choice.time: time}
        x, lacking, held = self._columns(number, row, found)
        moment = self._time(number, time)
        truths = self._truths(number, by_column)
        return Reading(number, row, shown, x, moment, echoed, truths, bool(self._times.zoned), lacking, held)

    def _columns(self, number: int, row: int, found: Cells) -> _Taken:
        """The inputs of a reading by columns, missing numbers as their rules have them."""
        picked = self._pick(number, found)
        filled = self._rules.filled(np.array(self._line(picked, number, found)), self._held_of(row))
        lacking = None
        if filled.lacking.size:
            if self._rules.refuses[filled.lacking].any():
                strict = Picked(picked.header, replace(picked.selection, missing=False))
                self._line(strict, number, found)  # which says what the cell holds
            lacking = f"line {number}: {picked.selection.numbers[filled.lacking[0]]} is missing"
        numbers = np.where(np.isnan(filled.numbers), 0, filled.numbers)
        if self._choice.table is not None:
            return _Taken(self._declared(self._choice.table, number, found, numbers), lacking, filled.held)
        return _Taken({self._inputs[0].name: numbers.reshape(_sizes(self._inputs[0]))}, lacking, filled.held)

    def _pick(self, number: int, found: Cells) -> Picked:
        """The columns of the features, with their rules: those of the first line below a header."""
        if self._picked is None:
            self._picked = _fitting(lambda: self._chosen(number, found))
            self._rules = Rules(self._of_columns(len(self._picked.numbers)))
        return self._picked

    def _of_columns(self, count: int) -> list[tuple[str, int]]:
        """The rule of each column."""
        table, missing = self._choice.table, self._choice.missing
        if table is not None:
            return [table.rule(column) for column in table.columns]
        return [(HOLD, missing) if isinstance(missing, int) else (missing, 0)] * count

    def _line(self, picked: Picked, number: int, found: Cells) -> list[Any]:
        try:
            return picked.line(number, found).numbers
        except InputError as error:  # whose cure is that of files
            text = str(error).replace(MISSING_CURE, "fill in such cells, or see missing= or on_error=")
            raise InputError(text.replace(CURE, "fill in such cells, or see on_error=")) from None

    @property
    def _features(self) -> tuple[str, ...]:
        """The columns of JSON that are features."""
        table = self._choice.table
        return tuple(column.column for column in table.columns) if table else self._choice.columns or ()

    def _declared(self, table: Table, number: int, found: Cells, numbers: NDArray[Any]) -> Mapping[str, Any]:
        """The inputs as a table makes them, of its columns' numbers and of the time."""
        by_column = {column.column: value for column, value in zip(table.columns, numbers)}
        clock = self._clock(table, number, found) if table.needs_time else None
        inputs = {}
        for tensor in self._inputs:
            values: list[float] = []
            for column in table.inputs[tensor.name].columns:
                if isinstance(column, Column):
                    values.append(by_column[column.column])
                elif clock is not None:
                    values.extend(cyclic_values(column, clock)[0].tolist())
            inputs[tensor.name] = np.array(values).reshape(_sizes(tensor))
        return inputs

    def _clock(self, table: Table, number: int, found: Cells) -> NDArray[np.datetime64]:
        """The time of a reading, as the calendar is told of it: [1]."""
        assert table.time is not None and self._header is not None
        heading = self._choice.time or table.time.column
        cell = found.get(heading) if isinstance(found, dict) else found[self._header.columns.index(heading)]
        try:
            moment = self._times.read([cell])
        except ValueError:
            raise InputError(
                f"{NAME}, line {number}, column {heading!r} {cells.found(cell, 'a time')}; the model needs it"
            ) from None
        zone = None if table.time.zone is None else zone_of(table.time.zone)
        return local_times(moment, zone) if zone is not None and self._times.zoned else moment

    def _chosen(self, number: int, found: Cells) -> Picked:
        """The columns of the features; Misfit where they are not as many as a step takes."""
        assert self._header is not None
        if self._choice.table is not None:
            headings = Headings(self._header, self._choice.table)
            of_table = tuple(headings.found(column.column) for column in self._choice.table.columns)
            return Picked(self._header, Selection(of_table, missing=True))
        names = [tensor.name for tensor in self._inputs]
        if len(names) > 1:
            raise Misfit(
                f'CSV has no place for the model\'s {len(names)} inputs, {names}; give JSON lines with "{X}" as '
                "an object by input name"
            )
        columns, others = self._choice.columns, {"", self._choice.id, self._choice.time}
        if columns is None:
            # No column is left out for what its cells hold but for dates, which no model takes.
            columns = tuple(
                column
                for column, cell in zip(self._header.columns, found)
                if column not in others and not cells.looks_dated(cell)
            )
        expected = math.prod(_sizes(self._inputs[0]))
        if len(columns) != expected:
            beside = "" if self._choice.id is None else f" besides {self._choice.id!r}"
            raise Misfit(
                f"{NAME} has {len(columns)} columns of numbers{beside}, {list(columns)}; a step of input {names[0]!r} "
                f"takes {expected}: choose them by columns=, in the model's order"
                + ("" if beside else ", and the one of row ids by id=")
            )
        wanted = Selection(columns, integers=np.dtype(self._inputs[0].dtype).kind in "iu", missing=True)
        return Picked(self._header, wanted)

    def _id(self, number: int, column: str, cell: Any) -> tuple[int, RowId]:
        """The row, and the id as it stands in the answer."""
        try:
            text = cells.id_text(cell)
            row = cells.row_id(text)
        except ValueError:
            raise InputError(
                f"{NAME}, line {number}, column {column!r} {cells.found(cell, 'an id')}; row ids are integers or text"
            ) from None
        return row, row if text == str(row) else text

    def _truths(self, number: int, found: Mapping[str, Any]) -> dict[str, float]:
        """The cells of the columns of truths that hold a number."""
        truths = {}
        decimal = (self._header.decimal if self._header else None) or "."
        for column in self._choice.truths:
            if column not in found and not (self._header and self._header.is_json):
                raise Misfit(f"{NAME} has no column {column!r}; its columns are {list(found)}")
            cell = found.get(column)
            try:
                value = cells.number(cell, decimal)
            except ValueError:
                what = cells.found(cell, "a number", decimal)
                raise InputError(
                    f"{NAME}, line {number}, column {column!r} {what}; leave it empty where nothing was observed"
                ) from None
            if math.isfinite(value):
                truths[column] = value
        return truths

    @property
    def _dated(self) -> bool:
        """Whether no mere number is a time."""
        return self._choice.table is not None and self._choice.table.time is not None

    def _time(self, number: int, cell: Any) -> Optional[float]:
        if self._choice.time is None:
            return None
        try:
            if self._choice.time_format is None and not self._dated and not cells.looks_dated(cell):
                value = cells.number(cell)
                if math.isfinite(value):
                    return value
            else:
                return float(self._times.read([cell])[0].astype(np.int64))
        except ValueError:
            pass
        raise InputError(
            f"{NAME}, line {number}, column {self._choice.time!r} {cells.found(cell, 'a time or a number')}; mend it, "
            "or say by time_format= how times are written"
        )


def _truth(number: int, row: int, shown: RowId, found: Mapping[str, Any]) -> Truth:
    """What an object with "truth" says."""
    step, given = found.get(STEP), found[TRUTH]
    if type(step) is not int:
        raise InputError(
            f'{NAME}, line {number}, "{STEP}" is {step!r}; give the step whose answer forecast it, such as '
            f'{{"{ID}": {json.dumps(shown)}, "{STEP}": 17, "{TRUTH}": 71.2}}'
        )
    by_output: Mapping[Optional[str], Any] = given if isinstance(given, dict) else {None: given}
    values = {name: _numbers(number, value) for name, value in by_output.items()}
    echoed = {name: value for name, value in found.items() if name != STEP}
    return Truth(number, row, shown, step, values, echoed)


def _numbers(number: int, value: Any) -> Any:
    """A number or nested lists of numbers, null as NaN."""
    if isinstance(value, list):
        return [_numbers(number, part) for part in value]
    try:
        return cells.number(value)
    except ValueError:
        raise InputError(f'{NAME}, line {number}, "{TRUTH}" {cells.found(value, "a number")}') from None


def _text(number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{NAME}, line {number} is not text in UTF-8 ({error.reason}); convert it") from error


def _fitting(make: Callable[[], Made]) -> Made:
    try:
        return make()
    except InputError as error:
        raise Misfit(str(error)) from error


def _sizes(tensor: Tensor) -> list[int]:
    """Of a step, without the axes of rows and steps."""
    return [size or 1 for size in tensor.shape[2:]]
