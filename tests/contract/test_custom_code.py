"""Models whose layers are their owners' own: what reaches them, what is refused, what is left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keepdrop
import keepdrop_exporter
from keepdrop_exporter.trace import loops

from . import reference

L = keras.layers
ROWS = [2, 2**33 + 5]


class Block(L.Layer):
    """Calls a dropout without passing ``training`` on, as most custom layers do: Keras hands it down by itself."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.drop = L.Dropout(0.5)

    def call(self, x: Any) -> Any:
        return self.drop(x)


class LastState(L.LSTM):
    """Gives the cell state in place of the output."""

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:
        state = self.get_initial_state(keras.ops.shape(sequences)[0])
        self._maybe_config_dropout_masks(self.cell, sequences[:, 0], state)
        carry = self.inner_loop(sequences, state, mask, training)[2][1]
        self._maybe_reset_dropout_masks(self.cell)
        return carry


def sequential(*layers: Any, shape: tuple[int | None, ...] = (6, 3)) -> keras.Model:
    return keras.Sequential([keras.Input(shape, name="x"), *layers])


def with_explicit_mask() -> keras.Model:
    x = keras.Input((6, 3), name="x")
    inner = keras.Sequential([keras.Input((6, 3)), L.LSTM(5, dropout=0.3)])
    return keras.Model(x, inner(x, mask=keras.ops.any(keras.ops.greater(x, 0.0), axis=-1)))


def reshaped() -> keras.Model:
    x = keras.Input((6, 3), name="x")
    h = L.Dense(3)(L.Dropout(0.5)(keras.ops.reshape(x, (-1, 3))))
    return keras.Model(x, keras.ops.reshape(h, (-1, 6, 3)))


def of_integers() -> keras.Model:
    x = keras.Input((6,), dtype="int32", name="x")
    inner = keras.Sequential([keras.Input((6,)), L.Dense(4), L.Dropout(0.5)])
    return keras.Model(x, inner(x))


MODELS = {
    "training handed down": lambda: sequential(L.Flatten(), Block(), L.Dense(2)),
    "in a nested model": lambda: sequential(L.Flatten(), sequential(L.Dense(4), Block(), shape=(18,)), L.Dense(2)),
    "explicit mask to a nested model": with_explicit_mask,
    "batch joined with time": reshaped,
    "another dtype for a nested model": of_integers,
    "LSTM that gives its state": lambda: sequential(LastState(4, recurrent_dropout=0.3)),
    "fused hard_sigmoid": lambda: sequential(L.LSTM(4, activation="hard_sigmoid"), L.Dropout(0.5)),
}


@pytest.mark.parametrize("name", MODELS)
def test_samples_are_those_of_stock_keras(name: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(2)
    model = MODELS[name]()
    keepdrop_exporter.export(model, tmp_path / "m.onnx", samples=5)
    x = np.random.default_rng(0).normal(size=(2, *model.inputs[0].shape[1:])).astype(model.inputs[0].dtype)
    expected = reference.samples(model, [x], ROWS, 5, seed=7)
    artifact = keepdrop.load(tmp_path / "m.onnx")
    reference.assert_samples_equal(artifact.sample(x, samples=5, seed=7, rows=ROWS), expected)


@pytest.mark.parametrize("masking", [L.Masking(-1.0), L.Embedding(1000, 3, mask_zero=True)], ids=["values", "ids"])
def test_verify_meets_masks(masking: L.Layer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (6,) if isinstance(masking, L.Embedding) else (6, 3)
    model = sequential(masking, L.LSTM(4, recurrent_dropout=0.3), shape=shape)
    keepdrop_exporter.export(model, tmp_path / "m.onnx")
    lower = loops.Recurrences._lower
    monkeypatch.setattr(
        loops.Recurrences,
        "_lower",
        lambda self, original, layer, x, mask, *rest: lower(self, original, layer, x, None, *rest),
    )
    with pytest.raises(keepdrop_exporter.VerifyError, match="differs from Keras"):
        keepdrop_exporter.export(model, tmp_path / "m.onnx")


def _foreign() -> keras.Model:
    generator = keras.random.SeedGenerator(5)
    return sequential(L.Lambda(lambda t: keras.random.dropout(t, 0.5, seed=generator)), L.Dropout(0.1))


class Float64(L.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.generator = keras.random.SeedGenerator(1)

    def call(self, x: Any) -> Any:
        return x + keras.ops.cast(
            keras.random.normal(keras.ops.shape(x), dtype="float64", seed=self.generator), x.dtype
        )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (_foreign, "a generator that no layer owns"),
        (lambda: sequential(Float64()), "of dtype float64; the contract is of float32"),
    ],
)
def test_what_is_refused(make: Any, text: str, tmp_path: Path) -> None:
    with pytest.raises(keepdrop_exporter.Refusal, match=text):
        keepdrop_exporter.export(make(), tmp_path / "m.onnx")


def test_a_variable_frozen_alone_stays_so(tmp_path: Path) -> None:
    norm = L.BatchNormalization()
    model = sequential(L.Flatten(), norm, L.Dropout(0.5))
    norm.gamma.trainable = False
    keepdrop_exporter.export(model, tmp_path / "m.onnx")
    assert norm.trainable and not norm.gamma.trainable and norm.beta.trainable


def test_a_boolean_output(tmp_path: Path) -> None:
    x = keras.Input((3,), name="x")
    y = L.Dropout(0.5)(x)
    keepdrop_exporter.export(keras.Model(x, [y, keras.ops.greater(y, 0.3)]), tmp_path / "m.onnx")
    assert keepdrop.load(tmp_path / "m.onnx").metadata.outputs[1].dtype == "bool"
