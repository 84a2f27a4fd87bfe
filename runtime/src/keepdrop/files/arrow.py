"""Arrow: Parquet by batches, text in bulk, tables in memory. The only module that imports pyarrow."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.errors import InputError

from . import cells, opening
from .lines import Header
from .reader import CURE, MISSING_CURE, Readings, Selection, column_index

try:
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet
except ImportError as error:
    raise InputError(
        "Parquet, .zst and Arrow tables need pyarrow, which is not installed here; "
        "install keepdrop's extra `table` (keepdrop[table]), or give and take CSV"
    ) from error

# Rows of a row group: what readers of Parquet are made for.
GROUP = 1 << 17
NOT_PARQUET = "give a Parquet file"


class ParquetReader:
    """A Parquet file as a :class:`~keepdrop.files.reader.Reader`; its lines are rows, counted from 0."""

    manner = ""
    of_rows = True

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        self.zoned: Optional[bool] = None
        with opening.readable(self.name, NOT_PARQUET), self._opened() as file:
            self._schema = file.schema_arrow
            # pandas keeps its index in columns of such names.
            self.columns = tuple("" if n.startswith("__index_level_") else n for n in self._schema.names)
            self.dated = frozenset(f.name for f in self._schema if pyarrow.types.is_temporal(f.type))
            self._count = int(file.metadata.num_rows)
        units = {f.name: (f.metadata or {}).get(b"unit") for f in self._schema}
        self.units = {name: unit.decode("utf-8", "replace") for name, unit in units.items() if unit}
        if not self._count:
            raise InputError(f"{self.name} has no row; give at least one")

    def count(self) -> Optional[int]:
        """The number of lines, which the file says."""
        return self._count

    def read(self, selection: Selection, most: int, start: int = 0, stop: Optional[int] = None) -> Iterator[Readings]:
        """As :class:`~keepdrop.files.reader.Reader` says."""
        wanted = [*selection.numbers, *selection.texts, *filter(None, (selection.id, selection.time))]
        for column in wanted:
            column_index(self.name, self.columns, column)
        self._check_types(selection)
        stop = self._count if stop is None else min(stop, self._count)
        end = 0
        for batch in self._batches(list(dict.fromkeys(wanted)), most):
            first, end = end, end + batch.num_rows
            if first >= stop:
                return
            if end > start:
                skipped = max(0, start - first)
                part = batch.slice(skipped, min(end, stop) - first - skipped)
                yield self._readings(part, selection, first + skipped)

    def _batches(self, columns: list[str], most: int) -> Iterator[Any]:
        with contextlib.ExitStack() as files:
            with opening.readable(self.name, NOT_PARQUET):
                batches = files.enter_context(self._opened()).iter_batches(batch_size=most, columns=columns)
            while True:
                with opening.readable(self.name, NOT_PARQUET):
                    batch = next(batches, None)
                if batch is None:
                    return
                yield batch

    def _opened(self) -> Any:
        try:
            return pyarrow.parquet.ParquetFile(self._path, page_checksum_verification=True)
        except TypeError:  # before pyarrow 13
            return pyarrow.parquet.ParquetFile(self._path)

    def _check_types(self, selection: Selection) -> None:
        for column in selection.numbers:
            kind = self._schema.field(column).type
            if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)):
                raise InputError(f"{self.name}, column {column!r} holds {kind}, not integers or floats; choose others")

    def _readings(self, batch: Any, selection: Selection, first: int) -> Readings:
        numbers = [self._numbers(batch, column, first, selection) for column in selection.numbers]
        values = np.stack(numbers, axis=-1) if numbers else np.empty((batch.num_rows, 0), selection.dtype)
        texts = {column: self._texts(batch, column) for column in selection.texts}
        ids = None if selection.id is None else self._ids(batch, selection.id, first)
        if selection.id is not None:
            texts[selection.id] = self._texts(batch, selection.id)
        times = None if selection.time is None else self._times(batch, selection, first)
        return Readings(first + np.arange(batch.num_rows, dtype=np.int64), values, ids, times, texts, {})

    def _numbers(self, batch: Any, column: str, start: int, selection: Selection) -> NDArray[Any]:
        found = batch.column(column)
        if selection.integers:
            return self._integers(found, column, start)
        values = np.asarray(found.cast(pyarrow.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False))
        refused = np.isinf(values) if selection.missing else ~np.isfinite(values)
        if refused.any():
            self._refuse(found, column, start, int(np.flatnonzero(refused)[0]), "a finite number")
        return values

    def _integers(self, found: Any, column: str, start: int) -> NDArray[np.int64]:
        try:
            if not found.null_count:
                return np.asarray(found.cast(pyarrow.int64()).to_numpy(zero_copy_only=False))
        except pyarrow.ArrowInvalid:
            pass
        wrong = next(i for i, cell in enumerate(found.to_pylist()) if not _is_integer(cell))
        self._refuse(found, column, start, wrong, "a whole number that fits int64")
        raise AssertionError

    def _refuse(self, found: Any, column: str, start: int, place: int, kind: str) -> None:
        shown = cells.found(found[place].as_py(), kind)
        raise InputError(f"{self.name}, row {start + place} (from 0), column {column!r} {shown}; {MISSING_CURE}")

    def _ids(self, batch: Any, column: str, first: int) -> NDArray[np.int64]:
        found = batch.column(column)
        if found.null_count:
            row = first + int(np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False))[0])
            raise InputError(f"{self.name}, row {row} (from 0), column {column!r} is empty; {CURE}")
        try:
            if pyarrow.types.is_integer(found.type):
                return np.asarray(found.cast(pyarrow.int64()).to_numpy(zero_copy_only=False))
            return np.array([cells.row_id(cells.id_text(cell)) for cell in found.to_pylist()], np.int64)
        except (pyarrow.ArrowInvalid, ValueError):
            raise InputError(
                f"{self.name}, column {column!r} holds {found.type}; row ids are integers that fit int64, or text"
            ) from None

    def _times(self, batch: Any, selection: Selection, first: int) -> NDArray[np.datetime64]:
        column = str(selection.time)
        found = batch.column(column)
        if found.null_count:
            row = first + int(np.flatnonzero(found.is_null().to_numpy(zero_copy_only=False))[0])
            raise InputError(f"{self.name}, row {row} (from 0), column {column!r} is empty; mend it")
        if pyarrow.types.is_timestamp(found.type) or pyarrow.types.is_date(found.type):
            self.zoned = pyarrow.types.is_timestamp(found.type) and found.type.tz is not None
            moments = found.cast(pyarrow.timestamp("us", found.type.tz if self.zoned else None), safe=False)
            return np.asarray(moments.cast(pyarrow.int64()).to_numpy(zero_copy_only=False)).view("datetime64[us]")
        times = cells.Times(selection.time_format)
        try:
            moments = times.read(found.to_pylist())
        except ValueError as error:
            place, why = error.args
            raise InputError(
                f"{self.name}, row {first + place} (from 0), column {column!r} holds {found[place].as_py()!r}, {why}; "
                "mend it, or say by time_format= how times are written"
            ) from None
        self.zoned = times.zoned
        return moments

    def _texts(self, batch: Any, column: str) -> NDArray[np.object_]:
        texts = np.empty(batch.num_rows, object)
        texts[:] = ["" if cell is None else str(cell) for cell in batch.column(column).to_pylist()]
        return texts


def _is_integer(cell: Any) -> bool:
    try:
        cells.integer(cell)
    except ValueError:
        return False
    return True


def numbers(data: bytes, header: Header, columns: Sequence[int], dtype: Any) -> Optional[NDArray[Any]]:
    """Columns of plain lines of CSV as [lines, columns]; None where a cell is not plainly a number."""
    names = [str(i) for i in range(header.width)]
    wanted = [names[i] for i in columns]
    try:
        table = pyarrow.csv.read_csv(
            pyarrow.BufferReader(data),
            pyarrow.csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
            pyarrow.csv.ParseOptions(delimiter=header.separator, quote_char=False),
            pyarrow.csv.ConvertOptions(
                include_columns=list(dict.fromkeys(wanted)),
                column_types={name: pyarrow.from_numpy_dtype(dtype) for name in wanted},
                null_values=[],
                decimal_point=header.decimal or ".",
            ),
        )
    except pyarrow.ArrowException:
        return None
    found = np.empty((table.num_rows, len(wanted)), dtype)
    for i, name in enumerate(wanted):
        found[:, i] = table.column(name).to_numpy()
    return found


def unpacked(path: Path) -> IO[bytes]:
    """The content of a file that is compressed with Zstandard, for reading."""
    stream: IO[bytes] = pyarrow.input_stream(str(path), compression="zstd")
    return stream


def write(
    file: IO[bytes],
    pieces: Iterator[Mapping[str, NDArray[Any]]],
    unit: Callable[[str], Optional[str]] = lambda name: None,
) -> None:
    """Columns [rows] by name, piece by piece, with their units; one row group for every `GROUP` rows."""
    writer: Any = None
    waiting: list[Any] = []
    for piece in pieces:
        waiting.append(_with_units(pyarrow.table(dict(piece)), unit))
        writer = writer or _writer(file, waiting[0].schema)
        if sum(table.num_rows for table in waiting) >= GROUP:
            waiting = _flush(writer, waiting)
    _flush(writer, waiting)
    writer.close()


def _with_units(table: Any, unit: Callable[[str], Optional[str]]) -> Any:
    """The table whose fields have their unit as metadata; times of UTC have that zone."""
    fields = []
    for field in table.schema:
        found = unit(field.name)
        if found is not None and pyarrow.types.is_timestamp(field.type):
            field = field.with_type(pyarrow.timestamp(field.type.unit, found))
        fields.append(field if found is None else field.with_metadata({"unit": found}))
    return table.cast(pyarrow.schema(fields))


def _writer(file: IO[bytes], schema: Any) -> Any:
    try:
        return pyarrow.parquet.ParquetWriter(file, schema, write_page_checksum=True)
    except TypeError:  # before pyarrow 12
        return pyarrow.parquet.ParquetWriter(file, schema)


def _flush(writer: Any, waiting: list[Any]) -> list[Any]:
    if waiting:
        writer.write_table(pyarrow.concat_tables(waiting), row_group_size=1 << 62)
    return []


def table_of(given: Any) -> Any:
    """A table or record batch as a table, without dictionaries."""
    if isinstance(given, pyarrow.RecordBatch):
        given = pyarrow.Table.from_batches([given])
    if not isinstance(given, pyarrow.Table):
        raise InputError(
            f"a scorer takes Arrow tables, not a {type(given).__name__}; have the engine give such "
            '(batch_format="pyarrow"), or pyarrow.Table.from_pandas(frame, preserve_index=False)'
        )
    return given.cast(plain_schema(given.schema))


def plain_schema(schema: Any) -> Any:
    """The same columns with the values themselves where they are dictionaries, which engines make of texts."""
    fields = [f.with_type(f.type.value_type) if pyarrow.types.is_dictionary(f.type) else f for f in schema]
    return pyarrow.schema(fields)


def together(tables: Sequence[Any]) -> Any:
    """Several tables of the same columns as one."""
    return tables[0] if len(tables) == 1 else pyarrow.concat_tables(tables)


def as_batch(table: Any) -> Any:
    """A table as one record batch."""
    whole = table.combine_chunks()
    return whole.to_batches()[0] if whole.num_rows else pyarrow.RecordBatch.from_pylist([], whole.schema)


def is_batch(given: Any) -> bool:
    """Whether it is a record batch."""
    return isinstance(given, pyarrow.RecordBatch)


def beside(
    kept: Any, lines: NDArray[np.int64], figures: Mapping[str, NDArray[Any]], unit: Callable[[str], Optional[str]]
) -> Any:
    """The `lines` of a table with figures [lines] at their right; a name that both have gets ``_`` on the left."""
    right = _with_units(pyarrow.table(dict(figures)), unit)
    left = kept.take(pyarrow.array(lines))
    names = [f"{name}_" if name in right.column_names else name for name in left.column_names]
    return pyarrow.Table.from_arrays(
        [*left.columns, *right.columns],
        schema=pyarrow.schema([*(f.with_name(name) for f, name in zip(left.schema, names)), *right.schema]),
    )


def is_text(schema: Any, column: str) -> bool:
    """Whether a column holds text."""
    kind = schema.field(column).type
    return bool(pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind))


def example(schema: Any, ids: str, times: Optional[str], moments: NDArray[np.datetime64], texts: Sequence[str]) -> Any:
    """A table of zeros and nulls: one series at these moments, written as `texts` where times are text."""
    arrays = []
    for field in schema:
        if field.name == times:
            arrays.append(_moments(field.type, moments, texts))
        elif pyarrow.types.is_integer(field.type) or pyarrow.types.is_floating(field.type):
            arrays.append(pyarrow.array([0] * len(moments)).cast(field.type))
        elif field.name == ids:
            arrays.append(pyarrow.array(["a"] * len(moments)).cast(field.type))
        else:
            arrays.append(pyarrow.nulls(len(moments), field.type))
    return pyarrow.Table.from_arrays(arrays, schema=schema)


def _moments(kind: Any, moments: NDArray[np.datetime64], texts: Sequence[str]) -> Any:
    if pyarrow.types.is_date(kind):
        return pyarrow.array(moments.astype("datetime64[D]")).cast(kind)
    if pyarrow.types.is_timestamp(kind):
        whole = pyarrow.array(moments.astype("datetime64[us]").astype(np.int64))
        return whole.cast(pyarrow.timestamp("us", kind.tz)).cast(kind)
    if pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind):
        return pyarrow.array([float(text) for text in texts]).cast(kind)
    return pyarrow.array(list(texts)).cast(kind)


# What Spark calls the types of columns; of its other types no column is read, and one is kept as it stands.
_OF_SPARK = {
    "string": pyarrow.string(),
    "tinyint": pyarrow.int8(),
    "smallint": pyarrow.int16(),
    "int": pyarrow.int32(),
    "bigint": pyarrow.int64(),
    "float": pyarrow.float32(),
    "double": pyarrow.float64(),
    "boolean": pyarrow.bool_(),
    "date": pyarrow.date32(),
    "timestamp": pyarrow.timestamp("us", "UTC"),
    "timestamp_ntz": pyarrow.timestamp("us"),
}


def schema_of_spark(columns: Mapping[str, str]) -> Any:
    """The Arrow schema of columns by name, with Spark's names of their types."""
    return pyarrow.schema([(name, _OF_SPARK.get(kind, pyarrow.null())) for name, kind in columns.items()])


def types_of_spark(schema: Any) -> dict[str, str]:
    """Spark's names of the types of columns, by name."""
    names = {kind: name for name, kind in _OF_SPARK.items()}
    return {field.name: names.get(field.type, str(field.type)) for field in schema}
