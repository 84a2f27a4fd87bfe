"""Samples, intervals and quantiles from an ONNX file that `keepdrop export` wrote.

import keepdrop

model = keepdrop.load("forecaster.onnx")
draws = model.sample(x, samples=100, seed=7)  # [samples, batch, ...]
low, high = model.predict(x).interval(0.9)  # [batch, ...] each
p = model.predict(x, until=keepdrop.standard_error(0.01))  # as many samples as that needs

calibrated = keepdrop.calibrate(model, x_since, y_since)  # rows that came after those of the training
low, high = calibrated.predict(x).observation.interval(0.9)  # where an observation falls
"""

from keepdrop.answer.prediction import Prediction
from keepdrop.labelled.calibrating import calibrate
from keepdrop.labelled.evaluating import evaluate
from keepdrop.stream.stream import Stream
from keepdrop.table.declared import Table
from keepdrop.until.stopping import decided, standard_error

from .errors import ArtifactError, ArtifactMissing, ExporterMissing, InputError, KeepdropError, TooLarge
from .model import Model, load
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
