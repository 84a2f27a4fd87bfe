"""Streams that learn from truths: an ordinary artifact over a rolling window, calibrated on readings of before."""

import gc
import io
import json
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import keepdrop
from keepdrop import InputError, cli
from keepdrop.answer.prediction import summarise
from keepdrop.artifact.metadata import Head
from keepdrop.calibration.conformal import signed_knots
from keepdrop.calibration.feedback import TRACKED, Tracker
from keepdrop.calibration.record import Calibration, Scores, Values
from keepdrop.stream.learning import Learning
from keepdrop.stream.rows import RowStore

FORECASTER = Path(__file__).parent / "data" / "forecaster.onnx"  # [batch, 5, 2] -> [batch, 1]
STEPS, SAMPLES = 5, 24
NOISE = 0.3


@pytest.fixture(scope="module")
def plain():
    return keepdrop.load(FORECASTER, threads=1)


@pytest.fixture(scope="module")
def series():
    """Readings [900, 2] of one sensor."""
    return np.random.default_rng(0).normal(size=(900, 2)).astype(np.float32)


@pytest.fixture(scope="module")
def answers(plain, series):
    """What the model says of each window's last reading, row 3: [900], NaN before there is a window."""
    windows = np.lib.stride_tricks.sliding_window_view(series, STEPS, axis=0).transpose(0, 2, 1)
    found = plain.predict(windows, samples=SAMPLES, rows=np.full(len(windows), 3)).quantile(0.5)[:, 0]
    return np.concatenate([np.full(STEPS - 1, np.nan), found])


@pytest.fixture(scope="module")
def truths(answers):
    """The answers and noise, three times as much from 500 on."""
    rng = np.random.default_rng(1)
    return answers + NOISE * rng.standard_t(5, len(answers)) * np.where(np.arange(len(answers)) < 500, 1, 3)


@pytest.fixture(scope="module")
def model(plain, series, truths):
    """Calibrated on the first 300 windows."""
    windows = np.lib.stride_tricks.sliding_window_view(series[:304], STEPS, axis=0).transpose(0, 2, 1)
    return keepdrop.calibrate(plain, windows, truths[STEPS - 1 : 304, None], samples=SAMPLES)


def begun(model, rows=(3,)):
    return model.stream(samples=SAMPLES, rows=list(rows))


def follow(s, series, truths, start, stop, delay, row=3):
    """Push readings, each truth `delay` steps late; whether each answer's interval held its truth, [steps] by pit."""
    covered = []
    for n in range(start, stop):
        s.push(series[n : n + 1], rows=[row])
        late = s.steps_seen[row] - delay
        if late >= STEPS:
            covered.append(s.observe(truths[n - delay], step=late, row=row).covered(0.9)[0])
    return np.array(covered)


def test_a_stream_begins_where_the_calibration_ended(model, series) -> None:
    s = begun(model)
    for n in range(300, 306):
        p = s.push(series[n : n + 1])
    static = model.predict(series[None, 301:306], samples=SAMPLES, rows=[3]).observation
    low, high = p.observation.interval(0.9)
    wanted = np.stack(static.interval(0.9))[:, 0, 0]
    np.testing.assert_allclose([low[0, 0], high[0, 0]], wanted, atol=0.05 * np.ptp(wanted))
    assert "learned from 0 truths" in p.observation.basis
    assert p.observation.quantile([0.1, 0.5]).shape == (2, 1, 1) and p.observation.probability(above=0.0).shape == (
        1,
        1,
    )
    assert np.isfinite(p.observation.std).all()


