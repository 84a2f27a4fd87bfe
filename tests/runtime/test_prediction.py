import numpy as np
import pytest

import keepdrop
from keepdrop import InputError, model
from keepdrop.prediction import summarise


@pytest.fixture
def samples() -> np.ndarray:
    return np.random.default_rng(1).normal(3, 2, (41, 5, 2)).astype(np.float32)


def test_moments_are_numpys_in_float64(samples) -> None:
    prediction = summarise(samples)
    exact = samples.astype(np.float64)
    assert prediction.mean.dtype == prediction.std.dtype == np.float32
    np.testing.assert_array_equal(prediction.mean, exact.mean(axis=0).astype(np.float32))
    np.testing.assert_array_equal(prediction.std, exact.std(axis=0, ddof=1).astype(np.float32))
    assert not np.allclose(prediction.std, exact.std(axis=0, ddof=0))


def test_a_large_offset_does_not_swamp_the_spread() -> None:
    samples = np.float32(1e6) + np.tile(np.float32([0, 1]), 5000)[:, None]
    expected = np.std(np.tile([0.0, 1.0], 5000), ddof=1)
    np.testing.assert_allclose(summarise(samples).std, [expected], rtol=1e-7)


def test_quantiles_are_numpys(samples) -> None:
    prediction = summarise(samples)
    exact = samples.astype(np.float64)
    # float32 rounding between two neighbouring samples
    np.testing.assert_allclose(prediction.quantile(0.3), np.quantile(exact, 0.3, axis=0), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(prediction.quantile([0.3])[0], prediction.quantile(0.3))
    many = prediction.quantile([0, 0.5, 1])
    assert many.shape == (3, 5, 2)
    assert many.dtype == np.float32
    np.testing.assert_array_equal(many, [samples.min(axis=0), np.median(samples, axis=0), samples.max(axis=0)])
    assert not np.allclose(prediction.quantile(0.3), np.quantile(exact, 0.32, axis=0))


def test_an_interval_is_its_two_quantiles(samples) -> None:
    prediction = summarise(samples)
    low, high = prediction.interval(0.8)
    np.testing.assert_allclose([low, high], prediction.quantile([0.1, 0.9]), rtol=1e-6)
    np.testing.assert_array_equal(prediction.interval(), prediction.interval(0.9))
    assert (low < high).all()


def test_samples_that_agree_have_no_spread() -> None:
    prediction = summarise(np.full((100, 2, 3), 0.1, np.float32))
    np.testing.assert_array_equal(prediction.mean, np.full((2, 3), 0.1, np.float32))
    np.testing.assert_array_equal(prediction.std, np.zeros((2, 3)))
    low, high = prediction.interval(0.9)
    np.testing.assert_array_equal(low, high)


def test_one_sample_has_no_standard_deviation(samples) -> None:
    prediction = summarise(samples[:1])
    assert np.isnan(prediction.std).all()
    assert prediction.std.dtype == np.float32
    np.testing.assert_array_equal(prediction.quantile(0.9), samples[0])


def test_float64_samples_stay_float64(samples) -> None:
    prediction = summarise(samples.astype(np.float64))
    assert {a.dtype for a in (prediction.mean, prediction.std, prediction.quantile(0.5))} == {np.dtype(np.float64)}


@pytest.mark.parametrize("block", [1, 20, 65536])
def test_quantiles_asked_for_equal_those_of_kept_samples(one, x, monkeypatch, block: int) -> None:
    monkeypatch.setattr(model, "MAX_BLOCK", block)
    loaded = keepdrop.load(one)
    kept = loaded.predict(x, samples=10, seed=3)
    dropped = loaded.predict(x, samples=10, seed=3, quantiles=(0.05, 0.95))
    assert kept.samples.shape == (10, 7, 3)
    assert dropped.samples is None
    np.testing.assert_array_equal(dropped.mean, kept.mean)
    np.testing.assert_array_equal(dropped.std, kept.std)
    np.testing.assert_array_equal(dropped.quantile([0.95, 0.05]), kept.quantile([0.95, 0.05]))
    np.testing.assert_allclose(dropped.interval(0.9), kept.interval(0.9), rtol=1e-6)
    assert not np.array_equal(dropped.quantile(0.05), kept.quantile(0.06))


def test_blocks_bound_the_samples_held(one, x, monkeypatch) -> None:
    monkeypatch.setattr(model, "MAX_BLOCK", 20)
    loaded = keepdrop.load(one, threads=1)
    sizes = []
    run = loaded._engine.run
    monkeypatch.setattr(loaded._engine, "run", lambda r, p: sizes.append(r.samples * r.batch) or run(r, p))
    loaded.predict(x, samples=10, quantiles=[])
    assert sizes == [20, 20, 20, 10]
    loaded.predict(x, samples=10)
    assert sizes[4:] == [70]


def test_a_quantile_that_was_not_kept_is_told(one, x) -> None:
    prediction = keepdrop.load(one).predict(x, quantiles=(0.05, 0.95))
    with pytest.raises(InputError, match=r"quantile 0.5 was not kept, only \[0.05, 0.95\] were; add it to quantiles="):
        prediction.quantile(0.5)
    with pytest.raises(InputError, match="quantile 0.1 was not kept"):
        prediction.interval(0.8)


@pytest.mark.parametrize("q", [-0.1, 1.1, np.nan, [0.5, 2], [[0.5]], "half", None])
def test_what_is_no_quantile_is_refused(samples, one, x, q) -> None:
    with pytest.raises(InputError, match="expected a number from 0 to 1 or a sequence"):
        summarise(samples).quantile(q)
    if q is not None:  # predict's own default
        with pytest.raises(InputError, match="expected a number from 0 to 1 or a sequence"):
            keepdrop.load(one).predict(x, quantiles=q)


@pytest.mark.parametrize("level", [0, 1, 90, np.nan, "0.9"])
def test_what_is_no_level_is_refused(samples, level) -> None:
    with pytest.raises(InputError, match="give a number between 0 and 1, such as 0.9"):
        summarise(samples).interval(level)
