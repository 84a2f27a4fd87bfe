"""Stage 2, plan: what is random in the model, in which order, and whether it can be exported exactly.

A recording pass traces the untouched model with ``training=True`` and notes every draw. Two passes of
different batch and time lengths tell which axes of a draw follow the batch and the time. Every refusal
of a model is made here, before anything is converted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keepdrop.artifact.metadata import Draw, Tensor
from keepdrop_exporter.errors import Refusal

from . import keras_graphs, keras_hooks
from .refusals import FOR_LAMBDAS, nodes, refuse_layers, refuse_names, refuse_operators

# Batch and time lengths of the two recording passes: all different, so that no axis can be mistaken for another.
_BATCHES = (3, 5)
LENGTHS = (26, 37)

# Keras stores training=False for a call that says nothing, so an explicit False cannot be told from it.
_NOTE = (
    "layers draw as in model(x, training=True), whatever training= they were called with in the model; "
    "a rate of 0 switches a dropout off"
)


@dataclass(frozen=True)
class Plan:
    """What the trace needs to know of a model.

    ``draws`` are in the order of their numbers; ``generators[i]`` is the seed generator that
    ``Draw.generator == i`` refers to. ``notes`` are lines that the model's owner should read.
    ``batch_first``: no draw has the batch joined with another axis.
    """

    model: keras.Model
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    draws: tuple[Draw, ...]
    generators: tuple[keras.random.SeedGenerator, ...]
    notes: tuple[str, ...] = ()
    batch_first: bool = True

    @property
    def draws_per_row(self) -> int:
        """D of the contract: how many draws one row makes."""
        return len(self.draws)

    def call(self, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """``model(inputs, training=True)`` on flat inputs, giving flat outputs."""
        return call_model(self.model, inputs)


def make_plan(model: keras.Model) -> Plan:
    """Find every draw of a model's forward pass, or refuse the model.

    Raises
    ------
    Refusal
        The model cannot be exported exactly; the text names the layer and the cure.
    """
    inputs, outputs = tensors(model)
    refuse_layers(model)
    refuse_names((*inputs, *outputs))
    with keras_hooks.sampling_state(model):
        short, long = (_record(model, inputs, batch, length) for batch, length in zip(_BATCHES, LENGTHS, strict=True))
    if not short.events:
        raise Refusal(
            f"model {model.name!r}: nothing in it is random when training=True (a rate of 0 draws nothing); set rates "
            "with --dropout LAYER=RATE (dropout={'LAYER': RATE} in Python; to verify, those of the export), or add a "
            "Dropout layer"
        )
    batch_first = all(event.shape[0] == _BATCHES[0] for event in short.events)
    outputs = tuple(_observed(*found) for found in zip(outputs, short.outputs, long.outputs, strict=True))
    return Plan(model, inputs, outputs, _draws(short, long), tuple(short.generators), _notes(model), batch_first)


def draws_anything(model: keras.Model) -> bool:
    """Whether something in the model is random as it is; Refusal where a draw cannot be followed."""
    inputs, _ = tensors(model)
    with keras_hooks.sampling_state(model):
        return bool(_record(model, inputs, _BATCHES[0], LENGTHS[0]).events)


def _observed(output: Tensor, short: tf.TensorShape, long: tf.TensorShape) -> Tensor:
    """An output with the sizes it was seen to have: Keras declares Bidirectional's as if both directions were alike."""
    known = [
        n if n is None or a is None else a if a == b else None
        for n, a, b in zip(output.shape[2:], short[1:], long[1:], strict=True)
    ]
    return replace(output, shape=(None, None, *known))


def _notes(model: keras.Model) -> tuple[str, ...]:
    baked = keras_graphs.called_in_training(model)
    if not baked:
        return (_NOTE,)
    return (
        _NOTE,
        f"training=True of the call of {', '.join(map(repr, baked))} is without effect in Keras 3's own model.predict "
        "and model(x), which pass training=False; the artifact draws there",
    )


