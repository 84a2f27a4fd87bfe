"""Rates: every choice of a dropout exported, calibrated and judged on later rows, beside no dropout at all."""

from __future__ import annotations

import dataclasses
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

import keepdrop
from keepdrop import InputError, Model
from keepdrop.answer.heads import Heads
from keepdrop.calibration.conformal import LEVEL
from keepdrop.labelled.calibrating import effective_of_series
from keepdrop.labelled.rows import Labelled, labelled
from keepdrop.run.request import integer
from keepdrop_exporter.errors import ExportError
from keepdrop_exporter.loading.fitting import Shape
from keepdrop_exporter.loading.live import taken
from keepdrop_exporter.pipeline import export
from keepdrop_exporter.plan.draws import draws_anything

from .choices import RATES, Dropout, choices
from .judging import Figures, Judged, JudgingOptions, judged, time_splits
from .plain import SAMPLES as PLAIN_SAMPLES
from .plain import plain_model

SAMPLES, SPLITS = 100, 4
# A gain is named one where chance alone gives as much to the best of the choices with this probability at most.
CHANCE = 0.05
NONE, AS_IT_IS = "none", "as it is"


@dataclass(frozen=True)
class Candidate:
    """One dropout, and how good the model is with it.

    ``dropout`` is what ``export(..., dropout=)`` takes. ``gain`` is by which share of it the loss after calibration is
    smaller than without dropout (the mean over outputs), ``error`` its standard error, from the differences row by row
    and their effective number. ``refused`` says why there are no figures, if so.
    """

    name: str
    dropout: Dropout
    outputs: tuple[Figures, ...] = ()
    gain: float = 0.0
    error: float = 0.0
    refused: str | None = None


@dataclass(frozen=True)
class Tuning:
    """The choices in the order they were tried, and ``none`` beside them.

    ``str()`` is a table, ``to_dict()`` plain JSON.
    """

    rows: int
    splits: int
    gap: int
    samples: int
    seed: int
    level: float
    none: Candidate
    choices: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate | None:
        """The choice with the smallest loss; None where every one was refused."""
        judged = [choice for choice in self.choices if choice.refused is None]
        return max(judged, key=lambda choice: choice.gain, default=None)

    @property
    def bound(self) -> float:
        """How many times its standard error a gain has to be, so that the best of so many choices is not chance."""
        return statistics.NormalDist().inv_cdf(1 - CHANCE / max(1, len(self.choices)))

    @property
    def helps(self) -> bool:
        """Whether the best choice is better than no dropout, beyond what chance gives to the best of so many."""
        return self.best is not None and self.best.gain > self.bound * self.best.error

    def to_dict(self) -> dict[str, Any]:
        """All figures as numbers, texts, lists and dicts."""
        best = None if self.best is None else self.best.name
        return {**dataclasses.asdict(self), "best": best, "bound": self.bound, "helps": self.helps}

    def __str__(self) -> str:
        from .tables import tuning_text

        return tuning_text(self)


