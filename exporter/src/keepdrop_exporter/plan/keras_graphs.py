"""What reaches into Keras' functional graphs: what a model is made of, what comes from where, and how it is run.

The rest of what reaches into Keras is in ``keras_hooks``.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
from keras.src.models.functional import Functional
from keras.src.ops import nn as _operations

from .keras_hooks import all_layers


def layer_graph(layer: Any) -> Any:
    """The functional graph of a model or of a Sequential; None where its class does anything else in ``call``."""
    if type(layer) is keras.Sequential:
        layer = layer._functional
    return layer if layer is not None and type(layer).call is Functional.call else None


def structures(model: keras.Model) -> tuple[Any, Any]:
    """The inputs and the outputs of a model, nested as it was made; None of one that has no such graph."""
    graph = layer_graph(model) or model
    return getattr(graph, "_inputs_struct", None), getattr(graph, "_outputs_struct", None)


def graph_operations(model: keras.Model) -> list[Any]:
    """The layers and operations of a functional or sequential model, inputs included, those of models in it not."""
    return list(layer_graph(model).operations)


def taken_tensors(model: keras.Model, layer: keras.Layer) -> list[list[Any]]:
    """The symbolic tensors that a layer takes in a model's graph, a list for each call."""
    nodes = [node for nodes in layer_graph(model)._nodes_by_depth.values() for node in nodes]
    return [list(node.input_tensors) for node in nodes if node.operation is layer]


def called_in_training(model: keras.Model) -> list[str]:
    """The names of the layers that a functional graph calls with ``training=True``, nested graphs included."""
    graphs = {id(graph): graph for layer in all_layers(model) if (graph := layer_graph(layer)) is not None}
    nodes = [node for graph in graphs.values() for depth in graph._nodes_by_depth.values() for node in depth]
    baked = [n.operation.name for n in nodes if n.arguments and n.arguments.kwargs.get("training") is True]
    return list(dict.fromkeys(baked))


def operation_of(tensor: Any) -> Any:
    """The layer or operation that a symbolic tensor comes from."""
    return tensor._keras_history.operation


def origin(tensor: Any) -> tuple[Any, list[Any], int]:
    """The operation that a symbolic tensor comes from, the tensors it took there, and which of its outputs it is."""
    operation, node, position = tensor._keras_history
    return operation, operation._inbound_nodes[node].input_tensors, position


def is_operation(operation: Any, names: set[str]) -> bool:
    """Whether it is one of keras.ops of such a name."""
    return type(operation).__module__.startswith("keras.src.ops.") and type(operation).__name__ in names


def is_softmax(operation: Any) -> bool:
    """Whether an operation of a functional graph is ``keras.ops.softmax``, over its ``axis``."""
    return type(operation) is _operations.Softmax


def is_sigmoid(operation: Any) -> bool:
    """Whether an operation of a functional graph is ``keras.ops.sigmoid``."""
    return type(operation) is _operations.Sigmoid


@contextlib.contextmanager
def replaced_operations(apply: Callable[..., Any]) -> Iterator[None]:
    """Run the operations of functional graphs through ``apply`` while the context is open.

    It is given the operation, a function that calls it as Keras does (with ``training`` passed on), and its arguments.
    """
    original = Functional._run_through_graph

    def run(graph: Any, inputs: Any, operation_fn: Callable[[Any], Any] = lambda op: op, call_fn: Any = None) -> Any:
        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            return apply(operation, operation_fn(operation), *args, **kwargs)

        return original(graph, inputs, operation_fn=lambda operation: operation, call_fn=call)

    Functional._run_through_graph = run
    try:
        yield
    finally:
        Functional._run_through_graph = original


def rebuilt(model: keras.Model, copy: Callable[[Any], Any], before: Callable[[Any], keras.Layer | None]) -> keras.Model:
    """A functional or sequential model built again from other layers.

    Parameters
    ----------
    copy
        Gives the layer to put in a layer's place.
    before
        Gives a layer to put before that of the model, or None. It is called on each of its symbolic tensors.
    """
    if type(model) is keras.Sequential:
        layers = [layer for old in model._layers for layer in (before(old), copy(old)) if layer is not None]
        return keras.Sequential(layers, name=model.name)

    def new_input(x: Any) -> Any:
        return copy(x._keras_history.operation).output

    def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        if (first := before(operation)) is not None:
            args, kwargs = keras.tree.map_structure(
                lambda x: first(x) if isinstance(x, keras.KerasTensor) else x, (args, kwargs)
            )
        return copy(operation)(*args, **kwargs)

    inputs = keras.tree.map_structure(new_input, model._inputs_struct)
    outputs = model._run_through_graph(inputs, operation_fn=lambda operation: operation, call_fn=call)
    return type(model)(inputs, outputs, name=model.name)


def note_call(operation: keras.Operation, outputs: list[Any]) -> None:
    """Note what a call of an operation gave, where Keras looks for it when it rebuilds a functional model.

    Seen in functional.py of 3.11 to 3.15: of a node there it reads ``output_tensors`` alone.
    """
    operation._inbound_nodes.append(types.SimpleNamespace(output_tensors=outputs))