def call_model(model: keras.Model, inputs: Sequence[tf.Tensor], training: bool = True) -> list[tf.Tensor]:
    """``model(inputs, training=training)`` on flat inputs, giving flat outputs.

    Parameters
    ----------
    inputs
        One tensor an input of the model, in the order of ``model.inputs``.
    """
    structure, _ = keras_graphs.structures(model)
    packed = (
        inputs[0] if structure is None and len(inputs) == 1 else keras.tree.pack_sequence_as(structure, list(inputs))
    )
    return list(keras.tree.flatten(model(packed, training=training)))


@dataclass(frozen=True)
class _Event:
    layer: str
    argument: str
    kind: str
    rate: float | None
    shape: tuple[int, ...]
    generator: int


class _Recorder:
    """Notes each draw, and draws nothing: a recording only needs shapes."""

    def __init__(self, model: keras.Model, batch: int) -> None:
        self.events: list[_Event] = []
        self.outputs: list[tf.TensorShape] = []
        self.generators: list[keras.random.SeedGenerator] = []
        self._paths = keras_hooks.layer_paths(model)
        self._owned = keras_hooks.generators(model)
        self._batch = batch
        self._graph: Any = None

    def start(self) -> None:
        self._graph = tf.compat.v1.get_default_graph()

    def dropout(self, inputs: tf.Tensor, rate: float, noise_shape: Any = None, seed: Any = None) -> tf.Tensor:
        if rate == 0.0:
            return inputs
        if rate == 1.0:
            return tf.zeros_like(inputs)
        shape = inputs.shape.as_list()
        if noise_shape is not None:
            shape = [n if size is None else size for n, size in zip(shape, noise_shape, strict=True)]
        self._note("dropout", float(rate), shape, seed)
        return inputs * 1.0

    def uniform(
        self, shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: Any = None
    ) -> tf.Tensor:
        self._refuse_dtype("uniform", dtype)
        self._note("uniform", None, shape, seed)
        return tf.ones(shape, dtype or "float32") * minval

    def normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> tf.Tensor:
        self._refuse_dtype("normal", dtype)
        self._note("normal", None, shape, seed)
        return tf.ones(shape, dtype or "float32") * mean

    def unsupported(self, kind: str) -> None:
        self._refuse_unbuilt()
        raise Refusal(
            f"{self._where()[0]} draws through keras.random.{kind}, whose numbers the contract does not define; draw "
            "with keras.random.dropout, uniform or normal instead"
        )

    def _refuse_dtype(self, kind: str, dtype: Any) -> None:
        if dtype is not None and keras.backend.standardize_dtype(dtype) != "float32":
            raise Refusal(
                f"{self._where()[0]} draws keras.random.{kind} of dtype {dtype}; the contract is of float32: leave "
                "dtype= out and cast what is drawn"
            )

    def _where(self) -> tuple[str, str]:
        layer, argument = keras_hooks.drawing_layer()
        if layer is None:
            return "code outside any layer", argument
        return f"layer {self._paths.get(id(layer), layer.name)!r}", argument

    def _refuse_unbuilt(self) -> None:
        layer, _ = keras_hooks.drawing_layer()
        if layer is not None and not layer.built:
            raise Refusal(
                f"{self._where()[0]} has no weights yet, and would draw them in its first call; call the model once, "
                "and load its weights, before exporting it"
            )

    def _note(self, kind: str, rate: float | None, shape: Any, seed: Any) -> None:
        where, argument = self._where()
        owned = isinstance(seed, keras.random.SeedGenerator) and any(seed is g for g in self._owned)
        if not owned:
            self._refuse_unbuilt()
            given = _source(seed)
            raise Refusal(
                f"{where} draws from {given}, whose numbers do not belong to the model; give the layer a "
                f"keras.random.SeedGenerator of its own in __init__ and pass it as seed={FOR_LAMBDAS}"
            )
        if tf.compat.v1.get_default_graph() is not self._graph:
            raise Refusal(
                f"{where} draws inside the time loop, anew in every step; draw once before the loop, as the dropout of "
                "Keras' own recurrent cells does, or set unroll=True"
            )
        static = [
            tf.get_static_value(n) if tf.is_tensor(n) else n
            for n in (shape if not tf.is_tensor(shape) else tf.get_static_value(shape))
        ]
        if not static or static[0] is None or static[0] % self._batch or any(n is None for n in static):
            raise Refusal(
                f"{where} draws numbers of shape {tuple(static)} for a batch of {self._batch}: they are not one share "
                f"for each sample{self._of_weights(static)}; let the first axis of what it draws be the batch (in "
                "noise_shape: None)"
            )
        if seed not in self.generators:
            self.generators.append(seed)
        self.events.append(
            _Event(
                where.removeprefix("layer ").strip("'"),
                argument,
                kind,
                rate,
                tuple(int(n) for n in static),
                self.generators.index(seed),
            )
        )

    def _of_weights(self, shape: Sequence[int | None]) -> str:
        """What such a draw is where it has the shape of the layer's own weights, as in variational layers."""
        layer, _ = keras_hooks.drawing_layer()
        alike = [v.name for v in (layer.weights if layer is not None else []) if tuple(v.shape) == tuple(shape)]
        return f", but noise on the layer's weights ({alike[0]}), one draw that the whole batch shares" if alike else ""


