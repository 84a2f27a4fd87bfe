from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keepdrop
import keepdrop_exporter

from . import reference

SAMPLE = """
import sys
import numpy as np
import onnxruntime
import keepdrop

artifact, x, samples, seed, out = sys.argv[1:]
assert onnxruntime.__version__ == "1.16.3", onnxruntime.__version__
model = keepdrop.load(artifact)
np.save(out, model.sample(np.load(x), samples=int(samples), seed=int(seed)))
"""

PUSH = """
import sys
import numpy as np
import onnxruntime
import keepdrop

artifact, x, samples, seed, out = sys.argv[1:]
assert onnxruntime.__version__ == "1.16.3", onnxruntime.__version__
x = np.load(x)
stream = keepdrop.load(artifact).stream(samples=int(samples), seed=int(seed), rows=range(len(x)))
pushed = [stream.push(part).samples for part in np.split(x, [1, 2, 5], axis=1)]
np.save(out, np.concatenate(pushed, axis=2))
"""


@pytest.fixture(scope="module")
def old_samples(old_python: Path, exported_forecaster: Any, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The reference's samples, drawn again under onnxruntime 1.16.3; [T, B, 2]."""
    forecaster = exported_forecaster
    folder, samples = tmp_path_factory.mktemp("old"), len(forecaster.samples)
    return _run(old_python, SAMPLE, forecaster.path, forecaster.x, samples, forecaster.seed, folder)


def _run(python: Path, script: str, artifact: Path, x: np.ndarray, samples: int, seed: int, folder: Path) -> np.ndarray:
    np.save(folder / "x.npy", x)
    arguments = [artifact, folder / "x.npy", samples, seed, folder / "out.npy"]
    # -I keeps this process' PYTHONPATH, and with it the newest packages, out.
    done = subprocess.run([python, "-I", "-c", script, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "out.npy")


def test_equal_to_the_newest_onnxruntime(old_samples: np.ndarray, exported_forecaster: Any) -> None:
    model = keepdrop.load(exported_forecaster.path)
    new = model.sample(exported_forecaster.x, samples=len(old_samples), seed=exported_forecaster.seed)
    # The same graph and masks; only the order in which the kernels sum has changed.
    np.testing.assert_allclose(old_samples, new, rtol=0, atol=1e-6)


def test_equal_to_the_reference(old_samples: np.ndarray, exported_forecaster: Any) -> None:
    # The tolerance that `verify` demands of every artifact.
    np.testing.assert_allclose(old_samples, exported_forecaster.samples, rtol=1e-4, atol=1e-5)


def test_another_seed_would_be_noticed(old_samples: np.ndarray, exported_forecaster: Any) -> None:
    model = keepdrop.load(exported_forecaster.path)
    other = model.sample(exported_forecaster.x, samples=len(old_samples), seed=exported_forecaster.seed + 1)
    assert np.abs(old_samples - other).max() > 1e-3


def test_a_stream_equals_the_reference(old_python: Path, tmp_path: Path) -> None:
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.LSTM(4, dropout=0.25, recurrent_dropout=0.25, return_sequences=True),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(2),
    ]
    model = keras.Sequential([keras.Input((6, 3)), *layers])
    keepdrop_exporter.export(model, tmp_path / "stream.onnx", streaming=True)
    x = np.random.default_rng(0).standard_normal((2, 6, 3)).astype(np.float32)
    pushed = _run(old_python, PUSH, tmp_path / "stream.onnx", x, 5, 7, tmp_path)
    reference.assert_samples_equal(pushed, reference.samples(model, [x], [0, 1], 5, seed=7))
