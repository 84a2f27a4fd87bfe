"""The exporter's errors, each for one stage of the way through it.

KeepdropError
└── ExportError
    ├── LoadError      load: the Keras file cannot be read
    ├── Refusal        plan: the model cannot be exported exactly; names the layer and the cure
    ├── ConvertError   convert: TensorFlow's graph does not become a valid ONNX file
    └── VerifyError    verify: the artifact's samples are not Keras'
"""

from __future__ import annotations

from keepdrop import KeepdropError


class ExportError(KeepdropError):
    """Root of the exporter's errors."""


class LoadError(ExportError):
    """The Keras file is missing, is none, or needs code that is not allowed to run."""


class Refusal(ExportError):
    """The model cannot be exported exactly; the text names the layer and the cure."""


class ConvertError(ExportError):
    """The traced function does not convert to a valid ONNX file."""


class VerifyError(ExportError):
    """The samples of the artifact are not those of Keras."""
