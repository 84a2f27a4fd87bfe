"""Calls that find out how many samples they need: the samples are those of a plain call, and no more than needed."""

import numpy as np
import pytest

import keepdrop
from keepdrop import InputError, decided, standard_error
from keepdrop.artifact.metadata import Head
from keepdrop.until import adaptive, limits


class Table:
    """An engine that knows every sample beforehand, [number, row id, elements], and how long a run takes."""

    room = 0  # the most samples x rows of a block, if any
    run_in_samples = 0

    def __init__(self, table: np.ndarray, a_run: float = 0.0, a_sample: float = 0.0) -> None:
        self.table = table
        self.now = 0.0
        self.runs: list[tuple[int, int]] = []
        self._costs = a_run, a_sample

    def demand(self, request, beside=0):
        """There is all the memory asked for."""

    demand_summaries = demand

    def block(self, request, most):
        return self.room or most

    def run(self, request, progress=None):
        self.runs.append((request.samples, request.batch))
        self.now += self._costs[0] + self._costs[1] * request.samples * request.batch
        if progress:
            progress(request.samples * request.batch)
        stop = request.first_sample + request.samples
        return [self.table[request.first_sample : stop, request.rows]]


@pytest.fixture
def model(one):
    """A model, and a way to give it an engine of that kind."""
    return keepdrop.load(one, threads=1)


@pytest.fixture
def drawn(monkeypatch, model):
    """Predict from a table [samples, rows, elements]: (prediction, engine)."""

    def drawn(table, *, a_run=0.0, a_sample=0.0, **options):
        engine = Table(table.astype(np.float32), a_run, a_sample)
        monkeypatch.setattr(model, "_engine", engine)
        monkeypatch.setattr(limits, "clock", lambda: engine.now)
        x = np.zeros((len(options.get("rows", range(table.shape[1]))), 3))
        return model.predict(x, **options), engine

    return drawn


@pytest.fixture
def table() -> np.ndarray:
    """Rows of unlike spread, so that each needs another number of samples: [3000, 6, 2]."""
    return np.random.default_rng(21).normal(1, [[0.05], [0.1], [0.2], [0.3], [0.4], [5]], (3000, 6, 2))


def test_each_row_stops_when_its_error_is_small(drawn, table) -> None:
    p, engine = drawn(table, until=standard_error(0.01), max_samples=2000)
    assert p.n.dtype == np.int64 and p.n.shape == (6,)
    assert p.met.tolist() == [True] * 5 + [False] and p.n[5] == 2000
    assert (p.standard_error[:5] <= 0.01).all() and p.decision is None
    for row, n in enumerate(p.n[:5]):
        errors = {k: table[:k, row].astype(np.float32).std(axis=0, ddof=1).max() / np.sqrt(k) for k in range(16, n + 1)}
        assert n == min(k for k in errors if errors[k] <= 0.01 and k in LOOKS)
    assert (np.diff(p.n[1:]) > 0).all() and p.n[0] < 50
    # what is done costs nothing more
    assert sum(samples * rows for samples, rows in engine.runs) == p.n.sum()


LOOKS = [16, 32, 48, 72, 108, 162, 243, 364, 546, 802, 1058, 1314, 1570, 1826, 2082]


def test_the_samples_are_those_of_a_plain_call(drawn, table) -> None:
    p, _ = drawn(table, until=standard_error(0.01), max_samples=2000)
    assert p.samples.shape == (2000, 6, 2)
    for row, n in enumerate(p.n):
        plain, _ = drawn(table, samples=int(n))
        np.testing.assert_array_equal(p.samples[:n, row], plain.samples[:, row])
        assert np.isnan(p.samples[n:, row]).all()
        # float64 sums in another order, rounded to float32
        np.testing.assert_allclose(p.mean[row], plain.mean[row], rtol=1e-6)
        np.testing.assert_allclose(p.std[row], plain.std[row], rtol=1e-6)
        np.testing.assert_array_equal(p.quantile([0.1, 0.5])[:, row], plain.quantile([0.1, 0.5])[:, row])
        np.testing.assert_array_equal(p.interval(0.8)[0][row], plain.interval(0.8)[0][row])
    fewer, _ = drawn(table, samples=1999)
    assert not np.allclose(p.mean[5], fewer.mean[5], rtol=1e-6)


