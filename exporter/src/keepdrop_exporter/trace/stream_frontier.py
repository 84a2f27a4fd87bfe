"""A model as a stream: what is carried from chunk to chunk, and which layers can go on where a chunk ended.

A functional or sequential model is walked node by node, as in ``frontier``, on a chunk of steps [B, L, ...]. A tensor
with the stream's time axis may go only through what is known to treat each step alone (`_PER_STEP`), to be causal
(convolutions carry their last inputs) or to carry a state (recurrent layers). What has no time axis is the answer after
the chunk's last step; any layer may follow, for it is computed from there as in the ordinary artifact. Everything else
is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keepdrop.artifact.metadata import MADE_SUFFIX, NEXT_SUFFIX, STEPS_SEEN, Draw, State, Streaming
from keepdrop_exporter.errors import Refusal
from keepdrop_exporter.plan import keras_graphs, keras_hooks
from keepdrop_exporter.plan.draws import Plan

from . import axes
from .call import Call
from .frontier import Frontier

_L = keras.layers

# They treat every step alone, but for what `_check_per_step` asks of some.
_PER_STEP = {
    _L.ActivityRegularization,
    _L.AlphaDropout,
    _L.Dropout,
    _L.ELU,
    _L.Embedding,
    _L.GaussianDropout,
    _L.GaussianNoise,
    _L.Identity,
    _L.LeakyReLU,
    _L.Masking,
    _L.ReLU,
    _L.Rescaling,
    _L.SpatialDropout1D,
}
_MERGES = {_L.Add, _L.Average, _L.Concatenate, _L.Maximum, _L.Minimum, _L.Multiply, _L.Subtract}
_RECURRENT = {_L.GRU, _L.LSTM, _L.RNN, _L.SimpleRNN}
_CELLS = {_L.GRUCell, _L.LSTMCell, _L.SimpleRNNCell}
# Operations of keras.ops, as `x + y` or a mask that a layer makes.
_ELEMENTWISE = {
    *("Absolute", "Add", "Cast", "Celu", "Clip", "Cos", "Divide", "Elu", "Equal", "Exp", "Expm1", "Gelu", "Greater"),
    *("HardSigmoid", "HardSilu", "LeakyRelu", "Less", "Log", "Log1p", "LogSigmoid", "LogicalAnd", "LogicalNot"),
    *("LogicalOr", "Maximum", "Minimum", "Multiply", "Negative", "NotEqual", "Power", "Reciprocal", "Relu", "Relu6"),
    *("Selu", "Sigmoid", "Silu", "Sin", "Softplus", "Softsign", "Sqrt", "Square", "Subtract", "Tanh", "TrueDivide"),
}
_TIME = 1

_REASONS: dict[type, str] = {
    _L.Bidirectional: "reads the sequence from its end, which a stream does not have",
    _L.Flatten: "joins the steps into one vector, which grows with the stream",
    _L.Reshape: "may move values between steps",
    _L.Permute: "moves the time axis",
    _L.Attention: "attends to all steps at once",
    _L.AdditiveAttention: "attends to all steps at once",
    _L.MultiHeadAttention: "attends to all steps at once",
    _L.GroupQueryAttention: "attends to all steps at once",
    _L.GlobalAveragePooling1D: "pools over all steps",
    _L.GlobalMaxPooling1D: "pools over all steps",
    _L.AveragePooling1D: "pools over steps",
    _L.MaxPooling1D: "pools over steps",
    _L.Lambda: "runs code of which nobody knows whether it looks at other steps",
}


class Carried:
    """The states and masks of one trace, in the order in which the walk meets them.

    Parameters
    ----------
    call
        What is asked for.
    given
        The carried tensors by name; None in a first trace, which only finds out what they are.
    prefix
        What their names begin with.
    """

    def __init__(self, call: Call, given: dict[str, tf.Tensor] | None, prefix: str) -> None:
        self.states: list[State] = []
        self.masks: list[State] = []
        self.results: dict[str, tf.Tensor] = {}
        self._call = call
        self._given = given
        self._prefix = prefix

    def state(self, shape: Sequence[int], per_sample: bool, dtype: str = "float32") -> tuple[State, tf.Tensor]:
        """A state of this shape: what it is, and its value before the chunk, [B, T, *shape] or [B, *shape]."""
        state = State(f"{self._prefix}state_{len(self.states)}", dtype, tuple(shape), per_sample)
        self.states.append(state)
        return state, self._tensor(state)

    def give(self, state: State, value: tf.Tensor) -> None:
        """The value of a state after the chunk, [N, *shape] or [B, *shape]."""
        if state.per_sample:
            value = axes.reshape(value, [self._call.batch, self._call.num_samples, *state.shape])
        self.results[state.name + NEXT_SUFFIX] = value

    def hold(self, made: tf.Tensor, per_sample: bool = True, label: str = "") -> tf.Tensor:
        """``made``, [B, T, ...] or [B, ...], as it was made for the first chunk."""
        shape = made.shape[2 if per_sample else 1 :]
        label = label or f"mask_{sum('mask_' in mask.name for mask in self.masks)}"
        mask = State(f"{self._prefix}{label}", made.dtype.name, tuple(shape), per_sample)
        self.masks.append(mask)
        self.results[mask.name + MADE_SUFFIX] = made
        return self._tensor(mask)

    def _tensor(self, state: State) -> tf.Tensor:
        if self._given is not None:
            return self._given[state.name]
        return tf.compat.v1.placeholder(state.dtype, carried_shape(state))


def carried_shape(state: State) -> list[int | None]:
    """The shape of a carried tensor; None for rows and samples."""
    return [None, *([None] if state.per_sample else []), *state.shape]


def block_length(plan: Plan) -> int:
    """S: after how many steps the draws on a sequence start anew.

    Raises
    ------
    Refusal
        An input has no time axis, or inputs differ in length.
    """
    for x in plan.inputs:
        if len(x.shape) < 2:
            raise Refusal(f"input {x.name!r} has no time axis; a stream needs one step after another of each input")
    lengths = {x.name: x.shape[_TIME] for x in plan.inputs}
    if len(set(lengths.values())) > 1:
        raise Refusal(
            f"the inputs have different lengths, {lengths}; a stream is given one step of each at a time: let their "
            "first axis after the batch be the same time"
        )
    return next(iter(lengths.values())) or 1


def refuse_names(plan: Plan) -> None:
    """Refuse a model whose input or output bears the name of an input of every stream."""
    for tensor in (*plan.inputs, *plan.outputs):
        if tensor.name == STEPS_SEEN:
            raise Refusal(
                f"an input or output of the model is called {STEPS_SEEN!r}, as an input of a streaming artifact is; "
                "give the layer another name and save the model again"
            )


def carried_prefix(plan: Plan) -> str:
    """What the names of carried tensors begin with, and no name of the model's own."""
    prefix = "stream_"
    while any(t.name.startswith(prefix) for t in (*plan.inputs, *plan.outputs)):
        prefix = f"{prefix}_"
    return prefix


