"""Lines: how a text of CSV or JSON lines is understood, and one of its lines read with care.

A text is CSV with a header, or JSON lines, as its first character says. Everything here works line by line and names
the line and the column of what is wrong; :mod:`keepdrop.files.text` reads in bulk what needs no such care. A pipe that
is answered line by line goes this way:

    header = Header("standard input", 1, first_line)
    picked = Picked(header, Selection(numbers=("temp", "hum"), id="sensor"))
    line = picked.line(2, header.parsed(2, second_line))        # line.numbers, line.id, line.texts["sensor"]
"""

from __future__ import annotations

import contextlib
import csv
import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, Union

import numpy as np

from keepdrop.errors import InputError

from . import cells
from .reader import MISSING_CURE, WRONG_CURE, Selection, column_index

SEPARATORS = (",", ";", "\t", "|")
NAMES = {",": "','", ";": "';'", "\t": "tab", "|": "'|'", " ": "space"}


class Dialect(NamedTuple):
    """What is given about a CSV file; None is found out: the separator from the header, the decimal sign from the first
    line of readings."""

    separator: Optional[str] = None
    decimal: Optional[str] = None


class Line(NamedTuple):
    """What was selected of one line."""

    numbers: list[Any]  # float, NaN where missing; int where so selected
    id: Optional[int]
    time: Optional[np.datetime64]
    texts: dict[str, str]
    rest: Any  # JSON: the whole object


Cells = Union[Sequence[Any], dict[str, Any]]


class Header:
    """What the first line of a text says: CSV or JSON lines, the names of the columns, what stands between cells.

    Raises
    ------
    InputError
        It is no header, names a column twice, or leaves open what stands between cells.
    """

    def __init__(self, name: str, number: int, line: str, dialect: Dialect = Dialect()) -> None:  # noqa: B008
        self.name = name
        self.is_json = line.lstrip().startswith("{")
        self.decimal = dialect.decimal
        self.separator = ","
        if self.is_json:
            self.decimal = "."
            self.columns = tuple(self.object(number, line))
            return
        self.separator = dialect.separator or self._separator(number, line)
        self.columns = tuple(cell.strip() for cell in self.cells(number, line))
        self._check(number)

    @property
    def width(self) -> int:
        """The number of columns."""
        return len(self.columns)

    def cells(self, number: int, line: str) -> list[str]:
        """The cells of a line of CSV; none of a blank one."""
        try:
            return next(csv.reader([line], delimiter=self.separator, strict=True), [])
        except csv.Error as error:
            raise self.no_csv(number, error) from error

    def object(self, number: int, line: str) -> dict[str, Any]:
        """The object that a line of JSON holds."""
        try:
            found = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
            raise InputError(f"{self.name}, line {number} is not JSON ({why}); give one object a line") from error
        if not isinstance(found, dict):
            raise InputError(f"{self.name}, line {number} is not a JSON object; give one a line, values by column")
        return found

    def parsed(self, number: int, line: str) -> Cells:
        """What a line holds: cells in the order of the columns, of JSON its object."""
        if self.is_json:
            return self.object(number, line)
        found = self.cells(number, line)
        self.check_width(number, found)
        return found

    def check_width(self, number: int, found: Sequence[str]) -> None:
        """InputError unless a line has as many cells as the header."""
        if len(found) != self.width:
            raise InputError(
                f"{self.name}, line {number} has {len(found)} cells and the header {self.width}, with "
                f"{NAMES.get(self.separator, repr(self.separator))} between them; give each line all of them, with "
                "quotes around a cell that holds the sign itself (or see separator=)"
            )

    def settle(self, found: Cells, wanted: Sequence[int]) -> str:
        """The decimal sign, found out once: that of the first line whose cells have one."""
        if self.decimal is None and wanted:  # ids and times alone say nothing of it
            self.decimal = "."
            if self.separator != "," and not isinstance(found, dict):
                numbers = [str(found[i]) for i in wanted]
                if any("," in cell for cell in numbers) and not any("." in cell for cell in numbers):
                    self.decimal = ","
        return self.decimal or "."

    def no_csv(self, number: int, error: Exception) -> InputError:
        """The error for a line that breaks the rules of quotes."""
        between = NAMES.get(self.separator, repr(self.separator))
        return InputError(f"{self.name}, line {number} is not CSV ({error}); give {between} between cells")

    @property
    def manner(self) -> str:
        """How it is read, where that is not the usual."""
        if self.is_json or (self.separator == "," and self.decimal in (None, ".")):
            return ""
        decimal = f", decimals behind {self.decimal!r}" if self.decimal not in (None, ".") else ""
        return f"{NAMES.get(self.separator, repr(self.separator))} between cells{decimal}"

    def _separator(self, number: int, line: str) -> str:
        bare = "".join(part for i, part in enumerate(line.split('"')) if i % 2 == 0)  # without what is in quotes
        found = [sign for sign in SEPARATORS if sign in bare]
        if len(found) > 1:
            signs = " and ".join(NAMES[sign] for sign in found)
            raise InputError(
                f"{self.name}, line {number} holds {signs}, and either may stand between cells; say which by separator="
            )
        return found[0] if found else ","

    def _check(self, number: int) -> None:
        columns = [column for column in self.columns if column]
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise InputError(f"{self.name} names column {twice[0]!r} twice; give each a name of its own")
        if self.columns[:1] and self.columns[0].startswith("#"):
            raise InputError(f"{self.name}, line {number} is a comment, {self.columns[0]!r}; begin with the header")
        if columns and all(cells.looks_dated(column) or _is_number(column) for column in columns):
            raise InputError(
                f"{self.name}, line {number} is not a header, all its cells are numbers or times; name the columns"
            )


