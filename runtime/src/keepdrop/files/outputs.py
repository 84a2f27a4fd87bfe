"""Outputs: finished work as a file, in the format that its suffix names; whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, Optional

import numpy as np

from keepdrop.errors import InputError

from . import targets
from .fields import Fields, columns, keys, objects
from .work import Work

# Small writes to a member of an archive are joined up to this size.
BUFFER = 1 << 20
PARQUET = ".parquet"


def check_target(target: Path, samples_kept: bool) -> None:
    """InputError unless `target` can become a file of a known format that can hold what is asked for."""
    targets.check(target, tuple(WRITERS))
    if samples_kept and target.suffix.lower() in FLAT:
        raise InputError(f"{target.suffix} has no column for samples; write .npz with keep_samples=")
    if target.suffix.lower() == PARQUET:
        from . import arrow  # noqa: F401  which says what to install


def write(target: Path, work: Work, temporary: Optional[Path] = None) -> None:
    """Write finished work, as :func:`~keepdrop.files.targets.replacing` does; a failure leaves an older file."""
    with targets.replacing(target, temporary) as file:
        WRITERS[target.suffix.lower()](file, work)


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


def _parquet(file: IO[bytes], work: Work) -> None:
    from . import arrow

    arrow.write(file, (dict(columns(fields)) for fields in work.pieces()))


WRITERS: dict[str, Callable[[IO[bytes], Work], None]] = {
    ".npz": _npz,
    ".csv": _csv,
    ".jsonl": _json_lines,
    PARQUET: _parquet,
}
FLAT = (".csv", PARQUET)
