"""keepdrop predict: every row of a file."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import re
import time
from pathlib import Path
from typing import Any, Optional

import click

from keepdrop import __version__
from keepdrop.errors import InputError
from keepdrop.files import outputs
from keepdrop.files.gaps import Missing
from keepdrop.files.job import Averages, Job, Question, Span, identity
from keepdrop.files.lines import Dialect
from keepdrop.files.opening import standard_input
from keepdrop.files.sources import Choice, Source, TableSource, opened
from keepdrop.files.work import Work, kept, temporary
from keepdrop.model import MAX_SAMPLES, load
from keepdrop.run.device import available_threads
from keepdrop.run.session import ONNXRUNTIME_VERSION

from .interrupts import ending_by_signal
from .options import (
    INT64,
    Share,
    columns_option,
    declared_heads,
    head_option,
    interval_option,
    json_option,
    reading_options,
    samples_option,
    threads_option,
    window_option,
)
from .progress import bar

PIPE = Path("-")


@dataclasses.dataclass
class _Reached:
    """How many rows are answered, and where they are."""

    printed: bool
    kept: bool
    rows: int = 0

    def text(self) -> str:
        """What an interrupt leaves."""
        if self.printed:
            return f"{self.rows} rows were answered"
        if self.kept:
            return f"{self.rows} finished rows are kept, and the same command goes on from there"
        return "nothing was written, and nothing is kept (with --resume, finished pieces are)"


def _span(ctx: click.Context, param: click.Parameter, value: Optional[str]) -> Optional[Span]:
    """A:B as in a Python slice, counted from 0."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d*):(\d*)", value)
    if not match:
        raise click.BadParameter(f"{value!r} is not A:B, such as 0:1000, 1000: or :1000", ctx, param)
    span = Span(int(match[1] or 0), int(match[2]) if match[2] else None)
    if span.stop is not None and span.stop <= span.start:
        raise click.BadParameter(f"{value!r} has no row: the second number has to be the larger", ctx, param)
    return span


def _part(ctx: click.Context, param: click.Parameter, value: Optional[str]) -> Optional[tuple[int, int]]:
    """I/N: which part of how many."""
    if value is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", value)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise click.BadParameter(f"{value!r} is not I/N with I from 1 to N, such as 2/8", ctx, param)
    return int(match[1]), int(match[2])


