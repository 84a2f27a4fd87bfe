import numpy as np
import pytest

import keepdrop
from keepdrop import InputError, model
from keepdrop.answer import moments
from keepdrop.answer.moments import Moments, Tally
from keepdrop.answer.prediction import Prediction, paired, summarise
from keepdrop.artifact.metadata import Head


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
    with pytest.raises(InputError, match="quantile 0.051 was not kept"):  # not its neighbour's answer
        prediction.quantile(0.051)
    with pytest.raises(InputError, match="quantile 0.0500001 was not kept"):
        prediction.quantile(0.05 + 1e-7)
    np.testing.assert_array_equal(prediction.quantile((1 - 0.9) / 2), prediction.quantile(0.05))  # 0.04999999999999999
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


# Class probabilities


CLASS_FIGURES = ("predictive_entropy", "expected_entropy", "mutual_information", "variation_ratio")


def classes(samples, kind: str = "softmax") -> Prediction:
    return summarise(np.asarray(samples, np.float64), head=Head("mood", kind))


def figures(prediction: Prediction) -> list[list[float]]:
    return [getattr(prediction, name).tolist() for name in CLASS_FIGURES]


def test_samples_that_are_sure_and_disagree_are_all_mutual_information() -> None:
    """Probabilities of 0 and 1: 0 log 0 is 0."""
    ln2 = float(np.log(2))
    p = classes([[[1, 0]], [[0, 1]], [[1, 0]], [[0, 1]]])  # [4, 1, 2]
    assert figures(p) == [[ln2], [0], [ln2], [0.5]]
    assert (p.top.label.tolist(), p.top.probability.tolist()) == ([0], [0.5])
    p = classes([[1], [0], [0], [1]], "sigmoid")  # [4, 1]
    assert figures(p) == [[ln2], [0], [ln2], [0.5]]
    assert (p.top.label.tolist(), p.top.probability.tolist()) == ([0], [0.5])


def test_samples_that_agree_are_all_expected_entropy() -> None:
    ln4 = np.log(4)
    p = classes(np.full((7, 2, 4), 0.25))
    np.testing.assert_allclose(figures(p), [[ln4] * 2, [ln4] * 2, [0] * 2, [0] * 2], atol=1e-15)
    p = classes(np.full((7, 2), 0.5), "sigmoid")
    np.testing.assert_allclose(figures(p), [[np.log(2)] * 2, [np.log(2)] * 2, [0] * 2, [0] * 2], atol=1e-15)
    np.testing.assert_array_equal(classes(np.tile([1.0, 0, 0], (3, 1, 1))).predictive_entropy, [0])


@pytest.fixture
def moods() -> np.ndarray:
    """Probabilities of 4 classes, float32 [60, 5, 4]."""
    return np.random.default_rng(3).dirichlet([0.5, 1, 1, 2], (60, 5)).astype(np.float32)


def test_class_figures_are_their_definitions(moods) -> None:
    p = summarise(moods, head=Head("mood", "softmax"))
    exact = moods.astype(np.float64)
    mean = exact.mean(axis=0)
    predictive = -(mean * np.log(mean)).sum(axis=-1)
    expected = -(exact * np.log(exact)).sum(axis=-1).mean(axis=0)
    votes = np.stack([np.bincount(exact[:, b].argmax(axis=-1), minlength=4) for b in range(5)])
    np.testing.assert_allclose(p.predictive_entropy, predictive, rtol=1e-6)  # float32 rounding, as below
    np.testing.assert_allclose(p.expected_entropy, expected, rtol=1e-6)
    np.testing.assert_allclose(p.mutual_information, predictive - expected, rtol=1e-6)
    np.testing.assert_allclose(p.variation_ratio, 1 - votes.max(axis=1) / 60, rtol=1e-6)
    np.testing.assert_array_equal(p.top.label, mean.argmax(axis=-1))
    np.testing.assert_allclose(p.top.probability, mean.max(axis=-1), rtol=1e-6)
    assert p.predictive_entropy.shape == (5,) and p.predictive_entropy.dtype == np.float32
    assert not np.allclose(p.predictive_entropy, predictive / np.log(2))  # nats, not bits


