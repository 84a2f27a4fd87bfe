"""The public names, the tree of errors, and what an import pulls in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keepdrop
import keepdrop_exporter

HEAVY = {"tensorflow", "keras", "tf2onnx", "onnx"}


def test_names() -> None:
    assert sorted(keepdrop_exporter.__all__) == [
        "ConvertError",
        "ExportError",
        "LoadError",
        "MonteCarloDropout",
        "MonteCarloGRU",
        "MonteCarloLSTM",
        "MonteCarloSimpleRNN",
        "Refusal",
        "Report",
        "RetrofitError",
        "ScalingError",
        "Tuning",
        "VerifyError",
        "__version__",
        "export",
        "load",
        "load_savedmodel",
        "scaler_json",
        "summarise",
        "tune",
        "verify",
        "with_dropout",
        "with_scaling",
    ]
    assert [name for name in keepdrop_exporter.__all__ if not hasattr(keepdrop_exporter, name)] == []
    assert all(
        callable(getattr(keepdrop_exporter, name))
        for name in ("export", "load", "verify", "with_dropout", "load_savedmodel")
    )


def test_the_two_distributions_have_one_version() -> None:
    assert keepdrop_exporter.__version__ == keepdrop.__version__


def test_every_error_is_a_keepdrop_error() -> None:
    stages = [
        keepdrop_exporter.LoadError,
        keepdrop_exporter.RetrofitError,
        keepdrop_exporter.Refusal,
        keepdrop_exporter.ConvertError,
        keepdrop_exporter.VerifyError,
    ]
    assert all(issubclass(stage, keepdrop_exporter.ExportError) for stage in stages)
    assert issubclass(keepdrop_exporter.ExportError, keepdrop.KeepdropError)
    assert issubclass(keepdrop_exporter.ExportError, ValueError)
    assert all(issubclass(stage, RuntimeError) for stage in stages[-2:])


def _pulled_in(statement: str) -> set[str]:
    sources = [str(Path(module.__file__).parents[1]) for module in (keepdrop, keepdrop_exporter)]
    path = os.pathsep.join([*sources, os.environ.get("PYTHONPATH", "")])
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": path}
    )
    return HEAVY & {name.partition(".")[0] for name in done.stdout.split()}


def test_the_verbs_load_without_tensorflow() -> None:
    """`keepdrop export --help` and a mistyped option answer at once."""
    assert _pulled_in("import keepdrop_exporter.cli") == set()


def test_that_heavy_imports_would_be_noticed() -> None:
    assert "tensorflow" in _pulled_in("import keepdrop_exporter.trace.function")
