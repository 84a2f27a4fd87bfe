"""keepdrop predict: every row of a file."""

from __future__ import annotations

import dataclasses
import json
import re
import time
from pathlib import Path
from typing import Any, Optional

import click

from keepdrop.errors import InputError
from keepdrop.files import outputs, targets
from keepdrop.files.following import Following
from keepdrop.files.job import OF_SAMPLES, Averages, Job, Question, Span
from keepdrop.files.opening import is_stream, standard_input
from keepdrop.files.several import expanded
from keepdrop.files.sources import SUFFIXES, Choice, Source, opened
from keepdrop.files.truths import declared_readings, readings_of, targets_of
from keepdrop.model import Model, load
from keepdrop.run.device import available_threads
from keepdrop.table import Table
from keepdrop.until.limits import MAX_SAMPLES

from . import answering
from .interrupts import ending_by_signal
from .labels import ahead_option, target_option
from .options import (
    INT64,
    Share,
    artifact_argument,
    choice_options,
    declared_heads,
    head_option,
    interval_option,
    json_option,
    samples_option,
    table_as_asked,
    threads_option,
)

PIPE = Path("-")


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
@artifact_argument
@click.argument("data", metavar="INPUT...", nargs=-1, required=True, type=click.Path(path_type=Path, allow_dash=True))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, allow_dash=True),
    help="The file to write, or - for JSON lines on standard output (the default where INPUT is -).",
)
@samples_option
@click.option("--seed", type=INT64, default=0, show_default=True, help="Any int64; the same seed, the same samples.")
@interval_option
@click.option(
    "--above",
    type=float,
    multiple=True,
    metavar="THRESHOLD",
    help="Write the probability that an observation is above it, in the output's unit; of a calibrated ARTIFACT.",
)
@click.option("--below", type=float, multiple=True, metavar="THRESHOLD", help="The same, that it is below.")
@click.option(
    "--adapt",
    is_flag=True,
    help="Of a calibrated ARTIFACT: each row's interval learns from the truths known by its last line; see --target.",
)
@target_option
@ahead_option
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
@choice_options(
    id="The column of the row ids, integers or text; with --window, of the series. Of .npz the array.",
    order="The column of times by which lines are sorted first, within their series where there is --id.",
)
@click.option("--last", is_flag=True, help="Only the newest window of each series: the forecast from now on.")
@click.option("--wide", is_flag=True, help="A horizon's steps as columns instead of lines.")
@click.option("--units/--no-units", default=True, show_default=True, help="Write units into headings.")
@click.option("--first-row", type=INT64, help="The row id of the first row of INPUT. [default: 0]")
@click.option("--rows", "span", metavar="A:B", callback=_span, help="Only rows A to B - 1, counted from 0.")
@click.option("--part", metavar="I/N", callback=_part, help="Only part I of N equal ones, for N processes or machines.")
@click.option("--resume", is_flag=True, help="Keep finished pieces in OUTPUT.work, and go on from there if it exists.")
@click.option("--batch", type=click.IntRange(1), help="Rows of a piece. [default: about two seconds' work]")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw the answers into a .png, .svg or .pdf file too.")
@click.option(
    "--theme", type=click.Choice(["light", "dark"]), default="light", show_default=True, help="The colours of --plot."
)
@threads_option
@click.option("--memory", metavar="SIZE", help="What a piece may take, such as 500MB. [default: half of what is free]")
@json_option
def predict(
    artifact: Path,
    data: tuple[Path, ...],
    output: Optional[Path],
    choice: Choice,
    last: bool,
    wide: bool,
    units: bool,
    adapt: bool,
    target: dict[Optional[str], str],
    ahead: Optional[tuple[int, ...]],
    span: Optional[Span],
    part: Optional[tuple[int, int]],
    resume: bool,
    batch: Optional[int],
    plot: Optional[Path],
    theme: str,
    threads: Optional[int],
    memory: Optional[str],
    as_json: bool,
    **asked: Any,
) -> None:
    """Predict every row of INPUT with the samples of ARTIFACT.

    INPUT is .csv (with a header), .jsonl, .parquet, .npy or .npz (arrays by input name), several such files or a folder
    of them, or - for CSV or JSON lines from a pipe; .csv.gz and .csv.zst are unpacked. OUTPUT is .csv, .jsonl,
    .parquet or .npz, and holds of every row its id, mean, standard deviation and the intervals asked for. Files may be
    larger than memory. A row's id is its position in INPUT: however a file is split, the numbers are the same.

    Where ARTIFACT was exported with --table, the lines of INPUT are raw readings, columns in any order and more than
    needed: windows, calendar and units are as the table says, and an answer bears the time it is for.

    \b
    Example:
      keepdrop predict forecaster.onnx sensors.csv -o forecast.csv --interval 0.9 --plot forecast.png
      keepdrop predict forecaster.onnx windows.npy -o out.npz --samples 200 --seed 7 --interval 0.9
      keepdrop predict forecaster.onnx readings.csv --window 48 -o out.csv --interval 0.9 --plot out.png
      keepdrop predict calibrated.onnx readings.csv --window 48 -o out.csv --interval 0.9 --above 80
      keepdrop predict calibrated.onnx year.csv -o forecast.csv --interval 0.9 --adapt
      keepdrop predict forecaster.onnx sensors/ --window 48 --id station --order time -o out.parquet
      keepdrop predict forecaster.onnx large.parquet --window 48 -o part2.parquet --part 2/8 --resume
      head -n 100 readings.csv | keepdrop predict forecaster.onnx - --window 48
    """
    _refuse_contradictions(choice.id, span=span, part=part, **asked)
    if choice.order is not None and choice.time not in (None, choice.order):
        raise click.UsageError("--order names the column of times, as --time does; give one of them.")
    once = PIPE in data or (len(data) == 1 and is_stream(data[0]))
    output = _target(
        data,
        output,
        once,
        asked["keep_samples"],
        rereads=bool(part or resume or choice.order),
        files=bool(resume or plot),
    )
    if adapt and (once or resume or part or span):
        raise click.UsageError("--adapt follows whole files from their first line; leave --rows, --part, --resume out.")
    if (target or ahead) and not adapt:
        raise click.UsageError("--target and --ahead say what --adapt learns from; give it too.")
    if resume and asked["deadline_ms"] is not None:
        raise InputError("what --deadline-ms gives depends on timing, so no run can go on with it; leave --resume out")
    plots = _plots(plot) if plot else None
    files = [] if PIPE in data else expanded(data, SUFFIXES)
    _refuse_overwriting(artifact, files, output, plot, resume)
    start = time.perf_counter()
    model = load(artifact, threads=threads, memory=memory)
    question = _question(model.metadata.default_samples, **asked)
    choice = _with_table(choice, model.table, last, wide)
    averages, reached = Averages(), answering.Reached(printed=output == PIPE, kept=resume)
    with ending_by_signal(reached.text), opened(files or standard_input(), model.metadata, choice) as source:
        following = _following(model, files, choice, target, ahead) if adapt else None
        job = Job(model, source, question, _chosen(source, span, part), batch, following)
        laid_out = answering.layout(source, job, wide, units) is not None
        if laid_out and asked["keep_samples"] and output.suffix.lower() != ".npz":
            raise InputError("columns of a table hold no samples; write .npz with --keep-samples")
        if not once:
            answering.check(job)
            answering.tell_skipped(choice.skipped)
        answering.tell_long(job)
        if output == PIPE:
            answering.to_standard_output(job, averages, reached, lambda: answering.layout(source, job, wide, units))
        else:
            description = None
            if resume:
                count = available_threads() if threads is None else threads
                description = answering.described(model.sha256, files, job, {**choice.described(), "threads=": count})
            with answering.work(output, description) as finished:
                answering.into(finished, job, question, reached)
                layout = answering.layout(source, job, wide, units)
                outputs.write(output, finished, output.with_name(f".{output.name}.tmp") if resume else None, layout)
                for fields in finished.pieces():
                    averages.add(fields)
                if plots and plot:
                    title = f"{artifact.name} on {source.name}: {finished.rows:,} rows x "
                    title += answering.samples(question, averages)
                    observed = [name for name, words in job.basis().items() if not words.startswith(OF_SAMPLES)]
                    over_time = None
                    if layout is not None and layout.headed.has_time:
                        readings = getattr(source, "recent", {})
                        over_time = plots.OverTime(layout.headed, readings, layout.zoned)
                    plots.draw(plot, finished, question.levels, title, job.heads, observed, over_time, theme)
            if resume:
                answering.work_file(output).unlink()
    if once:
        answering.tell_skipped(choice.skipped)
    report = {
        "file": str(artifact),
        "input": str(data[0]) if len(data) == 1 else [str(path) for path in data],
        "output": str(output),
        "rows": reached.rows,
        "samples": question.samples,
        **({"mean_samples": averages.samples} if question.adapts else {}),
        **({"unanswered": averages.unanswered} if averages.unanswered is not None else {}),
        **({"skipped_lines": choice.skipped.count} if choice.skipped else {}),
        "seed": question.seed,
        **({"columns": source.features} if source.features else {}),
        **({"read_with": source.manner} if source.manner else {}),
        "seconds": round(time.perf_counter() - start, 6),
        **({"intervals": job.basis()} if question.levels else {}),
        "outputs": averages.by_output(),
        **({"plot": str(plot)} if plot else {}),
    }
    lines = [
        f"{reached.rows} rows x {answering.samples(question, averages)}, seed {question.seed}: "
        f"{report['seconds']:.3f} s",
        *([f"columns: {', '.join(source.features)}"] if source.features else []),
        *([f"read with {source.manner}"] if source.manner else []),
        *answering.summary(averages),
        *(answering.intervals(job) if question.levels else []),
        *([] if output == PIPE else [f"wrote {output}"]),
        *([f"drew {plot}"] if plot else []),
    ]
    click.echo(json.dumps(report) if as_json else "\n".join(lines), err=output == PIPE)