def test_intervals_are_those_of_a_tracker_that_is_told_the_same(model, series, truths) -> None:
    """Late, out of order and partly never; beside the tracker, whose own tests have the algorithm."""
    s, values = begun(model), model.calibration.values[0]
    tracker = Tracker("forecast", np.array([values.scores[0].knots]), np.array(values.a), np.array(values.b))
    arrays = tracker.empty(1)
    tracker.start(arrays, 0)
    told = {n: [n - 2] for n in range(12, 120)} | {39: [], 40: [38, 37], 60: []}
    for n in range(1, 120):
        p = s.push(series[n : n + 1])
        if n >= STEPS:
            median, variance = p.quantile(0.5).astype(float)[0], p.exact_variance[0]
            scale, quantiles = tracker.issue(arrays, 0, n, median, variance)
            low, high = median + scale * [np.interp(tau, TRACKED, quantiles[0]) for tau in (0.05, 0.95)]
            np.testing.assert_allclose(np.concatenate(p.observation.interval(0.9))[:, 0], [low, high], rtol=1e-5)
        for step in told.get(n, []):
            learned = s.observe(truths[step], step=step)
            assert learned.pit == tracker.observe(arrays, 0, 3, step, truths[step]).pit
    assert s.coverage(0.9) == tracker.coverage(arrays, 0, 0.9) and s.coverage(0.9).truths == 108 - 1


def test_coverage_holds_where_errors_grow(model, series, truths) -> None:
    s = begun(model)
    covered = follow(s, series, truths, 310, 900, delay=3)
    assert abs(covered.mean() - 0.9) < 0.03
    assert abs(covered[300:].mean() - 0.9) < 0.05
    # Without truths the intervals stay as they were, and miss.
    windows = np.lib.stride_tricks.sliding_window_view(series[600:], STEPS, axis=0).transpose(0, 2, 1)
    low, high = model.predict(windows, samples=SAMPLES, rows=np.full(len(windows), 3)).observation.interval(0.9)
    within = (low[:, 0] <= truths[604:]) & (truths[604:] <= high[:, 0])
    assert within.mean() < 0.75


def test_what_is_no_truth_is_refused_and_changes_nothing(model, series, truths) -> None:
    s = begun(model)
    follow(s, series, truths, 300, 400, delay=2)
    before = s.save()
    for arguments, text in (
        ({"step": 98, "value": 1.0}, "row 3, step 98 came before; give each once"),
        ({"step": 5, "value": 1.0}, "row 3 has no answer of step 5"),
        ({"step": 200, "value": 1.0}, "row 3 has no answer of step 200"),
        ({"value": np.nan}, "give what was observed, a finite number"),
        ({"value": [1.0, 2.0]}, "has 2 numbers and its answer 1"),
        ({"value": 1.0, "row": 9}, "no row 9"),
        ({"value": 1.0, "output": "other"}, "this one is of 'other'"),
        ({"value": 1.0, "step": 2.5}, "step is 2.5; expected an integer"),
    ):
        with pytest.raises(InputError, match=text):
            s.observe(**arguments)
    assert s.save() == before
    s.observe(1.0)  # of the last answer
    assert not s.waits(100) and s.waits(99)
    assert s.save() != before


def test_truths_before_a_window_is_full_have_no_answer(model, series) -> None:
    s = begun(model)
    s.push(series[:1])
    with pytest.raises(InputError, match="row 3 has no answer of step 1 .* it has none yet"):
        s.observe(1.0)


def test_an_artifact_that_is_not_calibrated_takes_no_truths(plain, series) -> None:
    s = begun(plain)
    p = s.push(series[None, :5])
    assert s.learns == ()
    for call in (s.observe, s.coverage):
        with pytest.raises(InputError, match="this artifact is not calibrated"):
            call(0.5)
    with pytest.raises(InputError, match="is not calibrated"):
        p.observation  # noqa: B018


def test_rows_learn_apart(model, series, truths) -> None:
    alone = begun(model)
    wanted = follow(alone, series, truths, 300, 400, delay=2)
    s = begun(model, [7, 3])
    s.remove(7)
    s.add(5)
    covered = []
    for n in range(300, 400):
        s.push(series[[n, n]])
        if n >= 300 + STEPS + 1:
            covered.append(s.observe(truths[n - 2], step=s.steps_seen[3] - 2, row=3).covered(0.9)[0])
            s.observe(truths[n - 2] + 50, step=s.steps_seen[5] - 2, row=5)
    np.testing.assert_array_equal(covered, wanted)
    with pytest.raises(InputError, match="the stream has 2 rows; say by row= which"):
        s.observe(1.0)
    low, high = s.push(series[[400, 400]]).observation.interval(0.9)
    mine = alone.push(series[400:401]).observation.interval(0.9)
    np.testing.assert_array_equal([low[0], high[0]], np.stack(mine)[:, 0])
    assert high[1, 0] - low[1, 0] > 5 * (high[0, 0] - low[0, 0])


