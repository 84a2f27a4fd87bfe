"""Source: a file's rows, whatever its format, read in pieces and checked before they are sampled.

The id of a row is its position in the file, counted from 0, so that a file can be split over processes and machines.
A window over the lines of a table is one row, and its position is that of its first line.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Optional, Protocol, Union

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import Metadata, Tensor
from keepdrop.errors import InputError
from keepdrop.table import Table

from . import gaps, opening, windows
from .arrays import ArraySource
from .declared import DeclaredSource
from .examples import ExampleSource
from .fields import written_times
from .gaps import Hold, Missing
from .last import LastRows
from .lines import Dialect
from .ordered import OrderedReader
from .reader import Reader, Readings, Selection, joined_readings
from .rows import Rows
from .several import FILE, SeveralSource, expanded
from .skipped import Skipped
from .text import TextReader

POSITION = "position"

ARRAYS = (".npy", ".npz")
TEXTS = (".csv", ".tsv", ".txt", ".jsonl", ".ndjson")
PARQUET = ".parquet"
SUFFIXES = (*ARRAYS, *TEXTS, PARQUET)

# Lines of a table read at once, at most; with a window, what is read beyond the piece is kept.
MAX_LINES = 1 << 16


class Source(Protocol):
    """A file's rows. `features` are the columns of a table that become the input, empty for arrays."""

    name: str
    features: tuple[str, ...]

    @property
    def manner(self) -> str:
        """How the file was understood, where that was found out; otherwise empty."""

    def count(self) -> Optional[int]:
        """The number of rows; None where the source can be read but once."""

    def no_rows(self) -> str:
        """Why there is no row, and what to do, where there is none."""

    def example(self) -> Any:
        """The inputs as `predict` takes them, cut to their first row where they have one: what the artifact checks."""

    def read(self, start: int, stop: Optional[int], size: int) -> Iterator[Rows]:
        """Rows `start` to `stop` by position, at most `size` at once; InputError names a cell that is no number."""


@dataclass(frozen=True)
class Choice:
    """Which columns of a file are meant, and whether a row is a line or a window of lines.

    Attributes
    ----------
    columns
        The features, in the model's order; by default all columns but those of `id` and `time`, those without a name
        and those of dates, which have to be as many as the input takes.
    id, time, time_format
        As :class:`~keepdrop.files.reader.Selection` has them. With ids a window lies within consecutive lines of one.
    window
        How many consecutive lines are a row.
    missing
        What becomes of a missing number.
    order
        The column of times by which lines are sorted first, within their series where there is an id.
    table
        What columns mean, with names and lengths as :func:`keepdrop.table.fitted` gives them; unless `columns` or
        `window` say otherwise. The table's id, time and rules are those that count then.
    last
        With a table, only the newest window of each series.
    skipped
        Where lines that cannot be read are counted, which leave the rows with them unanswered; None refuses them.
    dialect
        What is known of a CSV file.
    """

    columns: Optional[tuple[str, ...]] = None
    id: Optional[str] = None
    window: Optional[int] = None
    time: Optional[str] = None
    time_format: Optional[str] = None
    missing: Missing = gaps.REFUSE
    skipped: Optional[Skipped] = None
    dialect: Dialect = Dialect()
    order: Optional[str] = None
    table: Optional[Table] = None
    last: bool = False

    @property
    def skip(self) -> bool:
        """Whether a line that cannot be read is passed over rather than refused."""
        return self.skipped is not None

    def described(self) -> dict[str, Any]:
        """What rows depend on beside their columns, by parameter."""
        return {
            "id=": self.id,
            "window=": self.window,
            "time_column=": self.time,
            "time_format=": self.time_format,
            "missing=": self.missing,
            "skip=": self.skip,
            "separator=": self.dialect.separator,
            "decimal=": self.dialect.decimal,
            "order=": self.order,
            "table=": None if self.table is None else self.table.to_json(),
            "last=": self.last,
        }


