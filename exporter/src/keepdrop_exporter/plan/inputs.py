"""What a model is tried on: the data given, or random inputs that it accepts; and how near is near enough."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import Tensor
from keepdrop_exporter.errors import VerifyError

from . import keras_hooks
from .draws import LENGTHS, Plan
from .reference import Arrays, reference

Data = NDArray[np.generic] | Mapping[str, NDArray[np.generic]] | None

# The standard deviation of inputs of which nothing is known: scaled numbers lie in 0 .. 1 or are standard normal, and
# on larger ones than they were made for, recurrences with unbounded activations magnify rounding a hundred times.
_SMALL = 0.5

# Apart far enough to stay so behind strides and pooling.
_LENGTH_STEP = 3


def given(plan: Plan, data: NDArray[np.generic] | Mapping[str, NDArray[np.generic]], rows: int) -> Arrays:
    """The first ``rows`` of the data by input name; VerifyError where they do not fit the model's inputs."""
    named = {plan.inputs[0].name: data} if isinstance(data, np.ndarray) else dict(data)
    missing = [t.name for t in plan.inputs if t.name not in named]
    if missing or (isinstance(data, np.ndarray) and len(plan.inputs) > 1):
        raise VerifyError(
            f"the data lack input {(missing or [plan.inputs[1].name])[0]!r}; "
            f"the model's inputs are {[t.name for t in plan.inputs]}"
        )
    taken = {t.name: np.asarray(named[t.name][:rows]).astype(t.dtype, copy=False) for t in plan.inputs}
    lengths = {name: len(array) for name, array in taken.items()}
    if 0 in lengths.values() or len(set(lengths.values())) > 1:
        raise VerifyError(f"the data have {lengths} rows; give each input the same number of them, and at least one")
    return taken


def random_batches(plan: Plan, rows: int, seed: int, size: float = 1.0) -> list[Arrays]:
    """Inputs at two lengths where the length is dynamic; axes that need not be alike have lengths of their own.

    ``size`` times as far from the middle of their scale as usual.
    """
    rng = np.random.default_rng(seed % 2**64)
    dynamic = sum(n is None for t in plan.inputs for n in t.shape[1:])
    step = 0
    if dynamic > 1 and _runs(plan, random_batch(plan, 1, LENGTHS[0], np.random.default_rng(0), _LENGTH_STEP)):
        step = _LENGTH_STEP
    return [random_batch(plan, rows, length, rng, step, size) for length in (LENGTHS if dynamic else LENGTHS[:1])]


def _runs(plan: Plan, x: Arrays) -> bool:
    try:
        reference(plan, x, np.zeros(1, np.int64), 1, 0)
    except VerifyError:
        return False
    return True


def random_batch(
    plan: Plan, rows: int, length: int, rng: np.random.Generator, step: int = 0, size: float = 1.0
) -> Arrays:
    """Inputs that the model accepts, [rows, ...] each, where dynamic axis i has the length ``length + i * step``."""
    limits = keras_hooks.vocabulary_sizes(plan.model)
    masked = keras_hooks.mask_values(plan.model)
    normalized = keras_hooks.normalizations(plan.model)
    lengths = itertools.count(length, step)
    batch = {}
    for i, t in enumerate(plan.inputs):
        shape = (rows, *(next(lengths) if n is None else n for n in t.shape[1:]))
        batch[t.name] = _random_input(t, shape, limits.get(i), size if i in normalized else size * _SMALL, rng)
        if i in normalized:
            # Numbers of the input's own scale: others would saturate what follows, and prove little.
            mean, variance = (np.asarray(part)[0] for part in normalized[i])
            batch[t.name] = (mean + np.sqrt(variance) * batch[t.name]).astype(t.dtype)
        if i in masked:
            # One row ends early, another has a gap; where steps are few, none is masked.
            batch[t.name][0, shape[1] - shape[1] // 3 :] = masked[i]
            batch[t.name][-1, 1 : 1 + shape[1] // 4] = masked[i]
    return batch


def _random_input(
    tensor: Tensor, shape: Sequence[int], limit: int | None, size: float, rng: np.random.Generator
) -> NDArray[np.generic]:
    if tensor.dtype == "bool":
        return rng.random(shape) < 0.5
    if limit is not None or "int" in tensor.dtype:
        return rng.integers(0, limit or 2, shape).astype(tensor.dtype)
    return (size * rng.standard_normal(shape)).astype(tensor.dtype)