def _with_table(choice: Choice, known: Optional[Table], last: bool, wide: bool) -> Choice:
    """What is meant, with the artifact's table unless columns or a window say otherwise."""
    table = None
    if not (choice.columns or choice.window):
        table = table_as_asked(known, choice.id, choice.time or choice.order, choice.time_format, choice.missing)
    if table is None and (last or wide):
        raise InputError("--last and --wide are for artifacts that say what columns mean (keepdrop export --table)")
    choice = dataclasses.replace(choice, table=table, last=last)
    if table is None or choice.order is None:
        return choice
    return dataclasses.replace(choice, id=table.id, time_format=table.time.format if table.time else None)


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


def _target(
    data: tuple[Path, ...], output: Optional[Path], once: bool, keeps: bool, rereads: bool, files: bool
) -> Path:
    """Where the answers go; refuses what a pipe cannot do, and a file that cannot be written."""
    if PIPE in data and len(data) > 1:
        raise click.UsageError("- is standard input; give it alone, or files.")
    if output is None:
        if PIPE not in data:
            raise click.UsageError("Missing option '-o' / '--output'.")
        output = PIPE
    if once and rereads:
        raise InputError("a pipe can be read but once, and --part, --resume and --order need more; give a file")
    if output == PIPE and files:
        raise InputError("--resume and --plot need the answers in a file; give its name with -o")
    if output != PIPE:
        outputs.check_target(output, keeps)
    return output