def test_a_sigmoid_is_a_softmax_of_two(moods) -> None:
    event = moods[..., :2].astype(np.float64)  # [60, 5, 2], each an event of its own
    alone = classes(event, "sigmoid")
    both = classes(np.stack([1 - event, event], axis=-1))
    np.testing.assert_allclose(figures(alone), figures(both), rtol=1e-12)
    np.testing.assert_array_equal(alone.top.label, both.top.label)
    np.testing.assert_allclose(alone.top.probability, both.top.probability)
    assert alone.mutual_information.shape == (5, 2)


def test_one_sample_of_classes(moods) -> None:
    p = summarise(moods[:1], head=Head("mood", "softmax"))
    np.testing.assert_array_equal(p.mutual_information, np.zeros(5))
    np.testing.assert_array_equal(p.variation_ratio, np.zeros(5))
    assert np.isnan(p.standard_error).all()


def test_nan_stays_in_its_row(moods) -> None:
    whole = summarise(moods, head=Head("mood", "softmax"))
    moods[7, 2, 1] = np.nan
    p = summarise(moods, head=Head("mood", "softmax"))
    for name in CLASS_FIGURES:
        np.testing.assert_array_equal(np.isnan(getattr(p, name)), [False, False, True, False, False])
    assert p.top.label[2] == -1 and np.isnan(p.top.probability[2])
    np.testing.assert_array_equal(p.top.label[[0, 1, 3, 4]], whole.top.label[[0, 1, 3, 4]])


@pytest.mark.parametrize("name", [*CLASS_FIGURES, "top"])
def test_a_value_has_no_classes(samples, name: str) -> None:
    text = "head of output 'next' is 'value'; .* in predict or at export: heads=.'next': 'softmax'., or 'sigmoid'$"
    with pytest.raises(InputError, match=text):
        getattr(summarise(samples, head=Head("next")), name)


@pytest.mark.parametrize("wrong", [[0.5, 0.6], [1.5, -0.5], [np.inf, 0]])
def test_what_are_no_probabilities_are_refused(wrong) -> None:
    p = classes([[[0.5, 0.5]], [wrong]])
    assert p.mean.shape == (1, 2)
    with pytest.raises(InputError, match="'mood' is declared 'softmax' and gave samples that are no probabilities"):
        _ = p.expected_entropy
    rounded = classes([[[0.5, 0.5]], [[1 + 1e-7, -1e-8]]])
    assert np.isfinite(rounded.expected_entropy).all()


# Mean and log-variance


def test_noise_and_model_add_up() -> None:
    mean, logvar = np.array([1.0, 3.0, 5.0]), np.log([0.5, 1.0, 3.0])
    p = summarise(np.stack([mean, logvar], axis=-1)[:, np.newaxis], head=Head("y", "mean,logvar"))  # [3, 1, 2]
    np.testing.assert_allclose(p.aleatoric, [[1.5]])
    np.testing.assert_allclose(p.epistemic, [[4.0]])  # divisor n - 1
    np.testing.assert_allclose(p.total, [[5.5]])
    level, spread = paired(
        [
            summarise(mean[:, np.newaxis], head=Head("level", "mean", "spread")),
            summarise(logvar[:, np.newaxis], head=Head("spread", "logvar", "level")),
        ]
    )
    np.testing.assert_allclose([level.aleatoric, level.epistemic, level.total], [[1.5], [4.0], [5.5]])
    with pytest.raises(InputError, match="output 'spread' is the log-variance of 'level'; ask that one's prediction"):
        _ = spread.total


