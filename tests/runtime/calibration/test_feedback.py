"""The tracker of a stream, beside the algorithm written out, and what it promises."""

from collections import deque

import numpy as np
import pytest

from keepdrop.calibration import conformal, feedback
from keepdrop.calibration.feedback import TRACKED, Tracker
from keepdrop.errors import InputError


def tracker(elements: int = 1, waiting: int = 64) -> Tracker:
    knots = conformal.signed_knots(np.random.default_rng(0).normal(0, 1, 500), 500)
    return Tracker("level", np.tile(knots, (elements, 1)), np.full(elements, 2.0), np.full(elements, 0.5), waiting)


def begun(learner: Tracker, rows: int = 1) -> dict[str, np.ndarray]:
    arrays = learner.empty(rows)
    for place in range(rows):
        learner.start(arrays, place)
    return arrays


def follow(learner, arrays, truths, delay=0, place=0):
    """Answers of median 0 and variance 1 whose truths come `delay` steps later: the low and high ends issued at 0.9."""
    ends = []
    for step in range(len(truths)):
        if step >= delay and delay:
            learner.observe(arrays, place, 7, step - delay, truths[step - delay])
        scale, quantiles = learner.issue(arrays, place, step, 0.0, 1.0)
        ends.append(scale * np.interp([0.05, 0.95], TRACKED, quantiles[0]))
        if not delay:
            learner.observe(arrays, place, 7, step, truths[step])
    return np.array(ends)


def test_it_is_the_algorithm_of_the_docstring() -> None:
    learner, rng = tracker(), np.random.default_rng(1)
    arrays = begun(learner)
    truths = rng.standard_t(3, 400) * np.linspace(1, 3, 400)
    found = follow(learner, arrays, truths, delay=3)
    knots = learner.starts[0]
    start = np.interp((np.arange(250) * 153 % 250 + 0.5) / 250, conformal.TAUS, knots)
    window, corrections = deque(start, 250), np.zeros(len(TRACKED))
    unit = np.subtract(*np.interp([0.75, 0.25], conformal.TAUS, knots)) / 1.349
    scale, issued, expected = np.sqrt(2.5), [], []
    for step in range(400):
        if step >= 3:
            score = truths[step - 3] / scale
            window.append(score)
            corrections = corrections + 0.05 * unit * (TRACKED - (score <= issued[step - 3]))
        ordered = np.sort(window)
        ranks = np.where(TRACKED < 0.5, np.floor(251 * TRACKED + 1e-9), np.ceil(251 * TRACKED - 1e-9)).astype(int)
        issued.append(ordered[np.clip(ranks, 1, 250) - 1] + corrections)
        expected.append(scale * np.interp([0.05, 0.95], TRACKED, np.sort(issued[-1])))
    # float32 is what is kept.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("delay", [0, 1, 24])
def test_coverage_holds_though_the_noise_trebles(delay: int) -> None:
    rng = np.random.default_rng(2)
    truths = rng.normal(0, 1, 6000) * np.where(np.arange(6000) < 2000, 1, 3) + np.sin(np.arange(6000) / 500)
    learner = tracker()
    low, high = follow(learner, begun(learner), truths, delay).T
    inside = (low <= truths) & (truths <= high)
    assert abs(inside.mean() - 0.9) < 0.015
    assert np.isfinite(low).all() and np.isfinite(high).all()
    static = learner.starts[0][[10, 190]] * np.sqrt(2.5)
    assert np.mean((static[0] <= truths) & (truths <= static[1])) < 0.85  # which nothing taught


def test_the_first_window_is_spread_over_the_scores_in_any_stretch() -> None:
    learner = tracker()
    ring = begun(learner)[feedback.RING][0, 0]
    assert np.median(ring) == pytest.approx(np.median(ring[:50]), abs=0.1)
    assert np.quantile(ring[100:150], 0.9) == pytest.approx(np.quantile(ring, 0.9), abs=0.2)
    np.testing.assert_allclose(
        np.sort(ring), np.interp((np.arange(250) + 0.5) / 250, conformal.TAUS, learner.starts[0]), rtol=1e-6
    )