def test_the_other_rows_do_not_matter(drawn, table, monkeypatch) -> None:
    together, _ = drawn(table, until=standard_error(0.01), max_samples=2000)
    for row in range(6):
        alone, _ = drawn(table, rows=[row], until=standard_error(0.01), max_samples=2000)
        assert alone.n == together.n[row]
        np.testing.assert_array_equal(alone.mean[0], together.mean[row])
    monkeypatch.setattr(Table, "room", 4 * adaptive.MOST_STEP + 1)
    for quantiles in (None, (), (0.1, 0.9)):
        parts, engine = drawn(table, until=standard_error(0.01), max_samples=2000, quantiles=quantiles)
        assert max(rows for _, rows in engine.runs) == 4
        np.testing.assert_array_equal(parts.n, together.n)
        np.testing.assert_array_equal(parts.met, together.met)
        np.testing.assert_array_equal(parts.mean, together.mean)
        if quantiles is None:
            np.testing.assert_array_equal(parts.samples, together.samples)
        else:
            assert parts.samples is None
        if quantiles != ():
            np.testing.assert_array_equal(parts.quantile(0.9), together.quantile(0.9))


@pytest.mark.parametrize("quantiles", [None, (), (0.1,)])
def test_drawing_ahead_changes_the_runs_alone(drawn, table, monkeypatch, quantiles) -> None:
    asked = {"until": standard_error(0.01), "max_samples": 1000, "quantiles": quantiles, "first_sample": 3}
    plain, each_look = drawn(table, **asked)
    monkeypatch.setattr(Table, "run_in_samples", 400)
    ahead, engine = drawn(table, **asked)
    assert len(engine.runs) < len(each_look.runs)
    drawn_in_all = sum(samples * rows for samples, rows in engine.runs)
    assert plain.n.sum() < drawn_in_all <= plain.n.sum() + 400 * len(engine.runs)
    np.testing.assert_array_equal(ahead.n, plain.n)
    np.testing.assert_array_equal(ahead.met, plain.met)
    np.testing.assert_array_equal(ahead.mean, plain.mean)
    np.testing.assert_array_equal(ahead.std, plain.std)
    if quantiles is None:
        np.testing.assert_array_equal(ahead.samples, plain.samples)
    elif quantiles:
        np.testing.assert_array_equal(ahead.quantile(0.1), plain.quantile(0.1))


def test_a_row_alone_takes_few_runs(drawn, table, monkeypatch) -> None:
    monkeypatch.setattr(Table, "run_in_samples", 116)
    p, engine = drawn(table, rows=[2], until=standard_error(0.02), max_samples=1000)
    assert p.n == 108 and engine.runs == [(108, 1)]
    late, engine = drawn(table, rows=[2], until=standard_error(0.02), max_samples=1000, deadline=1e3, a_sample=1e-5)
    assert late.met.all() and len(engine.runs) > 3  # the pace of a deadline is its own


def test_it_goes_on_from_first_sample(drawn, table) -> None:
    p, _ = drawn(table, first_sample=500, until=standard_error(0.02), max_samples=300)
    plain, _ = drawn(table[500:], until=standard_error(0.02), max_samples=300)
    np.testing.assert_array_equal(p.n, plain.n)
    np.testing.assert_array_equal(p.samples, plain.samples)


def test_a_real_engine_gives_its_own_samples(one, closed, x) -> None:
    """The toy's spread grows with every sample: rows of zeros stop at once, others never do."""
    x[3] = 0
    p = keepdrop.load(one).predict(x, until=standard_error(1e-3), max_samples=100, seed=7, first_sample=5)
    assert p.n.tolist() == [16 if row == 3 else 100 for row in range(7)]
    draws = closed(x, 100, seed=7, first_sample=5)
    for row, n in enumerate(p.n):
        np.testing.assert_array_equal(p.samples[:n, row], draws[:n, row])
    assert p.met.tolist() == [row == 3 for row in range(7)]


def test_blocks_before_a_deadline_stay_within_their_room(drawn, table, monkeypatch) -> None:
    monkeypatch.setattr(Table, "room", 60)
    p, engine = drawn(table, deadline=1.0, a_sample=1e-5)
    assert max(samples * rows for samples, rows in engine.runs) == 60 and p.n > 100


def test_decisions_say_the_side(drawn) -> None:
    rng = np.random.default_rng(22)
    table = np.clip(rng.normal([0.2, 0.95, 0.8, 0.6], 0.1, (400, 4)), 0, 1)[..., np.newaxis]
    p, engine = drawn(table, until=decided(0.8, 0.99), max_samples=400, heads="sigmoid")
    assert p.decision.tolist() == [["below"], ["above"], ["undecided"], ["below"]]
    assert p.met.tolist() == [True, True, False, True] and p.n[2] == 400 and max(p.n[[0, 1, 3]]) < 200
    assert sum(samples * rows for samples, rows in engine.runs) == p.n.sum()
    assert np.isfinite(p.expected_entropy).all() and (p.top.label[:, 0] == [0, 1, 1, 1]).all()


