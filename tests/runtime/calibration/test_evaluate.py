"""keepdrop.evaluate."""

import json

import numpy as np
import pytest
from scoringrules import crps_ensemble

import keepdrop
from keepdrop import InputError
from keepdrop.labelled.evaluating import CALIBRATED, RAW

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def calibrated(horizon, observed):
    return keepdrop.calibrate(horizon, *observed(800))


@pytest.fixture(scope="module")
def found(calibrated, observed):
    times = np.datetime64("2012-06-01") + np.arange(900) * np.timedelta64(1, "h")
    return keepdrop.evaluate(calibrated, *observed(900, 1), times=times)


def test_the_figures_are_those_of_the_predictions(found, calibrated, observed) -> None:
    x, y = observed(900, 1)
    p = calibrated.predict(x, samples=200)
    values = found.outputs[0].values
    for way, interval in ((RAW, p.interval), (CALIBRATED, p.observation.interval)):
        for level in (0.5, 0.8, 0.9, 0.95):
            low, high = (end.astype(float) for end in interval(level))
            at = values[way].at(level)
            assert at.coverage == pytest.approx(np.mean((low <= y) & (y <= high)), abs=1e-3)  # float32 ends
            assert at.width == pytest.approx(np.mean(high - low), rel=1e-5)
            beyond = np.maximum(low - y, 0) + np.maximum(y - high, 0)
            assert at.interval_score == pytest.approx(np.mean(high - low + 2 / (1 - level) * beyond), rel=1e-5)
            assert 0.002 < at.error < 0.05
    expected = crps_ensemble(y, p.samples.astype(float), m_axis=0, estimator="fair").mean()
    assert values[RAW].crps == pytest.approx(expected, rel=1e-9)
    assert values[CALIBRATED].crps < 0.97 * values[RAW].crps
    assert max(values[RAW].pit) > 0.2 > max(values[CALIBRATED].pit)
    assert sum(values[CALIBRATED].pit) == pytest.approx(1)
    assert found.outputs[0].correlation > 0.4  # the toy knows where it is unsure


def test_parts_are_by_spread_time_and_step(found) -> None:
    parts = found.outputs[0].parts
    assert {name: len(of) for name, of in parts.items()} == {"spread": 5, "time": 5, "step": 4}
    widths = [part.width[CALIBRATED] for part in parts["spread"]]
    assert widths == sorted(widths)
    assert parts["time"][0].of == "2012-06-01T00:00 to 2012-06-08T11:00"
    assert np.mean([part.coverage[RAW] for part in parts["step"]]) == pytest.approx(
        found.outputs[0].values[RAW].at(0.9).coverage
    )


def test_an_artifact_without_calibration_is_evaluated_too(horizon, observed) -> None:
    found = keepdrop.evaluate(horizon, *observed(300, 2), samples=50, level=0.8, series=np.arange(300) % 3)
    assert list(found.outputs[0].values) == [RAW]
    assert "not calibrated" in str(found) and found.coverage() < 0.75
    assert [part.of for part in found.outputs[0].parts["series"]] == ["0", "1", "2"]


def test_classes_are_judged_by_scores_and_sets(classifier, classified) -> None:
    x, y = classified(1500, 1)
    found = keepdrop.evaluate(keepdrop.calibrate(classifier, *classified(500)), x, y)
    for output in found.outputs:
        raw, calibrated = output.classes[RAW], output.classes[CALIBRATED]
        assert calibrated.log_score < raw.log_score and calibrated.calibration_error < raw.calibration_error
        assert calibrated.set_coverage == pytest.approx(0.9, abs=0.04) and 1 <= calibrated.set_size < 3
    assert found.coverage() == min(output.classes[CALIBRATED].set_coverage for output in found.outputs)
    with pytest.raises(InputError, match="no coverage to judge"):
        keepdrop.evaluate(classifier, x, y).coverage()


def test_the_table_and_the_json_have_the_same_figures(found) -> None:
    told = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    at = told["outputs"][0]["values"]["calibrated"]["levels"][2]
    assert at["level"] == 0.9 and f"{at['coverage']:.1%} +- {at['error']:.1%}" in str(found)
    assert "shown" not in told["outputs"][0]


def test_unknown_targets_are_left_out(calibrated, observed) -> None:
    x, y = observed(400, 3)
    holed = y.copy()
    holed[:100] = np.nan
    whole, part = (
        keepdrop.evaluate(calibrated, x[100:], y[100:], rows=np.arange(100, 400)),
        keepdrop.evaluate(calibrated, x, holed),
    )
    assert part.outputs[0].rows == 300
    assert part.outputs[0].values == whole.outputs[0].values


def test_training_rows_show_in_the_coverage_of_new_ones(horizon, observed) -> None:
    """Negative control: calibrated on errors that are too small, as those of training rows, intervals do not hold."""
    x, y = observed(500, 4)
    known = keepdrop.calibrate(horizon, x, x[:, :1] + (y - x[:, :1]) / 3)
    assert keepdrop.evaluate(known, *observed(500, 5)).coverage() < 0.7
