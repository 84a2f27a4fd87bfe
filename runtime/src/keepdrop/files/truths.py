"""Truths: labelled rows from files, each with what was observed so many lines later, or with targets of an array."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop import npz
from keepdrop.artifact.metadata import Metadata
from keepdrop.errors import InputError
from keepdrop.table import Table

from . import opening
from .declared import READING, TIME, DeclaredSource
from .following import Observed
from .lines import Dialect
from .ordered import OrderedReader
from .reader import Reader, Selection, joined_readings
from .rows import Rows
from .sources import ARRAYS, MAX_LINES, POSITION, Choice, Source, opened, reader_of


class TruthColumn(NamedTuple):
    """The column that holds what an output forecast, and how many lines after a row's last one it is, or its steps."""

    output: str
    column: str
    ahead: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class LabelledRows:
    """Inputs and targets as :func:`keepdrop.calibrate` takes them, and what is to be said of them.

    ``first_times`` are those of the first line of each row's window, ``times`` those of the last; ``ahead`` is how many
    lines after it the furthest target stands.
    """

    inputs: Any
    targets: dict[str, NDArray[np.float64]]
    rows: NDArray[np.int64]
    times: Optional[NDArray[np.datetime64]]
    first_times: Optional[NDArray[np.datetime64]]
    series: Optional[NDArray[Any]]
    notes: tuple[str, ...]
    ahead: int = 0


def labelled_rows(
    files: Sequence[Path],
    metadata: Metadata,
    choice: Choice,
    wanted: Sequence[TruthColumn] = (),
    targets: Optional[Path] = None,
) -> LabelledRows:
    """Every row of the files with its targets: from columns of the same lines, or from a file of arrays.

    Raises
    ------
    InputError
        A file cannot be read; there is no such column; lengths differ; several files are not put in order.
    """
    with opened(list(files), metadata, choice) as source:
        rows, dropped = _all_rows(source)
        notes = [f"{dropped:,} rows have no answer, since values are missing"] if dropped else []
        if targets is not None:
            if dropped:
                raise InputError(f"{dropped} rows of {source.name} have missing values, and {targets} counts all rows")
            arrays = _arrays(targets, [tensor.name for tensor in metadata.outputs])
            ids = np.arange(len(rows)) if rows.ids is None else rows.ids
            return LabelledRows(rows.inputs, arrays, ids.astype(np.int64), None, None, None, tuple(notes))
    with _reader(files, choice) as reader:
        return _from_columns(reader, choice, rows, wanted, notes)


def _all_rows(source: Source) -> tuple[Rows, int]:
    """The rows that can be answered, and how many cannot."""
    parts = list(source.read(0, None, MAX_LINES))
    if not sum(len(part) for part in parts):
        raise InputError(source.no_rows())
    positions = np.cumsum([0, *(len(part) for part in parts)])
    placed = [_placed(part, int(start)) for part, start in zip(parts, positions)]
    kept = [part if part.reasons is None else part.cut(part.reasons == "") for part in placed]
    return _joined_rows(kept), sum(len(part) for part in parts) - sum(len(part) for part in kept)


def _placed(part: Rows, start: int) -> Rows:
    """The same with the position of each row's last line, which windows have already."""
    if POSITION in part.labels:
        return part
    labels = {**part.labels, POSITION: start + np.arange(len(part))}
    return Rows(part.ids, part.inputs, labels, part.reasons)


def _joined_rows(parts: Sequence[Rows]) -> Rows:
    first = parts[0]
    inputs: Any
    if isinstance(first.inputs, dict):
        inputs = {name: np.concatenate([part.inputs[name] for part in parts]) for name in first.inputs}
    else:
        inputs = np.concatenate([np.asarray(part.inputs) for part in parts])
    ids = None if first.ids is None else np.concatenate([part.ids for part in parts if part.ids is not None])
    labels = {POSITION: np.concatenate([part.labels[POSITION] for part in parts])}
    return Rows(ids, inputs, labels)


