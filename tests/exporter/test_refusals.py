"""Every refusal names the layer and the cure, and leaves an older file and its folder as they were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import Refusal


class Drawing(keras.layers.Layer):
    """Calls draw(x, generator) for its random numbers."""

    def __init__(self, draw: Callable[[object, object], object], name: str = "noisy") -> None:
        super().__init__(name=name)
        self.generator = keras.random.SeedGenerator(5)
        self.draw = draw

    def call(self, x: object, training: bool = False) -> object:
        return self.draw(x, self.generator) if training else x


class StepwiseCell(keras.layers.SimpleRNNCell):
    """Draws in every step of the loop."""

    def __init__(self, units: int, **kwargs: object) -> None:
        super().__init__(units, **kwargs)
        self.own = keras.random.SeedGenerator(5)

    def call(self, sequence: object, states: object, training: bool = False) -> object:
        return super().call(keras.random.dropout(sequence, 0.5, seed=self.own), states)


class Counting(keras.layers.Layer):
    """Changes a variable in every forward pass."""

    def build(self, shape: object) -> None:
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False, name="calls")

    def call(self, x: object) -> object:
        self.calls.assign_add(1.0)
        return x * self.calls


class UnbuiltCell(keras.layers.Layer):
    """Leaves it to the first call to make the weights of the layer inside."""

    def __init__(self) -> None:
        super().__init__()
        self.state_size = 3
        self.dense = layers.Dense(3, name="lazy")

    def call(self, x: object, states: object) -> object:
        h = self.dense(x) + states[0]
        return h, [h]


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.drop = layers.Dropout(0.5)

    def call(self, x: object, training: bool = False) -> object:
        return self.drop(x, training=training)


def _stack(*stack: layers.Layer, shape: tuple[int | None, ...] = (6,), **options: object) -> keras.Model:
    return keras.Sequential([keras.Input(shape, **{"name": "x", **options}), *stack], name="model")


def _draws(draw: Callable[[object, object], object]) -> Callable[[], keras.Model]:
    return lambda: _stack(layers.Dropout(0.5), Drawing(draw))


def _baked(rows: int, width: int, shape: tuple[int, ...]) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        x = keras.Input(batch_shape=(rows, width), name="x")
        return keras.Model(x, ops.reshape(layers.Dropout(0.5)(x), shape), name="model")

    return build


OWN_GENERATOR = "keras.random.SeedGenerator"
# What the text must say: who is at fault, then what to do.
REFUSED = {
    "nothing random": (
        lambda: _stack(layers.Dense(2)),
        ["'model'", "nothing in it is random", "--dropout", "add a Dropout layer"],
    ),
    "rates of zero": (lambda: _stack(layers.Dropout(0.0)), ["'model'", "a rate of 0 draws nothing"]),
    "global generator": (_draws(lambda x, g: keras.random.dropout(x, 0.5)), ["'noisy'", "seed=None", OWN_GENERATOR]),
    "integer seed": (
        _draws(lambda x, g: x + keras.random.normal(ops.shape(x), seed=3)),
        ["'noisy'", "integer seed (3)", OWN_GENERATOR],
    ),
    "raw tf.random": (_draws(lambda x, g: x + tf.random.normal(tf.shape(x))), ["noisy", "tf.random", OWN_GENERATOR]),
    "stateless tf.random": (
        _draws(lambda x, g: x * tf.random.stateless_uniform(tf.shape(x), [1, 2])),
        ["noisy", "tf.random", OWN_GENERATOR],
    ),
    **{
        f"keras.random.{kind}": (_draws(draw), ["'noisy'", f"keras.random.{kind}", "dropout, uniform or normal"])
        for kind, draw in {
            "randint": lambda x, g: x + ops.cast(keras.random.randint((1, 6), 0, 4, seed=g), "float32"),
            "truncated_normal": lambda x, g: x + keras.random.truncated_normal(ops.shape(x), seed=g),
            "shuffle": lambda x, g: keras.random.shuffle(x, seed=g),
            "categorical": lambda x, g: ops.cast(keras.random.categorical(x, 6, seed=g), "float32"),
            "gamma": lambda x, g: x + keras.random.gamma(ops.shape(x), 1.0, seed=g),
            "beta": lambda x, g: x + keras.random.beta(ops.shape(x), 1.0, 1.0, seed=g),
            "binomial": lambda x, g: x + keras.random.binomial(ops.shape(x), 1.0, 0.5, seed=g),
        }.items()
    },
    "stateful": (
        lambda: keras.Sequential(
            [keras.Input(batch_shape=(4, 9, 3)), layers.LSTM(4, stateful=True, dropout=0.5, name="memory")]
        ),
        ["'memory'", "stateful=False"],
    ),
    "stateful inside Bidirectional": (
        lambda: keras.Sequential(
            [
                keras.Input(batch_shape=(4, 9, 3)),
                layers.Bidirectional(layers.GRU(4, stateful=True, dropout=0.5), name="both"),
            ]
        ),
        ["both", "stateful=False"],
    ),
    "half precision": (
        lambda: _stack(layers.Dropout(0.5), layers.Dense(2, dtype="float16", name="half")),
        ["'half'", "float16", "set_dtype_policy('float32')"],
    ),
    "double precision": (
        lambda: _stack(layers.Dropout(0.5), layers.Dense(2, dtype="float64", name="double")),
        ["'double'", "float64", "set_dtype_policy('float32')"],
    ),
    **{
        f"input called {name}": (
            lambda name=name: _stack(layers.Dropout(0.5), name=name),
            [f"'{name}'", "another name"],
        )
        for name in ("seed", "rows", "num_samples", "first_sample")
    },
    "output called rows": (
        lambda: _stack(layers.Dropout(0.5), layers.Dense(2, name="rows")),
        ["'rows'", "another name"],
    ),
    "baked batch": (_baked(4, 6, (4, 2, 3)), ["'x'", "batch size to 4", "keras.Input(shape=...)"]),
    "baked batch that any batch fits": (_baked(4, 8, (4, -1)), ["'x'", "batch size to 4", "keras.Input(shape=...)"]),
    "an output of the whole batch": (
        lambda: keras.Model(x := keras.Input((6,), name="x"), ops.mean(layers.Dropout(0.5)(x), axis=0), name="model"),
        ["'model'", "a batch of 3 rows", "an output of shape (6,)"],
    ),
    "mask of the whole batch": (
        lambda: _stack(layers.Dropout(0.5, noise_shape=(1, 6), name="common")),
        ["'common'", "the first axis", "noise_shape: None"],
    ),
    "numbers of the whole batch": (
        _draws(lambda x, g: x * keras.random.uniform((6,), seed=g)),
        ["'noisy'", "the first axis"],
    ),
    "drawn in the loop": (
        lambda: _stack(layers.RNN(StepwiseCell(4), name="stepwise"), shape=(9, 3)),
        ["stepwise", "time loop", "unroll=True"],
    ),
    "a variable that changes": (
        lambda: _stack(layers.Dropout(0.5), Counting(name="counting")),
        ["counting", "changes a variable", "trainable = False"],
    ),
    "implementation 1 with dropout alone": (
        lambda: _stack(layers.GRU(4, implementation=1, dropout=0.5, name="memory"), shape=(9, 3)),
        ["'memory'", "Keras itself", "use_cudnn=False"],
    ),
    "weights not made yet": (
        lambda: _stack(layers.Dropout(0.5), layers.RNN(UnbuiltCell()), shape=(9, 3)),
        ["lazy", "no weights yet", "call the model once"],
    ),
    "subclassed": (Subclassed, ["'subclassed'", "--input-shape 24,3", "input_shapes=(24, 3)"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_by_name_and_with_a_cure(case: str, target: Path, untouched: Callable[[], None]) -> None:
    build, phrases = REFUSED[case]
    model = build()
    with pytest.raises(Refusal) as caught:
        keepdrop_exporter.export(model, target)
    text = str(caught.value)
    assert [phrase for phrase in phrases if phrase not in text] == []
    assert "\n" not in text and "\x1b" not in text
    untouched()


def test_a_refused_model_is_left_untouched() -> None:
    model = _stack(layers.BatchNormalization(), layers.Dropout(0.5), Drawing(lambda x, g: keras.random.dropout(x, 0.5)))
    before = [variable.numpy() for variable in model.variables]
    with pytest.raises(Refusal):
        keepdrop_exporter.export(model, "never.onnx")
    assert all(np.array_equal(v.numpy(), value) for v, value in zip(model.variables, before, strict=True))
    assert model.layers[0].trainable
    # Keras' own functions are back in their places.
    assert 0 < np.count_nonzero(keras.random.dropout(np.ones(100, np.float32), 0.5, seed=1)) < 100


@pytest.mark.parametrize(
    "cured",
    [
        lambda: _stack(layers.Dropout(0.5), layers.Dense(2, name="y"), shape=None, batch_shape=(4, 6)),
        lambda: _stack(Drawing(lambda x, g: keras.random.dropout(x, 0.5, seed=g)), layers.Dense(2, name="y")),
        lambda: _stack(Subclassed(), layers.Dense(2, name="y")),
        lambda: _stack(layers.Dropout(0.5, noise_shape=(None, 6)), layers.Dense(2, name="y")),
        lambda: _stack(layers.RNN(StepwiseCell(4), unroll=True), layers.Dense(2, name="y"), shape=(3, 6)),
    ],
    ids=["fixed batch that can be lifted", "own generator", "wrapped", "mask a row", "unrolled"],
)
def test_the_cures_cure(cured: Callable[[], keras.Model], tmp_path: Path) -> None:
    model = cured()
    keepdrop_exporter.export(model, tmp_path / "model.onnx")
    x = np.ones((2, *model.inputs[0].shape[1:]), np.float32)  # not the 4 rows of a fixed batch
    drawn = keepdrop.load(tmp_path / "model.onnx").sample(x, samples=8)
    assert drawn.shape == (8, 2, 2) and np.ptp(drawn, axis=0).max() > 0