def _source(seed: Any) -> str:
    if seed is None:
        return "Keras' global generator (seed=None)"
    if isinstance(seed, keras.random.SeedGenerator):
        return f"a generator that no layer owns ({seed.name})"
    return f"an integer seed ({seed})"


def _record(model: keras.Model, inputs: Sequence[Tensor], batch: int, length: int) -> _Recorder:
    recorder = _Recorder(model, batch)
    specs = [tf.TensorSpec([batch, *(length if n is None else n for n in t.shape[1:])], t.dtype) for t in inputs]

    def forward(*tensors: tf.Tensor) -> list[tf.Tensor]:
        recorder.start()
        with keras_hooks.intercept(recorder), keras_hooks.plain_errors(), keras_hooks.replaced_loops(_passed_over):
            return call_model(model, tensors)

    try:
        graph = tf.function(forward, autograph=False).get_concrete_function(*specs).graph
    except Refusal:
        raise
    except Exception as error:
        raise _unrunnable(model, inputs, batch, error) from error
    refuse_operators(graph, {layer.name for layer in keras_hooks.all_layers(model)})
    _refuse_without_kernel(model, specs, graph)
    for y in graph.structured_outputs:
        if y.shape.rank == 0 or y.shape[0] not in (batch, None):
            raise _unrunnable(model, inputs, batch, ValueError(f"it gives an output of shape {tuple(y.shape)}"))
        recorder.outputs.append(y.shape)
    return recorder


def _passed_over(
    original: Any, layer: keras.layers.RNN, sequences: tf.Tensor, initial_state: Any, mask: Any, training: bool = False
) -> Any:
    """Stand in for ``RNN.inner_loop``, with the shapes of its results: to trace Keras' own takes long.

    It draws nothing: a cell's masks are made before its loop.
    """
    states = keras.tree.flatten(initial_state)
    batch, steps = sequences.shape[:2]
    activations = [getattr(layer.cell, name, None) for name in ("activation", "recurrent_activation")]
    if (
        not keras_hooks.is_stock_loop(layer)
        or None in (batch, steps)
        or any(state.shape.as_list() != [batch, layer.cell.units] for state in states)
        or any(f is not None and f not in vars(keras.activations).values() for f in activations)
    ):
        return original(layer, sequences, initial_state, mask, training)
    last = tf.compat.v1.placeholder_with_default(states[0], states[0].shape)
    return last, tf.repeat(last[:, None], steps if layer.return_sequences else 1, axis=1), [last] * len(states)


def _unrunnable(model: keras.Model, inputs: Sequence[Tensor], batch: int, error: Exception) -> Refusal:
    reason = " ".join(str(error).split())[:400]
    fixed = [t.name for t, x in zip(inputs, model.inputs, strict=True) if x.shape[0] is not None]
    if fixed:
        return Refusal(
            f"input {fixed[0]!r} fixes the batch size to {model.inputs[0].shape[0]} and the model does not run "
            f"with {batch} rows ({reason}); build it again with keras.Input(shape=...) in place of batch_shape= and "
            "load the weights"
        )
    if any(n is None for t in inputs for n in t.shape[1:]):
        return Refusal(f"model {model.name!r} does not run on inputs of length {LENGTHS}: {reason}")
    return Refusal(f"model {model.name!r} does not run on a batch of {batch} rows with training=True: {reason}")


