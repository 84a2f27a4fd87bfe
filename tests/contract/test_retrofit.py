"""Dropout set afterwards equals dropout built in by hand, and changes nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as L

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import with_dropout

from . import models, reference

ROWS = [2, 2**33 + 5]

Rates = dict[str, float]


def _sequential(*stack: L.Layer, shape: tuple[int | None, ...] = (6, 3)) -> keras.Model:
    return keras.Sequential([keras.Input(shape, name="x"), *stack])


def _maybe(rate: float, name: str) -> list[L.Layer]:
    return [L.Dropout(rate, name=name)] if rate else []


def three_places(r: Rates) -> keras.Model:
    return _sequential(
        L.LSTM(5, dropout=r.get("lstm.input", 0), recurrent_dropout=r.get("lstm.recurrent", 0), name="lstm"),
        *_maybe(r.get("dense.input", 0), "dense_dropout"),
        L.Dense(2, name="dense"),
    )


def bidirectional(r: Rates) -> keras.Model:
    gru = L.GRU(3, dropout=r.get("both.input", 0), recurrent_dropout=r.get("both.recurrent", 0), name="gru")
    return _sequential(L.Bidirectional(gru, name="both"), L.Dense(2, name="y"))


def cells(r: Rates) -> keras.Model:
    rates = {"dropout": r.get("rnn.input", 0), "recurrent_dropout": r.get("rnn.recurrent", 0)}
    stack = [L.LSTMCell(4, **rates), L.GRUCell(3, **rates), L.SimpleRNNCell(3, **rates)]
    return _sequential(L.RNN(stack, name="rnn"), L.Dense(2, name="y"))


def cell(r: Rates) -> keras.Model:
    lstm = L.LSTMCell(4, dropout=r.get("rnn.input", 0), recurrent_dropout=r.get("rnn.recurrent", 0))
    return _sequential(L.RNN(lstm, name="rnn"), L.Dense(2, name="y"))


def convolutional(r: Rates) -> keras.Model:
    rates = {"dropout": r.get("conv.input", 0), "recurrent_dropout": r.get("conv.recurrent", 0)}
    return _sequential(L.ConvLSTM1D(2, 3, name="conv", **rates), L.Flatten(), L.Dense(2, name="y"), shape=(4, 5, 2))


def nested(r: Rates) -> keras.Model:
    a = keras.Input((6, 3))
    hidden = L.GRU(4, dropout=r.get("encoder/inner/gru.input", 0), name="gru")(a)
    inner = keras.Model(a, L.Dropout(r.get("encoder/inner/drop", 0.1), name="drop")(hidden), name="inner")
    before = _maybe(r.get("encoder/dense.input", 0), "dense_dropout")
    encoder = keras.Sequential([keras.Input((6, 3)), inner, *before, L.Dense(3, name="dense")], name="encoder")
    x = keras.Input((6, 3), name="x")
    y = x
    for layer in [*_maybe(r.get("encoder.input", 0), "encoder_dropout"), encoder, L.Dense(2, name="y")]:
        y = layer(y)
    return keras.Model(x, y)


def shared(r: Rates) -> keras.Model:
    """The GRU is called on both inputs, the Dense layer three times, each after a draw of its own."""
    a, b = keras.Input((6, 3), name="a"), keras.Input((6, 3), name="b")
    gru, dense = L.GRU(3, dropout=r.get("gru.input", 0), name="gru"), L.Dense(3, name="dense")
    drop = L.Dropout(r.get("dense.input", 0), name="dense_dropout")

    def call(x: Any) -> Any:
        return dense(drop(x)) if r.get("dense.input") else dense(x)

    joined = L.Add(name="add")([call(gru(a)), call(call(gru(b)))])
    return keras.Model([a, b], joined)


def attention(r: Rates) -> keras.Model:
    x = keras.Input((6, 4), name="x")
    mixed = L.MultiHeadAttention(2, 3, dropout=r.get("heads", 0), name="heads")(x, x)
    return keras.Model(x, L.Dense(2, name="y")(mixed))


def distributed(r: Rates) -> keras.Model:
    drop = L.Dropout(r.get("each/drop", 0.5), name="drop")
    return _sequential(L.TimeDistributed(drop, name="each"), L.Flatten(), L.Dense(2, name="y"))


def regularised(r: Rates) -> keras.Model:
    """Masks, batch normalization, operations without a layer, and dropout layers of several kinds."""
    x = keras.Input((6, 3), name="x")
    y = L.SpatialDropout1D(r.get("spatial", 0.1), name="spatial")(L.Masking()(x))
    y = L.LSTM(4, return_sequences=True, recurrent_dropout=r.get("lstm.recurrent", 0), name="lstm")(y)
    y = L.BatchNormalization(name="norm")(keras.ops.tanh(y)[:, -1] * 2)
    y = L.GaussianDropout(r.get("gauss", 0.2), name="gauss")(y)
    return keras.Model({"x": x}, {"y": L.Dense(2, name="y")(y)})


CASES: list[tuple[Callable[[Rates], keras.Model], Rates, Rates]] = [
    (three_places, r := {"lstm.input": 0.25, "lstm.recurrent": 0.2, "dense.input": 0.5}, r),
    (three_places, {"*.input": 0.3}, {"lstm.input": 0.3, "dense.input": 0.3}),
    (three_places, {"*.input": 0.3, "lstm.input": 0.1}, {"lstm.input": 0.1, "dense.input": 0.3}),
    (bidirectional, {"*.recurrent": 0.2}, {"both.recurrent": 0.2}),
    (bidirectional, r := {"both.input": 0.2, "both.recurrent": 0.4}, r),
    (cells, r := {"rnn.input": 0.2, "rnn.recurrent": 0.4}, r),
    (cell, r := {"rnn.input": 0.2, "rnn.recurrent": 0.4}, r),
    (convolutional, r := {"conv.input": 0.2, "conv.recurrent": 0.4}, r),
    (nested, r := {"encoder/inner/gru.input": 0.3, "encoder/inner/drop": 0, "encoder.input": 0.2}, r),
    (nested, {"*/dense.input": 0.2, "*drop": 0.4}, {"encoder/dense.input": 0.2, "encoder/inner/drop": 0.4}),
    (shared, r := {"gru.input": 0.3, "dense.input": 0.4}, r),
    (attention, {"heads": 0.3}, {"heads": 0.3}),
    (distributed, {"each/drop": 0.2}, {"each/drop": 0.2}),
    (regularised, {"*": 0.3, "lstm.recurrent": 0.2}, {"spatial": 0.3, "gauss": 0.3, "lstm.recurrent": 0.2}),
]


def _plain(build: Callable[[Rates], keras.Model]) -> keras.Model:
    keras.utils.set_random_seed(3)
    model = build({})
    models.settle(model)
    return model


def _samples(model: keras.Model) -> list[np.ndarray]:
    inputs = models.inputs(model, batch=2)
    if isinstance(getattr(model, "_inputs_struct", None), dict):
        x = keras.Input(inputs[0].shape[1:], name="x")
        model = keras.Model(x, model({"x": x})["y"])
    return reference.samples(model, inputs, ROWS, 4, seed=7)


@pytest.mark.parametrize(("build", "asked", "rates"), CASES, ids=lambda value: getattr(value, "__name__", None))
def test_equals_dropout_built_in_by_hand(build: Any, asked: Rates, rates: Rates) -> None:
    """Both are stock Keras models, so the very same numbers are expected; other rates give others."""
    model = _plain(build)
    made, by_hand = with_dropout(model, asked), build(rates)
    by_hand.set_weights(model.get_weights())
    expected = _samples(by_hand)
    for got, want in zip(_samples(made), expected, strict=True):
        np.testing.assert_array_equal(got, want)
    assert max(np.ptp(y, axis=0).max() for y in expected) > 1e-2
    others = _samples(with_dropout(model, {place: rate + 0.25 for place, rate in asked.items()}))
    assert any(not np.array_equal(got, want) for got, want in zip(others, expected, strict=True))


@pytest.mark.parametrize("build", [nested, shared, regularised], ids=lambda build: build.__name__)
def test_nothing_else_changes(build: Any) -> None:
    model = _plain(build)
    model.compile("adam", "mse")
    model.layers[-1].trainable = False
    before = json.dumps(model.get_config()), [w.copy() for w in model.get_weights()]
    made = with_dropout(model, {"*.input": 0.2})
    assert (json.dumps(model.get_config()), model.compiled) == (before[0], True)
    for old, same, new in zip(before[1], model.get_weights(), made.get_weights(), strict=True):
        np.testing.assert_array_equal(old, same)
        np.testing.assert_array_equal(old, new)
    assert [v.path.split("/")[-1] for v in model.weights] == [v.path.split("/")[-1] for v in made.weights]
    assert [v.trainable for v in model.weights] == [v.trainable for v in made.weights]
    assert not {id(v) for v in model.variables} & {id(v) for v in made.variables}
    assert [x.shape for x in model.inputs] == [x.shape for x in made.inputs]
    for find in (lambda m: m.inputs, lambda m: m.outputs):
        names = [[t._keras_history.operation.name for t in find(m)] for m in (model, made)]
        assert names[0] == names[1]
    x = {t._keras_history.operation.name: a for t, a in zip(model.inputs, models.inputs(model, 2), strict=True)}
    x = x if len(x) > 1 else next(iter(x.values()))
    for old, new in zip(*(keras.tree.flatten(m.predict(x, verbose=0)) for m in (model, made)), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-6)  # float32, summed gate by gate


def test_an_export_with_dropout(tmp_path: Path) -> None:
    plain, rates = _plain(three_places), {"lstm.input": 0.25, "lstm.recurrent": 0.25, "dense.input": 0.5}
    keepdrop_exporter.export(plain, tmp_path / "m.onnx", dropout=rates, samples=2)
    by_hand = three_places(rates)
    by_hand.set_weights(plain.get_weights())
    x = models.inputs(by_hand, batch=2)
    expected = reference.samples(by_hand, x, ROWS, 5, seed=7)
    got = keepdrop.load(tmp_path / "m.onnx").sample(x[0], samples=5, seed=7, rows=ROWS)
    reference.assert_samples_equal(got, expected)
    assert keepdrop_exporter.verify(plain, tmp_path / "m.onnx", dropout=rates, samples=3).rows == 4
