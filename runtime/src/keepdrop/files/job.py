"""Job: a model's answers for the rows of a source, piece by piece.

How rows are cut into pieces depends on the artifact and on what is asked alone, never on timing or on what the device
has free: a job that goes on after a crash computes the very pieces that it would have computed in one go.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact import Metadata
from keepdrop.engine import UNKNOWN_SAMPLE, Progress
from keepdrop.errors import InputError
from keepdrop.model import MAX_BLOCK, Model
from keepdrop.prediction import Prediction, interval_quantiles
from keepdrop.request import INT64, check, elements

from .fields import ROW, SAMPLES, Field, Fields, statistics
from .sources import Rows, Source, grouped

# What a piece may take on one thread of the machine that exported, and its inputs and samples in memory.
PIECE_SECONDS = 2.0
PIECE_BYTES = 64 << 20
# Bytes of an element of an input or a sample at its peak: as float64, or sorted for quantiles beside the original.
BYTES_AN_ELEMENT = 8


@dataclass(frozen=True)
class Question:
    """What is asked of every row."""

    samples: int
    seed: int = 0
    levels: tuple[float, ...] = ()
    keep_samples: bool = False
    first_row: int = 0


@dataclass(frozen=True)
class Span:
    """Rows `start` to `stop` of a source, by position; to its end where `stop` is None."""

    start: int
    stop: Optional[int]


class Job:
    """Answers to `question` for the rows of `source` within `span`, `size` of them a piece."""

    def __init__(self, model: Model, source: Source, question: Question, span: Span, size: Optional[int]) -> None:
        self._model = model
        self._source = source
        self._question = question
        self._span = span
        example = source.example()
        request = check(
            model.metadata, example, samples=question.samples, seed=question.seed, rows=None, first_sample=0
        )
        self.size = size or piece_rows(model.metadata, question, request.longest)

    @property
    def rows(self) -> Optional[int]:
        """The number of rows; None where only reading tells."""
        return None if self._span.stop is None else self._span.stop - self._span.start

    def described(self) -> dict[str, Any]:
        """What the answers depend on beside the artifact, the source's content and the device."""
        return {
            **dataclasses.asdict(self._question),
            "columns": self._source.features,
            "rows": dataclasses.astuple(self._span),
            "batch": self.size,
        }

    def check(self) -> None:
        """Read every row; InputError names the first cell that is no number."""
        for position, rows in self._pieces(self._span.start):
            self._ids(position, rows)

    def answers(self, done: int = 0, progress: Optional[Progress] = None) -> Iterator[Fields]:
        """The pieces after the first `done` rows; `progress` is told of samples x rows."""
        for position, rows in self._pieces(self._span.start + done):
            yield self._answer(position, rows, progress)

    def _pieces(self, start: int) -> Iterator[tuple[int, Rows]]:
        position = start
        for rows in grouped(self._source.read(start, self._span.stop, self.size), self.size):
            yield position, rows
            position += len(rows)

    def _answer(self, position: int, rows: Rows, progress: Optional[Progress]) -> Fields:
        question = self._question
        ids = self._ids(position, rows)
        numbers = [q for level in question.levels for q in interval_quantiles(level)]
        try:
            result = self._model.predict(
                rows.inputs,
                samples=question.samples,
                seed=question.seed,
                rows=ids,
                quantiles=None if question.keep_samples else numbers,
                progress=progress,
            )
        except InputError as error:
            raise InputError(
                f"rows {position} to {position + len(rows) - 1} of {self._source.name}: {error}"
            ) from error
        outputs = {self._model.metadata.outputs[0].name: result} if isinstance(result, Prediction) else result
        fields: dict[Field, NDArray[Any]] = {Field(None, ROW): ids}
        fields.update({Field(None, name): label for name, label in rows.labels.items()})
        for name, prediction in outputs.items():
            for statistic, values in statistics(prediction, question.levels).items():
                fields[Field(name, statistic)] = values
        return fields

    def _ids(self, position: int, rows: Rows) -> NDArray[np.int64]:
        if rows.ids is not None:
            return rows.ids
        first = self._question.first_row + position
        if not INT64.min <= first <= INT64.max - len(rows):
            raise InputError(f"--first-row is {self._question.first_row}; row ids have to fit int64")
        return first + np.arange(len(rows), dtype=np.int64)


class Averages:
    """Means over rows and elements, by output and statistic; what is not finite makes them None."""

    def __init__(self) -> None:
        self._sums: dict[Field, tuple[float, int]] = {}

    def add(self, fields: Fields) -> None:
        """Take in the fields of a piece."""
        for field, values in fields.items():
            if field.output is not None and field.statistic != SAMPLES:
                total, count = self._sums.get(field, (0.0, 0))
                self._sums[field] = total + float(np.sum(values, dtype=np.float64)), count + values.size

    def by_output(self) -> dict[str, dict[str, Optional[float]]]:
        """The averages."""
        found: dict[str, dict[str, Optional[float]]] = {}
        for field, (total, count) in self._sums.items():
            mean = total / count
            found.setdefault(str(field.output), {})[field.statistic] = mean if math.isfinite(mean) else None
        return found


def piece_rows(metadata: Metadata, question: Question, longest: int) -> int:
    """How many rows a piece has: as many as `PIECE_SECONDS`, `PIECE_BYTES` and one block of samples allow."""
    sample = metadata.cost.sample if metadata.cost else UNKNOWN_SAMPLE
    inputs = sum(elements(tensor.shape[1:], longest) for tensor in metadata.inputs)
    outputs = sum(elements(tensor.shape[2:], longest) for tensor in metadata.outputs)
    row_bytes = BYTES_AN_ELEMENT * (inputs + outputs * question.samples)
    by_time = PIECE_SECONDS / (sample * question.samples) if sample > 0 else MAX_BLOCK
    return max(1, int(min(by_time, MAX_BLOCK // question.samples, PIECE_BYTES // row_bytes)))


def identity(path: Path) -> str:
    """What tells a file from another, or from itself once changed: its size and time of change."""
    status = path.stat()
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    changed = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{status.st_size} bytes, changed {changed:%Y-%m-%d %H:%M:%S}.{nanoseconds:09} UTC"


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    found = hashlib.sha256()
    with open(path, "rb") as file:
        for part in iter(lambda: file.read(1 << 20), b""):
            found.update(part)
    return found.hexdigest()