@click.command()
@click.argument("artifact", type=click.Path(path_type=Path))
@click.argument("data", metavar="INPUT", type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    help="The file to write, or - for JSON lines on standard output (the default where INPUT is -).",
)
@samples_option
@click.option("--seed", type=INT64, default=0, show_default=True, help="Any int64; the same seed, the same samples.")
@interval_option
@click.option("--keep-samples", is_flag=True, help="Write every sample too.")
@click.option(
    "--standard-error",
    type=click.FloatRange(0, min_open=True),
    help="Stop a row once that of its mean is no larger, in the output's units.",
)
@click.option("--decide", type=float, metavar="THRESHOLD", help="Stop a row once its mean is surely above or below.")
@click.option("--confidence", type=Share(), default=0.99, show_default=True, help="How sure --decide has to be.")
@click.option("--max-samples", type=click.IntRange(1), help=f"Of a row that stops by itself. [default: {MAX_SAMPLES}]")
@click.option(
    "--deadline-ms",
    type=click.FloatRange(0, min_open=True),
    help="Milliseconds that a piece may take (see --batch).",
)
@head_option("as ARTIFACT says")
@columns_option
@window_option
@click.option(
    "--id",
    "id_column",
    metavar="COLUMN",
    help="The column of the row ids, integers or text; with --window, of the series. Of .npz the array.",
)
@reading_options
@click.option("--first-row", type=INT64, help="The row id of the first row of INPUT. [default: 0]")
@click.option("--rows", "span", metavar="A:B", callback=_span, help="Only rows A to B - 1, counted from 0.")
@click.option("--part", metavar="I/N", callback=_part, help="Only part I of N equal ones, for N processes or machines.")
@click.option("--resume", is_flag=True, help="Keep finished pieces in OUTPUT.work, and go on from there if it exists.")
@click.option("--batch", type=click.IntRange(1), help="Rows of a piece. [default: about two seconds' work]")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the answers into a .png, .svg or .pdf file too.")
@threads_option
@click.option("--memory", metavar="SIZE", help="What a piece may take, such as 500MB. [default: half of what is free]")
@json_option
def predict(
    artifact: Path,
    data: Path,
    output: Optional[Path],
    columns: Optional[tuple[str, ...]],
    window: Optional[int],
    id_column: Optional[str],
    dialect: Dialect,
    time_column: Optional[str],
    time_format: Optional[str],
    missing: Missing,
    on_error: str,
    span: Optional[Span],
    part: Optional[tuple[int, int]],
    resume: bool,
    batch: Optional[int],
    plot: Optional[Path],
    threads: Optional[int],
    memory: Optional[str],
    as_json: bool,
    **asked: Any,
) -> None:
    """Predict every row of INPUT with the samples of ARTIFACT.

    INPUT is .npy, .npz (arrays by input name), .csv (with a header), .parquet, .jsonl, or - for CSV or JSON lines from
    a pipe. OUTPUT is .npz, .npy, .csv, .parquet, .json or .jsonl, and holds of every row its id, mean, standard
    deviation and the intervals asked for. Files may be larger than memory. A row's id is its position in INPUT:
    however a file is split, the numbers are the same.

    \b
    Example:
      keepdrop predict forecaster.onnx windows.npy -o out.npz --samples 200 --seed 7 --interval 0.9
      keepdrop predict forecaster.onnx readings.csv --window 48 -o out.csv --interval 0.9 --plot out.png
      keepdrop predict forecaster.onnx large.parquet --window 48 -o part2.parquet --part 2/8 --resume
      head -n 100 readings.csv | keepdrop predict forecaster.onnx - --window 48
    """
    _refuse_contradictions(id_column=id_column, span=span, part=part, **asked)
    output = _target(
        data, output, keeps=asked["keep_samples"], rereads=bool(part or resume), files=bool(resume or plot)
    )
    if resume and asked["deadline_ms"] is not None:
        raise InputError("what --deadline-ms gives depends on timing, so no run can go on with it; leave --resume out")
    plots = _plots(plot) if plot else None
    start = time.perf_counter()
    model = load(artifact, threads=threads, memory=memory)
    question = _question(model.metadata.default_samples, **asked)
    choice = Choice(columns, id_column, window, time_column, time_format, missing, on_error == "skip", dialect)
    averages, reached = Averages(), _Reached(printed=output == PIPE, kept=resume)
    text_or_path = standard_input() if data == PIPE else data
    with ending_by_signal(reached.text), opened(text_or_path, model.metadata, choice) as source:
        job = Job(model, source, question, _chosen(source, span, part), batch)
        if data != PIPE:
            _check(job)
        if output == PIPE:
            _print(job, averages, reached)
        else:
            described = None
            if resume:
                count = available_threads() if threads is None else threads
                described = _described(model.sha256, data, job, {**choice.described(), "threads=": count})
            with _work(output, described) as finished:
                _compute(job, question, finished, reached)
                outputs.write(output, _beside(output, resume), finished)
                for fields in finished.pieces():
                    averages.add(fields)
                if plots and plot:
                    title = f"{artifact.name} on {data.name}: {finished.rows:,} rows x {_samples(question, averages)}"
                    plots.draw(plot, finished, question.levels, title, job.heads)
            if resume:
                _work_file(output).unlink()
    report = {
        "file": str(artifact),
        "input": str(data),
        "output": str(output),
        "rows": reached.rows,
        "samples": question.samples,
        **({"mean_samples": averages.samples} if question.adapts else {}),
        "seed": question.seed,
        **({"columns": source.features} if source.features else {}),
        **({"read_with": source.manner} if source.manner else {}),
        "seconds": round(time.perf_counter() - start, 6),
        "outputs": averages.by_output(),
        **({"plot": str(plot)} if plot else {}),
    }
    lines = [
        f"{reached.rows} rows x {_samples(question, averages)}, seed {question.seed}: {report['seconds']:.3f} s",
        *([f"columns: {', '.join(source.features)}"] if source.features else []),
        *([f"read with {source.manner}"] if source.manner else []),
        *(f"{name}, averaged: {_listed(found)}" for name, found in averages.by_output().items()),
        *([] if output == PIPE else [f"wrote {output}"]),
        *([f"drew {plot}"] if plot else []),
    ]
    click.echo(json.dumps(report) if as_json else "\n".join(lines), err=output == PIPE)


def _refuse_contradictions(
    id_column: Optional[str], span: Optional[Span], part: Optional[tuple[int, int]], **asked: Any
) -> None:
    """UsageError for options that say the same thing twice."""
    adapts = any(asked[name] is not None for name in ("standard_error", "decide", "deadline_ms"))
    if id_column is not None and asked["first_row"] is not None:
        raise click.UsageError("--id and --first-row both say what the row ids are; give one of them.")
    if span and part:
        raise click.UsageError("--rows and --part both choose rows; give one of them.")
    if asked["standard_error"] is not None and asked["decide"] is not None:
        raise click.UsageError("--standard-error and --decide both say when a row stops; give one of them.")
    if adapts and (asked["samples"] is not None or asked["keep_samples"]):
        raise click.UsageError(
            "--samples and --keep-samples are of a fixed number, which --standard-error, --decide and --deadline-ms "
            "find out; bound it with --max-samples."
        )
    if asked["max_samples"] is not None and not adapts:
        raise click.UsageError("--max-samples bounds --standard-error, --decide or --deadline-ms; give one of them.")