def test_the_total_is_the_variance_of_observations() -> None:
    """The law of total variance, by simulation: 200,000 observations, whose variance is good to 1 %."""
    rng = np.random.default_rng(4)
    mean, logvar = rng.normal(0, 2, (200_000, 1)), rng.normal(0, 0.5, (200_000, 1))
    p = summarise(np.concatenate([mean, logvar], axis=-1)[:, np.newaxis], head=Head("y", "mean,logvar"))
    seen = np.var(mean + rng.normal(0, np.exp(logvar / 2)))
    np.testing.assert_allclose(p.total, [[seen]], rtol=0.01)
    assert not np.allclose(p.epistemic, seen, rtol=0.01) and not np.allclose(p.aleatoric, seen, rtol=0.01)


def test_noise_may_overflow_and_be_missing() -> None:
    rows = np.array([[1.0, 1e4], [1.0, np.nan], [1.0, -1e4]], np.float32)
    p = summarise(np.stack([rows, rows]), head=Head("y", "mean,logvar"))
    np.testing.assert_array_equal(p.aleatoric, [[np.inf], [np.nan], [0]])
    np.testing.assert_array_equal(p.total, [[np.inf], [np.nan], [0]])
    assert np.isnan(summarise(rows[np.newaxis], head=Head("y", "mean,logvar")).epistemic).all()  # one sample


@pytest.mark.parametrize("name", ["aleatoric", "epistemic", "total"])
def test_a_value_has_no_noise(samples, name: str) -> None:
    with pytest.raises(
        InputError, match="head of output 'next' is 'value'.* at export: heads=.'next': 'mean,logvar'.$"
    ):
        getattr(summarise(samples, head=Head("next")), name)


# Sums over blocks


def test_standard_error_is_that_of_the_mean(samples) -> None:
    p = summarise(samples)
    assert p.n == 41
    np.testing.assert_allclose(p.variance, samples.astype(np.float64).var(axis=0, ddof=1), rtol=1e-6)
    np.testing.assert_allclose(p.standard_error, p.std / np.sqrt(41), rtol=1e-6)


FIGURES = {
    "mood": ("mean", "variance", "standard_error", *CLASS_FIGURES),
    "level": ("mean", "std", "aleatoric", "epistemic", "total"),
    "spread": ("mean", "std"),
}


@pytest.mark.parametrize("quantiles", [(), (0.1, 0.9)])
@pytest.mark.parametrize("block", [1, 5, 65536])
def test_figures_add_up_over_blocks(three, x, monkeypatch, block: int, quantiles) -> None:
    kept = keepdrop.load(three).predict(x, samples=23)
    monkeypatch.setattr(model, "MAX_BLOCK", block)
    added = keepdrop.load(three).predict(x, samples=23, quantiles=quantiles)
    for output, names in FIGURES.items():
        assert added[output].samples is None and added[output].n == 23
        for name in names:
            have, want = getattr(added[output], name), getattr(kept[output], name)
            # the order of summation in float64, rounded to float32
            np.testing.assert_allclose(have, want, rtol=1e-6, atol=1e-9, err_msg=f"{output} {name}")
    np.testing.assert_array_equal(added["mood"].top.label, kept["mood"].top.label)


def test_sums_left_out_would_be_seen(three, x, monkeypatch) -> None:
    kept = keepdrop.load(three).predict(x, samples=23)
    monkeypatch.setattr(model, "MAX_BLOCK", 5)
    monkeypatch.setattr(Tally, "plus", lambda self, other: Tally(self.moments.plus(other.moments), self.sums))
    added = keepdrop.load(three).predict(x, samples=23, quantiles=())
    for name in ("expected_entropy", "variation_ratio"):
        assert not np.allclose(getattr(added["mood"], name), getattr(kept["mood"], name))
    assert not np.allclose(added["level"].aleatoric, kept["level"].aleatoric)


