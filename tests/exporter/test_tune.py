"""Which dropout is best: on data where its spread tells how far observations fall, and where it tells nothing."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path
from xml.etree import ElementTree

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers as L

import keepdrop
from keepdrop import InputError
from keepdrop.labelled.rows import Labelled, labelled
from keepdrop_exporter import ExportError, RetrofitError, Tuning, cli, export, tune
from keepdrop_exporter.tuning.choices import choices
from keepdrop_exporter.tuning.command import tune as command
from keepdrop_exporter.tuning.judging import JudgingOptions, time_splits
from keepdrop_exporter.tuning.plain import plain_model
from keepdrop_exporter.tuning.rates import overlap, tuned

ROWS = 600


def _spreading(own: float | None = None) -> keras.Model:
    """Gives x[0]; dropout before `spread` makes samples of it whose standard deviation is in proportion to |x[1]|."""
    x = keras.Input((2,), name="x")
    level = L.Dense(1, use_bias=False, name="level")(x)
    twins = L.Dense(8, use_bias=False, name="twins")(x)
    twins = twins if own is None else L.Dropout(own, name="own")(twins)
    y = L.Add(name="y")([level, L.Dense(1, use_bias=False, name="spread")(twins)])
    model = keras.Model(x, y, name="spreading")
    signs = np.tile([1.0, -1.0], 4)
    model.get_layer("level").set_weights([np.array([[1.0], [0.0]])])
    model.get_layer("twins").set_weights([np.stack([0 * signs, signs])])
    model.get_layer("spread").set_weights([np.ones((8, 1))])
    return model


def _rows(noise: str, rows: int = ROWS) -> tuple[np.ndarray, np.ndarray]:
    """x, and y off x[0] by noise that is in proportion to |x[1]|, or alike for every row."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(rows, 2)).astype(np.float32)
    error = rng.normal(size=rows) * (np.abs(x[:, 1]) if noise == "told" else 1)
    return x, x[:, :1] + error[:, np.newaxis]


def _tuned(noise: str) -> Tuning:
    return tune(_spreading(), *_rows(noise), rates=[0.3], where=["spread"], splits=2, samples=60)


@pytest.fixture(scope="module")
def told() -> Tuning:
    return _tuned("told")


def test_spread_that_tells_of_the_error_is_found_and_named(told: Tuning) -> None:
    best = told.best
    assert told.helps and best is not None and best.dropout == {"spread.input": 0.3}
    assert best.gain > 0.05 and best.outputs[0].correlation > 0.4
    assert best.outputs[0].score < 0.95 * told.none.outputs[0].score
    assert abs(best.outputs[0].coverage - 0.9) < 0.06
    assert "best: spread.input=0.3, whose CRPS after calibration is" in str(told)


def test_negative_control_spread_that_tells_nothing_is_called_no_help() -> None:
    found = _tuned("alike")
    assert not found.helps and abs(found.best.outputs[0].correlation) < 0.15
    assert "no dropout helps here: after calibration the CRPS of spread.input=0.3, the best, is" in str(found)