def tune(
    model: keras.Model | str | Path,
    x: Any,
    y: Any,
    *,
    rates: Sequence[float] = RATES,
    where: Sequence[str] | None = None,
    rows: ArrayLike | None = None,
    times: ArrayLike | None = None,
    series: ArrayLike | None = None,
    splits: int = SPLITS,
    gap: int | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    pool: bool = True,
    heads: Heads | None = None,
    input_scaler: Any = None,
    output_scaler: Any = None,
    custom_objects: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    trust_code: bool = False,
    input_shapes: Mapping[str, Shape] | Shape | None = None,
    progress: Callable[[str], None] = lambda choice: None,
) -> Tuning:
    """Which dropout, at which rate, makes a trained model's calibrated intervals best; its weights stay as they are.

    Every choice is exported, calibrated on earlier rows and judged on later ones, as is the model without dropout.

    Parameters
    ----------
    model
        A functional or sequential Keras model, or what ``load`` takes.
    x, y, rows, times, series
        Labelled rows that the model was not trained on, as :func:`keepdrop.calibrate` takes them.
    rates
        Rates between 0 and 1.
    where
        Places as :func:`with_dropout` names them, such as ``["lstm.input", "lstm.recurrent", "head"]``: each rate is
        tried at each of them, and at all of them. ``"head"`` is what the layers of the outputs read; a layer without a
        rate of its own means its input. By default the inputs and the recurrences of recurrent layers, the dropout that
        the model has, and its head.
    splits
        How many parts of the rows are judged, each by what the rows before it calibrated.
    gap
        Rows of a series that are left out before each part (default: as many as the windows are long and the targets
        have steps; say more where targets lie further ahead).
    samples, seed, level, pool
        As in :func:`keepdrop.calibrate`.
    heads, input_scaler, output_scaler, custom_objects, weights, trust_code, input_shapes
        As in :func:`export`.
    progress
        Told the name of each choice as it begins.

    Raises
    ------
    LoadError, RetrofitError, ScalingError, ExportError
        The model, a place or a rate does not go. A choice that alone cannot be exported is marked, with the reason.
    InputError
        The rows do not fit, are too few, or the model knows less than a constant.
    """
    loaded = taken(model, custom_objects, weights, trust_code=trust_code, input_shapes=input_shapes).model
    options = {"heads": heads, "input_scaler": input_scaler, "output_scaler": output_scaler}
    asked = JudgingOptions(integer("samples", samples, least=2), seed, level, pool)

    def rows_of(plain: Model[Any, Any]) -> tuple[Labelled, int]:
        given = labelled(plain, x, y, rows, times, series)
        return given, overlap(given) if gap is None else integer("gap", gap, least=0)

    return tuned(loaded, rows_of, choices(loaded, rates, where), asked, splits, options, progress)


def overlap(of: Labelled, ahead: int = 0) -> int:
    """How many rows after one share readings with it, whose targets lie up to `ahead` lines after their windows."""
    window = max((array.shape[1] for array in of.inputs.values() if array.ndim > 2), default=1)
    steps = max((array.shape[1] for array in of.targets.values() if array.ndim > 1), default=1)
    apart = window > 1 or steps > 1  # else nothing says that rows are of one series
    return window - 1 + max(ahead, steps if apart else 0)


def tuned(
    model: keras.Model,
    rows_of: Callable[[Model[Any, Any]], tuple[Labelled, int]],
    tried: Mapping[str, Dropout],
    asked: JudgingOptions,
    splits: int,
    options: Mapping[str, Any],
    progress: Callable[[str], None] = lambda choice: None,
    done: Callable[[int], None] | None = None,
) -> Tuning:
    """``tune`` for a model that is loaded; `options` are those of ``export``.

    `rows_of` gives the labelled rows for what the artifact will be, and how many rows after one overlap with it.
    """
    progress(NONE)
    plain = plain_model(model, **options)
    of, gap = rows_of(plain)
    parts = time_splits(of, integer("splits", splits, least=1), gap)
    without = judged(plain, of, parts, asked._replace(samples=PLAIN_SAMPLES), None)
    series = np.concatenate([of.series[of.order][np.isin(of.order, part.late)] for part in parts])
    found = []
    for name, dropout in {**({AS_IT_IS: {}} if draws_anything(model) else {}), **tried}.items():
        progress(name)
        try:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / "choice.onnx"
                export(model, path, dropout=dropout, **options)
                artifact = keepdrop.load(path, by_output=True)
                figures = judged(artifact, of, parts, asked, done)
        except (ExportError, InputError) as error:
            found.append(Candidate(name, dropout, refused=str(error)))
            continue
        found.append(Candidate(name, dropout, figures.outputs, *gain(without, figures, series)))
    return Tuning(
        len(of), splits, gap, asked.samples, asked.seed, asked.level, Candidate(NONE, {}, without.outputs), tuple(found)
    )


def gain(without: Judged, of: Judged, series: NDArray[np.int64]) -> tuple[float, float]:
    """By which share the loss is smaller than without dropout, and the standard error of that.

    The mean over rows and outputs of the difference of losses, each output's in units of its mean loss without
    dropout; the error is that of a mean of as many independent rows as the differences are worth.
    """
    shares = [(without.losses[name] - loss) / np.nanmean(without.losses[name]) for name, loss in of.losses.items()]
    known = np.isfinite(shares).all(axis=0)
    of_rows = np.mean(shares, axis=0)[known]
    effective = effective_of_series(of_rows, series[known])
    return float(np.mean(of_rows)), float(np.std(of_rows)) / math.sqrt(max(effective, 1.0))
