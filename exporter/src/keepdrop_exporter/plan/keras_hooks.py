"""What reaches into Keras: its random functions, its layers' generators, their frozen state.

Of its functional graphs see ``keras_graphs``; no other module does.

``intercept`` puts a ``RandomFunctions`` in place of the functions every Keras layer draws through
(``keras.src.backend.random``, Keras 3), so that a recording or a replay sees each draw with its generator.
"""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from keras.src.backend import get_keras_mask, set_keras_mask
from keras.src.backend import random as _backend_random
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell
from keras.src.models.functional import Functional
from keras.src.utils import python_utils as _python_utils

# The package's attribute of that name is a function.
_backend_rnn = importlib.import_module("keras.src.backend.tensorflow.rnn")
_backend_numpy = importlib.import_module("keras.src.backend.tensorflow.numpy")

_UNSUPPORTED = ("randint", "categorical", "truncated_normal", "shuffle", "gamma", "binomial", "beta")

stock_dropout = _backend_random.dropout
stock_uniform = _backend_random.uniform
stock_normal = _backend_random.normal
"""Keras' random functions as they are, also while ``intercept`` has others in their place."""


class RandomFunctions(Protocol):
    """What stands in for Keras' random functions; arguments as in ``keras.random``."""

    def dropout(self, inputs: tf.Tensor, rate: float, noise_shape: Any = None, seed: Any = None) -> tf.Tensor:
        """Stand in for ``keras.random.dropout``."""

    def uniform(
        self, shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: Any = None
    ) -> tf.Tensor:
        """Stand in for ``keras.random.uniform``."""

    def normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> tf.Tensor:
        """Stand in for ``keras.random.normal``."""

    def unsupported(self, kind: str) -> None:
        """Be told of a call to another function of ``keras.random``."""


class StockFunctions:
    """Keras' random functions as they are."""

    dropout = staticmethod(stock_dropout)
    uniform = staticmethod(stock_uniform)
    normal = staticmethod(stock_normal)

    def unsupported(self, kind: str) -> None:
        """Be told of a call to another function of ``keras.random``, which the plan refuses."""
        raise AssertionError(f"the plan let keras.random.{kind} pass")


@contextlib.contextmanager
def intercept(functions: RandomFunctions) -> Iterator[None]:
    """Send every draw of Keras' layers to ``functions`` while the context is open."""
    replaced = {name: getattr(_backend_random, name) for name in ("dropout", "uniform", "normal", *_UNSUPPORTED)}

    def refuse(kind: str) -> Any:
        return lambda *args, **kwargs: functions.unsupported(kind)

    try:
        for name in ("dropout", "uniform", "normal"):
            setattr(_backend_random, name, getattr(functions, name))
        for name in _UNSUPPORTED:
            setattr(_backend_random, name, refuse(name))
        yield
    finally:
        for name, function in replaced.items():
            setattr(_backend_random, name, function)


@contextlib.contextmanager
def convertible() -> Iterator[None]:
    """Keep Keras from operators without a counterpart in ONNX where others do the same: argmax reads a float's bits."""
    original = _backend_numpy.signbit

    def signbit(x: Any) -> tf.Tensor:
        x = tf.convert_to_tensor(x)
        if x.dtype != tf.float32:
            return original(x)
        return tf.logical_or(x < 0, tf.logical_and(tf.equal(x, 0), 1 / x < 0))  # 1 / -0 is -inf

    with mock.patch.object(_backend_numpy, "signbit", signbit):
        yield


@contextlib.contextmanager
def any_length() -> Iterator[None]:
    """Let a model be called on sequences of another length than its inputs declare."""
    with mock.patch.object(keras.Layer, "_assert_input_compatibility", lambda *args: None):
        yield


@contextlib.contextmanager
def plain_errors() -> Iterator[None]:
    """Leave errors from within layers as they are; Keras would add a layer's arguments and terminal colours."""
    filtering = keras.config.is_traceback_filtering_enabled()
    keras.config.disable_traceback_filtering()
    try:
        yield
    finally:
        if filtering:
            keras.config.enable_traceback_filtering()


