"""Conformal predictive distributions: what errors on labelled rows say of an observation to come.

A row's answer is centred at the median m of its samples and scaled by ``s = sqrt(a v + b)``, where v is their variance
(of a mean and its log-variance the total one). The scores ``z = (y - m) / s`` of n labelled rows become the quantiles
``m + s Q(tau)`` of an observation, with Q the scores at conformal ranks. Whatever a, b and the model are, the
interval between two ranks holds an exchangeable observation with the probability that the ranks say.

- Vovk, Gammerman, Shafer: Algorithmic Learning in a Random World (2005): conformal ranks.
- Papadopoulos, Proedrou, Vovk, Gammerman: Inductive Confidence Machines for Regression (2002); Lei, G'Sell, Rinaldo,
  Tibshirani, Wasserman: Distribution-Free Predictive Inference for Regression (2018): split and scaled scores.
- Vovk, Shen, Manokhin, Xie: Nonparametric Predictive Distributions Based on Conformal Prediction (2019).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Q is kept at these probabilities: the ends of every interval whose level is a multiple of a hundredth.
TAUS: Floats = np.arange(201) / 200
SIGNED, SYMMETRIC = "signed", "symmetric"
# Forward coverage is that of intervals of this level, over so many blocks of time.
LEVEL = 0.9
BLOCKS = 4
# By how much the forward coverage of signed scores may stay below that of symmetric ones.
TOLERANCE = 0.05
# Levels are written by hand: 100 * (1 - 0.9) is not 10 in floating point.
ROUNDING = 1e-9
# How finely the share of the variance that the samples explain is searched.
SHARES = 40
_GOLDEN = (math.sqrt(5) - 1) / 2


class Spread(NamedTuple):
    """How samples become the scale of an observation, ``sqrt(a v + b)``; `a` has no unit, `b` the output's squared."""

    a: Floats  # [E], one for each element of a row
    b: Floats  # [E]

    def scale(self, variance: Any) -> Floats:
        """The scale for variances [..., E], in the output's unit."""
        # Not 0, so that a row without any spread has a score.
        return np.asarray(np.sqrt(np.maximum(self.a * variance + self.b, 1e-300)))


class Fitted(NamedTuple):
    """The scale and the quantiles of scores that were found for elements whose scores are pooled."""

    spread: Spread
    knots: Floats  # [201], of TAUS
    way: str
    forward: float


def fit_spread(errors: Floats, variances: Floats) -> tuple[float, float]:
    """a and b by Gaussian likelihood: of errors y - m, [n], and the variances of the same rows' samples.

    The likelihood of ``N(0, k (w v / mean(v) + 1 - w))`` is at its largest in k where k is the mean of the squared
    errors over that shape; the share w is the best of ``0, 1/40, ... 39/40``. Laves et al.: Well-Calibrated Regression
    Uncertainty in Medical Imaging with Deep Learning (2020) has the case w = 1, which a row without spread rules out.
    """
    squares, mean = errors**2, float(np.mean(variances))
    best = (math.inf, 0.0, float(np.mean(squares)))
    for share in np.arange(SHARES) / SHARES if mean > 0 else ():
        shape = share * variances / mean + (1 - share)
        k = float(np.mean(squares / shape))
        best = min(best, (_likelihood(squares, k * shape), k * float(share) / mean, k * (1 - float(share))))
    return best[1], best[2]


def fit_noise(errors: Floats, variances: Floats) -> tuple[float, float]:
    """a = 1 and b by Gaussian likelihood: what the samples' variance lacks, alike for every row."""
    squares = errors**2
    mean = float(np.mean(squares))
    if mean == 0:
        return 1.0, 0.0
    at = golden(lambda u: _likelihood(squares, variances + math.exp(u)), math.log(mean) - 18, math.log(mean) + 2)
    return 1.0, math.exp(at)


def _likelihood(squares: Floats, variance: Floats) -> float:
    """The negative logarithm, without its constant."""
    with np.errstate(divide="ignore", invalid="ignore"):  # errors of 0 all over
        return float(np.mean(np.log(variance) + squares / variance))


