"""A batch size that a model's input fixes, lifted where no layer needs it; stateful layers, made fit for a stream."""

from __future__ import annotations

from typing import Any

import keras

from keepdrop_exporter.errors import LoadError
from keepdrop_exporter.plan import keras_hooks


def lifted(model: keras.Model, *, trust_code: bool) -> tuple[keras.Model, list[str]]:
    """The same layers and weights for any number of rows, where a number was fixed and no layer needs it."""
    sizes = _sizes(model)
    if len(sizes) != 1 or _stateful(model):
        return model, []
    (size,) = sizes
    try:
        config = _without_batch(keras.saving.serialize_keras_object(model), size)
        free = keras.saving.deserialize_keras_object(config, safe_mode=not trust_code)
        free.set_weights(model.get_weights())
    except Exception:  # whatever a layer raises that needs the size: plan refuses it by name
        return model, []
    if any(y.shape[0] is not None for y in free.outputs):
        return model, []
    return free, [f"the batch size, fixed to {size}, was lifted: any number of rows"]


def stateless(model: keras.Model, *, trust_code: bool) -> tuple[keras.Model, list[str]]:
    """The same layers and weights without ``stateful=True`` and for any number of rows, as a stream carries the states.

    A stateful model that is given a sequence in parts computes what this one does on the whole sequence.

    Raises
    ------
    LoadError
        A class cannot be made again from its ``get_config``.
    """
    if not (names := _stateful(model)):
        return model, []
    config = _without_states(keras.saving.serialize_keras_object(model))
    try:
        for size in _sizes(model):
            config = _without_batch(config, size)
        free = keras.saving.deserialize_keras_object(config, safe_mode=not trust_code)
        free.set_weights(model.get_weights())
    except Exception as error:  # whatever the code of a class raises
        raise _stays_stateful(names[0], " ".join(str(error).split())[:200]) from error
    if kept := _stateful(free):
        raise _stays_stateful(kept[0], "a class of its own makes it")
    lines = [f"stateful=True of {', '.join(names)}: the stream carries the states, row by row, from zero"]
    if others := _forgetful(free, names):
        lines.append(f"the stream carries the states of {', '.join(others)} too, which stateful=False has begin anew")
    return free, lines


def _sizes(model: keras.Model) -> set[int]:
    """The batch sizes that the inputs fix."""
    return {x.shape[0] for x in getattr(model, "inputs", None) or [] if x.shape[0] is not None}


def _stateful(model: keras.Model) -> list[str]:
    return [layer.name for layer in keras_hooks.all_layers(model) if getattr(layer, "stateful", False)]


def _stays_stateful(name: str, reason: str) -> LoadError:
    return LoadError(
        f"layer {name!r} is stateful, and the model cannot be made again without that ({reason}); build it with "
        "stateful=False and load the weights"
    )


def _forgetful(model: keras.Model, stateful: list[str]) -> list[str]:
    """The recurrent layers that began anew with every call."""
    return [
        layer.name
        for layer in keras_hooks.all_layers(model)
        if isinstance(layer, keras.layers.RNN) and layer.name not in stateful
    ]


def _without_states(config: Any) -> Any:
    """A serialized model none of whose layers is stateful."""
    if isinstance(config, (list, tuple)):
        return [_without_states(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {key: False if key == "stateful" else _without_states(value) for key, value in config.items()}


def _without_batch(config: Any, size: int) -> Any:
    """A serialized model whose input layers and builds have any number of rows in place of ``size``."""
    if isinstance(config, list):
        return [_without_batch(item, size) for item in config]
    if not isinstance(config, dict):
        return config
    free = {
        key: _freed(value, size)
        if key in ("batch_shape", "build_config", "build_input_shape")
        else _without_batch(value, size)
        for key, value in config.items()
    }
    return {key: value for key, value in free.items() if key != "compile_config"}


def _freed(value: Any, size: int) -> Any:
    if isinstance(value, dict):
        return {key: _freed(inner, size) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        if value and all(n is None or isinstance(n, int) for n in value):
            return [None if value[0] == size else value[0], *value[1:]]
        return [_freed(inner, size) for inner in value]
    return value
