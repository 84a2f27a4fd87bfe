from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import keepdrop_exporter
from keepdrop_exporter import LoadError, Report

OLDER = b"an older artifact"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """The name of an artifact to be, in a folder of its own where an older file has that name."""
    folder = tmp_path / "target"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(OLDER)
    return folder / "model.onnx"


@pytest.fixture
def untouched(target: Path) -> Callable[[], None]:
    """Fails unless the older file is as it was and nothing lies beside it."""

    def untouched() -> None:
        assert target.read_bytes() == OLDER
        assert list(target.parent.iterdir()) == [target]

    return untouched


@pytest.fixture
def refuses(target: Path, untouched: Callable[[], None]) -> Callable[..., None]:
    """Fails unless a file's export is refused in one sentence that names the file and has the phrases, or is a text."""

    def refuses(path: Path, phrases: list[str] | str, **options: object) -> None:
        with pytest.raises(LoadError) as caught:
            keepdrop_exporter.export(path, target, **options)
        text = str(caught.value)
        assert text.startswith((f"{path}: ", f"{options.get('weights')}: ")) and "\n" not in text
        if isinstance(phrases, str):
            assert text == f"{path}: {phrases}"
        assert [phrase for phrase in phrases if phrase not in text] == []
        untouched()

    return refuses


@pytest.fixture(scope="session")
def forecaster_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A .keras file: an LSTM with both dropouts on windows of 9 steps of 3, and Dense(2)."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((9, 3), name="window"),
            layers.LSTM(5, dropout=0.25, recurrent_dropout=0.5, name="lstm"),
            layers.Dense(2, name="forecast"),
        ]
    )
    path = tmp_path_factory.mktemp("keras") / "forecaster.keras"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def forecaster(forecaster_file: Path) -> Report:
    """What exporting that file gave; 12 samples by default."""
    return keepdrop_exporter.export(forecaster_file, forecaster_file.with_suffix(".onnx"), default_samples=12)


@dataclasses.dataclass(frozen=True)
class Sentence:
    """A model of two inputs of unlike dtypes, one of any length, and its artifact."""

    model: keras.Model
    report: Report
    data: dict[str, np.ndarray]


@pytest.fixture(scope="session")
def sentence(tmp_path_factory: pytest.TempPathFactory) -> Sentence:
    keras.utils.set_random_seed(2)
    words = keras.Input((None,), dtype="int32", name="words")
    extra = keras.Input((4,), name="extra")
    read = layers.GRU(3, dropout=0.3, name="gru")(layers.Embedding(11, 4, name="embedding")(words))
    joined = layers.Concatenate(name="joined")([read, layers.GaussianNoise(0.5, name="noise")(extra)])
    outputs = [layers.Dense(2, name="mood")(joined), layers.Dense(1, name="length")(read)]
    model = keras.Model([words, extra], outputs, name="sentence")
    report = keepdrop_exporter.export(model, tmp_path_factory.mktemp("sentence") / "sentence.onnx")
    rng = np.random.default_rng(0)
    data = {"words": rng.integers(0, 11, (6, 8)), "extra": rng.standard_normal((6, 4)).astype(np.float32)}
    return Sentence(model, report, data)
