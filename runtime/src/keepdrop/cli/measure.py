"""Measure: what samples cost on this device, and what precision they buy.

The mean of n samples has the standard error s / sqrt(n), where s is the standard deviation of one. So a standard error
of p takes n = (s / p)^2 samples.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepdrop.answer.prediction import Prediction
from keepdrop.artifact.metadata import Metadata
from keepdrop.errors import InputError
from keepdrop.model import Model

# Samples that the standard deviation is measured with: it is known within 1 / sqrt(2 n), about 2 percent.
PILOT = 1000
# Calls are timed for so long, and so many at least, after one that is not.
SECONDS = 0.3
LEAST_CALLS = 5


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a call with so many samples: median and quartiles."""

    samples: int
    milliseconds: float
    low: float
    high: float


def timing(model: Model[Any, Any], x: Any, samples: int) -> Timing:
    """Time calls for mean and standard deviation of the rows of `x`."""

    def call() -> float:
        start = time.perf_counter()
        model.predict(x, samples=samples, quantiles=())
        return time.perf_counter() - start

    call()
    seconds: list[float] = []
    while len(seconds) < LEAST_CALLS or sum(seconds) < SECONDS:
        seconds.append(call())
    low, median, high = (1e3 * np.quantile(seconds, [0.25, 0.5, 0.75])).tolist()
    return Timing(samples, median, low, high)


def spread(model: Model[Any, dict[str, Prediction]], x: Any, seed: int = 0) -> dict[str, float]:
    """The standard deviation of one sample by output: the largest over the rows of `x` and the output's elements."""
    predictions = model.predict(x, samples=PILOT, seed=seed, quantiles=())
    return {name: float(np.max(prediction.std)) for name, prediction in predictions.items()}


def standard_error(spread: float, samples: int) -> float:
    """That of the mean of so many samples."""
    return spread / math.sqrt(samples)


def samples_for(spread: float, precision: float) -> int:
    """The fewest samples whose mean has a standard error of at most `precision`."""
    # A hair less, so that rounding up does not turn 100.00000000000001 into 101.
    return max(1, math.ceil((spread / precision) ** 2 * (1 - 1e-12)))


def expected_milliseconds(timings: Sequence[Timing], samples: int) -> float:
    """What a call with so many samples takes: on the line through the two timings around it, or nearest to it."""
    known = sorted(timings, key=lambda timing: timing.samples)
    if len(known) == 1:
        return known[0].milliseconds * samples / known[0].samples
    after = next((i for i, timing in enumerate(known[1:-1], 1) if timing.samples >= samples), len(known) - 1)
    a, b = known[after - 1], known[after]
    slope = max(0.0, (b.milliseconds - a.milliseconds) / (b.samples - a.samples))
    return max(0.0, a.milliseconds + slope * (samples - a.samples))


def random_inputs(metadata: Metadata, rows: int, length: int, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Inputs of the artifact's shapes, where dynamic axes are `length`: standard normal, or 0 and 1 for integers.

    Raises
    ------
    InputError
        The artifact takes what is neither.
    """
    rng = np.random.default_rng(seed)
    inputs: dict[str, NDArray[Any]] = {}
    for tensor in metadata.inputs:
        dtype = np.dtype(tensor.dtype)
        shape = (rows, *(length if size is None else size for size in tensor.shape[1:]))
        if dtype.kind not in "biuf":
            raise InputError(f"input {tensor.name!r} takes {dtype}, of which there are no random ones; give --data")
        inputs[tensor.name] = (rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)).astype(
            dtype
        )
    return inputs