def test_without_dropout_it_is_the_prediction_of_stock_keras(told: Tuning) -> None:
    x, y = _rows("told")
    judged = np.r_[ROWS // 3 : ROWS]
    errors = np.abs(_spreading().predict(x, verbose=0) - y)[judged]
    assert told.none.outputs[0].raw_score == pytest.approx(errors.mean(), rel=1e-6)
    assert told.none.outputs[0].raw_coverage == 0 and told.none.outputs[0].correlation is None


def test_figures_are_those_of_the_exported_artifact(told: Tuning, tmp_path: Path) -> None:
    x, y = _rows("told")
    export(_spreading(), tmp_path / "m.onnx", dropout=told.best.dropout)
    model, rows, third = keepdrop.load(tmp_path / "m.onnx"), np.arange(ROWS), ROWS // 3
    scores, coverages = [], []
    for stop in (third, 2 * third):
        late = slice(stop, stop + third)
        calibrated = keepdrop.calibrate(model, x[:stop], y[:stop], samples=60, rows=rows[:stop])
        found = keepdrop.evaluate(calibrated, x[late], y[late], rows=rows[late]).outputs[0].values["calibrated"]
        scores.append(found.crps), coverages.append(found.at(0.9).coverage)
    assert told.best.outputs[0].score == pytest.approx(np.mean(scores), rel=1e-12)
    assert told.best.outputs[0].coverage == pytest.approx(np.mean(coverages), rel=1e-12)


def test_classes_are_judged_by_the_log_score() -> None:
    rng = np.random.default_rng(1)
    x = 2 * rng.normal(size=(400, 3)).astype(np.float32)
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    y = (rng.random((400, 1)) > np.cumsum(p, axis=1)).sum(axis=1)
    model = keras.Sequential([keras.Input((3,), name="x"), L.Dense(3, activation="softmax", name="mood")])
    model.layers[0].set_weights([np.eye(3), np.zeros(3)])
    found = tune(model, x, y, rates=[0.5], where=["head"], splits=1, samples=30)
    assert found.best.dropout == {"mood.input": 0.5} and not found.helps  # the model is the truth
    assert found.none.outputs[0].raw_score == pytest.approx(-np.log(p[np.arange(400), y])[200:].mean(), rel=1e-5)
    assert "log score" in str(found) and "90 % sets hold" in str(found)


def test_rows_that_share_readings_are_left_out() -> None:
    windows, horizon = {"x": np.zeros((9, 24, 3))}, {"y": np.zeros((9, 6))}
    of = labelled(plain_model(_spreading()), *_rows("told", 9), None, None, None)
    assert overlap(of) == 0 and overlap(of, ahead=6) == 6
    assert overlap(dataclasses.replace(of, inputs=windows)) == 24  # a step ahead
    assert overlap(dataclasses.replace(of, inputs=windows), ahead=6) == 29
    assert overlap(dataclasses.replace(of, inputs=windows, targets=horizon)) == 29


def test_parts_are_in_the_order_of_time_and_share_no_readings() -> None:
    model = plain_model(_spreading())
    x, y = _rows("told", 90)
    shuffled = np.random.default_rng(0).permutation(90)
    times = np.datetime64("2020-01-01") + shuffled
    for split in time_splits(labelled(model, x, y, None, times, None), 2, 5):
        assert times[split.late].min() - times[split.early].max() == np.timedelta64(6, "D")
    two = labelled(model, x, y, None, np.datetime64("2020-01-01") + np.arange(90) // 2, np.arange(90) % 2)
    for split in time_splits(two, 2, 5):
        assert two.times[split.late].min() - two.times[split.early].max() == np.timedelta64(6, "D")
    with pytest.raises(InputError, match="90 labelled rows make 3 parts of 30, and 30 rows are left out between"):
        time_splits(labelled(model, x, y, None, None, None), 2, 30)


def _forecaster(steps: int = 4) -> keras.Model:
    keras.utils.set_random_seed(2)
    inside = keras.Sequential([keras.Input((5,)), L.Dropout(0.1, name="own"), L.Dense(1, name="last")], name="inside")
    x = keras.Input((steps, 1), name="x")
    return keras.Model(x, L.Reshape((1,), name="shape")(inside(L.LSTM(5, name="lstm")(x))), name="forecaster")


def test_places_are_those_of_retrofit_and_the_head() -> None:
    model = _forecaster()
    each = choices(model, [0.1], ["lstm.input", "head", "inside/last"])
    assert list(each) == ["lstm.input=0.1", "inside/last.input=0.1", "lstm.input=0.1 inside/last.input=0.1"]
    assert list(choices(model, [0.1, 0.2, 0.1], ["*.recurrent"])) == ["*.recurrent=0.1", "*.recurrent=0.2"]
    alone = [c for c in choices(model, [0.1], None).values() if len(c) == 1]
    assert [list(c)[0] for c in alone] == ["lstm.input", "lstm.recurrent", "inside/own", "inside/last.input"]


@pytest.mark.parametrize(
    ("rates", "where", "text"),
    [
        ([0.1], ["lstn.input"], "'lstn.input' matches nothing in model 'forecaster'"),
        ([0.1], ["lstm"], "'lstm': a recurrent layer has two rates"),
        ([0.0, 0.1], None, "give one or more numbers between 0 and 1; none is tried anyway"),
        ([], None, "give one or more numbers"),
        ([0.1], [], "name one place or more"),
    ],
)
def test_what_is_no_choice_is_refused_before_anything_runs(rates: list[float], where: object, text: str) -> None:
    with pytest.raises((RetrofitError, ExportError), match=re.escape(text)):
        choices(_forecaster(), rates, where)


def test_a_model_without_the_usual_places_asks_for_one() -> None:
    with pytest.raises(ExportError, match="say where: where= with one or more of .*spread.input"):
        choices(_spreading(), [0.1], None)


def test_the_dropout_that_a_model_has_is_tried_as_it_is() -> None:
    found = tune(_spreading(own=0.3), *_rows("told", 300), rates=[0.01], splits=1, samples=40)
    assert [choice.dropout for choice in found.choices] == [{}, {"own": 0.01}]
    assert found.best.name == "as it is" and found.helps


def test_a_choice_that_cannot_be_is_marked_and_the_others_go_on() -> None:
    model, (x, y) = _spreading(), _rows("told", 300)

    def rows_of(plain: keepdrop.Model) -> tuple[Labelled, int]:
        return labelled(plain, x, y, None, None, None), 0

    tried = {"nothing": {}, "spread": {"spread.input": 0.3}}
    found = tuned(model, rows_of, tried, JudgingOptions(40, 0, 0.9, True), 1, {})
    assert found.choices[0].refused.startswith("model 'spreading': nothing in it is random")
    assert found.best is found.choices[1] and "\nnothing: model 'spreading': nothing in it is random" in str(found)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """plain.keras, and its labelled rows as since.csv and as x.npy and y.npy, in the current folder."""
    monkeypatch.chdir(tmp_path)
    _spreading().save("plain.keras")
    x, y = _rows("told", 300)
    np.save("x.npy", x), np.save("y.npy", y)
    lines = (
        f"{np.datetime64('2020-01-01T00') + i},{a},{b},{c}\n" for i, ((a, b), (c,)) in enumerate(zip(x, y, strict=True))
    )
    Path("since.csv").write_text("time,level,spread,temp\n" + "".join(lines))


GIVEN = ["--columns", "level,spread", "--time", "time", "--target", "temp", "--ahead", "0"]
FEW = ["--rates", "0.3", "--where", "spread", "--splits", "1", "--samples", "40"]


def test_the_command_prints_a_table_the_best_and_the_line_that_exports_it(files: None) -> None:
    result = CliRunner().invoke(
        command, ["plain.keras", "since.csv", *GIVEN, *FEW, "--head", "value", "--plot", "r.html"]
    )
    assert result.exit_code == 0, result.output + str(result.exception)
    for part in ("spread-error correlation", "best: spread.input=0.3", "] spread.input=0.3", "wrote r.html"):
        assert part in result.output
    line = "keepdrop export plain.keras --dropout spread.input=0.3 --head value"
    assert f"\n  {line}\n" in result.output
    exported = CliRunner().invoke(cli.export, [*shlex.split(line)[2:], "-o", "m.onnx"])
    assert exported.exit_code == 0 and keepdrop.load("m.onnx").metadata.draws[0].rate == pytest.approx(0.3)
    page = Path("r.html").read_text()
    pictures = [ElementTree.fromstring(svg) for svg in re.findall(r"<svg.*?</svg>", page)]
    assert len(pictures) == 3 and all(picture.find("circle") is not None for picture in pictures)


def test_the_command_as_json_from_arrays_equals_python(files: None) -> None:
    result = CliRunner().invoke(command, ["plain.keras", "x.npy", "--targets", "y.npy", *FEW, "--json"])
    assert result.exit_code == 0, result.output + str(result.exception)
    report = json.loads(result.stdout)
    found = tune("plain.keras", *_rows("told", 300), rates=[0.3], where=["spread"], splits=1, samples=40)
    assert report["choices"] == json.loads(json.dumps(found.to_dict()))["choices"]
    assert report["best"] == "spread.input=0.3" and report["helps"] is True


def test_no_input_is_overwritten(files: None) -> None:
    for name in ("x.npy", "plain.keras"):
        result = CliRunner().invoke(command, ["plain.keras", "x.npy", "--targets", "y.npy", "--plot", name])
        assert isinstance(result.exception, InputError) and "would be lost" in str(result.exception)
