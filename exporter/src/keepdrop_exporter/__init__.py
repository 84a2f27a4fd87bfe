"""Export a Keras model with its dropout active to an ONNX file whose seed is an input, and prove it against Keras.

import keepdrop_exporter

report = keepdrop_exporter.export("forecaster.keras", "forecaster.onnx")
report = keepdrop_exporter.verify("forecaster.keras", "forecaster.onnx", rows=4, samples=16, seed=0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keepdrop import __version__

from .backend import require_tensorflow
from .errors import ConvertError, ExportError, LoadError, Refusal, RetrofitError, ScalingError, VerifyError

if TYPE_CHECKING:
    from keepdrop_exporter.formats.savedmodel import load_savedmodel
    from keepdrop_exporter.loading.reading import load

    from .monte_carlo import MonteCarloDropout, MonteCarloGRU, MonteCarloLSTM, MonteCarloSimpleRNN
    from .pipeline import Report, export, verify
    from .retrofit import with_dropout
    from .scalers import scaler_json
    from .scaling import with_scaling
    from .summarising import summarise
    from .tuning.rates import Tuning, tune

__all__ = [
    "ConvertError",
    "ExportError",
    "LoadError",
    "MonteCarloDropout",
    "MonteCarloGRU",
    "MonteCarloLSTM",
    "MonteCarloSimpleRNN",
    "Refusal",
    "Report",
    "RetrofitError",
    "ScalingError",
    "Tuning",
    "VerifyError",
    "__version__",
    "export",
    "load",
    "load_savedmodel",
    "scaler_json",
    "summarise",
    "tune",
    "verify",
    "with_dropout",
    "with_scaling",
]

# These need TensorFlow, whose import takes seconds: the command asks for --help and errors without it.
_WITH_TENSORFLOW = {
    **dict.fromkeys(("Report", "export", "verify"), ".pipeline"),
    "load": ".loading.reading",
    "with_dropout": ".retrofit",
    "scaler_json": ".scalers",
    "with_scaling": ".scaling",
    "summarise": ".summarising",
    **dict.fromkeys(("Tuning", "tune"), ".tuning.rates"),
    "load_savedmodel": ".formats.savedmodel",
    **dict.fromkeys(("MonteCarloDropout", "MonteCarloGRU", "MonteCarloLSTM", "MonteCarloSimpleRNN"), ".monte_carlo"),
}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TENSORFLOW:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_tensorflow()
    return getattr(importlib.import_module(_WITH_TENSORFLOW[name], __name__), name)
