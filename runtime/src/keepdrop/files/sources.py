"""Source: a file's rows, whatever its format, read in pieces and checked before they are sampled.

The id of a row is its position in the file, counted from 0, so that a file can be split over processes and machines.
A window over the lines of a table is one row, and its position is that of its first line.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple, Optional, Protocol, TextIO, Union

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import Metadata, Tensor
from keepdrop.errors import InputError

from .table import CURE, Block, Table, TextTable

POSITION = "position"

ARRAYS = (".npy", ".npz")
TEXTS = (".csv", ".jsonl", ".ndjson")
PARQUET = ".parquet"
SUFFIXES = (*ARRAYS, *TEXTS, PARQUET)

# Up to here a float64, in which a table's cells are held, has every integer.
EXACT = 2.0**53
# Lines of a table read at once, at most; with a window, what is read beyond the piece is kept.
MAX_LINES = 1 << 16


class Rows(NamedTuple):
    """Consecutive rows of a source."""

    ids: Optional[NDArray[np.int64]]  # [n]; None where the position is the id
    inputs: Union[NDArray[Any], dict[str, NDArray[Any]]]  # [n, ...], by input name in a dict
    labels: dict[str, NDArray[np.int64]]  # [n] each: what else tells which row it is

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())) if isinstance(self.inputs, dict) else self.inputs)

    def cut(self, part: slice) -> Rows:
        """Some of these rows."""
        inputs = self.inputs
        return Rows(
            None if self.ids is None else self.ids[part],
            {name: array[part] for name, array in inputs.items()} if isinstance(inputs, dict) else inputs[part],
            {name: label[part] for name, label in self.labels.items()},
        )


class Source(Protocol):
    """A file's rows. `features` are the columns of a table that become the input, empty for arrays."""

    name: str
    features: tuple[str, ...]

    def count(self) -> Optional[int]:
        """The number of rows; None where the source can be read but once."""

    def example(self) -> Any:
        """The inputs as `predict` takes them, cut to their first row where they have one: what the artifact checks."""

    def read(self, start: int, stop: Optional[int], size: int) -> Iterator[Rows]:
        """Rows `start` to `stop` by position, at most `size` at once; InputError names a cell that is no number."""


@dataclass(frozen=True)
class Choice:
    """Which columns of a file are meant, and whether a row is a line or a window of lines."""

    columns: Optional[tuple[str, ...]] = None
    id_column: Optional[str] = None
    window: Optional[int] = None


@contextlib.contextmanager
def opened(text_or_path: Union[Path, TextIO], metadata: Metadata, choice: Choice) -> Iterator[Source]:
    """The source of a file, by its suffix, or of a text of CSV or JSON lines.

    Raises
    ------
    InputError
        The file cannot be read, its suffix is unknown, or its columns do not fit the artifact's input.
    """
    if not isinstance(text_or_path, Path):
        yield _of_table(TextTable("standard input", text=text_or_path), metadata, choice)
        return
    path, suffix = text_or_path, text_or_path.suffix.lower()
    if suffix in TEXTS:
        yield _of_table(TextTable(str(path), path), metadata, choice)
    elif suffix == PARQUET:
        from .parquet import ParquetTable

        yield _of_table(ParquetTable(path), metadata, choice)
    elif suffix in ARRAYS:
        if choice.columns or choice.window:
            raise InputError(
                f"--columns and --window choose from the lines of a table, and {path} holds arrays of whole examples; "
                "leave them out"
            )
        with contextlib.ExitStack() as files:
            yield ArraySource(path, files, choice.id_column)
    else:
        raise InputError(f"cannot read {path}: its suffix is none of {', '.join(SUFFIXES)}; rename or convert it")


def standard_input() -> TextIO:
    """Standard input as a text of UTF-8, line ends as they are."""
    return io.TextIOWrapper(sys.stdin.buffer, "utf-8-sig", newline="")


def grouped(parts: Iterator[Rows], size: int) -> Iterator[Rows]:
    """The same rows in groups of exactly `size`; the last may have fewer."""
    waiting: list[Rows] = []
    length = 0
    for part in parts:
        if not len(part):
            continue
        waiting.append(part)
        length += len(part)
        if length < size:
            continue
        joined = _joined(waiting)
        for start in range(0, length - size + 1, size):
            yield joined.cut(slice(start, start + size))
        length %= size
        waiting = [joined.cut(slice(len(joined) - length, len(joined)))] if length else []
    if length:
        yield _joined(waiting)


