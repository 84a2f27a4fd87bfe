"""Streams of stateful models, against stock Keras' own stateful layers, called part by part."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import LoadError, Refusal

from . import models, reference

L = keras.layers
PART, PARTS, FEATURES = 2, 3, 3
SAMPLES, SEED, ROWS = 3, 7, [2, 2**33 + 5]
BOTH = {"dropout": 0.25, "recurrent_dropout": 0.25}
FEW = {"rows": 2, "samples": 4}


def stateful() -> keras.Model:
    """Made for batches of as many rows as there are samples here, in parts of a few steps."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input(batch_shape=(SAMPLES, PART, FEATURES), name="x"),
            L.LSTM(4, stateful=True, return_sequences=True, **BOTH),
            L.GRU(3, stateful=True, **BOTH),
            L.Dense(2, name="y"),
        ]
    )
    models.settle(model)
    return model


def stock(model: keras.Model, parts: list[NDArray[Any]], begin_anew: bool) -> Iterator[NDArray[Any]]:
    """What stateful layers answer after each part of a row, [SAMPLES, 2], under that row's masks: by row, then part."""
    found = reference.generators(model, [np.repeat(parts[0][:1], SAMPLES, axis=0)])
    counts = [draws for _, draws in found]
    recurrent = [layer for layer in model.layers if isinstance(layer, L.RNN)]
    for b, row in enumerate(ROWS):
        for i, part in enumerate(parts):
            if i == 0 or begin_anew:
                for layer in recurrent:
                    layer.reset_states()
            for k, (generator, _) in enumerate(found):
                generator.state.assign([SEED, row * sum(counts) + sum(counts[:k])])
            yield np.asarray(model(np.repeat(part[b : b + 1], SAMPLES, axis=0), training=True))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Path, keepdrop_exporter.Report]:
    folder = tmp_path_factory.mktemp("stateful")
    model = stateful()
    return model, folder, keepdrop_exporter.export(model, folder / "stream.onnx", streaming=True, **FEW)


def by_push(path: Path, parts: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """The stream's samples by row, then part."""
    stream = keepdrop.load(path, threads=1).stream(samples=SAMPLES, seed=SEED, rows=ROWS)
    pushed = [stream.push(part).samples for part in parts]
    return [samples[:, b] for b in range(len(ROWS)) for samples in pushed]


def parts() -> list[NDArray[Any]]:
    rng = np.random.default_rng(1)
    return list(rng.standard_normal((PARTS, len(ROWS), PART, FEATURES)).astype(np.float32))


def test_a_stream_goes_on_as_stateful_layers_do(case: Any) -> None:
    model, folder, report = case
    reference.assert_samples_equal(
        dict(enumerate(by_push(folder / "stream.onnx", parts()))), list(stock(model, parts(), begin_anew=False))
    )
    names = ", ".join(layer.name for layer in model.layers[:2])  # numbered by Keras, over the whole process
    assert any(f"stateful=True of {names}: the stream carries" in note for note in report.notes)
    assert all(layer.stateful for layer in model.layers[:2])  # what was given stays as it was


def test_states_that_begin_anew_would_be_noticed(case: Any) -> None:
    model, folder, _ = case
    with pytest.raises(AssertionError):
        reference.assert_samples_equal(
            dict(enumerate(by_push(folder / "stream.onnx", parts()))), list(stock(model, parts(), begin_anew=True))
        )


def test_a_file_gives_the_stream_of_the_model(case: Any, tmp_path: Path) -> None:
    model, folder, _ = case
    model.save(tmp_path / "model.keras")
    keepdrop_exporter.export(tmp_path / "model.keras", tmp_path / "stream.onnx", streaming=True, **FEW)
    for got, want in zip(
        by_push(tmp_path / "stream.onnx", parts()), by_push(folder / "stream.onnx", parts()), strict=True
    ):
        np.testing.assert_array_equal(got, want)
    keepdrop_exporter.verify(tmp_path / "model.keras", folder / "stream.onnx", **FEW)


def test_dropout_may_be_set_on_the_way(tmp_path: Path) -> None:
    x = keras.Input(batch_shape=(4, 1, FEATURES), name="x")
    model = keras.Model(x, L.Dense(1, name="y")(L.LSTM(3, stateful=True, name="memory")(x)))
    rates = {"memory.recurrent": 0.3}
    report = keepdrop_exporter.export(model, tmp_path / "s.onnx", streaming=True, dropout=rates, **FEW)
    assert any("memory" in change and "0.3" in change for change in report.metadata.changes)


def test_layers_that_begin_anew_in_keras_are_named(tmp_path: Path) -> None:
    x = keras.Input(batch_shape=(4, PART, FEATURES), name="x")
    h = L.GRU(3, return_sequences=True, name="forgetful")(L.LSTM(3, stateful=True, return_sequences=True, **BOTH)(x))
    report = keepdrop_exporter.export(keras.Model(x, h), tmp_path / "s.onnx", streaming=True, **FEW)
    assert any("carries the states of forgetful too" in note for note in report.notes)


def test_a_plain_export_names_the_stream(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="'lstm.*' is stateful.*--streaming"):
        keepdrop_exporter.export(stateful(), tmp_path / "plain.onnx")


class OfItsOwn(L.Layer):
    """Makes its layer itself, stateful whatever a configuration says."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.memory = L.LSTM(3, stateful=True, name="memory", **BOTH)

    def build(self, shape: Any) -> None:
        self.memory.build(shape)

    def call(self, x: Any) -> Any:
        return self.memory(x)


def test_a_class_that_makes_its_own_stateful_layer_is_refused_by_that_layer(tmp_path: Path) -> None:
    x = keras.Input(batch_shape=(4, PART, FEATURES), name="x")
    model = keras.Model(x, OfItsOwn()(x))
    with pytest.raises(LoadError, match="'memory' is stateful.*build it with stateful=False"):
        keepdrop_exporter.export(model, tmp_path / "s.onnx", streaming=True)
