"""Weights as Keras 2 saved them, layer by layer, put into a model of Keras 3."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from keepdrop_exporter.errors import LoadError
from keepdrop_exporter.loading.hdf5 import SavedLayer
from keepdrop_exporter.plan import keras_hooks

Array = NDArray[np.generic]

# Names by which two weights of a layer can be told apart whatever their shapes.
_TELLING = {
    "kernel", "recurrent_kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance", "embeddings",
    "pointwise_kernel", "mean", "variance", "count",
}  # fmt: skip


def put(path: object, model: keras.Model, saved: Sequence[SavedLayer]) -> list[str]:
    """Assign saved weights to a model's layers, by the layers' names, or by position where the names are others.

    Returns
    -------
    list of str
        A line for the user where position had to serve.

    Raises
    ------
    LoadError
        Their number, shapes or names do not fit the layers.
    """
    saved = [layer for layer in saved if layer.arrays]
    layers = [layer for layer in model.layers if _weights(layer)]
    if any(layer.name == "top_level_model_weights" for layer in saved):
        raise LoadError(
            f"{path}: it holds weights of the model itself, beside its layers', which Keras 3 has no place for"
        )
    if len(saved) != len(layers):
        raise LoadError(
            f"{path}: its weights do not fit: they are of {len(saved)} layers ({_some(s.name for s in saved)}), and "
            f"the model has {len(layers)} with weights ({_some(layer.name for layer in layers)})"
        )
    by_name = {layer.name.replace("/", "_"): layer for layer in saved}
    named = set(by_name) == {layer.name for layer in layers}
    for i, layer in enumerate(layers):
        _put_layer(path, layer, by_name[layer.name] if named else saved[i])
    for inner in keras_hooks.all_layers(model):
        if hasattr(inner, "finalize_state"):
            inner.finalize_state()
    lines = [] if named else ["weights were matched by the layers' order: their names are not the model's"]
    return lines


def _put_layer(path: object, layer: keras.Layer, saved: SavedLayer) -> None:
    variables, arrays = _weights(layer), list(saved.arrays)
    if len(variables) != len(arrays):
        raise LoadError(
            f"{path}: its weights do not fit: layer {layer.name!r} has {len(variables)} and the file {len(arrays)} for "
            f"{saved.name!r}"
        )
    _from_cudnn(layer, variables, arrays)
    for variable, array, name in zip(variables, arrays, saved.names, strict=True):
        if tuple(variable.shape) != array.shape:
            raise LoadError(
                f"{path}: its weights do not fit: {variable.name!r} of layer {layer.name!r} has the shape "
                f"{tuple(variable.shape)} and the file {array.shape} ({name})"
            )
        leaf = re.sub(r"(_\d+)?(:\d+)?$", "", name.rpartition("/")[2])
        # A DepthwiseConv's, which Keras 3 calls kernel.
        meant, there = (n.replace("depthwise_kernel", "kernel") for n in (leaf, variable.name))
        if meant in _TELLING and there in _TELLING and meant != there:
            raise LoadError(
                f"{path}: its weights do not fit: where layer {layer.name!r} has {variable.name!r} the file has "
                f"{name!r}"
            )
        variable.assign(array)


def _weights(layer: keras.Layer) -> list[keras.Variable]:
    return [*layer.trainable_weights, *layer.non_trainable_weights]


def _from_cudnn(layer: keras.Layer, variables: Sequence[keras.Variable], arrays: list[Array]) -> None:
    """Rearrange, in place, the arrays that a CuDNN layer has left for an LSTM or GRU."""
    place = {id(variable): i for i, variable in enumerate(variables)}
    for cell in keras_hooks.all_layers(layer):
        if not isinstance(cell, (keras.layers.LSTMCell, keras.layers.GRUCell)) or not cell.use_bias:
            continue
        at = [place[id(w)] for w in (cell.kernel, cell.recurrent_kernel, cell.bias) if id(w) in place]
        gates = 4 if isinstance(cell, keras.layers.LSTMCell) else 3
        # CuDNN has a bias for the input and one for the state.
        if len(at) != 3 or arrays[at[2]].shape != (2 * gates * cell.units,):
            continue
        kernel, recurrent, bias = (arrays[i] for i in at)
        arrays[at[0]] = _by_gate(kernel, gates, lambda k: k.T.reshape(k.shape, order="F"))
        arrays[at[1]] = _by_gate(recurrent, gates, lambda k: k.T)
        both = bias.reshape(2, -1)
        arrays[at[2]] = both if gates == 3 else both.sum(axis=0)  # a GRU of reset_after has both


def _by_gate(matrix: Array, gates: int, change: Callable[[Array], Array]) -> Array:
    return np.hstack([change(gate) for gate in np.hsplit(matrix, gates)])


def _some(names: object) -> str:
    listed = list(names)  # type: ignore[call-overload]
    return ", ".join(listed[:4]) + (", ..." if len(listed) > 4 else "")