def _target(data: Path, output: Optional[Path], keeps: bool, rereads: bool, files: bool) -> Path:
    """Where the answers go; refuses what a pipe cannot do, and a file that cannot be written."""
    if output is None:
        if data != PIPE:
            raise click.UsageError("Missing option '-o' / '--output'.")
        output = PIPE
    if data == PIPE and rereads:
        raise InputError("a pipe can be read but once, and --part and --resume need more; give a file")
    if output == PIPE and files:
        raise InputError("--resume and --plot need the answers in a file; give its name with -o")
    if output != PIPE:
        outputs.check_target(output, keeps)
    return output


def _question(
    default_samples: int,
    samples: Optional[int],
    max_samples: Optional[int],
    first_row: Optional[int],
    heads: tuple[str, ...],
    **asked: Any,
) -> Question:
    question = Question(
        samples=default_samples if samples is None else samples,
        first_row=first_row or 0,
        heads=declared_heads(heads),
        **asked,
    )
    if not question.adapts:
        return question
    return dataclasses.replace(question, samples=MAX_SAMPLES if max_samples is None else max_samples)


def _described(artifact: str, data: Path, job: Job, options: dict[str, Any]) -> dict[str, Any]:
    """All that the bytes of the answers depend on; `artifact` is its digest."""
    return {
        "artifact": artifact,
        "input": identity(data),
        **job.described(),
        **options,
        "keepdrop": __version__,
        "onnxruntime": ONNXRUNTIME_VERSION,
        "machine": platform.machine(),
    }


def _plots(target: Path) -> Any:
    from keepdrop.files import plot

    plot.check_target(target)
    return plot


def _chosen(source: Source, span: Optional[Span], part: Optional[tuple[int, int]]) -> Span:
    """The rows to answer: their end is known but for a pipe."""
    rows = source.count()
    span = span or Span(0, None)
    if rows is None:
        return span
    if rows == 0 and isinstance(source, TableSource):
        raise InputError(source.no_rows())
    if part:
        which, parts = part
        span = Span(rows * (which - 1) // parts, rows * which // parts)
        chosen = f"part {which} of {parts}"
    else:
        chosen = f"--rows {span.start}:{'' if span.stop is None else span.stop}"
        span = Span(span.start, rows if span.stop is None else min(span.stop, rows))
    if rows and span.start >= (span.stop or 0):
        raise InputError(f"{source.name} has {rows} rows, and {chosen} is empty; choose others")
    return span


def _check(job: Job) -> None:
    shown = bar(job.rows, 1, verb="checking ")
    with contextlib.ExitStack() as at_end:
        if shown:
            at_end.callback(shown.clear)
        job.check(shown.done if shown else None)


def _print(job: Job, averages: Averages, reached: _Reached) -> None:
    """Answer on standard output, piece by piece."""
    for fields in job.answers():
        click.echo(outputs.json_lines(fields), nl=False)  # which flushes
        averages.add(fields)
        reached.rows += len(next(iter(fields.values())))


def _compute(job: Job, question: Question, finished: Work, reached: _Reached) -> None:
    """Answer into the work, from where it got to."""
    reached.rows = finished.rows
    shown = bar(job.rows, question.samples, finished.rows)
    with contextlib.ExitStack() as at_end:
        if shown:
            at_end.callback(shown.clear)
        for fields in job.answers(finished.rows, shown.done if shown else None):
            finished.append(fields)
            reached.rows = finished.rows


def _work(output: Path, described: Optional[dict[str, Any]]) -> contextlib.AbstractContextManager[Work]:
    if described is None:
        return temporary(output.absolute().parent)
    return kept(_work_file(output), json.loads(json.dumps(described)))


def _work_file(output: Path) -> Path:
    return output.with_name(f"{output.name}.work")


def _beside(output: Path, resume: bool) -> Path:
    """What is written before it gets the output's name; the same one each time where a kill may leave it behind."""
    return output.with_name(f".{output.name}.tmp" if resume else f".{output.name}.{os.getpid()}.tmp")


def _samples(question: Question, averages: Averages) -> str:
    if averages.samples is None:
        return f"{question.samples} samples"
    return f"{averages.samples:.1f} samples on average, {question.samples} at most"


def _listed(averages: dict[str, Optional[float]]) -> str:
    return ", ".join(f"{name} {'nan' if value is None else format(value, '.4g')}" for name, value in averages.items())
