"""What a model needs before it can be planned: inputs that are said, float32, names that graphs take."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from keepdrop_exporter.errors import LoadError
from keepdrop_exporter.plan import keras_hooks

Shape = Sequence[int | None]
"""A shape without the batch; None where a length is free."""

_MIXED = ("mixed_float16", "mixed_bfloat16")


def with_inputs(model: keras.Model, shapes: Mapping[str, Shape] | Shape | None) -> tuple[keras.Model, list[str]]:
    """A model that says what its inputs are, around one whose class makes its layers.

    Parameters
    ----------
    model
        Given back as it is where it has inputs.
    shapes
        Those of the inputs, by the names of ``call``'s arguments, or one shape where there is one. None takes those
        that Keras notes when such a model is first called, and keeps in its ``.keras`` file (``build_config``).

    Raises
    ------
    LoadError
        The shapes do not fit what ``call`` takes.
    """
    if getattr(model, "inputs", None):
        if shapes is not None:
            raise LoadError(f"model {model.name!r} says what its inputs are itself; leave the input shapes out")
        return model, []
    if (noted := _noted(model) if shapes is None else _given(shapes)) is None:
        return model, []
    with_ids = any(isinstance(layer, keras.layers.Embedding) for layer in keras_hooks.all_layers(model))

    def make(name: str, shape: Any) -> Any:
        # What an Embedding reads is a row of ids.
        dtype = "int32" if with_ids and len(shape) == 2 else "float32"
        return keras.Input(tuple(shape[1:]), dtype=dtype, name=name)

    inputs, call = _inputs(noted, make)
    try:
        with keras_hooks.plain_errors():
            outputs = call(model)
    except Exception as error:  # of any kind: it is the class's own code that runs
        if shapes is None:
            return model, []  # what was noted is not all that it takes: plan asks for the shapes
        raise LoadError(
            f"model {model.name!r} does not take inputs of {_said(noted)} ({' '.join(str(error).split())[:200]}); give "
            "the shapes of what it is called on, --input-shape NAME=SIZE,SIZE or input_shapes={'NAME': (SIZE, SIZE)}"
        ) from error
    source = "as it was built with" if shapes is None else "as given"
    return keras.Model(inputs, outputs, name=model.name), [f"the model takes inputs of {_said(noted)}, {source}"]


def _noted(model: keras.Model) -> Any:
    """The shapes that Keras noted: of the one argument (a shape, a list or dict of them), or by arguments' names."""
    try:
        config = model.get_build_config() or {}
    except Exception:  # a class may have its own, which needs what it lacks
        return None
    if "shapes_dict" in config:
        return {"by argument": {name.removesuffix("_shape"): shape for name, shape in config["shapes_dict"].items()}}
    return config.get("input_shape")


def _given(shapes: Mapping[str, Shape] | Shape) -> Any:
    if not isinstance(shapes, Mapping):
        return (None, *shapes)
    full = {name: (None, *shape) for name, shape in shapes.items()}
    return full[""] if set(full) == {""} else {"by argument": full}


def _is_shape(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and all(n is None or isinstance(n, int) for n in value)


def _inputs(noted: Any, make: Any) -> tuple[Any, Any]:
    """The inputs for such shapes, and how a model is called on them."""
    if _is_shape(noted):
        x = make("input", noted)
        return x, lambda model: model(x)
    if isinstance(noted, Mapping) and "by argument" in noted:
        named = {name: make(name, shape) for name, shape in noted["by argument"].items()}
        return list(named.values()), lambda model: model(**named)
    if isinstance(noted, Mapping):
        by_key = {name: make(name, shape) for name, shape in noted.items()}
        return by_key, lambda model: model(by_key)
    listed = [make(f"input_{i}", shape) for i, shape in enumerate(noted)]
    return listed, lambda model: model(listed)


def _said(noted: Any) -> str:
    if _is_shape(noted):
        return str(tuple(noted[1:]))
    if isinstance(noted, Mapping):
        noted = noted.get("by argument", noted)
        return ", ".join(f"{name} {tuple(shape[1:])}" for name, shape in noted.items())
    return ", ".join(str(tuple(shape[1:])) for shape in noted)


def as_float32(model: keras.Model, *, trust_code: bool = False) -> tuple[keras.Model, list[str]]:
    """The same layers and weights in float32, where a mixed policy computes in 16 bits on weights of 32."""
    mixed = [layer.name for layer in keras_hooks.all_layers(model) if layer.dtype_policy.name in _MIXED]
    if not mixed:
        return model, []
    try:
        config = _without_mixed(keras.saving.serialize_keras_object(model))
        plain = keras.saving.deserialize_keras_object(config, safe_mode=not trust_code)
        plain.set_weights(model.get_weights())
    except Exception:  # a class that cannot be made again: plan refuses its dtype by name
        return model, []
    few = f"{', '.join(mixed[:6])}{', ...' if len(mixed) > 6 else ''}"
    return plain, [f"float32 in place of the mixed policy, on the same weights of 32 bits: {few}"]


def _without_mixed(config: Any) -> Any:
    if isinstance(config, list):
        return [_without_mixed(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy" and config.get("config", {}).get("name") in _MIXED:
        return {**config, "config": {"name": "float32"}}
    return {
        key: "float32" if key == "dtype" and value in _MIXED else _without_mixed(value)
        for key, value in config.items()
        if key != "compile_config"
    }


def fitting_name(name: str) -> str:
    """The name with what TensorFlow and ONNX do not take (``^[A-Za-z0-9.][A-Za-z0-9_.-]*$``) replaced."""
    fit = re.sub(r"[^A-Za-z0-9_.\-]", "_", name)
    return fit if re.match(r"[A-Za-z0-9.]", fit) else f"layer{fit}" if fit.startswith("_") else f"layer_{fit}"


def names_fit(model: keras.Model) -> bool:
    """Whether graphs take the names of all layers."""
    return all(fitting_name(layer.name) == layer.name for layer in keras_hooks.all_layers(model))


def copied(model: keras.Model) -> keras.Model | None:
    """The same layers and weights anew; None where a class cannot be made again from its ``get_config``."""
    try:
        own = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(model), safe_mode=False)
        own.set_weights(model.get_weights())
    except Exception:  # plan refuses what it then meets by name
        return None
    return own


def fit_names(model: keras.Model) -> list[str]:
    """Rename, in place, the layers whose names no graph takes; a line on it."""
    layers = keras_hooks.all_layers(model)
    taken = {layer.name for layer in layers}
    pairs = []
    for layer in layers:
        name = layer.name
        if (fit := fitting_name(name)) == name:
            continue
        while fit in taken:
            fit += "_"
        taken.add(fit)
        layer.name = fit
        pairs.append(f"{name!r} -> {fit}")
    line = f"renamed, as TensorFlow takes letters, digits, dots, dashes and underscores: {', '.join(pairs)}"
    return [line] if pairs else []
