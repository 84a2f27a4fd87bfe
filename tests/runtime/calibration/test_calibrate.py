"""keepdrop.calibrate and Prediction.observation."""

import dataclasses
import io
import json
import pickle

import numpy as np
import onnx
import pytest

import keepdrop
from keepdrop import InputError
from keepdrop.artifact.metadata import CALIBRATION_KEY
from keepdrop.calibration import conformal
from keepdrop.calibration.record import Calibration

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def calibrated(horizon, observed):
    return keepdrop.calibrate(
        horizon, *observed(800), times=np.datetime64("2012-03-01") + np.arange(800) * np.timedelta64(1, "h")
    )


def test_intervals_hold_new_observations_at_every_step(calibrated, observed) -> None:
    x, y = observed(4000, 1)
    p = calibrated.predict(x, samples=200)
    for level in (0.5, 0.8, 0.9, 0.95):
        low, high = p.observation.interval(level)
        inside = ((low <= y) & (y <= high)).mean(axis=0)
        # 800 rows and 4,000 more: three standard errors of both.
        assert abs(inside - level).max() < 3 * np.sqrt(level * (1 - level) * (1 / 800 + 1 / 4000)) + 0.01
    low, high = p.interval(0.9)
    assert ((low <= y) & (y <= high)).mean() < 0.75  # the samples' own do not
    np.testing.assert_array_equal(low, calibrated.predict(x, samples=200).interval(0.9)[0])


def test_samples_and_their_figures_stay_what_they_were(calibrated, horizon, observed) -> None:
    x, _ = observed(5, 2)
    np.testing.assert_array_equal(calibrated.sample(x, seed=3), horizon.sample(x, seed=3))
    np.testing.assert_array_equal(calibrated.predict(x).interval(0.9), horizon.predict(x).interval(0.9))


def test_quantiles_probabilities_and_std_are_of_one_distribution(calibrated, observed) -> None:
    x, _ = observed(50, 3)
    o = calibrated.predict(x, samples=200).observation
    assert o.quantile([0.1, 0.5, 0.9]).shape == (3, 50, 4)
    assert o.quantile(0.99).dtype == np.float32
    low, high = o.interval(0.9)
    np.testing.assert_allclose(low, o.quantile(0.05))
    for tau in (0.2, 0.75, 0.95):
        at = o.quantile(tau)[7, 2]
        assert o.probability(below=float(at))[7, 2] == pytest.approx(tau, abs=1e-4)  # float32 has rounded `at`
        assert o.probability(above=float(at))[7, 2] == pytest.approx(1 - tau, abs=1e-4)
    between = o.probability(above=float(low[7, 2]), below=float(high[7, 2]))
    assert between[7, 2] == pytest.approx(0.9, abs=2e-4)
    draws = o.centre[7, 2] + o.scale[7, 2] * conformal.score_quantiles(np.linspace(0, 1, 100_001), o.knots[2])
    assert o.std[7, 2] == pytest.approx(draws.std(), rel=1e-3)
    with pytest.raises(InputError, match="give a threshold in the output's unit"):
        o.probability()


def test_a_joint_band_holds_the_whole_path(calibrated, observed) -> None:
    x, y = observed(4000, 4)
    o = calibrated.predict(x, samples=200).observation
    low, high = o.interval(0.9, joint=True)
    assert ((low <= y) & (y <= high)).all(axis=1).mean() == pytest.approx(0.9, abs=0.035)
    alone = o.interval(0.9)
    assert ((alone[0] <= y) & (y <= alone[1])).all(axis=1).mean() < 0.85


def test_quantiles_alone_keep_enough_where_the_median_is_among_them(calibrated, observed) -> None:
    x, _ = observed(20, 5)
    whole = calibrated.predict(x).observation.interval(0.9)
    np.testing.assert_allclose(calibrated.predict(x, quantiles=(0.5,)).observation.interval(0.9), whole, rtol=1e-6)
    with pytest.raises(InputError, match=r"add 0.5 to quantiles="):
        _ = calibrated.predict(x, quantiles=(0.05, 0.95)).observation


