"""Tempered probabilities and label sets, beside MAPIE and scikit-learn."""

import numpy as np
import pytest
from mapie.classification import SplitConformalClassifier
from scipy.optimize import minimize, minimize_scalar
from sklearn.base import BaseEstimator, ClassifierMixin

from keepdrop.calibration import classes


def probabilities(n: int, seed: int, temperature: float = 0.4) -> tuple[np.ndarray, np.ndarray]:
    """Cautious probabilities of four classes, and labels of the true ones, which are sharper."""
    rng = np.random.default_rng(seed)
    given = rng.dirichlet([0.7] * 4, n)
    true = classes.tempered(given, temperature)
    return given, np.array([rng.choice(4, p=row) for row in true])


class Given(ClassifierMixin, BaseEstimator):
    """A classifier whose input is its probabilities."""

    def fit(self, x, y):
        self.classes_ = np.arange(4)
        return self

    def predict_proba(self, x):
        return x

    def predict(self, x):
        return x.argmax(axis=1)


@pytest.mark.parametrize("n", [57, 204, 1001])
def test_label_sets_are_those_of_mapie(n: int) -> None:
    known, labels = probabilities(n, 0)
    new, _ = probabilities(500, 1)
    levels = [0.8, 0.9, 0.95]
    mapie = SplitConformalClassifier(Given().fit(None, None), confidence_level=levels, conformity_score="lac")
    _, sets = mapie.conformalize(known, labels).predict_set(new)  # [n, classes, levels]
    knots = classes.label_knots(known, labels)
    for i, level in enumerate(levels):
        np.testing.assert_array_equal(classes.label_set(new, knots, level), sets[:, :, i])
    assert not np.array_equal(classes.label_set(new, knots, 0.5), sets[:, :, 0])


def test_label_sets_hold_what_comes() -> None:
    covered = []
    for seed in range(100):
        p, labels = probabilities(139, seed)
        knots = classes.label_knots(p[:39], labels[:39])
        covered.append(classes.label_set(p[39:], knots, 0.9)[np.arange(100), labels[39:]].mean())
    error = np.std(covered) / np.sqrt(len(covered))
    assert 0.9 - 3 * error < np.mean(covered) < 0.9 + 1 / 40 + 3 * error


def test_the_temperature_is_that_of_the_largest_likelihood() -> None:
    p, labels = probabilities(5000, 0)
    found = classes.fit_temperature(p, labels)

    def cost(u: float) -> float:
        return -np.log(classes.tempered(p, np.exp(u))[np.arange(len(p)), labels]).mean()

    assert np.log(found) == pytest.approx(minimize_scalar(cost).x, abs=1e-5)
    assert found == pytest.approx(0.4, rel=0.1)
    # What is tempered by 1 stays; zeros and ones stay probabilities.
    np.testing.assert_allclose(classes.tempered(p, 1.0), p, atol=1e-12)
    np.testing.assert_allclose(classes.tempered(np.array([[0.0, 1.0]]), 0.5), [[0, 1]], atol=1e-12)


def test_slope_and_offset_are_those_of_the_largest_likelihood() -> None:
    rng = np.random.default_rng(0)
    p = rng.beta(2, 2, 4000)
    true = classes.moved(p, 2.0, -0.7)
    labels = (rng.uniform(size=4000) < true).astype(int)
    slope, offset = classes.fit_logit(p, labels)
    came = labels.sum()
    target = np.where(labels == 1, (came + 1) / (came + 2), 1 / (4000 - came + 2))
    best = minimize(lambda at: classes._logistic_cost(at, classes.logit(p), target), [1.0, 0.0]).x
    assert (slope, offset) == (pytest.approx(best[0], abs=1e-4), pytest.approx(best[1], abs=1e-4))
    assert (slope, offset) == (pytest.approx(2.0, rel=0.1), pytest.approx(-0.7, abs=0.1))


@pytest.mark.parametrize("labels", [np.zeros(30, int), np.ones(30, int), np.repeat([0, 1], 15)])
def test_classes_that_are_apart_or_missing_have_finite_numbers(labels: np.ndarray) -> None:
    slope, offset = classes.fit_logit(np.linspace(0, 1, 30), labels)
    assert np.isfinite([slope, offset]).all()
    moved = classes.moved(np.array([0.0, 0.5, 1.0]), slope, offset)
    assert ((moved >= 0) & (moved <= 1)).all()