def _draws(short: _Recorder, long: _Recorder) -> tuple[Draw, ...]:
    if len(short.events) != len(long.events):
        few, many = (Counter(event.layer for event in recorder.events) for recorder in (short, long))
        layer = next(iter(many - few or few - many))
        raise Refusal(
            f"layer {layer!r}: the number of draws follows the input's length ({few[layer]} at {LENGTHS[0]} steps, "
            f"{many[layer]} at {LENGTHS[1]}); fix the length in keras.Input"
        )
    counts = np.bincount([e.generator for e in short.events])
    following = np.concatenate([[0], np.cumsum(counts)[:-1]])
    draws = []
    for near, far in zip(short.events, long.events, strict=True):
        if near.shape[0] * _BATCHES[1] != far.shape[0] * _BATCHES[0]:
            raise Refusal(
                f"layer {near.layer!r} draws numbers of shape {near.shape} for {_BATCHES[0]} rows and {far.shape} for "
                f"{_BATCHES[1]}: they are not one share for each sample; let the first axis of what it draws be the "
                "batch"
            )
        share = near.shape[0] // _BATCHES[0]
        shape = (
            *((share,) if share > 1 else ()),
            *(a if a == b else None for a, b in zip(near.shape[1:], far.shape[1:], strict=True)),
        )
        offset = int(following[near.generator])
        following[near.generator] += 1
        draws.append(Draw(near.layer, near.argument, near.kind, near.rate, shape, near.generator, offset))
    return tuple(sorted(draws, key=lambda draw: draw.offset))


def size(draw: Draw) -> int | None:
    """How many numbers one sample takes of a draw; None where that follows the input's length."""
    return None if None in draw.shape else math.prod(n for n in draw.shape if n is not None)


def tensors(model: keras.Model) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """The model's inputs and outputs under the artifact's names."""
    if not getattr(model, "inputs", None):
        raise Refusal(
            f"model {model.name!r} does not say what its inputs are; give their shapes, without the batch: "
            "--input-shape 24,3 (input_shapes=(24, 3) in Python)"
        )
    names_in, names_out = (
        _names(tensors, structure)
        for tensors, structure in zip((model.inputs, model.outputs), keras_graphs.structures(model), strict=True)
    )
    inputs = tuple(Tensor(name, x.dtype, (None, *x.shape[1:])) for name, x in zip(names_in, model.inputs, strict=True))
    outputs = tuple(
        Tensor(name, y.dtype, (None, None, *y.shape[1:])) for name, y in zip(names_out, model.outputs, strict=True)
    )
    return inputs, outputs


def _names(tensors: Sequence[Any], structure: Any) -> list[str]:
    """The keys of a dict of tensors; otherwise the layers' names, which an unnamed Input bears after loading, too."""
    if isinstance(structure, dict):
        paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
        if len(paths) == len(tensors) and all(len(path) == 1 for path in paths):
            return [str(path[0]) for path in paths]
    return _distinct(str(keras_graphs.operation_of(tensor).name) for tensor in tensors)


def _distinct(names: Iterable[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for name in names:
        count = seen[name] = seen.get(name, -1) + 1
        result.append(f"{name}_{count}" if count else name)
    return result


def _refuse_without_kernel(model: keras.Model, specs: Sequence[tf.TensorSpec], graph: Any) -> None:
    """Run the model where an operator has channels first: TensorFlow 2.21 has CPU kernels for some only with oneDNN.

    Whether oneDNN is on by default depends on the processor.
    """
    if not any(node.attr["data_format"].s.startswith(b"NC") for node in nodes(graph)):
        return
    keras_hooks.forget_masks(model)
    try:
        with keras_hooks.plain_errors():
            call_model(model, [tf.zeros(spec.shape, spec.dtype) for spec in specs])
    except tf.errors.OpError as error:
        layer = keras_hooks.failing_layer(error)
        name = model.name if layer is None else keras_hooks.layer_paths(model).get(id(layer), layer.name)
        raise Refusal(
            f"layer {name!r} does not run in TensorFlow on this processor, where data_format='channels_first' has no "
            f"kernel without oneDNN ({' '.join(str(error.message).split())[:200]}); set TF_ENABLE_ONEDNN_OPTS=1 in the "
            "environment and start again, or build the layer with data_format='channels_last' and load the weights"
        ) from error