class ArraySource:
    """A .npy file, or the arrays of an .npz file, read as streams whether compressed or not."""

    features: tuple[str, ...] = ()

    def __init__(self, path: Path, files: contextlib.ExitStack, id_name: Optional[str]) -> None:
        self.name = str(path)
        self._ids: Optional[_Array] = None
        with _readable(self.name):
            if path.suffix.lower() == ".npy":
                self._arrays: Union[_Array, dict[str, _Array]] = _array(
                    lambda: files.enter_context(open(path, "rb")),  # noqa: SIM115
                    lambda: np.load(path, "r", allow_pickle=False),
                )
            else:
                archive = files.enter_context(zipfile.ZipFile(path))
                members = [name for name in archive.namelist() if name.endswith(".npy")]
                self._arrays = {name[: -len(".npy")]: _member(archive, name) for name in members}
        if id_name is not None:
            self._ids = self._take_ids(id_name)
        self._count = self._common_length()

    def count(self) -> Optional[int]:
        """The number of rows."""
        return self._count

    def example(self) -> Any:
        """The first row of every array."""
        with _readable(self.name):
            return self._each(lambda array: array.read(0, 1) if array.shape else np.empty((), array.dtype))

    def read(self, start: int, stop: Optional[int], size: int) -> Iterator[Rows]:
        """As :class:`Source` says."""
        stop = self._count if stop is None else min(stop, self._count)
        for first in range(start, stop, size):
            last = min(first + size, stop)
            with _readable(self.name):
                inputs = self._each(lambda array, a=first, b=last: array.read(a, b))
                ids = None if self._ids is None else self._ids.read(first, last).astype(np.int64)
            for name, array in inputs.items() if isinstance(inputs, dict) else [("", inputs)]:
                self._check_finite(name, array, first)
            yield Rows(ids, inputs, {})

    def _each(self, of: Callable[..., NDArray[Any]]) -> Any:
        if isinstance(self._arrays, dict):
            return {name: of(array) for name, array in self._arrays.items()}
        return of(self._arrays)

    def _check_finite(self, name: str, array: NDArray[Any], first: int) -> None:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = first + int(np.argwhere(~np.isfinite(array))[0, 0])
            of_input = f" in array {name!r}" if name else ""
            raise InputError(f"{self.name} holds NaN or infinity{of_input}, first in row {row} (from 0); {CURE}")

    def _take_ids(self, name: str) -> _Array:
        if not isinstance(self._arrays, dict) or name not in self._arrays:
            has = list(self._arrays) if isinstance(self._arrays, dict) else "no names"
            raise InputError(f"{self.name} has no array {name!r} of row ids; it has {has}")
        ids = self._arrays.pop(name)
        if ids.dtype.kind not in "iu" or len(ids.shape) != 1:
            raise InputError(
                f"{self.name}: array {name!r} is {ids.dtype} {list(ids.shape)}; row ids are integers, one a row"
            )
        return ids

    def _common_length(self) -> int:
        arrays = dict(self._arrays) if isinstance(self._arrays, dict) else {"": self._arrays}
        if self._ids is not None:
            arrays["row ids"] = self._ids
        lengths = {name: array.shape[0] if array.shape else 1 for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"the arrays of {self.name} have different numbers of rows, {lengths}; give each the same")
        return next(iter(lengths.values()), 0)