def test_levels_beyond_the_rows_are_refused_with_the_arithmetic(horizon, observed) -> None:
    x, y = observed(60)
    with pytest.warns(UserWarning, match="fewer than 100"):
        few = keepdrop.calibrate(horizon, x, y)
    o = few.predict(x).observation
    o.interval(0.95)
    with pytest.raises(InputError, match=r"60 rows .* up to level 0\.9"):
        o.interval(0.99)
    with pytest.raises(InputError, match="the quantile 0.999 is beyond what was measured"):
        o.quantile(0.999)
    with pytest.raises(InputError, match=r"12 labelled rows, and intervals of level 0.9 take 19 at the very least"):
        keepdrop.calibrate(horizon, x[:12], y[:12])
    with pytest.raises(InputError, match="level 0.99 take 199"):
        keepdrop.calibrate(horizon, x, y, level=0.99)


def test_wrong_units_and_targets_are_refused_with_the_arithmetic(horizon, observed) -> None:
    x, y = observed(300)
    with pytest.raises(InputError, match="off by .* the model knows less than a constant"):
        keepdrop.calibrate(horizon, x, y * 9 / 5 + 32)
    with pytest.raises(InputError, match="the model knows less than a constant"):
        keepdrop.calibrate(horizon, x, np.random.default_rng(0).permutation(y))


def test_rows_of_the_training_are_refused(horizon, observed) -> None:
    x, y = observed(300)
    times = np.datetime64("2012-03-01") + np.arange(300) * np.timedelta64(1, "h")
    with pytest.raises(InputError, match="25 of 300 rows are of times up to 2012-03-02T00:00:00"):
        keepdrop.calibrate(horizon, x, y, times=times, trained_until="2012-03-02")
    record = keepdrop.calibrate(horizon, x, y, times=times, trained_until="2012-02-29").calibration
    assert (record.first, record.last) == ("2012-03-01T00:00:00", "2012-03-13T11:00:00")
    with pytest.raises(InputError, match="trained_until needs the times"):
        keepdrop.calibrate(horizon, x, y, trained_until="2012-03-02")


def test_errors_that_grow_with_time_are_warned_of(horizon, observed) -> None:
    x, y = observed(600)
    drifting = y + np.linspace(0, 14, 600)[:, None]
    with pytest.warns(UserWarning) as told:
        keepdrop.calibrate(horizon, x, drifting)
    assert any("of the later ones: errors change over time" in str(warning.message) for warning in told)
    shuffled = np.random.default_rng(0).permutation(600)
    keepdrop.calibrate(horizon, x[shuffled], drifting[shuffled])  # shuffling hides it


def test_series_are_ordered_side_by_side(horizon, observed) -> None:
    """Two series one after the other, whose errors differ: that is no change over time."""
    x, y = observed(600)
    y[300:] += 12
    series = ["a"] * 300 + ["b"] * 300
    record = keepdrop.calibrate(horizon, x, y, series=series).calibration
    assert record.series == 2 and record.values[0].scores[0].forward > 0.85
    with pytest.warns(UserWarning):
        keepdrop.calibrate(horizon, x, y)


def test_unknown_targets_are_left_out(horizon, observed) -> None:
    x, y = observed(900)
    holed = y.copy()
    holed[100:200] = np.nan
    holed[200:250, 3] = np.nan
    record = keepdrop.calibrate(horizon, x, holed).calibration
    assert record.rows == 800 and record.values[0].scores[0].rows == 800
    kept = np.delete(np.arange(900), np.arange(100, 200))
    whole = keepdrop.calibrate(horizon, x[kept], y[kept], rows=kept).calibration
    np.testing.assert_allclose(whole.values[0].a[0], record.values[0].a[0])  # the first step lacks no more


def test_elements_that_are_no_horizon_have_scores_of_their_own(horizon, observed) -> None:
    x, y = observed(500)
    y[:, 3] += 4
    values = keepdrop.calibrate(horizon, x, y, pool=False).calibration.values[0]
    assert len(values.scores) == 4 and values.which == (0, 1, 2, 3)
    o = keepdrop.calibrate(horizon, x, y, pool=False).predict(x).observation
    assert ((o.quantile(0.5) - x[:, :1])[:, 3] > 2).all()
    with pytest.raises(InputError, match="joint=True is of a horizon"):
        o.interval(0.9, joint=True)


def test_a_mean_and_its_log_variance_are_scaled_by_the_total(noisy) -> None:
    rng = np.random.default_rng(0)
    x = np.stack([rng.normal(0, 5, 1000), rng.normal(1, 1, 1000)], axis=1).astype(np.float32)
    noise = 0.5 * np.exp(x[:, 1] / 2) * rng.standard_t(5, 1000)  # half of what the model says: it is too cautious
    model = keepdrop.calibrate(noisy, x[:500], x[:500, 0] + noise[:500])
    p = model.predict(x[500:], samples=200)
    low, high = p.observation.interval(0.9)
    assert low.shape == (500, 1)
    assert np.mean((low[:, 0] <= x[500:, 0] + noise[500:]) & (x[500:, 0] + noise[500:] <= high[:, 0])) == pytest.approx(
        0.9, abs=0.045
    )
    wide = p.total[:, 0] > np.median(p.total)
    assert (high - low)[wide].mean() > 1.5 * (high - low)[~wide].mean()


