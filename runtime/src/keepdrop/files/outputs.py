"""Outputs: finished work as a file, in the format that its suffix names; whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from keepdrop.errors import InputError

from .fields import Fields, columns, keys, objects
from .work import Work

# Small writes to a member of an archive are joined up to this size.
BUFFER = 1 << 20


def check_target(target: Path, samples_kept: bool) -> None:
    """InputError unless `target` can become a file of a known format that can hold what is asked for."""
    if target.is_dir():
        raise InputError(f"{target} is a directory; give the name of the file to write")
    if not target.absolute().parent.is_dir():
        raise InputError(f"cannot write {target}: the directory {target.parent} does not exist; make it first")
    suffix = target.suffix.lower()
    if suffix not in WRITERS:
        raise InputError(f"cannot write {target}: its suffix is none of {', '.join(WRITERS)}; give it one of them")
    if samples_kept and suffix in FLAT:
        raise InputError(f"{suffix} has no column for samples; write .npz with keep_samples=")
    if suffix == ".parquet":
        pass


def write(target: Path, temporary: Path, work: Work) -> None:
    """Write finished work by way of `temporary`; a failure leaves an older file as it was."""
    with replacing(target, temporary) as file:
        WRITERS[target.suffix.lower()](file, work)


@contextlib.contextmanager
def replacing(target: Path, temporary: Path) -> Iterator[IO[bytes]]:
    """A file that gets the name `target` at the end, and only if all went well; `temporary` until then."""
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"cannot write {target} ({error}); an older file there is as it was") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def json_lines(fields: Fields) -> str:
    """A JSON object a row, each on a line of its own."""
    return "".join(f"{json.dumps(row, allow_nan=False)}\n" for row in objects(fields))


def _npz(file: IO[bytes], work: Work) -> None:
    names = keys(dict.fromkeys(work.fields))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for field, name in names.items():
            dtype, shape = work.described(field)
            member = archive.open(f"{name}.npy", "w", force_zip64=True)
            with io.BufferedWriter(member, BUFFER) as buffered:
                _write_header(buffered, dtype, shape)
                for part in work.content(field):
                    buffered.write(part)


def _npy(file: IO[bytes], work: Work) -> None:
    """One record a row."""
    names = keys(dict.fromkeys(work.fields))
    parts = []
    for field, name in names.items():
        dtype, shape = work.described(field)
        parts.append((name, dtype, shape[: field.row_axis] + shape[field.row_axis + 1 :]))
    record = np.dtype(parts)
    _write_header(file, record, (work.rows,))
    for fields in work.pieces():
        rows = np.empty(len(next(iter(fields.values()))), record)
        for field, name in names.items():
            rows[name] = np.moveaxis(fields[field], field.row_axis, 0)
        file.write(rows.tobytes())


def _write_header(file: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)


def _csv(file: IO[bytes], work: Work) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    for number, fields in enumerate(work.pieces()):
        table = dict(columns(fields))
        if not number:
            writer.writerow(table)
        # str() of a numpy number has no more digits than tell it from its neighbours.
        writer.writerows(zip(*([str(value) for value in column] for column in table.values())))
    text.detach()


def _json_lines(file: IO[bytes], work: Work) -> None:
    for fields in work.pieces():
        file.write(json_lines(fields).encode())


def _json(file: IO[bytes], work: Work) -> None:
    before = "[\n"
    for fields in work.pieces():
        for row in objects(fields):
            file.write(f"{before}{json.dumps(row, allow_nan=False)}".encode())
            before = ",\n"
    file.write(b"\n]\n")


def _parquet(file: IO[bytes], work: Work) -> None:
    from . import arrow

    arrow.write(file, (dict(columns(fields)) for fields in work.pieces()))


WRITERS: dict[str, Callable[[IO[bytes], Work], None]] = {
    ".npz": _npz,
    ".npy": _npy,
    ".csv": _csv,
    ".json": _json,
    ".jsonl": _json_lines,
    ".parquet": _parquet,
}
FLAT = (".csv", ".parquet")
