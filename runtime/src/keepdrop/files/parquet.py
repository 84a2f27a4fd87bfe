"""Parquet, read and written by batches. The only module that imports pyarrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.errors import InputError

from .table import CURE, Block, column_index

try:
    import pyarrow
    import pyarrow.parquet
except ImportError as error:
    raise InputError(
        "Parquet needs pyarrow, which is not installed here; "
        "install keepdrop's extra `table` (keepdrop[table]), or give and take CSV"
    ) from error

# Rows of a row group: what readers of Parquet are made for.
GROUP = 1 << 17


class ParquetTable:
    """A Parquet file as a :class:`~keepdrop.files.table.Table`."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        with self._opened() as file:
            schema = file.schema_arrow
            self.columns = tuple(schema.names)
            self.numeric = tuple(
                field.name
                for field in schema
                if pyarrow.types.is_integer(field.type) or pyarrow.types.is_floating(field.type)
            )
            self._count = file.metadata.num_rows
        if not self._count:
            raise InputError(f"{self.name} has no row; give at least one")

    def count(self) -> Optional[int]:
        """The number of lines, which the file says."""
        return int(self._count)

    def blocks(
        self, features: Sequence[str], id_column: Optional[str], lines: int, start: int, stop: Optional[int]
    ) -> Iterator[Block]:
        """As :class:`~keepdrop.files.table.Table` says."""
        wanted = [*features, *([] if id_column is None else [id_column])]
        for column in wanted:
            column_index(self.name, self.columns, column)
        stop = self._count if stop is None else min(stop, self._count)
        end = 0
        with self._opened() as file:
            for batch in file.iter_batches(batch_size=lines, columns=list(dict.fromkeys(wanted))):
                first, end = end, end + batch.num_rows
                if first >= stop:
                    return
                if end <= start:
                    continue
                skipped = max(0, start - first)
                part = batch.slice(skipped, min(end, stop) - first - skipped)
                yield self._block(part, features, id_column, first + skipped)

    def _block(self, batch: Any, features: Sequence[str], id_column: Optional[str], first: int) -> Block:
        numbers = [self._numbers(batch, column, first) for column in features]
        values = np.stack(numbers, axis=-1) if numbers else np.empty((batch.num_rows, 0))
        return Block(values, None if id_column is None else self._ids(batch, id_column, first))

    def _opened(self) -> Any:
        try:
            return pyarrow.parquet.ParquetFile(self._path)
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"cannot read {self.name} ({error}); give a Parquet file") from error

    def _numbers(self, batch: Any, column: str, start: int) -> NDArray[np.float64]:
        if column not in self.numeric:
            kind = batch.column(column).type
            raise InputError(f"{self.name}, column {column!r} holds {kind}, not integers or floats; choose others")
        cells = batch.column(column)
        values = np.asarray(cells.cast(pyarrow.float64(), safe=False).fill_null(np.nan).to_numpy(zero_copy_only=False))
        wrong = np.flatnonzero(~np.isfinite(values))
        if wrong.size:
            cell = cells[int(wrong[0])].as_py()
            found = "is empty" if cell is None else f"holds {cell!r}, not a finite number"
            raise InputError(f"{self.name}, row {start + wrong[0]} (from 0), column {column!r} {found}; {CURE}")
        return values

    def _ids(self, batch: Any, column: str, start: int) -> NDArray[np.int64]:
        cells = batch.column(column)
        if not pyarrow.types.is_integer(cells.type):
            raise InputError(f"{self.name}, column {column!r} holds {cells.type}; row ids are integers that fit int64")
        if cells.null_count:
            row = start + int(np.flatnonzero(cells.is_null().to_numpy(zero_copy_only=False))[0])
            raise InputError(f"{self.name}, row {row} (from 0), column {column!r} is empty; {CURE}")
        try:
            return np.asarray(cells.cast(pyarrow.int64()).to_numpy(zero_copy_only=False))
        except pyarrow.ArrowInvalid as error:
            raise InputError(f"{self.name}, column {column!r}: {error}; row ids have to fit int64") from error


def write(file: IO[bytes], pieces: Iterator[Mapping[str, NDArray[Any]]]) -> None:
    """Columns [rows] by name, piece by piece; one row group for every `GROUP` rows."""
    writer: Any = None
    waiting: list[Any] = []
    for piece in pieces:
        waiting.append(pyarrow.table(dict(piece)))
        writer = writer or pyarrow.parquet.ParquetWriter(file, waiting[0].schema)
        if sum(table.num_rows for table in waiting) >= GROUP:
            waiting = _flush(writer, waiting)
    _flush(writer, waiting)
    writer.close()


def _flush(writer: Any, waiting: list[Any]) -> list[Any]:
    if waiting:
        writer.write_table(pyarrow.concat_tables(waiting), row_group_size=1 << 62)
    return []
