"""keepdrop stream: readings from standard input, an answer each to standard output."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, get_args

import click

from keepdrop.errors import InputError
from keepdrop.files import targets
from keepdrop.files.gaps import Missing
from keepdrop.files.lines import Dialect
from keepdrop.files.opening import standard_input
from keepdrop.files.skipped import Skipped
from keepdrop.files.targets import refuse_overwriting
from keepdrop.files.truths import TruthColumn, targets_of
from keepdrop.model import Model, load
from keepdrop.service.messages import MessageColumns, Messages, Misfit
from keepdrop.service.sensors import Sensors
from keepdrop.service.state_file import StateFile
from keepdrop.service.tabled import Gap, Tabled
from keepdrop.stream.saved_stream import OnNewArtifact
from keepdrop.stream.stream import Stream

from .interrupts import BetweenLines, ending_by_signal
from .labels import columns_by_output, steps_ahead
from .options import (
    INT64,
    artifact_path,
    dialect_options,
    interval_option,
    missing_option,
    table_as_asked,
    threads_option,
)

STOP, SKIP = "stop", "skip"


@click.command()
@click.argument("file", type=click.Path(path_type=Path), callback=artifact_path)
@click.option(
    "--id",
    "id_name",
    metavar="COLUMN",
    help="The column of row ids, integers or text; in JSON lines a key. [default there: id]",
)
@click.option(
    "--columns",
    metavar="A,B,...",
    help="The features, in the model's order. [default: every column but those of ids, times and dates]",
)
@click.option(
    "--time",
    metavar="COLUMN",
    help="A time (ISO 8601) or a number that grows: a reading that is not newer than the row's last is passed over.",
)
@click.option(
    "--time-format",
    metavar="FORMAT",
    help="How times are written: s or ms since 1970, or as in %d.%m.%Y %H:%M. [default: ISO 8601]",
)
@dialect_options
@click.option("--samples", type=click.IntRange(1), help="Samples of every row. [default: what the file says]")
@click.option("--seed", type=INT64, help="Any int64; the same seed, the same samples. [default: 0]")
@click.option(
    "--window",
    type=click.IntRange(min=1),
    metavar="N",
    help="The steps of the windows that the model was trained on, where the file takes any number.",
)
@interval_option
@click.option(
    "--truth",
    "truths",
    multiple=True,
    callback=columns_by_output,
    metavar="[OUTPUT=]COLUMN",
    help="The column of readings that holds what earlier answers forecast: intervals learn from it. Can be repeated.",
)
@click.option(
    "--ahead",
    callback=steps_ahead,
    metavar="N",
    help="How many steps ahead an answer forecasts: 0 is the reading itself, 1..24 a horizon. [default: FILE's table]",
)
@click.option("--coverage", is_flag=True, help="Tell with every truth how many of the row's last 250 were covered.")
@click.option(
    "--state", type=click.Path(path_type=Path), help="Go on from this file if it is there; save to it at exit."
)
@click.option("--save-every", type=click.IntRange(min=1), metavar="N", help="Save the state after every N answers too.")
@click.option(
    "--on-new-artifact",
    type=click.Choice(get_args(OnNewArtifact)),
    default="refuse",
    show_default=True,
    help="What becomes of a state that an artifact of other numbers saved: it is refused, kept as it is, or its rows "
    "start anew.",
)
@click.option(
    "--on-error",
    type=click.Choice([STOP, SKIP]),
    default=STOP,
    show_default=True,
    help="What a line that is no reading does: end the command, or be named on standard error and passed over.",
)
@missing_option
@threads_option
def stream(
    file: Path,
    id_name: Optional[str],
    columns: Optional[str],
    time: Optional[str],
    time_format: Optional[str],
    dialect: Dialect,
    samples: Optional[int],
    seed: Optional[int],
    window: Optional[int],
    levels: tuple[float, ...],
    truths: dict[Optional[str], str],
    ahead: Optional[tuple[int, ...]],
    coverage: bool,
    state: Optional[Path],
    save_every: Optional[int],
    on_new_artifact: OnNewArtifact,
    on_error: str,
    missing: Missing,
    threads: Optional[int],
) -> None:
    """Answer every reading as it comes.

    FILE is an artifact that was exported with --streaming, or one that takes windows: that is given the last steps of
    each row. Readings come line by line on standard input: CSV with a header, a column for each feature and, with
    --id, one for the row (sensor); or JSON lines such as {"id": 3, "x": [0.1, 0.2]}, where "x" is an object by input
    name if the model has several inputs. A row begins when its id first appears, and anew with
    {"id": 3, "reset": true}. Each reading is answered at once by a JSON line: id, step (readings of that row so far),
    warm (whether these are as many as the training windows had), and mean, std and intervals of each output.

    With a calibrated FILE the intervals are for an observation, and follow the truths that come: as a column of the
    readings, --truth temp --ahead 6, or whenever they are known as {"id": 3, "step": 17, "truth": 71.2}. The answer to
    a truth says whether it was covered.

    \b
    Example:
      tail -n +1 -F sensors.csv | keepdrop stream stream.onnx --id sensor --time time --interval 0.9 --state state.npz
    """
    if save_every and not state:
        raise click.UsageError("--save-every needs --state, the file to save to")
    kept_in = StateFile(state) if state else None
    targets.refuse_overwriting(
        {"the state": state},
        {
            "the artifact": file,
            "standard input": targets.STANDARD_INPUT,
            "standard output": targets.STANDARD_OUTPUT,
        },
    )
    names = tuple(name.strip() for name in columns.split(",")) if columns else None
    refuse_overwriting({"the state": state}, {"the artifact": file})
    with contextlib.ExitStack() as stack:
        model = load(file, threads=threads)
        truths_of = _targets(model, truths, ahead, coverage)
        if time_format is not None and time is None and (names or model.table is None or model.table.time is None):
            raise click.UsageError("--time-format is of --time, the column of times.")
        choice = _choice(model, names, id_name, time, time_format, missing, tuple(truths.values()), dialect)
        state_file = stack.enter_context(kept_in) if kept_in else None
        furthest = max((max(target.ahead) for target in truths_of), default=None)
        running = _resumed(model, state_file, on_new_artifact, furthest, samples=samples, seed=seed, window=window)
        if running is None:
            given = 0 if seed is None else seed
            running = model.stream(samples=samples, seed=given, rows=(), window=window, ahead=furthest)
        kept = _Kept(running, state_file, save_every)
        stack.enter_context(ending_by_signal(kept.what_remains))
        interrupts = stack.enter_context(BetweenLines())
        stack.enter_context(kept.at_exit())
        counts = stack.enter_context(_counted(_Counts()))
        tabled = None if choice.table is None else Tabled(choice.table, model.heads)
        sensors = Sensors(running, levels, truths_of, coverage, tabled)
        messages = Messages(running.inputs, choice, running.held_of)
        stack.enter_context(_given_up_at_end(running, sensors))
        for number, line in enumerate(interrupts.lines(standard_input()), 1):
            try:
                message = messages.read(number, line)
                if message is None:
                    continue
                if not sensors.is_new(message):
                    counts.passed_over += 1
                    continue
                with sensors.answer(message) as answer:
                    _deliver(answer)
            except Misfit:
                raise
            except InputError as error:
                if on_error == STOP:
                    raise
                if isinstance(error, Gap) and message is not None:
                    sensors.begin_after(message)
                if counts.skipped.add(str(error)):
                    click.echo(f"keepdrop: skipped: {error}", err=True)
            else:
                kept.answered()


def _choice(
    model: Model,
    columns: Optional[tuple[str, ...]],
    id_name: Optional[str],
    time: Optional[str],
    time_format: Optional[str],
    missing: Missing,
    truths: tuple[str, ...],
    dialect: Dialect,
) -> MessageColumns:
    """What the columns mean: as the options say, and else the artifact's table."""
    known = model.table if columns is None else None
    # A column that grows is no time where the table has none.
    table = table_as_asked(known, id_name, time if known and known.time else None, time_format, missing)
    if table is None:
        return MessageColumns(columns, id_name, time, time_format, truths, missing=missing, dialect=dialect)
    if table.time is None:
        return MessageColumns(None, table.id, time, None, truths, table, dialect=dialect)
    return MessageColumns(None, table.id, table.time.column, table.time.format, truths, table, dialect=dialect)


