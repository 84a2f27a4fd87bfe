"""Samples, intervals and quantiles from an ONNX file that `keepdrop export` wrote.

import keepdrop

model = keepdrop.load("forecaster.onnx")
draws = model.sample(x, samples=100, seed=7)  # [samples, batch, ...]
low, high = model.predict(x).interval(0.9)  # [batch, ...] each
p = model.predict(x, until=keepdrop.standard_error(0.01))  # as many samples as that needs

calibrated = keepdrop.calibrate(model, x_since, y_since)  # rows that came after those of the training
low, high = calibrated.predict(x).observation.interval(0.9)  # where an observation falls
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from keepdrop.answer.prediction import Prediction
from keepdrop.table.declared import Table

from .errors import ArtifactError, ArtifactMissing, ExporterMissing, InputError, KeepdropError, TooLarge
from .model import Model, load

if TYPE_CHECKING:
    from keepdrop.labelled.calibrating import calibrate
    from keepdrop.labelled.evaluating import evaluate
    from keepdrop.stream.stream import Stream
    from keepdrop.until.stopping import decided, standard_error

    from .recursion import rollout
    from .scoring import scorer

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "ArtifactMissing",
    "ExporterMissing",
    "InputError",
    "KeepdropError",
    "Model",
    "Prediction",
    "Stream",
    "Table",
    "TooLarge",
    "__version__",
    "calibrate",
    "decided",
    "evaluate",
    "load",
    "rollout",
    "scorer",
    "standard_error",
]

# Imported when they are asked for: together they take longer than all that a prediction needs.
_LATER = {
    "Stream": "keepdrop.stream.stream",
    "calibrate": "keepdrop.labelled.calibrating",
    "decided": "keepdrop.until.stopping",
    "evaluate": "keepdrop.labelled.evaluating",
    "rollout": "keepdrop.recursion",
    "scorer": "keepdrop.scoring",
    "standard_error": "keepdrop.until.stopping",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