def test_class_probabilities_are_tempered_and_sets_hold(classifier, classified) -> None:
    model = keepdrop.calibrate(classifier, *classified(600))
    x, y = classified(3000, 1)
    found = model.predict(x, samples=200)
    mood, alarm = found["mood"].observation, found["alarm"].observation
    p = mood.probability[np.arange(3000), y["mood"]]
    assert -np.log(p).mean() < -np.log(found["mood"].mean[np.arange(3000), y["mood"]]).mean() - 0.02
    np.testing.assert_allclose(mood.probability.sum(axis=-1), 1, rtol=1e-6)
    sets = mood.label_set(0.9)
    assert sets.shape == (3000, 3) and sets[np.arange(3000), y["mood"]].mean() == pytest.approx(0.9, abs=0.035)
    assert alarm.label_set(0.9).shape == (3000, 3, 2)
    assert np.take_along_axis(alarm.label_set(0.9), y["alarm"].astype(int)[..., None], -1).mean() == pytest.approx(
        0.9, abs=0.03
    )
    assert np.abs(alarm.probability.mean(axis=0) - y["alarm"].mean(axis=0)).max() < 0.04
    with pytest.raises(InputError, match="of level 0.999 takes 999 rows"):
        mood.label_set(0.999)
    with pytest.raises(InputError, match="was calibrated as 'softmax' and is declared 'value'"):
        _ = model.predict(x[:2], heads={"mood": "value"})["mood"].observation


def test_one_hot_targets_are_classes(classifier, classified) -> None:
    x, y = classified(300)
    one = keepdrop.calibrate(classifier, x, {"mood": y["mood"]}).calibration
    assert keepdrop.calibrate(classifier, x, {"mood": np.eye(3)[y["mood"]]}).calibration == one
    with pytest.raises(InputError, match="a target of 'mood' is 3; give classes from 0 to 2"):
        keepdrop.calibrate(classifier, x, {"mood": y["mood"] + 1})
    with pytest.raises(InputError, match="does not say of which output"):
        keepdrop.calibrate(classifier, x, y["mood"])


def test_without_calibration_the_error_names_the_command(horizon, classifier, observed) -> None:
    with pytest.raises(InputError, match="this artifact is not calibrated.*`keepdrop calibrate ARTIFACT LABELLED"):
        _ = horizon.predict(observed(2)[0]).observation
    x = np.zeros((300, 3), np.float32)
    with pytest.warns(UserWarning, match="worth about"):
        model = keepdrop.calibrate(classifier, x, {"mood": np.arange(300) // 100})
    with pytest.raises(InputError, match="output 'alarm' is not calibrated"):
        _ = model.predict(x[:1])["alarm"].observation


def test_few_samples_are_warned_of(calibrated, observed) -> None:
    x, _ = observed(3, 6)
    with pytest.warns(UserWarning, match="10 samples where the calibration had 200"):
        _ = calibrated.predict(x, samples=10).observation


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"y": np.zeros(7)}, "y has 7 rows and x 300"),
        ({"y": np.zeros((300, 3))}, r"the targets of 'y' are \[300, 3\]; its answers ask for \[rows, 4\]"),
        ({"y": {"z": np.zeros(300)}}, r"y has targets of \['z'\]"),
        ({"y": np.full((300, 4), np.inf)}, "hold infinity"),
        ({"y": [["a"] * 4] * 300}, "are no numbers"),
        ({"times": ["yesterday"] * 300}, "times are none"),
        ({"x": np.zeros((0, 2))}, "x has no rows"),
    ],
)
def test_what_does_not_fit_is_named(horizon, observed, given, text) -> None:
    x, y = observed(300)
    with pytest.raises(InputError, match=text):
        keepdrop.calibrate(horizon, **{"x": x, "y": y, **given})


