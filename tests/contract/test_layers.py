"""Every row of the table of layers: its samples are stock Keras', or it is refused by name; its loops as it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

import keepdrop_exporter

from . import layer_cases, layer_page, reference
from .layer_cases import CASES, Case
from .layer_models import FIRST, LayerModel, cases_beside, layer_model

PAGE = Path(__file__).resolve().parents[2] / "docs" / "layers.md"

# The names of the tests say which of the two a processor is: exact with oneDNN, or refused without.
HERE = [case for case in CASES if case.known and (layer_cases.onednn() or not case.onednn)]
WITHOUT_ONEDNN = [case for case in CASES if case.known and case.onednn and not layer_cases.onednn()]
EXACT = [pytest.param(case, marks=pytest.mark.nightly if case.by_night else ()) for case in HERE if not case.refused]
REFUSED = [case for case in HERE if case.refused]


@pytest.fixture(scope="module")
def exported(made_once: Callable[..., Path]) -> Callable[[Case], LayerModel]:
    """Gives the exported model that a case is part of."""
    return lambda case: layer_model(cases_beside(case), made_once)


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_samples_are_those_of_stock_keras(case: Case, exported: Callable[[Case], LayerModel]) -> None:
    model = exported(case)
    for drawn in model.drawn:
        expected = drawn.expected[model.outputs[case.name]]
        got = drawn.got[model.outputs[case.name]]
        reference.assert_samples_equal(dict(enumerate(got)), [y[FIRST:] for y in expected])
        # The case is random, and other samples would be noticed.
        assert max(np.ptp(y.astype(float), axis=0).max() for y in expected) > 1e-2
        with pytest.raises(AssertionError):
            reference.assert_samples_equal(dict(enumerate(got)), [y[: len(y) - FIRST] for y in expected])


@pytest.mark.parametrize("case", EXACT, ids=lambda case: case.name)
def test_loops_become_what_the_table_says(case: Case, exported: Callable[[Case], LayerModel]) -> None:
    assert exported(case).loops(case) == set(case.loops.split())


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.name)
def test_what_is_refused(case: Case, tmp_path: Path) -> None:
    model, _ = layer_cases.build([case])
    with pytest.raises(keepdrop_exporter.ExportError) as caught:
        keepdrop_exporter.export(model, tmp_path / "m.onnx")
    assert case.refused in str(caught.value) and case.cure in str(caught.value)
    assert any(layer.name in str(caught.value) for layer in model.layers)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("case", WITHOUT_ONEDNN, ids=lambda case: case.name)
def test_what_tensorflow_does_not_run_here_is_refused(case: Case, tmp_path: Path) -> None:
    model, _ = layer_cases.build([case])
    with pytest.raises(keepdrop_exporter.ExportError) as caught:
        keepdrop_exporter.export(model, tmp_path / "m.onnx")
    layer = next(layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer))
    assert str(caught.value).startswith(f"layer {layer.name!r} {layer_cases.WITHOUT_ONEDNN}")
    assert "set TF_ENABLE_ONEDNN_OPTS=1" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.nightly
@pytest.mark.parametrize("on", ["0", "1"])
def test_the_table_holds_with_and_without_onednn(on: str) -> None:
    """Which of the two a processor has by default does not matter: what is exact with oneDNN is refused without."""
    command = [sys.executable, "-m", "pytest", "-v", "-p", "no:cacheprovider", __file__, "-k", "channels_first"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": on})
    assert done.returncode == 0, done.stdout
    assert ("test_what_tensorflow_does_not_run_here_is_refused[Conv" in done.stdout) == (on == "0")


def test_the_page_shows_the_table() -> None:
    assert PAGE.read_text() == layer_page.page(), "run scripts/layers"
