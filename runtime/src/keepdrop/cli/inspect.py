"""keepdrop inspect: what an artifact takes, gives and keeps random."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Optional

import click
import numpy as np

from keepdrop.artifact.metadata import (
    LOGVAR,
    MEAN,
    OPSET,
    VALUE,
    Head,
    Metadata,
    OutputCheck,
    State,
    Tensor,
    Verification,
)
from keepdrop.artifact.onnx_file import read
from keepdrop.artifact.savedmodel import savedmodel_metadata
from keepdrop.calibration.record import Calibration
from keepdrop.labelled.tables import described
from keepdrop.model import load
from keepdrop.run.stored import savedmodel_table
from keepdrop.table.lines import table_lines

from .options import exported_path, json_option


@click.command()
@click.argument("file", type=click.Path(path_type=Path), callback=exported_path)
@json_option
def inspect(file: Path, as_json: bool) -> None:
    """Show what FILE takes, gives and keeps random.

    And what was verified: how far its samples were from Keras' own. FILE is an ONNX file or the directory of a
    SavedModel, which is read without TensorFlow. --json also names the operators of the graph, by which a reduced build
    of onnxruntime is planned.

    \b
    Example:
      keepdrop inspect forecaster.onnx
    """
    model = None if file.is_dir() else load(file, threads=1)
    metadata = savedmodel_metadata(file) if model is None else model.metadata
    calibration = None if model is None else model.calibration
    table = savedmodel_table(file) if model is None else model.table
    if as_json:
        told: dict[str, Any] = {} if calibration is None else {"calibration": json.loads(calibration.to_json())}
        told.update({} if table is None else {"table": json.loads(table.to_json())})
        if model is not None:
            told.update(opset=OPSET, operators=sorted(read(model._session.content()).operators))
        click.echo(json.dumps({"file": str(file), **json.loads(metadata.to_json()), **told}))
    else:
        lines = _described(metadata, calibration)
        click.echo("\n".join([str(file), *([] if table is None else table_lines(table)), *lines]))


def _described(metadata: Metadata, calibration: Optional[Calibration]) -> list[str]:
    heads = {head.output: f"  {_head(head)}" for head in metadata.heads if head.kind != VALUE}
    return [
        *(f"{'input':<18}{t.name}  {t.dtype} {_axes('input', t.shape)}{_own(metadata, t)}" for t in metadata.inputs),
        *(
            f"{'output':<18}{t.name}  {t.dtype} {_axes('output', t.shape)}{heads.get(t.name, '')}"
            for t in metadata.outputs
        ),
        f"{'draws a row':<18}{metadata.draws_per_row}",
        f"{'default samples':<18}{metadata.default_samples}",
        f"{'written by':<18}keepdrop {metadata.keepdrop_version}, Keras {metadata.keras_version}, "
        f"contract {metadata.contract}",
        f"{'source sha256':<18}{metadata.source_sha256 or 'none: exported from a model in memory'}",
        *(f"{'' if i else 'changes':<18}{change}" for i, change in enumerate(metadata.changes)),
        *_streams(metadata),
        *_verified(metadata.verified),
        *_calibrated(calibration),
        "",
        *_table(_random_parts(metadata)),
    ]


def _head(head: Head) -> str:
    other = {MEAN: "log-variance", LOGVAR: "mean"}.get(head.kind)
    return f"{head.kind}, its {other} is {head.partner}" if other else head.kind


def _own(metadata: Metadata, tensor: Tensor) -> str:
    return ", one for each sample" if tensor.name in metadata.per_sample else ""


def _axes(kind: str, shape: tuple[Optional[int], ...]) -> str:
    leading = ["batch"] if kind == "input" else ["samples", "batch"]
    return _shape((*leading, *shape[len(leading) :]))


def _shape(shape: tuple[Any, ...]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in shape) + "]"


def _streams(metadata: Metadata) -> list[str]:
    stream = metadata.stream
    if stream is None:
        return []
    carried = [*stream.states, *stream.masks]
    sizes = {each: sum(_bytes(state) for state in carried if state.per_sample == each) for each in (True, False)}
    lines = [
        f"{'streams':<18}with {len(stream.states)} states and {len(stream.masks)} masks: "
        f"{sizes[True]} bytes a row and sample, {sizes[False]} a row"
    ]
    on_sequences = dict.fromkeys(draw.layer for draw in metadata.draws if None in draw.shape)
    if on_sequences:
        lines.append(f"{'':<18}draws on sequences ({', '.join(on_sequences)}) in blocks of {stream.block} steps")
    return lines


def _bytes(state: State) -> int:
    return int(np.dtype(state.dtype).itemsize) * math.prod(state.shape)


def _verified(verification: Optional[Verification]) -> list[str]:
    if verification is None:
        return [f"{'verified':<18}no"]
    return [
        f"{'verified':<18}{verification.rows} rows x {verification.samples} samples, seed {verification.seed}, "
        f"{verification.data} inputs; tolerance {verification.atol:g} + {verification.rtol:g} relative",
        *(f"{'':<18}{line}" for output in verification.outputs for line in _compared(output)),
    ]


def _compared(output: OutputCheck) -> list[str]:
    lines = [f"{output.name}: largest difference {output.max_abs:.2g}, relative {output.max_rel:.2g}"]
    if output.from_float64:
        lines.append(
            f"  beyond the tolerance, and as near to float64 as Keras is: {output.from_float64:.2g} of a sample away, "
            f"Keras {output.keras_from_float64:.2g}"
        )
    if output.nan:
        lines.append(f"  {output.nan} numbers are NaN in both: the model overflows on the inputs that were compared")
    return lines


def _calibrated(calibration: Optional[Calibration]) -> list[str]:
    if calibration is None:
        return [f"{'calibrated':<18}no: intervals hold samples, not observations"]
    told = [*described(calibration), *(f"mind: {text}" for text in calibration.warnings())]
    return [f"{'' if i else 'calibrated':<18}{line}" for i, line in enumerate(told)]


def _random_parts(metadata: Metadata) -> list[tuple[str, ...]]:
    """One line for what a layer draws alike, with the number of its draws (an LSTM draws once a gate)."""
    counts: dict[tuple[str, ...], int] = {}
    for draw in metadata.draws:
        rate = "" if draw.rate is None else f"{draw.rate:g}"
        key = (draw.layer, draw.argument, draw.kind, rate, _shape(draw.shape))
        counts[key] = counts.get(key, 0) + 1
    header = ("layer", "argument", "kind", "rate", "shape", "draws")
    return [header, *((*key, str(count)) for key, count in counts.items())]


def _table(lines: list[tuple[str, ...]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*lines)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