@contextlib.contextmanager
def sampling_state(model: keras.Model) -> Iterator[None]:
    """Run the model as the contract says, and leave it as it was found: flags, generators and cached masks.

    BatchNormalization is frozen. GPUs are left out: the contract's numbers are those of TensorFlow on a CPU, and
    Keras' recurrent layers would take operators of cuDNN that no other machine has. Cells start without masks: a call
    of the model that failed, whoever made it, leaves them in the cells (Keras 3.15), and the next call would take them.
    """
    forget_masks(model)
    norms = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.BatchNormalization)]
    trainable = [layer.trainable for layer in norms]
    # A layer's flag sets those of its variables, some of which their owner may have frozen alone.
    of_variables = [(variable, variable.trainable) for layer in norms for variable in layer.variables]
    # Whatever else a forward pass assigns would be an operator of the recording, which the plan refuses.
    kept = [(g.state, g.state.numpy()) for g in generators(model)]
    try:
        for layer in norms:
            layer.trainable = False
        with tf.device("/CPU:0"), mock.patch.object(_backend_rnn, "_is_gpu_available", lambda: False):
            yield
    finally:
        for layer, flag in zip(norms, trainable, strict=True):
            layer.trainable = flag
        for variable, flag in of_variables:
            variable.trainable = flag
        for variable, value in kept:
            variable.assign(value)
        forget_masks(model)


def forget_masks(model: keras.Model) -> None:
    """Let no cell of the model hold a dropout mask, as it does after a call that failed midway."""
    for layer in all_layers(model):
        if isinstance(layer, DropoutRNNCell):
            layer.reset_dropout_mask()
            layer.reset_recurrent_dropout_mask()


@contextlib.contextmanager
def in_float64(model: keras.Model) -> Iterator[None]:
    """Let the model's float32 layers compute in float64, with the weights they have, while the context is open."""
    policies = [(layer, layer.dtype_policy) for layer in all_layers(model) if layer.compute_dtype == "float32"]
    double = keras.DTypePolicy("float64")
    # Only where a layer's variables are of another type than it computes in does Keras cast them (Keras 3.15).
    double._variable_dtype = "float32"

    def unconverted(graph: Any, inputs: Any) -> list[Any]:
        return [x if x is None else tf.convert_to_tensor(x) for x in inputs]

    try:
        for layer, _ in policies:
            layer.dtype_policy = double
        # A nested model would cast what it is given to the type its inputs were declared with.
        with mock.patch.object(Functional, "_convert_inputs_to_tensors", unconverted):
            yield
    finally:
        for layer, policy in policies:
            layer.dtype_policy = policy


def all_layers(model: keras.Model) -> list[keras.Layer]:
    """Every layer of the model, nested ones, wrapped ones and RNN cells included."""
    return list(model._flatten_layers(include_self=True, recursive=True))


def generators(layer: keras.Layer) -> list[keras.random.SeedGenerator]:
    """Every seed generator that the layer or a layer inside it owns."""
    found = {
        id(g): g for inner in layer._flatten_layers(include_self=True, recursive=True) for g in inner._seed_generators
    }
    return list(found.values())


def layer_paths(model: keras.Model) -> dict[int, str]:
    """A readable path for each layer by its ``id``: names from below the model, joined by slashes."""
    paths: dict[int, str] = {}

    def walk(layer: keras.Layer, path: str) -> None:
        if id(layer) in paths:
            return
        paths[id(layer)] = path
        for inner in layer._layers:
            # An RNN's cell is part of the layer its user named.
            hidden = isinstance(layer, keras.layers.RNN) and inner is layer.cell and isinstance(inner, DropoutRNNCell)
            walk(inner, path if hidden else f"{path}/{inner.name}".lstrip("/"))

    walk(model, "")
    paths[id(model)] = model.name
    return paths


