"""What a calibration says of an observation, as outputs of the graph."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
from click.testing import CliRunner
from keras import layers as L

import keepdrop
import keepdrop_exporter
from keepdrop.artifact.metadata import CALIBRATION_KEY
from keepdrop.artifact.properties import numbers_digest, with_properties
from keepdrop.cli.calibrate import calibrate
from keepdrop.replay import check_vectors, worst_of, write_vectors
from keepdrop_exporter import ExportError, VerifyError, cli
from keepdrop_exporter.formats import onnx_observation

Q = np.array([0, 0.001, 0.05, 0.37, 0.5, 0.975, 1], np.float32)
KNOWN = slice(2, 6)  # what 79 rows bear: levels up to 0.975


def build() -> keras.Model:
    """Every kind of head; one output far from zero, one without an axis of its own."""
    x = keras.Input((4,), name="x")
    h = L.Dropout(0.4)(L.Dense(6, "tanh")(x))
    return keras.Model(
        x,
        [
            L.Rescaling(0.1, 1000, name="steps")(L.Dense(3)(h)),
            L.Dense(3, "softmax", name="kind")(h),
            L.Dense(2, "sigmoid", name="events")(h),
            L.Dense(4, name="both")(h),
            L.Dense(2, name="level")(h),
            L.Dense(2, name="spread")(h),
            L.Reshape((), name="one")(L.Dense(1)(h)),
        ],
    )


def inputs(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "m.onnx"
    keras.utils.set_random_seed(1)
    heads = {"both": "mean,logvar", "level,spread": "mean,logvar"}
    keepdrop_exporter.export(build(), path, heads=heads, rows=1, samples=2)
    return path


@pytest.fixture(scope="module")
def calibrated(plain: Path) -> Path:
    """On 79 rows whose targets lie about the answers."""
    model, rng, x = keepdrop.load(plain, threads=1), np.random.default_rng(1), inputs(79)
    answers = model.predict(x, samples=100)
    means = {name: answers[name].mean for name in ("steps", "level", "one")} | {"both": answers["both"].mean[:, :2]}
    targets: dict[str, Any] = {
        name: mean + 0.3 * mean.std() * rng.standard_normal(mean.shape) ** 3 for name, mean in means.items()
    }
    targets["kind"] = (answers["kind"].mean.cumsum(-1) < rng.random((79, 1))).sum(-1)
    targets["events"] = (rng.random((79, 2)) < answers["events"].mean).astype(int)
    path = plain.with_name("calibrated.onnx")
    with pytest.warns(UserWarning, match="fewer than 100"):
        path.write_bytes(keepdrop.calibrate(model, x, targets, samples=100).to_bytes())
    return path


@pytest.fixture(scope="module")
def made(calibrated: Path) -> Path:
    path = calibrated.with_name("made.onnx")
    keepdrop_exporter.summarise(calibrated, path)
    return path


def run(path: Path, x: np.ndarray, samples: int) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    scalars = {"seed": 7, "num_samples": samples, "first_sample": 0}
    feeds: dict[str, Any] = {name: np.array([n]) for name, n in scalars.items()}
    names = [output.name for output in session.get_outputs()]
    feeds |= {"x": x, "rows": np.arange(len(x)), "quantiles": Q}
    return dict(zip(names, session.run(names, feeds), strict=True))


def test_the_graph_says_what_the_runtime_says(made: Path) -> None:
    x = inputs(3, 2)
    found, answers = run(made, x, 200), keepdrop.load(made, threads=1).predict(x, samples=200, seed=7)
    for name in ("steps", "both", "level", "one"):
        given, o = found[f"{name}_observation_quantiles"], answers[name].observation
        expected = o.quantile(Q[KNOWN].astype(np.float64).clip(0, 0.975))
        assert given.shape[1:] == expected.shape[1:]
        # The variance is float32, of differences of about 1: within 3e-5; so is the scale, half of it.
        np.testing.assert_allclose(given[KNOWN], expected, rtol=1e-6, atol=5e-5 * np.ptp(expected, axis=0).max())
        assert np.isnan(given[[0, 1, 6]]).all()  # which its rows do not bear
    for name in ("kind", "events"):
        np.testing.assert_allclose(
            found[f"{name}_observation_probability"], answers[name].observation.probability, atol=1e-6
        )
        assert np.abs(found[f"{name}_observation_probability"] - found[f"{name}_mean"]).max() > 1e-3
    width = np.ptp(found["steps_observation_quantiles"][[2, 5]], axis=0)
    assert (width > 1.5 * np.ptp(found["steps_quantiles"][[2, 5]], axis=0)).any()


def test_samples_and_answers_are_those_of_the_file_without(made: Path, calibrated: Path) -> None:
    onnx.checker.check_model(onnx.load(made), full_check=True)
    with_, without = (keepdrop.load(path, threads=1) for path in (made, calibrated))
    assert with_.calibration == without.calibration
    x = inputs(2)
    for name, samples in without.sample(x, samples=5).items():
        np.testing.assert_array_equal(with_.sample(x, samples=5)[name], samples)


def test_remove_gives_the_plain_graph_again(plain: Path, made: Path, tmp_path: Path) -> None:
    back = keepdrop_exporter.summarise(made, tmp_path / "back.onnx", remove=True)
    assert back.summary == () and back.summary_calibration is None
    assert numbers_digest((tmp_path / "back.onnx").read_bytes()) == numbers_digest(plain.read_bytes())
    assert keepdrop.load(tmp_path / "back.onnx").calibration is not None
    keepdrop_exporter.summarise(made, tmp_path / "again.onnx")
    assert numbers_digest((tmp_path / "again.onnx").read_bytes()) == numbers_digest(made.read_bytes())
    with pytest.raises(ExportError, match="gives no summary; there is nothing to remove"):
        keepdrop_exporter.summarise(plain, tmp_path / "x.onnx", remove=True)


def test_another_calibration_is_refused_with_the_cure(made: Path, tmp_path: Path) -> None:
    cure = r"\['steps_observation_quantiles', .* hold the calibration .*summarise\(FILE, PLAIN, remove=True\)"
    model = keepdrop.load(made, threads=1)
    with pytest.raises(keepdrop.ArtifactError, match=cure):
        model.with_calibration(None).to_bytes()
    assert model.to_bytes() == made.read_bytes()
    for text in (None, json.dumps({**json.loads(model.calibration.to_json()), "seed": 5})):  # type: ignore[union-attr]
        (tmp_path / "m.onnx").write_bytes(with_properties(made.read_bytes(), {CALIBRATION_KEY: text}))
        with pytest.raises(keepdrop.ArtifactError, match=cure):
            keepdrop.load(tmp_path / "m.onnx")
    for more in (["--remove"], ["x.csv"]):
        done = CliRunner().invoke(calibrate, [str(made), *more, "-o", str(tmp_path / "c.onnx")])
        assert isinstance(done.exception, (keepdrop.ArtifactError, SystemExit)) and not (tmp_path / "c.onnx").exists()


def test_vectors_hold_what_the_graph_says_too(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = keepdrop.load(made, threads=1)._session
    write_vectors(session, tmp_path / "v", {"x": inputs(3)})
    told = json.loads((tmp_path / "v" / "vectors.json").read_text())["calls"][0]
    assert told["feeds"]["quantiles"]["shape"] == [6]
    assert told["outputs"]["steps_observation_quantiles"]["shape"] == [6, 3, 3]
    assert worst_of(check_vectors(session, tmp_path / "v")) is None
    call = session.call
    other = np.full(6, 0.2, np.float32)
    monkeypatch.setattr(session, "call", lambda names, feeds: call(names, {**feeds, "quantiles": other}))
    assert "quantiles" in worst_of(check_vectors(session, tmp_path / "v")).output  # type: ignore[union-attr]


def test_wrong_figures_are_not_written(calibrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantiles = onnx_observation.quantiles
    monkeypatch.setattr(onnx_observation, "quantiles", lambda nodes, c, v, of: quantiles(nodes, c, c, of))
    with pytest.raises(VerifyError, match="'steps_observation_quantiles' differs"):
        keepdrop_exporter.summarise(calibrated, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_the_command(calibrated: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.summarise, [str(calibrated), "-o", str(tmp_path / "m.onnx"), "--json"])
    assert done.exit_code == 0 and "one_observation_quantiles" in json.loads(done.stdout)["summary"]
    done = CliRunner().invoke(cli.summarise, [str(tmp_path / "m.onnx"), "-o", str(tmp_path / "p.onnx"), "--remove"])
    assert done.stdout == f"{tmp_path / 'p.onnx'}: gives samples alone\n"
    with pytest.raises(keepdrop.InputError):
        keepdrop_exporter.summarise(calibrated, calibrated)


def test_streams_give_summaries_too(tmp_path: Path) -> None:
    x = keras.Input((None, 2), name="x")
    h = L.LSTM(3, dropout=0.3, recurrent_dropout=0.2, return_sequences=True)(x)
    model = keras.Model(x, [L.Dense(2, name="each")(h), L.LSTM(2, dropout=0.2, name="last")(h)])
    keepdrop_exporter.export(model, tmp_path / "s.onnx", streaming=True, summary=True, rows=2, samples=3)
    keepdrop_exporter.summarise(tmp_path / "s.onnx", tmp_path / "p.onnx", remove=True)
    keepdrop_exporter.summarise(tmp_path / "p.onnx", tmp_path / "t.onnx")
    pushes = np.random.default_rng(0).standard_normal((2, 2, 3, 2)).astype(np.float32)
    given, plain = (keepdrop.load(tmp_path / f"{n}.onnx", threads=1).stream(samples=4, rows=[0, 1]) for n in "sp")
    for push in pushes:
        one, other = given.push(push), plain.push(push)
        for name in other:
            np.testing.assert_array_equal(one[name].samples, other[name].samples)
    session = keepdrop.load(tmp_path / "t.onnx", threads=1)._session
    write_vectors(session, tmp_path / "v", {"x": pushes[0]})
    last = json.loads((tmp_path / "v" / "vectors.json").read_text())["calls"][-1]
    assert last["outputs"]["each_quantiles"]["shape"] == [6, 3, 5, 2]
    assert last["outputs"]["last_mean"]["shape"] == [3, 2]
    assert worst_of(check_vectors(session, tmp_path / "v")) is None