def _arrays(path: Path, outputs: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """The targets of a .npy file, of the first output, or of a .npz file, by output."""
    with opening.readable(str(path), "give a .npy file, or a .npz file with an array for each output"):
        found = npz.whole(path)
    if not isinstance(found, dict):
        return {outputs[0]: found}
    unknown = sorted(set(found) - set(outputs))
    if unknown or not found:
        raise InputError(f"{path} holds {unknown or 'nothing'}; name its arrays by the outputs, {list(outputs)}")
    return found


@contextlib.contextmanager
def _reader(files: Sequence[Path], choice: Choice) -> Iterator[Reader]:
    """The lines of the files, in the order in which the rows have them."""
    if any(opening.unpacked_suffix(path) in ARRAYS for path in files):
        raise InputError(f"{files[0]} holds arrays, which have no columns of targets; give targets= beside them")
    if choice.order is None and len(files) > 1:
        raise InputError(
            f"targets lie ahead of their rows, and {len(files)} files have no order between them; give order=, the "
            "column of times"
        )
    with contextlib.ExitStack() as stack:
        dialect: Dialect = choice.dialect
        readers = [stack.enter_context(reader_of(path, dialect)) for path in files]
        if choice.order is None:
            yield readers[0]
        else:
            yield OrderedReader(readers, choice.id, choice.order, choice.time_format)


def _from_columns(
    reader: Reader, choice: Choice, rows: Rows, wanted: Sequence[TruthColumn], notes: list[str]
) -> LabelledRows:
    columns = tuple(dict.fromkeys(target.column for target in wanted))
    time = choice.time or choice.order
    selection = Selection(
        columns, id=choice.id, time=time, time_format=choice.time_format, missing=True, skip=choice.skip
    )
    lines = joined_readings(list(reader.read(selection, MAX_LINES)))
    at = rows.labels[POSITION]  # [n]
    run = np.zeros(len(lines.lines), np.int64)  # lines of one series that follow one another
    if lines.ids is not None:
        run = np.concatenate([[0], np.cumsum(lines.ids[1:] != lines.ids[:-1])])
    step = _step(lines.times, run)
    found, lost = {}, 0
    for target in wanted:
        values = lines.numbers[:, columns.index(target.column)]
        found[target.output], skipped = _ahead(values, at, target.ahead, run, lines.times, step)
        lost = max(lost, skipped)
    if lost:
        notes.append(_skips(lost))
    window = choice.window or 1
    times = None if lines.times is None else lines.times[at]
    first = None if lines.times is None else lines.times[np.maximum(at - window + 1, 0)]
    ids = at - window + 1 if rows.ids is None else rows.ids
    series = None if choice.id is None else lines.texts[choice.id][at].astype(str)
    furthest = max(max(target.ahead) for target in wanted)
    return LabelledRows(rows.inputs, found, ids.astype(np.int64), times, first, series, tuple(notes), furthest)


def declared_rows(files: Sequence[Path], metadata: Metadata, table: Table, choice: Choice) -> LabelledRows:
    """Every row of a table that the artifact knows: what its outputs forecast, and how far ahead, is declared.

    Raises
    ------
    InputError
        As :func:`labelled_rows`; a target is no column of the files.
    """
    time = None if table.time is None else table.time.column
    ordered = time if choice.order is None and len(files) > 1 else choice.order
    written = None if table.time is None else table.time.format
    with _reader(files, replace(choice, id=table.id, order=ordered, time_format=written)) as reader:
        source = DeclaredSource(reader, table, metadata.inputs, choice.skipped, with_classes=True)
        parts = list(source.read(0, None, MAX_LINES))
    if not sum(len(part) for part in parts):
        raise InputError(source.no_rows())
    labels = {name: np.concatenate([part.labels[name] for part in parts]) for name in parts[0].labels}
    ids = None if parts[0].ids is None else np.concatenate([part.ids for part in parts if part.ids is not None])
    times = labels.get(TIME)
    count = sum(len(part) for part in parts)
    run = np.zeros(count, np.int64) if ids is None else np.concatenate([[0], np.cumsum(ids[1:] != ids[:-1])])
    found, lost = {}, 0
    for output, of in table.outputs.items():
        if READING + of.target in labels:
            values, step = labels[READING + of.target], None if table.time is None else table.time.delta
            found[output], skipped = _ahead(values, np.arange(count), of.ahead, run, times, step)
            lost = max(lost, skipped)
    if not found:
        wanted = [of.target for of in table.outputs.values()]
        raise InputError(f"{source.name} has no column of what the model forecasts, {wanted}; give targets= beside it")
    names = [tensor.name for tensor in metadata.inputs]
    kept = np.concatenate([np.ones(len(p), bool) if p.reasons is None else p.reasons == "" for p in parts])
    inputs = {name: np.concatenate([part.inputs[name] for part in parts])[kept] for name in names}
    notes = [f"{int((~kept).sum()):,} rows have no answer, since values or lines are missing"] if not kept.all() else []
    first = times
    if times is not None and table.time is not None and table.time.delta is not None:
        first = times - ((table.window or 1) - 1) * table.time.delta
    return LabelledRows(
        inputs,
        {name: values[kept] for name, values in found.items()},
        (np.arange(count) if ids is None else ids)[kept].astype(np.int64),
        None if times is None else times[kept],
        None if first is None else first[kept],
        None if table.id is None or table.id not in labels else labels[table.id][kept],
        (*notes, *([_skips(lost)] if lost else [])),
        max(max(table.outputs[output].ahead) for output in found),
    )


def _ahead(
    values: NDArray[Any],
    at: NDArray[np.int64],
    steps: Sequence[int],
    run: NDArray[np.int64],
    times: Optional[NDArray[np.datetime64]],
    step: Optional[np.timedelta64],
) -> tuple[NDArray[np.float64], int]:
    """What stands so many places after `at`, [n, H], NaN outside the series; how many rows a gap in time costs it."""
    later = at[:, np.newaxis] + np.array(steps)  # [n, H]
    place = np.minimum(later, len(values) - 1)
    inside = (later < len(values)) & (run[place] == run[at][:, np.newaxis])
    lost = 0
    if step is not None and times is not None:
        skips = inside & (times[place] - times[at][:, np.newaxis] != step * np.array(steps))
        lost = int(skips.any(axis=1).sum())
        inside &= ~skips
    return np.where(inside, values[place], np.nan), lost


def _skips(rows: int) -> str:
    return f"{rows:,} rows have no target at their steps ahead: the times skip or repeat between"


def declared_readings(files: Sequence[Path], metadata: Metadata, choice: Choice, output: str) -> Observed:
    """What stands in the lines that rows end with, of the target that the table of `choice` declares for an output.

    Raises
    ------
    InputError
        The files have no such column, or cannot be read.
    """
    assert choice.table is not None
    with opened(list(files), metadata, choice) as source:
        return readings_within(source, choice.table, output)


def readings_within(source: Source, table: Table, output: str) -> Observed:
    """As :func:`declared_readings`, of a source whose columns `table` declares."""
    target = table.outputs[output].target
    parts = list(source.read(0, None, MAX_LINES))
    if not parts or READING + target not in parts[0].labels:
        raise InputError(f"{source.name} has no column {target!r}, from which {output!r} could learn")
    values = np.concatenate([part.labels[READING + target] for part in parts])
    breaks = np.zeros(len(values), bool)
    if parts[0].ids is not None:
        ids = np.concatenate([part.ids for part in parts if part.ids is not None])
        breaks[1:] = ids[1:] != ids[:-1]
    step = None if table.time is None else table.time.delta
    if step is not None:
        breaks[1:] |= np.diff(np.concatenate([part.labels[TIME] for part in parts])) != step
    return Observed(values, np.cumsum(breaks))


def readings_of(files: Sequence[Path], choice: Choice, column: str) -> Observed:
    """What stands in a column, line by line; a line that skips in time does not follow the one before it.

    Raises
    ------
    InputError
        As :func:`labelled_rows`.
    """
    time = choice.time or choice.order
    selection = Selection(
        (column,), id=choice.id, time=time, time_format=choice.time_format, missing=True, skip=choice.skip
    )
    with _reader(files, choice) as reader:
        lines = joined_readings(list(reader.read(selection, MAX_LINES)))
    breaks = np.zeros(len(lines.lines), bool)
    if lines.ids is not None:
        breaks[1:] = lines.ids[1:] != lines.ids[:-1]
    step = _step(lines.times, np.cumsum(breaks))
    if step is not None and lines.times is not None:
        breaks[1:] |= np.diff(lines.times) != step
    return Observed(lines.numbers[:, 0], np.cumsum(breaks))


def _step(times: Optional[NDArray[np.datetime64]], run: NDArray[np.int64]) -> Optional[np.timedelta64]:
    """The step from line to line: the most frequent one within a series."""
    if times is None or len(times) < 2:
        return None
    steps = np.diff(times)[run[1:] == run[:-1]]
    values, counts = np.unique(steps, return_counts=True)
    return values[int(np.argmax(counts))] if len(values) else None


def targets_of(columns: Mapping[Optional[str], str], ahead: tuple[int, ...], metadata: Metadata) -> list[TruthColumn]:
    """The targets that a command line names: columns by output, None where it does not say which.

    Raises
    ------
    InputError
        An output is unknown, or there are several and one is not named.
    """
    outputs = [tensor.name for tensor in metadata.outputs]
    found = []
    for output, column in columns.items():
        if output is None and len(outputs) > 1:
            raise InputError(f"the target {column!r} does not say of which output; give {outputs[0]}={column}")
        if output is not None and output not in outputs:
            raise InputError(f"there is no output {output!r}; the outputs are {outputs}")
        found.append(TruthColumn(output or outputs[0], column, ahead))
    return found
