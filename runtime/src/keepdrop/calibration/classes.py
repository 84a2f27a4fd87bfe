"""Probabilities of classes that hold: tempered by labelled rows, and the sets of labels that go with them.

Pure numpy. Probabilities are the means of Monte-Carlo samples: where the model is good they are too cautious, so that
temperatures come out below 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from .conformal import ROUNDING, TAUS, Floats, golden, upper_ranks

# A probability of 0 has a logarithm.
LEAST = 1e-12
# The temperatures that are searched: ln T.
COLDEST, HOTTEST = -4.0, 4.0
NEWTON_STEPS = 100


def tempered(probabilities: Floats, temperature: float) -> Floats:
    """``softmax(ln(p) / T)`` over the last axis. Guo, Pleiss, Sun, Weinberger (2017)."""
    logits = np.log(np.maximum(probabilities, LEAST)) / temperature
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def fit_temperature(probabilities: Floats, labels: NDArray[np.int64]) -> float:
    """The temperature of the largest likelihood, between exp(-4) and exp(4): probabilities [n, C], labels [n]."""
    logs = np.log(np.maximum(probabilities, LEAST))

    def cost(u: float) -> float:
        logits = logs * math.exp(-u)
        top = logits.max(axis=-1)
        total = top + np.log(np.sum(np.exp(logits - top[:, np.newaxis]), axis=-1))
        return float(np.mean(total - np.take_along_axis(logits, labels[:, np.newaxis], -1)[:, 0]))

    return math.exp(golden(cost, COLDEST, HOTTEST))


def moved(probabilities: Floats, slope: Floats, offset: Floats) -> Floats:
    """``sigmoid(slope * logit(p) + offset)``, element by element: probabilities [..., E]."""
    logits = slope * logit(probabilities) + offset
    return np.asarray(0.5 * (1 + np.tanh(logits / 2)))  # which does not overflow


def logit(probabilities: Floats) -> Floats:
    """``ln(p / (1 - p))``, finite for 0 and 1."""
    p = np.clip(probabilities, LEAST, 1 - LEAST)
    return np.asarray(np.log(p) - np.log1p(-p))


def fit_logit(probabilities: Floats, labels: NDArray[np.int64]) -> tuple[float, float]:
    """Slope and offset on the logit by likelihood: probabilities and labels [n], 1 where the event came.

    The targets are (N1 + 1) / (N1 + 2) and 1 / (N0 + 2) for 1 and 0, so that there is a largest likelihood though the
    classes be apart. Platt: Probabilistic Outputs for Support Vector Machines (1999); Lin, Lin, Weng (2007), whose
    Newton steps these are.
    """
    x = logit(probabilities)
    came = int(np.sum(labels))
    target = np.where(labels == 1, (came + 1) / (came + 2), 1 / (len(labels) - came + 2))
    at = np.array([1.0, 0.0])
    cost = _logistic_cost(at, x, target)
    for _ in range(NEWTON_STEPS):
        p = 0.5 * (1 + np.tanh((at[0] * x + at[1]) / 2))
        weight = p * (1 - p)
        slopes = np.array([np.sum((p - target) * x), np.sum(p - target)])
        if np.max(np.abs(slopes)) < 1e-9 * len(x):
            break
        curve = np.array([[np.sum(weight * x * x), np.sum(weight * x)], [np.sum(weight * x), np.sum(weight)]])
        step = np.linalg.solve(curve + 1e-12 * np.eye(2), slopes)
        while (new := _logistic_cost(at - step, x, target)) > cost and np.max(np.abs(step)) > 1e-12:
            step = step / 2
        if new >= cost:
            break
        at, cost = at - step, new
    return float(at[0]), float(at[1])


def _logistic_cost(at: Floats, x: Floats, target: Floats) -> float:
    logits = at[0] * x + at[1]
    return float(np.sum(np.logaddexp(0, logits) - target * logits))


def label_knots(probabilities: Floats, labels: NDArray[np.int64]) -> Floats:
    """Quantiles at TAUS of ``1 - p`` of the class that came, at conformal ranks: probabilities [n, C], labels [n].

    Sadinle, Lei, Wasserman: Least Ambiguous Set-Valued Classifiers with Bounded Error Levels (2019).
    """
    scores = np.sort(1 - np.take_along_axis(probabilities, labels[:, np.newaxis], -1)[:, 0])
    n = len(scores)
    return np.asarray(scores[np.clip(upper_ranks(TAUS, n, n), 1, n) - 1])


def label_set(probabilities: Floats, knots: Floats, level: float) -> NDArray[np.bool_]:
    """Which classes are in the set that holds the one to come with probability `level`: bool [..., C].

    All whose ``1 - p`` is within the conformal quantile. It may be empty: where no class is probable enough to be
    among what was right before.
    """
    return np.asarray(1 - probabilities <= np.interp(level, TAUS, knots) + ROUNDING)


def least_labelled(level: float) -> int:
    """How many rows a label set of this level takes: level / (1 - level)."""
    return math.ceil(level / (1 - level) - ROUNDING)
