"""Whether an artifact's summary outputs are what NumPy makes of its own samples, in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import (
    FIRST_SAMPLE,
    MEAN,
    MEAN_LOGVAR,
    NUM_SAMPLES,
    QUANTILES,
    ROWS,
    SEED,
    SIGMOID,
    SOFTMAX,
    Head,
)
from keepdrop.run.session import Session
from keepdrop_exporter.errors import VerifyError
from keepdrop_exporter.plan.reference import Arrays

_SAMPLES = 37
_ASKED = np.array([0, 0.05, 0.5, 0.9, 0.95, 1], np.float32)
# float32 sums and logarithms; what cancels in an information is as large as the entropies it is of.
ATOL, RTOL = 1e-5, 1e-4

Figures = dict[str, NDArray[np.float64]]


def verify_summary(artifact: Path, x: Arrays) -> None:
    """Compare every summary output with NumPy's figure of the same samples.

    Raises
    ------
    VerifyError
        One differs; the text names it.
    """
    session = Session(artifact)
    metadata = session.metadata
    batch = len(next(iter(x.values())))
    feeds = {**x, ROWS: np.arange(batch), QUANTILES: _ASKED}
    feeds |= {SEED: np.array(7), NUM_SAMPLES: np.array(_SAMPLES), FIRST_SAMPLE: np.array(3)}
    names = [tensor.name for tensor in (*metadata.outputs, *metadata.summary)]
    found = dict(zip(names, session.call(names, feeds), strict=True))
    heads = {head.output: head for head in metadata.heads}
    for tensor in metadata.outputs:
        for part, expected in _figures(found, heads.get(tensor.name, Head(tensor.name))).items():
            name = f"{tensor.name}_{part}"
            if not np.allclose(found[name], expected, RTOL, ATOL, equal_nan=True):
                worst = np.nanmax(np.abs(found[name] - expected))
                raise VerifyError(f"the summary output {name!r} differs by up to {worst:.2g} from NumPy's figure")


def _figures(found: dict[str, NDArray[np.float32]], head: Head) -> Figures:
    y = found[head.output].astype(np.float64)  # [T, B, ...]
    figures: Figures = {"mean": y.mean(0), "std": y.std(0, ddof=1)}
    figures["quantiles"] = np.quantile(y, _ASKED.astype(np.float64), axis=0)
    if head.kind in (SOFTMAX, SIGMOID):
        predictive, expected = _entropy(y.mean(0), head.kind), _entropy(y, head.kind).mean(0)
        figures |= {"predictive_entropy": predictive, "expected_entropy": expected}
        figures["mutual_information"] = np.maximum(predictive - expected, 0)
    if head.kind in (MEAN, MEAN_LOGVAR):
        half = y.shape[-1] // 2
        mean, logvar = (y, found[str(head.partner)]) if head.kind == MEAN else (y[..., :half], y[..., half:])
        figures |= {"aleatoric": np.exp(logvar.astype(np.float64)).mean(0), "epistemic": mean.var(0, ddof=1)}
        figures["total"] = figures["aleatoric"] + figures["epistemic"]
    return figures


def _entropy(p: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    def surprise(p: NDArray[np.float64]) -> NDArray[np.float64]:
        inside = np.clip(p, 0, 1)
        return -inside * np.log(np.where(inside > 0, inside, 1))

    return surprise(p).sum(-1) if kind == SOFTMAX else surprise(p) + surprise(1 - p)