@contextlib.contextmanager
def opened(files: Union[Path, IO[bytes], Sequence[Path]], metadata: Metadata, choice: Choice) -> Iterator[Source]:
    """The source of a file by its suffix, of a pipe of CSV or JSON lines, or of several files and folders of them.

    Raises
    ------
    InputError
        A file cannot be read, its suffix is unknown, or its columns do not fit the artifact's input.
    """
    if not isinstance(files, Sequence):
        files = files if not isinstance(files, Path) else [files]
    if not isinstance(files, Sequence):
        with reader_of(files, choice.dialect) as reader:
            yield source_of(reader, metadata, choice)
        return
    paths = expanded(files, SUFFIXES)
    if choice.order is not None:
        with contextlib.ExitStack() as opened_files:
            readers = [opened_files.enter_context(reader_of(path, choice.dialect)) for path in paths]
            for reader in readers:
                if isinstance(reader, TextReader) and reader.count() is None:
                    raise InputError(f"{reader.name} can be read but once, and order= needs more; give a file")
            yield source_of(OrderedReader(readers, choice.id, choice.order, choice.time_format), metadata, choice)
    elif len(paths) == 1:
        with _opened(paths[0], metadata, choice) as source:
            yield source
    else:
        if choice.table is None:
            with _opened(paths[0], metadata, choice) as first:
                # What the first file's columns are, by name, holds for all.
                choice = replace(choice, columns=first.features or None)
        yield SeveralSource(paths, lambda path: _opened(path, metadata, choice))


@contextlib.contextmanager
def _opened(path: Path, metadata: Metadata, choice: Choice) -> Iterator[Source]:
    if opening.unpacked_suffix(path) in ARRAYS and not opening.is_stream(path):
        if choice.columns or choice.window or choice.time:
            raise InputError(
                f"columns=, time= and window= choose from the lines of a table, and {path} holds arrays of whole "
                "examples; leave them out"
            )
        with contextlib.ExitStack() as files:
            yield ArraySource(path, files, choice.id)
    else:
        with reader_of(path, choice.dialect) as reader:
            yield source_of(reader, metadata, choice)


@contextlib.contextmanager
def reader_of(file: Union[Path, IO[bytes]], dialect: Dialect = Dialect()) -> Iterator[Reader]:  # noqa: B008
    """The reader of a file of lines by its suffix (.csv.gz and .csv.zst too), or of a pipe.

    Raises
    ------
    InputError
        The file cannot be read, or its suffix is unknown.
    """
    if not isinstance(file, Path):
        yield TextReader("standard input", file, dialect)
        return
    suffix = opening.unpacked_suffix(file)
    if opening.is_stream(file):  # which can be read but once, whatever it is called
        with opening.readable(str(file), "give an existing file"):
            stream = open(file, "rb")  # noqa: SIM115
        with stream:
            yield TextReader(str(file), stream, dialect)
    elif suffix in TEXTS:
        yield TextReader(str(file), file, dialect)
    elif suffix == PARQUET:
        from .arrow import ParquetReader

        yield ParquetReader(file)
    else:
        raise InputError(f"cannot read {file}: its suffix is none of {', '.join(SUFFIXES)}; rename or convert it")