def test_truths_come_in_any_order_and_each_counts_for_what_was_issued() -> None:
    truths = np.random.default_rng(0).normal(0, 2, 20)
    learner = tracker()
    arrays = begun(learner)
    for step in range(20):
        learner.issue(arrays, 0, step, 0.0, 1.0)
    for step in (19, 3, 11):
        assert learner.observe(arrays, 0, 7, step, truths[step]).score[0] == pytest.approx(truths[step] / np.sqrt(2.5))
    assert not learner.waits(arrays, 0, 3) and learner.waits(arrays, 0, 4) and not learner.waits(arrays, 0, 20)
    with pytest.raises(InputError, match="the truth of row 7, step 3 came before; give each once"):
        learner.observe(arrays, 0, 7, 3, 1.0)
    with pytest.raises(InputError, match="row 7 has no answer of step 20 .* steps 0 to 19 are at hand"):
        learner.observe(arrays, 0, 7, 20, 1.0)
    with pytest.raises(InputError, match="give what was observed, a finite number"):
        learner.observe(arrays, 0, 7, 5, np.inf)
    assert learner.coverage(arrays, 0, 0.9)[1] == 3


def test_steps_of_a_horizon_are_known_one_after_the_other() -> None:
    learner = tracker(elements=3)
    arrays = begun(learner)
    learner.issue(arrays, 0, 5, np.zeros(3), np.ones(3))
    first = learner.observe(arrays, 0, 7, 5, [0.1, np.nan, np.nan])
    assert np.isfinite(first.pit).tolist() == [True, False, False]
    learner.observe(arrays, 0, 7, 5, [np.nan, np.nan, 9.0])
    with pytest.raises(InputError, match="step 5, element 2, came before"):
        learner.observe(arrays, 0, 7, 5, [np.nan, 0.2, 9.0])
    with pytest.raises(InputError, match="has 2 numbers and its answer 3"):
        learner.observe(arrays, 0, 7, 5, [1.0, 2.0])
    assert arrays[feedback.LEARNED][0].tolist() == [1, 0, 1]


def test_truths_that_never_come_are_given_up_in_bounded_memory() -> None:
    learner = tracker(waiting=8)
    arrays = begun(learner)
    for step in range(30):
        learner.issue(arrays, 0, step, 0.0, 1.0)
    assert arrays[feedback.GIVEN_UP][0] == 22
    with pytest.raises(InputError, match="steps 22 to 29 are at hand, the last 8"):
        learner.observe(arrays, 0, 7, 21, 0.0)
    assert sum(array.nbytes for array in arrays.values()) == learner.bytes_a_row()


def test_rows_do_not_touch_each_other() -> None:
    truths = np.random.default_rng(0).normal(0, 5, 300)
    learner = tracker()
    both, alone = begun(learner, 2), begun(learner)
    before = {name: array[1].copy() for name, array in both.items()}
    follow(learner, both, truths)
    follow(learner, alone, truths)
    for name, array in both.items():
        np.testing.assert_array_equal(array[1], before[name])
        np.testing.assert_array_equal(array[0], alone[name][0])


def test_what_is_covered_is_what_was_inside() -> None:
    learner, rng = tracker(), np.random.default_rng(0)
    arrays, inside = begun(learner), []
    for step, truth in enumerate(rng.normal(0, 2, 250)):
        scale, quantiles = learner.issue(arrays, 0, step, 0.5, 1.0)
        low, high = 0.5 + scale * np.interp([0.1, 0.9], TRACKED, quantiles[0])
        learned = learner.observe(arrays, 0, 7, step, truth)
        assert learned.covered(0.8)[0] == (low <= truth <= high)
        inside.append(low <= truth <= high)
    assert learner.coverage(arrays, 0, 0.8) == (np.mean(inside), 250)