def _refuse_overwriting(artifact: Path, data: list[Path], output: Path, plot: Optional[Path], resume: bool) -> None:
    read = {"the artifact": artifact, **targets.inputs(data or [targets.STANDARD_INPUT])}
    written = {"the picture": plot}
    if output != PIPE:
        written = {"the output": output, "the picture": plot}
        if resume:
            written["the file of finished pieces"] = answering.work_file(output)
    targets.refuse_overwriting(written, read)


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


def _following(
    model: Model, files: list[Path], choice: Choice, target: dict[Optional[str], str], ahead: Optional[tuple[int, ...]]
) -> Following:
    """What learns from the truths in the files: of the column that is named, or of the table's own target."""
    if model.calibration is None:
        raise InputError(
            "--adapt goes on from a calibration, and this artifact has none; make one with `keepdrop calibrate`"
        )
    if choice.table is not None and not target:
        known = [name for name in choice.table.outputs if model.calibration.of(name)]
        if len(known) != 1:
            raise InputError(f"--adapt follows one output, and those that are calibrated are {known}")
        readings = declared_readings(files, model.metadata, choice, known[0])
        return Following(model.calibration, known[0], readings, choice.table.outputs[known[0]].ahead)
    if not target or ahead is None:
        raise click.UsageError("--adapt learns from --target COLUMN, whose truths are known --ahead N lines later.")
    wanted = targets_of(target, ahead, model.metadata)
    if len(wanted) > 1:
        raise InputError("--adapt follows one output; give one --target")
    readings = readings_of(files, dataclasses.replace(choice, table=None), wanted[0].column)
    return Following(model.calibration, wanted[0].output, readings, wanted[0].ahead)


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
    if rows == 0 and source.features:
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
