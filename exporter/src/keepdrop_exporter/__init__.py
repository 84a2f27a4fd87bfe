"""Export a Keras model with its dropout active to an ONNX file whose seed is an input, and prove it against Keras."""

from keepdrop import __version__

from .errors import ConvertError, ExportError, LoadError, Refusal, VerifyError
from .export import Report, export
from .verify import verify

__all__ = [
    "ConvertError",
    "ExportError",
    "LoadError",
    "Refusal",
    "Report",
    "VerifyError",
    "__version__",
    "export",
    "verify",
]