def golden(f: Callable[[float], float], low: float, high: float, steps: int = 60) -> float:
    """Where a function of one number with one minimum has it. Kiefer: Sequential Minimax Search (1953)."""
    c, d = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_c, at_d = f(c), f(d)
    for _ in range(steps):
        if at_c < at_d:
            high, d, at_d = d, c, at_c
            c = high - _GOLDEN * (high - low)
            at_c = f(c)
        else:
            low, c, at_c = c, d, at_d
            d = low + _GOLDEN * (high - low)
            at_d = f(d)
    return (low + high) / 2


def upper_ranks(taus: Floats, rows: int, scores: int) -> NDArray[np.int64]:
    """The rank, from 1, of the score that lies above a new one with probability tau at least: ceil((n + 1) tau).

    Where each of `rows` has several scores, which are not independent, they count as one: the ranks are those of
    ``scores / rows`` times as many. A rank above `scores` says that there are too few.
    """
    return np.ceil((rows + 1) * (scores / rows) * taus - ROUNDING).astype(np.int64)


def signed_knots(scores: Floats, rows: int) -> Floats:
    """Q at TAUS from scores of any sign, [n]: lower ranks below one half, upper ones above; the median between.

    Where a rank is beyond the scores the outermost one stands; :func:`most_level` says where that begins.
    """
    ordered, n = np.sort(scores), len(scores)
    upper = np.clip(upper_ranks(TAUS, rows, n), 1, n)
    lower = n + 1 - np.clip(upper_ranks(1 - TAUS, rows, n), 1, n)
    ranks = np.where(TAUS < 0.5, lower, upper)
    knots = ordered[ranks - 1]
    middle = len(TAUS) // 2
    knots[middle] = (ordered[lower[middle] - 1] + ordered[upper[middle] - 1]) / 2
    return np.asarray(knots)


def symmetric_knots(scores: Floats, rows: int) -> Floats:
    """Q at TAUS from the sizes of scores: the interval of level L reaches to rank ceil((n + 1) L) on both sides."""
    ordered, n = np.sort(np.abs(scores)), len(scores)
    levels = np.abs(2 * TAUS - 1)
    half = ordered[np.clip(upper_ranks(levels, rows, n), 1, n) - 1]
    half[levels == 0] = 0
    return np.asarray(np.sign(TAUS - 0.5) * half)


KNOTS: dict[str, Callable[[Floats, int], Floats]] = {SIGNED: signed_knots, SYMMETRIC: symmetric_knots}
SPREADS: dict[str, Callable[[Floats, Floats], tuple[float, float]]] = {SIGNED: fit_spread, SYMMETRIC: fit_noise}


def most_level(way: str, rows: int) -> float:
    """The largest level of an interval that so many rows bear: 1 - 2 / (n + 1) signed, 1 - 1 / (n + 1) symmetric."""
    return 1 - (2 if way == SIGNED else 1) / (rows + 1)


def least_rows(way: str, level: float) -> int:
    """How many rows an interval of this level takes: 19 for 0.9 with signed scores, 9 with symmetric ones."""
    return math.ceil((2 if way == SIGNED else 1) / (1 - level) - 1 - ROUNDING)


def fit(errors: Floats, variances: Floats, way: str) -> tuple[Spread, Floats]:
    """The scale of each element, and the knots of their pooled scores: errors and variances [n, E], NaN if unknown."""
    found = [SPREADS[way](*_known(errors[:, e], variances[:, e])) for e in range(errors.shape[1])]
    spread = Spread(np.array([a for a, _ in found]), np.array([b for _, b in found]))
    scores = errors / spread.scale(variances)
    return spread, KNOTS[way](scores[np.isfinite(scores)], len(scores))


def chosen(errors: Floats, variances: Floats) -> Fitted:
    """The same in the way that holds: signed, unless its coverage of the rows to come is worse than symmetric's.

    Rows are in the order of time; errors and variances [n, E].
    """
    forward = {way: forward_coverage(errors, variances, way) for way in (SIGNED, SYMMETRIC)}
    way = SIGNED if forward[SIGNED] >= forward[SYMMETRIC] - TOLERANCE else SYMMETRIC
    return Fitted(*fit(errors, variances, way), way, forward[way])


