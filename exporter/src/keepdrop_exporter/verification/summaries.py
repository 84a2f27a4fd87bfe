"""Whether an artifact's summary outputs are what NumPy makes of its own samples, in float64."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepdrop import replay
from keepdrop.answer.observation import ClassObservation
from keepdrop.answer.prediction import paired, summarise
from keepdrop.artifact.metadata import (
    FIRST_SAMPLE,
    MEAN,
    MEAN_LOGVAR,
    NUM_SAMPLES,
    OBSERVATION_PROBABILITY,
    OBSERVATION_QUANTILES,
    QUANTILES,
    ROWS,
    SEED,
    SIGMOID,
    SOFTMAX,
    Head,
)
from keepdrop.calibration.conformal import Floats
from keepdrop.model import Model
from keepdrop.run.session import AnySession, Session
from keepdrop_exporter.errors import VerifyError
from keepdrop_exporter.plan.reference import Arrays

_SAMPLES = 37
_ASKED = np.array([0, 0.05, 0.37, 0.5, 0.9, 0.95, 1], np.float32)
# float32 sums and logarithms; what cancels in an information is as large as the entropies it is of.
ATOL, RTOL = 1e-5, 1e-4
# What an observation is computed from in the graph is float32: the median, and a variance within 1e-4 of itself.
_OF_RANGE, _OF_VALUE = 1e-4, 1e-6

Figures = dict[str, NDArray[np.float64]]


def verify_summary(artifact: Path, x: Arrays) -> None:
    """Compare every summary output with NumPy's figure of the same samples, and calibrated ones with the runtime's.

    A streaming artifact is pushed several times; ``x`` are inputs by name.

    Raises
    ------
    VerifyError
        One differs; the text names it.
    """
    session = Session(artifact)
    model = Model(session, threads=1)
    metadata = model.metadata
    for feeds in _calls(session, x):
        names = [tensor.name for tensor in (*metadata.outputs, *metadata.summary)]
        asked = np.asarray(feeds[QUANTILES])
        found = dict(zip(names, session.call(names, feeds), strict=True))
        heads = {head.output: head for head in model.heads}
        for tensor in metadata.outputs:
            for part, expected in _figures(found, heads[tensor.name], asked).items():
                name = f"{tensor.name}_{part}"
                _demand(name, found[name], expected, ATOL + RTOL * np.abs(expected))
        if metadata.summary_calibration is not None:
            _verify_observations(model, found, asked.astype(np.float64))


def _calls(session: AnySession, x: Arrays) -> Iterator[Arrays]:
    """The feeds of some calls; those of a stream follow from one another."""
    if session.metadata.stream:
        yield from (feeds for feeds, _ in replay.calls(session, x))
        return
    batch = len(next(iter(x.values())))
    feeds = {**x, ROWS: np.arange(batch), QUANTILES: _ASKED}
    yield {**feeds, SEED: np.array(7), NUM_SAMPLES: np.array(_SAMPLES), FIRST_SAMPLE: np.array(3)}


def _demand(name: str, found: NDArray[Any], expected: NDArray[Any], allowed: NDArray[Any]) -> None:
    apart = np.abs(found - expected)
    if found.shape != expected.shape or not np.all((apart <= allowed) | np.isnan(found) & np.isnan(expected)):
        raise VerifyError(f"the summary output {name!r} differs by up to {np.nanmax(apart):.2g} from NumPy's figure")


def _verify_observations(model: Model[Any, Any], found: dict[str, NDArray[np.float32]], asked: Floats) -> None:
    """Compare what the graph says of an observation with what the runtime says of the same samples."""
    known = {head.output: head for head in model.heads}
    predictions = [summarise(found[name], None, None, head, model.calibration) for name, head in known.items()]
    for name, prediction in zip(known, paired(predictions), strict=True):
        if model.calibration is None or model.calibration.of(name) is None:
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # so few samples as are compared here
            observation = prediction.observation
        if isinstance(observation, ClassObservation):
            shown = f"{name}_{OBSERVATION_PROBABILITY}"
            _demand(shown, found[shown], observation.probability, np.asarray(ATOL))
            continue
        shown = f"{name}_{OBSERVATION_QUANTILES}"
        borne = np.abs(2 * asked - 1) <= observation.most
        expected = np.full(found[shown].shape, np.nan)
        expected[borne] = observation.quantile(asked[borne])
        extent = np.nanmax(expected, axis=0, initial=-np.inf) - np.nanmin(expected, axis=0, initial=np.inf)
        _demand(shown, found[shown], expected, _OF_RANGE * extent + _OF_VALUE * np.abs(expected))


def _figures(found: dict[str, NDArray[np.float32]], head: Head, asked: NDArray[Any]) -> Figures:
    y = found[head.output].astype(np.float64)  # [T, B, ...]
    with np.errstate(invalid="ignore", divide="ignore"):  # one sample has no std
        variance = ((y - y.mean(0)) ** 2).sum(0) / np.float64(len(y) - 1)
    figures: Figures = {"mean": y.mean(0), "std": np.sqrt(variance)}
    figures["quantiles"] = np.quantile(y, asked.astype(np.float64), axis=0)
    if head.kind in (SOFTMAX, SIGMOID):
        predictive, expected = _entropy(y.mean(0), head.kind), _entropy(y, head.kind).mean(0)
        figures |= {"predictive_entropy": predictive, "expected_entropy": expected}
        figures["mutual_information"] = np.maximum(predictive - expected, 0)
    if head.kind in (MEAN, MEAN_LOGVAR):
        half = y.shape[-1] // 2
        mean, logvar = (y, found[str(head.partner)]) if head.kind == MEAN else (y[..., :half], y[..., half:])
        figures |= {
            "aleatoric": np.exp(logvar.astype(np.float64)).mean(0),
            "epistemic": variance[..., : mean.shape[-1]],
        }
        figures["total"] = figures["aleatoric"] + figures["epistemic"]
    return figures


def _entropy(p: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    def surprise(p: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = np.clip(p, 0, 1)
        return -inside * np.log(np.where(inside > 0, inside, 1))

    return surprise(p).sum(-1) if kind == SOFTMAX else surprise(p) + surprise(1 - p)