class TableSource:
    """Lines of a table as examples of the one input: each line by itself, or windows of consecutive lines.

    With row ids, a window lies within lines of one id, which names the series they belong to.
    """

    def __init__(self, reader: Reader, tensor: Tensor, choice: Choice) -> None:
        self.name = reader.name
        self.features = choice.columns or _default_features(reader, tensor, choice)
        self._reader = reader
        self._choice = choice
        self._window = choice.window
        self._tensor = tensor
        self._dtype = np.dtype(tensor.dtype)
        self._interleaved = False
        self._selection = Selection(
            self.features,
            integers=self._dtype.kind in "iu",
            id=choice.id,
            time=choice.time or choice.order,
            time_format=choice.time_format,
            missing=choice.missing != gaps.REFUSE and self._dtype.kind == "f",
            skip=choice.skip,
        )
        self._tail = self._fitted_tail()

    @property
    def manner(self) -> str:
        """How the file was understood, where that was found out."""
        return self._reader.manner

    def count(self) -> Optional[int]:
        """The number of rows."""
        lines = self._reader.count()
        if lines is None or self._window is None:
            return lines
        if self._choice.id is None:
            return max(0, lines - self._window + 1)
        return self._count_by_id()

    def no_rows(self) -> str:
        """Why there is no row."""
        if self._interleaved:
            return (
                f"{self.name} has no {self._window} lines of one id in a row, since its series are interleaved; sort "
                f"it by {self._choice.id!r} and time, or let order= do so"
            )
        of_one = "" if self._choice.id is None else f" of one {self._choice.id!r}"
        return (
            f"{self.name} has no window of that many lines in a row ({self._window}{of_one}); give more lines, or a "
            "model of a shorter window="
        )

    def example(self) -> Any:
        """Zeros: that the columns fit the input is known already."""
        return np.zeros((1, *self._tail), self._dtype)

    def read(self, start: int, stop: Optional[int], size: int) -> Iterator[Rows]:
        """As :class:`Source` says."""
        most = min(size, MAX_LINES)
        if self._window is None:
            for readings in self._lines(start, stop, most):
                yield self._rows(readings, 1, start)
                start += len(readings.lines)
        elif self._choice.id is None:
            last = None if stop is None else stop + self._window - 1
            yield from self._windows(self._lines(start, last, most), start)
        else:
            end = 0
            for rows in self._windows(self._lines(0, None, most), 0):
                first, end = end, end + len(rows)
                yield rows.cut(slice(max(0, start - first), None if stop is None else max(0, stop - first)))
                if stop is not None and end >= stop:
                    return

    def _lines(self, start: int, stop: Optional[int], most: int) -> Iterator[Readings]:
        """Lines `start` to `stop`, with values held from the lines before where so chosen."""
        for readings in self._held(start, stop, most):
            if self._choice.skipped:
                self._choice.skipped.note(self._reader, readings)
            yield readings

    def _held(self, start: int, stop: Optional[int], most: int) -> Iterator[Readings]:
        missing = self._choice.missing
        if not isinstance(missing, int):
            yield from self._reader.read(self._selection, most, start, stop)
            return
        hold = Hold(missing)
        position = max(0, start - missing)
        for readings in self._reader.read(self._selection, most, position, stop):
            filled = hold.filled(readings)
            if position + len(readings.lines) > start:
                yield filled.cut(slice(max(0, start - position), None))
            position += len(readings.lines)

    def _windows(self, parts: Iterator[Readings], first: int) -> Iterator[Rows]:
        """Every window within these lines, the first of which is at position `first`."""
        assert self._window is not None
        before: Optional[Readings] = None
        for part in parts:
            readings = part if before is None else joined_readings([before, part])
            count = len(readings.lines) - self._window + 1
            if count > 0:
                yield self._rows(readings, self._window, first)
                first += count
            before = readings.cut(slice(max(0, count), None))

    def _rows(self, readings: Readings, window: int, first: int) -> Rows:
        """The windows of so many lines, each with what its last line says; a window of 1 is a line."""
        count = len(readings.lines) - window + 1
        last = slice(window - 1, None)
        numbers = self._cast(readings)
        if self._window is not None:
            if numbers.shape[1]:
                view = np.lib.stride_tricks.sliding_window_view(numbers, window, axis=0)  # [count, F, N]
                numbers = view.transpose(0, 2, 1)  # [count, N, F]
            else:
                numbers = np.empty((count, window, 0), self._dtype)
        why = gaps.reasons(readings, self.features, window) if self._unanswered else None
        labels: dict[str, NDArray[Any]] = {}
        if self._window is not None:
            labels[POSITION] = first + np.arange(count) + window - 1
        if readings.ids is not None:
            labels[self._label(str(self._choice.id))] = readings.texts[str(self._choice.id)][last].astype(str)
        if readings.times is not None:
            labels[self._label(str(self._selection.time))] = written_times(
                readings.times[last], bool(self._reader.zoned)
            )
        rows = Rows(None if readings.ids is None else readings.ids[:count], numbers, labels, why)
        if readings.ids is not None and window > 1:
            series = np.concatenate([[0], np.cumsum(readings.ids[1:] != readings.ids[:-1])])  # [lines]
            rows = rows.cut(series[window - 1 :] == series[:count])
        inputs: Any = rows.inputs
        return replace(rows, inputs=inputs.reshape(len(rows), *self._tail))

    @property
    def _unanswered(self) -> bool:
        return self._choice.missing != gaps.REFUSE or self._choice.skip

    def _label(self, column: str) -> str:
        """A column's name among the answers, where it is not one of theirs."""
        return f"{column}_" if column in RESERVED else column

    def _cast(self, readings: Readings) -> NDArray[Any]:
        numbers = readings.numbers
        if self._dtype.kind != "f":
            return numbers  # the artifact refuses what is no whole number, or beyond its dtype
        beyond = np.abs(numbers) > np.finfo(self._dtype).max
        if beyond.any():
            line, column = (int(i) for i in np.argwhere(beyond)[0])
            raise InputError(
                f"{self.name}, line {readings.lines[line]}, column {self.features[column]!r} holds "
                f"{numbers[line, column]:g}, which is beyond {self._dtype}; rescale it"
            )
        return numbers.astype(self._dtype)

    def _count_by_id(self) -> int:
        """The windows within consecutive lines of one id."""
        assert self._window is not None and self._choice.id is not None
        found, self._interleaved = windows.count_windows(self._reader, self._choice.id, self._window, self._choice.skip)
        return found

    def _fitted_tail(self) -> tuple[int, ...]:
        """The shape of an example without the batch: that of the lines, or the artifact's where the count fits."""
        shape = _line_shape(len(self.features), self._window)
        found = _fitted(self._tensor, shape)
        if found is not None:
            return found
        form = ", ".join("any" if size is None else str(size) for size in self._tensor.shape[1:])
        if self._window is None:
            got = f"a line of {self.name} has {shape[-1]} ({', '.join(self.features)})"
            cure = "choose by columns="
            if len(self._tensor.shape) == 3 and self._tensor.shape[2] in (None, shape[-1]):
                length = self._tensor.shape[1]
                cure = f"window={'N' if length is None else length} makes examples of consecutive lines"
        else:
            columns = ", ".join(self.features)
            got = f"a window of {self._window} lines of {self.name} has {list(shape)} ({columns})"
            cure = "choose by columns= and window="
        raise InputError(f"input {self._tensor.name!r} takes [{form}] an example and {got}; {cure}")


