"""Stage 1: what cannot be loaded is said in one sentence that tells what to do."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import keras
import pytest
from keras import layers

import keepdrop_exporter
from keepdrop_exporter import LoadError, Report


class Unregistered(keras.layers.Layer):
    def call(self, x: object) -> object:
        return x


def _save(path: Path, *stack: layers.Layer) -> Path:
    keras.Sequential([keras.Input((3,), name="x"), *stack, layers.Dropout(0.5)]).save(path)
    return path


def _missing(folder: Path) -> Path:
    return folder / "none.keras"


def _suffix(folder: Path) -> Path:
    (folder / "model.pb").write_bytes(b"")
    return folder / "model.pb"


def _no_zip(folder: Path) -> Path:
    (folder / "model.keras").write_bytes(b"this is no zip archive")
    return folder / "model.keras"


def _no_hdf5(folder: Path) -> Path:
    (folder / "model.h5").write_bytes(b"this is no HDF5 file")
    return folder / "model.h5"


def _cut_short(folder: Path) -> Path:
    path = _save(folder / "model.keras", layers.Dense(3))
    path.write_bytes(path.read_bytes()[:-2000])
    return path


def _weights_alone(folder: Path) -> Path:
    keras.Sequential([keras.Input((3,)), layers.Dense(3)]).save_weights(folder / "model.weights.h5")
    return folder / "model.weights.h5"


def _lambda(suffix: str) -> Callable[[Path], Path]:
    return lambda folder: _save(folder / f"model{suffix}", layers.Lambda(lambda x: 2 * x))


def _unregistered(suffix: str) -> Callable[[Path], Path]:
    return lambda folder: _save(folder / f"model{suffix}", Unregistered())


CASES = {
    "missing": (_missing, ["there is no such file"]),
    "wrong suffix": (_suffix, [".keras, .h5", "model.save('name.keras')"]),
    "no zip": (_no_zip, ["it is damaged, or no .keras file", "save the model again"]),
    "no HDF5": (_no_hdf5, ["Keras cannot load it", "save it again with model.save('name.keras')"]),
    "cut short": (_cut_short, ["it is damaged, or no .keras file", "save the model again"]),
    "weights alone": (_weights_alone, ["Keras cannot load it", "save it again with model.save('name.keras')"]),
    "Lambda in .keras": (_lambda(".keras"), ["Lambda layer", "replace it by a layer of its own class"]),
    "Lambda in .h5": (_lambda(".h5"), ["Lambda layer", "replace it by a layer of its own class"]),
    "unregistered in .keras": (_unregistered(".keras"), ["Unregistered", "custom_objects", "pass the object"]),
    "unregistered in .h5": (_unregistered(".h5"), ["Unregistered", "custom_objects", "pass the object"]),
}


@pytest.mark.parametrize("case", CASES)
def test_the_text_names_the_file_and_the_cure(
    case: str, tmp_path: Path, target: Path, untouched: Callable[[], None]
) -> None:
    make, phrases = CASES[case]
    path = make(tmp_path)
    with pytest.raises(LoadError) as caught:
        keepdrop_exporter.export(path, target)
    text = str(caught.value)
    assert text.startswith(f"{path}: ") and "\n" not in text
    assert [phrase for phrase in phrases if phrase not in text] == []
    untouched()


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.keras").mkdir()
    with pytest.raises(LoadError, match="there is no such file"):
        keepdrop_exporter.export(tmp_path / "folder.keras", tmp_path / "model.onnx")


def test_the_file_is_named_by_its_hash(forecaster: Report, forecaster_file: Path) -> None:
    assert forecaster.metadata.source_sha256 == hashlib.sha256(forecaster_file.read_bytes()).hexdigest()
