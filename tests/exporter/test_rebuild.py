"""The same model gives the same file: what saved streams and calibrations bind to survives a rebuild."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from keras import layers as L
from tests.contract import reference

import keepdrop
import keepdrop_exporter
from keepdrop import replay
from keepdrop.artifact import METADATA_KEY, numbers_digest, with_properties
from keepdrop_exporter.formats import large_constants

MEASURED = ("cost", "verified")

AGAIN = """
import sys
import keepdrop_exporter
keepdrop_exporter.export(sys.argv[1], sys.argv[2], rows=1, samples=2)
"""


def build() -> keras.Model:
    """A loop under masks, whose layers bear other names each time."""
    lstm = L.LSTM(3, dropout=0.3, recurrent_dropout=0.3)
    return keras.Sequential([keras.Input((4, 3), name="x"), lstm, L.Dense(2, name="y")])


def unmeasured(path: Path) -> bytes:
    """The file without what is measured anew at each export."""
    data = path.read_bytes()
    (text,) = (entry.value for entry in onnx.load(path).metadata_props if entry.key == METADATA_KEY)
    fields = {key: value for key, value in json.loads(text).items() if key not in MEASURED}
    return with_properties(data, {METADATA_KEY: json.dumps(fields)})


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's file, and beside it ``first.onnx``, exported from that."""
    source = tmp_path_factory.mktemp("rebuild") / "model.keras"
    build().save(source)
    keepdrop_exporter.export(source, source.with_name("first.onnx"), rows=1, samples=2)
    return source


def test_exported_twice_it_is_the_same_file(first: Path, tmp_path: Path) -> None:
    keepdrop_exporter.export(first, tmp_path / "second.onnx", rows=1, samples=2)
    assert unmeasured(tmp_path / "second.onnx") == unmeasured(first.with_name("first.onnx"))


def test_another_process_writes_the_same_file(first: Path, tmp_path: Path) -> None:
    """Where sets of names have another order."""
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", AGAIN, str(first), str(tmp_path / "third.onnx")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert unmeasured(tmp_path / "third.onnx") == unmeasured(first.with_name("first.onnx"))


def test_the_digest_knows_the_numbers_and_no_names(first: Path, tmp_path: Path) -> None:
    model, again = keras.models.load_model(first), build()
    again.set_weights(model.get_weights())
    assert again.layers[0].name != model.layers[0].name
    keepdrop_exporter.export(again, tmp_path / "again.onnx", rows=1, samples=2)
    digest = numbers_digest(first.with_name("first.onnx").read_bytes())
    assert numbers_digest((tmp_path / "again.onnx").read_bytes()) == digest
    again.layers[1].bias.assign([0.0, 1e-7])
    keepdrop_exporter.export(again, tmp_path / "other.onnx", rows=1, samples=2)
    assert numbers_digest((tmp_path / "other.onnx").read_bytes()) != digest


def test_a_tensor_of_the_models_own_keeps_its_name(tmp_path: Path) -> None:
    """Also where it is such a name as the export gives."""
    x = keras.Input((4,), name="Mul_1")
    model = keras.Model(x, L.Dropout(0.5, name="constant_0")(L.Dense(3)(x)))
    keepdrop_exporter.export(model, tmp_path / "m.onnx", rows=1, samples=2)
    graph = onnx.load(tmp_path / "m.onnx").graph
    assert graph.input[0].name == "Mul_1" and [y.name for y in graph.output] == ["constant_0"]


WIDE = {
    "products": lambda x: L.Dense(5)(L.EinsumDense("abc,cd->abd", (None, 4))(x)),
    "a convolution": lambda x: L.Conv1D(4, 3, padding="causal")(L.SeparableConv1D(4, 2)(x)),
    "pictures": lambda x: L.Conv2DTranspose(2, 3)(L.DepthwiseConv2D(2)(L.Conv2D(4, 2)(L.Reshape((6, 3, 1))(x)))),
    "normalised": lambda x: L.LayerNormalization()(L.BatchNormalization()(x)),
    "attention": lambda x: L.MultiHeadAttention(2, 3)(x, x),
    "recurrent": lambda x: L.GRU(4)(L.LSTM(4, dropout=0.2, recurrent_dropout=0.2, return_sequences=True)(x)),
}


@pytest.mark.parametrize("name", WIDE)
def test_constants_of_any_size_are_kept_out_of_the_conversion(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every constant counts as large here; their numbers come back as they were."""
    monkeypatch.setattr(large_constants, "LEAST_BYTES", 0)
    x = keras.Input((6, 3), name="x")
    model = keras.Model(x, L.Flatten(name="y")(L.Dropout(0.4)(WIDE[name](x))))
    keepdrop_exporter.export(model, tmp_path / "m.onnx", rows=1, samples=2)
    given = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
    drawn = keepdrop.load(tmp_path / "m.onnx", threads=1).sample(given, samples=3, seed=5)
    reference.assert_samples_equal(drawn, reference.samples(model, [given], [0, 1], 3, seed=5))


def test_two_large_constants_changing_places_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_constants, "LEAST_BYTES", 0)
    freeze = large_constants.freeze

    def swapped(function: object) -> large_constants.Frozen:
        frozen = freeze(function)
        one, other = [name for name, array in frozen.large.items() if array.shape == (3, 3)]
        frozen.large[one], frozen.large[other] = frozen.large[other], frozen.large[one]
        return frozen

    monkeypatch.setattr(large_constants, "freeze", swapped)
    model = keras.Sequential([keras.Input((3,), name="x"), L.Dense(3, "tanh"), L.Dropout(0.4), L.Dense(3)])
    with pytest.raises(keepdrop_exporter.VerifyError, match="differs from Keras"):
        keepdrop_exporter.export(model, tmp_path / "m.onnx")


@pytest.mark.parametrize("streaming", [False, True])
def test_vectors_come_with_the_export(first: Path, tmp_path: Path, streaming: bool) -> None:
    path, folder = tmp_path / "m.onnx", tmp_path / "vectors"
    keepdrop_exporter.export(first, path, streaming=streaming, vectors=folder, rows=1, samples=2)
    results = replay.check_vectors(keepdrop.load(path, threads=1)._session, folder)
    assert len({result.call for result in results}) == (3 if streaming else 6) and replay.worst_of(results) is None
    with pytest.raises(keepdrop.InputError, match="vectors is there already"):
        keepdrop_exporter.export(first, path, vectors=folder)
    with pytest.raises(keepdrop_exporter.ExportError, match="vectors are of an ONNX file"):
        keepdrop_exporter.export(first, tmp_path / "saved", vectors=tmp_path / "other")
