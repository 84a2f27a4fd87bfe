"""Job: a model's answers for the rows of a source, piece by piece.

How rows are cut into pieces depends on the artifact and on what is asked alone, never on timing or on what the device
has free: a job that goes on after a crash computes the very pieces that it would have computed in one go.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Optional, Protocol

import numpy as np
from numpy.typing import NDArray

from keepdrop.answer.heads import Heads, resolved
from keepdrop.answer.prediction import Prediction, interval_quantiles
from keepdrop.artifact.metadata import Metadata
from keepdrop.calibration.record import Calibration, Values
from keepdrop.errors import InputError, TooLarge
from keepdrop.run.engine import MAX_BLOCK, UNKNOWN_SAMPLE, Progress
from keepdrop.run.request import INT64, check, elements
from keepdrop.until.stopping import Rule, decided, standard_error, watched

from .fields import MET, REASON, ROW, SAMPLES, Field, Fields, N, statistics
from .following import Following
from .rows import Rows, grouped
from .sources import POSITION, Source

# What a piece may take on one thread of the machine that exported, and its inputs and samples in memory.
PIECE_SECONDS = 2.0
PIECE_BYTES = 64 << 20
# What an interval is where nothing was calibrated.
OF_SAMPLES = "of the samples"
# The centre of an observation's distribution.
MEDIAN = 0.5
# What a row is taken to need, at most, where it stops by itself.
EXPECTED_SAMPLES = 256
# Bytes of an element of an input or a sample at its peak: as float64, or sorted for quantiles beside the original.
BYTES_AN_ELEMENT = 8


class Answerer(Protocol):
    """What answers for rows: a :class:`keepdrop.Model`, which stands above this folder."""

    @property
    def metadata(self) -> Metadata:
        """The artifact's."""

    @property
    def calibration(self) -> Optional[Calibration]:
        """What calibrated it."""

    def predict(self, *args: Any, **options: Any) -> Any:
        """As ``keepdrop.Model.predict``."""


@dataclass(frozen=True)
class Question:
    """What is asked of every row.

    `samples` is the number for every row, or the most where a rule or a deadline ends sooner; `heads` as in `predict`;
    `above` and `below` are thresholds of which a calibrated artifact tells the probability.
    """

    samples: int
    seed: int
    levels: tuple[float, ...] = ()
    keep_samples: bool = False
    first_row: int = 0
    standard_error: Optional[float] = None
    decide: Optional[float] = None
    confidence: float = 0.99
    deadline_ms: Optional[float] = None
    heads: Optional[Heads] = None
    above: tuple[float, ...] = ()
    below: tuple[float, ...] = ()

    @property
    def adapts(self) -> bool:
        """Whether rows may have different numbers of samples."""
        return any(end is not None for end in (self.standard_error, self.decide, self.deadline_ms))

    @property
    def rule(self) -> Optional[Rule]:
        """When a row has enough samples."""
        if self.standard_error is not None:
            return standard_error(self.standard_error)
        return None if self.decide is None else decided(self.decide, self.confidence)


@dataclass(frozen=True)
class Span:
    """Rows `start` to `stop` of a source, by position; to its end where `stop` is None."""

    start: int
    stop: Optional[int]


