"""No half-written artifact, ever: a failed export leaves an older file as it was and nothing beside it."""

from __future__ import annotations

import importlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import ConvertError, ExportError, Report, VerifyError

export_stages = importlib.import_module("keepdrop_exporter.pipeline")


@pytest.fixture
def model() -> keras.Model:
    stack = [keras.Input((4,), name="x"), keras.layers.Dropout(0.5), keras.layers.Dense(2, name="y")]
    return keras.Sequential(stack)


def _fail(error: BaseException) -> Callable[..., None]:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise error

    return fail


def test_samples_that_differ(
    model: keras.Model, target: Path, untouched: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    to_onnx = export_stages.onnx_export.to_onnx

    def other_weights(*args: Any, **kwargs: Any) -> Any:
        proto = to_onnx(*args, **kwargs)
        kernel = model.layers[-1].kernel
        kernel.assign(kernel + 0.01)  # the file then lags behind its model
        return proto

    monkeypatch.setattr(export_stages.onnx_export, "to_onnx", other_weights)
    with pytest.raises(VerifyError, match="'y' differs from Keras"):
        keepdrop_exporter.export(model, target)
    untouched()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), VerifyError("no")], ids=repr)
def test_an_end_in_the_midst_of_verify(
    error: BaseException,
    model: keras.Model,
    target: Path,
    untouched: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export_stages, "verify_plan", _fail(error))
    with pytest.raises(type(error)):
        keepdrop_exporter.export(model, target)
    untouched()


def test_a_model_that_does_not_convert(target: Path, untouched: Callable[[], None]) -> None:
    x = keras.Input((4,), name="x")
    y = keras.ops.erfinv(keras.layers.Dropout(0.5)(x) / 9)
    with pytest.raises(ConvertError, match="Erfinv"):
        keepdrop_exporter.export(keras.Model(x, y), target)
    untouched()


@pytest.mark.parametrize(
    "path, options, text",
    [
        ("none/model.onnx", {}, "there is no folder .*none; make it first"),
        ("model.keras", {}, "let its name end in .onnx"),
        ("model.onnx", {"default_samples": 0}, "default_samples=0"),
    ],
)
def test_arguments(model: keras.Model, target: Path, untouched: Any, path: str, options: Any, text: str) -> None:
    with pytest.raises(ExportError, match=text):
        keepdrop_exporter.export(model, target.parent / path, **options)
    untouched()


def test_success_replaces_the_older_file(model: keras.Model, target: Path) -> None:
    stages: list[str] = []
    report = keepdrop_exporter.export(model, target, default_samples=3, progress=stages.append)
    assert stages == ["load", "plan", "trace", "convert", "verify", "cost"]
    assert list(target.parent.iterdir()) == [target]
    assert isinstance(report, Report) and report.path == target and report.size == target.stat().st_size
    assert report.verified == keepdrop.load(target).metadata.verified
    assert keepdrop.load(target).sample(np.ones((2, 4), np.float32)).shape == (3, 2, 2)


def test_an_export_can_be_repeated(model: keras.Model, tmp_path: Path) -> None:
    """Nothing of a first export, nor of use in between, changes what a second one writes."""
    first, second = tmp_path / "first.onnx", tmp_path / "second.onnx"
    keepdrop_exporter.export(model, first)
    model(np.ones((2, 4), np.float32), training=True)
    keepdrop_exporter.export(model, second)
    x = np.ones((2, 4), np.float32)
    np.testing.assert_array_equal(*(keepdrop.load(path, threads=1).sample(x) for path in (first, second)))


def test_others_may_read_the_file_as_they_may_any_other(model: keras.Model, tmp_path: Path) -> None:
    kept = os.umask(0o027)
    try:
        keepdrop_exporter.export(model, tmp_path / "m.onnx")
    finally:
        os.umask(kept)
    assert stat.S_IMODE((tmp_path / "m.onnx").stat().st_mode) == 0o640
