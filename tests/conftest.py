from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--skip-old-onnxruntime",
        action="store_true",
        help="skip the tests that need Python 3.9 to 3.11 for onnxruntime 1.16.3; has no effect where CI is set",
    )