class Job:
    """Answers to `question` for the rows of `source` within `span`, `size` of them a piece."""

    def __init__(
        self,
        model: Answerer,
        source: Source,
        question: Question,
        span: Span,
        size: Optional[int],
        following: Optional[Following] = None,
    ) -> None:
        self._model = model
        self._following = following
        self._source = source
        self._question = question
        self._span = span
        example = source.example()
        request = check(
            model.metadata, example, samples=question.samples, seed=question.seed, rows=None, first_sample=0
        )
        self.heads = resolved(model.metadata.outputs, model.metadata.heads, question.heads)
        if question.rule:
            watched(question.rule, self.heads)
        self.size = size or piece_rows(model.metadata, question, request.longest)

    @property
    def rows(self) -> Optional[int]:
        """The number of rows; None where only reading tells."""
        return None if self._span.stop is None else self._span.stop - self._span.start

    @property
    def seconds(self) -> Optional[float]:
        """About how long it takes one thread of the machine that exported; None where that, or the end, is unknown."""
        cost = self._model.metadata.cost
        if cost is None or self.rows is None or self._question.adapts:
            return None
        return cost.sample * self._question.samples * self.rows

    def basis(self) -> dict[str, str]:
        """What the intervals of each output are, in words."""
        record = self._model.calibration
        found = {}
        for head in self.heads:
            of = None if record is None else record.of(head.output)
            words = OF_SAMPLES
            if record and isinstance(of, Values) and of.is_of(head.kind):
                words = f"for an observation, {record.words(head.output)}"
            elif record and of is not None and not isinstance(of, Values):
                words += f", and label sets for an observation, {record.words(head.output)}"
            if self._following is not None and head.output == self._following.output:
                words += ", and learning from the truths known by each line"
            found[head.output] = words
        return found

    def described(self) -> dict[str, Any]:
        """What the answers depend on beside the artifact, the source's content and the device, by parameter."""
        return {
            **{f"{name}=": value for name, value in dataclasses.asdict(self._question).items()},
            "columns=": self._source.features,
            "rows=": dataclasses.astuple(self._span),
            "batch=": self.size,
        }

    def check(self, progress: Optional[Progress] = None) -> None:
        """Read every row; InputError names the first cell that is no number. `progress` is told of rows."""
        for position, rows in self._pieces(self._span.start):
            self._ids(position, rows)
            if progress:
                progress(len(rows))

    def answers(self, done: int = 0, progress: Optional[Progress] = None) -> Iterator[Fields]:
        """The pieces after the first `done` rows; `progress` is told of samples x rows.

        Raises
        ------
        InputError
            A cell is no number, or a source that can be read but once turns out to have no such row.
        """
        for position, rows in self._pieces(self._span.start + done):
            yield self._answer(position, rows, progress)
            done += len(rows)
        if not done:
            raise InputError(
                f"{self._source.name} ended before row {self._span.start}, the first one to answer; give more lines, "
                "a shorter window= or other rows="
            )

    def _pieces(self, start: int) -> Iterator[tuple[int, Rows]]:
        position = start
        for rows in grouped(self._source.read(start, self._span.stop, self.size), self.size):
            yield position, rows
            position += len(rows)

    def _answer(self, position: int, rows: Rows, progress: Optional[Progress]) -> Fields:
        # The lines that rows end with, or the rows themselves, by position.
        lines = rows.labels.get(POSITION, position + np.arange(len(rows)))
        if rows.reasons is None:
            return self._sampled(position, rows, lines, progress)
        answered = rows.reasons == ""
        some = rows.cut(answered) if answered.any() else _zeros(rows)  # whose answers are thrown away
        places = _places(answered)
        some = dataclasses.replace(some, ids=self._ids(position, rows)[places])
        found = self._sampled(position, some, lines[places], progress)
        labels = {ROW: self._ids(position, rows), **rows.labels, REASON: rows.reasons.astype(str)}
        fields = {Field(None, name): label for name, label in labels.items()}
        figures = {field: values for field, values in found.items() if field not in fields}
        return {**fields, **{field: _spread(values, answered, field) for field, values in figures.items()}}

    def _sampled(self, position: int, rows: Rows, lines: NDArray[np.int64], progress: Optional[Progress]) -> Fields:
        question = self._question
        ids = self._ids(position, rows)
        numbers = [q for level in question.levels for q in interval_quantiles(level)]
        numbers += [MEDIAN] if self._model.calibration else []
        try:
            result = self._model.predict(
                rows.inputs,
                seed=question.seed,
                rows=ids,
                quantiles=None if question.keep_samples else numbers,
                heads=question.heads,
                progress=None if question.adapts else progress,
                **self._samples(),
            )
        except InputError as error:
            last = position + len(rows) - 1
            options = " (batch= takes fewer rows at a time, memory= gives more)" if isinstance(error, TooLarge) else ""
            raise type(error)(f"rows {position} to {last} of {self._source.name}: {error}{options}") from error
        if question.adapts and progress:
            progress(question.samples * len(rows))
        outputs = {self._model.metadata.outputs[0].name: result} if isinstance(result, Prediction) else result
        labels = {ROW: ids, **rows.labels, **(_reached(list(outputs.values()), len(rows)) if question.adapts else {})}
        fields = {Field(None, name): label for name, label in labels.items()}
        for name, prediction in outputs.items():
            if self._following is not None and name == self._following.output:
                prediction = self._following.followed(prediction, lines)
            found = statistics(prediction, question.levels, question.above, question.below)
            fields.update({Field(name, statistic): values for statistic, values in found.items()})
        return fields

    def _samples(self) -> dict[str, Any]:
        question = self._question
        if not question.adapts:
            return {"samples": question.samples}
        deadline = None if question.deadline_ms is None else question.deadline_ms / 1000
        return {"max_samples": question.samples, "until": question.rule, "deadline": deadline}

    def _ids(self, position: int, rows: Rows) -> NDArray[np.int64]:
        if rows.ids is not None:
            return rows.ids
        first = self._question.first_row + position
        if not INT64.min <= first <= INT64.max - len(rows):
            raise InputError(f"first_row= is {self._question.first_row}; row ids have to fit int64")
        return first + np.arange(len(rows), dtype=np.int64)