def drawing_layer() -> tuple[keras.Layer | None, str]:
    """The innermost layer whose code is running, and the argument of it that asks for numbers."""
    frame: Any = sys._getframe(1)
    layer, names = None, set()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.Layer):
            if layer is not None and owner is not layer:
                break
            layer = owner
            names.add(frame.f_code.co_name)
        frame = frame.f_back
    if "get_recurrent_dropout_mask" in names:
        return layer, "recurrent_dropout"
    return layer, next((name for name in ("rate", "dropout", "stddev") if hasattr(layer, name)), "call")


def failing_layer(error: BaseException) -> keras.Layer | None:
    """The innermost layer in whose code an error was raised; None where it was in none.

    It is told from the call stack, so errors of a traced function, which are raised where that is run, have none.
    """
    layer, trace = None, error.__traceback__
    while trace is not None:
        owner = trace.tb_frame.f_locals.get("self")
        layer = owner if isinstance(owner, keras.Layer) else layer
        trace = trace.tb_next
    return layer


STOCK_CELLS = {keras.layers.LSTMCell: "LSTM", keras.layers.GRUCell: "GRU", keras.layers.SimpleRNNCell: "RNN"}
"""Keras' own recurrent cells, and what ONNX calls them."""


def is_stock_loop(layer: keras.layers.RNN) -> bool:
    """Whether the time loop that is about to run is over one of Keras' own cells and was asked for by ``RNN.call``.

    The layer itself may be of a subclass; the cell's activations may be anyone's.
    """
    if type(layer.cell) not in STOCK_CELLS:
        return False
    frame: Any = sys._getframe(1)
    while frame is not None and not isinstance(frame.f_locals.get("self"), keras.layers.RNN):
        frame = frame.f_back
    return frame is not None and frame.f_code is keras.layers.RNN.call.__code__


def shapes_do_not_fit(layer: keras.Layer) -> bool:
    """Whether Keras 3 fails on a layer's dropout: it takes a list of masks, one a gate, for a single one."""
    return (
        isinstance(layer, (keras.layers.LSTM, keras.layers.GRU))
        and layer.use_cudnn in ("auto", True)
        and layer.cell.implementation == 1
        and layer.dropout > 0
        and not layer.recurrent_dropout
    )


def vocabulary_sizes(model: keras.Model) -> dict[int, int]:
    """For each input of the model that an Embedding may read, by its position: how many ids are valid."""
    embeddings = [layer for layer in all_layers(model) if isinstance(layer, keras.layers.Embedding)]
    if not embeddings:
        return {}
    sizes: dict[int, int] = {}
    for i, x in enumerate(model.inputs):
        readers = [e for e in embeddings if any(x is y for node in e._inbound_nodes for y in node.input_tensors)]
        if readers or "int" in x.dtype:
            sizes[i] = min(e.input_dim for e in readers or embeddings)
    return sizes


def get_mask(x: tf.Tensor) -> tf.Tensor | None:
    """The time steps that Keras passes along with a tensor, bool [batch, time]."""
    return get_keras_mask(x)


def set_mask(x: tf.Tensor, mask: tf.Tensor) -> None:
    """Let Keras pass a mask along with a tensor."""
    set_keras_mask(x, mask)


