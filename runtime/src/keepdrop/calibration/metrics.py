"""How good answers are beside what was observed. Pure numpy; NaN where an observation or an answer is NaN."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Autocorrelations are summed up to this one, and up to the first below NOISE.
LAGS = 400
NOISE = 0.02
# The levels at which the CRPS of a distribution is taken, as the mean of its quantiles' losses.
MIDPOINTS: Floats = (np.arange(100) + 0.5) / 100
# The bins of confidence of the expected calibration error.
BINS = 15


def effective_rows(values: Floats) -> float:
    """How many independent rows are worth as much as these, [n] in the order of time.

    ``n / (1 + 2 sum of autocorrelations)``, which are summed until one falls below 0.02. Geyer: Practical Markov Chain
    Monte Carlo (1992) has such initial sequences.
    """
    n = len(values)
    apart = values - np.mean(values)
    variance = float(np.mean(apart * apart))
    total = 0.0
    for lag in range(1, min(n // 3, LAGS)) if variance > 0 else ():
        correlation = float(np.mean(apart[:-lag] * apart[lag:])) / variance
        if correlation < NOISE:
            break
        total += correlation
    return n / (1 + 2 * total)


def coverage_error(coverage: float, effective: float) -> float:
    """The standard error of a coverage over so many effective rows.

    ``sqrt(p (1 - p) / n)`` with p drawn towards one half as by one row inside and one outside, so that it is not 0
    where all or none are inside (Laplace's rule of succession).
    """
    p = (coverage * effective + 1) / (effective + 2)
    return math.sqrt(p * (1 - p) / effective)


def interval_score(low: Floats, high: Floats, y: Floats, level: float) -> Floats:
    """Width, and ``2 / (1 - level)`` times what lies outside: the smaller the better, in the unit of y.

    Gneiting and Raftery: Strictly Proper Scoring Rules, Prediction, and Estimation (2007), section 6.2.
    """
    outside = np.maximum(low - y, 0) + np.maximum(y - high, 0)
    return np.asarray((high - low) + 2 / (1 - level) * outside)


def crps_samples(samples: Floats, y: Floats) -> Floats:
    """The fair CRPS of samples [T, ...] for y [...]: what infinitely many of them would have, in the unit of y.

    ``mean |x - y| - sum |x_i - x_j| / (2 T (T - 1))``; NaN for a single sample. Ferro: Fair Scores for Ensemble
    Forecasts (2014).
    """
    count = len(samples)
    if count < 2:
        return np.full(np.shape(y), np.nan)
    weights = (2 * np.arange(count) - count + 1).reshape(-1, *(1,) * (samples.ndim - 1))
    apart = np.sum(weights * np.sort(samples, axis=0), axis=0)
    return np.asarray(np.mean(np.abs(samples - y), axis=0) - apart / (count * (count - 1)))


def crps_quantiles(quantiles: Floats, y: Floats, taus: Floats = MIDPOINTS) -> Floats:
    """The CRPS of a distribution with these quantiles, [taus, ...]: twice their mean pinball loss.

    Laio and Tamea: Verification Tools for Probabilistic Forecasts of Continuous Hydrological Variables (2007).
    """
    apart = y - quantiles
    levels = taus.reshape(-1, *(1,) * (quantiles.ndim - 1))
    return np.asarray(2 * np.mean(np.maximum(levels * apart, (levels - 1) * apart), axis=0))


def log_score(probabilities: Floats, labels: NDArray[np.int64]) -> Floats:
    """``-ln p`` of the class that came, in nats: probabilities [n, C], labels [n]. Good: Rational Decisions (1952)."""
    given = np.take_along_axis(probabilities, labels[:, np.newaxis], axis=-1)[:, 0]
    return np.asarray(-np.log(np.maximum(given, 1e-300)))


def brier(probabilities: Floats, labels: NDArray[np.int64]) -> Floats:
    """The squared distance of probabilities [n, C] from what came, [n]: 0 to 2, summed over classes. Brier (1950)."""
    came = labels[:, np.newaxis] == np.arange(probabilities.shape[-1])
    return np.asarray(np.sum((probabilities - came) ** 2, axis=-1))


def calibration_error(probabilities: Floats, labels: NDArray[np.int64], bins: int = BINS) -> float:
    """The expected calibration error (ECE) of the most probable class: how far confidence is from being right.

    The mean, over bins of equal width weighted by their rows, of |share right - mean confidence|. Naeini, Cooper,
    Hauskrecht (2015); Guo, Pleiss, Sun, Weinberger: On Calibration of Modern Neural Networks (2017).
    """
    confidence = probabilities.max(axis=-1)
    right = (probabilities.argmax(axis=-1) == labels).astype(np.float64)
    which = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    apart = np.bincount(which, right - confidence, bins)
    return float(np.sum(np.abs(apart)) / len(labels))


def pit_samples(samples: Floats, y: Floats) -> Floats:
    """The probability integral transform: the share of samples [T, ...] below y, those equal to it by half.

    Dawid: Statistical Theory, the Prequential Approach (1984).
    """
    return np.asarray(np.mean(samples < y, axis=0) / 2 + np.mean(samples <= y, axis=0) / 2)


def rank_correlation(a: Any, b: Any) -> float:
    """Spearman's, with mean ranks for ties; NaN where one of them does not vary. Spearman (1904)."""
    of_a, of_b = _ranks(np.asarray(a, np.float64)), _ranks(np.asarray(b, np.float64))
    if len(of_a) < 2 or np.ptp(of_a) == 0 or np.ptp(of_b) == 0:
        return math.nan
    return float(np.corrcoef(of_a, of_b)[0, 1])


def _ranks(values: Floats) -> Floats:
    _, which, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[which])
