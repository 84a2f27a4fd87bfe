from __future__ import annotations

import dataclasses
import functools
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import keras
import numpy as np
import pytest

import keepdrop
import keepdrop_exporter

from . import models, reference

RUNTIME = Path(__file__).resolve().parents[2] / "runtime"

OLD_ONNXRUNTIME = "1.16.3"
# onnxruntime 1.16 was built against NumPy 1, and its wheels end with Python 3.11.
REQUIREMENTS = [f"onnxruntime=={OLD_ONNXRUNTIME}", "numpy<2", "click", "setuptools>=77", "wheel"]
PYTHONS = ["python3.11", "python3.10", "python3.9"]


@pytest.fixture(scope="session")
def old_python(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, made_once: Callable[..., Path]
) -> Path:
    """The interpreter of an environment with onnxruntime 1.16.3 and the runtime as a device installs it."""
    if request.config.getoption("--skip-old-onnxruntime") and not os.environ.get("CI"):
        pytest.skip("--skip-old-onnxruntime")
    base = _base_python()
    if base is None:
        pytest.fail(
            f"onnxruntime {OLD_ONNXRUNTIME} needs Python 3.9 to 3.11 and none of {', '.join(PYTHONS)} runs here; "
            "install one, or pass --skip-old-onnxruntime (CI does not honour it)",
            pytrace=False,
        )
    python = _environment(base, request.config.cache.mkdir("old-onnxruntime"))
    made_once("old-onnxruntime", lambda done: _install_runtime(python, tmp_path_factory, done))
    return python


def _install_runtime(python: Path, tmp_path_factory: pytest.TempPathFactory, done: Path) -> None:
    # A copy, because setuptools leaves a build folder whose stale files a later build would pick up.
    source = shutil.copytree(
        RUNTIME, tmp_path_factory.mktemp("source") / "runtime", ignore=shutil.ignore_patterns("build", "*.egg-info")
    )
    _run(python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--force-reinstall", source)
    done.touch()


def _base_python() -> str | None:
    if (3, 9) <= sys.version_info[:2] <= (3, 11):
        return sys.executable
    # A version manager's shim can be on PATH and start nothing.
    found = (shutil.which(name) for name in PYTHONS)
    return next((path for path in found if path and _starts(path)), None)


def _starts(python: str) -> bool:
    return subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True).returncode == 0


def _environment(base: str, cache: Path) -> Path:
    tag = subprocess.run(
        [base, "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"], capture_output=True, text=True, check=True
    )
    folder = cache / f"{OLD_ONNXRUNTIME}-python{tag.stdout.strip()}"
    python = folder / "bin" / "python"
    complete = folder / "complete"
    with filelock.FileLock(cache / "lock"):
        _make_environment(base, folder, python, complete)
    return python


def _make_environment(base: str, folder: Path, python: Path, complete: Path) -> None:
    if not complete.exists():
        _run(base, "-m", "venv", "--clear", folder)
        _run(python, "-m", "pip", "install", "-q", *REQUIREMENTS)
        for library in folder.glob("lib/python*/site-packages/onnxruntime/capi/*.so"):
            _clear_executable_stack(library)
        complete.touch()


def _clear_executable_stack(library: Path) -> None:
    """Take the request for an executable stack out of a 64-bit little-endian ELF file.

    That wheel's extension asks for one by a linker's oversight, and glibc 2.41 and later refuse to load such a library.
    """
    stack_segment, executable = 0x6474E551, 1
    content = bytearray(library.read_bytes())
    if content[:6] != b"\x7fELF\x02\x01":
        return
    (table,) = struct.unpack_from("<Q", content, 32)
    size, count = struct.unpack_from("<HH", content, 54)
    for header in range(table, table + size * count, size):
        kind, flags = struct.unpack_from("<II", content, header)
        if kind == stack_segment and flags & executable:
            struct.pack_into("<I", content, header + 4, flags & ~executable)
            library.write_bytes(content)


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"{' '.join(map(str, command))}\n{done.stdout}{done.stderr}", pytrace=False)


@dataclasses.dataclass(frozen=True)
class Exported:
    """An artifact, the model it was made from, and inputs [B, ...] in the order of ``model.inputs``."""

    path: Path
    keras_model: keras.Model
    inputs: list[np.ndarray]

    @functools.cached_property
    def model(self) -> keepdrop.Model:
        return keepdrop.load(self.path, threads=1)

    def sample(self, inputs: list[np.ndarray] | None = None, **options: Any) -> Any:
        """Samples drawn by the runtime; options as those of ``keepdrop.Model.sample``."""
        arrays = self.inputs if inputs is None else inputs
        return self.model.sample(
            {t.name: a for t, a in zip(self.model.metadata.inputs, arrays, strict=True)}, **options
        )

    def reference(self, inputs: list[np.ndarray] | None = None, *, rows: list[int], samples: int, seed: int) -> Any:
        """The same from stock Keras: a list by output."""
        return reference.samples(self.keras_model, self.inputs if inputs is None else inputs, rows, samples, seed)


@pytest.fixture(scope="session")
def exported(made_once: Callable[..., Path]) -> Callable[[str], Exported]:
    """Gives the artifact of a model of ``models.MODELS``, exported once a session."""

    @functools.cache
    def exported(name: str) -> Exported:
        model = models.build(name)
        file = f"model-{list(models.MODELS).index(name)}.onnx"
        path = made_once(file, lambda path: keepdrop_exporter.export(model, path))
        return Exported(path, model, models.inputs(model, batch=3))

    return exported


@dataclasses.dataclass(frozen=True)
class Forecaster:
    """An artifact on disk with inputs [B, 9, 3], and what the reference draws from them: [T, B, 2]."""

    path: Path
    x: np.ndarray
    samples: np.ndarray
    seed: int


@pytest.fixture(scope="session")
def exported_forecaster(exported: Callable[[str], Exported]) -> Forecaster:
    """LSTM(dropout, recurrent_dropout) and Dense(2)."""
    forecaster, seed = exported("LSTM both"), 7
    (samples,) = forecaster.reference(rows=[0, 1, 2], samples=11, seed=seed)
    return Forecaster(forecaster.path, forecaster.inputs[0], samples, seed)
