"""Scores beside scoringrules, scikit-learn and scipy."""

import numpy as np
import pytest
import scoringrules
from scipy.stats import spearmanr
from sklearn.metrics import brier_score_loss, log_loss

from keepdrop.calibration import metrics

ROUNDING = 1e-12


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_the_fair_crps_is_that_of_scoringrules(rng) -> None:
    samples, y = rng.normal(0, 1, (50, 200)), rng.normal(0, 1.5, 200)
    expected = scoringrules.crps_ensemble(y, samples, m_axis=0, estimator="fair")
    np.testing.assert_allclose(metrics.crps_samples(samples, y), expected, rtol=0, atol=ROUNDING)
    assert np.isnan(metrics.crps_samples(samples[:1], y)).all()


def test_the_fair_crps_does_not_depend_on_the_number_of_samples(rng) -> None:
    y = rng.normal(0, 1, 100_000)
    few, many = (metrics.crps_samples(rng.normal(0, 1, (n, len(y))), y).mean() for n in (3, 30))
    assert few == pytest.approx(many, abs=0.01)


def test_the_crps_of_quantiles_is_that_of_scoringrules(rng) -> None:
    quantiles, y = np.sort(rng.normal(0, 1, (100, 200)), axis=0), rng.normal(0, 1.5, 200)
    expected = scoringrules.crps_quantile(y, quantiles.T, metrics.MIDPOINTS)
    np.testing.assert_allclose(metrics.crps_quantiles(quantiles, y), expected, rtol=0, atol=ROUNDING)


def test_the_interval_score_is_that_of_scoringrules(rng) -> None:
    low, high, y = rng.normal(-1, 0.1, 300), rng.normal(1, 0.1, 300), rng.normal(0, 1.5, 300)
    expected = scoringrules.interval_score(y, low, high, 0.1)
    np.testing.assert_allclose(metrics.interval_score(low, high, y, 0.9), expected, rtol=ROUNDING)


def test_scores_of_probabilities(rng) -> None:
    p = rng.dirichlet([1, 1, 1], 400)
    labels = np.array([rng.choice(3, p=row) for row in p])
    assert metrics.log_score(p, labels).mean() == pytest.approx(log_loss(labels, p), abs=ROUNDING)
    two, label = p[:, :2] / p[:, :2].sum(axis=1, keepdims=True), np.minimum(labels, 1)
    assert metrics.brier(two, label).mean() == pytest.approx(2 * brier_score_loss(label, two[:, 1]), abs=ROUNDING)
    assert metrics.calibration_error(p, labels) < 0.08  # drawn from these very probabilities
    sharp = p**3 / (p**3).sum(axis=1, keepdims=True)
    assert metrics.calibration_error(sharp, labels) > 0.12


def test_rank_correlation_is_spearmans(rng) -> None:
    a, b = rng.integers(0, 6, 300), rng.normal(0, 1, 300)
    assert metrics.rank_correlation(a, b) == pytest.approx(spearmanr(a, b).statistic, abs=ROUNDING)
    assert np.isnan(metrics.rank_correlation(np.ones(5), np.arange(5)))


def test_pit_is_uniform_where_samples_are_as_observations(rng) -> None:
    samples, y = rng.normal(0, 1, (200, 5000)), rng.normal(0, 1, 5000)
    counts, _ = np.histogram(metrics.pit_samples(samples, y), 10, (0, 1))
    assert abs(counts / 500 - 1).max() < 0.2
    narrow, _ = np.histogram(metrics.pit_samples(samples / 3, y), 10, (0, 1))
    assert narrow[0] > 1200  # too narrow: observations lie outside


def test_effective_rows_of_an_autoregression(rng) -> None:
    """Of x_t = r x_(t-1) + e the variance of the mean is that of n (1 - r) / (1 + r) independent rows."""
    x = np.zeros(40_000)
    noise = rng.normal(0, 1, len(x))
    for t in range(1, len(x)):
        x[t] = 0.6 * x[t - 1] + noise[t]
    assert metrics.effective_rows(x) == pytest.approx(len(x) * 0.4 / 1.6, rel=0.1)
    assert metrics.effective_rows(noise) == pytest.approx(len(x), rel=0.02)
    assert metrics.effective_rows(np.ones(50)) == 50


def test_the_error_of_a_coverage(rng) -> None:
    assert metrics.coverage_error(0.9, 1000) == pytest.approx(np.sqrt(0.09 / 1000), rel=0.01)
    assert 0 < metrics.coverage_error(1.0, 50) < 0.03