def test_a_resumed_stream_goes_on_learning(model, series, truths) -> None:
    s = begun(model, [3, 4])
    follow(s, series, truths, 300, 380, delay=4)
    resumed = model.resume(s.save())
    assert resumed.save() == s.save()
    np.testing.assert_array_equal(
        follow(resumed, series, truths, 380, 480, delay=4), follow(s, series, truths, 380, 480, delay=4)
    )
    assert resumed.save() == s.save() and resumed.coverage(0.8, row=3) == s.coverage(0.8, row=3)


def test_a_state_of_another_calibration_learns_anew(model, plain, series, truths) -> None:
    s = begun(model)
    follow(s, series, truths, 300, 380, delay=1)
    windows = np.lib.stride_tricks.sliding_window_view(series[200:504], STEPS, axis=0).transpose(0, 2, 1)
    other = keepdrop.calibrate(plain, windows, truths[204:504, None], samples=SAMPLES)
    resumed = other.resume(s.save())
    assert resumed.steps_seen == s.steps_seen and resumed.coverage().truths == 0 < s.coverage().truths
    without = plain.resume(s.save())
    np.testing.assert_array_equal(without.push(series[380:381]).samples, s.push(series[380:381]).samples)


def test_a_state_of_before_calibrating_goes_on(plain, model, series) -> None:
    s = begun(plain)
    s.push(series[None, :7])
    resumed = keepdrop.load(io.BytesIO(model.to_bytes())).resume(s.save())
    wanted, found = s.push(series[7:8]), resumed.push(series[7:8])
    np.testing.assert_array_equal(found.samples, wanted.samples)
    assert resumed.observe(0.5).covered(0.9).shape == (1,)


def test_a_reset_drops_the_answers_that_wait(model, series, truths) -> None:
    s = begun(model)
    follow(s, series, truths, 300, 380, delay=1)
    learned = s.coverage()
    s.reset()
    assert s.coverage() == learned
    with pytest.raises(InputError, match="has no answer of step 80"):
        s.observe(1.0, step=80)


def test_what_a_damaged_state_has_learned_is_refused(model, series, truths) -> None:
    s = begun(model)
    follow(s, series, truths, 300, 320, delay=1)
    for name, value in (("ring_next", 250), ("turn", -1), ("ring", np.nan)):
        with np.load(io.BytesIO(s.save())) as file:
            arrays = {key: file[key] for key in file.files}
        arrays[f"feedback/forecast/{name}"].reshape(-1)[0] = value
        out = io.BytesIO()
        np.savez(out, **arrays)
        with pytest.raises(InputError, match="what its rows learned is out of range"):
            model.resume(out.getvalue())


def test_answers_that_are_no_numbers_have_no_truth(model, series) -> None:
    s = begun(model)
    for n in range(300, 304):
        s.push(series[n : n + 1])
    assert not s.waits(4)
    s.push(series[304:305])
    assert s.waits(5)


def test_memory_does_not_grow_with_truths(model, series, truths) -> None:
    s = begun(model)
    follow(s, series, truths, 300, 400, delay=2)
    size = len(s.save())
    gc.collect()  # what others left is not to be freed, and counted, in between
    tracemalloc.start()
    s.push(series[400:401])
    before = tracemalloc.get_traced_memory()[0]
    follow(s, np.tile(series, (2, 1)), np.tile(truths, 2), 910, 1600, delay=2)
    gc.collect()
    # Some answers are held until they are noted, 30 kB by themselves; 690 pushes that kept 100 bytes each were 69 kB.
    assert tracemalloc.get_traced_memory()[0] - before < 50_000
    tracemalloc.stop()
    assert len(s.save()) == size


