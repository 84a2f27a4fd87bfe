"""Answering: a job's rows, checked first, then answered on standard output or into a file, and reported."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional

import click

from keepdrop import __version__
from keepdrop.files import outputs
from keepdrop.files.headed import Headed
from keepdrop.files.job import OF_SAMPLES, Averages, Job, Question, identity
from keepdrop.files.skipped import Skipped
from keepdrop.files.sources import Source
from keepdrop.files.work import Work, kept, temporary
from keepdrop.run.session import ONNXRUNTIME_VERSION

from .progress import bar

# Work that will take longer than this, in seconds, is said to before it begins.
LONG = 3600.0
YEAR, DAY = 365.25 * 86400, 86400


@dataclasses.dataclass
class Reached:
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


def described(artifact: str, data: Sequence[Path], job: Job, options: dict[str, Any]) -> dict[str, Any]:
    """All that the bytes of the answers depend on; `artifact` is its digest."""
    return {
        "artifact": artifact,
        "input": identity(data[0]) if len(data) == 1 else [f"{path.name}: {identity(path)}" for path in data],
        **job.described(),
        **options,
        "keepdrop": __version__,
        "onnxruntime": ONNXRUNTIME_VERSION,
        "machine": platform.machine(),
    }


def check(job: Job) -> None:
    """Read every row once, before the first sample is drawn."""
    shown = bar(job.rows, 1, verb="checking ")
    with contextlib.ExitStack() as at_end:
        if shown:
            at_end.callback(shown.clear)
        job.check(shown.done if shown else None)


def tell_skipped(skipped: Optional[Skipped]) -> None:
    """Name the lines that are passed over, which are counted no more."""
    if skipped is None:
        return
    skipped.end()
    for text in skipped.named:
        click.echo(f"keepdrop: skipped: {text}", err=True)
    if skipped.count:
        click.echo(f"keepdrop: {skipped.summary()}", err=True)


def tell_long(job: Job) -> None:
    """Say how long it will take, where that is more than an hour."""
    seconds = job.seconds
    if seconds is not None and seconds > LONG:
        click.echo(
            f"keepdrop: this will take about {_long(seconds)} of one thread, at the speed that was measured at export; "
            "Ctrl-C ends it, and fewer --samples are sooner done",
            err=True,
        )


def layout(source: Source, job: Job, wide: bool, units: bool) -> Optional[outputs.Layout]:
    """How answers are laid out where the source's columns are declared; known in full once its lines were read."""
    table = getattr(source, "table", None)
    if table is None:
        return None
    return outputs.Layout(Headed(table, job.heads, wide), getattr(source, "zoned", False), units)


def to_standard_output(
    job: Job, averages: Averages, reached: Reached, laid_out: Callable[[], Optional[outputs.Layout]]
) -> None:
    """Answer in JSON lines, piece by piece."""
    for fields in job.answers():
        click.echo(outputs.json_lines(fields, laid_out()), nl=False)  # which flushes
        averages.add(fields)
        reached.rows += len(next(iter(fields.values())))


def into(finished: Work, job: Job, question: Question, reached: Reached) -> None:
    """Answer into the work, from where it got to."""
    reached.rows = finished.rows
    shown = bar(job.rows, question.samples, finished.rows)
    with contextlib.ExitStack() as at_end:
        if shown:
            at_end.callback(shown.clear)
        for fields in job.answers(finished.rows, shown.done if shown else None):
            finished.append(fields)
            reached.rows = finished.rows


def work(output: Path, described: Optional[dict[str, Any]]) -> contextlib.AbstractContextManager[Work]:
    """Where finished pieces go: a file that outlives the process where the job is described."""
    if described is None:
        return temporary(output.absolute().parent)
    return kept(work_file(output), json.loads(json.dumps(described)))


def work_file(output: Path) -> Path:
    """The file that finished pieces are kept in for another run."""
    return output.with_name(f"{output.name}.work")


def samples(question: Question, averages: Averages) -> str:
    """How many samples the rows have, in words."""
    if averages.samples is None:
        return f"{question.samples} samples"
    return f"{averages.samples:.1f} samples on average, {question.samples} at most"


def summary(averages: Averages) -> list[str]:
    """A line for each output, and one for the rows whose spread is unknown or that have no answer."""
    lines = [
        f"{name}, averaged: "
        + ", ".join(f"{key} {'nan' if v is None else format(v, '.4g')}" for key, v in found.items())
        for name, found in averages.by_output().items()
    ]
    if averages.lone:
        lines.append(
            f"{averages.lone} rows got one sample in their time, so that their standard deviation is unknown; "
            "give a longer --deadline-ms"
        )
    if averages.unanswered:
        lines.append(f"{averages.unanswered} rows have no answer, and the reason why")
    return lines


def intervals(job: Job) -> list[str]:
    """What the intervals are: of the samples, or where an observation falls."""
    return [
        f"{name}: intervals are {basis}"
        + ("; where observations fall is measured by keepdrop calibrate" if basis == OF_SAMPLES else "")
        for name, basis in job.basis().items()
    ]


def _long(seconds: float) -> str:
    if seconds > YEAR:
        return f"{seconds / YEAR:,.1f} years"
    return f"{seconds / DAY:,.1f} days" if seconds > DAY else f"{seconds / 3600:,.1f} hours"