def notes(draws: Sequence[Draw], block: int) -> list[str]:
    """What the model's owner should read of draws on sequences, which alone do not equal the ordinary artifact's."""
    layers = dict.fromkeys(draw.layer for draw in draws if None in draw.shape)
    if not layers:
        return []
    anew = f"every {block} steps" if block > 1 else "at every step"
    return [
        f"{', '.join(layers)}: the draws follow the time and start anew {anew}; beyond the first {block} the stream's "
        "masks are its own, before that they equal the ordinary artifact's on a window of that length"
    ]


def stream_of(carried: Carried, block: int) -> Streaming:
    """What the metadata say of a trace's states and masks."""
    return Streaming(states=tuple(carried.states), masks=tuple(carried.masks), block=block)


class StreamFrontier(Frontier):
    """Runs a model on a chunk of steps, each part at its level, and refuses what cannot go on from chunk to chunk.

    Parameters
    ----------
    plan, call
        As for :class:`Frontier`.
    carried
        Takes the states of convolutions.
    """

    def __init__(self, plan: Plan, call: Call, carried: Carried) -> None:
        super().__init__(plan, call)
        self.in_recurrence = False
        self._carried = carried
        self._paths = keras_hooks.layer_paths(plan.model)
        self._sequences: dict[Any, tf.Tensor] = {}

    def run(self, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The model's outputs at sample level from a chunk of its inputs, [B, L, ...] each."""
        model = self._plan.model
        if keras_graphs.layer_graph(model) is None:
            raise Refusal(
                f"model {model.name!r} ({type(model).__name__}) has a call() of its own, whose way through time cannot "
                "be followed; build it as a functional or sequential model"
            )
        if not self._plan.batch_first:
            raise Refusal(
                f"model {model.name!r} draws numbers whose first axis is not the batch alone; such draws do not stream"
            )
        for x in inputs:
            self._sequences[x.ref()] = x
        return super().run(inputs)

    def is_sequence(self, x: Any) -> bool:
        """Whether a tensor has the stream's time axis."""
        return tf.is_tensor(x) and x.ref() in self._sequences

    def _apply(self, operation: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        flat = keras.tree.flatten((args, kwargs))
        if not any(self.is_sequence(x) for x in flat):
            return super()._apply(operation, call, *args, **kwargs)
        if keras_graphs.layer_graph(operation) is not None:
            if not self._keeps_levels(operation, args, kwargs):
                self._refuse(operation, "is a model that is not simply called on its inputs")
            return super()._apply(operation, call, *args, **kwargs)  # whose operations come here one by one
        kind = type(operation)
        if kind in _RECURRENT:
            return self._recurrent(operation, call, args, kwargs)
        if kind is _L.Conv1D:
            return self._convolved(operation, args[0])
        if keras_graphs.is_operation(operation, {"GetItem"}) and _takes_last(args, kwargs):
            return super()._apply(operation, call, *args, **kwargs)
        self._check_per_step(operation, flat, kwargs)
        outputs = super()._apply(operation, call, *args, **kwargs)
        for y in keras.tree.flatten(outputs):
            self._sequences[y.ref()] = y
        return outputs

    def _repeat(self, x: Any) -> Any:
        y = super()._repeat(x)
        if self.is_sequence(x):
            self._sequences[y.ref()] = y
        return y

    def _recurrent(self, layer: Any, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        cells = layer.cell.cells if isinstance(layer.cell, _L.StackedRNNCells) else [layer.cell]
        for cell in cells:
            if type(cell) not in _CELLS:
                self._refuse(layer, f"has a cell of class {type(cell).__name__}, which is not known to be of one step")
        if layer.go_backwards:
            self._refuse(layer, "reads the sequence from its end (go_backwards), which a stream does not have")
        if len(args) > 1 or kwargs.get("initial_state") is not None:
            self._refuse(layer, "starts from a state (initial_state) that changes with every step of the stream")
        if len(cells) > 1 and _masked(args[0], kwargs):
            self._refuse(layer, "skips masked steps with stacked cells; use one recurrent layer for each cell")
        self.in_recurrence = True
        try:
            outputs = super()._apply(layer, call, *args, **kwargs)
        finally:
            self.in_recurrence = False
        if layer.return_sequences:
            first = keras.tree.flatten(outputs)[0]
            self._sequences[first.ref()] = first
        return outputs

    def _convolved(self, layer: Any, x: tf.Tensor) -> tf.Tensor:
        """A causal convolution: the chunk after the inputs that its first outputs still look at."""
        (size,), (stride,), (dilation,) = layer.kernel_size, layer.strides, layer.dilation_rate
        if layer.data_format != "channels_last":
            self._refuse(layer, "has its time axis last (data_format='channels_first')")
        if stride != 1:
            self._refuse(layer, f"gives one step for {stride} of its input (strides)")
        if layer.padding != "causal" and size > 1:
            self._refuse(layer, f"looks at steps to come (padding={layer.padding!r}); with padding='causal' it streams")
        self._check_activation(layer)
        past = (size - 1) * dilation
        if past:
            at_rows = self.at_rows(x)
            state, value = self._carried.state([past, int(x.shape[-1])], per_sample=not at_rows)
            before = value if at_rows else axes.merge(value)
            window = tf.concat([before, x], 1)  # [N, past + L, F]
            self._carried.give(state, window[:, tf.shape(x)[1] :])
        else:
            at_rows, window = self.at_rows(x), x
        y = keras.ops.conv(window, layer.kernel, strides=1, padding="valid", dilation_rate=dilation)
        y = y + layer.bias if layer.use_bias else y
        y = y if layer.activation is None else layer.activation(y)
        self._sequences[y.ref()] = y
        if at_rows:
            self._at_rows[y.ref()] = y
        return y

    def _check_per_step(self, operation: Any, flat: list[Any], kwargs: Any) -> None:
        """Refuse an operation on sequences that does not treat each step alone."""
        kind = type(operation)
        sequences = [x for x in flat if self.is_sequence(x)]
        rank = sequences[0].shape.rank
        if kind in _MERGES or keras_graphs.is_operation(operation, _ELEMENTWISE | {"Concatenate"}):
            self._check_joined(operation, flat, rank)
        elif keras_graphs.is_operation(operation, {"Any"}):
            self._check_axes(operation, operation.axis, rank)
        elif rank < 3 and kind is not _L.Embedding:
            self._refuse(operation, "takes the steps of a sequence of single numbers [batch, steps] as features")
        elif kind is _L.TimeDistributed:
            self._check_time_distributed(operation, _masked(sequences[0], kwargs))
        elif kind in (_L.Dense, _L.Activation):
            self._check_activation(operation)
        elif kind in _AXES:
            self._check_axes(operation, _AXES[kind](operation), rank)
        elif kind is _L.PReLU:
            if _TIME not in (operation.shared_axes or ()):
                self._refuse(operation, "has a slope for each step; share them over time (shared_axes=[1])")
        elif kind not in _PER_STEP:
            self._refuse(operation, _reason(operation))
        elif (noise := getattr(operation, "noise_shape", None)) and noise[_TIME] not in (None, 1):
            self._refuse(operation, f"draws for {noise[_TIME]} steps (noise_shape={noise}); put None or 1 there")

    def _check_joined(self, operation: Any, flat: list[Any], rank: int) -> None:
        axis = getattr(operation, "axis", None)
        if axis is not None:
            self._check_axes(operation, [axis], rank)
        for x in flat:
            shape = tuple(x.shape) if tf.is_tensor(x) else np.shape(x)
            if self.is_sequence(x):
                aligned = len(shape) == rank
            else:  # a constant of the model has to be the same at every step
                aligned = None not in shape and (len(shape) < rank - _TIME or shape[_TIME - rank] == 1)
            if not aligned:
                self._refuse(operation, "joins a sequence with something that has another time axis or none")

    def _check_time_distributed(self, operation: Any, masked: bool) -> None:
        if self._draws(operation):
            self._refuse(operation, "draws within each step; put the dropout before or after it")
        if masked and keras_hooks.takes(operation.layer, "mask"):
            self._refuse(operation, "hands a mask to its layer; remove the mask, or put a recurrent layer there")

    def _check_axes(self, operation: Any, given: Any, rank: int) -> None:
        """Refuse an operation along the batch or the time."""
        listed = [given] if isinstance(given, int) else given
        if listed is None or any(axis % rank in (0, _TIME) for axis in listed):
            self._refuse(operation, f"works along the time axis (axis={given})")

    def _check_activation(self, layer: Any) -> None:
        if layer.activation is not None and not any(layer.activation is f for f in vars(keras.activations).values()):
            self._refuse(layer, "has an activation of its own code, which may look at other steps")

    def _refuse(self, operation: Any, reason: str) -> None:
        name = self._paths.get(id(operation), operation.name)
        raise Refusal(
            f"layer {name!r} ({type(operation).__name__}) cannot be streamed: it {reason}; export without streaming, "
            "or build the model without it"
        )


class LoopStates:
    """How the recurrent layers of a stream go on: what ``recurrence.Carrying`` asks for."""

    def __init__(self, frontier: StreamFrontier, carried: Carried) -> None:
        self._frontier = frontier
        self._carried = carried
        self._open: list[State] = []

    def is_sequence(self, x: tf.Tensor) -> bool:
        """Whether ``x`` is part of the stream."""
        return self._frontier.is_sequence(x)

    def states(self, sizes: Sequence[int], sequences: tf.Tensor) -> list[tf.Tensor]:
        """The states of these sizes to start from, [B, T, size] each, or [B, size] where ``sequences`` is [B, ...]."""
        per_sample = not self._frontier.at_rows(sequences)
        given = [self._carried.state([size], per_sample) for size in sizes]
        self._open = [state for state, _ in given]
        return [value for _, value in given]

    def give(self, values: Sequence[tf.Tensor]) -> None:
        """The values of the states last asked for, after the loop: [N, size] or [B, size] each."""
        for state, value in zip(self._open, values, strict=True):
            self._carried.give(state, value)

    def hold(self, made: tf.Tensor) -> tf.Tensor:
        """A mask [B, T, K] as it was made for the stream's first chunk."""
        return self._carried.hold(made)


_AXES: dict[type, Callable[[Any], Any]] = {
    _L.BatchNormalization: lambda layer: layer.axis,
    _L.LayerNormalization: lambda layer: layer.axis,
    _L.Normalization: lambda layer: layer.axis or (),
    _L.RMSNormalization: lambda layer: layer.axis,
    _L.Softmax: lambda layer: layer.axis,
    _L.UnitNormalization: lambda layer: layer.axis,
}


def _masked(x: tf.Tensor, kwargs: Any) -> bool:
    """Whether a layer called on ``x`` gets a mask."""
    return kwargs.get("mask") is not None or keras_hooks.get_mask(x) is not None


def _takes_last(args: Any, kwargs: Any) -> bool:
    """Whether ``x[key]`` is the last step of x."""
    key = kwargs["key"] if "key" in kwargs else args[1]
    everything = slice(None)
    return (
        isinstance(key, (tuple, list))
        and len(key) > 1
        and key[0] == everything
        and key[1] == -1
        and all(rest == everything or rest is Ellipsis for rest in key[2:])
    )


def _reason(operation: Any) -> str:
    if keras_graphs.is_operation(operation, {"GetItem"}):
        return "takes another part of the sequence than its last step, x[:, -1]"
    for kind, reason in _REASONS.items():
        if isinstance(operation, kind):
            return reason
    return "is not known to treat every step alone"


@contextmanager
def rolled(model: keras.Model) -> Any:
    """Let recurrent layers with ``unroll=True`` run on any length; the numbers are the same."""
    unrolled = [layer for layer in keras_hooks.all_layers(model) if getattr(layer, "unroll", False)]
    try:
        for layer in unrolled:
            layer.unroll = False
        yield
    finally:
        for layer in unrolled:
            layer.unroll = True
