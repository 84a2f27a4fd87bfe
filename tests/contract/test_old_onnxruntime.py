from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import keepdrop

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


@pytest.fixture(scope="module")
def old_samples(old_python: Path, exported_forecaster: Any, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The reference's samples, drawn again under onnxruntime 1.16.3; [T, B, 2]."""
    folder = tmp_path_factory.mktemp("old")
    np.save(folder / "x.npy", exported_forecaster.x)
    samples = len(exported_forecaster.samples)
    arguments = [exported_forecaster.path, folder / "x.npy", samples, exported_forecaster.seed, folder / "out.npy"]
    # -I keeps this process' PYTHONPATH, and with it the newest packages, out.
    done = subprocess.run([old_python, "-I", "-c", SAMPLE, *map(str, arguments)], capture_output=True, text=True)
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
