"""What each output's numbers are: class probabilities where the model ends in them, else plain values.

The rule, exactly. An output is a softmax or a sigmoid head where the last operation that makes it is

- a ``Softmax`` layer over the last axis, or ``keras.ops.softmax`` over it, or ``keras.ops.sigmoid``;
- a layer whose ``activation`` is ``keras.activations.softmax`` or ``sigmoid`` (or a ``Softmax`` layer) and which
  applies it last: Activation, Dense, EinsumDense and the convolutions, and subclasses that leave ``call`` as it is;
- a nested functional or Sequential model whose output is one of these;
- ``TimeDistributed`` around one of these;
- ``Identity`` or ``Activation("linear")`` after one of these, and for a sigmoid ``Reshape``, ``Flatten`` and
  ``Permute`` too.

Everything else is a value, be it within 0 and 1: hard_sigmoid, a dropout after the softmax, a custom layer. A head of
mean and log-variance cannot be told from its layers; it is declared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import layers

from keepdrop.answer.heads import Heads, resolved
from keepdrop.artifact.metadata import SIGMOID, SOFTMAX, VALUE, Head, Tensor
from keepdrop.errors import InputError
from keepdrop_exporter.errors import ExportError

from . import keras_graphs

_APPLY_ACTIVATION_LAST = tuple(
    layer.call
    for layer in (
        layers.Activation,
        layers.Dense,
        layers.EinsumDense,
        layers.Conv1D,
        layers.Conv2D,
        layers.Conv3D,
        layers.Conv1DTranspose,
        layers.Conv2DTranspose,
        layers.Conv3DTranspose,
        layers.SeparableConv1D,
        layers.SeparableConv2D,
        layers.DepthwiseConv1D,
        layers.DepthwiseConv2D,
    )
)
_MOVE_ELEMENTS = (layers.Reshape, layers.Flatten, layers.Permute)


def find_heads(
    model: keras.Model, outputs: Sequence[Tensor], declared: Heads | None = None
) -> tuple[tuple[Head, ...], tuple[str, ...]]:
    """The head of each output of the model, recognised or declared, and a line on each that was recognised.

    Raises
    ------
    ExportError
        What is declared does not fit the outputs.
    """
    recognised = [Head(t.name, _kind(y)) for t, y in zip(outputs, model.outputs, strict=True)]
    try:
        heads = resolved(outputs, recognised, declared)
    except InputError as error:
        raise ExportError(f"model {model.name!r}: {error}") from error
    notes = tuple(
        f"output {head.output!r} ends in a {head.kind} and is taken for class probabilities; "
        f"--head {head.output}={VALUE} if it is none"
        for head in heads
        if head in recognised and head.kind != VALUE
    )
    return heads, notes


def _kind(tensor: Any) -> str:
    """What a Keras tensor of the model holds."""
    operation, sources, position = keras_graphs.origin(tensor)
    return _made_by(operation, position, len(tensor.shape), sources)


def _made_by(operation: Any, position: int, rank: int, sources: list[Any]) -> str:
    """What an operation gives as output number `position`, of some rank; `sources` are empty where they are unknown."""
    if (graph := keras_graphs.layer_graph(operation)) is not None:
        return _kind(keras.tree.flatten(graph.outputs)[position])
    if type(operation) is layers.TimeDistributed:
        return _made_by(operation.layer, 0, rank - 1, [])
    if type(operation) is layers.Softmax or keras_graphs.is_softmax(operation):
        return SOFTMAX if operation.axis in (-1, rank - 1, [-1], [rank - 1], (-1,), (rank - 1,)) else VALUE
    if keras_graphs.is_sigmoid(operation):
        return SIGMOID
    source = _kind(sources[0]) if len(sources) == 1 else VALUE
    if type(operation) in _MOVE_ELEMENTS:
        return SIGMOID if source == SIGMOID else VALUE
    if type(operation) is layers.Identity:
        return source
    if getattr(type(operation), "call", None) not in _APPLY_ACTIVATION_LAST:
        return VALUE
    activation = operation.activation
    if isinstance(operation, layers.Activation) and activation in (None, keras.activations.linear):
        return source
    if isinstance(activation, layers.Layer):
        return _made_by(activation, 0, rank, [])
    if activation is keras.activations.softmax:
        return SOFTMAX
    return SIGMOID if activation is keras.activations.sigmoid else VALUE
