"""Classes that force ``training=True``, in the forms that circulate: exported as they are, fast and exact."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from keras import layers as L

import keepdrop
import keepdrop_exporter
from keepdrop_exporter.loading.buildable import buildable

from . import models, reference

ROWS = [2, 2**33 + 5]
RATES = {"dropout": 0.3, "recurrent_dropout": 0.2}


class InputsAlone(L.LSTM):
    def call(self, inputs):
        return super().call(inputs, training=True)


class InputsAndKeywords(L.GRU):
    def call(self, inputs, **kwargs):
        return super().call(inputs, training=True)


class InputsAndTraining(L.LSTM):
    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


class Anything(L.SimpleRNN):
    def call(self, *args, **kwargs):
        kwargs["training"] = True
        return super().call(*args, **kwargs)


class EveryArgument(L.LSTM):
    def call(self, sequences, initial_state=None, mask=None, training=False):
        return super().call(sequences, initial_state=initial_state, mask=mask, training=True)


class OtherOrder(L.LSTM):
    def call(self, inputs, training=True, mask=None, initial_state=None):
        return super().call(inputs, mask=mask, training=True, initial_state=initial_state)


class SequencesAlone(L.GRU):
    def call(self, sequences):
        return super().call(sequences, training=True)


class Twice(L.LSTM):
    """Not a mere pass-through, but the loop is still the one that Keras' own call runs."""

    def call(self, sequences, initial_state=None, mask=None, training=False):
        return 2.0 * super().call(sequences, initial_state=initial_state, mask=mask, training=True)


class DropsInputs(L.Dropout):
    def call(self, inputs):
        return super().call(inputs, training=True)


class DropsAnything(L.Dropout):
    def call(self, *args, **kwargs):
        kwargs["training"] = True
        return super().call(*args, **kwargs)


class DropsAlpha(L.AlphaDropout):
    def call(self, inputs, **kwargs):
        return super().call(inputs, training=True)


FITTING = [EveryArgument, Twice, DropsInputs, DropsAlpha, L.LSTM, L.Dropout, keepdrop_exporter.MonteCarloLSTM]
OTHERS = [InputsAlone, InputsAndKeywords, InputsAndTraining, Anything, OtherOrder, SequencesAlone, DropsAnything]
OURS = [
    keepdrop_exporter.MonteCarloLSTM,
    keepdrop_exporter.MonteCarloGRU,
    keepdrop_exporter.MonteCarloSimpleRNN,
    keepdrop_exporter.MonteCarloDropout,
]


def _model(cls: Any, *, bidirectional: bool = False, masked: bool = False) -> keras.Model:
    keras.utils.set_random_seed(6)
    made = buildable(cls)
    layer = made(4, **RATES) if issubclass(cls, L.RNN) else made(0.4)
    if bidirectional:
        with keras.saving.custom_object_scope({cls.__name__: made}):
            layer = L.Bidirectional(layer)
    before = [L.Masking()] if masked else []
    model = keras.Sequential([keras.Input((6, 3), name="x"), *before, layer, L.Flatten(), L.Dense(2, name="y")])
    models.settle(model)
    return model


def _check(model: keras.Model, path: Path) -> None:
    """Export a model, and hold what it samples against stock Keras."""
    keepdrop_exporter.export(model, path, rows=2, samples=2)
    x = models.inputs(model, batch=2)
    expected = reference.samples(model, x, ROWS, 6, seed=7)
    reference.assert_samples_equal(keepdrop.load(path).sample(x[0], samples=6, seed=7, rows=ROWS), expected)
    assert np.ptp(expected[0], axis=0).max() > 1e-2


def _operators(path: Path) -> set[str]:
    return {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("cls", [*OTHERS, Twice, DropsInputs, DropsAlpha, *OURS[:2]])
def test_exports_as_it_is(cls: Any, tmp_path: Path) -> None:
    model = _model(cls)
    x = models.inputs(model, batch=2)[0]
    assert not np.array_equal(*(model.predict(x, verbose=0) for _ in range(2)))
    _check(model, tmp_path / "m.onnx")
    # Recognised as Keras' recurrence: otherwise it would be tf2onnx' loop over the steps, as in the test below.
    assert "Loop" not in _operators(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("cls", "form"),
    [(InputsAlone, {"bidirectional": True}), (EveryArgument, {"masked": True}), (InputsAlone, {"masked": True})],
)
def test_in_other_places(cls: Any, form: dict[str, bool], tmp_path: Path) -> None:
    _check(_model(cls, **form), tmp_path / "m.onnx")


def test_a_stock_layer_is_not_random_in_predict() -> None:
    model = _model(L.LSTM)
    x = models.inputs(model, batch=2)[0]
    np.testing.assert_array_equal(*(model.predict(x, verbose=0) for _ in range(2)))


class OwnLoop(L.LSTM):
    """Uses the states of the loop, which a lowered one has only where Keras' call returns them."""

    def inner_loop(self, sequences, initial_state, mask, training=False):
        last, outputs, states = super().inner_loop(sequences, initial_state, mask, training)
        return last + states[1], outputs, states


def test_a_loop_of_its_own_falls_back(tmp_path: Path) -> None:
    _check(_model(OwnLoop), tmp_path / "m.onnx")
    assert "Loop" in _operators(tmp_path / "m.onnx")


@pytest.mark.parametrize("cls", FITTING)
def test_what_keras_builds_is_left_alone(cls: Any) -> None:
    assert buildable(cls) is cls


@pytest.mark.parametrize("thing", [dict, Path, L.Layer, keras.Model])
def test_what_is_no_layer_of_keras_is_left_alone(thing: Any) -> None:
    assert buildable(thing) is thing


@pytest.mark.parametrize("cls", OTHERS)
def test_keras_does_not_build_the_others(cls: Any) -> None:
    """Otherwise there would be nothing to cure."""
    with pytest.raises((ValueError, TypeError)):
        keras.Sequential([keras.Input((6, 3)), cls(4) if issubclass(cls, L.RNN) else cls(0.4)])
    assert buildable(cls).__name__ == cls.__name__ and issubclass(buildable(cls), cls)


@pytest.mark.parametrize("cls", OURS)
def test_ours_are_loaded_by_name(cls: Any, tmp_path: Path) -> None:
    _model(cls).save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert type(loaded.layers[0]) is cls
    x = models.inputs(loaded, batch=2)[0]
    assert not np.array_equal(*(loaded.predict(x, verbose=0) for _ in range(2)))


def test_a_file_that_names_a_class_of_keras_2(tmp_path: Path) -> None:
    """``load`` makes the class buildable that it is given."""
    _model(InputsAlone).save(tmp_path / "m.keras")
    loaded = keepdrop_exporter.load(tmp_path / "m.keras", custom_objects={"InputsAlone": InputsAlone})
    assert isinstance(loaded.layers[0], InputsAlone)
    _check(loaded, tmp_path / "m.onnx")
