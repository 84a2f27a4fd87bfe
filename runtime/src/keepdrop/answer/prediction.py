"""Prediction: what the samples of one output say, summarised over the sample axis.

NaN among the samples of an element makes every figure of it NaN. An infinite one makes its mean infinite (NaN where
both infinities are among them) and its variance, standard deviation and error NaN; quantiles are numpy's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Optional, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepdrop.artifact.metadata import BATCH_AXIS, LOGVAR, MEAN, MEAN_LOGVAR, SAMPLE_AXIS, SIGMOID, SOFTMAX, Head
from keepdrop.errors import InputError

from . import moments, showing
from .figures import SAMPLES, statistics
from .moments import Moments, Tally, across

if TYPE_CHECKING:
    from keepdrop.calibration.feedback import Tracked
    from keepdrop.calibration.record import Calibration

# Levels are written by hand: 1 - 0.9 is not twice 0.05 in floating point.
LEVEL_TOLERANCE = 1e-9


class Top(NamedTuple):
    """The most probable class: its number, int64, and its mean probability."""

    label: NDArray[np.int64]
    probability: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the samples of one output say: [batch, ...] arrays, float64 where the samples are and float32 otherwise.

    Everything is accumulated in float64, and computed when it is first asked for.

    Attributes
    ----------
    n
        The number of samples T: an int, or int64 [batch] where ``until`` let rows stop at different numbers.
    samples
        [samples, batch, ...], or None where ``predict`` was given ``quantiles``. Where rows stopped at different
        numbers, NaN from a row's ``n`` on.
    quantiles
        Those that ``predict`` was asked for, by number.
    head
        What the numbers of this output are: see ``keepdrop.artifact.Head``.
    met
        bool [batch]: the question of ``until`` was answered, not cut short by ``max_samples``, ``deadline`` or NaN.
        None without ``until``.
    decision
        "above", "below" or "undecided", [batch, ...] of the elements that :func:`keepdrop.decided` watched; None
        without it.
    tally, dtype, partner, calibration, tracked
        What the figures are made from where samples are not kept, their dtype, the prediction of the log-variance, and
        what calibrated the artifact, and what a stream's rows learned since.
    """

    n: Union[int, NDArray[np.int64]]
    samples: Optional[NDArray[Any]]
    quantiles: Mapping[float, NDArray[Any]]
    head: Head
    met: Optional[NDArray[np.bool_]] = None
    decision: Optional[NDArray[np.str_]] = None
    tally: Optional[Tally] = None
    dtype: np.dtype[Any] = np.dtype(np.float32)
    partner: Optional[Prediction] = None
    calibration: Optional[Calibration] = None
    tracked: Optional[Callable[[], Tracked]] = None

    def __repr__(self) -> str:
        kept = "" if self.samples is None else ", samples kept"
        n = self.n if isinstance(self.n, int) else f"{self.n.min()} ... {self.n.max()}"
        return f"Prediction({self.head.output!r}, {self.head.kind}, {list(self.mean.shape)}, n={n}{kept})"

    def _repr_html_(self) -> str:
        """Its first rows, as a notebook shows them."""
        columns = self.to_dict()
        shown = list(columns)[: showing.MOST_COLUMNS]
        rows = zip(range(showing.MOST_ROWS), *(columns[name] for name in shown))
        more = max(0, len(self.mean) - showing.MOST_ROWS)
        return showing.html_table(repr(self), ["row", *shown], rows, more)

    def to_dict(self, interval: Union[float, Sequence[float]] = ()) -> dict[str, NDArray[Any]]:
        """Its figures as columns [batch] by name: ``pandas.DataFrame(p.to_dict(interval=0.9))``.

        Mean, std, the intervals of these levels; of class probabilities the top class and the entropies; of a mean and
        log-variance the parts of the variance. Where a row has several elements their indices come after the name, as
        in ``mean_0_2``. Of a calibrated output the intervals are those of an observation, as in :attr:`observation`.

        Parameters
        ----------
        interval
            A level such as 0.9, or several.

        Raises
        ------
        InputError
            A level is not between 0 and 1, or its quantiles were not kept.
        """
        levels = (interval,) if isinstance(interval, (int, float)) else tuple(interval)
        arrays = statistics(self, levels)
        return showing.flat_columns({name: values for name, values in arrays.items() if name != SAMPLES})

    def to_frame(self, interval: Union[float, Sequence[float]] = (), library: Optional[str] = None) -> Any:
        """:meth:`to_dict` as a frame of pandas, polars or pyarrow: the one that is named, or is loaded already.

        Raises
        ------
        InputError
            None of them is loaded, or as :meth:`to_dict`.
        """
        return showing.frame_of(self.to_dict(interval), library)

    @cached_property
    def mean(self) -> NDArray[Any]:
        """The mean of the samples."""
        return self._cast(self._moments.mean)

    @cached_property
    def variance(self) -> NDArray[Any]:
        """The sample variance, with the divisor n - 1: NaN for a single sample."""
        return self._cast(self._moments.variance)

    @cached_property
    def std(self) -> NDArray[Any]:
        """The sample standard deviation, the root of ``variance``: how far samples scatter, however many there are."""
        return self._cast(np.sqrt(self._moments.variance))

    @cached_property
    def standard_error(self) -> NDArray[Any]:
        """``std / sqrt(n)``: how far ``mean`` is likely to be from that of infinitely many samples."""
        return self._cast(self._moments.standard_error)

    def quantile(self, q: ArrayLike) -> NDArray[Any]:
        """The quantile(s) of the samples, linear between neighbours as ``numpy.quantile`` has it.

        ``q`` is a number from 0 to 1, giving [batch, ...], or a sequence of k, giving [k, batch, ...]. Hyndman and
        Fan: Sample Quantiles in Statistical Packages (1996), definition 7.

        Raises
        ------
        InputError
            A number is outside 0 ... 1, or was not kept.
        """
        numbers = checked_quantiles(q)
        if self.samples is not None:
            return _quantile(self.samples, numbers, self.n)
        kept = [self._kept(float(number)) for number in np.atleast_1d(numbers)]
        if numbers.ndim == 0:
            return kept[0]
        return np.stack(kept) if kept else np.empty((0, *self.mean.shape), self.dtype)

    def interval(self, level: float = 0.9) -> tuple[NDArray[Any], NDArray[Any]]:
        """The central (equal-tailed) interval that holds the share `level` of the samples: (low, high), [batch, ...].

        Raises
        ------
        InputError
            `level` is not between 0 and 1, or its quantiles were not kept.
        """
        low, high = interval_quantiles(level)
        return self.quantile(low), self.quantile(high)

    @cached_property
    def observation(self) -> Any:
        """Where an observation will fall: an :class:`Observation`, or of classes a :class:`ClassObservation`.

        The samples say how much the model varies; this says what they are worth, from labelled rows.

        Raises
        ------
        InputError
            The artifact is not calibrated (the text names the command), or no median was kept.
        """
        from .observation import observed  # which is of predictions

        return observed(self, self.calibration)

    @property
    def is_calibrated(self) -> bool:
        """Whether ``observation`` has an answer: the artifact keeps what labelled rows said of this output."""
        of = None if self.calibration is None else self.calibration.of(self.head.output)
        return of is not None and of.is_of(self.head.kind)

    @property
    def exact_mean(self) -> NDArray[np.float64]:
        """``mean`` before it is rounded to the dtype of the samples."""
        return self._moments.mean

    @property
    def exact_variance(self) -> NDArray[np.float64]:
        """``variance`` before it is rounded; of a mean and its log-variance ``total``."""
        if self.head.kind in (MEAN, MEAN_LOGVAR):
            return self._aleatoric + self._epistemic
        return self._moments.variance

    @cached_property
    def predictive_entropy(self) -> NDArray[Any]:
        """The entropy of the mean probabilities, in nats: all uncertainty about the class.

        ``H[mean_t p_t]``: [batch, ...] without the class axis for softmax, each element's own for sigmoid, where it is
        that of an event and its contrary. From 0 to ln(classes). Gal: Uncertainty in Deep Learning (2016), section
        3.3.1; Shannon (1948).

        Raises
        ------
        InputError
            The head is not softmax or sigmoid, or the samples are no probabilities.
        """
        return self._cast(self._predictive_entropy)

    @cached_property
    def expected_entropy(self) -> NDArray[Any]:
        """The mean of the samples' entropies, in nats: what stays uncertain though the model be known.

        ``mean_t H[p_t]``, the aleatoric part in Depeweg et al.: Decomposition of Uncertainty in Bayesian Deep Learning
        (2018). Shapes and errors as in ``predictive_entropy``.
        """
        return self._cast(self._expected_entropy)

    @cached_property
    def mutual_information(self) -> NDArray[Any]:
        """``predictive_entropy - expected_entropy``, in nats: how much the samples disagree (BALD).

        Houlsby et al.: Bayesian Active Learning for Classification and Preference Learning (2011); Gal,
        Islam, Ghahramani: Deep Bayesian Active Learning with Image Data (2017). Not negative: rounding below 0 is
        cut. Shapes and errors as in ``predictive_entropy``.
        """
        return self._cast(np.maximum(self._predictive_entropy - self._expected_entropy, 0))

    @cached_property
    def variation_ratio(self) -> NDArray[Any]:
        """The share of samples whose own most probable class is not the one that most of them have.

        ``1 - votes of the modal class / n``, from 0 to 1 - 1/classes. A sample votes for the first of equally probable
        classes; one of a sigmoid for the event where p > 1/2. Freeman: Elementary Applied Statistics (1965); Gal
        (2016), section 3.3.1. Shapes and errors as in ``predictive_entropy``.
        """
        votes = self._class_sums()[moments.VOTES]
        n = across(self.n, self._moments.mean)
        if self.head.kind == SOFTMAX:
            most = votes.max(axis=-1)
            n = across(self.n, most)
        else:
            most = np.maximum(votes, n - votes)
        return self._cast(np.where(np.isnan(self._expected_entropy), np.nan, 1 - most / n))

    @cached_property
    def top(self) -> Top:
        """The class with the largest mean probability, and that probability: (label, probability).

        softmax: the position on the last axis, the first of equals, [batch, ...] without that axis. sigmoid: of each
        element 1 where its mean is above 1/2, else 0, and the mean or 1 - mean. NaN among the means: -1 and NaN. Errors
        as in ``predictive_entropy``.
        """
        self._class_sums()
        mean = self._moments.mean
        if self.head.kind == SOFTMAX:
            label, probability = np.argmax(mean, axis=-1), np.max(mean, axis=-1)
        else:
            label, probability = (mean > 0.5).astype(np.int64), np.maximum(mean, 1 - mean)
        return Top(np.where(np.isnan(probability), -1, label), self._cast(probability))

    @cached_property
    def aleatoric(self) -> NDArray[Any]:
        """The noise that the model sees in the data: the mean over samples of exp(log-variance), a variance.

        Kendall and Gal: What Uncertainties Do We Need in Bayesian Deep Learning for Computer Vision?
        (2017). [batch, ..., K] for a head whose last axis is 2K; for two outputs it is the mean's that has it. Infinite
        where exp overflows.

        Raises
        ------
        InputError
            The head is not mean and log-variance.
        """
        return self._cast(self._aleatoric)

    @cached_property
    def epistemic(self) -> NDArray[Any]:
        """How much the model itself varies: the variance over samples of the mean it predicts.

        Kendall and Gal (2017), with the divisor n - 1 of ``variance`` where they divide by n: NaN for a
        single sample. Shapes and errors as in ``aleatoric``.
        """
        return self._cast(self._epistemic)

    @cached_property
    def total(self) -> NDArray[Any]:
        """``aleatoric + epistemic``: the variance of an observation by the law of total variance.

        Kendall and Gal (2017). Shapes and errors as in ``aleatoric``.
        """
        return self._cast(self._aleatoric + self._epistemic)

    @cached_property
    def _moments(self) -> Moments:
        return Moments.of(self._kept_samples) if self.tally is None else self.tally.moments

    @cached_property
    def _sums(self) -> Mapping[str, NDArray[Any]]:
        return moments.sums(self._kept_samples, self.head.kind) if self.tally is None else self.tally.sums

    @property
    def _kept_samples(self) -> NDArray[Any]:
        assert self.samples is not None  # they are where there is no tally
        return self.samples

    def _class_sums(self) -> Mapping[str, NDArray[Any]]:
        """The sums of class probabilities; refuses what gives none."""
        name, kind = self.head.output, self.head.kind
        if kind not in (SOFTMAX, SIGMOID):
            raise InputError(
                f"this is of class probabilities, and the head of output {name!r} is {kind!r}; if it gives them, say "
                f"so in predict or at export: heads={{{name!r}: 'softmax'}}, or 'sigmoid'"
            )
        if self._sums[moments.IMPROPER].any():
            raise InputError(
                f"output {name!r} is declared {kind!r} and gave samples that are no probabilities; export the model "
                f"with that activation at its end, or declare the head 'value'"
            )
        return self._sums

    @cached_property
    def _predictive_entropy(self) -> NDArray[np.float64]:
        self._class_sums()
        return moments.entropy(self._moments.mean, self.head.kind)

    @cached_property
    def _expected_entropy(self) -> NDArray[np.float64]:
        entropies: NDArray[np.float64] = self._class_sums()[moments.ENTROPIES]
        return np.asarray(entropies / across(self.n, entropies))

    @property
    def _aleatoric(self) -> NDArray[np.float64]:
        kind, name = self.head.kind, self.head.output
        if kind == MEAN and self.partner is not None:
            noise = self.partner._sums[moments.NOISE]
        elif kind == MEAN_LOGVAR:
            noise = self._sums[moments.NOISE]
        elif kind == LOGVAR:
            raise InputError(f"output {name!r} is the log-variance of {self.head.partner!r}; ask that one's prediction")
        else:
            raise InputError(
                f"this is of a mean and its log-variance, and the head of output {name!r} is {kind!r}; if it predicts "
                f"both, say so in predict or at export: heads={{{name!r}: '{MEAN_LOGVAR}'}}"
            )
        return np.asarray(noise / across(self.n, noise))

    @property
    def _epistemic(self) -> NDArray[np.float64]:
        shape = self._aleatoric.shape  # refuses other heads
        return self._moments.variance[..., : shape[-1]] if self.head.kind == MEAN_LOGVAR else self._moments.variance

    def _cast(self, values: NDArray[np.float64]) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            return np.asarray(values).astype(self.dtype)

    def _kept(self, number: float) -> NDArray[Any]:
        for kept, values in self.quantiles.items():
            if abs(kept - number) <= LEVEL_TOLERANCE:
                return values
        raise InputError(
            f"quantile {number:g} was not kept, only {[float(f'{q:g}') for q in self.quantiles]} were; "
            "add it to quantiles=, or leave quantiles= out to keep the samples"
        )


