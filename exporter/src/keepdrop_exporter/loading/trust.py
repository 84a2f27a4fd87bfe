"""What a model's description would run, or read from elsewhere, found in the file itself before Keras sees it.

Keras has a safe mode of its own, with a history: 3.9.2 to 3.11.2 ran a Lambda of an ``.h5`` file whatever it said, and
an IndexLookup of older versions read any file that its vocabulary named.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Collection
from typing import Any

from keepdrop_exporter.errors import LoadError

_TRUST = "if you trust who made the file, with --trust-code (trust_code=True in Python)"
# Layers that hold or fetch a program of their own.
_PROGRAMS = {
    "TFSMLayer": "runs a SavedModel that lies beside the file",
    "TorchModuleWrapper": "unpickles a PyTorch module, which runs code",
    "JaxLayer": "runs a JAX function",
    "FlaxLayer": "runs a Flax module",
}
_LOOKUPS = ("IndexLookup", "IntegerLookup", "StringLookup", "TextVectorization", "StringVectorization")


def refuse_code(path: object, config: Any, given: Collection[str]) -> None:
    """Refuse a description that would run code of the file, or read other files.

    Parameters
    ----------
    given
        Names of classes that the user has given, which are not what they would be in Keras.

    Raises
    ------
    LoadError
        It does; the text names the layer.
    """
    waiting: list[tuple[Any, str]] = [(config, "")]
    while waiting:
        value, layer = waiting.pop()
        if isinstance(value, list):
            waiting += [(item, layer) for item in value]
        elif isinstance(value, dict):
            inner = value.get("config")
            if isinstance(inner, dict) and isinstance(inner.get("name"), str):
                layer = inner["name"]
            if str(value.get("class_name")) not in given:
                _judge(path, str(value.get("class_name")), inner, layer)
            waiting += [(item, layer) for item in value.values()]


def _judge(path: object, name: str, config: Any, layer: str) -> None:
    options = config if isinstance(config, dict) else {}
    name = name.rpartition(">")[2]
    if name == "__lambda__" or (name == "Lambda" and not _is_named(options.get("function"))):
        raise lambda_refused(path, layer)
    if name in _PROGRAMS:
        raise LoadError(
            f"{path}: {layer!r} is a {name}, which {_PROGRAMS[name]}; replace it by layers of Keras, or load it, "
            f"{_TRUST}"
        )
    if name in _LOOKUPS and isinstance(vocabulary := options.get("vocabulary"), str):
        raise LoadError(
            f"{path}: {layer!r} is a {name} that reads its vocabulary from {vocabulary!r}, outside of the file; give "
            f"the layer its words as a list, or load it, {_TRUST}"
        )


def _is_named(function: Any) -> bool:
    """Whether a Lambda's function is no code but the name of one."""
    return isinstance(function, str) or (isinstance(function, dict) and function.get("class_name") == "function")


def function_name(layer: str) -> str:
    """The layer's name as Python can write it: Keras 3 calls a Lambda ``lambda``."""
    name = re.sub(r"\W", "_", layer)
    return f"{name}_" if keyword.iskeyword(name) else name


def lambda_refused(path: object, layer: str | None = None) -> LoadError:
    """The error for a Lambda whose code lies in the file."""
    which = f"{layer!r} is" if layer else "it holds"
    name = function_name(layer or "NAME")
    return LoadError(
        f"{path}: {which} a Lambda layer, whose Python code would run on loading; give what it does as a function of "
        f"the layer's name, def {name}(x): ..., in --custom FILE.py (custom_objects={{'{name}': ...}} in Python), or "
        f"run the code, {_TRUST}"
    )
