"""keepdrop stream: readings from standard input, an answer each to standard output."""

from __future__ import annotations

import contextlib
import csv
import glob
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Optional

import click
import numpy as np

from keepdrop.answer.prediction import Prediction
from keepdrop.artifact.metadata import Metadata
from keepdrop.errors import InputError, KeepdropError
from keepdrop.files.fields import SAMPLES, Field, Fields, statistics
from keepdrop.files.outputs import json_lines, replacing
from keepdrop.model import Model, load
from keepdrop.stream.stream import Stream

from .interrupts import Terminated, ending_by_signal
from .options import interval_option, threads_option

ID, X = "id", "x"
# The row where readings bear no id.
ONLY_ROW = 0


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--id", "id_name", metavar="COLUMN", help="The column of row ids; in JSON lines a key. [default there: id]"
)
@click.option("--samples", type=int, help="Samples of every row. [default: what the file says]")
@click.option("--seed", type=int, help="Any int64; the same seed, the same samples. [default: 0]")
@interval_option
@click.option(
    "--state", type=click.Path(path_type=Path), help="Go on from this file if it is there; save to it at exit."
)
@click.option(
    "--save-every", type=click.IntRange(min=1), metavar="N", help="Save the state after every N readings too."
)
@threads_option
def stream(
    file: Path,
    id_name: Optional[str],
    samples: Optional[int],
    seed: Optional[int],
    levels: tuple[float, ...],
    state: Optional[Path],
    save_every: Optional[int],
    threads: Optional[int],
) -> None:
    """Answer every reading as it comes.

    Readings come line by line on standard input: CSV with a header, a column for each feature and, with --id, one for
    the row (sensor); or JSON lines such as {"id": 3, "x": [0.1, 0.2]}, where "x" is an object by input name if the
    model has several inputs. A row begins when its id first appears. Each reading is answered at once by a JSON line:
    id, step (readings of that row so far), and mean, std and intervals of each output.

    \b
    Example:
      tail -F sensors.csv | keepdrop stream stream.onnx --id sensor --interval 0.9 --state state.npz --save-every 100
    """
    if save_every and not state:
        raise click.UsageError("--save-every needs --state, the file to save to")
    model = load(file, threads=threads)
    file_of_state = _StateFile(state, save_every)
    running = file_of_state.resumed(model, samples, seed)
    if running is None:
        running = model.stream(samples=samples, seed=0 if seed is None else seed, rows=())
    sensors = _Sensors(running, model.metadata)
    with ending_by_signal(file_of_state.what_is_kept), _Interrupts() as interrupts, file_of_state.at_exit(running):
        for number, reading in _readings(interrupts.lines(sys.stdin.buffer), model.metadata, id_name):
            outputs = sensors.push(number, reading)
            file_of_state.readings += 1
            click.echo(json_lines(_answer(reading.row, sensors.steps[reading.row], outputs, levels)), nl=False)
            file_of_state.save_if_due(running)


class Reading(NamedTuple):
    """A row's id, and its step as :meth:`Stream.push` takes it, the axis of rows left out."""

    row: int
    x: Any


def _readings(lines: Iterator[bytes], metadata: Metadata, id_name: Optional[str]) -> Iterator[tuple[int, Reading]]:
    """The readings with the numbers of their lines, from 1; InputError names the line that is none."""
    reader: Optional[_Csv] = None
    is_json: Optional[bool] = None
    for number, line in enumerate(lines, 1):
        text = _text(number, line)
        if not text:
            continue
        if is_json is None:
            is_json = text.startswith("{")
            if not is_json:
                reader = _Csv(number, text, metadata, id_name)
                continue
        yield number, reader.reading(number, text) if reader else _json_reading(number, text, id_name or ID)


