"""Labelled rows: a model's answers beside what was observed, block by block, in the order of time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, Optional

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepdrop.artifact.metadata import LOGVAR, MEAN_LOGVAR, SIGMOID, SOFTMAX, Head, Tensor
from keepdrop.calibration.conformal import Floats
from keepdrop.errors import InputError
from keepdrop.table import Target

if TYPE_CHECKING:
    from keepdrop.answer.prediction import Prediction
    from keepdrop.model import Model

# Samples of a block of rows, which are kept until their figures are taken.
BLOCK_BYTES = 32 << 20
# The fewest samples of a row: so many that their median and variance are steady.
SAMPLES = 200

Predictions = Mapping[str, "Prediction"]
Progress = Callable[[int], None]


@dataclass(frozen=True, eq=False)
class Labelled:
    """Rows with their targets: inputs by name, targets by output, float64, NaN where not known.

    ``rows`` are the row ids; ``times`` the time of each row, if known, and ``series`` the number of the series that it
    is of, whose ``names`` they are. ``order`` sorts the rows by time.
    """

    inputs: Mapping[str, NDArray[Any]]
    targets: Mapping[str, Floats]
    rows: NDArray[np.int64]
    times: Optional[NDArray[np.datetime64]]
    series: NDArray[np.int64]
    order: NDArray[np.int64]
    names: tuple[str, ...] = ("",)

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, index: NDArray[np.int64]) -> Labelled:
        """Some of these rows."""
        times = None if self.times is None else self.times[index]
        series = self.series[index]
        return Labelled(
            {name: array[index] for name, array in self.inputs.items()},
            {name: array[index] for name, array in self.targets.items()},
            self.rows[index],
            times,
            series,
            _in_time(times, series),
            self.names,
        )


def labelled(
    model: Model[Any, Any],
    x: Any,
    y: Any,
    rows: Optional[ArrayLike],
    times: Optional[ArrayLike],
    series: Optional[ArrayLike],
) -> Labelled:
    """Check what goes together.

    Raises
    ------
    InputError
        The lengths differ; a target names no output, or is not numbers; a time is none.
    """
    names = [tensor.name for tensor in model.metadata.inputs]
    inputs = {name: np.asarray(x[name]) for name in names if name in x} if isinstance(x, Mapping) else {names[0]: x}
    inputs = {name: np.asarray(array) for name, array in inputs.items()}
    count = len(next(iter(inputs.values()))) if inputs else 0
    if not inputs or not count:
        raise InputError("x has no rows; give inputs and the targets that were observed for them")
    declared = model.table.outputs if model.table else {}
    targets = _targets([head for head in model.heads if head.kind != LOGVAR], y, declared)
    names_of, of_series = (("",), np.zeros(count, np.int64)) if series is None else _series(series)
    ids = np.arange(count, dtype=np.int64) if rows is None else np.asarray(rows)
    at = None if times is None else _times(times)
    given = {"rows": ids, "series": of_series, **({} if at is None else {"times": at}), **targets}
    for name, array in given.items():
        if len(array) != count:
            raise InputError(f"{name} has {len(array):,} rows and x {count:,}; give a target for each, NaN if unknown")
    return Labelled(inputs, targets, ids, at, of_series, _in_time(at, of_series), names_of)


def _targets(heads: Sequence[Head], y: Any, declared: Mapping[str, Target]) -> dict[str, Floats]:
    names = [head.output for head in heads]
    if not isinstance(y, Mapping):
        if len(names) > 1:
            raise InputError(f"y does not say of which output it is, and there are {names}; give {{{names[0]!r}: y}}")
        y = {names[0]: y}
    unknown = [name for name in y if name not in names]
    if unknown or not y:
        raise InputError(f"y has targets of {unknown or 'nothing'}; the outputs that have any are {names}")
    return {name: _numbers(name, _numbered(name, values, declared.get(name))) for name, values in y.items()}


def _numbered(name: str, values: Any, declared: Optional[Target]) -> Any:
    """The numbers of classes that are given by their labels, which the artifact's table has."""
    given = np.asarray(values)
    if declared is None or declared.labels is None or given.dtype.kind not in "OU":
        return values
    try:
        numbers = [np.nan if each is None or each != each else declared.class_number(str(each)) for each in given.flat]
    except ValueError as error:
        raise InputError(f"a target of {name!r} is {error}; give these, or None where nothing was observed") from None
    return np.array(numbers, np.float64).reshape(given.shape)


def _numbers(name: str, values: Any) -> Floats:
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the targets of {name!r} are no numbers ({error}); give floats, classes as 0, 1, ..."
        ) from None


