"""Stopping: when a row has enough samples. Pure functions of the samples seen so far.

A rule is asked after every block of samples, row by row; what it watches in a row has to be answered for the row to
stop. It looks at the means of a head, not at log-variances, unless these are named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional, Union

import numpy as np
from numpy.typing import NDArray

from keepdrop.answer.moments import ROUNDING, Moments
from keepdrop.artifact.metadata import LOGVAR, MEAN_LOGVAR, SIGMOID, SOFTMAX, Head
from keepdrop.errors import InputError

# Fewer samples tell too little of their own spread: a standard error of them is often far too small.
LEAST = 16
# Fewer samples whose bounds are not known do not show how skewed they are: of lognormal ones, 16 would make the test
# wrong twice as often as it says.
LEAST_UNBOUNDED = 64
# The largest part of what a bet could lose that is put at stake (c in Waudby-Smith and Ramdas).
STAKE = 0.75
# The variance of the effect sizes, in standard deviations, that the t-test weighs: the unit information prior.
EFFECT = 1.0

ABOVE, BELOW, UNDECIDED = 1, -1, 0
WORDS = np.array(["undecided", "above", "below"])  # by the above

Index = Union[None, int, tuple[int, ...]]


class Bets(NamedTuple):
    """The bets on one output's means so far, float64 [batch, elements] each."""

    total: NDArray[np.float64]  # sum of the samples
    squares: NDArray[np.float64]  # sum of (sample - regularised mean so far)^2
    above: NDArray[np.float64]  # log capital of the gambler who says that the mean is above the threshold
    below: NDArray[np.float64]


class Look(NamedTuple):
    """What a rule has found about one output: [batch] and [batch, elements]."""

    met: NDArray[np.bool_]
    decision: Optional[NDArray[np.int8]] = None
    bets: Optional[Bets] = None

    def rows(self, index: NDArray[Any]) -> Look:
        """That of some rows."""
        bets = self.bets and Bets(*(array[index] for array in self.bets))
        return Look(self.met[index], None if self.decision is None else self.decision[index], bets)


@dataclass(frozen=True)
class StandardError:
    """A rule made by :func:`standard_error`."""

    tolerance: float
    relative: float
    output: Optional[str]
    element: Index

    def look(self, last: Optional[Look], head: Head, samples: NDArray[Any], moments: Moments, elements: int) -> Look:
        """Whether the standard errors of the rows are small enough by now."""
        error, std = moments.standard_error, np.sqrt(moments.variance)
        small = error <= self.tolerance + self.relative * std  # NaN: no
        met = flat(chosen(small, head, self.element)).all(axis=1)
        return Look(np.asarray(met & (moments.count >= LEAST)))


@dataclass(frozen=True)
class Decided:
    """A rule made by :func:`decided`."""

    threshold: float
    confidence: float
    bounds: Optional[tuple[float, float]]
    output: Optional[str]
    element: Index

    def look(self, last: Optional[Look], head: Head, samples: NDArray[Any], moments: Moments, elements: int) -> Look:
        """Which elements are decided by now; `elements` of a row are watched and share its chance of an error."""
        chance = (1 - self.confidence) / elements
        bounds = self.bounds_of(head)
        if bounds is None:
            mean, variance = (flat(chosen(a, head, self.element)) for a in (moments.mean, moments.variance))
            found, bets = t_decision(moments.count, mean, variance, self.threshold, chance), None
        else:
            unit = scaled(flat(chosen(samples, head, self.element, leading=2), leading=2), bounds, head)
            threshold = (self.threshold - bounds[0]) / (bounds[1] - bounds[0])
            before = int(moments.count) - len(samples)
            found, bets = bet(last.bets if last else None, unit, before, threshold, chance)
        if last is not None and last.decision is not None:
            found = np.where(last.decision, last.decision, found)  # a decision stands
        return Look(np.all(found, axis=1), found.astype(np.int8), bets)

    def bounds_of(self, head: Head) -> Optional[tuple[float, float]]:
        """The bounds between which all samples of a head are; None where there are none."""
        return (0.0, 1.0) if self.bounds is None and head.kind in (SOFTMAX, SIGMOID) else self.bounds


Rule = Union[StandardError, Decided]


def standard_error(
    tolerance: float = 0.0, *, relative: float = 0.0, output: Optional[str] = None, element: Index = None
) -> StandardError:
    """Enough samples once the standard error of the mean is at most `tolerance`, for ``predict(until=...)``.

    A row stops when that holds for each of its elements: ``std / sqrt(n) <= tolerance + relative * std``, n at least
    16. The standard error is estimated from the samples that decide the stop, so that it comes out small a little too
    often; Chow and Robbins: On the Asymptotic Theory of Fixed-Width Sequential Confidence Intervals for the Mean (1965)
    show that this vanishes as the tolerance does. Elements whose samples agree have a standard error of 0.

    Parameters
    ----------
    tolerance
        In the units of the output.
    relative
        A share of the element's own spread: alone it asks for ``1 / relative**2`` samples, however wide that is.
    output
        The name of the one output to watch (default: each).
    element
        The position of the one element to watch within a row, an int or a tuple of them (default: each).

    Raises
    ------
    InputError
        A number is negative or not finite, or both are 0.
    """
    tolerance, relative = _number("tolerance", tolerance), _number("relative", relative)
    if min(tolerance, relative) < 0 or tolerance == relative == 0:
        raise InputError(
            f"standard_error({tolerance:g}, relative={relative:g}) is never reached; give a positive tolerance, in the "
            "units of the output, or a positive share of the spread as relative="
        )
    return StandardError(tolerance, relative, output, element)


