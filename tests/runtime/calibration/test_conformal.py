"""Conformal ranks, scales and what is made of them, beside crepes, and by simulation."""

import math

import numpy as np
import pytest
from crepes import ConformalPredictiveSystem, ConformalRegressor

from keepdrop.calibration import conformal
from keepdrop.calibration.conformal import SIGNED, SYMMETRIC, TAUS

# Sums and quotients of a few float64 numbers of size 1 to 10.
ROUNDING = 1e-12
# Sizes for which crepes, which has no tolerance for 1 - 0.9, rounds to the same ranks.
SIZES = (57, 100, 203, 1001)


def errors_of(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors y - m of a model whose samples know a part of the noise, their variances, and the true scale."""
    rng = np.random.default_rng(seed)
    variance = rng.gamma(2.0, 0.5, n)
    scale = np.sqrt(2.5 * variance + 0.7)
    return scale * rng.standard_t(5, n), variance, scale


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_symmetric_intervals_are_those_of_crepes(n: int, level: float) -> None:
    errors, variance, _ = errors_of(n)
    spread, knots = conformal.fit(errors[:, None], variance[:, None], SYMMETRIC)
    scale = spread.scale(variance[:, None])[:, 0]
    expected = ConformalRegressor().fit(errors, sigmas=scale).predict_int(np.zeros(n), sigmas=scale, confidence=level)
    ends = conformal.score_quantiles([(1 - level) / 2, (1 + level) / 2], knots)
    np.testing.assert_allclose(ends * scale[:, None], expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("n", SIZES)
def test_signed_quantiles_are_those_of_a_predictive_system_of_crepes(n: int) -> None:
    errors, variance, _ = errors_of(n)
    spread, knots = conformal.fit(errors[:, None], variance[:, None], SIGNED)
    scale = spread.scale(variance[:, None])[:, 0]
    lower, higher = [5, 12.5, 25], [75, 87.5, 95]  # percentiles that binary fractions hold, or rounding forgives
    system = ConformalPredictiveSystem().fit(errors, sigmas=scale)
    expected = system.predict_percentiles(np.zeros(n), scale, lower_percentiles=lower, higher_percentiles=higher)
    found = conformal.score_quantiles(np.array([*lower, *higher]) / 100, knots) * scale[:, None]
    np.testing.assert_allclose(found, expected, rtol=ROUNDING, atol=ROUNDING)


@pytest.mark.parametrize("n", [19, 57, 150])
def test_probabilities_lie_between_the_p_values_of_crepes(n: int) -> None:
    """Each gap between scores has the share 1 / (n + 1); where in it an observation stands nobody knows."""
    errors, _, _ = errors_of(n)
    knots = conformal.signed_knots(errors, n)
    at = np.random.default_rng(1).uniform(errors.min(), errors.max(), 500)
    below = (errors < at[:, None]).sum(axis=1) / (n + 1)
    found = conformal.score_probability(at, knots, conformal.most_level(SIGNED, n))
    grid = 1 / 200  # a rank is known to the next of the stored probabilities
    assert (found >= below - grid - ROUNDING).all() and (found <= below + 1 / (n + 1) + grid + ROUNDING).all()
    lower = ConformalPredictiveSystem().fit(errors).predict_p(np.zeros(500), at, smoothing=False)
    assert np.all(found <= lower + grid + ROUNDING)


def test_probability_undoes_the_quantile() -> None:
    knots = conformal.signed_knots(errors_of(1000)[0], 1000)
    taus = np.linspace(0.005, 0.995, 199)
    found = conformal.score_probability(
        conformal.score_quantiles(taus, knots), knots, conformal.most_level(SIGNED, 1000)
    )
    np.testing.assert_allclose(found, taus, rtol=0, atol=ROUNDING)


def test_what_no_row_showed_is_no_rarer_than_one_in_as_many() -> None:
    knots = conformal.signed_knots(errors_of(19)[0], 19)
    assert conformal.score_probability(-1e9, knots, conformal.most_level(SIGNED, 19)) == pytest.approx(1 / 20)
    assert conformal.score_probability(1e9, knots, conformal.most_level(SIGNED, 19)) == pytest.approx(19 / 20)


@pytest.mark.parametrize("way", [SIGNED, SYMMETRIC])
@pytest.mark.parametrize(("n", "level"), [(19, 0.9), (39, 0.95), (100, 0.9), (1000, 0.9)])
def test_exchangeable_observations_are_covered_as_the_ranks_say(n: int, level: float, way: str) -> None:
    """2,000 repetitions with the scale given: the coverage is exactly (k - j) / (n + 1) for the ranks j and k.

    The mean over repetitions lies within four standard errors of it. Negative control: ranks that forget the one to
    come, as quantiles of the scores alone would have them, do not.
    """
    rng = np.random.default_rng(n)
    repetitions = 2000
    scores = rng.standard_normal((repetitions, n + 1))
    upper = int(conformal.upper_ranks(np.array([(1 + level) / 2]), n, n)[0])
    exact = (2 * upper - n - 1) / (n + 1) if way == SIGNED else math.ceil((n + 1) * level - 1e-9) / (n + 1)
    assert level - ROUNDING <= exact <= level + 2 / (n + 1) + ROUNDING
    inside, forgetful = 0, 0
    for known, new in zip(scores[:, :-1], scores[:, -1], strict=True):
        low, high = conformal.score_quantiles([(1 - level) / 2, (1 + level) / 2], conformal.KNOTS[way](known, n))
        inside += low <= new <= high
        a, b = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
        forgetful += a <= new <= b
    error = math.sqrt(exact * (1 - exact) / repetitions)
    assert abs(inside / repetitions - exact) < 4 * error
    if n < 50:
        assert forgetful / repetitions < exact - 4 * error


@pytest.mark.parametrize(("n", "lost"), [(19, 0.03), (39, 0.015), (100, 0.01), (1000, 0.01)])
def test_fitting_the_scale_to_the_same_rows_costs_little(n: int, lost: float) -> None:
    """a and b come from the scored rows, which then look better than new ones: measured, and gone as n grows."""
    inside = []
    for seed in range(200):
        errors, variance, _ = errors_of(n + 50, seed)
        spread, knots = conformal.fit(errors[:n, None], variance[:n, None], SIGNED)
        scores = errors[n:] / spread.scale(variance[n:, None])[:, 0]
        low, high = conformal.score_quantiles([0.05, 0.95], knots)
        inside.append(np.mean((low <= scores) & (scores <= high)))
    error = np.std(inside) / math.sqrt(len(inside))
    assert 0.9 - lost - 3 * error < np.mean(inside) < 0.9 + 2 / (n + 1) + 3 * error


def test_the_scale_is_found_again() -> None:
    rng = np.random.default_rng(3)
    variance = rng.gamma(1.0, 1.0, 50_000)
    errors = np.sqrt(2.0 * variance + 0.5) * rng.standard_normal(len(variance))
    a, b = conformal.fit_spread(errors, variance)
    # The grid of shares has steps of 1/40; 50,000 rows find the rest.
    assert a == pytest.approx(2.0, rel=0.05) and b == pytest.approx(0.5, rel=0.12)
    a, b = conformal.fit_noise(np.sqrt(variance + 0.5) * rng.standard_normal(len(variance)), variance)
    assert (a, b) == (1.0, pytest.approx(0.5, rel=0.05))


def test_samples_without_spread_have_a_scale_too() -> None:
    errors = np.random.default_rng(0).normal(0, 3, 500)
    assert conformal.fit_spread(errors, np.zeros(500)) == (0.0, pytest.approx(np.mean(errors**2)))
    assert conformal.fit_noise(np.zeros(5), np.zeros(5)) == (1.0, 0.0)
    spread, knots = conformal.fit(np.zeros((30, 1)), np.zeros((30, 1)), SIGNED)
    assert np.isfinite(knots).all() and np.isfinite(spread.scale(np.zeros((2, 1)))).all()


def test_signed_scores_stand_unless_they_fail_on_the_rows_to_come() -> None:
    rng = np.random.default_rng(0)
    variance = rng.gamma(2.0, 0.5, (800, 1))
    skewed = np.sqrt(variance) * (rng.gamma(1.0, 1.0, (800, 1)) - 1)
    assert conformal.chosen(skewed, variance).way == SIGNED
    swinging = rng.normal(0, 1, (800, 1)) + 3 * np.sign(np.sin(np.arange(800) / 800 * 4 * np.pi + 0.1))[:, None]
    found = conformal.chosen(swinging, variance)
    assert found.way == SYMMETRIC
    assert found.forward > conformal.forward_coverage(swinging, variance, SIGNED) + 0.05


def test_forward_coverage_flags_a_trend_that_shuffling_hides() -> None:
    rng = np.random.default_rng(0)
    errors = (rng.normal(0, 1, 600) + np.arange(600) / 60)[:, None]
    variance = np.ones((600, 1))
    assert conformal.forward_coverage(errors, variance, SIGNED) < 0.6
    assert conformal.forward_coverage(rng.permutation(errors), variance, SIGNED) > 0.85


def test_steps_of_a_path_count_as_one_row() -> None:
    """24 equal steps a row say no more than one: the ranks are those of the rows."""
    errors = np.random.default_rng(0).normal(0, 1, 57)
    alone = conformal.signed_knots(errors, 57)
    pooled = conformal.signed_knots(np.repeat(errors, 24), 57)
    np.testing.assert_array_equal(pooled, alone)


def test_a_path_is_inside_its_joint_band_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    covered, alone = [], []
    for _ in range(150):
        z = np.cumsum(rng.normal(0, 1, (200 + 20, 12)), axis=1) / np.sqrt(np.arange(1, 13))
        knots = conformal.signed_knots(z[:200].reshape(-1), 200)
        factors = conformal.path_knots(z[:200], knots)
        factor = np.interp(0.9, TAUS, factors)
        covered.append(np.mean(conformal.path_factors(z[200:], knots) <= factor))
        alone.append(np.mean(conformal.path_factors(z[200:], knots) <= 1))
    assert 0.885 < np.mean(covered) < 0.92
    assert np.mean(alone) < 0.75  # the bands of the steps alone do not hold the path


def test_moments_are_those_of_the_distribution() -> None:
    scores = np.random.default_rng(0).normal(1, 2, 100_000)
    mean, std = conformal.score_moments(conformal.signed_knots(scores, len(scores)))
    assert (mean, std) == (pytest.approx(1, abs=0.05), pytest.approx(2, rel=0.03))


def test_rows_that_a_level_takes() -> None:
    assert [conformal.least_rows(SIGNED, level) for level in (0.9, 0.95, 0.99)] == [19, 39, 199]
    assert [conformal.least_rows(SYMMETRIC, level) for level in (0.9, 0.95, 0.99)] == [9, 19, 99]
    assert conformal.most_level(SIGNED, 19) == pytest.approx(0.9)