def _series(series: ArrayLike) -> tuple[tuple[str, ...], NDArray[np.int64]]:
    """Names and numbers of the series, in the order in which they sort."""
    names, numbers = np.unique(np.asarray(series), return_inverse=True)
    return tuple(str(name) for name in names), numbers.reshape(-1).astype(np.int64)


def _times(times: ArrayLike) -> NDArray[np.datetime64]:
    try:
        return np.asarray(times, "datetime64[ms]")
    except (TypeError, ValueError) as error:
        raise InputError(f"times are none ({error}); give numpy datetimes or ISO 8601 text") from None


def _in_time(times: Optional[NDArray[np.datetime64]], series: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows by time; without times, several series side by side, as if they began and ended together."""
    if times is not None:
        return np.argsort(times, kind="stable")
    if not series.any():
        return np.arange(len(series))
    place = np.empty(len(series))
    for which in np.unique(series):
        rows = np.flatnonzero(series == which)
        place[rows] = (np.arange(len(rows)) + 0.5) / len(rows)
    return np.argsort(place, kind="stable")


def fitted_targets(head: Head, targets: Floats, shape: tuple[int, ...]) -> Floats:
    """Targets in the shape of an output's answers, [n, ...]; of a softmax class numbers, [n, ...] without that axis.

    Raises
    ------
    InputError
        They have another shape; a class is none of the model's, an event neither 0 nor 1.
    """
    wanted = shape[:-1] if head.kind == SOFTMAX else shape
    if head.kind == SOFTMAX and targets.shape[1:] == shape and wanted != shape and shape[-1] > 1:
        complete = np.isfinite(targets).all(axis=-1)
        if (np.sort(targets[complete], axis=-1) == [0] * (shape[-1] - 1) + [1]).all():  # one-hot
            targets = np.where(complete, targets.argmax(axis=-1), np.nan)
    if math.prod(targets.shape[1:]) == 1 == math.prod(wanted):
        targets = targets.reshape(-1, *wanted)
    if targets.shape[1:] != wanted:
        raise InputError(
            f"the targets of {head.output!r} are {list(targets.shape)}; its answers ask for [rows, "
            f"{', '.join(map(str, wanted))}]".replace("[rows, ]", "[rows]")
        )
    known = targets[np.isfinite(targets)]
    if np.isinf(targets).any():
        raise InputError(f"the targets of {head.output!r} hold infinity; give NaN for what is not known")
    classes = shape[-1] if head.kind == SOFTMAX else 2
    if head.kind in (SOFTMAX, SIGMOID) and not ((known == np.rint(known)) & (known >= 0) & (known < classes)).all():
        odd = known[(known != np.rint(known)) | (known < 0) | (known >= classes)][0]
        raise InputError(f"a target of {head.output!r} is {odd:g}; give classes from 0 to {classes - 1}")
    return targets


def predictions(
    model: Model[Any, Any], of: Labelled, samples: int, seed: int, progress: Optional[Progress] = None
) -> Iterator[tuple[slice, Predictions]]:
    """The answers to consecutive blocks of rows, samples kept; `progress` is told of samples x rows."""
    size = _block(model, of, samples)
    for start in range(0, len(of), size):
        block = slice(start, start + size)
        inputs = {name: array[block] for name, array in of.inputs.items()}
        found = _answer(model, inputs, of.rows[block], samples, seed)
        yield block, found
        if progress:
            progress(samples * len(of.rows[block]))


def _answer(
    model: Model[Any, Any], inputs: dict[str, NDArray[Any]], rows: NDArray[np.int64], samples: int, seed: int
) -> Predictions:
    names = [tensor.name for tensor in model.metadata.outputs]
    x = inputs if len(inputs) > 1 else next(iter(inputs.values()))
    if model.metadata.stream:
        # A stream that begins with each window: its answer after the last step is that to the window.
        stream = model.stream(samples=samples, seed=seed, rows=rows)
        found = stream.push(x)
    else:
        found = model.predict(
            inputs if len(inputs) > 1 else next(iter(inputs.values())), samples=samples, seed=seed, rows=rows
        )
    return found if isinstance(found, dict) else {names[0]: found}


def _block(model: Model[Any, Any], of: Labelled, samples: int) -> int:
    def elements(tensor: Tensor) -> int:
        longest = max(array.shape[1] if array.ndim > 1 else 1 for array in of.inputs.values())
        return math.prod(longest if size is None else size for size in tensor.shape[2:])

    return max(1, BLOCK_BYTES // (4 * samples * sum(elements(tensor) for tensor in model.metadata.outputs)))


def answer_shape(prediction: Prediction) -> tuple[int, ...]:
    """The shape of a row's answer: of a mean and its log-variance, without the latter."""
    tail = prediction.mean.shape[1:]
    return (*tail[:-1], tail[-1] // 2) if prediction.head.kind == MEAN_LOGVAR else tail
