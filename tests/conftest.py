from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--skip-old-onnxruntime",
        action="store_true",
        help="skip the tests that need Python 3.9 to 3.11 for onnxruntime 1.16.3; has no effect where CI is set",
    )


def pytest_configure() -> None:
    # A shell starts what runs in the background with SIGINT ignored, which the processes under test would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Gives the file or folder of that name, which ``make(path)`` writes at first: the processes of a run share it."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "made-once"
    (folder / "unfinished").mkdir(parents=True, exist_ok=True)

    def made_once(name: str, make: Callable[[Path], object]) -> Path:
        path = folder / name
        with filelock.FileLock(folder / f"{name}.lock"):
            if not path.exists():
                unfinished = folder / "unfinished" / name
                make(unfinished)
                unfinished.rename(path)
        return path

    return made_once


def pytest_collection_finish() -> None:
    # TensorFlow's and Keras' objects are a million by now, which every collection of garbage would look through.
    gc.collect()
    gc.freeze()
