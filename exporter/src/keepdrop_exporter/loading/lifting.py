"""A batch size that a model's input fixes, lifted where no layer needs it."""

from __future__ import annotations

from typing import Any

import keras

from keepdrop_exporter.plan import keras_hooks


def lifted(model: keras.Model, *, trust_code: bool) -> tuple[keras.Model, list[str]]:
    """The same layers and weights for any number of rows, where a number was fixed and no layer needs it."""
    sizes = {x.shape[0] for x in getattr(model, "inputs", None) or [] if x.shape[0] is not None}
    if len(sizes) != 1 or any(getattr(layer, "stateful", False) for layer in keras_hooks.all_layers(model)):
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
