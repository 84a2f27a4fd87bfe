"""Observation: where an observation will fall, from a prediction and what calibrated its artifact."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepdrop.artifact.metadata import MEAN_LOGVAR, SIGMOID, SOFTMAX, VALUE
from keepdrop.calibration import classes
from keepdrop.calibration.conformal import ROUNDING, TAUS, Floats, band, score_moments, score_probability
from keepdrop.calibration.feedback import MOST_LEVEL, TRACKED, WINDOW
from keepdrop.calibration.record import LEAST_SHARE, Calibration, Classes
from keepdrop.errors import InputError

from .moments import median
from .prediction import Prediction, checked_quantiles, interval_quantiles


@dataclass(frozen=True, eq=False)
class Observation:
    """Where an observation will fall: ``centre + scale * Q``, with Q the quantiles of calibrated scores.

    All answers are [batch, ...] in the output's unit, of the prediction's dtype.

    Attributes
    ----------
    centre, scale
        The median of the samples, and sqrt(a v + b) of their variance v: float64 [batch, ...].
    knots, taus
        Q at the probabilities `taus`: [..., len(taus)], for each element of a row, or of each row too.
    most
        The largest level that its rows bear.
    basis
        What it rests on, in words.
    factors
        Of a horizon, quantiles of the factor of its bands for the whole path.
    dtype
        Of the answers.
    """

    centre: Floats
    scale: Floats
    knots: Floats
    taus: Floats
    most: float
    basis: str
    factors: tuple[float, ...] = ()
    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __repr__(self) -> str:
        return f"Observation({list(self.centre.shape)}, {self.basis})"

    def quantile(self, q: ArrayLike) -> NDArray[Any]:
        """What an observation will not exceed with probability q.

        `q` is a number from 0 to 1, giving [batch, ...], or a sequence of k, giving [k, batch, ...].

        Raises
        ------
        InputError
            A number is outside 0 ... 1, or so near to them that the calibration's rows say nothing of it.
        """
        numbers = checked_quantiles(q)
        for number in numbers.reshape(-1).tolist():
            self._demand(abs(2 * number - 1), f"the quantile {number:g}")
        found = [self._at(number) for number in numbers.reshape(-1).tolist()]
        return np.asarray(found, self.dtype).reshape(*numbers.shape, *self.centre.shape)

    def interval(self, level: float = 0.9, joint: bool = False) -> tuple[NDArray[Any], NDArray[Any]]:
        """The interval that holds an observation with probability `level`, equal tails: (low, high), [batch, ...] each.

        With `joint`, the band that holds all steps of a horizon at once with that probability: the 0.9 band of each
        step about its median, times one factor.

        Raises
        ------
        InputError
            `level` is not between 0 and 1 or more than the calibration's rows bear; `joint` without a horizon.
        """
        low, high = interval_quantiles(level)
        if joint:
            return self._joint(level)
        self._demand(level, f"the interval of level {level:g}")
        return self._cast(self._at(low)), self._cast(self._at(high))

    def probability(self, above: Optional[float] = None, below: Optional[float] = None) -> NDArray[Any]:
        """The probability that an observation is above a threshold, below one, or between both: [batch, ...].

        Never less than ``1 / (n + 1)`` for n calibration rows on either side: of what none of them showed they say
        no more.

        Raises
        ------
        InputError
            Neither is given, or one is no number.
        """
        if above is None and below is None:
            raise InputError("give a threshold in the output's unit: probability(above=80), (below=0) or both")
        least = 0.0 if above is None else self._share_below(above, "above")
        most = 1.0 if below is None else self._share_below(below, "below")
        return self._cast(np.maximum(most - least, 0))

    def probability_below(self, values: NDArray[Any]) -> Floats:
        """The probability that an observation is below each of `values`, [batch, ...]: its PIT, float64."""
        z = (values - self.centre) / self.scale
        found = np.empty(z.shape)
        for index in np.ndindex(*self.knots.shape[:-1]):
            at = index if len(index) == z.ndim else (slice(None), *index)
            found[at] = score_probability(z[at], self.knots[index], self.most, self.taus)
        return np.where(np.isnan(z), np.nan, found)

    def limited(self, tau: float) -> Floats:
        """The quantile, float64 [batch, ...]; beyond what the rows bear, the outermost that they do."""
        beyond = (1 - self.most) / 2
        return self._at(min(max(tau, beyond), 1 - beyond))

    @cached_property
    def std(self) -> NDArray[Any]:
        """The standard deviation of an observation."""
        stds = np.empty(self.knots.shape[:-1])
        for index in np.ndindex(*stds.shape):
            stds[index] = score_moments(self.knots[index])[1] if self.taus is TAUS else self._spread_of(index)
        return self._cast(self.scale * stds)

    def _spread_of(self, index: tuple[int, ...]) -> float:
        return score_moments(np.interp(TAUS, self.taus, self.knots[index]))[1]

    def _at(self, tau: float) -> Floats:
        """The quantile, float64 [batch, ...]."""
        right = min(max(int(np.searchsorted(self.taus, tau)), 1), len(self.taus) - 1)
        left = right - 1
        share = (tau - self.taus[left]) / (self.taus[right] - self.taus[left])
        share = min(max(float(share), 0.0), 1.0)
        z = self.knots[..., left] * (1 - share) + self.knots[..., right] * share
        return np.asarray(self.centre + self.scale * z)

    def _share_below(self, threshold: float, name: str) -> Floats:
        if not isinstance(threshold, (int, float, np.number)) or np.isnan(threshold):
            raise InputError(f"{name} is {threshold!r}; give a number in the output's unit")
        return self.probability_below(np.asarray(threshold, np.float64))

    def _joint(self, level: float) -> tuple[NDArray[Any], NDArray[Any]]:
        if not self.factors:
            raise InputError("joint=True is of a horizon: of an output whose steps were calibrated together")
        self._demand(level, f"the joint interval of level {level:g}")
        factor = float(np.interp(level, TAUS, self.factors))
        middle, below, above = band(self.knots.reshape(-1, len(self.taus))[0])
        centre = self.centre + self.scale * middle
        return self._cast(centre - factor * below * self.scale), self._cast(centre + factor * above * self.scale)

    def _demand(self, level: float, what: str) -> None:
        if level > self.most + ROUNDING:
            raise InputError(
                f"{what} is beyond what was measured: {self.basis}, which bears intervals up to level "
                f"{self.most:.4g}; ask for less, or calibrate on more rows (2 / (1 - level) - 1 for signed scores)"
            )

    def _cast(self, values: Floats) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            return np.asarray(values).astype(self.dtype)


@dataclass(frozen=True, eq=False)
class ClassObservation:
    """Which class an observation will be of, from tempered probabilities.

    Attributes
    ----------
    raw
        The mean probabilities of the samples, float64 [batch, ...].
    calibration
        What was fitted to labelled rows.
    basis
        What it rests on, in words.
    dtype
        Of the answers.
    """

    raw: Floats
    calibration: Classes
    basis: str
    dtype: np.dtype[Any] = np.dtype(np.float32)

    def __repr__(self) -> str:
        return f"ClassObservation({list(self.raw.shape)}, {self.basis})"

    @cached_property
    def probability(self) -> NDArray[Any]:
        """The probability of each class, [batch, ..., classes]; of a sigmoid that of each event, [batch, ...]."""
        return np.asarray(self._probability).astype(self.dtype)

    def label_set(self, level: float = 0.9) -> NDArray[np.bool_]:
        """Which classes are in the set that holds the right one with probability `level`: bool [batch, ..., classes].

        Of a sigmoid: [batch, ..., 2], whether the set has the contrary (0) and the event (1). A set may be empty,
        where no class is as probable as right ones were. Sadinle, Lei, Wasserman (2019).

        Raises
        ------
        InputError
            `level` is not between 0 and 1, or is more than the calibration's rows bear.
        """
        interval_quantiles(level)
        rows = self.calibration.rows
        if level > rows / (rows + 1) + ROUNDING:
            raise InputError(
                f"a label set of level {level:g} takes {classes.least_labelled(level)} rows, level / (1 - level), and "
                f"it was {self.basis}; ask for less, or calibrate on more rows"
            )
        p = self._probability
        if self.calibration.kind == SIGMOID:
            p = np.stack([1 - p, p], axis=-1)
        return classes.label_set(p, np.array(self.calibration.sets), level)

    @cached_property
    def _probability(self) -> Floats:
        of = self.calibration
        if of.kind == SOFTMAX:
            return classes.tempered(self.raw, float(of.temperature or 1.0))
        return classes.moved(self.raw, np.reshape(of.slope, of.shape), np.reshape(of.offset, of.shape))


def observed(prediction: Prediction, calibration: Optional[Calibration]) -> Union[Observation, ClassObservation]:
    """What a prediction says of an observation.

    Raises
    ------
    InputError
        The artifact is not calibrated, nor this output; or its head is another here; or no median was kept.
    """
    name, kind = prediction.head.output, prediction.head.kind
    of = None if calibration is None else calibration.of(name)
    if calibration is None or of is None:
        what = "this artifact" if calibration is None else f"output {name!r}"
        raise InputError(
            f"{what} is not calibrated: its samples say how much the model varies, not where an observation falls; "
            "calibrate it with `keepdrop calibrate ARTIFACT LABELLED -o CALIBRATED` (keepdrop.calibrate in Python)"
        )
    if not of.is_of(kind):
        was = of.kind if isinstance(of, Classes) else VALUE
        raise InputError(f"output {name!r} was calibrated as {was!r} and is declared {kind!r}; leave heads= out")
    _check_samples(prediction, calibration)
    basis = calibration.words(name)
    if isinstance(of, Classes):
        _check_shape(name, prediction.mean.shape[1:], of.shape)
        return ClassObservation(prediction.exact_mean, of, basis, prediction.dtype)
    centre, variance = centre_and_variance(prediction)
    _check_shape(name, centre.shape[1:], of.shape)
    scale, most = of.spread.scale(variance), of.most_level
    if prediction.tracked is not None:
        quantiles, truths = prediction.tracked()
        if (truths >= WINDOW).all():  # the scores are the rows' own
            most = MOST_LEVEL
        words = f"{basis}, and learned from {truths.min()} truths of the row since"
        return Observation(
            centre, scale, np.sort(quantiles, axis=-1), TRACKED, min(most, MOST_LEVEL), words, (), prediction.dtype
        )
    return Observation(
        centre,
        scale,
        of.knots,
        TAUS,
        most,
        basis,
        of.scores[0].path if len(of.scores) == 1 else (),
        prediction.dtype,
    )


def centre_and_variance(prediction: Prediction) -> tuple[Floats, Floats]:
    """The median of the samples and the variance that scores are scaled by, float64 [batch, ...].

    Of a mean and its log-variance: the median of the means, and the total variance.
    """
    centre = _median(prediction)
    if prediction.head.kind == MEAN_LOGVAR:
        centre = centre[..., : centre.shape[-1] // 2]
    return centre, prediction.exact_variance


def _median(prediction: Prediction) -> Floats:
    if prediction.samples is not None and isinstance(prediction.n, int):
        return median(prediction.samples)  # where one is NaN the variance is, and with it every answer
    try:
        return prediction.quantile(0.5).astype(np.float64)
    except InputError:
        raise InputError(
            "the centre of an observation is the median, which was not kept; add 0.5 to quantiles=, or leave "
            "quantiles= out to keep the samples"
        ) from None


def _check_samples(prediction: Prediction, calibration: Calibration) -> None:
    fewest = int(np.min(prediction.n))
    if fewest < LEAST_SHARE * calibration.samples:
        warnings.warn(
            f"{fewest} samples where the calibration had {calibration.samples}: their median and variance vary more "
            f"than was measured; draw {int(np.ceil(LEAST_SHARE * calibration.samples))} or more",
            stacklevel=4,
        )


def _check_shape(name: str, found: tuple[int, ...], calibrated: tuple[int, ...]) -> None:
    if found != calibrated:
        raise InputError(f"output {name!r} was calibrated for rows of {list(calibrated)} and has {list(found)} here")