def decided(
    threshold: float,
    confidence: float = 0.99,
    *,
    bounds: Optional[tuple[float, float]] = None,
    output: Optional[str] = None,
    element: Index = None,
) -> Decided:
    """Enough samples once the mean is known to be above or below `threshold`, for ``predict(until=...)``.

    The mean is that of infinitely many samples; ``Prediction.decision`` tells the side. A row stops when all of its
    elements are decided. The chance that any decision of a row is wrong, ever, is at most 1 - `confidence`, however
    often one looks and whenever one stops: shared equally among the elements watched (Bonferroni), and within each by
    a test that is valid at any time (Ville's inequality: the capital of fair bets reaches 1 / chance with that chance
    at most).

    - Between `bounds` (for softmax and sigmoid heads 0 and 1 unless given): exactly valid whatever the samples'
      distribution. Two gamblers bet on either side of the threshold, the stakes being the approximate growth-rate
      adaptive ones (aGRAPA) of Waudby-Smith and Ramdas: Estimating Means of Bounded Random Variables by Betting
      (J. R. Stat. Soc. B 86, 2024); a side is decided when its capital reaches 2 / chance.
    - Otherwise a t-test with a normal mixture over effect sizes: exactly valid for normal samples of unknown variance,
      approximately for others, from 64 samples on: Wang and Ramdas: Anytime-Valid t-Tests and Confidence Sequences for
      Gaussian Means with Unknown Variance (Sequential Analysis 44, 2025); the Bayes factor of Rouder et
      al.: Bayesian t Tests for Accepting and Rejecting the Null Hypothesis (2009). Where samples are far from
      normal, rare large ones above all, give bounds. Elements whose samples all agree stay undecided.

    A mean equal or very near to the threshold stays undecided until ``max_samples``.

    Parameters
    ----------
    threshold
        In the units of the output.
    confidence
        Between 0 and 1.
    bounds
        The least and the largest value that a sample can have.
    output, element
        The one output, by name, and the one element of a row, by position, to watch (default: each).

    Raises
    ------
    InputError
        A number is not finite, the confidence not between 0 and 1, or the threshold not between the bounds.
    """
    threshold, confidence = _number("threshold", threshold), _number("confidence", confidence)
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence:g}; give a number between 0 and 1, such as 0.99")
    if bounds is not None:
        try:
            low, high = bounds
        except (TypeError, ValueError):
            raise InputError(f"bounds is {bounds!r}; give the least and the largest value of a sample") from None
        bounds = _number("the lower bound", low), _number("the upper bound", high)
    rule = Decided(threshold, confidence, bounds, output, element)
    _check_threshold(rule, bounds)
    return rule


def watched(rule: Rule, heads: Sequence[Head]) -> list[Head]:
    """The heads that a rule looks at.

    Raises
    ------
    InputError
        It names an output that is not there, or its threshold is not between the bounds of a head.
    """
    if not isinstance(rule, (StandardError, Decided)):
        raise InputError(
            f"until is {rule!r}; give keepdrop.standard_error(tolerance) or keepdrop.decided(threshold, confidence)"
        )
    names = [head.output for head in heads]
    if rule.output is not None and rule.output not in names:
        raise InputError(f"until watches output {rule.output!r}; the model's outputs are {names}")
    looked_at = [head for head in heads if rule.output == head.output or rule.output is None and head.kind != LOGVAR]
    if isinstance(rule, Decided):
        for head in looked_at:
            _check_threshold(rule, rule.bounds_of(head))
    return looked_at


