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

from .trust import function_name

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


# What a layer of any class has of a Lambda's options, and what a Lambda has beside its function.
_OF_ANY_LAYER = ("name", "trainable", "dtype", "batch_input_shape")
_OF_LAMBDA = (*_OF_ANY_LAYER, "arguments")


def put_for_lambdas(config: Any, given: Mapping[str, Any]) -> list[str]:
    """Put into a description, in place, what was given under the names of its Lambda layers, for the code they hold.

    A function is what the Lambda calls; a class, also one under the name of the function that the Lambda calls, stands
    in the layer's place.

    Returns
    -------
    list of str
        The names of the layers.
    """
    found: list[str] = []
    waiting = [config]
    while waiting:
        value = waiting.pop()
        waiting += list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
        if not isinstance(value, dict) or value.get("class_name") != "Lambda" or not isinstance(value["config"], dict):
            continue
        options = value["config"]
        layer = str(options.get("name"))
        name = layer if layer in given else function_name(layer)
        thing = given.get(name)
        if thing is None and isinstance(called := given.get(_called(options.get("function"))), type):
            thing = called
        if isinstance(thing, type):
            value |= {"module": None, "class_name": thing.__name__, "registered_name": thing.__name__}
            value["config"] = {key: options[key] for key in _OF_ANY_LAYER if key in options}
            for node in value.get("inbound_nodes", []):
                if isinstance(node, dict):  # of Keras 3, which notes the mask that it gave the Lambda
                    node["kwargs"] = {k: v for k, v in node["kwargs"].items() if k not in ("mask", "training")}
        elif thing is not None:
            function = {"module": "builtins", "class_name": "function", "config": name, "registered_name": "function"}
            value["config"] = {key: options[key] for key in _OF_LAMBDA if key in options} | {"function": function}
        if thing is not None:
            found.append(layer)
    return found


def _called(function: Any) -> str:
    """The name of the function that a Lambda calls; empty where its code lies in the file."""
    if isinstance(function, dict):
        function = function.get("config") if function.get("class_name") == "function" else None
    return function.rpartition(">")[2] if isinstance(function, str) else ""


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
