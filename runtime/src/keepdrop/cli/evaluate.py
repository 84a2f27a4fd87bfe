"""keepdrop evaluate: how good an artifact's intervals are on labelled rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import click

from keepdrop.files import targets as files
from keepdrop.files.several import expanded
from keepdrop.files.sources import SUFFIXES
from keepdrop.files.truths import LabelledRows
from keepdrop.labelled import report as reports
from keepdrop.labelled.evaluating import Evaluation, evaluated
from keepdrop.labelled.rows import labelled
from keepdrop.model import Model, load

from .labels import labels_options
from .options import INT64, Share, artifact_argument, json_option, threads_option
from .progress import bar


@click.command()
@artifact_argument
@labels_options
@click.option("--level", type=Share(), default=0.9, show_default=True, help="The level that is judged part by part.")
@click.option("--samples", type=click.IntRange(2), help="Samples of every row. [default: as calibrated]")
@click.option("--seed", type=INT64, default=0, show_default=True, help="Any int64.")
@click.option(
    "--require", type=Share(), metavar="COVERAGE", help="Exit with code 1 where the coverage is below: a gate."
)
@click.option(
    "--report", "--plot", "report", type=click.Path(path_type=Path), help="Write an .html file with pictures."
)
@threads_option
@click.option("--memory", metavar="SIZE", help="What a piece may take, such as 500MB. [default: half of what is free]")
@json_option
def evaluate(
    artifact: Path,
    data: tuple[Path, ...],
    rows_of: Callable[[Model[Any, Any]], LabelledRows],
    targets: Optional[Path],
    level: float,
    samples: Optional[int],
    seed: int,
    require: Optional[float],
    report: Optional[Path],
    threads: Optional[int],
    memory: Optional[str],
    as_json: bool,
) -> None:
    """Judge ARTIFACT on LABELLED rows: coverage, width, interval score, CRPS and PIT; log score, Brier and ECE.

    The samples' own intervals stand beside the calibrated ones, by fifths of the spread, by time, by series and by
    step of a horizon. The error of a coverage counts rows that follow one another for less than independent ones.

    \b
    Example:
      keepdrop evaluate calibrated.onnx summer.csv --report summer.html
      keepdrop evaluate calibrated.onnx summer.csv --window 48 --target temp --ahead 6 --time date --require 0.85
    """
    files.refuse_overwriting(
        {"the report": report},
        {"the artifact": artifact, "the file of targets": targets, **files.inputs(expanded(data, SUFFIXES))},
    )
    if report:
        reports.check_target(report)
    model = load(artifact, threads=threads, memory=memory, by_output=True)
    rows = rows_of(model)
    given = labelled(model, rows.inputs, rows.targets, rows.rows, rows.times, rows.series)
    record = model.calibration
    count = samples or (record.samples if record else model.metadata.default_samples)
    shown = bar(len(given), count)
    try:
        found: Evaluation = evaluated(model, given, count, seed, level, shown.done if shown else None)
    finally:
        if shown:
            shown.clear()
    if report:
        reports.write(report, found, f"{artifact.name} on {data[0].name}", rows.notes)
    if as_json:
        click.echo(json.dumps({"file": str(artifact), **found.to_dict(), "notes": list(rows.notes)}))
    else:
        click.echo("\n".join([str(found), *([f"wrote {report}"] if report else [])]))
        for text in rows.notes:
            click.echo(f"keepdrop: {text}", err=True)
    if require is not None and found.coverage() < require:
        click.echo(
            f"keepdrop: {level:.0%} intervals hold {found.coverage():.1%} of what was observed, and --require asks for "
            f"{require:.1%}",
            err=True,
        )
        raise click.exceptions.Exit(1)