class TableSource:
    """Lines of a table as examples of the one input: each line by itself, or windows of consecutive lines.

    With row ids, a window lies within lines of one id, which names the series they belong to.
    """

    def __init__(self, table: Table, tensor: Tensor, choice: Choice) -> None:
        self.name = table.name
        self._table = table
        self._id_column = choice.id_column
        self._window = choice.window
        self.features = choice.columns or tuple(c for c in table.numeric if c != choice.id_column)
        if not self.features:
            raise InputError(f"{self.name} has no column of numbers among {list(table.columns)}; choose with --columns")
        self._tensor = tensor
        self._tail = self._fitted_tail()

    def count(self) -> Optional[int]:
        """The number of rows."""
        lines = self._table.count()
        if lines is None or self._window is None:
            return lines
        if self._id_column is None:
            return max(0, lines - self._window + 1)
        blocks = self._table.blocks((), self._id_column, MAX_LINES, 0, None)
        return sum(len(rows) for rows in self._windows(blocks, 0))

    def example(self) -> Any:
        """Zeros: that the columns fit the input is known already."""
        return np.zeros((1, *self._tail), self._tensor.dtype)

    def read(self, start: int, stop: Optional[int], size: int) -> Iterator[Rows]:
        """As :class:`Source` says."""
        lines = min(size, MAX_LINES)
        if self._window is None:
            for block in self._table.blocks(self.features, self._id_column, lines, start, stop):
                yield Rows(block.ids, self._examples(block.values), {})
        elif self._id_column is None:
            last = None if stop is None else stop + self._window - 1
            yield from self._windows(self._table.blocks(self.features, None, lines, start, last), start)
        else:
            end = 0
            for rows in self._windows(self._table.blocks(self.features, self._id_column, lines, 0, None), 0):
                first, end = end, end + len(rows)
                yield rows.cut(slice(max(0, start - first), None if stop is None else max(0, stop - first)))
                if stop is not None and end >= stop:
                    return

    def _windows(self, blocks: Iterator[Block], first: int) -> Iterator[Rows]:
        """Every window within `blocks`, the first of which starts at line `first`."""
        assert self._window is not None
        before: Optional[Block] = None
        for block in blocks:
            if before is not None:
                ids = None if before.ids is None else np.concatenate([before.ids, block.ids])
                block = Block(np.concatenate([before.values, block.values]), ids)
            count = len(block.values) - self._window + 1
            if count > 0:
                yield self._of_windows(block, first, count)
                first += count
            keep = max(0, count)
            before = Block(block.values[keep:], None if block.ids is None else block.ids[keep:])

    def _of_windows(self, block: Block, first: int, count: int) -> Rows:
        assert self._window is not None
        last = first + np.arange(count) + self._window - 1
        if block.values.shape[1]:
            view = np.lib.stride_tricks.sliding_window_view(block.values, self._window, axis=0)  # [count, F, N]
            windows = view.transpose(0, 2, 1)  # [count, N, F]
        else:
            windows = np.empty((count, self._window, 0))
        if block.ids is None:
            return Rows(None, self._examples(windows), {POSITION: last})
        series = np.concatenate([[0], np.cumsum(block.ids[1:] != block.ids[:-1])])  # [lines]
        whole = series[self._window - 1 :] == series[:count]
        return Rows(block.ids[:count][whole], self._examples(windows[whole]), {POSITION: last[whole]})

    def _examples(self, values: NDArray[np.float64]) -> NDArray[Any]:
        if not values.size:
            return values
        dtype = np.dtype(self._tensor.dtype)
        if dtype.kind != "f":
            if np.abs(values).max() > EXACT:
                raise InputError(f"{self.name} holds {np.abs(values).max():.0f}, beyond the integers of a float64")
            return values.reshape(len(values), *self._tail)  # the artifact refuses what is no whole number
        with np.errstate(over="ignore"):
            cast = values.astype(dtype)
        if not np.isfinite(cast).all():
            raise InputError(
                f"{self.name} holds {values[~np.isfinite(cast)][0]:g}, which is beyond {dtype}; rescale it"
            )
        return cast.reshape(len(values), *self._tail)

    def _fitted_tail(self) -> tuple[int, ...]:
        """The shape of an example without the batch: that of the lines, or the artifact's where the count fits."""
        width = len(self.features)
        shape = (width,) if self._window is None else (self._window, width)
        want = self._tensor.shape[1:]
        if len(want) == len(shape) and all(a is None or a == b for a, b in zip(want, shape)):
            return shape
        known = int(np.prod([size for size in want if size is not None]))
        total = int(np.prod(shape))
        if None not in want and total == known and (self._window is None or width == 1):
            return tuple(size for size in want if size is not None)
        form = ", ".join("any" if size is None else str(size) for size in want)
        if self._window is None:
            got = f"a line of {self.name} has {width} ({', '.join(self.features)})"
            cure = "choose with --columns"
            if len(want) == 2 and want[1] in (None, width):
                cure = f"--window {want[0] or 'N'} makes examples of consecutive lines"
        else:
            got = f"a window of {self._window} lines of {self.name} has {list(shape)} ({', '.join(self.features)})"
            cure = "choose with --window and --columns"
        raise InputError(f"input {self._tensor.name!r} takes [{form}] an example and {got}; {cure}")