def interval_quantiles(level: float) -> tuple[float, float]:
    """The two quantiles that bound the central interval of `level`; InputError outside 0 < level < 1."""
    if not (isinstance(level, (int, float, np.number)) and 0 < level < 1):
        raise InputError(f"level is {level!r}; give a number between 0 and 1, such as 0.9")
    low = (1 - float(level)) / 2
    return low, 1 - low


def checked_quantiles(q: ArrayLike) -> NDArray[np.float64]:
    """`q` as float64, a number or one sequence of numbers from 0 to 1, otherwise InputError."""
    try:
        numbers = np.asarray(q, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"q is {q!r}; expected a number from 0 to 1 or a sequence of them") from None
    if numbers.ndim > 1 or not np.all((numbers >= 0) & (numbers <= 1)):
        raise InputError(f"q is {q!r}; expected a number from 0 to 1 or a sequence of them")
    return numbers


def summarise(
    samples: NDArray[Any],
    quantiles: Optional[NDArray[np.float64]] = None,
    tally: Optional[Tally] = None,
    head: Optional[Head] = None,
    calibration: Optional[Calibration] = None,
    tracked: Optional[Callable[[], Tracked]] = None,
) -> Prediction:
    """The Prediction of [samples, batch, ...]; costs nothing until it is asked for something.

    Given `quantiles`, those are computed and the samples not kept. Given `tally`, all figures but quantiles are its: of
    these samples and of others before them, or of the first of each row where it has a count for each.
    """
    head = head or Head("output")
    if quantiles is not None and tally is None:
        tally = Tally.of(samples, head.kind)
    n = tally.moments.count if tally else len(samples)
    values: dict[float, NDArray[Any]] = {}
    if quantiles is not None and quantiles.size:
        values = dict(zip(quantiles.tolist(), _quantile(samples, quantiles, n)))
    kept = samples if quantiles is None else None
    dtype = _float_dtype(samples.dtype)
    return Prediction(n, kept, values, head, tally=tally, dtype=dtype, calibration=calibration, tracked=tracked)