class _Csv:
    """Lines of cells below a header."""

    def __init__(self, number: int, header: str, metadata: Metadata, id_name: Optional[str]) -> None:
        self._columns = [cell.strip() for cell in _cells(number, header)]
        names = [tensor.name for tensor in metadata.inputs]
        if len(names) > 1:
            raise InputError(f"CSV has no place for the model's {len(names)} inputs, {names}; give JSON lines")
        if all(_is_number(cell) for cell in self._columns):
            raise InputError(f"line {number} is not a header: all its cells are numbers; name the columns first")
        if id_name is not None and id_name not in self._columns:
            raise InputError(f"line {number} has no column {id_name!r}; its columns are {self._columns}")
        self._id = None if id_name is None else self._columns.index(id_name)
        self._shape = metadata.inputs[0].shape[2:]
        features = len(self._columns) - (self._id is not None)
        expected = math.prod(size or 1 for size in self._shape)
        if features != expected:
            besides = "" if id_name is None else f" besides {id_name!r}"
            raise InputError(
                f"line {number} has {features} columns{besides}, {self._columns}; a step of input {names[0]!r} takes "
                f"{expected}; leave out the others" + (", or name the one of row ids with --id" if not besides else "")
            )

    def reading(self, number: int, line: str) -> Reading:
        cells = _cells(number, line)
        if len(cells) != len(self._columns):
            raise InputError(f"line {number} has {len(cells)} cells and the header {len(self._columns)}; give each one")
        row = ONLY_ROW
        values = []
        for i, (column, cell) in enumerate(zip(self._columns, cells)):
            try:
                if i == self._id:
                    row = int(cell)
                else:
                    values.append(float(cell))
            except ValueError:
                kind = "an integer" if i == self._id else "a number"
                raise InputError(f"line {number}, column {column!r} is {cell!r}; expected {kind}") from None
        return Reading(row, np.array(values).reshape([size or 1 for size in self._shape]))


def _json_reading(number: int, line: str, id_name: str) -> Reading:
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError) as error:
        why = f"{error.msg} at character {error.colno}" if isinstance(error, json.JSONDecodeError) else str(error)
        raise InputError(f"line {number} is not JSON ({why}); give one object a line") from error
    form = f'such as {{"{id_name}": 3, "{X}": [0.1, 0.2]}}'
    if not isinstance(fields, dict) or X not in fields:
        raise InputError(f"line {number} has no {X!r}; give one object a line, {form}")
    unknown = sorted(set(fields) - {id_name, X})
    if unknown:
        raise InputError(f"line {number} holds {unknown} too; give {id_name!r} and {X!r} alone, {form}")
    row = fields.get(id_name, ONLY_ROW)
    if type(row) is not int:
        raise InputError(f"line {number}, {id_name!r} is {row!r}; expected an integer")
    return Reading(row, fields[X])


def _text(number: int, line: bytes) -> str:
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"line {number} is not text in UTF-8 ({error.reason}); convert it") from error


def _cells(number: int, line: str) -> list[str]:
    try:
        return next(csv.reader([line], strict=True))
    except csv.Error as error:
        raise InputError(f"line {number} is not CSV ({error}); give cells with commas between them") from error


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


class _Sensors:
    """A stream whose rows begin as their ids appear, and the steps of each."""

    def __init__(self, running: Stream, metadata: Metadata) -> None:
        self.steps = running.steps_seen
        self._running = running
        self._inputs = metadata.inputs
        self._outputs = [tensor.name for tensor in metadata.outputs]

    def push(self, number: int, reading: Reading) -> dict[str, Prediction]:
        """The answer to one reading by output; after an error the stream is as it was."""
        given = reading.x if isinstance(reading.x, dict) else {self._inputs[0].name: reading.x}
        new = reading.row not in self.steps
        try:
            if new:
                self._running.add(reading.row)
            try:
                result = self._running.push({name: [value] for name, value in given.items()}, rows=[reading.row])
            except KeepdropError:
                if new:
                    self._running.remove(reading.row)
                raise
        except InputError as error:
            raise InputError(f"line {number}: {error}") from error
        first = self._inputs[0]
        is_chunk = np.ndim(given[first.name]) == len(first.shape) - 1
        self.steps[reading.row] = self.steps.get(reading.row, 0) + (len(given[first.name]) if is_chunk else 1)
        return {self._outputs[0]: result} if isinstance(result, Prediction) else result