def test_a_saved_calibration_is_read_again_and_taken_out(calibrated, horizon_path, tmp_path, observed) -> None:
    x, _ = observed(10, 7)
    path = tmp_path / "calibrated.onnx"
    path.write_bytes(calibrated.to_bytes())
    again = keepdrop.load(path)
    assert again.calibration == calibrated.calibration
    np.testing.assert_array_equal(
        again.predict(x).observation.interval(0.9), calibrated.predict(x).observation.interval(0.9)
    )
    assert path.stat().st_size - horizon_path.stat().st_size < 11_000  # knots and the factors of the path
    onnx.checker.check_model(onnx.load(path))
    assert keepdrop.load(io.BytesIO(again.with_calibration(None).to_bytes())).calibration is None


def test_a_pickled_model_keeps_its_calibration(calibrated, observed) -> None:
    x, _ = observed(4, 8)
    again = pickle.loads(pickle.dumps(calibrated))
    np.testing.assert_array_equal(
        again.predict(x).observation.quantile(0.9), calibrated.predict(x).observation.quantile(0.9)
    )


def changed(record: Calibration, **values) -> str:
    fields = json.loads(record.to_json())
    fields["values"][0].update(values)
    return json.dumps(fields)


@pytest.mark.parametrize(
    "change",
    [
        lambda r: changed(r, a=[1.0]),
        lambda r: changed(r, a=[-1.0] * 4),
        lambda r: changed(r, which=[0, 0, 0, 1]),
        lambda r: changed(r, output="z"),
        lambda r: changed(r, shape=[2, 3]),
        lambda r: changed(r, shape=[-1, -4]),
        lambda r: changed(r, scores=[]),
        lambda r: changed(r, scores=[{**json.loads(r.to_json())["values"][0]["scores"][0], "knots": [1.0] * 7}]),
        lambda r: changed(r, scores=[{**json.loads(r.to_json())["values"][0]["scores"][0], "way": "both"}]),
        lambda r: r.to_json().replace('"format":1', '"format":2'),
        lambda r: "[]",
        lambda r: r.to_json().replace('"samples":200', '"samples":"many"'),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(calibrated, change) -> None:
    outputs = calibrated.metadata.outputs
    assert Calibration.from_json(calibrated.calibration.to_json(), outputs) == calibrated.calibration
    with pytest.raises(keepdrop.ArtifactError, match=CALIBRATION_KEY):
        Calibration.from_json(change(calibrated.calibration), outputs)


def test_the_checksum_binds_the_record(calibrated, tmp_path) -> None:
    path = tmp_path / "calibrated.onnx"
    path.write_bytes(calibrated.to_bytes())
    content = path.read_bytes()
    torn = content.replace(b'"samples":200', b'"samples":900')
    assert torn != content
    path.write_bytes(torn)
    with pytest.raises(keepdrop.ArtifactError, match="it is damaged"):
        keepdrop.load(path)


def test_words_say_what_it_rests_on(calibrated) -> None:
    assert calibrated.calibration.words("y").startswith("calibrated on 800 rows (about ")
    assert calibrated.calibration.words("y").endswith("effective) of 2012-03-01 to 2012-04-03")
    assert dataclasses.replace(calibrated.calibration, first=None).words("y").endswith("effective)")


def test_a_row_that_is_no_number_has_no_interval(calibrated, observed) -> None:
    x, _ = observed(3, 9)
    p = calibrated.predict(x, samples=60)
    broken = p.samples.copy()
    broken[7, 1] = np.nan
    o = dataclasses.replace(p, samples=broken).observation
    low, high = o.interval(0.9)
    assert np.isnan(low[1]).all() and np.isnan(high[1]).all() and np.isnan(o.probability(above=3)[1]).all()
    np.testing.assert_array_equal(low[[0, 2]], p.observation.interval(0.9)[0][[0, 2]])


def test_a_streaming_artifact_is_calibrated_on_windows(streaming) -> None:
    model, rng = keepdrop.load(streaming), np.random.default_rng(0)
    x = rng.normal(0, 1, (120, 6, 2)).astype(np.float32)
    answers = model.stream(samples=50, rows=np.arange(120)).push(x)["y"].quantile(0.5)
    y = answers + rng.normal(0, 1, answers.shape)
    calibrated = keepdrop.calibrate(model, x, {"y": y}, samples=50, pool=False)
    p = calibrated.stream(samples=50, rows=np.arange(120)).push(x)["y"]
    low, high = p.observation.interval(0.9)
    assert ((low <= y) & (y <= high)).mean() > 0.85
    assert keepdrop.evaluate(calibrated, x, {"y": y}).outputs[0].values["calibrated"].at(0.9).coverage > 0.85