class ExampleSource:
    """JSON lines that hold whole examples: a nested list (or a number) by input name in every object."""

    features: tuple[str, ...] = ()

    def __init__(self, table: TextTable, tensors: tuple[Tensor, ...], id_column: Optional[str]) -> None:
        self.name = table.name
        self._table = table
        self._tensors = tensors
        self._id_column = id_column
        self._dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in tensors}

    def count(self) -> Optional[int]:
        """The number of rows."""
        return self._table.count()

    def example(self) -> Any:
        """That of the first line."""
        number, cells = self._table.first
        columns = list(self._table.columns)
        return {t.name: self._array(number, t, cells[columns.index(t.name)])[np.newaxis] for t in self._tensors}

    def read(self, start: int, stop: Optional[int], size: int) -> Iterator[Rows]:
        """As :class:`Source` says."""
        with self._table.opened() as lines:
            indices = lines.indices([tensor.name for tensor in self._tensors])
            id_index = None if self._id_column is None else lines.indices([self._id_column])[0]
            rows: list[list[NDArray[Any]]] = []
            ids: list[int] = []
            shapes: list[tuple[int, ...]] = []
            for number, cells in itertools.islice(lines, start, stop):
                row = [self._array(number, t, cells[i]) for t, i in zip(self._tensors, indices)]
                shapes = shapes or [array.shape for array in row]
                if [array.shape for array in row] != shapes:
                    raise InputError(
                        f"{self.name}, line {number}: its arrays are not as long as those of the lines before; "
                        "give examples of one length"
                    )
                rows.append(row)
                if id_index is not None:
                    ids.append(lines.integer(number, cells, id_index))
                if len(rows) == size:
                    yield self._rows(rows, ids)
                    rows, ids = [], []
            if rows:
                yield self._rows(rows, ids)

    def _rows(self, rows: list[list[NDArray[Any]]], ids: list[int]) -> Rows:
        inputs = {t.name: np.stack([row[i] for row in rows]) for i, t in enumerate(self._tensors)}
        return Rows(np.array(ids, np.int64) if self._id_column is not None else None, inputs, {})

    def _array(self, number: int, tensor: Tensor, cell: Any) -> NDArray[Any]:
        want = tensor.shape[1:]
        try:
            array = np.array(cell, np.float64)
        except (TypeError, ValueError, OverflowError):
            array = np.array(np.nan)
        fits = len(want) == array.ndim and all(a is None or a == b for a, b in zip(want, array.shape))
        if not fits or not np.isfinite(array).all():
            form = ", ".join("any" if size is None else str(size) for size in want)
            raise InputError(
                f"{self.name}, line {number}: {tensor.name!r} is not [{form}] finite numbers, "
                "which the input takes an example; give a nested list of them"
            )
        return array


def _of_table(table: Any, metadata: Metadata, choice: Choice) -> Source:
    if choice.window is not None and choice.window < 1:
        raise InputError(f"--window is {choice.window}; give 1 or more lines")
    names = [tensor.name for tensor in metadata.inputs]
    if getattr(table, "is_json", False) and set(names) <= set(table.columns) and not choice.columns:
        if choice.window:
            raise InputError(f"{table.name} holds whole examples by input name; leave --window out")
        return ExampleSource(table, metadata.inputs, choice.id_column)
    if len(names) > 1:
        raise InputError(
            f"the model has {len(names)} inputs and {table.name} is one table; "
            f"give an .npz file, or JSON lines, with arrays by input name {names}"
        )
    return TableSource(table, metadata.inputs[0], choice)


def _joined(parts: Sequence[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    ids = None if first.ids is None else np.concatenate([part.ids for part in parts])
    inputs: Any
    if isinstance(first.inputs, dict):
        inputs = {name: np.concatenate([part.inputs[name] for part in parts]) for name in first.inputs}
    else:
        inputs = np.concatenate([part.inputs for part in parts])
    return Rows(ids, inputs, {name: np.concatenate([part.labels[name] for part in parts]) for name in first.labels})


class _Array(Protocol):
    """An array in a file, of which rows are read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`."""


class _Streamed:
    """An array in C order, read forwards from the file that `opened` opens: of its rows only those asked for."""

    def __init__(self, opened: Callable[[], IO[bytes]]) -> None:
        self._opened = opened
        self._row = 0
        self._start()

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`; going back starts the file anew."""
        if start < self._row:
            self._file.close()
            self._start()
        row_bytes = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        self._file.seek((start - self._row) * row_bytes, os.SEEK_CUR)
        content = self._file.read((stop - start) * row_bytes)
        if len(content) != (stop - start) * row_bytes:
            raise EOFError("an array ends too early")
        self._row = stop
        return np.frombuffer(content, self.dtype).reshape(stop - start, *self.shape[1:])

    def _start(self) -> None:
        self._file = self._opened()
        self.shape, _, self.dtype = _header(self._file)
        self._row = 0


class _Held:
    """An array that cannot be read by rows, mapped into memory or held there."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`."""
        return self._array[start:stop]


def _array(opened: Callable[[], IO[bytes]], held: Callable[[], NDArray[Any]]) -> _Array:
    """The array in the file that `opened` opens; what `held` gives where its rows do not lie one after the other."""
    with opened() as file:
        shape, columns_first, dtype = _header(file)
    if dtype.hasobject:
        raise ValueError("it holds objects")
    return _Held(held()) if columns_first and len(shape) > 1 else _Streamed(opened)


def _member(archive: zipfile.ZipFile, name: str) -> _Array:
    return _array(
        lambda: archive.open(name),
        lambda: np.load(io.BytesIO(archive.read(name)), allow_pickle=False),
    )


def _header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    return shape, columns_first, dtype


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"cannot read {name} ({error.strerror}); give an existing file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        raise InputError(
            f"cannot read {name} ({error}); give a .npy file of numbers, or an .npz file with arrays by input name"
        ) from error
