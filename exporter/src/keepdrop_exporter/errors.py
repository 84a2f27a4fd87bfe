"""The exporter's errors, each for one stage of the way through it, and each a fitting builtin too.

KeepdropError
└── ExportError        ValueError: an argument of the export
    ├── LoadError      load: the Keras file cannot be read
    ├── RetrofitError  retrofit: a dropout rate that cannot be set where it was asked for
    ├── ScalingError   scaling: a scaler that is none, or that does not fit the model
    ├── Refusal        plan: the model cannot be exported exactly; names the layer and the cure
    ├── ConvertError   RuntimeError, convert: TensorFlow's graph does not become a valid ONNX file
    └── VerifyError    RuntimeError, verify: the artifact's samples are not Keras'
"""

from __future__ import annotations

from keepdrop import KeepdropError


class ExportError(KeepdropError, ValueError):
    """Root of the exporter's errors; itself for an argument that is none."""


class LoadError(ExportError):
    """The Keras file is missing, is none, or needs code that is not allowed to run."""


class RetrofitError(ExportError):
    """A dropout rate that is none, that belongs nowhere, or that would change more than the dropout."""


class ScalingError(ExportError):
    """A scaler that is none, is not exact in float32, or does not fit the input or output it is for."""


class Refusal(ExportError):
    """The model cannot be exported exactly; the text names the layer and the cure."""


class ConvertError(ExportError, RuntimeError):
    """The traced function does not convert to a valid ONNX file."""


class VerifyError(ExportError, RuntimeError):
    """The samples of the artifact are not those of Keras."""
