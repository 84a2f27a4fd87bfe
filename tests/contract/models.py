"""Models whose samples have to be Keras', each random in a way of its own."""

from __future__ import annotations

import zlib
from collections.abc import Callable

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

STEPS, FEATURES = 9, 3
BOTH = {"dropout": 0.25, "recurrent_dropout": 0.25}


class Jitter(keras.layers.Layer):
    """A custom layer that scales by uniform and shifts by normal numbers of a generator of its own."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.generator = keras.random.SeedGenerator(3)

    def call(self, x: object, training: bool = False) -> object:
        if not training:
            return x
        scale = keras.random.uniform(keras.ops.shape(x), 0.5, 1.5, seed=self.generator)
        return x * scale + keras.random.normal(keras.ops.shape(x), 0.1, 0.2, seed=self.generator)


def _chain(*stack: layers.Layer, shape: tuple[int | None, ...] = (STEPS, FEATURES), units: int = 2) -> keras.Model:
    return keras.Sequential([keras.Input(shape, name="x"), *stack, layers.Dense(units, name="y")])


def _two_in_two_out() -> keras.Model:
    past, now = keras.Input((STEPS, FEATURES), name="past"), keras.Input((2,), name="now")
    state = layers.Dropout(0.3)(layers.LSTM(5, **BOTH)(past))
    joined = layers.Concatenate()([state, layers.Dropout(0.2)(now)])
    return keras.Model([past, now], [layers.Dense(2, name="level")(joined), layers.Dense(1, name="spread")(state)])


def _normalised() -> keras.Model:
    return _chain(layers.BatchNormalization(), layers.LSTM(5, **BOTH), layers.BatchNormalization(), layers.Dropout(0.3))


def _attention() -> keras.Model:
    x = keras.Input((STEPS, 4), name="x")
    mixed = layers.MultiHeadAttention(2, 3, dropout=0.3)(x, x)
    return keras.Model(x, layers.Dense(2, name="y")(layers.LayerNormalization()(x + mixed)))


def _nested() -> keras.Model:
    inner = keras.Sequential([keras.Input((STEPS, FEATURES)), layers.GRU(4, dropout=0.3), layers.Dropout(0.4)])
    x = keras.Input((STEPS, FEATURES), name="x")
    return keras.Model(x, layers.Dense(2, name="y")(layers.Dropout(0.2)(inner(layers.SpatialDropout1D(0.2)(x)))))


def _shared() -> keras.Model:
    # The two layers draw in turns, so that the first draws of one generator lie around those of the other.
    a, b = keras.Input((STEPS, FEATURES), name="a"), keras.Input((STEPS, FEATURES), name="b")
    lstm, drop = layers.LSTM(4, **BOTH), layers.Dropout(0.3)
    return keras.Model([a, b], layers.Dense(2, name="y")(layers.Concatenate()([drop(lstm(a)), drop(lstm(b))])))


def _encoder_decoder() -> keras.Model:
    x, start = keras.Input((STEPS, FEATURES), name="x"), keras.Input((4, 1), name="start")
    _, h, c = layers.LSTM(5, dropout=0.25, return_state=True)(x)
    decoded = layers.LSTM(5, **BOTH, return_sequences=True)(start, initial_state=[h, c])
    return keras.Model([x, start], layers.Dense(1, name="y")(decoded))


MODELS: dict[str, Callable[[], keras.Model]] = {
    "LSTM dropout": lambda: _chain(layers.LSTM(5, dropout=0.25)),
    "LSTM recurrent_dropout": lambda: _chain(layers.LSTM(5, recurrent_dropout=0.25)),
    "LSTM both": lambda: _chain(layers.LSTM(5, **BOTH)),
    "LSTM then Dropout": lambda: _chain(layers.LSTM(5), layers.Dropout(0.4)),
    "(2, w)": lambda: _chain(layers.LSTM(6, **BOTH), shape=(2, 8)),
    "stacked": lambda: _chain(
        layers.LSTM(5, return_sequences=True, **BOTH), layers.GRU(4, dropout=0.3), layers.Dropout(0.2)
    ),
    "GRU reset after": lambda: _chain(layers.GRU(5, **BOTH)),
    "GRU reset before": lambda: _chain(layers.GRU(5, reset_after=False, **BOTH)),
    "SimpleRNN": lambda: _chain(layers.SimpleRNN(5, **BOTH)),
    "Bidirectional": lambda: _chain(layers.Bidirectional(layers.LSTM(4, **BOTH))),
    "Bidirectional GRU, dropout alone": lambda: _chain(layers.Bidirectional(layers.GRU(4, dropout=0.3))),
    "stacked cells": lambda: _chain(layers.RNN([layers.LSTMCell(4, **BOTH), layers.GRUCell(3, **BOTH)])),
    "backwards, unrolled": lambda: _chain(layers.LSTM(4, go_backwards=True, unroll=True, **BOTH), shape=(4, FEATURES)),
    "SpatialDropout1D": lambda: _chain(layers.SpatialDropout1D(0.3), layers.LSTM(5)),
    "two inputs, two outputs": _two_in_two_out,
    "BatchNormalization": _normalised,
    "any length": lambda: _chain(
        layers.Dropout(0.2), layers.LSTM(5, return_sequences=True, **BOTH), shape=(None, FEATURES)
    ),
    "noise layers": lambda: _chain(
        layers.GaussianNoise(0.3), layers.GaussianDropout(0.2), layers.AlphaDropout(0.1), shape=(5,)
    ),
    "Embedding with gaps": lambda: keras.Sequential(
        [
            keras.Input((STEPS,), dtype="int32", name="x"),
            layers.Embedding(7, 4, mask_zero=True),
            layers.LSTM(5, **BOTH),
            layers.Dense(2, name="y"),
        ]
    ),
    "Masking with gaps": lambda: _chain(layers.Masking(), layers.GRU(5, dropout=0.3), layers.Dropout(0.2)),
    "MultiHeadAttention": _attention,
    "custom layer": lambda: _chain(Jitter(), shape=(5,)),
    "nested model": _nested,
    "shared layers": _shared,
    "encoder and decoder": _encoder_decoder,
    "training=True baked in": lambda: keras.Model(
        x := keras.Input((5,), name="x"), layers.Dense(2, name="y")(layers.Dropout(0.5)(x, training=True))
    ),
    "training=False baked in": lambda: keras.Model(
        x := keras.Input((5,), name="x"), layers.Dense(2, name="y")(layers.Dropout(0.5)(x, training=False))
    ),
}


def build(name: str) -> keras.Model:
    """The model of that name with weights that show a mix-up of gates."""
    keras.utils.set_random_seed(zlib.crc32(name.encode()))
    model = MODELS[name]()
    settle(model)
    return model


def settle(model: keras.Model) -> None:
    """Give biases, scales and moving statistics values a trained model would have."""
    rng = np.random.default_rng(0)
    for variable in model.weights:
        if variable.name == "moving_variance":
            variable.assign(rng.uniform(0.5, 2.0, variable.shape))
        elif variable.name in ("bias", "beta", "gamma", "moving_mean"):
            variable.assign(variable.numpy() + rng.normal(0.0, 0.4, variable.shape))


def inputs(model: keras.Model, batch: int, length: int = STEPS) -> list[NDArray[np.generic]]:
    """An array [batch, ...] for each input; ids run from 0 to 6, and some steps are 0 throughout, for masks to gap."""
    rng = np.random.default_rng(batch)
    arrays = []
    for x in model.inputs:
        shape = (batch, *(length if n is None else n for n in x.shape[1:]))
        if "int" in x.dtype:
            array = rng.integers(0, 7, shape).astype(x.dtype)
        else:
            array = rng.standard_normal(shape).astype(x.dtype)
        if len(shape) > 1 and shape[1] > 4:
            array[0, 3] = array[1:, 1] = 0
        arrays.append(array)
    return arrays