def forward_coverage(errors: Floats, variances: Floats, way: str, level: float = LEVEL) -> float:
    """The share of later rows that an interval fitted to the earlier ones holds: the honest figure for rows to come.

    The rows are cut into four blocks of time; each but the first is covered by what is fitted to those before it, and
    the mean of their three coverages taken.
    """
    edges = np.linspace(0, len(errors), BLOCKS + 1).astype(int)
    found = []
    for start, stop in zip(edges[1:-1], edges[2:]):
        if not np.isfinite(errors[:start]).any(axis=0).all():
            continue
        spread, knots = fit(errors[:start], variances[:start], way)
        scores = errors[start:stop] / spread.scale(variances[start:stop])
        low, high = np.interp([(1 - level) / 2, (1 + level) / 2], TAUS, knots)
        inside = ((low <= scores) & (scores <= high))[np.isfinite(scores)]
        if inside.size:
            found.append(float(np.mean(inside)))
    return float(np.mean(found)) if found else math.nan


def _known(errors: Floats, variances: Floats) -> tuple[Floats, Floats]:
    known = np.isfinite(errors) & np.isfinite(variances)
    return errors[known], variances[known]


def score_quantiles(taus: Any, knots: Floats) -> Floats:
    """Q, linear between its knots: beside the grid of TAUS nothing is known but that it rises."""
    return np.asarray(np.interp(taus, TAUS, knots))


def score_probability(scores: Any, knots: Floats, most: float, taus: Floats = TAUS) -> Floats:
    """P(z <= score): the inverse of Q, linear between its knots.

    Within the interval of level `most`, beyond which the rows say nothing: no less than ``(1 - most) / 2``, which is
    ``1 / (n + 1)`` for n signed scores, and no more than 1 less that.
    """
    # Of knots that are one score, the outermost has its rank: lower ranks are rounded down and upper ones up.
    values, first, counts = np.unique(knots, return_index=True, return_counts=True)
    last = first + counts - 1
    middle = len(taus) // 2
    at = taus[np.where(first >= middle, last, np.where(last <= middle, first, middle))]
    beyond = (1 - most) / 2
    return np.asarray(np.interp(scores, values, np.clip(at, beyond, 1 - beyond), beyond, 1 - beyond))


def score_moments(knots: Floats) -> tuple[float, float]:
    """Mean and standard deviation of the distribution with this Q, exact for one that is linear between knots."""
    low, high = knots[:-1], knots[1:]
    mean = float(np.mean((low + high) / 2))
    square = float(np.mean((low * low + low * high + high * high) / 3))
    return mean, math.sqrt(max(square - mean * mean, 0.0))


def path_knots(scores: Floats, knots: Floats) -> Floats:
    """By how much the 0.9 band of a path has to be widened for the whole of it to stay inside: quantiles at TAUS.

    scores [n, E], the steps of n paths. Each row's number is the least factor of the band about its median that holds
    all of its steps; its conformal ranks are those of a one-sided score. Diquigiovanni, Fontana, Vantini: The
    Importance of Being a Band (2022).
    """
    ordered = np.sort(path_factors(scores, knots)[np.isfinite(scores).all(axis=1)])
    n = len(ordered)
    return np.asarray(ordered[np.clip(upper_ranks(TAUS, n, n), 1, n) - 1])


def path_factors(scores: Floats, knots: Floats) -> Floats:
    """Of each path [..., E], the least factor of the 0.9 band that holds all of it."""
    middle, low, high = band(knots)
    apart = scores - middle
    return np.asarray(np.where(apart > 0, apart / high, -apart / low).max(axis=-1))


def band(knots: Floats) -> tuple[float, float, float]:
    """Q(0.5), and how far the 0.9 band reaches below and above it, in scores."""
    low, middle, high = score_quantiles([(1 - LEVEL) / 2, 0.5, (1 + LEVEL) / 2], knots)
    least = 1e-9 * max(high - low, 1e-300)
    return float(middle), max(float(middle - low), least), max(float(high - middle), least)
