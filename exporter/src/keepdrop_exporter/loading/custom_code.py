"""Classes and functions of the user's own, from a Python file."""

from __future__ import annotations

import importlib.util
import sys
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
