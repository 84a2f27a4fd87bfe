"""Outputs: finished work as a file, in the format that its suffix names; whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.errors import InputError

from . import targets
from .declared import TIME
from .fields import SAMPLES, Fields, columns, keys, objects, plain, written_times
from .headed import Headed
from .work import Work


class Layout(NamedTuple):
    """How answers to a table with declared columns are written: `zoned` are times of UTC, `units` go into headings."""

    headed: Headed
    zoned: bool = False
    units: bool = True

    def heading(self, column: str) -> str:
        """What a column is called."""
        return self.headed.heading(column, self.zoned) if self.units else column


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


def write(target: Path, work: Work, temporary: Optional[Path] = None, layout: Optional[Layout] = None) -> None:
    """Write finished work, as :func:`~keepdrop.files.targets.replacing` does; a failure leaves an older file."""
    with targets.replacing(target, temporary) as file:
        if layout is None:
            WRITERS[target.suffix.lower()](file, work)
        else:
            HEADED_WRITERS[target.suffix.lower()](file, work, layout)


def json_lines(fields: Fields, layout: Optional[Layout] = None) -> str:
    """A JSON object a row, or a line of the layout, each on a line of its own."""
    found = objects(fields) if layout is None else headed_objects(fields, layout)
    return "".join(f"{json.dumps(row, allow_nan=False, ensure_ascii=layout is None)}\n" for row in found)


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


def headed_objects(fields: Fields, layout: Layout) -> Iterator[dict[str, Any]]:
    """A JSON object for each line of the layout: null for what is not finite."""
    found = layout.headed.columns(fields)
    listed = {name: _texts(values, layout.zoned) if name == TIME else plain(values) for name, values in found.items()}
    units = {f"{target.name}_unit": target.unit for target in layout.headed.targets if target.unit is not None}
    for row in zip(*listed.values()):
        yield {**dict(zip(listed, row)), **(units if layout.units else {})}


def _texts(times: NDArray[Any], zoned: bool) -> list[str]:
    """Times as ISO 8601, with a Z where they are of UTC."""
    return [str(text) for text in written_times(times, zoned)]


def _headed_csv(file: IO[bytes], work: Work, layout: Layout) -> None:
    text = io.TextIOWrapper(file, "utf-8", newline="", write_through=True)
    writer = csv.writer(text, lineterminator="\n")
    for number, fields in enumerate(work.pieces()):
        table = layout.headed.columns(fields)
        if not number:
            writer.writerow([layout.heading(name) for name in table])
        # With Z or without as other tools read them; the heading says it too.
        cells = (_texts(values, layout.zoned) if name == TIME else _cells(values) for name, values in table.items())
        writer.writerows(zip(*cells))
    text.detach()


def _cells(values: NDArray[Any]) -> list[str]:
    """Numbers with as many digits as tell them from their neighbours; nothing for those that are none."""
    return ["" if value != value else str(value) for value in values]


def _headed_json_lines(file: IO[bytes], work: Work, layout: Layout) -> None:
    for fields in work.pieces():
        file.write(json_lines(fields, layout).encode())


def _headed_parquet(file: IO[bytes], work: Work, layout: Layout) -> None:
    from . import arrow

    arrow.write(
        file,
        (layout.headed.columns(fields) for fields in work.pieces()),
        lambda name: layout.headed.unit(name, layout.zoned) if layout.units else None,
    )


def _headed_npz(file: IO[bytes], work: Work, layout: Layout) -> None:
    """An array a column, and the samples of each output as they are: [samples, rows, ...]."""
    names = list(layout.headed.columns(next(work.pieces())))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name in names:
            parts = (layout.headed.columns(fields)[name] for fields in work.pieces())
            _member(archive, name, np.concatenate(list(parts)))
        for field in work.fields:
            if field.statistic == SAMPLES and field.output is not None:
                _member(archive, f"{layout.headed.target(field.output).name}_{SAMPLES}", work.array(field))


def _member(archive: zipfile.ZipFile, name: str, values: NDArray[Any]) -> None:
    with archive.open(f"{name.replace('/', '_')}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, np.ascontiguousarray(values), allow_pickle=False)


WRITERS: dict[str, Callable[[IO[bytes], Work], None]] = {
    ".npz": _npz,
    ".csv": _csv,
    ".jsonl": _json_lines,
    PARQUET: _parquet,
}
HEADED_WRITERS: dict[str, Callable[[IO[bytes], Work, Layout], None]] = {
    ".npz": _headed_npz,
    ".csv": _headed_csv,
    ".jsonl": _headed_json_lines,
    PARQUET: _headed_parquet,
}
FLAT = (".csv", PARQUET)
