"""Sensors: a stream whose rows begin as their ids appear, and what is answered to each message."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from keepdrop.artifact.metadata import STEPS_SEEN
from keepdrop.errors import InputError
from keepdrop.files.fields import SAMPLES, Field, objects, statistics
from keepdrop.stream.stream import Answer, Stream

from .messages import Message, Reading, Reset

ID, STEP, WARM, REASON, RESET = "id", "step", "warm", "reason", "reset"


class Sensors:
    """Answers messages in the order in which they come.

    Parameters
    ----------
    levels
        Those of the intervals in every answer.
    """

    def __init__(self, running: Stream, levels: tuple[float, ...]) -> None:
        self._running = running
        self._levels = levels

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
        """
        if isinstance(message, Reset):
            yield _line({ID: message.id, STEP: 0, RESET: True})
            if message.row in self._running:
                self._running.reset([message.row])
            return
        with self._begun(message.row):
            try:
                one_row = {name: [value] for name, value in message.x.items()}
                answer = self._running.answer(one_row, [message.row])
            except InputError as error:
                raise InputError(f"line {message.line}: {error}") from error
            labels, figures, reason = self._labels(message, answer), self._figures(answer), self._running.reason(answer)
            if reason:
                labels[REASON] = reason
                figures = {name: _nulls(value) for name, value in figures.items()}
            yield _line({**labels, **figures, **_renamed(message.echoed, {*labels, *figures})})
            self._running.go_on(answer, message.time)

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

    def _labels(self, reading: Reading, answer: Answer) -> dict[str, Any]:
        step = int(answer.carried[STEPS_SEEN][0])
        labels: dict[str, Any] = {ID: reading.id, STEP: step}
        if self._running.window is not None:
            labels[WARM] = step >= self._running.window
        return labels

    def _figures(self, answer: Answer) -> Mapping[str, Any]:
        with np.errstate(invalid="ignore", over="ignore"):  # of samples that are not finite
            fields = {
                Field(name, statistic): values
                for name, prediction in answer.predictions.items()
                for statistic, values in statistics(prediction, self._levels).items()
                if statistic != SAMPLES
            }
        return next(objects(fields))


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
