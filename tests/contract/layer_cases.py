"""Every option of every layer that can be random: one table, which the tests run and docs/layers.md shows.

A case is a part of a model. Cases of one section and one set of inputs are exported together as a model with an output
for each; those that are a matter of the whole model, and those that are refused, stand alone.
"""

from __future__ import annotations

import functools
import itertools
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as L
from keras import ops
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell
from numpy.typing import NDArray

STEPS, FEATURES, UNITS = 6, 3, 5
BOTH = {"dropout": 0.25, "recurrent_dropout": 0.2}

# Name -> shape without the batch, or the number of ids. Sizes differ, so that no axis can be taken for another.
INPUTS: Mapping[str, Mapping[str, Any]] = {
    "series": {"x": (STEPS, FEATURES)},
    "series of any length": {"x": (None, FEATURES)},
    "ids": {"ids": (STEPS,)},
    "ids of any length": {"ids": (None,)},
    "vector": {"v": (7,)},
    "two series": {"x": (STEPS, FEATURES), "z": (4, 2)},
    "two series of any length": {"x": (None, FEATURES), "z": (None, 2)},
    "series and vector": {"x": (STEPS, FEATURES), "v": (UNITS,)},
    "1D images": {"x": (4, 5, 2)},
    "1D images, any length": {"x": (None, 5, 2)},
    "2D images": {"x": (3, 5, 4, 2)},
    "3D images": {"x": (3, 4, 3, 2, 1)},
    "image": {"x": (6, 5, 3)},
    "image of any size": {"x": (None, None, 3)},
    "video of any size": {"x": (None, None, None, 2)},
}
# What a dynamic axis is tried at, one set of lengths after the other; the first axis gets the first of them, and so on.
LENGTHS = ((7, 4), (1, 3))
VOCABULARY = 7


@dataclass(frozen=True)
class Case:
    """One row of the table.

    ``branch`` makes the case's outputs of Keras inputs, or (``whole``) gives the whole model. ``loops`` is the set of
    what its time loops become in ONNX: "fused" (ONNX' operator), "step" (the written one), "Keras" (Keras' own loop);
    an unrolled loop is none. ``refused`` is a part of the refusal, and ``cure`` of what it advises. ``since`` is the
    first Keras, as "major.minor", that has the option, if not the oldest tested one. ``onednn``: TensorFlow runs it
    with oneDNN only, and where that is off it is refused. ``by_night``: by day the same options on another cell, or at
    another rank, stand for it.
    """

    section: str
    layer: str
    options: str
    branch: Callable[..., Any]
    on: str = "series"
    loops: str = ""
    whole: bool = False
    refused: str = ""
    cure: str = ""
    since: str = ""
    onednn: bool = False
    by_night: bool = False

    @property
    def known(self) -> bool:
        """Whether the installed Keras has the option."""
        installed = tuple(int(part) for part in keras.__version__.split(".")[:2])
        return not self.since or installed >= tuple(int(part) for part in self.since.split("."))

    @property
    def name(self) -> str:
        """Unlike any other's."""
        return f"{self.layer}: {self.options}"

    @property
    def group(self) -> tuple[str, str]:
        """Exact cases of one group are exported together."""
        if self.onednn:
            return (self.name, self.on)
        return (self.layer if self.section == "Recurrent layers" and self.on == "series" else self.section, self.on)


WITHOUT_ONEDNN = "does not run in TensorFlow on this processor"
"""A part of the refusal of what needs oneDNN."""


@functools.cache
def onednn() -> bool:
    """Whether TensorFlow has CPU kernels for channels first here; without oneDNN it does not (TensorFlow 2.21)."""
    try:
        tf.nn.conv2d(tf.zeros([1, 1, 2, 2]), tf.zeros([1, 1, 1, 1]), 1, "VALID", data_format="NCHW")
    except tf.errors.UnimplementedError:
        return False
    return True


def inputs(on: str) -> list[keras.KerasTensor]:
    """The Keras inputs of that kind."""
    return [
        keras.Input(shape, name=name, dtype="int32" if name == "ids" else "float32")
        for name, shape in INPUTS[on].items()
    ]


def build(cases: Sequence[Case]) -> tuple[keras.Model, list[int]]:
    """A model of these cases, which share their inputs, with weights that show a mix-up of gates.

    Also how many of its outputs are each case's, in order. A case's layers are made with the table: build it once.
    """
    keras.utils.set_random_seed(zlib.crc32(cases[0].name.encode()))
    if cases[0].whole:
        model = cases[0].branch()
        counts = [len(model.outputs)]
    else:
        given = inputs(cases[0].on)
        parts = [keras.tree.flatten(case.branch(*given)) for case in cases]
        model = keras.Model(given, [y for part in parts for y in part])
        counts = [len(part) for part in parts]
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name == "moving_variance":
            variable.assign(rng.uniform(0.5, 2.0, variable.shape))
        elif variable.name == "embeddings":
            variable.assign(rng.normal(0.0, 1.0, variable.shape))
        elif "float" in variable.dtype and len(variable.shape) < 2:
            variable.assign(variable.numpy() + rng.normal(0.0, 0.4, variable.shape))
    return model, counts


