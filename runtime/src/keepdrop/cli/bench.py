"""keepdrop bench: what samples cost on this device, and how many a wanted precision takes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any, Optional

import click

from keepdrop.artifact.metadata import Metadata
from keepdrop.errors import InputError
from keepdrop.files.rows import Rows, grouped
from keepdrop.files.sources import Choice, opened
from keepdrop.model import load
from keepdrop.run.device import available_threads

from .measure import Timing, expected_milliseconds, random_inputs, samples_for, spread, standard_error, timing
from .options import artifact_argument, columns_option, json_option, threads_option, window_option

SAMPLES = (1, 10, 30, 100, 300, 1000)
# Rows that the spread is taken over.
ROWS_OF_SPREAD = 16


@click.command()
@artifact_argument
@click.option(
    "--precision",
    type=click.FloatRange(0, min_open=True),
    help="The standard error wanted of every mean, in the output's units.",
)
@click.option("--data", type=click.Path(path_type=Path), help="Real inputs, as for predict. [default: random ones]")
@columns_option
@window_option
@click.option("--rows", type=click.IntRange(1), default=1, show_default=True, help="Rows of a timed call.")
@click.option("--length", type=click.IntRange(1), default=32, show_default=True, help="Of random inputs' free axes.")
@click.option("--samples", "counts", type=click.IntRange(1), multiple=True, help="Sample numbers to time; repeatable.")
@threads_option
@json_option
def bench(
    artifact: Path,
    precision: Optional[float],
    data: Optional[Path],
    columns: Optional[tuple[str, ...]],
    window: Optional[int],
    rows: int,
    length: int,
    counts: tuple[int, ...],
    threads: Optional[int],
    as_json: bool,
) -> None:
    """Time ARTIFACT on this device, and say how many samples a precision takes.

    A table of milliseconds a call and standard error of the mean against the number of samples. The standard error is
    in the output's units, for the row and element whose samples spread most; four times the samples halve it. The
    spread depends on the inputs: give real ones with --data before you rely on a number.

    \b
    Example:
      keepdrop bench forecaster.onnx --data windows.npy --precision 0.02
    """
    if data is None and (columns or window):
        raise click.UsageError("--columns and --window choose from a table; give it with --data.")
    model = load(artifact, threads=threads, by_output=True)
    choice = Choice(columns, None, window)
    x = _inputs(model.metadata, data, choice, max(rows, ROWS_OF_SPREAD), length)
    spreads = spread(model, _first(x, ROWS_OF_SPREAD))
    timings = [timing(model, _first(x, rows), samples) for samples in sorted(set(counts or SAMPLES))]
    report = {
        "file": str(artifact),
        "inputs": "random" if data is None else str(data),
        "rows": len(_first(x, rows)),
        "threads": available_threads() if threads is None else threads,
        "spread": spreads,
        "timings": [
            {
                **dataclasses.asdict(one),
                "standard_error": {name: standard_error(std, one.samples) for name, std in spreads.items()},
            }
            for one in timings
        ],
        "recommended": None if precision is None else _recommended(spreads, timings, precision),
    }
    click.echo(json.dumps(report) if as_json else "\n".join(_lines(report)))


def _inputs(metadata: Metadata, data: Optional[Path], choice: Choice, rows: int, length: int) -> Rows:
    if data is None:
        return Rows(None, random_inputs(metadata, rows, length), {})
    with opened(data, metadata, choice) as source:
        first = next(grouped(source.read(0, rows, rows), rows), None)
    if first is None:
        raise InputError(f"{data} has no row; give at least one")
    return first


def _first(x: Rows, count: int) -> Any:
    return x.cut(slice(0, count)).inputs


def _recommended(spreads: dict[str, float], timings: list[Timing], precision: float) -> dict[str, Any]:
    """The samples that give every output that standard error, and about how long a call with them takes."""
    samples = max(samples_for(std, precision) for std in spreads.values())
    return {
        "precision": precision,
        "samples": samples,
        "milliseconds": round(expected_milliseconds(timings, samples), 3),
    }


def _lines(report: dict[str, Any]) -> list[str]:
    rows, threads = report["rows"], report["threads"]
    names = list(report["spread"])
    head = ["samples", "ms a call", "quartiles", *(f"standard error of {name}" for name in names)]
    table = [
        [
            f"{one['samples']:,}",
            _digits(one["milliseconds"]),
            f"{_digits(one['low'])} - {_digits(one['high'])}",
            *(f"{one['standard_error'][name]:.3g}" for name in names),
        ]
        for one in report["timings"]
    ]
    widths = [max(len(cell) for cell in column) for column in zip(head, *table)]
    inputs = "random inputs" if report["inputs"] == "random" else f"inputs of {report['inputs']}"
    return [
        f"{report['file']}: calls of {rows} row{'s' * (rows > 1)}, at most {threads} thread{'s' * (threads > 1)}, "
        f"{inputs}",
        "",
        *("  ".join(cell.rjust(width) for cell, width in zip(line, widths)) for line in [head, *table]),
        "",
        "standard deviation of one sample, at its largest: "
        + ", ".join(f"{name} {std:.4g}" for name, std in report["spread"].items()),
        *_recommendation(report["recommended"]),
    ]


def _recommendation(recommended: Optional[dict[str, Any]]) -> list[str]:
    if recommended is None:
        return []
    return [
        f"for a standard error of {recommended['precision']:g}: {recommended['samples']:,} samples, "
        f"about {_digits(recommended['milliseconds'])} ms a call"
    ]


def _digits(milliseconds: float) -> str:
    return f"{milliseconds:,.{2 if milliseconds < 10 else 1 if milliseconds < 100 else 0}f}"
