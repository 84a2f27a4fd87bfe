"""Moments: what adds up over samples, so that none of them need be held with another.

NaN among the samples of an element makes each of its numbers NaN; an infinite one makes the mean infinite, or NaN
where both infinities are among them, and the variance NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import LOGVAR, MEAN_LOGVAR, SAMPLE_AXIS, SIGMOID, SOFTMAX

# How far beyond 0 and 1 a probability may be rounded, and the sum of a row's beyond 1.
ROUNDING = 1e-6
ROUNDING_OF_SUM = 1e-3
# How many numbers are turned into float64 at once.
AT_ONCE = 1 << 20

# Sums over samples by name: see `sums`.
ENTROPIES = "entropies"
VOTES = "votes"
IMPROPER = "improper"
NOISE = "noise"


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and sum of squared deviations of samples, float64 [batch, ...], which add up over chunks of them.

    ``count`` is one number, or int64 [batch] where rows were put together that have different numbers of samples.

    Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (1979).
    """

    count: Union[int, NDArray[np.int64]]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, samples: NDArray[Any]) -> Moments:
        """Those of [samples, batch, ...]."""
        # Sums rather than numpy.mean and numpy.var: the mean is found once, and a small call takes 15 us less.
        with np.errstate(invalid="ignore", over="ignore"):  # infinity
            mean = np.add.reduce(samples, axis=SAMPLE_AXIS, dtype=np.float64) / len(samples)
            apart = samples - mean  # [T, B, ...] in float64
            squares = np.add.reduce(np.multiply(apart, apart, out=apart), axis=SAMPLE_AXIS)
        return cls(len(samples), np.asarray(mean), np.asarray(squares))

    def plus(self, other: Moments) -> Moments:
        """Those of the samples of both."""
        count = self.count + other.count
        share = other.count / count
        with np.errstate(invalid="ignore", over="ignore"):
            apart = other.mean - self.mean
            # The step from one mean to the other rounds least, and has no meaning from or to infinity.
            mean = np.where(np.isfinite(apart), self.mean + apart * share, self.mean + other.mean)
            squares = self.squares + other.squares + apart**2 * (self.count * share)
        return Moments(count, mean, squares)

    def rows(self, index: NDArray[Any]) -> Moments:
        """Those of some rows."""
        count = self.count if isinstance(self.count, int) else self.count[index]
        return Moments(count, self.mean[index], self.squares[index])

    @property
    def each_count(self) -> Any:
        """``count`` in a shape that goes with [batch, ...]."""
        return across(self.count, self.mean)

    @property
    def variance(self) -> NDArray[np.float64]:
        """The sample variance, divisor count - 1; NaN for a single sample."""
        count = np.asarray(self.each_count)
        return np.asarray(np.where(count > 1, self.squares, np.nan) / np.maximum(count - 1, 1))

    @property
    def standard_error(self) -> NDArray[np.float64]:
        """The standard deviation of the mean, sqrt(variance / count); NaN for a single sample."""
        return np.asarray(np.sqrt(self.variance / self.each_count))


@dataclass(frozen=True, eq=False)
class Tally:
    """All that is kept of samples that are not: their moments, and the sums that their head asks for."""

    moments: Moments
    sums: Mapping[str, NDArray[Any]]

    @classmethod
    def of(cls, samples: NDArray[Any], kind: str) -> Tally:
        """That of [samples, batch, ...] from a head of some kind."""
        return cls(Moments.of(samples), sums(samples, kind))

    def plus(self, other: Tally) -> Tally:
        """That of the samples of both."""
        added = {name: array + other.sums[name] for name, array in self.sums.items()}
        return Tally(self.moments.plus(other.moments), added)

    def rows(self, index: NDArray[Any]) -> Tally:
        """That of some rows."""
        return Tally(self.moments.rows(index), {name: array[index] for name, array in self.sums.items()})