# What an answer's labels are called, so that no column may be.
RESERVED = ("row", POSITION, FILE, "n", "met", "reason")


def _default_features(reader: Reader, tensor: Tensor, choice: Choice) -> tuple[str, ...]:
    """Every column that may be a feature: neither named as another thing, nor without a name, nor of dates.

    No column is left out for what its cells look like: one that is empty, or text, on one line would be replaced by
    another in silence. Whether they are as many as the input takes is seen later.
    """
    others = {"", choice.id, choice.time, choice.order, *reader.dated}
    found = tuple(column for column in reader.columns if column not in others)
    if not found:
        raise InputError(f"{reader.name} has no column of numbers among {list(reader.columns)}; choose by columns=")
    return found


def _line_shape(width: int, window: Optional[int]) -> tuple[int, ...]:
    return (width,) if window is None else (window, width)


def _fitted(tensor: Tensor, shape: tuple[int, ...]) -> Optional[tuple[int, ...]]:
    """The shape that lines of this shape have as an example; None where they are none."""
    want = tensor.shape[1:]
    if len(want) == len(shape) and all(a is None or a == b for a, b in zip(want, shape)):
        return shape
    sizes = tuple(size for size in want if size is not None)
    if len(sizes) == len(want) and np.prod(shape) == np.prod(sizes) and (len(shape) == 1 or shape[-1] == 1):
        return sizes
    return None


def source_of(reader: Reader, metadata: Metadata, choice: Choice) -> Source:
    """The rows that the lines of a reader make.

    Raises
    ------
    InputError
        Its columns do not fit the artifact's input.
    """
    if choice.window is not None and choice.window < 1:
        raise InputError(f"window is {choice.window}; give 1 or more lines")
    names = [tensor.name for tensor in metadata.inputs]
    is_json = isinstance(reader, TextReader) and reader.is_json
    if is_json and set(names) <= set(reader.columns) and not choice.columns:
        assert isinstance(reader, TextReader)
        if choice.window:
            raise InputError(f"{reader.name} holds whole examples by input name; leave window= out")
        return ExampleSource(reader, metadata.inputs, choice.id)
    if choice.table is not None and not choice.columns and choice.window is None:
        source = DeclaredSource(reader, choice.table, metadata.inputs, choice.skipped)
        return LastRows(source) if choice.last else source
    if len(names) > 1:
        raise InputError(
            f"the model has {len(names)} inputs and {reader.name} is one table; "
            f"give an .npz file, or JSON lines, with arrays by input name {names}"
        )
    return TableSource(reader, metadata.inputs[0], choice)