def test_what_was_tried_is_forgotten_and_no_more(model, series) -> None:
    s = begun(model)
    for n in range(10):
        s.push(series[n : n + 1])
    with pytest.raises(RuntimeError), s.tentative(3):
        assert not s.observe(50.0, step=8).covered(0.9)[0]
        raise RuntimeError
    assert all(s.waits(step) for step in range(STEPS, 11)) and s.coverage().truths == 0
    with s.tentative(3):
        s.observe(50.0, step=8)
    assert not s.waits(8) and s.coverage().truths == 1


def test_an_answer_keeps_the_interval_that_was_issued(model, series, truths) -> None:
    s = begun(model)
    follow(s, series, truths, 300, 340, delay=2)
    first, second = s.push(series[340:341]), s.push(series[341:342])
    shown = np.stack(first.observation.interval(0.9))
    for step in (39, 40, 41, 42):
        s.observe(50.0, step=step)
    s.reset()
    np.testing.assert_array_equal(np.stack(pickle.loads(pickle.dumps(first)).observation.interval(0.9)), shown)
    wider = begun(model)
    follow(wider, series, truths, 300, 340, delay=2)
    wider.push(series[340:341])
    wanted = wider.push(series[341:342]).observation.interval(0.9)
    np.testing.assert_array_equal(np.stack(second.observation.interval(0.9)), np.stack(wanted))  # asked for late


def test_a_horizon_learns_step_by_step(series) -> None:
    """Each truth is of another element of each of the last answers."""
    knots = tuple(signed_knots(np.random.default_rng(0).normal(0, 1, 300), 300))
    values = Values("y", (3,), (0.0,) * 3, (1.0,) * 3, (0, 0, 0), (Scores("signed", 300, 300.0, None, knots),))
    learning = Learning(Calibration(100, 0, 300, (values,)), ["y"])
    rows = RowStore([3], {}, {}, None, learning.begun(1))
    samples = np.array([[[-1.0, -1, -1]], [[1, 1, 1]]])  # [T, B, E]: median 0
    for step in range(1, 9):
        learning.give(rows, slice(0, 1), np.array([step]), {"y": summarise(samples, head=Head("y"))})
        for ahead in (1, 2, 3):
            if step > ahead:
                assert learning.waits(rows, "y", 3, step - ahead, ahead - 1)
                truth = np.full(3, np.nan)
                truth[ahead - 1] = 0.1 * ahead
                learned = learning.observe(rows, "y", 3, step - ahead, truth)
                assert np.isfinite(learned.pit[ahead - 1]) and np.isnan(np.delete(learned.pit, ahead - 1)).all()
    assert learning.coverage(rows, "y", 3, 0.9) == (1.0, 7 + 6 + 5)


def test_as_many_answers_wait_as_truths_come_late(model, series, truths) -> None:
    s = model.stream(samples=SAMPLES, rows=[3], ahead=100)
    assert s.waiting == 101 and model.stream(ahead=7).waiting == 64
    covered = follow(s, series, truths, 300, 420, delay=100)
    assert len(covered) == 120 - 100 - STEPS + 1 and s.given_up == 0
    resumed = model.resume(s.save())  # which says how many wait
    assert resumed.waiting == 101 and resumed.save() == s.save()
    with pytest.raises(InputError, match="ahead is -1"):
        model.stream(ahead=-1)


@pytest.mark.parametrize("before", (40, 100))
def test_a_state_of_fewer_waiting_answers_goes_on_with_more(model, series, truths, before) -> None:
    """Before and after its ring of 64 is full once."""
    s, wanted = begun(model), model.stream(samples=SAMPLES, rows=[3], ahead=80)
    for n in range(300, 300 + before):
        for each in (s, wanted):
            each.push(series[n : n + 1])
    grown = model.resume(s.save(), ahead=80)
    assert grown.waiting == 81
    steps = [step for step in range(before + 1) if s.waits(step)]
    assert steps == [step for step in range(before + 1) if grown.waits(step)] and len(steps) == min(before - 4, 64)
    for step in (steps[0], steps[-1]):
        assert grown.observe(0.3, step=step).pit == wanted.observe(0.3, step=step).pit
    for n in range(300 + before, 317 + before):
        grown.push(series[n : n + 1])
    assert grown.waits(steps[1]) and grown.given_up == s.given_up


