"""Classes and functions of the user's own: from a Python file, and those that need none."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FunctionType
from typing import Any

from keepdrop_exporter.errors import LoadError

_LIBRARIES = ("keras", "tensorflow", "tf_keras", "numpy", "builtins", "typing")


def custom_objects(path: str | Path) -> dict[str, Any]:
    """Run a Python file and give its classes and functions by name, also those it imports, Keras' own left out.

    Raises
    ------
    LoadError
        The file is missing, fails, or defines none.
    """
    path = Path(path)
    if not path.is_file():
        raise LoadError(
            f"{path}: there is no such file; --custom takes the Python file that defines the model's classes"
        )
    name = f"keepdrop_custom_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoadError(f"{path}: it is no Python file; --custom takes the .py file that defines the model's classes")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise LoadError(
            f"{path}: running it failed ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        ) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    found = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, (type, FunctionType)) and value.__module__.partition(".")[0] not in _LIBRARIES
    }
    if not found:
        raise LoadError(
            f"{path}: it defines no class and no function; --custom takes the file that defines the model's"
        )
    return found


# What a subclass of Dropout keeps of itself where it adds nothing.
_OF_DROPOUT = {"name", "trainable", "dtype", "batch_input_shape", "batch_shape", "rate", "noise_shape", "seed"}
# Names that say no more than that it is on, or one's own: a TimestepDropout or a SpatialDropout is something else.
_SAYS_NO_MORE = re.compile(
    r"(?i)(mc|monte_?carlo|permanent|always|always_?on|bayesian|inference|test_?time|training|custom|my)_?dropout_?\d*"
    r"|dropout_?(mc|monte_?carlo|permanent|always|always_?on|layer|custom)"
)


def dropouts(config: Any, given: Mapping[str, Any]) -> dict[str, str]:
    """Classes that a description names, nobody gave, and that are dropout by their name and by having a rate alone.

    Subclasses of Dropout whose ``call`` has ``training=True``, or calls ``tf.nn.dropout``, are what circulates.

    Returns
    -------
    dict of str
        The names of the layers, joined, by the name of the class.
    """
    found: dict[str, list[str]] = {}
    waiting = [config]
    while waiting:
        value = waiting.pop()
        waiting += list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        if not isinstance(value, dict) or not isinstance(value.get("class_name"), str):
            continue
        name, options = value["class_name"], value.get("config")
        bare = name.rpartition(">")[2]
        if not _SAYS_NO_MORE.fullmatch(bare) or not isinstance(options, dict):
            continue
        known = {name, bare, str(value.get("registered_name"))} & set(given)
        rate = options.get("rate")
        if not known and isinstance(rate, (int, float)) and set(options) <= _OF_DROPOUT:
            found.setdefault(bare, []).append(str(options.get("name", bare)))
    return {name: ", ".join(layers) for name, layers in found.items()}
