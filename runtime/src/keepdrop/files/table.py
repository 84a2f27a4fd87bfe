"""Table: columns of numbers from CSV with a header, or from JSON lines, read line by line."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, Protocol, TextIO

import numpy as np
from numpy.typing import NDArray

from keepdrop.errors import InputError

INT64 = np.iinfo(np.int64)
CURE = "fill or drop such lines first"


class Block(NamedTuple):
    """Consecutive lines of a table."""

    values: NDArray[np.float64]  # [lines, features]
    ids: Optional[NDArray[np.int64]]  # [lines]


class Table(Protocol):
    """A file of numbers by column; positions count its lines from 0, the header left out."""

    name: str
    columns: tuple[str, ...]
    numeric: tuple[str, ...]

    def count(self) -> Optional[int]:
        """The number of lines; None where they can be read but once."""

    def blocks(
        self, features: Sequence[str], id_column: Optional[str], lines: int, start: int, stop: Optional[int]
    ) -> Iterator[Block]:
        """Lines `start` to `stop` by position, at most `lines` a block; InputError names a cell that is no number."""


class Lines:
    """The lines of an open text: CSV with a header, or a JSON object a line, as its first character says.

    Iterating gives ``(number, cells)``, the line's number in the text (from 1) and its cells in the order of `columns`:
    strings from CSV, whatever the object holds from JSON. Blank lines are passed over. It goes once through the text;
    `first` is the first such line at any time, and `numeric` are the columns that hold a number in it.

    Raises
    ------
    InputError
        The text is empty, has no line below its header, names a column twice, or a line does not have its columns.
    """

    def __init__(self, text: Iterable[str], name: str) -> None:
        self.name = name
        lines = iter(text)
        with self._readable():
            start = next((line for line in enumerate(lines, 1) if line[1].strip()), None)
        if start is None:
            raise InputError(f"{name} is empty; give CSV with a header, or one JSON object a line")
        self.is_json = start[1].lstrip().startswith("{")
        if self.is_json:
            self.columns, self._rest = self._of_json(start, lines)
        else:
            self.columns, self._rest = self._of_csv(start, lines)
        first = next(self._rest, None)
        if first is None:
            raise InputError(f"{name} has no line below its header; give at least one")
        self.first = first
        self.numeric = tuple(c for c, cell in zip(self.columns, first[1]) if _is_number(cell))

    def __iter__(self) -> Iterator[tuple[int, Sequence[Any]]]:
        return itertools.chain([self.first], self._rest)

    def indices(self, columns: Sequence[str]) -> list[int]:
        """Where these columns stand among the cells; InputError names one that the text lacks."""
        return [column_index(self.name, self.columns, column) for column in columns]

    def numbers(self, line: int, cells: Sequence[Any], indices: Sequence[int]) -> list[float]:
        """These cells of a line as finite floats; InputError names the line and the column of one that is not."""
        try:
            values = [_float(cells[i]) for i in indices]
            if all(map(math.isfinite, values)):
                return values
        except (TypeError, ValueError, OverflowError):
            pass
        wrong = next(i for i in indices if not _is_number(cells[i]))
        raise InputError(f"{self.name}, line {line}, column {self.columns[wrong]!r} {_found(cells[wrong])}; {CURE}")

    def integer(self, line: int, cells: Sequence[Any], index: int) -> int:
        """This cell of a line as an int64; InputError names the line and the column of one that is not."""
        with contextlib.suppress(TypeError, ValueError):
            value = _integer(cells[index])
            if INT64.min <= value <= INT64.max:
                return value
        raise InputError(
            f"{self.name}, line {line}, column {self.columns[index]!r} {_found(cells[index])}; "
            "row ids are integers that fit int64"
        )

    def _of_csv(
        self, start: tuple[int, str], lines: Iterator[str]
    ) -> tuple[tuple[str, ...], Iterator[tuple[int, Sequence[Any]]]]:
        before = start[0] - 1
        reader = csv.reader(itertools.chain([start[1]], lines), strict=True)
        with self._readable():
            columns = tuple(cell.strip() for cell in next(reader))
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise InputError(f"{self.name} names column {twice[0]!r} twice; give each a name of its own")

        def rest() -> Iterator[tuple[int, Sequence[Any]]]:
            with self._readable(lambda: before + reader.line_num):
                for cells in reader:
                    if len(cells) == len(columns):
                        yield before + reader.line_num, cells
                    elif cells:
                        raise InputError(
                            f"{self.name}, line {before + reader.line_num} has {len(cells)} cells and the header "
                            f"{len(columns)}; keepdrop reads commas between cells, and quotes around a cell with commas"
                        )

        return columns, rest()

    def _of_json(
        self, start: tuple[int, str], lines: Iterator[str]
    ) -> tuple[tuple[str, ...], Iterator[tuple[int, Sequence[Any]]]]:
        columns = tuple(self._object(*start))

        def rest() -> Iterator[tuple[int, Sequence[Any]]]:
            with self._readable():
                for number, line in enumerate(itertools.chain([start[1]], lines), start[0]):
                    if not line.strip():
                        continue
                    fields = self._object(number, line)
                    missing = [column for column in columns if column not in fields]
                    if missing:
                        raise InputError(f"{self.name}, line {number} has no {missing[0]!r}; {CURE}")
                    yield number, [fields[column] for column in columns]

        return columns, rest()

    def _object(self, number: int, line: str) -> dict[str, Any]:
        try:
            fields = json.loads(line)
        except ValueError as error:
            raise InputError(f"{self.name}, line {number} is not JSON ({error}); give one object a line") from error
        if not isinstance(fields, dict):
            raise InputError(f"{self.name}, line {number} is not a JSON object; give one a line, values by column")
        return fields

    @contextlib.contextmanager
    def _readable(self, line: Any = None) -> Iterator[None]:
        try:
            yield
        except csv.Error as error:
            at = f", line {line()}" if line else ""
            raise InputError(f"{self.name}{at} is not CSV ({error}); give commas between cells") from error
        except UnicodeDecodeError as error:
            raise InputError(f"{self.name} is not text in UTF-8 ({error}); convert it") from error


class TextTable:
    """A CSV or JSON-lines file, or a text that can be read but once."""

    def __init__(self, name: str, path: Optional[Path] = None, text: Optional[TextIO] = None) -> None:
        self.name = name
        self._path = path
        self._lines: Optional[Lines] = None
        with self.opened(text) as lines:
            self.columns, self.numeric, self.is_json = lines.columns, lines.numeric, lines.is_json
            self.first = lines.first
            if path is None:
                self._lines = lines

    def count(self) -> Optional[int]:
        """The number of lines, which takes reading them; None where they can be read but once."""
        if self._path is None:
            return None
        with self.opened() as lines:
            return sum(1 for _ in lines)

    def blocks(
        self, features: Sequence[str], id_column: Optional[str], lines: int, start: int, stop: Optional[int]
    ) -> Iterator[Block]:
        """As :class:`Table` says."""
        with self.opened() as read:
            indices = read.indices(features)
            id_index = None if id_column is None else read.indices([id_column])[0]
            values: list[list[float]] = []
            ids: list[int] = []
            for number, cells in itertools.islice(read, start, stop):
                values.append(read.numbers(number, cells, indices))
                if id_index is not None:
                    ids.append(read.integer(number, cells, id_index))
                if len(values) == lines:
                    yield _block(values, ids, len(indices), id_index is not None)
                    values, ids = [], []
            if values:
                yield _block(values, ids, len(indices), id_index is not None)

    @contextlib.contextmanager
    def opened(self, text: Optional[TextIO] = None) -> Iterator[Lines]:
        """Its lines from the first on; those not read yet where the text can be read but once."""
        if self._lines is not None:
            yield self._lines
        elif text is not None:
            yield Lines(text, self.name)
        else:
            assert self._path is not None
            try:
                file = open(self._path, encoding="utf-8-sig", newline="")  # noqa: SIM115
            except OSError as error:
                raise InputError(f"cannot read {self.name} ({error.strerror}); give an existing file") from error
            with file:
                yield Lines(file, self.name)


def column_index(name: str, columns: Sequence[str], column: str) -> int:
    """Where `column` stands; InputError tells which there are."""
    try:
        return list(columns).index(column)
    except ValueError:
        hint = "; keepdrop reads commas between cells" if len(columns) == 1 else ""
        raise InputError(f"{name} has no column {column!r}; its columns are {list(columns)}{hint}") from None


def _block(values: list[list[float]], ids: list[int], width: int, with_ids: bool) -> Block:
    return Block(
        np.array(values, np.float64).reshape(len(values), width), np.array(ids, np.int64) if with_ids else None
    )


def _float(cell: Any) -> float:
    if isinstance(cell, str) and "_" in cell:  # Python reads 1_000
        raise ValueError
    return float(cell)


def _integer(cell: Any) -> int:
    if isinstance(cell, str) and "_" not in cell:
        return int(cell)
    if isinstance(cell, int) and not isinstance(cell, bool):
        return cell
    raise ValueError


def _is_number(cell: Any) -> bool:
    try:
        return math.isfinite(_float(cell))
    except (TypeError, ValueError, OverflowError):
        return False


def _found(cell: Any) -> str:
    return "is empty" if cell is None or cell == "" else f"holds {cell!r}, not a finite number"