def _targets(
    model: Model, truths: dict[Optional[str], str], ahead: Optional[tuple[int, ...]], coverage: bool
) -> list[TruthColumn]:
    """The columns of truths, and how far ahead they were forecast."""
    if (truths or coverage) and model.calibration is None:
        raise InputError(
            "a truth is held against calibrated intervals, and this artifact is not calibrated; make one that is with "
            "`keepdrop calibrate`"
        )
    if ahead is not None and not truths:
        raise click.UsageError("--ahead is of --truth, the column that it counts from.")
    found = []
    for target in targets_of(truths, ahead or (), model.metadata):
        declared = model.table.outputs.get(target.output) if model.table else None
        if ahead is None and declared is None:
            raise click.UsageError(
                "--truth needs --ahead: how many steps after a reading its answer's truth comes, 0 for that very one."
            )
        found.append(target if ahead is not None or declared is None else target._replace(ahead=declared.ahead))
    return found


@contextlib.contextmanager
def _given_up_at_end(running: Stream, sensors: Sensors) -> Iterator[None]:
    """Say how many answers were given up without a truth, where truths came at all."""
    before = running.given_up
    try:
        yield
    finally:
        given_up = running.given_up - before
        if sensors.truths and given_up > 0:
            kept = f"a row keeps its last {running.waiting} for theirs"
            click.echo(f"keepdrop: {given_up} answers were given up without a truth: {kept}", err=True)