def test_sums_are_taken_in_slices(moods, monkeypatch) -> None:
    whole = moments.sums(moods, "softmax")
    monkeypatch.setattr(moments, "AT_ONCE", 45)
    for name, array in moments.sums(moods, "softmax").items():
        np.testing.assert_allclose(array, whole[name], rtol=1e-12)


@pytest.mark.parametrize("cut", [1, 20, 40])
def test_moments_of_parts_are_those_of_the_whole(samples, cut: int) -> None:
    samples[3, 0, 0], samples[30, 0, 0] = np.inf, -np.inf
    samples[3, 1, 0] = np.inf
    samples[30, 2, 0] = np.nan
    whole, parts = Moments.of(samples), Moments.of(samples[:cut]).plus(Moments.of(samples[cut:]))
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.squares, whole.squares, rtol=1e-12)
    assert np.isposinf(whole.mean[1, 0]) and np.isnan(whole.mean[[0, 2], 0]).all()
    assert np.isnan(whole.variance[:3, 0]).all() and np.isfinite(whole.variance[3:]).all()


def test_agreeing_samples_have_no_spread_in_parts_either() -> None:
    part = Moments.of(np.full((3, 1), 0.1, np.float32))
    assert part.plus(part).plus(part).variance == 0


def test_infinity_makes_no_noise(samples) -> None:
    """Warnings of keepdrop are errors in this suite."""
    samples[0, 0, 0] = np.inf
    p = summarise(samples)
    assert np.isposinf(p.mean[0, 0]) and np.isnan(p.std[0, 0]) and np.isnan(p.standard_error[0, 0])
    assert np.isfinite(p.quantile(0.5)).all()


def test_a_summary_costs_nothing_until_it_is_asked(samples, monkeypatch) -> None:
    monkeypatch.setattr(Moments, "of", lambda samples: pytest.fail("computed"))
    monkeypatch.setattr(moments, "sums", lambda samples, kind: pytest.fail("computed"))
    p = summarise(samples, head=Head("mood", "softmax"))
    assert p.n == 41 and p.quantile(0.5).shape == (5, 2)


def test_a_prediction_shows_what_it_is(samples) -> None:
    assert repr(summarise(samples, head=Head("next"))) == "Prediction('next', value, [5, 2], n=41, samples kept)"


# Heads as declared for one call


def test_a_call_may_say_what_an_output_is(three, x) -> None:
    loaded = keepdrop.load(three)
    p = loaded.predict(x, samples=23, heads={"mood": "sigmoid", "spread": "value"})
    assert p["mood"].expected_entropy.shape == (7, 3) and p["spread"].head == Head("spread")
    with pytest.raises(InputError, match="head of output 'level' is 'value'"):  # its other half is a value now
        _ = p["level"].total
    turned = loaded.predict(x, samples=23, heads={"spread,level": "mean,logvar"})
    np.testing.assert_allclose(
        turned["spread"].aleatoric, np.exp(turned["level"].samples.astype(np.float64)).mean(axis=0), rtol=1e-6
    )
    assert loaded.predict(x)["mood"].head == Head("mood", "softmax")


@pytest.mark.parametrize(
    ("heads", "text"),
    [
        ("softmax", "head 'softmax' does not say of which output, and the model has"),
        ({"mood": "gaussian"}, "there is no head 'gaussian'"),
        ({"mod": "softmax"}, "a head is declared for output 'mod'"),
        ({"mood": "mean,logvar"}, r"output 'mood' has the shape \[3\] a row"),
        (3, "heads is 3; give one of"),
        ({"mood": None}, "there is no head None"),
    ],
)
def test_a_wrong_head_is_told(three, x, heads, text: str) -> None:
    with pytest.raises(InputError, match=text):
        keepdrop.load(three).predict(x, heads=heads)


def test_one_output_needs_no_name(one, x) -> None:
    assert keepdrop.load(one).predict(x, heads="sigmoid").head == Head("y", "sigmoid")
    assert keepdrop.load(one).predict(x).head == Head("y")
