from __future__ import annotations

import signal

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
