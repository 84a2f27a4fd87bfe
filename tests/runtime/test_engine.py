import threading

import numpy as np
import pytest

import keepdrop
from keepdrop import engine, model
from keepdrop.engine import Chunk, plan_chunks
from keepdrop.request import Request

SIZES = [(1, 1), (1, 7), (100, 1), (3, 50), (101, 13), (4096, 1), (4097, 3), (1, 10_001), (9000, 7), (333, 1000)]


def cover(chunks: list[Chunk], samples: int, batch: int) -> np.ndarray:
    """How many chunks hold each sample of each row: [T, B]."""
    count = np.zeros((samples, batch), int)
    for chunk in chunks:
        count[chunk.samples, chunk.rows] += 1
    return count


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize(("samples", "batch"), SIZES)
def test_chunks_cover_everything_once_and_stay_within_the_bound(samples: int, batch: int, threads: int) -> None:
    chunks = plan_chunks(samples, batch, threads)
    assert (cover(chunks, samples, batch) == 1).all()
    sizes = [(c.samples.stop - c.samples.start) * (c.rows.stop - c.rows.start) for c in chunks]
    assert max(sizes) <= engine.MAX_RUN
    assert min(sizes) > 0


def test_a_lost_or_doubled_chunk_would_be_seen() -> None:
    chunks = plan_chunks(101, 13, 3)
    assert not (cover(chunks[1:], 101, 13) == 1).all()
    assert not (cover([*chunks, chunks[0]], 101, 13) == 1).all()


def test_tiny_work_is_one_chunk_and_larger_work_has_one_for_every_worker() -> None:
    assert len(plan_chunks(2, 1, 8)) == 1
    assert len(plan_chunks(100, 1, 2)) == 2
    assert len(plan_chunks(100, 1000, 8)) >= 8


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("bound", [1, 5, 4096])
@pytest.mark.parametrize("samples", [1, 2, 17, 50])
def test_the_cut_changes_nothing(one, closed, x, monkeypatch, threads: int, bound: int, samples: int) -> None:
    monkeypatch.setattr(engine, "MAX_RUN", bound)
    draws = keepdrop.load(one, threads=threads).sample(x, samples=samples, seed=7, first_sample=3)
    np.testing.assert_array_equal(draws, closed(x, samples, seed=7, first_sample=3))


def test_a_cut_that_forgets_where_it_starts_would_be_seen(one, closed, x, monkeypatch) -> None:
    monkeypatch.setattr(engine, "MAX_RUN", 5)
    cut = Request.cut
    monkeypatch.setattr(
        Request, "cut", lambda self, rows, samples: cut(self, rows, slice(0, samples.stop - samples.start))
    )
    assert not np.array_equal(keepdrop.load(one).sample(x, samples=17), closed(x, 17))


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_more_threads_run_than_asked_for(one, x, monkeypatch, threads: int) -> None:
    monkeypatch.setattr(engine, "MAX_RUN", 4)
    loaded = keepdrop.load(one, threads=threads)
    seen: set[int] = set()
    meet = threading.Barrier(threads)
    run = loaded._session.run

    def watched(request):
        if threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            meet.wait(timeout=10)  # also shows that they do run at once
        return run(request)

    monkeypatch.setattr(loaded._session, "run", watched)
    loaded.sample(x, samples=50)
    assert len(seen) == threads
    assert threading.get_ident() in seen


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_a_chunk_ends_the_call(one, x, monkeypatch, threads: int) -> None:
    monkeypatch.setattr(engine, "MAX_RUN", 1)
    loaded = keepdrop.load(one, threads=threads)
    runs = []

    def failing(request):
        runs.append(request)
        raise keepdrop.InputError("boom")

    monkeypatch.setattr(loaded._session, "run", failing)
    with pytest.raises(keepdrop.InputError, match="boom"):
        loaded.sample(x, samples=100)
    assert len(runs) <= threads


def test_progress_counts_every_sample_of_every_row(one, x, monkeypatch) -> None:
    monkeypatch.setattr(engine, "MAX_RUN", 4)
    monkeypatch.setattr(model, "MAX_BLOCK", 30)
    loaded = keepdrop.load(one, threads=2)
    for quantiles in (None, [0.5]):
        counts: list[int] = []
        loaded.predict(x, samples=11, quantiles=quantiles, progress=counts.append)
        assert sum(counts) == 11 * 7
        assert len(counts) > 1
