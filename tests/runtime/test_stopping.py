"""The rules that stop a row: their formulas, and how often they are wrong when looked at again and again."""

import itertools
import math

import numpy as np
import pytest

from keepdrop import InputError, decided, standard_error
from keepdrop.answer.moments import Moments
from keepdrop.artifact.metadata import Head
from keepdrop.until.stopping import ABOVE, BELOW, STAKE, UNDECIDED, bet, chosen, scaled, t_decision, watched

ROWS, SAMPLES = 2000, 1000
# Where the loop of `predict` looks.
LOOKS = list(
    itertools.takewhile(lambda n: n <= SAMPLES, itertools.accumulate(range(99), lambda n, _: n + max(16, n // 2)))
)[1:]


def bets(samples: np.ndarray, threshold: float, chance: float, cut: int = 100) -> np.ndarray:
    """Decisions of `bet` that stand, given [T, B] in blocks: [B]."""
    found, state = np.zeros((samples.shape[1], 1), np.int8), None
    for start in range(0, len(samples), cut):
        new, state = bet(state, samples[start : start + cut, :, np.newaxis], start, threshold, chance)
        found = np.where(found, found, new)
    return found[:, 0]


def t_tests(samples: np.ndarray, threshold: float, chance: float) -> np.ndarray:
    """Decisions of `t_decision` that stand, over all looks at [T, B]: [B]."""
    found = np.zeros(samples.shape[1], np.int8)
    for n in LOOKS:
        moments = Moments.of(samples[:n])
        found = np.where(found, found, t_decision(n, moments.mean, moments.variance, threshold, chance))
    return found


def uncorrected(samples: np.ndarray, threshold: float, quantile: float) -> np.ndarray:
    """What a test for one look does when it is asked at every look: decisions that stand, [B]."""
    found = np.zeros(samples.shape[1], np.int8)
    for n in LOOKS:
        moments = Moments.of(samples[:n])
        apart = (moments.mean - threshold) / np.maximum(moments.standard_error, 1e-12)
        found = np.where(found, found, np.where(np.abs(apart) > quantile, np.sign(apart), 0))
    return found


def _unit(name: str) -> tuple[np.ndarray, float]:
    """Samples [T, B] from 0 to 1, and their true mean: the hardest threshold."""
    rng = np.random.default_rng(11)
    shape = SAMPLES, ROWS
    if name == "Bernoulli":
        return (rng.random(shape) < 0.8).astype(float), 0.8
    if name == "rare":
        return (rng.random(shape) < 0.05).astype(float), 0.05
    if name == "beta":
        return rng.beta(8, 2, shape), 0.8
    return np.where(rng.random(shape) < 0.1, rng.random(shape), 0.0), 0.05


@pytest.mark.parametrize("name", ["Bernoulli", "rare", "beta", "skewed"])
def test_bets_are_seldom_wrong_whatever_the_distribution(name: str) -> None:
    """At the threshold every decision is wrong: at most 1 in 20 rows may ever have one, over 1,000 looks.

    2,000 rows: with an error of 5 % more than 130 wrong ones (6.5 %) come once in a thousand runs.
    """
    samples, mean = _unit(name)
    assert np.mean(bets(samples, mean, chance=0.05) != UNDECIDED) <= 0.065
    # On either side of it, only one of the two decisions is wrong.
    assert np.mean(bets(samples, mean - 0.01, chance=0.05) == BELOW) <= 0.065
    assert np.mean(bets(samples, mean + 0.01, chance=0.05) == ABOVE) <= 0.065


def test_the_t_test_is_seldom_wrong_for_normal_samples() -> None:
    """Bounds as above; the same again at 1 in 100, where 30 of 2,000 (1.5 %) come once in ninety runs."""
    samples = np.random.default_rng(12).normal(3, 5, (SAMPLES, ROWS))
    assert np.mean(t_tests(samples, 3, chance=0.05) != UNDECIDED) <= 0.065
    assert np.mean(t_tests(samples, 3, chance=0.01) != UNDECIDED) <= 0.015


@pytest.mark.parametrize(("name", "mean"), [("exponential", 1.0), ("lognormal", math.exp(0.5)), ("rare", 0.05)])
def test_the_t_test_bears_samples_that_are_not_normal(name: str, mean: float) -> None:
    """Approximately: there is no such bound for what is skewed enough, which bounds= are for."""
    rng, shape = np.random.default_rng(5), (SAMPLES, ROWS)
    samples = {
        "exponential": lambda: rng.exponential(1, shape),
        "lognormal": lambda: rng.lognormal(0, 1, shape),
        "rare": lambda: (rng.random(shape) < 0.05).astype(float),
    }[name]()
    assert np.mean(t_tests(samples, mean, chance=0.05) != UNDECIDED) <= 0.065


def test_a_test_for_one_look_is_often_wrong_at_many() -> None:
    """The negative control: what the rules are for."""
    normal = np.random.default_rng(12).normal(3, 5, (SAMPLES, ROWS))
    assert np.mean(uncorrected(normal, 3, 1.96) != UNDECIDED) > 0.2
    samples, mean = _unit("Bernoulli")
    assert np.mean(uncorrected(samples, mean, 1.96) != UNDECIDED) > 0.2


def test_bets_that_ask_for_too_little_are_seen() -> None:
    """Another one: a capital of 2 / 0.5 is no evidence at 1 in 20."""
    samples, mean = _unit("Bernoulli")
    assert np.mean(bets(samples, mean, chance=0.5) != UNDECIDED) > 0.2


def test_clear_cases_are_decided_soon() -> None:
    """Few samples where the mean is far from the threshold, and always the right side."""
    rng = np.random.default_rng(13)
    for mean, n in [(0.05, 16), (0.5, 48), (0.95, 125)]:
        samples = np.clip(rng.normal(mean, 0.1, (n, 200)), 0, 1)
        assert (bets(samples, 0.8, chance=0.01) == (ABOVE if mean > 0.8 else BELOW)).all()
    assert (t_tests(rng.normal(1, 1, (SAMPLES, 200)), 0, chance=0.01) == ABOVE).all()
    assert (t_tests(rng.normal(-1, 1, (SAMPLES, 200)), 0, chance=0.01) == BELOW).all()


def test_a_bets_capital_is_the_product_of_its_gains() -> None:
    """Samples one by one, by the formulas of Waudby-Smith and Ramdas in plain Python."""
    threshold = 0.3
    xs = np.random.default_rng(14).random(25)
    above = below = 1.0
    seen: list[float] = []
    means: list[float] = []
    for x in xs:
        mean = (0.5 + sum(seen)) / (len(seen) + 1)
        variance = (0.25 + sum((a - m) ** 2 for a, m in zip(seen, means, strict=True))) / (len(seen) + 1)
        stake = (mean - threshold) / (variance + (mean - threshold) ** 2)
        above *= 1 + min(max(stake, 0), STAKE / threshold) * (x - threshold)
        below *= 1 - min(max(-stake, 0), STAKE / (1 - threshold)) * (x - threshold)
        seen.append(x)
        means.append((0.5 + sum(seen)) / (len(seen) + 1))
    _, state = bet(None, xs[:, np.newaxis, np.newaxis], 0, threshold, 0.01)
    np.testing.assert_allclose([state.above[0, 0], state.below[0, 0]], np.log([above, below]), rtol=1e-12)


@pytest.mark.parametrize("cut", [1, 7, 300])
def test_bets_do_not_depend_on_the_blocks(cut: int) -> None:
    samples = np.random.default_rng(15).beta(8, 2, (300, 50))
    found, state = bet(None, samples[..., np.newaxis], 0, 0.78, 0.01)
    np.testing.assert_array_equal(bets(samples, 0.78, 0.01, cut), found[:, 0])
    assert 0 < np.count_nonzero(found) < 50
    again = None
    for start in range(0, 300, cut):
        _, again = bet(again, samples[start : start + cut, :, np.newaxis], start, 0.78, 0.01)
    np.testing.assert_array_equal(np.stack(again), np.stack(state))  # to the bit


def test_the_t_tests_evidence_is_the_bayes_factor() -> None:
    """Rouder et al. with a normal prior is an integral over effect sizes, done here by a sum (good to 1e-6)."""
    n, t = 80, 3.1
    effects = np.linspace(-8, 8, 160_001)
    prior = np.exp(-(effects**2) / 2) / math.sqrt(2 * math.pi)
    # The density of t given an effect, over that given none, integrated over the standard deviation's logarithm too.
    scale = np.exp(np.linspace(-4, 4, 4001))
    mean, squares = t / math.sqrt(n), (n - 1) * 1.0  # std 1

    def likelihood(effect: float) -> float:
        logs = -n * np.log(scale) - (squares + n * (mean - effect * scale) ** 2) / (2 * scale**2)
        return float(np.exp(logs).sum())

    coarse = effects[::400]
    ratio = np.array([likelihood(e) for e in coarse]) / likelihood(0.0)
    factor = float((ratio * prior[::400]).sum() * (coarse[1] - coarse[0]))
    mean_, variance = np.array([[mean]]), np.array([[1.0]])
    assert t_decision(n, mean_, variance, 0.0, chance=1.001 / factor) == ABOVE
    assert t_decision(n, mean_, variance, 0.0, chance=0.999 / factor) == UNDECIDED
    assert t_decision(n, -mean_, variance, 0.0, chance=1.001 / factor) == BELOW


def test_degenerate_samples() -> None:
    zero = np.zeros((1, 1))
    assert t_decision(64, zero + 2, zero + 1e-9, 1.0, 0.01) == ABOVE
    assert t_decision(63, zero + 2, zero + 1e-9, 1.0, 0.01) == UNDECIDED  # too few
    assert t_decision(64, zero + 2, zero, 1.0, 0.01) == UNDECIDED  # no spread
    assert t_decision(64, zero + 1, zero, 1.0, 0.01) == UNDECIDED
    assert t_decision(64, zero + np.nan, zero, 1.0, 0.01) == UNDECIDED
    assert (bets(np.zeros((50, 1)), 0.2, 0.01), bets(np.ones((50, 1)), 0.8, 0.01)) == (BELOW, ABOVE)
    assert bets(np.full((500, 1), 0.8), 0.8, 0.01) == UNDECIDED
    assert bets(np.full((50, 1), np.nan), 0.8, 0.01) == UNDECIDED


HEAD = Head("y")


def test_a_standard_error_is_small_or_not() -> None:
    rng = np.random.default_rng(16)
    samples = rng.normal(0, [[1.0, 1.0], [1.0, 3.0]], (100, 2, 2))  # standard errors about 0.1 and 0.3
    moments = Moments.of(samples)

    def met(rule) -> list[bool]:
        return rule.look(None, HEAD, samples, moments, 4).met.tolist()

    assert met(standard_error(0.12)) == [True, False]
    assert met(standard_error(0.4)) == [True, True]
    assert met(standard_error(0.12, element=0)) == [True, True]
    assert met(standard_error(relative=0.1)) == [True, True]  # 100 samples
    assert met(standard_error(relative=0.099)) == [False, False]
    assert met(standard_error(0.12, relative=0.09)) == [True, True]
    few = Moments.of(np.zeros((15, 1, 1)))
    assert not standard_error(1).look(None, HEAD, samples, few, 1).met.any()
    assert standard_error(1).look(None, HEAD, samples, Moments.of(np.zeros((16, 1, 1))), 1).met.all()
    assert not standard_error(1).look(None, HEAD, samples, Moments.of(np.full((16, 1, 1), np.nan)), 1).met.any()


def test_more_elements_share_the_chance_of_an_error() -> None:
    samples = np.random.default_rng(17).beta(8, 2, (60, 40, 1))
    moments = Moments.of(samples)
    rule = decided(0.75, 0.9)

    def count(elements: int) -> int:
        return int(rule.look(None, Head("y", "sigmoid"), samples, moments, elements).met.sum())

    assert count(1) > count(100)


def test_a_decision_stands() -> None:
    rule = decided(0.5, 0.99)
    rows = np.concatenate([np.ones((40, 1, 1)), np.zeros((400, 1, 1))])
    first = rule.look(None, Head("y", "sigmoid"), rows[:40], Moments.of(rows[:40]), 1)
    later = rule.look(first, Head("y", "sigmoid"), rows[40:], Moments.of(rows), 1)
    assert first.decision == later.decision == ABOVE


def test_a_decision_without_bounds_stands() -> None:
    """The t-test has no memory of its own: on all 1,100 samples it would decide for the other side."""
    rule = decided(0.5, 0.99)
    samples = np.random.default_rng(18).normal([[[1.0]]] * 100 + [[[-5.0]]] * 1000, 0.1)  # [T, 1, 1]
    first = rule.look(None, HEAD, samples[:100], Moments.of(samples[:100]), 1)
    later = rule.look(first, HEAD, samples[100:], Moments.of(samples), 1)
    assert first.decision == later.decision == ABOVE and later.met.all()
    assert rule.look(None, HEAD, samples, Moments.of(samples), 1).decision == BELOW


def test_what_is_watched() -> None:
    heads = (Head("mood", "softmax"), Head("level", "mean", "spread"), Head("spread", "logvar", "level"))
    assert watched(standard_error(1), heads) == [heads[0], heads[1]]
    assert watched(standard_error(1, output="spread"), heads) == [heads[2]]
    row = np.arange(24).reshape(2, 3, 4)
    assert chosen(row, HEAD, None).shape == (2, 3, 4)
    assert chosen(row, Head("y", "mean,logvar"), None).shape == (2, 3, 2)
    np.testing.assert_array_equal(chosen(row, HEAD, (1, -1)), row[:, 1, -1])
    np.testing.assert_array_equal(chosen(row, HEAD, 2, leading=2), row[:, :, 2])
    with pytest.raises(InputError, match=r"element 5 is not in output 'y', whose rows have the shape \[3, 4\]"):
        chosen(row, HEAD, 5)


def test_samples_beyond_their_bounds_are_told() -> None:
    np.testing.assert_array_equal(scaled(np.array([-1.0, 0, 3 + 1e-9]), (-1, 3), HEAD), [0, 0.25, 1])
    with pytest.raises(InputError, match="output 'y' gave samples from 0 to 1.5, beyond the bounds 0 and 1"):
        scaled(np.array([0, 1.5]), (0, 1), HEAD)
    with pytest.raises(InputError, match="output 'y' gave samples from -0.5 to 1, beyond the bounds 0 and 1"):
        scaled(np.array([-0.5, 1]), (0, 1), HEAD)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: standard_error(), r"standard_error\(0, relative=0\) is never reached; give a positive tolerance"),
        (lambda: standard_error(-1), "is never reached"),
        (lambda: standard_error(1, relative=-1), "is never reached"),
        (lambda: standard_error(np.nan), "tolerance is nan; expected a finite number"),
        (lambda: standard_error("small"), "tolerance is 'small'; expected a finite number"),
        (lambda: decided(np.inf), "threshold is inf; expected a finite number"),
        (lambda: decided(0.8, 99), "confidence is 99; give a number between 0 and 1, such as 0.99"),
        (lambda: decided(0.8, bounds=3), "bounds is 3; give the least and the largest value"),
        (lambda: decided(0.8, bounds=(1, 2)), "threshold is 0.8 and samples are from 1 to 2, which decides it"),
        (lambda: decided(0.8, bounds=(2, 0)), "samples are from 2 to 0"),
        (lambda: watched(decided(1.2), [Head("y", "softmax")]), "threshold is 1.2 and samples are from 0 to 1"),
        (lambda: watched(decided(0.5, output="z"), [HEAD]), r"watches output 'z'; the model's outputs are \['y'\]"),
        (
            lambda: watched(0.01, [HEAD]),
            r"until is 0.01; give keepdrop.standard_error\(tolerance\) or keepdrop.decided",
        ),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(make, text: str) -> None:
    with pytest.raises(InputError, match=text):
        make()


def test_the_rules_of_that_table_are_otherwise_right() -> None:
    assert standard_error(0.01).tolerance == 0.01 and decided(0.8).confidence == 0.99
    assert watched(decided(1.2), [HEAD]) == [HEAD]