def data(model: keras.Model, lengths: Sequence[int] = LENGTHS[0]) -> list[NDArray[np.generic]]:
    """Five rows for each input: padded to the right, to the left, with gaps, masked throughout, and whole.

    The dynamic axes get these lengths in turn.
    """
    rng = np.random.default_rng(lengths[0])
    dynamic = itertools.cycle(lengths)
    arrays = []
    for x in model.inputs:
        shape = (5, *(next(dynamic) if n is None else n for n in x.shape[1:]))
        if x.dtype == "bool":
            array = rng.random(shape) < 0.5
        elif "int" in x.dtype:
            array = rng.integers(1, VOCABULARY, shape).astype(x.dtype)
        else:
            array = rng.standard_normal(shape).astype(x.dtype)
        if len(shape) > 2 or "int" in x.dtype:
            steps = np.arange(shape[1])
            array[0, steps > shape[1] // 2] = 0
            array[1, steps < shape[1] // 2] = 0
            array[2, steps % 3 == 1] = 0
            array[3] = 0
        arrays.append(array)
    return arrays


def random_after(layer: Callable[..., Any]) -> Callable[..., Any]:
    """The layer, and a dropout on each of its outputs: a layer that draws nothing by itself becomes random."""
    return lambda *given: [L.Dropout(0.1)(y) for y in keras.tree.flatten(layer(*given))]


def masked(layer: Callable[..., Any], *, mask_value: float = 0.0) -> Callable[..., Any]:
    """The layer on a series whose steps of zeros are masked."""
    return lambda x: layer(L.Masking(mask_value)(x))


def embedded(layer: Callable[..., Any]) -> Callable[..., Any]:
    """The layer on embedded ids, of which 0 is masked."""
    return lambda ids: layer(L.Embedding(VOCABULARY, FEATURES, mask_zero=True)(ids))


def after_dropout(layer: Callable[..., Any]) -> Callable[..., Any]:
    """The layer on a series that differs from sample to sample."""
    return lambda x: layer(L.Dropout(0.2)(x))


def each(*branches: Callable[..., Any]) -> Callable[..., Any]:
    """The outputs of all of these."""
    return lambda *given: [y for branch in branches for y in keras.tree.flatten(branch(*given))]


class OwnCell(L.Layer):
    """A cell written by its user, with two states of different sizes and a mask drawn before the loop."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.units = units
        self.state_size = [units, units + 1]
        self.output_size = units

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.across = self.add_weight(shape=(self.units + 1, self.units), name="across")
        self.back = self.add_weight(shape=(self.units, self.units + 1), name="back")

    def call(self, x: Any, states: Any) -> Any:
        h = ops.tanh(ops.matmul(x, self.kernel) + ops.matmul(states[1], self.across) + 0.5 * states[0])
        return h, [h, ops.tanh(ops.matmul(h, self.back))]


class OwnLSTMCell(L.LSTMCell):
    """A stock cell whose user changed what a step gives."""

    def call(self, inputs: Any, states: Any, training: bool = False) -> Any:
        h, states = super().call(inputs, states, training=training)
        return 2 * h, states


class OwnDroppingCell(L.Layer, DropoutRNNCell):
    """A cell written by its user that caches its masks as Keras' own cells do."""

    def __init__(self, units: int, dropout: float, recurrent_dropout: float, **options: Any) -> None:
        super().__init__(**options)
        self.state_size = units
        self.dropout, self.recurrent_dropout = dropout, recurrent_dropout
        self.seed_generator = keras.random.SeedGenerator(7)

    def build(self, shape: Any) -> None:
        self.kernel = self.add_weight(shape=(shape[-1], self.state_size), name="kernel")

    def call(self, x: Any, states: Any, training: bool = False) -> Any:
        h = states[0]
        if training:
            x, h = x * self.get_dropout_mask(x), h * self.get_recurrent_dropout_mask(h)
        h = ops.tanh(ops.matmul(x, self.kernel) + h)
        return h, [h]


class Stepwise(L.Layer):
    """A cell that draws anew in every step."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(**options)
        self.state_size = units
        self.dense = L.Dense(units)
        self.drop = L.Dropout(0.5)

    def build(self, shape: Any) -> None:
        self.dense.build(shape)

    def call(self, x: Any, states: Any, training: bool = False) -> Any:
        h = self.drop(self.dense(x) + states[0], training=training)
        return h, [h]


class Jitter(L.Layer):
    """A custom layer that scales by uniform and shifts by normal numbers of a generator of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(3)
        self.supports_masking = True

    def call(self, x: Any, training: bool = False) -> Any:
        if not training:
            return x
        scale = keras.random.uniform(ops.shape(x), 0.5, 1.5, seed=self.generator)
        return x * scale + keras.random.normal(ops.shape(x), 0.1, 0.2, seed=self.generator)


class DropConnect(L.Layer):
    """A custom layer that draws one number a sample, with keras.random.dropout and a shape of its own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seed_generator = keras.random.SeedGenerator()
        self.dense = L.Dense(4)

    def call(self, x: Any, training: bool = False) -> Any:
        y = self.dense(x)
        if training:
            y = keras.random.dropout(y, 0.4, noise_shape=(None, 1), seed=self.seed_generator)
        return y


class Hidden(L.Layer):
    """Draws through a keras.random function that the contract does not define."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.generator = keras.random.SeedGenerator(1)

    def call(self, x: Any, training: bool = False) -> Any:
        return x + keras.random.truncated_normal(ops.shape(x), seed=self.generator) if training else x


class Small(keras.initializers.Initializer):
    """Weights small enough for an unbounded activation to stay finite."""

    def __call__(self, shape: Any, dtype: Any = None) -> Any:
        return np.random.default_rng(len(shape)).uniform(-0.3, 0.3, shape).astype("float32")


def doubled(x: Any) -> Any:
    """An activation of its user's own."""
    return 2 * ops.tanh(x)


RECURRENT: Mapping[str, Callable[..., L.RNN]] = {
    "LSTM": L.LSTM,
    "GRU": L.GRU,
    "GRU(reset_after=False)": functools.partial(L.GRU, reset_after=False),
    "SimpleRNN": L.SimpleRNN,
}
CELLS: Mapping[str, Callable[..., L.Layer]] = {
    "LSTMCell": L.LSTMCell,
    "GRUCell": L.GRUCell,
    "GRUCell(reset_after=False)": functools.partial(L.GRUCell, reset_after=False),
    "SimpleRNNCell": L.SimpleRNNCell,
}
LOWERED_ACTIVATIONS = ("relu", "linear", "hard_sigmoid", "softsign", "softplus", "elu", "exponential", "silu")
"""Those that have an operator in ONNX or are written out of few; the others stay in Keras' own loop."""
OTHER_ACTIVATIONS = (
    *("celu", "gelu", "hard_shrink", "hard_silu", "hard_tanh", "leaky_relu", "log_sigmoid", "log_softmax", "mish"),
    *("relu6", "selu", "soft_shrink", "softmax", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh_shrink"),
    doubled,
)


def activated(names: Iterable[Any], **options: Any) -> Callable[..., Any]:
    """A layer for each activation, of one kind after the other."""
    kinds = itertools.cycle((L.LSTM, L.GRU, L.SimpleRNN))
    # Small weights, so that the unbounded ones stay finite.
    small: dict[str, Any] = {"kernel_initializer": Small(), "recurrent_initializer": Small()}
    return each(*(next(kinds)(4, activation=name, **small, **options) for name in names))


def recurrent() -> Iterable[Case]:
    """Recurrent layers by name."""
    of_any = functools.partial(Case, "Recurrent layers", "LSTM, GRU, SimpleRNN")
    yield of_any(
        f"activation = {', '.join(LOWERED_ACTIVATIONS)}",
        each(activated(LOWERED_ACTIVATIONS, dropout=0.2), activated(LOWERED_ACTIVATIONS, **BOTH)),
        loops="fused step",
    )
    yield of_any(
        "activation = any other of Keras', or a function of one's own",
        activated(OTHER_ACTIVATIONS, dropout=0.2),
        loops="Keras",
    )
    for name, make in RECURRENT.items():
        case = functools.partial(Case, "Recurrent layers", name)
        # What a loop is told is told to a step of any cell alike.
        of_loop = functools.partial(case, by_night=name in ("GRU(reset_after=False)", "SimpleRNN"))
        lstm = name == "LSTM"

        def states(x: Any, make: Any = make, **options: Any) -> Any:
            return make(UNITS, return_state=True, **options)(x)

        ways = list(itertools.product((False, True), (False, True)))
        yield case(
            "no recurrent_dropout; dropout or none, return_sequences or not, go_backwards or not",
            each(
                *(random_after(make(UNITS, return_sequences=s, go_backwards=b)) for s, b in ways[1:3]),
                *(make(UNITS, dropout=0.3, return_sequences=s, go_backwards=b) for s, b in ways),
            ),
            loops="fused",
        )
        yield case(
            "recurrent_dropout; dropout or none, return_sequences or not, go_backwards or not",
            each(
                *(make(UNITS, return_sequences=s, go_backwards=b, **BOTH) for s, b in ways),
                make(UNITS, recurrent_dropout=0.2, return_sequences=True),
            ),
            loops="step",
        )
        yield of_loop(
            "return_state, with and without return_sequences",
            each(
                random_after(functools.partial(states)),
                functools.partial(states, dropout=0.2, return_sequences=True, go_backwards=True),
            ),
            loops="fused",
        )
        yield case(
            "return_state, recurrent_dropout, with and without return_sequences",
            each(
                functools.partial(states, **BOTH),
                functools.partial(states, **BOTH, return_sequences=True, go_backwards=True),
            ),
            loops="step",
        )
        yield of_loop(
            "unroll",
            each(
                make(UNITS, unroll=True, dropout=0.2),
                make(UNITS, unroll=True, go_backwards=True, return_sequences=True, **BOTH),
            ),
            loops="fused step",
        )
        yield case(
            "use_bias=False",
            each(make(UNITS, use_bias=False, dropout=0.2), make(UNITS, use_bias=False, **BOTH)),
            loops="fused step",
        )
        if lstm:
            yield case(
                "unit_forget_bias=False",
                make(UNITS, unit_forget_bias=False, **BOTH),
                loops="step",
            )
        if name != "SimpleRNN":
            yield case(
                "recurrent_activation",
                each(
                    make(4, recurrent_activation="hard_sigmoid", **BOTH),
                    make(4, recurrent_activation="softsign", dropout=0.2),
                    make(4, recurrent_activation="relu6", dropout=0.2),
                ),
                loops="fused step Keras",
            )
        yield of_loop(
            "initial_state from another layer",
            functools.partial(from_dense, make, count=2 if lstm else 1, go_backwards=True, **BOTH),
            loops="Keras",
        )
        yield case(
            "masked steps (Masking), return_sequences or not, go_backwards or not",
            each(
                masked(random_after(make(UNITS, return_sequences=True, go_backwards=True))),
                *(masked(make(UNITS, return_sequences=s, go_backwards=b, **BOTH)) for s, b in ways[:3]),
            ),
            loops="step",
        )
        yield of_loop(
            "masked steps, zero_output_for_mask",
            each(
                masked(make(UNITS, return_sequences=True, zero_output_for_mask=True, go_backwards=True, **BOTH)),
                masked(make(UNITS, zero_output_for_mask=True, **BOTH)),
            ),
            loops="step",
        )
        yield of_loop(
            "masked steps, return_state",
            masked(functools.partial(states, return_sequences=True, **BOTH)),
            loops="step",
        )
        yield of_loop(
            "masked steps, unroll, zero_output_for_mask or not",
            each(
                masked(make(UNITS, unroll=True, return_sequences=True, **BOTH)),
                masked(make(UNITS, unroll=True, go_backwards=True, **BOTH)),
                masked(make(UNITS, unroll=True, return_sequences=True, zero_output_for_mask=True, dropout=0.2)),
            ),
            loops="step",
        )
        yield of_loop(
            "masked steps, unroll, go_backwards and zero_output_for_mask (Keras zeros the steps in the order of time)",
            masked(
                make(UNITS, unroll=True, go_backwards=True, return_sequences=True, zero_output_for_mask=True, **BOTH)
            ),
        )
        yield of_loop(
            "masked steps, initial_state from another layer",
            masked(functools.partial(from_dense, make, count=2 if lstm else 1, return_sequences=True, **BOTH)),
            loops="Keras",
        )
        yield of_loop(
            "masked ids (Embedding(mask_zero=True))",
            embedded(make(UNITS, return_sequences=True, **BOTH)),
            on="ids",
            loops="step",
        )
        yield of_loop(
            "an input that differs by sample (after a Dropout), masked or not",
            each(
                after_dropout(make(UNITS, return_sequences=True)),
                after_dropout(make(UNITS, go_backwards=True, **BOTH)),
                masked(after_dropout(make(UNITS, return_sequences=True, **BOTH))),
            ),
            loops="fused step",
        )
        yield of_loop(
            "any length, masked or not, also with initial_state",
            each(
                make(UNITS, dropout=0.2, return_sequences=True, go_backwards=True),
                masked(make(UNITS, return_sequences=True, **BOTH)),
                functools.partial(from_dense, make, count=2 if lstm else 1, return_sequences=True, **BOTH),
            ),
            on="series of any length",
            loops="fused step Keras",
        )
        yield of_loop(
            "any length of masked ids",
            embedded(make(UNITS, return_sequences=True, **BOTH)),
            on="ids of any length",
            loops="step",
        )
        yield of_loop(
            "seed, regularizers, constraints, initializers",
            make(
                UNITS,
                seed=5,
                kernel_regularizer="l2",
                bias_regularizer="l1",
                activity_regularizer="l2",
                kernel_constraint="max_norm",
                recurrent_initializer="glorot_normal",
                **BOTH,
            ),
            loops="step",
        )
        yield of_loop(
            "rates of 1",
            each(
                make(UNITS, dropout=1.0, recurrent_dropout=0.2),
                make(UNITS, dropout=0.2, recurrent_dropout=1.0),
            ),
            loops="Keras",
        )
        if name != "SimpleRNN":
            yield case(
                "implementation=1 with use_cudnn=False",
                make(UNITS, implementation=1, dropout=0.2, use_cudnn=False),
                loops="step",
            )
            yield case(
                "implementation=1, dropout alone",
                make(UNITS, implementation=1, dropout=0.2),
                refused="fails in Keras itself",
                cure="use_cudnn=False",
            )
        yield case(
            "stateful=True",
            lambda make=make: keras.Sequential(
                [keras.Input(batch_shape=(3, STEPS, FEATURES)), make(UNITS, stateful=True, **BOTH)]
            ),
            whole=True,
            refused="is stateful",
            cure="stateful=False",
        )


def from_dense(make: Callable[..., Any], x: Any, *, count: int, **options: Any) -> Any:
    """A recurrent layer whose initial states another layer computes from the mean of the series."""
    mean = ops.mean(x, axis=1)
    return make(UNITS, **options)(x, initial_state=[L.Dense(UNITS)(mean) for _ in range(count)])


def cells() -> Iterable[Case]:
    """``RNN`` of one cell or of several."""
    for name, make in CELLS.items():
        loops = "fused step" if name != "" else ""
        yield Case(
            "RNN of cells",
            f"RNN({name})",
            "return_sequences, return_state, go_backwards, unroll, masked steps",
            each(
                L.RNN(make(UNITS, dropout=0.2, **({} if "Simple" in name else {"implementation": 2}))),
                L.RNN(make(UNITS, **BOTH), return_sequences=True, return_state=True, go_backwards=True),
                L.RNN(make(UNITS, **BOTH), unroll=True),
                masked(L.RNN(make(UNITS, **BOTH), return_sequences=True, zero_output_for_mask=True)),
            ),
            loops=loops,
            by_night=name in ("GRUCell(reset_after=False)", "SimpleRNNCell"),
        )
    stacked = functools.partial(Case, "RNN of cells", "RNN(StackedRNNCells)")

    def stack(**options: Any) -> L.RNN:
        return L.RNN([L.LSTMCell(4, **BOTH), L.GRUCell(3, **BOTH), L.SimpleRNNCell(UNITS, dropout=0.2)], **options)

    yield stacked("of different cells, each with its dropouts", stack(), loops="Keras")
    yield stacked(
        "return_sequences, return_state, go_backwards",
        stack(return_sequences=True, return_state=True, go_backwards=True),
        loops="Keras",
    )
    yield stacked("unroll", stack(unroll=True))
    yield stacked("masked steps", masked(stack(return_sequences=True)), loops="Keras")
    yield stacked(
        "masked steps, zero_output_for_mask",
        masked(stack(return_sequences=True, zero_output_for_mask=True)),
        loops="Keras",
    )
    yield stacked("any length", stack(return_sequences=True), on="series of any length", loops="Keras")
    yield stacked(
        "initial_state from another layer",
        lambda x, v: L.RNN([L.GRUCell(UNITS, **BOTH), L.GRUCell(4, **BOTH)])(
            x, initial_state=[L.Dense(UNITS)(v), L.Dense(4)(v)]
        ),
        on="series and vector",
        loops="Keras",
    )
    own = functools.partial(Case, "RNN of cells", "RNN(a cell of one's own)")
    yield own(
        "return_sequences, return_state, masked steps",
        each(
            random_after(L.RNN(OwnCell(4), return_sequences=True, return_state=True)),
            masked(random_after(L.RNN(OwnCell(4), return_sequences=True))),
        ),
        loops="Keras",
    )
    yield own("derived from LSTMCell, with its dropouts", L.RNN(OwnLSTMCell(4, **BOTH)), loops="Keras")
    yield own("with DropoutRNNCell", masked(L.RNN(OwnDroppingCell(4, **BOTH), return_sequences=True)), loops="Keras")
    yield own("in a stack with stock cells", L.RNN([L.GRUCell(3, **BOTH), OwnCell(4)]), loops="Keras")
    yield own("draws in every step, unroll", L.RNN(Stepwise(4), unroll=True))
    yield own(
        "draws in every step of a loop", L.RNN(Stepwise(4)), refused="draws inside the time loop", cure="unroll=True"
    )


def bidirectional() -> Iterable[Case]:
    """``Bidirectional`` around recurrent layers."""
    case = functools.partial(Case, "Bidirectional", "Bidirectional")
    for mode in ("concat", "sum", "mul", "ave", None):
        yield case(
            f"merge_mode={mode!r}, return_sequences or not, return_state",
            each(
                L.Bidirectional(L.LSTM(4, return_sequences=True, **BOTH), merge_mode=mode),
                L.Bidirectional(L.GRU(4, return_state=True, dropout=0.2), merge_mode=mode),
            ),
            loops="fused step",
        )
    yield case(
        "no dropout inside",
        each(
            random_after(L.Bidirectional(L.LSTM(4, return_sequences=True))),
            random_after(L.Bidirectional(L.GRU(4))),
            L.Bidirectional(L.SimpleRNN(4, **BOTH)),
        ),
        loops="fused step",
    )
    yield case(
        "a different backward_layer",
        each(
            L.Bidirectional(
                L.LSTM(4, return_sequences=True, **BOTH),
                backward_layer=L.GRU(3, return_sequences=True, go_backwards=True, dropout=0.3),
            ),
            L.Bidirectional(L.GRU(4, dropout=0.2), backward_layer=L.LSTM(3, go_backwards=True, activation="relu")),
        ),
        loops="fused step",
    )
    for kind, make in (("LSTM", L.LSTM), ("GRU", L.GRU), ("SimpleRNN", L.SimpleRNN)):
        yield case(
            f"masked steps, return_sequences or not, {kind}",
            each(
                masked(L.Bidirectional(make(4, return_sequences=True, **BOTH))),
                masked(L.Bidirectional(make(4, dropout=0.2))),
                masked(random_after(L.Bidirectional(make(4, return_sequences=True, return_state=True)))),
            ),
            loops="step",
        )
    yield case(
        "masked ids, two layers on each other",
        embedded(lambda h: L.Bidirectional(L.GRU(3, **BOTH))(L.Bidirectional(L.LSTM(4, return_sequences=True))(h))),
        on="ids",
        loops="step",
    )

    def with_states(make: Callable[..., Any], count: int, **options: Any) -> Callable[..., Any]:
        return lambda x, v: L.Bidirectional(make(4, **options))(
            x, initial_state=[L.Dense(4)(v) for _ in range(2 * count)]
        )

    yield case(
        "initial_state from another layer",
        each(
            with_states(L.LSTM, 2, **BOTH),
            with_states(L.GRU, 1, return_sequences=True, **BOTH),
            with_states(L.SimpleRNN, 1, dropout=0.2),
            random_after(with_states(L.LSTM, 2, return_sequences=True)),
        ),
        on="series and vector",
        # Keras' own branch for two plain LSTMs is one that tf2onnx makes the fused operator of.
        loops="fused Keras",
    )
    yield case(
        "unroll, use_bias=False, go_backwards of the layer itself",
        each(
            L.Bidirectional(L.LSTM(4, unroll=True, **BOTH)),
            L.Bidirectional(L.GRU(4, use_bias=False, return_sequences=True, **BOTH)),
            L.Bidirectional(L.GRU(4, go_backwards=True, dropout=0.2), backward_layer=L.GRU(4, dropout=0.3)),
        ),
        loops="fused step",
    )
    yield case(
        "masked steps, unroll",
        masked(L.Bidirectional(L.GRU(4, unroll=True, return_sequences=True, **BOTH))),
        loops="step",
    )
    yield case(
        "any length, masked or not",
        each(
            L.Bidirectional(L.LSTM(4, return_sequences=True, **BOTH)),
            masked(L.Bidirectional(L.GRU(4, return_sequences=True, dropout=0.2))),
            random_after(L.Bidirectional(L.GRU(4))),
        ),
        on="series of any length",
        loops="fused step",
    )
    yield case(
        "around RNN(cell) and RNN(StackedRNNCells)",
        each(
            L.Bidirectional(L.RNN(L.LSTMCell(4, **BOTH), return_sequences=True)),
            L.Bidirectional(L.RNN([L.GRUCell(3, **BOTH), L.LSTMCell(4, dropout=0.2)])),
        ),
        loops="step Keras",
    )


def convolutional() -> Iterable[Case]:
    """``ConvLSTM`` of each rank."""
    for rank, make, on in (
        (1, L.ConvLSTM1D, "1D images"),
        (2, L.ConvLSTM2D, "2D images"),
        (3, L.ConvLSTM3D, "3D images"),
    ):
        case = functools.partial(Case, "Convolutional LSTM", f"ConvLSTM{rank}D", on=on, loops="Keras")
        yield case("dropout, recurrent_dropout", each(make(3, 2, **BOTH), make(3, 2, dropout=0.3)))
        case = functools.partial(case, by_night=rank == 1)
        if rank == 3:
            yield case("return_sequences, padding='same'", make(2, 2, padding="same", return_sequences=True, **BOTH))
            continue
        yield case(
            "return_sequences, return_state, go_backwards",
            make(3, 2, return_sequences=True, return_state=True, go_backwards=True, **BOTH),
        )
        yield case("strides=2, padding='same'", make(3, 3, strides=2, padding="same", **BOTH))
        yield case("dilation_rate=2", make(3, 2, dilation_rate=2, **BOTH))
        yield case(
            "use_bias=False, unit_forget_bias=False, activation='relu', recurrent_activation='hard_sigmoid'",
            each(
                make(3, 2, use_bias=False, activation="relu", recurrent_activation="hard_sigmoid", **BOTH),
                make(3, 2, unit_forget_bias=False, **BOTH),
            ),
        )
        yield case("unroll", make(3, 2, unroll=True, return_sequences=True, **BOTH), loops="")
        yield case(
            "masked steps (mask=), zero_output_for_mask or not",
            each(
                lambda x, make=make, rank=rank: make(3, 2, return_sequences=True, **BOTH)(
                    x, mask=ops.any(ops.not_equal(x, 0.0), axis=tuple(range(2, rank + 3)))
                ),
                lambda x, make=make, rank=rank: make(
                    3, 2, return_sequences=True, zero_output_for_mask=True, go_backwards=True, **BOTH
                )(x, mask=ops.any(ops.not_equal(x, 0.0), axis=tuple(range(2, rank + 3)))),
            ),
        )
        yield case(
            "an encoder's states as a decoder's initial_state",
            lambda x, make=make: make(3, 2, return_sequences=True, padding="same", **BOTH)(
                x, initial_state=make(3, 2, return_state=True, padding="same", **BOTH)(x)[1:]
            ),
        )
        yield case("an input that differs by sample", after_dropout(make(3, 2, **BOTH)))
        yield case("Bidirectional", L.Bidirectional(make(3, 2, return_sequences=True, **BOTH)))
        yield case(
            "data_format='channels_first'",
            make(3, 2, data_format="channels_first", **BOTH),
            onednn=True,
        )
    yield Case(
        "Convolutional LSTM",
        "ConvLSTM1D",
        "any length",
        L.ConvLSTM1D(3, 2, return_sequences=True, **BOTH),
        on="1D images, any length",
        loops="Keras",
    )


def time_distributed() -> Iterable[Case]:
    """``TimeDistributed`` over a known and an unknown time axis."""
    case = functools.partial(Case, "TimeDistributed", "TimeDistributed")
    yield case("Dense, Dropout", lambda x: L.TimeDistributed(L.Dropout(0.3))(L.TimeDistributed(L.Dense(4))(x)))
    yield case("masked steps", masked(random_after(L.TimeDistributed(L.Dense(4)))))
    yield case(
        "masked steps, then a recurrent layer",
        masked(lambda h: L.LSTM(4, **BOTH)(L.TimeDistributed(L.Dense(4))(h))),
        loops="step",
    )
    yield case(
        "Conv1D, pooling, Flatten",
        lambda x: L.Dropout(0.3)(
            L.TimeDistributed(L.Flatten())(
                L.TimeDistributed(L.MaxPooling1D(2))(L.TimeDistributed(L.Conv1D(3, 2, activation="relu"))(x))
            )
        ),
        on="1D images",
    )
    yield case("Conv2D", lambda x: L.Dropout(0.3)(L.TimeDistributed(L.Conv2D(3, 2))(x)), on="2D images")
    yield case("SpatialDropout1D, with a mask a step", L.TimeDistributed(L.SpatialDropout1D(0.4)), on="1D images")
    yield case(
        "a recurrent layer with dropouts: drawn anew in each step",
        L.TimeDistributed(L.LSTM(3, **BOTH)),
        on="1D images",
        loops="step",
    )
    yield case(
        "a model with a dropout inside",
        L.TimeDistributed(keras.Sequential([keras.Input((5, 2)), L.Flatten(), L.Dense(3), L.Dropout(0.4)])),
        on="1D images",
    )
    yield case(
        "Masking inside the step",
        L.TimeDistributed(keras.Sequential([keras.Input((5, 2)), L.Masking(), L.GRU(3, **BOTH)])),
        on="1D images",
        loops="step",
    )
    any_length = functools.partial(Case, "TimeDistributed", "TimeDistributed, any length")
    yield any_length(
        "Dense, before and after a Dropout",
        lambda x: L.TimeDistributed(L.Dense(2))(L.Dropout(0.3)(L.TimeDistributed(L.Dense(4))(x))),
        on="series of any length",
    )
    yield any_length(
        "masked steps, then a recurrent layer",
        masked(lambda h: L.LSTM(4, return_sequences=True, **BOTH)(L.TimeDistributed(L.Dense(4))(h))),
        on="series of any length",
        loops="step",
    )
    yield any_length(
        "Conv1D, pooling, Flatten",
        lambda x: L.Dropout(0.3)(
            L.TimeDistributed(L.Flatten())(
                L.TimeDistributed(L.MaxPooling1D(2))(L.TimeDistributed(L.Conv1D(3, 2, activation="relu"))(x))
            )
        ),
        on="1D images, any length",
    )
    yield any_length(
        "a recurrent layer, with masked steps of its own (Masking)",
        each(
            lambda x: L.Dropout(0.3)(L.TimeDistributed(L.GRU(3))(x)),
            lambda x: L.Dropout(0.3)(L.TimeDistributed(L.GRU(3))(L.Masking()(x))),
        ),
        on="1D images, any length",
        loops="fused step",
    )
    yield any_length(
        "a model, a BatchNormalization",
        lambda x: L.TimeDistributed(
            keras.Sequential([keras.Input((5, 2)), L.Flatten(), L.BatchNormalization(), L.Dense(3)])
        )(L.Dropout(0.3)(x)),
        on="1D images, any length",
    )
    yield any_length(
        "a layer that draws",
        L.TimeDistributed(L.Dropout(0.3)),
        on="series of any length",
        refused="the number of draws follows the input's length",
        cure="fix the length in keras.Input",
    )


def regularization() -> Iterable[Case]:
    """The dropout family and noise."""
    section = "Dropout and noise"
    drop = functools.partial(Case, section, "Dropout")
    yield drop("rate, seed", each(L.Dropout(0.3), L.Dropout(0.5, seed=1337), L.Dropout(0.9)))
    yield drop("rate=0 (draws nothing) and rate=1 (all zero)", each(random_after(L.Dropout(0.0)), L.Dropout(1.0)))
    yield drop(
        "noise_shape with sizes, None or 1",
        each(
            L.Dropout(0.3, noise_shape=(None, 1, FEATURES)),
            L.Dropout(0.3, noise_shape=(None, STEPS, 1)),
            L.Dropout(0.3, noise_shape=[None, 1, None]),
            L.Dropout(0.3, noise_shape=(None, None, None)),
            L.Dropout(0.3, noise_shape=(None, 1, 1)),
        ),
    )
    yield drop(
        "noise_shape, any length",
        each(L.Dropout(0.3), L.Dropout(0.3, noise_shape=(None, 1, None)), L.Dropout(0.3, noise_shape=(None, None, 1))),
        on="series of any length",
    )
    yield drop(
        "noise_shape that fixes the batch",
        L.Dropout(0.3, noise_shape=(1, STEPS, 1)),
        refused="not one share for each sample",
        cure="noise_shape: None",
    )
    yield drop("on a vector", L.Dropout(0.3), on="vector")
    yield drop("masks pass through it", masked(lambda h: L.GRU(4)(L.Dropout(0.3)(h))), loops="step")
    for rank, make, kind in (
        (1, L.SpatialDropout1D, "series"),
        (2, L.SpatialDropout2D, "image"),
        (3, L.SpatialDropout3D, "2D images"),
    ):
        spatial = functools.partial(Case, section, f"SpatialDropout{rank}D")
        yield spatial("rate, seed", make(0.4, seed=3), on=kind)
        if rank > 1:
            yield spatial("data_format='channels_first'", make(0.4, data_format="channels_first"), on=kind)
    yield Case(section, "SpatialDropout1D", "any length", L.SpatialDropout1D(0.4), on="series of any length")
    yield Case(section, "SpatialDropout3D", "any size", L.SpatialDropout3D(0.4), on="video of any size")
    yield Case(section, "SpatialDropout2D", "any size", L.SpatialDropout2D(0.4), on="image of any size")
    yield Case(
        section,
        "AlphaDropout",
        "rate, noise_shape",
        each(
            L.AlphaDropout(0.2),
            L.AlphaDropout(0.2, noise_shape=(None, 1, FEATURES)),
            L.AlphaDropout(0.2, noise_shape=(None, None, 1)),
        ),
    )
    yield Case(
        section,
        "AlphaDropout",
        "any length",
        each(L.AlphaDropout(0.2), L.AlphaDropout(0.2, noise_shape=(None, 1, None))),
        on="series of any length",
    )
    yield Case(section, "GaussianDropout", "rate, seed", each(L.GaussianDropout(0.3), L.GaussianDropout(0.6, seed=3)))
    yield Case(section, "GaussianDropout", "any length", L.GaussianDropout(0.3), on="series of any length")
    yield Case(section, "GaussianNoise", "stddev, seed", each(L.GaussianNoise(0.3), L.GaussianNoise(0.9, seed=3)))
    yield Case(section, "GaussianNoise", "any length", L.GaussianNoise(0.3), on="series of any length")
    yield Case(
        section, "ActivityRegularization", "l1, l2: nothing random", random_after(L.ActivityRegularization(0.1, 0.2))
    )
    yield Case(
        section,
        "a custom layer",
        "keras.random.uniform, normal and dropout with a SeedGenerator of its own",
        lambda x: each(Jitter(), lambda x: DropConnect()(L.Flatten()(x)))(x),
    )
    yield Case(
        section,
        "a custom layer",
        "any length",
        lambda x: L.LSTM(4)(Jitter()(x)),
        on="series of any length",
        loops="fused",
    )
    yield Case(
        section,
        "a custom layer",
        "another function of keras.random",
        Hidden(name="hidden"),
        refused="keras.random.truncated_normal",
        cure="keras.random.dropout, uniform or normal",
    )


def attention() -> Iterable[Case]:
    """Attention with dropout on its scores."""
    section = "Attention"
    mha = functools.partial(Case, section, "MultiHeadAttention")

    def with_lora(layer: L.Layer, x: Any) -> Any:
        y = layer(x, x)
        layer.query_dense.enable_lora(2)
        return y

    def on_itself(layer: L.Layer, **call: Any) -> Callable[..., Any]:
        return lambda x: layer(x, x, **call)

    yield mha("dropout, on itself", on_itself(L.MultiHeadAttention(2, 3, dropout=0.3)))
    yield mha(
        "value_dim, output_shape, use_bias=False, seed",
        each(on_itself(L.MultiHeadAttention(2, 3, value_dim=4, output_shape=5, dropout=0.3, use_bias=False, seed=3))),
    )
    yield mha("use_causal_mask", on_itself(L.MultiHeadAttention(2, 3, dropout=0.3), use_causal_mask=True))
    yield mha(
        "masked steps, use_causal_mask or not",
        each(
            masked(on_itself(L.MultiHeadAttention(2, 3, dropout=0.3))),
            masked(on_itself(L.MultiHeadAttention(2, 3, dropout=0.3), use_causal_mask=True)),
        ),
    )
    yield mha(
        "return_attention_scores", on_itself(L.MultiHeadAttention(2, 3, dropout=0.3), return_attention_scores=True)
    )
    yield mha(
        "attention_mask",
        lambda x: L.MultiHeadAttention(2, 3, dropout=0.3)(
            x, x, attention_mask=ops.greater(ops.matmul(x, ops.transpose(x, (0, 2, 1))), -0.5)
        ),
    )
    yield mha("of two series", lambda x, z: L.MultiHeadAttention(2, 3, dropout=0.3)(x, z), on="two series")
    yield mha(
        "of two series, masked",
        lambda x, z: L.MultiHeadAttention(2, 3, dropout=0.3)(L.Masking()(x), L.Masking()(z)),
        on="two series",
    )
    yield mha(
        "any length, masked or not, causal or not",
        each(
            on_itself(L.MultiHeadAttention(2, 3, dropout=0.3)),
            masked(on_itself(L.MultiHeadAttention(2, 3, dropout=0.3))),
            masked(on_itself(L.MultiHeadAttention(2, 3, dropout=0.3), use_causal_mask=True)),
            on_itself(L.MultiHeadAttention(2, 3, dropout=0.3), use_causal_mask=True),
        ),
        on="series of any length",
    )
    yield mha(
        "two lengths, masked or not",
        each(
            lambda x, z: L.MultiHeadAttention(2, 3, dropout=0.3)(x, z),
            lambda x, z: L.MultiHeadAttention(2, 3, dropout=0.3)(L.Masking()(x), L.Masking()(z)),
        ),
        on="two series of any length",
    )
    yield mha(
        "masked ids of any length",
        embedded(lambda h: L.MultiHeadAttention(2, 3, dropout=0.3)(h, h)),
        on="ids of any length",
    )
    yield mha("attention_axes", on_itself(L.MultiHeadAttention(2, 3, dropout=0.3, attention_axes=(2,))), on="image")
    yield mha("after a Dropout", after_dropout(on_itself(L.MultiHeadAttention(2, 3, dropout=0.3))))
    yield mha(
        "sliding_window",
        lambda x: on_itself(L.MultiHeadAttention(2, 3, dropout=0.3, sliding_window=2))(x),
        since="3.13",
    )
    yield mha("enable_lora", lambda x: with_lora(L.MultiHeadAttention(2, 3, dropout=0.3), x))
    yield mha("over two axes", on_itself(L.MultiHeadAttention(2, 3, dropout=0.3, attention_axes=(1, 2))), on="image")
    grouped = functools.partial(Case, section, "GroupQueryAttention")
    yield grouped(
        "dropout, on itself, masked or not",
        each(
            on_itself(L.GroupQueryAttention(2, 4, 2, dropout=0.3)),
            masked(on_itself(L.GroupQueryAttention(2, 4, 2, dropout=0.3), use_causal_mask=True)),
        ),
    )
    yield grouped(
        "two lengths",
        lambda x, z: L.GroupQueryAttention(2, 4, 2, dropout=0.3)(x, L.Dense(FEATURES)(z)),
        on="two series of any length",
    )
    for name, make in (("Attention", L.Attention), ("AdditiveAttention", L.AdditiveAttention)):
        plain = functools.partial(Case, section, name)
        yield plain(
            "dropout, use_scale",
            each(
                lambda x, make=make: make(dropout=0.3, use_scale=True)([x, x]),
                lambda x, make=make: make(dropout=0.3, use_scale=False)([x, x]),
            ),
        )
        yield plain(
            "use_causal_mask, return_attention_scores",
            lambda x, make=make: make(dropout=0.3)([x, x], use_causal_mask=True, return_attention_scores=True),
        )
        yield plain("masked steps", masked(lambda x, make=make: make(dropout=0.3)([x, x])))
        yield plain(
            "query, value and key of two lengths, masked or not",
            each(
                lambda x, z, make=make: make(dropout=0.3)([x, L.Dense(3)(z), L.Dense(3)(z)]),
                lambda x, z, make=make: make(dropout=0.3)([L.Masking()(x), L.Dense(3)(L.Masking()(z))]),
            ),
            on="two series of any length",
        )
    yield Case(section, "Attention", "inputs of 4 axes", lambda x: L.Attention(dropout=0.3)([x, x]), on="image")
    yield Case(
        section, "Attention", "score_mode='concat'", lambda x: L.Attention(score_mode="concat", dropout=0.3)([x, x])
    )


def whole_models() -> Iterable[Case]:
    """What is a matter of the model rather than of a layer."""
    case = functools.partial(Case, "Models", whole=True)

    def shared() -> keras.Model:
        a, b = keras.Input((STEPS, FEATURES), name="a"), keras.Input((STEPS, FEATURES), name="b")
        lstm, drop = L.LSTM(4, **BOTH), L.Dropout(0.3)
        return keras.Model([a, b], [drop(lstm(a)), drop(lstm(b))])

    yield case("a layer called twice", "LSTM and Dropout on two inputs", shared, loops="step")

    def flags() -> keras.Model:
        x = keras.Input((STEPS, FEATURES), name="x")
        drop, lstm = L.Dropout(0.3), L.LSTM(4, **BOTH)
        return keras.Model(
            x, [drop(x, training=True), drop(x, training=False), drop(x), lstm(x, training=False), lstm(x)]
        )

    yield case("training= of a call", "True, False and none, of the same layers", flags, loops="step")

    def nested() -> keras.Model:
        deep = keras.Sequential(
            [keras.Input((STEPS, FEATURES)), L.GRU(4, dropout=0.3, return_sequences=True), L.Dropout(0.4)]
        )
        a = keras.Input((STEPS, FEATURES))
        inner = keras.Model(a, {"h": deep(a), "m": L.Dense(2)(deep(a))})
        x = keras.Input((STEPS, FEATURES), name="x")
        made = inner(L.SpatialDropout1D(0.2)(x))
        again = inner(x)
        return keras.Model(x, [L.LSTM(3, **BOTH)(made["h"]), made["m"], again["m"]])

    yield case("nested models", "Sequential in functional in functional, called twice", nested, loops="fused step")

    def named() -> keras.Model:
        past, now = keras.Input((STEPS, FEATURES), name="past"), keras.Input((2,), name="now", dtype="int32")
        h = L.Dropout(0.3)(L.LSTM(4, **BOTH)(past))
        e = L.Flatten()(L.Embedding(VOCABULARY, 2)(now))
        return keras.Model(
            {"past": past, "now": now}, {"spread": L.Dense(1)(L.Concatenate()([h, e])), "level": L.Dense(2)(h)}
        )

    yield case("dict inputs and outputs", "by the names of their keys, floats and integers", named, loops="step")

    def odd_keys() -> keras.Model:
        a, b = keras.Input((2,), name="first"), keras.Input((3,), name="second")
        return keras.Model({"zz": a, "aa": b}, {"b": L.Dropout(0.3)(a), "a": L.Dropout(0.4)(b)})

    yield case("dict inputs and outputs", "keys that are not the inputs' names, in another order", odd_keys)

    def tuples() -> keras.Model:
        a, b, c = (keras.Input((n,), name=f"i{n}") for n in (2, 3, 4))
        h = [L.Dropout(0.3)(y) for y in (a, b, c)]
        return keras.Model([a, {"b": b, "c": c}], [h[0], {"y": h[2], "x": h[1]}, (h[0] + 1.0,)])

    yield case("nested lists and dicts", "of inputs and outputs", tuples)

    def encoder_decoder(lengths: tuple[int | None, int | None]) -> keras.Model:
        x, start = keras.Input((lengths[0], FEATURES), name="x"), keras.Input((lengths[1], 2), name="start")
        _, h, c = L.LSTM(UNITS, return_state=True, **BOTH)(L.Masking()(x))
        decoded = L.LSTM(UNITS, return_sequences=True, **BOTH)(start, initial_state=[h, c])
        return keras.Model([x, start], L.Dense(1)(decoded))

    yield case(
        "encoder and decoder", "of different lengths, masked", lambda: encoder_decoder((STEPS, 4)), loops="step Keras"
    )
    yield case(
        "encoder and decoder", "any two lengths, masked", lambda: encoder_decoder((None, None)), loops="step Keras"
    )

    def bidirectional_encoder() -> keras.Model:
        x, start = keras.Input((None,), name="x", dtype="int32"), keras.Input((None,), name="start", dtype="int32")
        h = L.Embedding(VOCABULARY, 3, mask_zero=True)(x)
        sequence, *states = L.Bidirectional(L.GRU(3, return_state=True, return_sequences=True, **BOTH))(h)
        d = L.GRU(6, return_sequences=True, **BOTH)(
            L.Embedding(VOCABULARY, 3, mask_zero=True)(start), initial_state=L.Concatenate()(states)
        )
        mixed = L.Attention(dropout=0.2)([d, sequence])
        return keras.Model([x, start], L.Dense(VOCABULARY, activation="softmax")(L.Concatenate()([d, mixed])))

    yield case(
        "encoder and decoder",
        "Bidirectional, with attention, any two lengths of masked ids",
        bidirectional_encoder,
        loops="step Keras",
    )

    def functional_ops() -> keras.Model:
        x = keras.Input((STEPS, FEATURES), name="x")
        h = ops.concatenate([x, ops.flip(x, axis=1)], axis=-1)
        h = L.Dropout(0.3)(h)
        h = ops.where(h > 0.1, h, ops.zeros_like(h)) + ops.expand_dims(ops.mean(h, axis=1), 1)
        return keras.Model(x, [L.GRU(4, dropout=0.2)(h), ops.argmax(h, axis=-1), h > 0.5])

    yield case("keras.ops between layers", "outputs of floats, integers and booleans", functional_ops, loops="fused")

    def normalised() -> keras.Model:
        x = keras.Input((STEPS, FEATURES), name="x")
        h = L.BatchNormalization()(L.Dropout(0.2)(L.BatchNormalization()(x)))
        h = L.GroupNormalization(1)(L.LayerNormalization()(h))
        return keras.Model(x, L.UnitNormalization()(h))

    yield case("normalization", "BatchNormalization in inference; Layer-, Group- and UnitNormalization", normalised)

    def states() -> keras.Model:
        x = keras.Input((STEPS, FEATURES), name="x")
        return keras.Model(x, L.Bidirectional(L.LSTM(4, return_state=True, **BOTH), name="both")(x))

    yield case("outputs of one layer", "return_state as the model's outputs", states, loops="step")

    def same_twice() -> keras.Model:
        x = keras.Input((4,), name="x")
        y = L.Dropout(0.3, name="y")(x)
        return keras.Model(x, [y, y])

    yield case("outputs of one layer", "the same tensor twice", same_twice)

    def integers() -> keras.Model:
        x = keras.Input((STEPS,), dtype="int32", name="x")
        b = keras.Input((STEPS,), dtype="bool", name="b")
        return keras.Model([x, b], L.Dropout(0.4)(ops.cast(x, "float32") * ops.cast(b, "float32")))

    yield case("inputs", "integers and booleans, used as numbers", integers)

    def passed() -> keras.Model:
        x = keras.Input((4,), name="x")
        unused = keras.Input((2,), name="unused")
        return keras.Model([x, unused], [L.Dropout(0.3)(x), L.Identity(name="same")(x)])

    yield case("inputs", "one that nothing reads, one that is an output too, through Identity(name=...)", passed)

    def clash() -> keras.Model:
        x = keras.Input((4,), name="x")
        return keras.Model(x, [L.Dropout(0.3)(x), x])

    yield case("inputs", "one that is an output too", clash, refused="both called 'x'", cure="Identity(name=...)")

    def spectral() -> keras.Model:
        return keras.Sequential(
            [keras.Input((4,), name="x"), L.SpectralNormalization(L.Dense(3), name="spectral"), L.Dropout(0.3)]
        )

    yield case(
        "SpectralNormalization",
        "changes its weights in training",
        spectral,
        refused="changes a variable of the model",
        cure="freeze that layer",
    )

    def augmented(make: Callable[..., L.Layer], **options: Any) -> Callable[[], keras.Model]:
        return lambda: keras.Sequential(
            [keras.Input((6, 5, 3), name="x"), make(**options, name="augment"), L.Dropout(0.2)]
        )

    for make in (L.RandomFlip, L.RandomInvert, L.RandomGrayscale, L.RandomErasing):
        yield case("image augmentation", make.__name__, augmented(make))
    for make in (L.RandomBrightness, L.RandomContrast, L.RandomSharpness, L.RandomColorDegeneration):
        yield case("image augmentation", make.__name__, augmented(make, factor=0.3))
    yield case("image augmentation", "RandomColorJitter", augmented(L.RandomColorJitter))
    for make, options in (
        (L.RandomRotation, {"factor": 0.2}),
        (L.RandomZoom, {"height_factor": 0.2}),
        (L.RandomTranslation, {"height_factor": 0.2, "width_factor": 0.2}),
        (L.RandomShear, {"x_factor": 0.3}),
        (L.RandomPerspective, {}),
        (L.RandomHue, {"factor": 0.3}),
        (L.RandomSaturation, {"factor": 0.3}),
    ):
        yield case(
            "image augmentation",
            make.__name__,
            augmented(make, **options),
            refused="has no counterpart in ONNX that tf2onnx knows",
            cure="replace the layer that uses it",
        )
    for make in (L.MixUp, L.RandAugment, L.AugMix):
        yield case(
            "image augmentation",
            make.__name__,
            augmented(make),
            refused="draws through keras.random",
            cure="draw with keras.random.dropout, uniform or normal",
        )
    yield case(
        "image augmentation",
        "RandomPosterization",
        augmented(L.RandomPosterization, factor=3),
        refused="draws through keras.random",
        cure="draw with keras.random.dropout, uniform or normal",
    )
    for make, options in (
        (L.RandomCrop, {"height": 3, "width": 3}),
        (L.CutMix, {}),
        (L.RandomGaussianBlur, {}),
        (L.RandomElasticTransform, {}),
    ):
        yield case(
            "image augmentation",
            make.__name__,
            augmented(make, **options),
            refused="not one share for each sample",
            cure="let the first axis of what it draws be the batch",
        )


# Layers are made with the table and take the seeds of their first weights from Python's generator (Keras 3.15): without
# this, the processes of a run would compare the artifact of one with the model of another.
keras.utils.set_random_seed(0)
CASES: tuple[Case, ...] = tuple(
    itertools.chain(
        recurrent(),
        cells(),
        bidirectional(),
        convolutional(),
        time_distributed(),
        regularization(),
        attention(),
        whole_models(),
    )
)