def _resumed(
    model: Model,
    state: Optional[StateFile],
    on_new_artifact: OnNewArtifact,
    ahead: Optional[int],
    **given: Optional[int],
) -> Optional[Stream]:
    """The stream that was kept; None if there is none."""
    if state is None or not state.exists:
        return None
    running = model.resume(state.path, on_new_artifact, ahead)
    for name, asked in given.items():
        kept = getattr(running, name)
        if asked is not None and asked != kept:
            raise InputError(
                f"{state.path} goes on with {name} {kept} and --{name} is {asked}; leave --{name} out, "
                "or start with another --state"
            )
    steps = running.steps_seen.values()
    told = f"{len(steps)} rows, {min(steps)} to {max(steps)} steps each" if steps else "no rows yet"
    click.echo(f"keepdrop: goes on from {state.path}: {told}", err=True)
    return running


def _deliver(line: str) -> None:
    """Write an answer; an error where its reader is gone, or there is no room for it."""
    try:
        click.echo(line, nl=False)  # which flushes
    except OSError as error:
        _abandon_output()
        if error.errno in (errno.EPIPE, errno.EINVAL):  # the latter is Windows' word for it
            raise SystemExit(1) from None  # as other commands do where their reader leaves
        raise _Undelivered(f"cannot write an answer to standard output ({error.strerror}); make room for it") from error


class _Undelivered(Misfit):
    """Neither can a later answer be delivered."""


def _abandon_output() -> None:
    """What could not be written is not tried again at the interpreter's end."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@dataclass
class _Counts:
    """Lines that were not answered."""

    skipped: Skipped = field(default_factory=Skipped)
    passed_over: int = 0


@contextlib.contextmanager
def _counted(counts: _Counts) -> Iterator[_Counts]:
    """Say at the end how many lines were not answered."""
    try:
        yield counts
    finally:
        if counts.passed_over:
            click.echo(f"keepdrop: {counts.passed_over} readings were no newer than their row's last", err=True)
        if counts.skipped.count:
            click.echo(f"keepdrop: {counts.skipped.summary()}", err=True)


class _Kept:
    """Saves a stream, if it is to be kept: always after a whole number of delivered answers."""

    def __init__(self, running: Stream, state: Optional[StateFile], every: Optional[int]) -> None:
        self._running = running
        self._state = state
        self._every = every
        self._since = 0  # answers that are not saved yet

    def answered(self) -> None:
        """One more answer was delivered."""
        self._since += 1
        if self._every and self._since >= self._every:
            self._save()

    @contextlib.contextmanager
    def at_exit(self) -> Iterator[None]:
        """Save at the end, however it comes."""
        try:
            yield
        finally:
            if self._since:
                self._save()

    def what_remains(self) -> str:
        """What an interruption leaves."""
        if not self._state:
            return "no state is kept without --state"
        return f"the state is saved in {self._state.path}" if self._state.exists else "nothing was read"

    def _save(self) -> None:
        if self._state:
            self._state.save(self._running)
            self._since = 0
