"""Models that others have published, as they lie in their packages, from the file to predictions.

The packages' code is not imported: their files are found through importlib.metadata. Two of them were written by
Keras 2, and are compared with it; the others by Keras 3, and are compared with Keras' own ``load_model``.
"""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import pipeline
from keepdrop_exporter.loading import reading

ATOL = 1e-5
GRU_MODELS = 13
# One with its batch fixed, one that answers every step, the largest; the others are like these.
GRU_ALWAYS = (0, 5, 12)

gait = pytest.mark.skipif(sys.version_info < (3, 11), reason="ao-compensation-model asks for Python 3.11")


def _files(package: str, suffix: str) -> list[Path]:
    files = importlib.metadata.files(package) or []
    return sorted(Path(str(file.locate())) for file in files if file.suffix == suffix)


def _one(package: str) -> Path:
    (file,) = _files(package, ".h5")
    return file


def _domains() -> np.ndarray:
    """Domain names, plain and made by malware, as character ids of the kind the model was trained on: 1 to 38."""
    alphabet = "abcdefghijklmnopqrstuvwxyz0123456789-."
    names = ["microsoft.com", "wikipedia.org", "squarespace.com", "xkjvqzpwrtnm.info", "9fk2lq0zzx8v1.biz"]
    ids = np.zeros((len(names), 82), np.int32)
    for row, name in enumerate(names):
        ids[row, -len(name) :] = [alphabet.index(letter) + 1 for letter in name]
    return ids


def _comments() -> np.ndarray:
    """Texts as ids of words by rank, padded in front; frequent words are frequent."""
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.zipf(1.3, (5, 100)), 19999).astype(np.float32)
    for row, length in enumerate((100, 60, 30, 12, 3)):
        ids[row, :-length] = 0
    return ids


def _flows() -> np.ndarray:
    """Features of network connections, scaled to 0 ... 1, most of them small."""
    return np.random.default_rng(0).beta(0.4, 2.0, (5, 76, 1)).astype(np.float32)


CASES = {
    "dgaintel": (_domains, "2.2.4-tf"),
    "tox-block": (_comments, "2.2.4-tf"),
    "network-intrusion-detection": (_flows, "3.4.1"),
}


@pytest.fixture(scope="module")
def by_keras_2(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """The deterministic outputs of the files that Keras 2 wrote."""
    folder = tmp_path_factory.mktemp("published")
    cases = {name: inputs for name, (inputs, version) in CASES.items() if version.startswith("2")}
    for name, inputs in cases.items():
        np.savez(folder / f"{name}.npz", path=str(_one(name)), x=inputs())
    script = Path(__file__).with_name("keras2_outputs.py")
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {name: np.load(folder / f"{name}.npy") for name in cases}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "measure_cost", lambda *args: None)


@pytest.mark.parametrize("name", CASES)
def test_published(name: str, by_keras_2: dict[str, np.ndarray], tmp_path: Path) -> None:
    inputs, version = CASES[name]
    path, x = _one(name), inputs()
    loaded = reading.read(path)
    got = np.asarray(loaded.model(x, training=False))
    expected = by_keras_2.get(name)
    if expected is None:
        expected = np.asarray(keras.models.load_model(path, compile=False)(x, training=False))
    np.testing.assert_allclose(got, expected, rtol=0, atol=ATOL)
    assert np.ptp(expected) > 1e-3
    assert any(version in change for change in loaded.changes) == version.startswith("2")

    report = keepdrop_exporter.export(path, tmp_path / "m.onnx", data=x, rows=2, samples=4)
    assert report.verified.data == "given"
    prediction = keepdrop.load(report.path).predict(x, samples=50, seed=1)
    assert prediction.mean.shape == expected.shape and (prediction.std > 0).all()
    # Dropout scatters around what the whole network says.
    np.testing.assert_allclose(prediction.mean, expected, rtol=0, atol=0.35)


def test_that_the_other_hard_sigmoid_would_be_noticed(
    by_keras_2: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    from keepdrop_exporter.loading.keras2 import descriptions

    monkeypatch.setattr(descriptions, "keras2_hard_sigmoid", keras.activations.hard_sigmoid)
    got = np.asarray(keepdrop_exporter.load(_one("tox-block"))(_comments(), training=False))
    assert np.abs(got - by_keras_2["tox-block"]).max() > 100 * ATOL


@pytest.fixture(scope="module")
def steps() -> np.ndarray:
    """Windows of 200 samples of hip angle and velocity from the package's own recording, standardised: [4, 200, 2]."""
    (file,) = [file for file in _files("ao-compensation-model", ".csv") if file.name == "test.csv"]
    recorded = np.genfromtxt(file, delimiter=";", skip_header=1, usecols=(1, 2), dtype=np.float32)
    scaled = (recorded - recorded.mean(axis=0)) / recorded.std(axis=0)
    return np.stack([scaled[start : start + 200] for start in (0, 700, 1500, 2900)])


@gait
def test_the_recording_is_what_it_should_be(steps: np.ndarray) -> None:
    assert steps.shape == (4, 200, 2) and np.isfinite(steps).all()
    assert len(_files("ao-compensation-model", ".keras")) == GRU_MODELS


@gait
@pytest.mark.parametrize(
    "number", [n if n in GRU_ALWAYS else pytest.param(n, marks=pytest.mark.nightly) for n in range(GRU_MODELS)]
)
def test_gait_model(number: int, steps: np.ndarray, tmp_path: Path) -> None:
    path = _files("ao-compensation-model", ".keras")[number]
    loaded = reading.read(path)
    stock = keras.models.load_model(path, compile=False)
    fixed = stock.inputs[0].shape[0]
    # Keras' own keeps the batch of 128 that some were saved with.
    rows = np.concatenate([steps] * ((fixed or 4) // 4))
    expected = np.asarray(stock(rows, training=False))[:4]
    np.testing.assert_allclose(np.asarray(loaded.model(steps, training=False)), expected, rtol=0, atol=ATOL)
    assert loaded.model.inputs[0].shape == (None, 200, 2)
    assert loaded.changes == (("the batch size, fixed to 128, was lifted: any number of rows",) if fixed else ())

    report = keepdrop_exporter.export(path, tmp_path / "m.onnx", data=steps, rows=2, samples=3)
    prediction = keepdrop.load(report.path).predict(steps, samples=30, seed=1)
    # The outputs are a point on the unit circle, the phase of the gait.
    assert prediction.mean.shape == expected.shape and expected.shape[-1] == 2 and (prediction.std > 0).any()
    assert np.linalg.norm(prediction.mean, axis=-1).max() <= 1 + 1e-5


@gait
def test_the_page_names_what_is_tested() -> None:
    page = (Path(__file__).parents[2] / "docs" / "loading.md").read_text(encoding="utf8")
    rows = re.findall(r"^\| ([\w-]+) ([\d.]+) \| .* \| Keras ([^|]+) \| .* \| .* \|$", page, re.MULTILINE)
    versions = {**{name: version for name, (_, version) in CASES.items()}, "ao-compensation-model": "3.13.2"}
    assert {name: version for name, _, version in rows} == versions
    assert all(importlib.metadata.version(name) == version for name, version, _ in rows)
