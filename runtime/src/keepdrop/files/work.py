"""Work: the finished pieces of a job, kept in one file until the last of them is done.

The file begins with `MAGIC` and a record that holds what the job is, as JSON. Every piece is a record of its own:

    length of the JSON  uint32     little-endian, as the arrays are
    length of the body  uint64
    checksum            uint32     CRC-32 of both
    JSON                           of a piece: its fields, each [output, statistic, dtype, shape]
    body                           of a piece: their arrays, one after the other

A record that a crash cut short fails its checksum, and is dropped with what follows it.

The standard library's sqlite3 was measured instead (write-ahead log, synchronous=FULL): as large and as fast, but its
pages bear no checksums, so that a byte that a disk lost would be answered, and a log of its own lies beside it.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.errors import InputError

from .fields import Field, Fields
from .locking import hold

MAGIC = b"keepdrop work 1\n"
PREFIX = struct.Struct("<IQI")

# Answers of a job up to this size stay in memory where nothing is kept for another run.
IN_MEMORY = 32 << 20
# What is read at once when pieces are checked.
CHUNK = 1 << 20


class _Stored(NamedTuple):
    """Where the array of a field lies."""

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]


class Work:
    """Finished pieces, in the order of their rows; `rows` is how many rows they have."""

    def __init__(self, file: IO[bytes], durable: bool) -> None:
        self._file = file
        self._durable = durable
        self._end = file.tell()
        self._pieces: list[dict[Field, _Stored]] = []
        self.rows = 0

    @property
    def fields(self) -> list[Field]:
        """What is known of every row."""
        return list(self._pieces[0]) if self._pieces else []

    def append(self, fields: Fields) -> None:
        """Add a piece, after which it is safe from a crash where the work is kept in a file of its own."""
        arrays = {field: np.ascontiguousarray(_little(values)) for field, values in fields.items()}
        described = [[f.output, f.statistic, a.dtype.str, list(a.shape)] for f, a in arrays.items()]
        try:
            self._file.seek(self._end)
            start = _write_record(self._file, described, [a.reshape(-1).view(np.uint8).data for a in arrays.values()])
            self._file.flush()
            if self._durable:
                os.fsync(self._file.fileno())
        except OSError as error:
            raise InputError(f"cannot keep a finished piece ({error}); make room beside the output") from error
        self._add(described, start)

    def pieces(self) -> Iterator[dict[Field, NDArray[Any]]]:
        """The fields piece by piece."""
        for piece in self._pieces:
            yield {field: self._read(stored) for field, stored in piece.items()}

    def array(self, field: Field) -> NDArray[Any]:
        """The whole array of a field, in memory."""
        return np.concatenate([self._read(piece[field]) for piece in self._pieces], axis=field.row_axis)

    def described(self, field: Field) -> tuple[np.dtype[Any], tuple[int, ...]]:
        """Dtype and shape of the whole array of a field."""
        first = self._pieces[0][field]
        shape = list(first.shape)
        shape[field.row_axis] = self.rows
        return self._dtype(field), tuple(shape)

    def content(self, field: Field) -> Iterator[bytes]:
        """The bytes of the whole array in C order, in parts."""
        if field.row_axis == 0:
            dtype = self._dtype(field)
            for piece in self._pieces:
                yield self._read(piece[field]).astype(dtype, copy=False).tobytes()
            return
        for outer in range(self._pieces[0][field].shape[0]):
            for piece in self._pieces:
                dtype, shape = piece[field].dtype, piece[field].shape[1:]
                size = dtype.itemsize * int(np.prod(shape))
                self._file.seek(piece[field].offset + outer * size)
                yield self._file.read(size)

    def recover(self) -> None:
        """Take up the pieces that the file holds, and drop what follows the last whole one."""
        while True:
            record = _read_record(self._file)
            if record is None:
                break
            self._add(*record)
        self._file.truncate(self._end)

    def _add(self, described: Any, start: int) -> None:
        piece: dict[Field, _Stored] = {}
        offset = start
        for output, statistic, dtype, shape in described:
            stored = _Stored(offset, np.dtype(dtype), tuple(shape))
            piece[Field(output, statistic)] = stored
            offset += stored.dtype.itemsize * int(np.prod(stored.shape))
        if self._pieces and _form(piece) != _form(self._pieces[0]):
            raise InputError("the model gives outputs of another shape for some rows than for others; split the file")
        self._pieces.append(piece)
        self.rows += next(s.shape[f.row_axis] for f, s in piece.items())
        self._end = offset

    def _dtype(self, field: Field) -> np.dtype[Any]:
        """That of the whole array: of text the longest."""
        return max((piece[field].dtype for piece in self._pieces), key=lambda dtype: dtype.itemsize)

    def _read(self, stored: _Stored) -> NDArray[Any]:
        self._file.seek(stored.offset)
        content = self._file.read(stored.dtype.itemsize * int(np.prod(stored.shape)))
        return np.frombuffer(content, stored.dtype).reshape(stored.shape)


@contextlib.contextmanager
def temporary(folder: Path) -> Iterator[Work]:
    """Work that no run can go on with: in memory, or in `folder` in a file without a name, which any end removes."""
    with tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(folder)) as file:
        yield Work(file, durable=False)


@contextlib.contextmanager
def kept(path: Path, job: Mapping[str, Any]) -> Iterator[Work]:
    """Work that a later run of the same job goes on with; the file stays until `path` is removed.

    Raises
    ------
    InputError
        The file is of another job (the text says where they differ), no work file, or another process has it open.
    """
    try:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b")
    except OSError as error:
        raise InputError(f"cannot write {path} ({error.strerror}), which resume= keeps finished pieces in") from error
    with file:
        hold(file, path)
        known = _job_of(file, path)
        if known is None:
            file.seek(0)
            file.truncate()
            file.write(MAGIC)
            _write_record(file, job, [])
            file.flush()
        elif known != job:
            raise InputError(
                f"{path} holds finished pieces of another job: {_differences(known, job)}; "
                f"give what that job was given, or remove {path.name} to start anew"
            )
        work = Work(file, durable=True)
        if known is not None:
            work.recover()
        yield work


def _job_of(file: IO[bytes], path: Path) -> Optional[dict[str, Any]]:
    """The job that a work file is of; None where it got no further than its first bytes."""
    start = file.read(len(MAGIC))
    if not MAGIC.startswith(start):
        raise InputError(f"{path} is not a work file of this keepdrop; rename it, or give another output")
    record = _read_record(file)
    return None if record is None else record[0]


def _write_record(file: IO[bytes], described: Any, body: list[memoryview]) -> int:
    """Append a record; where its body starts."""
    text = json.dumps(described).encode()
    checksum = zlib.crc32(text)
    for part in body:
        checksum = zlib.crc32(part, checksum)
    file.write(PREFIX.pack(len(text), sum(part.nbytes for part in body), checksum))
    file.write(text)
    start = file.tell()
    for part in body:
        file.write(part)
    return start


def _read_record(file: IO[bytes]) -> Optional[tuple[Any, int]]:
    """The JSON of the next record and where its body starts, or None where no whole one follows."""
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        return None
    length, size, checksum = PREFIX.unpack(prefix)
    text = _read_up_to(file, length)
    start = file.tell()
    found = zlib.crc32(text)
    left = size
    while left:
        part = file.read(min(left, CHUNK))
        if not part:
            return None
        found = zlib.crc32(part, found)
        left -= len(part)
    return (json.loads(text), start) if len(text) == length and found == checksum else None


def _read_up_to(file: IO[bytes], length: int) -> bytes:
    left = os.fstat(file.fileno()).st_size - file.tell()
    return file.read(min(length, left))


def _differences(known: Mapping[str, Any], job: Mapping[str, Any]) -> str:
    names = [name for name in {**known, **job} if known.get(name) != job.get(name)]
    return ", ".join(f"{name} was {json.dumps(known.get(name))} and is {json.dumps(job.get(name))}" for name in names)


def _little(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(values.dtype.newbyteorder("<"), copy=False)


def _form(piece: Mapping[Field, _Stored]) -> list[Any]:
    """What has to be the same in all pieces; text is as long as it is."""
    return [(f, "U" if s.dtype.kind == "U" else s.dtype, _tail(f, s)) for f, s in piece.items()]


def _tail(field: Field, stored: _Stored) -> tuple[int, ...]:
    return stored.shape[: field.row_axis] + stored.shape[field.row_axis + 1 :]