def _is_number(text: str) -> bool:
    try:
        cells.number(text.replace(",", "."))
    except ValueError:
        return False
    return True


class Picked:
    """A selection's columns, taken from lines below a header.

    Raises
    ------
    InputError
        The header lacks one of them.
    """

    def __init__(self, header: Header, selection: Selection) -> None:
        self.header = header
        self.selection = selection
        self.numbers = [self._index(column) for column in selection.numbers]
        self.id = None if selection.id is None else self._index(selection.id)
        self.time = None if selection.time is None else self._index(selection.time)
        self.texts = {column: self._index(column) for column in selection.texts}
        if selection.id is not None and self.id is not None:
            self.texts[selection.id] = self.id
        self.times = cells.Times(selection.time_format, header.decimal or ".")

    def line(self, number: int, found: Cells) -> Line:
        """What is selected of a line; InputError names the column of what does not fit."""
        texts = {column: self._text(self._cell(found, i)) for column, i in self.texts.items()}
        return Line(
            self._numbers(number, found),
            None if self.id is None else self._id(number, self._cell(found, self.id)),
            None if self.time is None else self._time(number, self._cell(found, self.time)),
            texts,
            found,
        )

    def unread(self, number: int, found: Any, before: Optional[Line]) -> Line:
        """A line that could not be read, without numbers: its id and time as far as they can be read.

        Otherwise it counts to the series of the line before.
        """
        blank = self._blank()
        texts = {column: "" for column in self.texts}
        row = before.id if before else None
        time: Any = None if self.time is None else np.datetime64("NaT", "us")
        if isinstance(found, (list, dict)):
            texts = {column: self._text(self._cell(found, i)) for column, i in self.texts.items()}
            with contextlib.suppress(InputError):
                row = row if self.id is None else self._id(number, self._cell(found, self.id))
            with contextlib.suppress(InputError):
                time = time if self.time is None else self._time(number, self._cell(found, self.time))
        return Line([blank] * len(self.numbers), row, time, texts, None)

    def _blank(self) -> Any:
        return 0 if self.selection.integers else math.nan

    def ids(self, number: int, texts: Sequence[str]) -> list[int]:
        """The row ids of consecutive lines, the first of which has this number."""
        found = []
        for i, text in enumerate(texts):
            try:
                found.append(cells.row_id(text))
            except ValueError:
                raise self._no_id(number + i, text) from None
        return found

    def moments(self, number: int, found: Sequence[Any]) -> Any:
        """The times of consecutive lines, the first of which has this number."""
        try:
            return self.times.read(found)
        except ValueError as error:
            place, why = error.args
            shown = "is empty" if not str(found[place] or "").strip() else f"holds {found[place]!r}, {why}"
            raise InputError(
                f"{self.header.name}, line {number + place}, column {self.selection.time!r} {shown}; mend it, or say "
                "by time_format= how times are written"
            ) from None

    def _index(self, column: str) -> int:
        return column_index(self.header.name, self.header.columns, column)

    def _cell(self, found: Cells, index: int) -> Any:
        return found.get(self.header.columns[index]) if isinstance(found, dict) else found[index]

    def _numbers(self, number: int, found: Cells) -> list[Any]:
        decimal = self.header.decimal or self.header.settle(found, self.numbers)
        if decimal == "." and not self.selection.integers and not isinstance(found, dict):
            wanted = [found[i] for i in self.numbers]
            with contextlib.suppress(ValueError):
                values = [*map(float, wanted)]
                # The plain case, in a third of the time: what float() reads and a cell must not hold comes after.
                if math.isfinite(sum(values)) and "_" not in "".join(wanted):
                    return values
        return [self._number(number, found, i, decimal) for i in self.numbers]

    def _number(self, number: int, found: Cells, index: int, decimal: str) -> Any:
        cell = self._cell(found, index)
        try:
            if self.selection.integers:
                return cells.integer(cell, decimal)
            value = cells.number(cell, decimal)
            if value == value or self.selection.missing:
                return value
        except ValueError:
            pass
        column = self.header.columns[index]
        if isinstance(found, dict) and column not in found:
            raise InputError(f"{self.header.name}, line {number} has no {column!r}; {MISSING_CURE}")
        kind = "a whole number that fits int64" if self.selection.integers else "a finite number"
        cure = MISSING_CURE if cells.is_missing(cell) else WRONG_CURE
        raise InputError(
            f"{self.header.name}, line {number}, column {column!r} {cells.found(cell, kind, decimal)}; {cure}"
        )

    def _id(self, number: int, cell: Any) -> int:
        try:
            return cells.row_id(cells.id_text(cell))
        except ValueError:
            raise self._no_id(number, cell) from None

    def _no_id(self, number: int, cell: Any) -> InputError:
        shown = cells.found(cell, "an integer that fits int64, or text")
        return InputError(
            f"{self.header.name}, line {number}, column {self.selection.id!r} {shown}; row ids are integers or text"
        )

    def _time(self, number: int, cell: Any) -> np.datetime64:
        found: np.datetime64 = self.moments(number, [cell])[0]
        return found

    def _text(self, cell: Any) -> str:
        if isinstance(cell, str):
            return cell.strip()
        return "" if cell is None else json.dumps(cell)
