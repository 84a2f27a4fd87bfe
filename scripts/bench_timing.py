"""Timing that stands noise: contestants take turns, and what is compared is compared round by round.

In a round every contestant runs once, in an order drawn anew, so that a slow minute of the machine hits all of them.
A round's time is the median of some calls after an untimed one. A ratio is the median of the rounds' ratios.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST_CALLS = 3
MOST_CALLS = 200


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    rounds: int
    seconds: float  # of calls a contestant and round
    slow_rounds: int  # of contestants that run pass by pass; one call each
    passes: int  # of `model.predict`, at most
    fresh_rounds: int
    most_samples: int  # of the series over T
    many_samples: int  # whose memory is compared with that of 100


FULL = Effort(
    rounds=21, seconds=0.05, slow_rounds=5, passes=100, fresh_rounds=11, most_samples=10_000, many_samples=100_000
)
QUICK = Effort(rounds=3, seconds=0.01, slow_rounds=1, passes=5, fresh_rounds=3, most_samples=1_000, many_samples=20_000)


@dataclass(frozen=True)
class Contestant:
    """Something to time. `scale` is what a call's time is multiplied by, where it does a part of the work only."""

    name: str
    run: Callable[[], Any]
    slow: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class Spread:
    """Median and quartiles over rounds."""

    median: float
    low: float
    high: float
    rounds: int

    def as_json(self) -> dict[str, float]:
        return asdict(self)


Times = dict[str, NDArray[np.float64]]
"""Milliseconds [rounds] by contestant; NaN in the rounds it did not take part in."""


def race(contestants: Sequence[Contestant], effort: Effort) -> Times:
    times = {c.name: np.full(effort.rounds, np.nan) for c in contestants}
    shuffled = np.random.default_rng(0)
    gc.collect()
    gc.disable()
    try:
        for r in range(effort.rounds):
            for i in shuffled.permutation(len(contestants)):
                contestant = contestants[i]
                if not contestant.slow:
                    times[contestant.name][r] = _milliseconds(contestant.run, effort.seconds)
                elif r < effort.slow_rounds:
                    times[contestant.name][r] = _one_call(contestant.run) * contestant.scale
    finally:
        gc.enable()
    return times


def spread(values: NDArray[np.float64]) -> Spread:
    known = values[~np.isnan(values)]
    low, median, high = np.quantile(known, [0.25, 0.5, 0.75])
    return Spread(float(median), float(low), float(high), len(known))


def ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> Spread:
    """The rounds' a / b."""
    return spread(a / b)


def _milliseconds(run: Callable[[], Any], seconds: float) -> float:
    # The contestant before has left its own data in the caches, and perhaps threads that still spin.
    _one_call(run)
    calls: list[float] = []
    while len(calls) < LEAST_CALLS or (sum(calls) < seconds * 1e3 and len(calls) < MOST_CALLS):
        calls.append(_one_call(run))
    return float(np.median(calls))


def _one_call(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3
