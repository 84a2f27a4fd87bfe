"""keepdrop calibrate: intervals that hold, from labelled rows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import click
import numpy as np

from keepdrop.errors import InputError
from keepdrop.files import targets as files
from keepdrop.files.several import expanded
from keepdrop.files.sources import SUFFIXES
from keepdrop.files.truths import LabelledRows
from keepdrop.labelled import report as reports
from keepdrop.labelled.calibrating import check_untrained, measured
from keepdrop.labelled.evaluating import Evaluation, evaluated
from keepdrop.labelled.rows import SAMPLES, Labelled, labelled
from keepdrop.labelled.tables import described
from keepdrop.model import Model, load
from keepdrop.run.stored import refuse_other_calibration

from .labels import labels_options
from .options import INT64, Share, artifact_argument, json_option, threads_option
from .progress import bar

# What the report's coverage is measured on, and the rest calibrates: the last quarter of the rows.
HELD_OUT = 0.25


@click.command()
@artifact_argument
@labels_options
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The calibrated artifact.")
@click.option("--remove", is_flag=True, help="Take the calibration out instead.")
@click.option("--trained-until", metavar="TIME", help="The last time of the training: rows up to it are refused.")
@click.option("--level", type=Share(), default=0.9, show_default=True, help="The largest level you will ask for.")
@click.option("--separately", is_flag=True, help="An output's elements are different targets, not steps of a horizon.")
@click.option("--samples", type=click.IntRange(2), help=f"Samples of every row. [default: {SAMPLES}, or more]")
@click.option("--seed", type=INT64, default=0, show_default=True, help="Any int64.")
@click.option("--report", type=click.Path(path_type=Path), help="Write an .html file with pictures, too.")
@threads_option
@click.option("--memory", metavar="SIZE", help="What a piece may take, such as 500MB. [default: half of what is free]")
@json_option
def calibrate(
    artifact: Path,
    data: tuple[Path, ...],
    rows_of: Callable[[Model[Any, Any]], LabelledRows],
    targets: Optional[Path],
    output: Path,
    remove: bool,
    trained_until: Optional[str],
    level: float,
    separately: bool,
    samples: Optional[int],
    seed: int,
    report: Optional[Path],
    threads: Optional[int],
    memory: Optional[str],
    as_json: bool,
) -> None:
    """Measure on LABELLED rows what the samples of ARTIFACT are worth, and keep it in a copy.

    The samples say how much the model varies; a calibrated artifact also says where an observation will fall:
    `keepdrop predict --interval 0.9` then gives intervals that hold 90 % of them. The rows must be none of the
    training, best those that came after it, in the order of time: some hundreds, 19 at the very least for 90 %.

    LABELLED is what `keepdrop predict` reads. What was observed is a column of the same lines, so many lines after a
    row's last one, or an array. An artifact that was exported with a table knows the column and the steps ahead.

    \b
    Example:
      keepdrop calibrate forecaster.onnx spring.csv -o calibrated.onnx --report report.html
      keepdrop calibrate forecaster.onnx spring.csv --window 48 --target temp --ahead 6 --time date -o calibrated.onnx
      keepdrop calibrate classifier.onnx digits.npy --targets labels.npy -o calibrated.onnx --report report.html
      keepdrop calibrate calibrated.onnx --remove -o plain.onnx
    """
    written = {"the calibrated artifact": output, "the report": report}
    files.refuse_overwriting(
        written, {"the artifact": artifact, "the file of targets": targets, **files.inputs(expanded(data, SUFFIXES))}
    )
    files.check(output, (".onnx",))
    if report:
        reports.check_target(report)
    model = load(artifact, threads=threads, memory=memory, by_output=True)
    if remove:
        _write(output, _plain(model, artifact, data))
        click.echo(json.dumps({"file": str(output), "calibration": None}) if as_json else f"wrote {output}")
        return
    refuse_other_calibration(str(artifact), model.metadata, None)  # before rows are read and sampled
    model = model.with_calibration(None)
    found = rows_of(model)
    given = labelled(model, found.inputs, found.targets, found.rows, found.times, found.series)
    check_untrained(found.first_times, trained_until)
    options: dict[str, Any] = {
        "samples": max(SAMPLES, model.metadata.default_samples) if samples is None else samples,
        "seed": seed,
        "level": level,
        "pool": not separately,
    }
    shown = bar(len(given), options["samples"])
    try:
        done = shown.done if shown else None
        record = measured(model, given, progress=done, source=data[0].name, **options)
    finally:
        if shown:
            shown.clear()
    if report:
        _report(report, model, given, options, artifact, data, level)
    _write(output, model.with_calibration(record).to_bytes())
    warnings = [*found.notes, *record.warnings()]
    if as_json:
        told = {"calibration": dataclasses.asdict(record), "warnings": warnings}
        click.echo(json.dumps({"file": str(output), **told, **({"report": str(report)} if report else {})}))
        return
    click.echo("\n".join([*described(record), *([f"wrote {report}"] if report else []), f"wrote {output}"]))
    for text in warnings:
        click.echo(f"keepdrop: {text}", err=True)


def _plain(model: Model[Any, Any], artifact: Path, data: tuple[Path, ...]) -> bytes:
    if data:
        raise click.UsageError("--remove takes no rows; leave LABELLED out.")
    if model.calibration is None:
        raise InputError(f"{artifact} is not calibrated; there is nothing to remove")
    return model.with_calibration(None).to_bytes()


def _write(target: Path, content: bytes) -> None:
    with files.replacing(target) as file:
        file.write(content)


def _report(
    target: Path,
    model: Model[Any, Any],
    of: Labelled,
    options: dict[str, Any],
    artifact: Path,
    data: tuple[Path, ...],
    level: float,
) -> None:
    """What the calibration is worth: that of the first three quarters of the rows, judged on the last."""
    cut = int(len(of) * (1 - HELD_OUT))
    early, late = of.part(np.sort(of.order[:cut])), of.part(np.sort(of.order[cut:]))
    record = measured(model, early, **options)
    found: Evaluation = evaluated(model.with_calibration(record), late, options["samples"], options["seed"], level)
    words = [
        f"{artifact.name} calibrated on the first {len(early):,} rows of {data[0].name} and judged on the last "
        f"{len(late):,}, which it did not see. The calibration that was written rests on all {len(of):,} rows.",
        *record.warnings(),
    ]
    reports.write(target, found, f"Calibration of {artifact.name}", words)