def concatenated(parts: Sequence[Prediction]) -> Prediction:
    """One Prediction from those of consecutive row blocks, each of which has a tally."""
    if len(parts) == 1:
        return parts[0]
    tally = moments.concatenated_tally([part.tally for part in parts if part.tally is not None])
    return replace(
        parts[0],
        n=tally.moments.count,
        samples=_beside([part.samples for part in parts if part.samples is not None]),
        quantiles={q: np.concatenate([part.quantiles[q] for part in parts]) for q in parts[0].quantiles},
        met=None if parts[0].met is None else np.concatenate([part.met for part in parts if part.met is not None]),
        decision=None
        if parts[0].decision is None
        else np.concatenate([part.decision for part in parts if part.decision is not None]),
        tally=tally,
    )


def _beside(parts: Sequence[NDArray[Any]]) -> Optional[NDArray[Any]]:
    """Samples [n, rows, ...] of row blocks as [samples, batch, ...], NaN where a block has fewer than another."""
    if not parts:
        return None
    most = max(len(part) for part in parts)
    lacking = any(len(part) < most for part in parts)
    padded = []
    for part in parts:
        rest = np.full((most - len(part), *part.shape[1:]), np.nan if lacking else 0, np.result_type(part, np.float32))
        padded.append(np.concatenate([part, rest]) if lacking else part)
    return np.concatenate(padded, axis=BATCH_AXIS)


def paired(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The same, each that predicts a mean with the one of its log-variance at hand."""
    by_name = {p.head.output: p for p in predictions}
    return [replace(p, partner=by_name.get(p.head.partner or "")) if p.head.kind == MEAN else p for p in predictions]


def _quantile(samples: NDArray[Any], numbers: NDArray[np.float64], n: Union[int, NDArray[np.int64]]) -> NDArray[Any]:
    dtype = _float_dtype(samples.dtype)
    if isinstance(n, np.ndarray):  # each row's samples are its first n
        values = np.empty((numbers.size, *samples.shape[1:]), dtype)
        for count in np.unique(n):
            values[:, n == count] = _quantile(samples[:count, n == count], numbers.reshape(-1), int(count))
        return values.reshape(*numbers.shape, *samples.shape[1:])
    # float64 numbers, also where there is one: numpy would round a lone Python float to float32 first.
    with np.errstate(invalid="ignore"):  # between infinities
        values = np.quantile(samples.astype(dtype, copy=False), numbers, axis=SAMPLE_AXIS)
    return np.asarray(values).astype(dtype, copy=False)


def _float_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)
