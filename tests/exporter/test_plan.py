"""Stage 2: what is random in a model, in which order; the model itself is left as it was."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from keepdrop_exporter import Refusal
from keepdrop_exporter.plan.draws import Plan, make_plan

UNITS, FEATURES, STEPS = 5, 3, 9


def _plan(*stack: layers.Layer, shape: tuple[int | None, ...] = (STEPS, FEATURES)) -> Plan:
    return make_plan(keras.Sequential([keras.Input(shape, name="x"), *stack]))


def _listed(plan: Plan) -> list[tuple[Any, ...]]:
    return [(d.layer, d.argument, d.kind, d.rate, d.shape, d.generator, d.offset) for d in plan.draws]


def test_an_lstm_with_both_dropouts() -> None:
    """A mask for each gate, of the input first, then of the state; held over all steps, so time is no axis."""
    plan = _plan(layers.LSTM(UNITS, dropout=0.25, recurrent_dropout=0.5, name="lstm"))
    assert _listed(plan) == [
        *(("lstm", "dropout", "dropout", 0.25, (FEATURES,), 0, i) for i in range(4)),
        *(("lstm", "recurrent_dropout", "dropout", 0.5, (UNITS,), 0, i) for i in range(4, 8)),
    ]
    assert plan.draws_per_row == 8 and len(plan.generators) == 1


@pytest.mark.parametrize(
    "layer, masks",
    [
        (layers.LSTM(UNITS, dropout=0.2), {"dropout": 1}),
        (layers.LSTM(UNITS, recurrent_dropout=0.2), {"recurrent_dropout": 4}),
        (layers.LSTM(UNITS, dropout=0.2, recurrent_dropout=0.2), {"dropout": 4, "recurrent_dropout": 4}),
        (layers.GRU(UNITS, dropout=0.2), {"dropout": 1}),
        (layers.GRU(UNITS, recurrent_dropout=0.2), {"recurrent_dropout": 3}),
        (layers.GRU(UNITS, dropout=0.2, recurrent_dropout=0.2), {"dropout": 3, "recurrent_dropout": 3}),
        (layers.SimpleRNN(UNITS, dropout=0.2, recurrent_dropout=0.2), {"dropout": 1, "recurrent_dropout": 1}),
        (
            layers.Bidirectional(layers.LSTM(UNITS, dropout=0.2, recurrent_dropout=0.2)),
            {"dropout": 8, "recurrent_dropout": 8},
        ),
        (layers.Bidirectional(layers.LSTM(UNITS, dropout=0.2)), {"dropout": 2}),
    ],
    ids=lambda value: value.name if isinstance(value, keras.Layer) else "",
)
def test_masks_of_a_recurrent_layer(layer: layers.Layer, masks: dict[str, int]) -> None:
    arguments = [draw.argument for draw in _plan(layer).draws]
    assert {name: arguments.count(name) for name in dict.fromkeys(arguments)} == masks


def test_loops_of_keras_own_cells_are_not_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    class OwnCell(layers.LSTMCell):
        pass

    def refuse(*args: Any, **options: Any) -> Any:
        raise NotImplementedError("traced")

    rates = {"dropout": 0.2, "recurrent_dropout": 0.2}
    stock = layers.GRU(UNITS, return_sequences=True, name="first", **rates), layers.LSTM(UNITS, name="last", **rates)
    found = _listed(_plan(*stock))
    monkeypatch.setattr("keras.src.backend.rnn", refuse)
    assert _listed(_plan(*stock)) == found
    with pytest.raises(Refusal, match="traced"):
        _plan(layers.RNN(OwnCell(UNITS, **rates)))


def test_an_activation_that_draws_is_found_in_the_loop() -> None:
    generator = keras.random.SeedGenerator(1)

    def noisy(x: Any) -> Any:
        return keras.random.dropout(x, 0.5, seed=generator)

    with pytest.raises(Refusal, match="^layer 'lstm' draws from a generator that no layer owns"):
        _plan(layers.LSTM(UNITS, activation=noisy, dropout=0.2, name="lstm"))


@pytest.mark.parametrize(
    "stack, shape, expected",
    [
        ([layers.Dropout(0.3)], (4, 6), ("dropout", 0.3, (4, 6))),
        ([layers.Dropout(0.3)], (None, 6), ("dropout", 0.3, (None, 6))),
        ([layers.Dropout(0.3, noise_shape=(None, 1, 6))], (4, 6), ("dropout", 0.3, (1, 6))),
        ([layers.SpatialDropout1D(0.3)], (None, 6), ("dropout", 0.3, (1, 6))),
        ([layers.GaussianNoise(0.3)], (4,), ("normal", None, (4,))),
        ([layers.GaussianDropout(0.3)], (4,), ("normal", None, (4,))),
        ([layers.AlphaDropout(0.3)], (4,), ("uniform", None, (4,))),
        # Time is folded into the batch: each step has a share of its own.
        ([layers.TimeDistributed(layers.Dropout(0.3))], (4, 6), None),
    ],
)
def test_kind_rate_and_shape(stack: list[layers.Layer], shape: tuple[int | None, ...], expected: Any) -> None:
    draws = _plan(*stack, shape=shape).draws
    if expected:
        assert [(d.kind, d.rate, d.shape) for d in draws] == [expected]
    else:
        assert {d.kind for d in draws} == {"dropout"} and {d.rate for d in draws} == {0.3}


def test_generators_are_numbered_by_their_first_draw() -> None:
    x = keras.Input((4,), name="x")
    late, early = layers.Dropout(0.1, name="late"), layers.Dropout(0.2, name="early")
    y = late(early(late(early(x))))
    # early draws first, and twice: its two draws come before those of late.
    assert [(d.layer, d.generator, d.offset) for d in make_plan(keras.Model(x, y)).draws] == [
        ("early", 0, 0),
        ("early", 0, 1),
        ("late", 1, 2),
        ("late", 1, 3),
    ]


def test_a_rate_of_zero_draws_nothing() -> None:
    plan = _plan(layers.Dropout(0.0), layers.LSTM(UNITS, dropout=0.0, recurrent_dropout=0.0), layers.Dropout(0.4))
    assert [(d.rate, d.offset) for d in plan.draws] == [(0.4, 0)]


def test_layers_are_named_by_their_path() -> None:
    inner = keras.Sequential([keras.Input((STEPS, FEATURES)), layers.Dropout(0.2, name="drop")], name="inner")
    wrapped = layers.Bidirectional(layers.GRU(UNITS, dropout=0.3, name="gru"), name="both")
    paths = [draw.layer for draw in _plan(inner, wrapped).draws]
    assert paths == ["inner/drop", "both/forward_gru", "both/backward_gru"]


def test_tensors() -> None:
    a, b = keras.Input((None, 3), name="a"), keras.Input((2,), dtype="int32", name="b")
    y = layers.Dense(4, name="y")(layers.Dropout(0.5)(a))
    plan = make_plan(keras.Model([a, b], [y, layers.Embedding(3, 2, name="z")(b)]))
    assert [(t.name, t.dtype, t.shape) for t in plan.inputs] == [
        ("a", "float32", (None, None, 3)),
        ("b", "int32", (None, 2)),
    ]
    assert [(t.name, t.dtype, t.shape) for t in plan.outputs] == [
        ("y", "float32", (None, None, None, 4)),
        ("z", "float32", (None, None, 2, 2)),
    ]


def test_the_model_is_left_untouched() -> None:
    frozen, free = layers.BatchNormalization(trainable=False), layers.BatchNormalization()
    lstm = layers.LSTM(UNITS, dropout=0.25, recurrent_dropout=0.5)
    model = keras.Sequential([keras.Input((STEPS, FEATURES)), frozen, free, lstm, layers.Dropout(0.3)])
    model(np.ones((2, STEPS, FEATURES), np.float32), training=True)
    before = [variable.numpy() for variable in model.variables]
    plan = make_plan(model)
    assert all(np.array_equal(v.numpy(), value) for v, value in zip(model.variables, before, strict=True))
    assert (frozen.trainable, free.trainable) == (False, True)
    assert len(model.variables) > len(model.weights)  # the generators' states were among them
    assert any(np.asarray(generator.state)[1] > 0 for generator in plan.generators)
    # Symbolic masks left in the cell's cache would end this in an error of a foreign graph.
    again = np.asarray(model(np.ones((2, STEPS, FEATURES), np.float32), training=True))
    assert np.isfinite(again).all()


def test_the_spread_of_keras_is_left_untouched() -> None:
    model = keras.Sequential([keras.Input((50,)), layers.Dropout(0.5)])
    x = np.ones((1, 50), np.float32)
    twin = keras.models.clone_model(model)
    twin.layers[-1].seed_generator.state.assign(model.layers[-1].seed_generator.state)
    make_plan(model)
    assert np.array_equal(model(x, training=True), twin(x, training=True))


def test_tensors_of_dicts_are_named_by_their_keys() -> None:
    a, b = keras.Input((3,), name="a"), keras.Input((2,), name="b")
    y, z = layers.Dense(4, name="y")(layers.Dropout(0.5)(a)), layers.Dense(1, name="z")(b)
    plan = make_plan(keras.Model({"b": b, "a": a}, {"spread": z, "level": y}))
    assert [t.name for t in plan.inputs] == ["a", "b"]
    assert [(t.name, t.shape) for t in plan.outputs] == [("level", (None, None, 4)), ("spread", (None, None, 1))]


def test_notes_name_the_layers_called_with_training_true() -> None:
    """Saving and loading keeps the flag; a call without one is stored as False, and can be told from nothing."""
    x = keras.Input((4,), name="x")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)])
    y = layers.Dropout(0.5, name="always")(inner(x), training=True)
    model = keras.Model.from_config(keras.Model(x, layers.Dropout(0.5, name="plain")(y)).get_config())
    first, second = make_plan(model).notes
    assert "whatever training=" in first
    assert "'always'" in second and "'plain'" not in second and "model.predict" in second


def test_notes_tell_that_a_baked_training_flag_is_overridden() -> None:
    x = keras.Input((4,), name="x")
    notes = make_plan(keras.Model(x, layers.Dropout(0.5)(x, training=False))).notes
    assert any("training=" in note and "a rate of 0" in note for note in notes)


class Variational(layers.Dense):
    """Noise on the kernel, drawn once a call: all rows of a batch share it."""

    def __init__(self, units: int, **options: Any) -> None:
        super().__init__(units, **options)
        self.generator = keras.random.SeedGenerator(1)

    def call(self, x: Any, training: bool = False) -> Any:
        noise = keras.random.normal(self.kernel.shape, seed=self.generator)
        return keras.ops.matmul(x, self.kernel + noise)


def test_noise_on_weights_is_refused_by_that_name() -> None:
    with pytest.raises(Refusal, match=r"layer 'dense' draws .* noise on the layer's weights \(kernel\).* batch shares"):
        _plan(Variational(2, name="dense"), shape=(4,))
