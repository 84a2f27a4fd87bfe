"""Prediction: the samples of one output, summarised over the sample axis.

NaN among the samples of an element makes its mean, standard deviation and quantiles NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .artifact import SAMPLE_AXIS
from .errors import InputError

# Levels are written by hand: 1 - 0.9 is not twice 0.05 in floating point.
LEVEL_TOLERANCE = 1e-9


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the samples of one output say: [batch, ...] arrays, float64 where the samples are and float32 otherwise.

    ``mean`` and ``std`` are accumulated in float64. ``std`` is the sample standard deviation (divisor T - 1), hence
    NaN for a single sample. ``samples`` is [samples, batch, ...], or None where ``predict`` was given ``quantiles``;
    then ``quantiles`` holds those by number.
    """

    mean: NDArray[Any]
    std: NDArray[Any]
    samples: Optional[NDArray[Any]]
    quantiles: Mapping[float, NDArray[Any]]

    def quantile(self, q: ArrayLike) -> NDArray[Any]:
        """The quantile(s) of the samples, linear between neighbours as ``numpy.quantile`` has it.

        ``q`` is a number from 0 to 1, giving [batch, ...], or a sequence of k, giving [k, batch, ...].

        Raises
        ------
        InputError
            A number is outside 0 ... 1, or was not kept.
        """
        numbers = checked_quantiles(q)
        if self.samples is not None:
            return _quantile(self.samples, numbers)
        kept = [self._kept(float(number)) for number in np.atleast_1d(numbers)]
        if numbers.ndim == 0:
            return kept[0]
        return np.stack(kept) if kept else np.empty((0, *self.mean.shape), self.mean.dtype)

    def interval(self, level: float = 0.9) -> tuple[NDArray[Any], NDArray[Any]]:
        """The central interval that holds the share `level` of the samples: (low, high), each [batch, ...].

        Raises
        ------
        InputError
            `level` is not between 0 and 1, or its quantiles were not kept.
        """
        low, high = interval_quantiles(level)
        return self.quantile(low), self.quantile(high)

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


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean and sum of squared deviations of samples, float64 [batch, ...], which add up over chunks of them.

    Chan, Golub, LeVeque: Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (1979).
    """

    count: int
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, samples: NDArray[Any]) -> Moments:
        """Those of [samples, batch, ...]."""
        mean = np.asarray(np.mean(samples, axis=SAMPLE_AXIS, dtype=np.float64))
        return cls(len(samples), mean, np.var(samples, axis=SAMPLE_AXIS, dtype=np.float64) * len(samples))

    def plus(self, other: Moments) -> Moments:
        """Those of the samples of both."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        return Moments(count, mean, self.squares + other.squares + apart**2 * (self.count * other.count / count))

    @property
    def std(self) -> NDArray[np.float64]:
        """The sample standard deviation; NaN for a single sample."""
        return np.sqrt(self.squares / (self.count - 1)) if self.count > 1 else np.full_like(self.mean, np.nan)


def summarise(
    samples: NDArray[Any], quantiles: Optional[NDArray[np.float64]] = None, moments: Optional[Moments] = None
) -> Prediction:
    """The Prediction of [samples, batch, ...].

    Given `quantiles`, those are computed and the samples not kept. Given `moments`, mean and standard deviation are
    theirs: of these samples and of others before them.
    """
    dtype = _float_dtype(samples)
    moments = moments or Moments.of(samples)
    values: dict[float, NDArray[Any]] = {}
    if quantiles is not None and quantiles.size:
        values = dict(zip(quantiles.tolist(), _quantile(samples, quantiles)))
    return Prediction(
        mean=np.asarray(moments.mean).astype(dtype),
        std=np.asarray(moments.std).astype(dtype),
        samples=samples if quantiles is None else None,
        quantiles=values,
    )


def joined(parts: Sequence[Prediction]) -> Prediction:
    """One Prediction from those of consecutive row blocks, none of which keeps samples."""
    return Prediction(
        mean=np.concatenate([part.mean for part in parts]),
        std=np.concatenate([part.std for part in parts]),
        samples=None,
        quantiles={q: np.concatenate([part.quantiles[q] for part in parts]) for q in parts[0].quantiles},
    )


def _quantile(samples: NDArray[Any], numbers: NDArray[np.float64]) -> NDArray[Any]:
    dtype = _float_dtype(samples)
    # float64 numbers, also where there is one: numpy would round a lone Python float to float32 first.
    values = np.quantile(samples.astype(dtype, copy=False), numbers, axis=SAMPLE_AXIS)
    return np.asarray(values).astype(dtype, copy=False)


def _float_dtype(samples: NDArray[Any]) -> Union[type[np.float32], type[np.float64]]:
    return np.float64 if samples.dtype == np.float64 else np.float32