def _places(answered: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The rows that are sampled: the answered ones, or the first where there is none, for the shapes' sake."""
    found = np.flatnonzero(answered)
    return found if len(found) else np.zeros(1, np.int64)


def _zeros(rows: Rows) -> Rows:
    first = rows.cut(slice(0, 1))
    inputs = first.inputs
    zeros = {k: np.zeros_like(v) for k, v in inputs.items()} if isinstance(inputs, dict) else np.zeros_like(inputs)
    return dataclasses.replace(first, inputs=zeros)


def _spread(values: NDArray[Any], answered: NDArray[np.bool_], field: Field) -> NDArray[Any]:
    """Figures of the answered rows, among those of all: NaN, -1, "" or False for the others."""
    shape = list(values.shape)
    shape[field.row_axis] = len(answered)
    blank = {"f": np.nan, "i": 0 if field == Field(None, N) else -1, "U": "", "b": False}[values.dtype.kind]
    spread = np.full(shape, blank, values.dtype)
    if answered.any():
        spread[(slice(None),) * field.row_axis + (answered,)] = values
    return spread


class Averages:
    """Means over rows and elements, by output and statistic; what is not finite makes them None."""

    UNAVERAGED = ("top", "decision", "probability", SAMPLES)

    def __init__(self) -> None:
        self._sums: dict[Field, tuple[float, int]] = {}
        self.lone = 0  # rows of one sample, which tell no spread
        self.unanswered: Optional[int] = None  # rows without an answer, where there may be such

    def add(self, fields: Fields) -> None:
        """Take in the fields of a piece."""
        self.lone += int(np.count_nonzero(fields.get(Field(None, N), np.zeros(0)) == 1))
        answered = None
        if Field(None, REASON) in fields:
            answered = fields[Field(None, REASON)] == ""
            self.unanswered = (self.unanswered or 0) + int(np.count_nonzero(~answered))
        for field, values in fields.items():
            if answered is not None and field.output is not None:
                values = np.compress(answered, values, axis=field.row_axis)
            if field == Field(None, N) or (field.output is not None and field.statistic not in self.UNAVERAGED):
                total, count = self._sums.get(field, (0.0, 0))
                self._sums[field] = total + float(np.sum(values, dtype=np.float64)), count + values.size

    @property
    def samples(self) -> Optional[float]:
        """The mean number of samples of a row, where they differ."""
        total, count = self._sums.get(Field(None, N), (0.0, 0))
        return total / count if count else None

    def by_output(self) -> dict[str, dict[str, Optional[float]]]:
        """The averages."""
        found: dict[str, dict[str, Optional[float]]] = {}
        for field, (total, count) in self._sums.items():
            if field.output is None:
                continue
            mean = total / count if count else math.nan
            found.setdefault(field.output, {})[field.statistic] = mean if math.isfinite(mean) else None
        return found


def _reached(predictions: list[Prediction], rows: int) -> dict[str, NDArray[Any]]:
    """How many samples each row has, which is the same for all outputs, and whether they were enough for all."""
    n = np.broadcast_to(np.asarray(predictions[0].n, np.int64), rows)
    met = [prediction.met for prediction in predictions if prediction.met is not None]
    return {N: n, **({MET: np.all(met, axis=0)} if met else {})}


def piece_rows(metadata: Metadata, question: Question, longest: int) -> int:
    """How many rows a piece has: as many as `PIECE_SECONDS`, `PIECE_BYTES` and one block of samples allow."""
    sample = metadata.cost.sample if metadata.cost else UNKNOWN_SAMPLE
    inputs = sum(elements(tensor.shape[1:], longest) for tensor in metadata.inputs)
    outputs = sum(elements(tensor.shape[2:], longest) for tensor in metadata.outputs)
    row_bytes = BYTES_AN_ELEMENT * (inputs + outputs * question.samples)
    expected = min(question.samples, EXPECTED_SAMPLES) if question.adapts else question.samples
    by_time = PIECE_SECONDS / (sample * expected) if sample > 0 else MAX_BLOCK
    return max(1, int(min(by_time, MAX_BLOCK // expected, PIECE_BYTES // row_bytes)))


def identity(path: Path) -> str:
    """What tells a file from another, or from itself once changed: its size and time of change."""
    status = path.stat()
    seconds, nanoseconds = divmod(status.st_mtime_ns, 10**9)
    changed = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{status.st_size} bytes, changed {changed:%Y-%m-%d %H:%M:%S}.{nanoseconds:09} UTC"