# The command


@pytest.fixture(scope="module")
def calibrated(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("calibrated") / "calibrated.onnx"
    path.write_bytes(model.to_bytes())
    return path


def call(*arguments, given, code=0):
    result = CliRunner().invoke(cli.main, ["stream", *map(str, arguments)], input=given)
    assert result.exit_code == code, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


AHEAD = 2  # a reading's truth is known with the reading two steps later


def lines_of(series, truths, start, stop):
    """CSV: in each line also what was observed of the answer AHEAD steps before."""
    lines = ["id,a,b,y"]
    for n in range(start, stop):
        late = n - AHEAD
        observed = "" if late < start + STEPS - 1 else f"{truths[late]:.9g}"
        lines.append(f"3,{series[n, 0]:.9g},{series[n, 1]:.9g},{observed}")
    return "\n".join(lines) + "\n"


OPTIONS = ("--samples", SAMPLES, "--interval", 0.9, "--id", "id")
BY_COLUMN = (*OPTIONS, "--columns", "a,b", "--truth", "y", "--ahead", AHEAD)


def test_truths_of_a_column_move_the_intervals(calibrated, model, series, truths) -> None:
    answers, error = call(calibrated, *BY_COLUMN, "--coverage", given=lines_of(series, truths, 300, 420))
    assert error == ""
    s = begun(model)
    for n, answer in zip(range(300, 420), answers, strict=True):
        step = n - 299
        if step - AHEAD >= STEPS:
            learned = s.observe(np.float64(f"{truths[n - AHEAD]:.9g}"), step=step - AHEAD)
            assert answer["forecast_covered_0.9"] is bool(learned.covered(0.9)[0])
            assert answer["forecast_truth_step"] == step - AHEAD
            assert answer["forecast_coverage_0.9"] == round(s.coverage(0.9).share, 4)
            assert answer["forecast_truths"] == step - AHEAD - STEPS + 1
        else:
            assert "forecast_covered_0.9" not in answer
        low, high = s.push(series[n : n + 1]).observation.interval(0.9) if step >= STEPS else (None, None)
        if low is None:
            s.push(series[n : n + 1])
            continue
        found = np.float32([answer["forecast_low_0.9"], answer["forecast_high_0.9"]])
        np.testing.assert_array_equal(found, [low[0, 0], high[0, 0]])


def test_truths_may_come_as_messages(calibrated, series, truths) -> None:
    wanted, _ = call(calibrated, *BY_COLUMN, given=lines_of(series, truths, 300, 380))
    messages = []
    for n in range(300, 380):
        step = n - 299
        if step - AHEAD >= STEPS:
            value = float(f"{truths[n - AHEAD]:.9g}")
            messages.append({"id": 3, "step": step - AHEAD, "truth": value, "by": "hand"})
        messages.append({"id": 3, "x": series[n].tolist()})
    answers, _ = call(calibrated, *OPTIONS, given="".join(json.dumps(each) + "\n" for each in messages))
    told = [answer for answer in answers if "truth" in answer]
    assert told[0].keys() == {"id", "step", "forecast_covered_0.9", "truth", "by"}
    assert [each["forecast_covered_0.9"] for each in told] == [
        each["forecast_covered_0.9"] for each in wanted if "forecast_covered_0.9" in each
    ]
    plain = [answer for answer in answers if "truth" not in answer]
    for key in ("forecast_low_0.9", "forecast_high_0.9"):
        assert [answer[key] for answer in plain] == [answer[key] for answer in wanted]


def test_a_truth_that_fits_nothing_is_told_by_its_line(calibrated, series) -> None:
    readings = "".join(json.dumps({"id": 3, "x": x.tolist()}) + "\n" for x in series[:7])
    for message, text in (
        ('{"id": 3, "step": 7, "truth": 1}\n{"id": 3, "step": 7, "truth": 1}', "line 9: the truth of row 3, step 7"),
        ('{"id": 3, "step": 2, "truth": 1}', "line 8: row 3 has no answer of step 2"),
        ('{"id": 4, "step": 2, "truth": 1}', "line 8: the stream has no row 4"),
        ('{"id": 3, "truth": 1}', 'line 8, "step" is None; give the step whose answer forecast it'),
        ('{"id": 3, "step": 7, "truth": "high"}', "line 8, \"truth\" holds 'high', not a number"),
        ('{"id": 3, "step": 7, "truth": {"other": 1}}', "this one is of 'other'"),
    ):
        _, error = call(calibrated, *OPTIONS, given=readings + message, code=1)
        assert text in error
    _, error = call(calibrated, *OPTIONS, "--on-error", "skip", given=readings + message + "\n" + readings)
    assert "1 line was skipped" in error


def test_answers_that_get_no_truth_are_counted(calibrated, series) -> None:
    readings = [json.dumps({"id": 3, "x": x.tolist()}) for x in series[:80]]
    readings.append('{"id": 3, "step": 79, "truth": 0.1}')
    _, error = call(calibrated, *OPTIONS, given="\n".join(readings))
    assert error == "keepdrop: 12 answers were given up without a truth: a row keeps its last 64 for theirs\n"


def test_few_samples_are_told_once_and_in_a_line(calibrated, series) -> None:
    readings = "".join(json.dumps({"id": 3, "x": x.tolist()}) + "\n" for x in series[:8])
    _, error = call(calibrated, "--samples", 5, "--interval", 0.9, given=readings)
    assert error.startswith("keepdrop: 5 samples where the calibration had 24: ") and error.count("\n") == 1


def test_a_truth_needs_a_calibrated_artifact_and_how_far_ahead(calibrated) -> None:
    _, error = call(FORECASTER, "--truth", "y", "--ahead", 1, given="", code=1)
    assert "this artifact is not calibrated" in error
    assert "--truth needs --ahead" in call(calibrated, "--truth", "y", given="", code=2)[1]
    assert "--ahead is of --truth" in call(calibrated, "--ahead", 1, given="", code=2)[1]
    given = "id,a,b\n3,1,2\n"
    _, error = call(calibrated, *OPTIONS, "--columns", "a,b", "--truth", "y", "--ahead", 1, given=given, code=1)
    assert "has no column 'y'; its columns are ['id', 'a', 'b']" in error


def test_a_kill_and_a_resume_give_the_same_intervals(calibrated, series, truths, tmp_path) -> None:
    state = tmp_path / "state.npz"
    header, *lines = lines_of(series, truths, 300, 400).splitlines(keepends=True)
    whole, _ = call(calibrated, *BY_COLUMN, given=header + "".join(lines))
    command = [sys.executable, "-c", "from keepdrop.cli import main; main()", "stream", str(calibrated)]
    options = [*map(str, BY_COLUMN), "--state", str(state), "--save-every", "7"]
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    with subprocess.Popen([*command, *options], text=True, **pipes) as process:
        process.stdin.write(header)
        for line in lines[:60]:
            process.stdin.write(line)
            process.stdin.flush()
            assert process.stdout.readline()
        process.kill()
        process.wait(60)
    (kept,) = keepdrop.load(calibrated).resume(state).steps_seen.values()
    assert kept == 56
    again, _ = call(calibrated, *BY_COLUMN, "--state", state, given=header + "".join(lines[kept:]))
    assert again == whole[kept:]


def test_a_truth_counts_once_its_answer_is_delivered(calibrated, series, tmp_path) -> None:
    state = tmp_path / "state.npz"
    readings = "".join(json.dumps({"id": 3, "x": x.tolist()}) + "\n" for x in series[:7])
    call(calibrated, *OPTIONS, "--state", state, given=readings)
    before = state.read_bytes()
    command = [sys.executable, "-c", "from keepdrop.cli import main; main()", "stream", str(calibrated)]
    with open("/dev/full", "w") as full:
        truth = '{"id": 3, "step": 7, "truth": 0.1}\n'
        done = subprocess.run([*command, "--state", str(state)], input=truth, text=True, stdout=full, check=False)
    assert done.returncode == 1 and state.read_bytes() == before
    call(calibrated, "--state", state, given=truth)
    assert state.read_bytes() != before
