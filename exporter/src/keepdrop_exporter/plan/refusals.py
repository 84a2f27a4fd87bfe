"""What no plan is made of: names, layers and operators that an artifact cannot hold exactly."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import keras

from keepdrop.artifact.metadata import RESERVED_NAMES, Tensor
from keepdrop_exporter.errors import Refusal

from . import keras_hooks

FOR_LAMBDAS = (
    " (where it is a Lambda: by a layer class of the Lambda's name in --custom FILE.py, custom_objects= in Python)"
)


def refuse_names(tensors: Iterable[Tensor]) -> None:
    """Refusal where the artifact, or TensorFlow, cannot take the name of an input or output, or it is of strings."""
    for tensor in tensors:
        if tensor.name in RESERVED_NAMES:
            raise Refusal(
                f"an input or output of the model is called {tensor.name!r}, as an input of the artifact's own is; "
                "give the layer another name and save the model again"
            )
        if not re.fullmatch(r"[A-Za-z0-9.][A-Za-z0-9_.-]*", tensor.name):
            raise Refusal(
                f"an input or output of the model is called {tensor.name!r}, which TensorFlow does not take as a name; "
                "give the layer a name of letters, digits, dots, dashes and underscores"
            )
        if tensor.dtype == "string":
            raise Refusal(f"input {tensor.name!r} is of strings; look them up before the model and feed it integers")
    names = [tensor.name for tensor in tensors]
    if both := {name for name in names if names.count(name) > 1}:
        raise Refusal(
            f"an input and an output are both called {min(both)!r}; give one of them another name (an input "
            "that is an output as well: pass it through keras.layers.Identity(name=...))"
        )


# LookupTableFindV2, Bucketize, StringToHashBucketFast: tf2onnx 1.17 has none, and a table is no part of a function.
_OF_TABLES = (
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
    keras.layers.Hashing,
    keras.layers.HashedCrossing,
    keras.layers.Discretization,
)


def refuse_layers(model: keras.Model) -> None:
    """Refusal where a layer cannot be exported exactly, whatever it is called with."""
    paths = keras_hooks.layer_paths(model)
    for layer in keras_hooks.all_layers(model):
        name = paths.get(id(layer), layer.name)
        if isinstance(layer, _OF_TABLES):
            raise Refusal(
                f"layer {name!r} is a preprocessing layer ({type(layer).__name__}) that no operator of ONNX stands "
                "for; apply it to the data before the model, and export the model of the layers behind it"
            )
        if getattr(layer, "stateful", False):
            raise Refusal(
                f"layer {name!r} is stateful: its state would pass from one sample to the next; export it as a stream, "
                "which carries it from step to step (--streaming, streaming=True), or build it again with "
                "stateful=False and load the weights"
            )
        if keras_hooks.shapes_do_not_fit(layer):
            raise Refusal(
                f"layer {name!r} fails in Keras itself with implementation=1, dropout alone and training=True; build "
                "it with use_cudnn=False, or without implementation=1, and load the weights"
            )
        if layer.compute_dtype in ("float16", "bfloat16", "float64"):
            raise Refusal(
                f"layer {name!r} computes in {layer.compute_dtype}; the contract is of float32: build the model again "
                "under keras.config.set_dtype_policy('float32') and load the weights"
            )


def refuse_operators(graph: Any, layers: set[str]) -> None:
    """Refusal where the traced graph of a model with layers of these names changes it, or draws past Keras."""
    for op in graph.get_operations():
        # The recording's own draws advance no generator: whatever is assigned, a layer assigns.
        if op.type.startswith("Assign") and "Variable" in op.type:
            raise Refusal(
                f"operator {op.name!r} changes a variable of the model in every forward pass; freeze that layer "
                "(layer.trainable = False), remove it, or let it draw through keras.random instead of advancing a seed "
                "generator itself: a sample must not depend on those before it"
            )
    for node in nodes(graph):
        if ("Random" in node.op or "Multinomial" in node.op) and "/dropout/" in node.name:
            scope = node.name.partition("/dropout/")[0].rpartition("/")[2]
            layer = scope if scope in layers else re.sub(r"_\d+$", "", scope)  # a second call counts
            raise Refusal(
                f"layer {layer!r} calls tf.nn.dropout, whose numbers no seed of Keras reaches; give a class of the "
                "same name that is keras.layers.Dropout: class NAME(keras.layers.Dropout): pass, in --custom FILE.py "
                "(custom_objects={'NAME': keras.layers.Dropout} in Python)"
            )
        if "Random" in node.op or "Multinomial" in node.op:
            scopes = [re.sub(r"_\d+$", "", scope) for scope in node.name.split("/")]
            where = next((f"layer {s!r}, " for s in (*node.name.split("/"), *scopes) if s in layers), "")
            raise Refusal(
                f"{where}operator {node.name!r} ({node.op}) draws through tf.random, which no seed of Keras reaches; "
                f"draw through keras.random with a keras.random.SeedGenerator that the layer owns{FOR_LAMBDAS}"
            )


def nodes(graph: Any) -> list[Any]:
    """The nodes of a TensorFlow graph and of its functions."""
    definition = graph.as_graph_def()
    return [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
