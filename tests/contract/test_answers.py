"""Calls that find out how many samples they need draw Keras' own, and what they say is what these say."""

from __future__ import annotations

import numpy as np
import pytest

import keepdrop

from .conftest import Forecaster

# As for exports: float32 rounding after a recurrence.
ATOL, RTOL = 1e-5, 1e-4


@pytest.mark.parametrize(
    "options",
    [
        {"until": keepdrop.standard_error(1e-9)},
        {"until": keepdrop.decided(0.0)},
        {"deadline": 60.0},
        {"until": keepdrop.standard_error(1e-9), "deadline": 60.0},
    ],
    ids=["standard_error", "decided", "deadline", "both"],
)
def test_the_samples_are_keras_own(exported_forecaster: Forecaster, options: dict) -> None:
    reference = exported_forecaster.samples  # [T, B, 2]
    p = keepdrop.load(exported_forecaster.path).predict(
        exported_forecaster.x, seed=exported_forecaster.seed, max_samples=len(reference), **options
    )
    assert np.all(p.n == len(reference))
    np.testing.assert_allclose(p.samples, reference, RTOL, ATOL)
    exact = reference.astype(np.float64)
    np.testing.assert_allclose(p.mean, exact.mean(axis=0), RTOL, ATOL)
    np.testing.assert_allclose(p.variance, exact.var(axis=0, ddof=1), RTOL, ATOL)


def test_a_row_that_stops_has_seen_its_first_samples(exported_forecaster: Forecaster) -> None:
    model = keepdrop.load(exported_forecaster.path)
    x, seed = exported_forecaster.x, exported_forecaster.seed
    p = model.predict(x, seed=seed, until=keepdrop.standard_error(relative=0.12, element=0), max_samples=200)
    assert p.met.all() and p.n.tolist() == [72] * 3  # 1 / 0.12^2 = 69.4, and a look at 72
    plain = model.sample(x, samples=72, seed=seed)
    np.testing.assert_allclose(p.samples, plain, RTOL, ATOL)
    assert not np.allclose(p.samples, model.sample(x, samples=72, seed=seed, first_sample=1), RTOL, ATOL)
    later = model.predict(x, seed=seed, first_sample=30, until=keepdrop.standard_error(1e-9), max_samples=42)
    np.testing.assert_allclose(later.samples, plain[30:], RTOL, ATOL)
