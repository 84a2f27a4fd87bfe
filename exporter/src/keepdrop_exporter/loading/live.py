"""Models that are in memory already, and models in files, taken alike."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras

from keepdrop_exporter.errors import LoadError

from . import fitting, reading
from .lifting import stateless
from .reading import Loaded


def taken(
    model: Any,
    custom_objects: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    *,
    trust_code: bool = False,
    most_bytes: int | None = None,
    input_shapes: Mapping[str, fitting.Shape] | fitting.Shape | None = None,
    streaming: bool = False,
) -> Loaded:
    """What ``export`` and ``verify`` were given, as a model that can be planned; a live one is left as it was.

    ``streaming``: for a stream, which carries the states of stateful layers.

    Raises
    ------
    LoadError
        It is neither a model nor the file of one, or cannot be loaded without changing its numbers.
    """
    options: dict[str, Any] = {
        "trust_code": trust_code,
        "most_bytes": most_bytes,
        "input_shapes": input_shapes,
        "streaming": streaming,
    }
    if isinstance(model, (str, Path)):
        return reading.read(model, custom_objects, weights, **options)
    if not isinstance(model, keras.Model):
        return _of_keras2(model, custom_objects, options)
    wrapped, inputs = fitting.with_inputs(model, input_shapes)
    plain, precision = fitting.as_float32(wrapped, trust_code=True)
    carried: list[str] = []
    if streaming:
        with keras.saving.custom_object_scope(dict(custom_objects or {})):
            plain, carried = stateless(plain, trust_code=True)
    lines = (*inputs, *precision, *carried)
    if fitting.names_fit(plain):
        return Loaded(plain, lines, None)
    own = fitting.copied(plain)
    return Loaded(own, (*lines, *fitting.fit_names(own)), None) if own else Loaded(plain, lines, None)


def _of_keras2(model: Any, custom_objects: Mapping[str, Any] | None, options: dict[str, Any]) -> Loaded:
    """A live model of ``tf_keras``, by way of its own ``.keras`` form."""
    if not any(cls.__module__.startswith("tf_keras.") for cls in type(model).__mro__):
        raise LoadError(
            f"a {type(model).__name__} of {type(model).__module__} is no Keras model; give one, or the path of a file"
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{fitting.fitting_name(model.name)}.keras"
        model.save(path)
        found = reading.read(path, custom_objects, **options)
    return Loaded(found.model, found.changes, None)