def concatenated_tally(parts: Sequence[Tally], each: bool = False) -> Tally:
    """The tally of all rows from those of some; its count is [batch] where theirs are, or differ, or if `each`."""
    counts = [part.moments.count for part in parts]
    count: Union[int, NDArray[np.int64]] = counts[0]
    if each or any(isinstance(c, np.ndarray) or c != count for c in counts):
        count = np.concatenate([np.broadcast_to(c, len(p.moments.mean)) for c, p in zip(counts, parts)]).astype(
            np.int64
        )
    together = Moments(
        count,
        np.concatenate([part.moments.mean for part in parts]),
        np.concatenate([part.moments.squares for part in parts]),
    )
    return Tally(together, {name: np.concatenate([part.sums[name] for part in parts]) for name in parts[0].sums})


def sums(samples: NDArray[Any], kind: str) -> dict[str, NDArray[Any]]:
    """What a head's further figures need of [samples, batch, ...], as sums over samples.

    softmax      entropies [batch, ...] without the class axis, in nats; votes [batch, ..., classes], how many samples
                 give that class the largest probability (the first of equals); improper [batch, ...], how many are
                 no probabilities
    sigmoid      the same for each element: entropies, votes (above 1/2) and improper [batch, ...]
    mean,logvar  noise [batch, ..., K], the sum of exp(log-variance)
    logvar       noise [batch, ...]
    """
    if kind not in (SOFTMAX, SIGMOID, MEAN_LOGVAR, LOGVAR):
        return {}
    step = max(1, AT_ONCE * len(samples) // max(1, samples.size))
    parts = [_sums(samples[start : start + step], kind) for start in range(0, len(samples), step)]
    return {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}


def _sums(samples: NDArray[Any], kind: str) -> dict[str, NDArray[Any]]:
    if kind in (MEAN_LOGVAR, LOGVAR):
        logvar = samples[..., samples.shape[-1] // 2 :] if kind == MEAN_LOGVAR else samples
        with np.errstate(over="ignore"):
            return {NOISE: np.exp(logvar.astype(np.float64)).sum(axis=SAMPLE_AXIS)}
    p = samples.astype(np.float64)  # [T, B, ...]
    best = np.argmax(p, axis=-1)[..., np.newaxis] == np.arange(p.shape[-1]) if kind == SOFTMAX else p > 0.5
    return {
        ENTROPIES: entropy(p, kind).sum(axis=SAMPLE_AXIS),
        VOTES: best.sum(axis=SAMPLE_AXIS),
        IMPROPER: _improper(p, kind).sum(axis=SAMPLE_AXIS),
    }


def entropy(p: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    """Shannon's entropy of class probabilities in nats, with 0 log 0 = 0.

    softmax: ``-sum_k p_k ln p_k`` over the last axis, which goes. sigmoid: ``-p ln p - (1 - p) ln(1 - p)`` of each
    element.

    Shannon: A Mathematical Theory of Communication (1948), section 6.
    """
    if kind == SOFTMAX:
        return np.asarray(_surprise(p).sum(axis=-1))
    return _surprise(p) + _surprise(1 - p)


def median(samples: NDArray[Any]) -> NDArray[np.float64]:
    """The median of numbers [T, ...] over T, as `numpy.quantile` has it, in a tenth of its time."""
    below, above = (len(samples) - 1) // 2, len(samples) // 2
    parted = np.partition(samples, (below, above), axis=SAMPLE_AXIS)
    return np.asarray((parted[below] + parted[above].astype(np.float64)) / 2)


def across(per_row: Any, like: NDArray[Any]) -> Any:
    """[batch] as [batch, 1, ...] beside [batch, ...]; one number stays what it is."""
    array = np.asarray(per_row)
    return array.reshape(-1, *(1,) * (like.ndim - 1)) if array.ndim else per_row


def _surprise(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """-p ln p; 0 for 0 and 1 and for what rounding brought beyond them; NaN for NaN."""
    inside = np.where(p <= 0, 1.0, np.minimum(p, 1.0))
    return np.asarray(-inside * np.log(inside))


def _improper(p: NDArray[np.float64], kind: str) -> NDArray[np.bool_]:
    with np.errstate(invalid="ignore"):  # infinity - infinity
        outside = (p < -ROUNDING) | (p > 1 + ROUNDING)
        if kind == SIGMOID:
            return outside
        return np.asarray(outside.any(axis=-1) | (np.abs(p.sum(axis=-1) - 1) > ROUNDING_OF_SUM))