@contextlib.contextmanager
def replaced_loops(
    inner_loop: Callable[..., Any], time_distributed: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Run recurrent layers' time loops, and ``TimeDistributed``, through other functions while the context is open.

    Each is called with the original function first, then as the original is.
    """
    rnns = (keras.layers.RNN, keras.layers.LSTM, keras.layers.GRU)
    owners: list[tuple[Any, str]] = [(cls, "inner_loop") for cls in rnns]
    replacements = [inner_loop] * len(owners)
    if time_distributed is not None:
        owners.append((keras.layers.TimeDistributed, "call"))
        replacements.append(time_distributed)
    originals = [(cls, name, cls.__dict__[name]) for cls, name in owners]

    def through(replacement: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args, **kwargs: replacement(original, *args, **kwargs)

    try:
        for (cls, name, original), replacement in zip(originals, replacements, strict=True):
            setattr(cls, name, through(replacement, original))
        yield
    finally:
        for cls, name, original in originals:
            setattr(cls, name, original)


def mask_values(model: keras.Model) -> dict[int, float]:
    """For each input of the model that a mask is made from, by its position: the value that is masked."""
    found: dict[int, float] = {}
    for layer in all_layers(model):
        masks = isinstance(layer, keras.layers.Masking) or getattr(layer, "mask_zero", False)
        if not masks:
            continue
        value = float(getattr(layer, "mask_value", 0.0))
        read = [
            i for i, x in enumerate(model.inputs) if any(x is y for n in layer._inbound_nodes for y in n.input_tensors)
        ]
        # Inside a nested model it may be any input of that kind.
        integers = isinstance(layer, keras.layers.Embedding)
        alike = [i for i, x in enumerate(model.inputs) if ("int" in x.dtype) == integers and len(x.shape) >= 2]
        found |= {i: value for i in read or alike}
    return found


def normalizations(model: keras.Model) -> dict[int, tuple[Any, Any]]:
    """For each input of the model that a normalisation by fixed statistics reads, by its position: mean and variance.

    Both have a leading axis of 1. ``BatchNormalization`` counts where it normalises the last axis; of ``Rescaling``
    they are what it makes 0 and 1 of.
    """
    found: dict[int, tuple[Any, Any]] = {}
    for layer in all_layers(model):
        batch = isinstance(layer, keras.layers.BatchNormalization) and layer.built
        if isinstance(layer, keras.layers.Normalization) and not layer.invert:
            statistics = layer.mean, layer.variance
        elif batch and layer.axis in (-1, layer.input_spec.ndim - 1):
            statistics = layer.moving_mean[None], layer.moving_variance[None]
        elif isinstance(layer, keras.layers.Rescaling) and np.all(layer.scale):
            scale = np.asarray(layer.scale, np.float64)
            if scale.ndim and keras.config.image_data_format() == "channels_first":
                continue
            statistics = (-np.asarray(layer.offset) / scale)[None], (1 / scale**2)[None]
        else:
            continue
        read = [x for node in layer._inbound_nodes for x in node.input_tensors]
        found |= {i: statistics for i, x in enumerate(model.inputs) if any(x is y for y in read)}
    return found


def copy_of_lambda(layer: keras.layers.Lambda) -> keras.layers.Lambda:
    """A ``Lambda`` layer around the same function."""
    return keras.layers.Lambda(
        layer.function,
        output_shape=layer._output_shape,
        mask=layer.mask,
        arguments=dict(layer.arguments),
        name=layer.name,
        trainable=layer.trainable,
        dtype=layer.dtype_policy,
    )


def takes(layer: keras.Layer, argument: str) -> bool:
    """Whether a layer's ``call`` has an argument ``"training"`` or ``"mask"``."""
    return bool(getattr(layer, f"_call_has_{argument}_arg"))


@contextlib.contextmanager
def cached_masks(cell: Any, dropout: Any, recurrent: Any) -> Iterator[None]:
    """Let a recurrent cell hold these dropout masks, in the form Keras caches them in, while the context is open."""
    kept = cell._dropout_mask, cell._recurrent_dropout_mask
    cell._dropout_mask, cell._recurrent_dropout_mask = dropout, recurrent
    try:
        yield
    finally:
        cell._dropout_mask, cell._recurrent_dropout_mask = kept


def name_libraries_for_lambdas() -> None:
    """Let the code of Lambda layers in files find the names that Keras 2 code used for libraries.

    A function that is loaded sees the names of the module that loads it, python_utils, and no others.
    """
    of_keras = {"keras": tf.keras, "backend": tf.keras.backend, "K": tf.keras.backend, "layers": keras.layers}
    others = {"tf": tf, "tensorflow": tf, "np": np, "numpy": np, "math": math, "ops": keras.ops}
    for name, library in {**of_keras, **others}.items():
        vars(_python_utils).setdefault(name, library)
