"""Summary outputs: NumPy's figures of the samples, from the graph alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from keras import layers as L

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import ExportError, VerifyError
from keepdrop_exporter.formats import onnx_summary

Q = np.array([0, 0.05, 0.37, 0.9, 1], np.float32)


def build() -> keras.Model:
    """Every kind of head; one value far from zero that hardly varies."""
    x = keras.Input((4,), name="x")
    h = L.Dropout(0.4)(L.Dense(6, "tanh")(x))
    return keras.Model(
        x,
        [
            L.Rescaling(0.01, 1000, name="far")(L.Dense(2)(h)),
            L.Dense(3, "softmax", name="kind")(h),
            L.Dense(2, "sigmoid", name="events")(h),
            L.Dense(4, name="both")(h),
        ],
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The artifact."""
    path = tmp_path_factory.mktemp("summary") / "m.onnx"
    keepdrop_exporter.export(build(), path, summary=True, heads={"both": "mean,logvar"}, rows=2, samples=3)
    return path


def run(path: Path, samples: int, quantiles: np.ndarray = Q) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    scalars = {"seed": 7, "num_samples": samples, "first_sample": 0}
    feeds: dict[str, Any] = {name: np.array([n]) for name, n in scalars.items()}
    names = [output.name for output in session.get_outputs()]
    feeds |= {"x": x, "rows": np.arange(3), "quantiles": quantiles}
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_moments_and_quantiles_are_numpys(made: Path) -> None:
    found = run(made, 1000)
    for name in ("far", "kind", "events", "both"):
        y = found[name].astype(np.float64)
        # Sums of 1000 differences of about 1 in float32: each addition rounds by up to 3e-5, the mean by a hundredth.
        np.testing.assert_allclose(found[f"{name}_mean"], y.mean(0), rtol=1e-6, atol=2e-6)
        np.testing.assert_allclose(found[f"{name}_std"], y.std(0, ddof=1), rtol=3e-5)
        quantiles = np.quantile(y, Q.astype(np.float64), axis=0)
        np.testing.assert_allclose(found[f"{name}_quantiles"], quantiles, rtol=1e-6, atol=1e-7)


def test_the_plain_sum_of_squares_would_be_noticed(made: Path) -> None:
    """The control of the tolerance above, where the mean is 1000 and the spread a hundredth."""
    y = run(made, 1000)["far"]
    naive = np.sqrt(np.maximum((y * y).mean(0) - y.mean(0) ** 2, 0))
    assert (np.abs(naive / y.astype(np.float64).std(0) - 1) > 3e-5).all()


def test_what_predict_says_is_what_the_graph_says(made: Path) -> None:
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    answers, found = keepdrop.load(made, threads=1).predict(x, samples=300, seed=7), run(made, 300)
    for name, figures in {
        "kind": ("predictive_entropy", "expected_entropy", "mutual_information"),
        "events": ("predictive_entropy", "expected_entropy", "mutual_information"),
        "both": ("aleatoric", "epistemic", "total"),
    }.items():
        for figure in figures:
            expected = getattr(answers[name], figure)
            assert found[f"{name}_{figure}"].shape == expected.shape
            np.testing.assert_allclose(found[f"{name}_{figure}"], expected, rtol=1e-4, atol=2e-6)


def test_one_sample_and_no_quantiles(made: Path) -> None:
    found = run(made, 1, np.zeros(0, np.float32))
    assert np.isnan(found["far_std"]).all() and found["far_quantiles"].shape == (0, 3, 2)
    np.testing.assert_array_equal(found["far_mean"], found["far"][0])


def test_the_samples_are_those_of_the_file_without(made: Path, tmp_path: Path) -> None:
    model = build()
    keepdrop_exporter.export(model, tmp_path / "plain.onnx", rows=1, samples=2)
    keepdrop_exporter.export(model, tmp_path / "more.onnx", rows=1, samples=2, summary=True)
    x = np.ones((2, 4), np.float32)
    plain, more = (keepdrop.load(tmp_path / f"{n}.onnx", threads=1).sample(x, samples=5) for n in ("plain", "more"))
    for name in plain:
        np.testing.assert_array_equal(plain[name], more[name])


def test_wrong_figures_are_not_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moments = onnx_summary._moments
    monkeypatch.setattr(onnx_summary, "_moments", lambda nodes, y: moments(nodes, y)[::-1])
    with pytest.raises(VerifyError, match="the summary output 'far_mean' differs by up to"):
        keepdrop_exporter.export(build(), tmp_path / "m.onnx", summary=True)
    assert list(tmp_path.iterdir()) == []


def test_names_that_the_summary_takes_are_refused(tmp_path: Path) -> None:
    x = keras.Input((4,), name="quantiles")
    model = keras.Model(x, L.Dense(2, name="y")(L.Dropout(0.5)(x)))
    with pytest.raises(ExportError, match=r"\['quantiles'\] bear names of the summary's"):
        keepdrop_exporter.export(model, tmp_path / "m.onnx", summary=True)
    with pytest.raises(ExportError, match="summaries are outputs of an ONNX file"):
        keepdrop_exporter.export(model, tmp_path / "m", summary=True)


def test_every_operator_is_standard(made: Path) -> None:
    onnx.checker.check_model(onnx.load(made), full_check=True)