def test_decisions_are_seldom_wrong(drawn) -> None:
    """The whole loop, the threshold at the mean: 5 % may be wrong, and 6.5 % come once in 300 runs."""
    table = (np.random.default_rng(25).random((600, 1500, 1)) < 0.3).astype(float)
    p, _ = drawn(table, until=decided(0.3, 0.95), max_samples=600, heads="sigmoid", quantiles=())
    assert 0 < np.mean(p.decision != "undecided") <= 0.065
    np.testing.assert_array_equal(p.met, p.decision[:, 0] != "undecided")


def test_decisions_about_values_and_one_element(drawn) -> None:
    table = np.random.default_rng(23).normal([3.0, -3.0, 0.0], 1, (500, 2, 3))
    p, _ = drawn(table, until=decided(0.0, element=1), max_samples=300)
    assert p.decision.tolist() == ["below", "below"] and p.met.all() and p.n.tolist() == [72, 72]
    every, _ = drawn(table, until=decided(0.0), max_samples=300)
    assert every.decision.tolist() == [["above", "below", "undecided"]] * 2 and not every.met.any()
    bounded, _ = drawn(table / 20, until=decided(0.0, bounds=(-1, 1), element=0), max_samples=500)
    assert bounded.decision.tolist() == ["above", "above"]


def test_rows_that_are_no_numbers_stop_unanswered(drawn, table) -> None:
    table[5, 1, 0] = np.nan
    table[40, 2, 1] = np.inf
    p, _ = drawn(table, until=standard_error(1e-4), max_samples=200)
    assert p.n.tolist() == [200, 16, 48, 200, 200, 200] and not p.met.any()
    assert np.isnan(p.mean[1, 0]) and np.isposinf(p.mean[2, 1])


def test_several_outputs_stop_together(three, x) -> None:
    model = keepdrop.load(three)
    p = model.predict(x, until=standard_error(0.2), max_samples=500)
    np.testing.assert_array_equal(p["mood"].n, p["level"].n)
    assert (p["level"].standard_error <= 0.2).all() and p["spread"].met is None
    assert p["spread"].standard_error.max() > 0.2  # log-variances are not watched
    plain = model.predict(x, samples=int(p["level"].n[0]))
    np.testing.assert_allclose(p["level"].total[0], plain["level"].total[0], rtol=1e-6)
    np.testing.assert_allclose(p["mood"].mutual_information[0], plain["mood"].mutual_information[0], rtol=1e-5)
    mood = model.predict(x, until=standard_error(0.05, output="mood"), max_samples=500)
    assert mood["mood"].n.max() < p["mood"].n.max() and mood["level"].met is None
    chosen = model.predict(x, until=decided(0.5, output="mood"), max_samples=300)
    assert chosen["mood"].decision.shape == (7, 3) and chosen["level"].decision is None


# Deadlines


def test_a_deadline_is_used_and_kept(drawn, table) -> None:
    """On a clock of its own: 0.25 ms a run and 10 us a sample and row."""
    p, engine = drawn(table, deadline=0.020, max_samples=3000, a_run=250e-6, a_sample=10e-6)
    assert engine.now <= 0.020
    assert isinstance(p.n, int) and p.n > 0.7 * 0.020 / 60e-6  # of what one run would do
    assert engine.runs[0] == (1, 6) and p.met is None
    plain, _ = drawn(table, samples=p.n)
    np.testing.assert_array_equal(p.samples, plain.samples)
    np.testing.assert_allclose(p.mean, plain.mean, rtol=1e-6)


def test_a_deadline_is_missed_by_one_block_at_most(drawn, table, monkeypatch) -> None:
    """A machine that becomes five times slower midway."""

    class Slowing(Table):
        def run(self, request, progress=None):
            if self.now > 0.008:
                self._costs = 250e-6, 50e-6
            return super().run(request, progress)

    monkeypatch.setattr(f"{__name__}.Table", Slowing)
    _, engine = drawn(table, deadline=0.020, max_samples=3000, a_run=250e-6, a_sample=10e-6)
    samples, rows = engine.runs[-1]
    assert engine.now - (250e-6 + 50e-6 * samples * rows) < 0.020  # the last block began in time


