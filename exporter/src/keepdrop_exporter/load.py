"""Stage 1, load: a Keras file becomes a model, or one sentence says why not."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path

import keras

from .errors import LoadError

_SUFFIXES = (".keras", ".h5", ".hdf5")


def load_model(path: str | Path) -> keras.Model:
    """Load a ``.keras`` or ``.h5`` file without compiling it, in Keras' safe mode.

    Raises
    ------
    LoadError
        The file is missing, has another suffix, is damaged, holds a Lambda that safe mode refuses,
        or names a class that is not registered.
    """
    path = Path(path)
    if path.suffix not in _SUFFIXES:
        raise LoadError(f"{path}: a Keras model ends in {', '.join(_SUFFIXES)}; save it with model.save('name.keras')")
    if not path.is_file():
        raise LoadError(f"{path}: there is no such file")
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise LoadError(
            f"{path}: it is damaged, or no .keras file at all (which is a zip archive); save the model again with "
            "model.save('name.keras')"
        )
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises a dozen types here, from h5py's to zipfile's
        raise LoadError(f"{path}: {_reason(error)}") from error


def source_sha256(path: str | Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "safe_mode" in text or "deserialization of a `lambda`" in text.lower():
        return (
            "it holds a Lambda layer, whose Python code would run on loading; replace it by a layer of its own "
            "class, or load the model yourself and pass the object to keepdrop_exporter.export"
        )
    if unknown := re.search(r"(?:ould not locate class|Unknown layer:) '?(\w+)", text):
        return (
            f"Keras does not know its class {unknown[1]!r}; load the model yourself with custom_objects "
            "and pass the object to keepdrop_exporter.export"
        )
    return f"Keras cannot load it ({type(error).__name__}: {text[:300]}); save it again with model.save('name.keras')"
