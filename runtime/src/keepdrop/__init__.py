"""Samples, intervals and quantiles from an ONNX file that `keepdrop export` wrote.

import keepdrop

model = keepdrop.load("forecaster.onnx")
draws = model.sample(x, samples=100, seed=7)  # [samples, batch, ...]
low, high = model.predict(x).interval(0.9)  # [batch, ...] each
"""

from .errors import ArtifactError, InputError, KeepdropError
from .model import Model, load
from .prediction import Prediction

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "InputError",
    "KeepdropError",
    "Model",
    "Prediction",
    "__version__",
    "load",
]