def _answer(row: int, step: int, outputs: dict[str, Prediction], levels: tuple[float, ...]) -> Fields:
    labels = {Field(None, ID): np.array([row]), Field(None, "step"): np.array([step])}
    figures = {
        Field(name, statistic): values
        for name, prediction in outputs.items()
        for statistic, values in statistics(prediction, levels).items()
        if statistic != SAMPLES
    }
    return {**labels, **figures}


class _StateFile:
    """Where the stream is kept, if anywhere: always a whole file, of some reading or another."""

    def __init__(self, path: Optional[Path], every: Optional[int]) -> None:
        self.readings = 0  # since it was saved
        self._path = path
        self._every = every
        if path and path.is_dir():
            raise InputError(f"{path} is a directory; give the name of the file to keep the state in")
        if path and not path.absolute().parent.is_dir():
            raise InputError(f"cannot write {path}: the directory {path.parent} does not exist; make it first")

    def resumed(self, model: Model, samples: Optional[int], seed: Optional[int]) -> Optional[Stream]:
        """The stream that was kept; None if there is none."""
        if not self._path:
            return None
        for stale in self._path.parent.glob(f".{glob.escape(self._path.name)}.*.tmp"):  # of a process that was killed
            stale.unlink(missing_ok=True)
        if not self._path.exists():
            return None
        running = model.resume(self._path)
        for name, asked, kept in (("samples", samples, running.samples), ("seed", seed, running.seed)):
            if asked is not None and asked != kept:
                raise InputError(
                    f"{self._path} goes on with {name} {kept} and --{name} is {asked}; leave --{name} out, "
                    "or start with another --state"
                )
        steps = running.steps_seen.values()
        found = f"{len(steps)} rows, {min(steps)} to {max(steps)} steps each" if steps else "no rows yet"
        click.echo(f"keepdrop: goes on from {self._path}: {found}", err=True)
        return running

    @contextlib.contextmanager
    def at_exit(self, running: Stream) -> Iterator[None]:
        """Save at the end, however it comes."""
        try:
            yield
        finally:
            if self.readings:
                self._save(running)

    def save_if_due(self, running: Stream) -> None:
        """Save where `every` readings have come since the last time."""
        if self._every and self.readings >= self._every:
            self._save(running)

    def what_is_kept(self) -> str:
        """What an interruption leaves."""
        if not self._path:
            return "no state is kept without --state"
        return f"the state is saved in {self._path}" if self._path.exists() else "nothing was read"

    def _save(self, running: Stream) -> None:
        """Whole or not at all, also where the power fails."""
        if not self._path:
            return
        with replacing(self._path, self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")) as file:
            file.write(running.save())
        _sync_folder(self._path.absolute().parent)
        self.readings = 0


def _sync_folder(folder: Path) -> None:
    """Make a new name last; some systems and file systems know no such thing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class _Interrupts:
    """Ctrl-C and SIGTERM end the readings: at once where one is waited for, otherwise after the one in work."""

    def __enter__(self) -> _Interrupts:
        self._received: Optional[type[KeyboardInterrupt]] = None
        self._waits = False
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def lines(self, file: IO[bytes]) -> Iterator[bytes]:
        """The lines of `file` until it ends; an interruption comes between two of them, as KeyboardInterrupt."""
        while line := self._next(file):
            yield line

    def _next(self, file: IO[bytes]) -> bytes:
        self._waits = True
        try:
            if self._received:
                raise self._received
            return file.readline()
        finally:
            self._waits = False

    def _note(self, number: int, _: object) -> None:
        self._received = Terminated if number == signal.SIGTERM else KeyboardInterrupt
        if self._waits:
            self._waits = False
            raise self._received
