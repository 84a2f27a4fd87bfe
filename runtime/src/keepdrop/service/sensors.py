"""Sensors: a stream whose rows begin as their ids appear, and what is answered to each message."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import STEPS_SEEN, Tensor
from keepdrop.calibration.feedback import Learned
from keepdrop.errors import InputError
from keepdrop.files.fields import SAMPLES, Field, objects, statistics
from keepdrop.files.truths import TruthColumn
from keepdrop.stream.stream import Answer, Stream

from .messages import Message, Reading, Reset, Truth
from .tabled import Tabled

ID, STEP, WARM, REASON, RESET = "id", "step", "warm", "reason", "reset"


class Sensors:
    """Answers messages in the order in which they come.

    Parameters
    ----------
    levels
        Those of the intervals in every answer.
    targets
        Which columns of readings are truths, of which outputs, and how many steps ahead these had forecast them.
    monitors
        Whether answers to truths tell the running coverage too.
    tabled
        What the artifact's table says.
    """

    def __init__(
        self,
        running: Stream[Any],
        levels: tuple[float, ...],
        targets: Sequence[TruthColumn] = (),
        monitors: bool = False,
        tabled: Optional[Tabled] = None,
    ) -> None:
        self._running = running
        self._levels = levels
        self._targets = targets
        self._monitors = monitors
        self._tabled = tabled
        self.truths = 0

    def is_new(self, message: Message) -> bool:
        """Whether it is no reading of before: its time, if it has one, is later than the last one of its row."""
        if not isinstance(message, Reading) or message.time is None:
            return True
        return message.row not in self._running or message.time > self._running.time_of(message.row)

    @contextlib.contextmanager
    def answer(self, message: Message) -> Iterator[str]:
        """A line of JSON; the stream goes on once it is delivered: when the block ends without an error.

        Raises
        ------
        InputError
            A reading does not fit; the text names its line.
        Gap
            Readings are missing before it, see :meth:`begin_after`.
        """
        if isinstance(message, Reset):
            yield _line({ID: message.id, STEP: 0, RESET: True})
            if message.row in self._running:
                self._running.reset([message.row])
            return
        if isinstance(message, Truth):
            with self._running.tentative(message.row):
                yield _line({ID: message.id, STEP: message.step, **self._learned(message), **message.echoed})
            return
        with self._running.tentative(message.row), self._begun(message.row):
            steps = _steps(self._running.inputs[0], message.x)
            since = self._steps_since(message, steps)
            observed = self._observed(message, since)
            if since > steps:
                self._running.begin_anew(message.row)
            try:
                one_row = {name: [value] for name, value in message.x.items()}
                answer = self._running.answer(one_row, [message.row])
            except InputError as error:
                raise InputError(f"line {message.line}: {error}") from error
            step = 0 if message.lacking else int(answer.carried[STEPS_SEEN][0])
            labels, figures = {**self._labels(message, step), **observed}, self._figures(message, answer)
            reason = message.lacking or self._running.reason(answer)
            if reason:
                labels[REASON] = reason
                figures = {name: value if self._stays(name) else _nulls(value) for name, value in figures.items()}
            yield _line({**labels, **figures, **_renamed(message.echoed, {*labels, *figures})})
            if message.lacking:
                self._running.begin_anew(message.row, message.time, message.held)
            else:
                self._running.go_on(answer, message.time, message.held)

    def begin_after(self, reading: Message) -> None:
        """A reading was passed over that came after a gap: its row starts anew with the next one."""
        if isinstance(reading, Reading) and reading.row in self._running:
            self._running.begin_anew(reading.row, reading.time, reading.held)

    def _steps_since(self, reading: Reading, steps: int) -> int:
        """Steps since the row's last reading; `steps`, those of this one, unless a table says how long a step is."""
        if self._tabled is None:
            return steps
        return self._tabled.steps_since(reading, self._running.time_of(reading.row), steps)

    def _stays(self, name: str) -> bool:
        return self._tabled is not None and self._tabled.kept(name)

    @contextlib.contextmanager
    def _begun(self, row: int) -> Iterator[None]:
        """A row that is new is taken up, and dropped again after an error."""
        new = row not in self._running
        if new:
            self._running.add(row)
        try:
            yield
        except BaseException:
            if new:
                self._running.remove(row)
            raise

    def _learned(self, truth: Truth) -> dict[str, Any]:
        """What the truths of a message were beside their answers."""
        told: dict[str, Any] = {}
        for name, values in truth.values.items():
            output = name or next(iter(self._running.learns), None)
            try:
                learned = self._running.observe(values, step=truth.step, row=truth.row, output=name)
            except InputError as error:
                raise InputError(f"line {truth.line}: {error}") from error
            self.truths += 1
            told.update(self._covered(str(output), truth.row, [learned], None))
        return told

    def _observed(self, reading: Reading, since: int) -> dict[str, Any]:
        """What a reading itself says of the answers that had forecast it; those that wait for nothing are left.

        `since` are the steps since the row's last one.
        """
        told: dict[str, Any] = {}
        step = self._running.steps_of(reading.row) + since
        for output, column, ahead in self._targets:
            if column not in reading.truths:
                continue
            elements = self._running.elements(output)
            found, steps = [], []
            for i, by in enumerate(ahead):
                part = slice(i * elements // len(ahead), (i + 1) * elements // len(ahead))
                if not self._running.waits(step - by, row=reading.row, output=output, element=part.start):
                    continue
                values = np.full(elements, np.nan)
                values[part] = reading.truths[column]
                found.append(self._running.observe(values, step=step - by, row=reading.row, output=output))
                steps.append(step - by)
            self.truths += len(found)
            if found:
                told.update(self._covered(output, reading.row, found, steps))
        return told

    def _covered(
        self, output: str, row: int, learned: Sequence[Learned], steps: Optional[Sequence[int]]
    ) -> dict[str, Any]:
        """Whether truths were within the intervals that were issued for them, and how often a row's are.

        `steps` are those that had forecast them, where the message does not say that itself.
        """
        told: dict[str, Any] = {}
        name = output if self._tabled is None else self._tabled.name(output)
        if steps is not None:
            told[f"{name}_truth_step"] = steps[0] if len(steps) == 1 else list(steps)
        for level in self._levels:
            within = [_known(each.covered(level), each.pit) for each in learned]
            told[f"{name}_covered_{level}"] = within[0] if len(within) == 1 else within
            if self._monitors:
                share, truths = self._running.coverage(level, row=row, output=output)
                told[f"{name}_coverage_{level}"] = round(share, 4) if truths else None
                told[f"{name}_truths"] = truths
        return told

    def _labels(self, reading: Reading, step: int) -> dict[str, Any]:
        labels: dict[str, Any] = {ID: reading.id, STEP: step}
        if self._running.window is not None:
            labels[WARM] = step >= self._running.window
        return labels

    def _figures(self, reading: Reading, answer: Answer) -> Mapping[str, Any]:
        with np.errstate(invalid="ignore", over="ignore"):  # of samples that are not finite
            fields = {
                Field(name, statistic): values
                for name, prediction in answer.predictions.items()
                for statistic, values in statistics(prediction, self._levels).items()
                if statistic != SAMPLES
            }
        return next(objects(fields)) if self._tabled is None else self._tabled.figures(fields, reading)


def _known(covered: NDArray[np.bool_], pit: NDArray[np.float64]) -> Any:
    """Of the elements whose truth was given, or all of them where there is more than one."""
    told = [None if np.isnan(p) else bool(c) for c, p in zip(covered, pit)]
    given = [each for each in told if each is not None]
    return given[0] if len(given) == 1 else told


def _steps(tensor: Tensor, x: Mapping[str, Any]) -> int:
    """How many steps a reading has: one, or those of a chunk."""
    value = x.get(tensor.name)
    return len(value) if isinstance(value, list) and np.ndim(value) == len(tensor.shape) - 1 else 1


def _nulls(value: Any) -> Any:
    return [_nulls(part) for part in value] if isinstance(value, list) else None


def _renamed(echoed: Mapping[str, Any], taken: set[str]) -> dict[str, Any]:
    """What comes back of a reading, under names that the answer has not taken."""
    found = {}
    for name, value in echoed.items():
        while name in taken:
            name = f"{name}_"
        taken.add(name)
        found[name] = value
    return found


def _line(fields: Mapping[str, Any]) -> str:
    return f"{json.dumps(fields, allow_nan=False)}\n"