def test_a_deadline_too_short_for_one_sample_gives_one(drawn, table) -> None:
    p, engine = drawn(table, deadline=1e-6, a_run=0.1)
    assert p.n == 1 and engine.runs == [(1, 6)] and np.isnan(p.std).all() and np.isfinite(p.mean).all()


def test_a_deadline_leaves_off_at_max_samples(drawn, table) -> None:
    p, engine = drawn(table, deadline=1.0, max_samples=50, a_run=1e-6)
    assert p.n == 50 and sum(samples for samples, _ in engine.runs) == 50


def test_a_question_with_a_deadline_ends_with_either(drawn, table) -> None:
    p, engine = drawn(table, until=standard_error(0.02), deadline=0.030, max_samples=2000, a_run=1e-4, a_sample=1e-5)
    assert p.met[:3].all() and not p.met[5] and engine.now <= 0.030
    assert p.n[0] < p.n[3] <= p.n[5] < 2000
    for row, n in enumerate(p.n):
        np.testing.assert_array_equal(p.samples[:n, row], table[:n, row].astype(np.float32))
    long, _ = drawn(table, until=standard_error(0.02), deadline=1e3, max_samples=2000, a_run=1e-4, a_sample=1e-5)
    assert long.met[:5].all() and long.n[5] == 2000


def test_real_time_passes(one, x) -> None:
    p = keepdrop.load(one).predict(x, deadline=0.005, max_samples=200)
    assert 1 <= p.n <= 200


@pytest.mark.parametrize("quantiles", [(), (0.25,)])
def test_without_kept_samples(drawn, table, quantiles) -> None:
    kept, _ = drawn(table, deadline=0.02, a_run=1e-4, a_sample=1e-6, max_samples=3000)
    dropped, _ = drawn(table, deadline=0.02, a_run=1e-4, a_sample=1e-6, max_samples=3000, quantiles=quantiles)
    assert dropped.samples is None and dropped.n == kept.n
    np.testing.assert_array_equal(dropped.mean, kept.mean)
    for q in quantiles:
        np.testing.assert_array_equal(dropped.quantile(q), kept.quantile(q))
    with pytest.raises(InputError, match="quantile 0.5 was not kept"):
        dropped.quantile(0.5)


def test_progress_counts_what_was_drawn(drawn, table) -> None:
    counts: list[int] = []
    p, _ = drawn(table, until=standard_error(0.01), max_samples=300, progress=counts.append)
    assert sum(counts) == p.n.sum()


def test_integers_get_room_for_nan(drawn, monkeypatch) -> None:
    """Samples of rows that stopped are NaN, whatever the output's dtype."""
    whole = np.random.default_rng(24).integers(0, 9, (64, 2, 1))
    whole[:, 0] = 3
    block = (
        adaptive.DrawnBlock(0, np.array([0, 1]), [whole[:16]]),
        adaptive.DrawnBlock(16, np.array([1]), [whole[16:32, 1:]]),
    )

    class Request:
        batch = 2

    samples = adaptive._assembled(Request, block, 0)
    assert np.isnan(samples[16:, 0]).all()
    np.testing.assert_array_equal(samples[:, 1], whole[:32, 1])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict(until=standard_error(1), samples=10), "samples is 10 beside until= or deadline=, .* give max_samples="),
        (dict(deadline=1, samples=10), "samples is 10 beside until= or deadline="),
        (dict(max_samples=10), "max_samples is 10 without until= or deadline=; give samples="),
        (dict(deadline=1, max_samples=0), "max_samples is 0; give 1 or more"),
        (dict(deadline=0), "deadline is 0; give seconds above 0, such as 0.02 for 20 ms"),
        (dict(deadline=np.nan), "deadline is nan; give seconds above 0"),
        (dict(deadline="soon"), "deadline is 'soon'; give seconds above 0"),
        (dict(until=0.01), "until is 0.01; give keepdrop.standard_error"),
        (dict(until=standard_error(1, element=7)), r"element 7 is not in output 'y', whose rows have the shape \[3\]"),
        (dict(until=standard_error(1, output="z")), "until watches output 'z'"),
        (dict(until=decided(2, bounds=(0, 3))), "output 'y' gave samples from .*, beyond the bounds 0 and 3"),
    ],
)
def test_a_mistake_is_told(model, x, options, text: str) -> None:
    with pytest.raises(InputError, match=text):
        model.predict(x, **options)


def test_the_default_bound_is_stated(drawn) -> None:
    p, _ = drawn(np.tile([[[0.0]], [[1.0]]], (6000, 1, 1)), until=standard_error(1e-6), quantiles=())
    assert p.n.tolist() == [10_000] and p.head == Head("y")