def chosen(array: NDArray[Any], head: Head, element: Index, leading: int = 1) -> NDArray[Any]:
    """What is watched of an array whose first `leading` axes come before those of a row.

    Raises
    ------
    InputError
        `element` is no position in a row of this output.
    """
    if element is None:
        return array[..., : array.shape[-1] // 2] if head.kind == MEAN_LOGVAR else array
    try:
        return array[(slice(None),) * leading + np.index_exp[element]]
    except IndexError:
        shape = list(array.shape[leading:])
        raise InputError(
            f"element {element!r} is not in output {head.output!r}, whose rows have the shape {shape}"
        ) from None


def flat(array: NDArray[Any], leading: int = 1) -> NDArray[Any]:
    """The axes after the first `leading` ones as one: [batch, elements], or [samples, batch, elements]."""
    return array.reshape(*array.shape[:leading], -1)


def scaled(samples: NDArray[Any], bounds: tuple[float, float], head: Head) -> NDArray[np.float64]:
    """Samples between bounds as numbers from 0 to 1; what is beyond by rounding is cut.

    Raises
    ------
    InputError
        A sample is beyond the bounds.
    """
    unit = (samples.astype(np.float64) - bounds[0]) / (bounds[1] - bounds[0])
    if (unit < -ROUNDING).any() or (unit > 1 + ROUNDING).any():
        raise InputError(
            f"output {head.output!r} gave samples from {samples.min():g} to {samples.max():g}, beyond the bounds "
            f"{bounds[0]:g} and {bounds[1]:g} that its head {head.kind!r} or bounds= promise; give bounds= that hold, "
            "or heads='value' for a test without"
        )
    return np.clip(unit, 0, 1)


def bet(
    bets: Optional[Bets], samples: NDArray[np.float64], before: int, threshold: float, chance: float
) -> tuple[NDArray[np.int8], Bets]:
    """The decisions, [batch, elements], of two gamblers who see samples [k, batch, elements] from 0 to 1.

    ``before`` samples were seen up to now. How samples are cut into blocks changes nothing.

    The capital of the gambler for "above" is ``prod_i (1 + l_i (x_i - m))``, m the threshold, with stakes 0 <= l_i <=
    STAKE / m that depend on the samples before i alone: where the mean is m or less it does not grow on average, so
    that it ever reaches 2 / chance with probability chance / 2 at most. Likewise for "below", ``prod_i (1 - l_i (x_i -
    m))`` with 0 <= l_i <= STAKE / (1 - m). Stakes and sources: :func:`decided`.
    """
    shape = samples.shape[1:]
    bets = bets or Bets(*(np.zeros(shape) for _ in Bets._fields))
    count = np.arange(before, before + len(samples) + 1).reshape(-1, 1, 1)  # samples before each, and after the last
    totals = _running(bets.total, samples)  # [k + 1, B, E]: before each sample, and after the last
    means = (0.5 + totals) / (count + 1)
    squares = _running(bets.squares, (samples - means[1:]) ** 2)
    variances = (0.25 + squares[:-1]) / (count[:-1] + 1)
    edge = means[:-1] - threshold
    stake = edge / (variances + edge**2)
    apart = samples - threshold
    above = _running(bets.above, np.log1p(np.clip(stake, 0, STAKE / threshold) * apart))
    below = _running(bets.below, np.log1p(-np.clip(-stake, 0, STAKE / (1 - threshold)) * apart))
    enough = math.log(2 / chance)
    first_above, first_below = _first(above >= enough), _first(below >= enough)
    sides = np.where(first_above < first_below, ABOVE, np.where(first_below < first_above, BELOW, UNDECIDED))
    return sides.astype(np.int8), Bets(totals[-1], squares[-1], above[-1], below[-1])


def t_decision(
    count: Any, mean: NDArray[np.float64], variance: NDArray[np.float64], threshold: float, chance: float
) -> NDArray[np.int8]:
    """The side of the threshold that the mean of `count` samples is decided to be on.

    UNDECIDED below 64 samples, and where all of them agree: nothing is known then of those that would not.

    With t = sqrt(n) (mean - m) / std, v = n - 1 and g = EFFECT, decided where

        (1 + n g)^(-1/2) * ((1 + t^2 / v) / (1 + t^2 / (v (1 + n g))))^(n / 2) >= 1 / chance

    Sources: :func:`decided`.
    """
    if count < LEAST_UNBOUNDED:
        return np.zeros(mean.shape, np.int8)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = count * (mean - threshold) ** 2 / variance / (count - 1)  # t^2 / v; without a variance never decided
        grown = 1 + count * EFFECT
        evidence = count / 2 * np.log(grown * (1 + ratio) / (grown + ratio)) - math.log(grown) / 2
        side = np.where(mean > threshold, ABOVE, BELOW)
        return np.where(evidence >= -math.log(chance), side, UNDECIDED).astype(np.int8)


def _running(start: NDArray[np.float64], steps: NDArray[np.float64]) -> NDArray[np.float64]:
    """start, start + steps[0], start + steps[0] + steps[1], ...: [k + 1, ...], added one by one."""
    return np.add.accumulate(np.concatenate([start[np.newaxis], steps]))


def _first(true: NDArray[np.bool_]) -> NDArray[np.int64]:
    """The first position on the first axis where it is true; its length where it is nowhere."""
    return np.where(true.any(axis=0), true.argmax(axis=0), len(true))


def _check_threshold(rule: Decided, bounds: Optional[tuple[float, float]]) -> None:
    if bounds is not None and not bounds[0] < rule.threshold < bounds[1]:
        raise InputError(
            f"threshold is {rule.threshold:g} and samples are from {bounds[0]:g} to {bounds[1]:g}, which decides it; "
            "give a threshold between them, or other bounds="
        )


def _number(name: str, value: Any) -> float:
    if isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise InputError(f"{name} is {value!r}; expected a finite number")
