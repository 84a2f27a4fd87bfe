import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import keepdrop
from keepdrop import model
from keepdrop.artifact.metadata import Cost, Draw
from keepdrop.run import engine
from keepdrop.run.engine import RunSlice, plan_chunks, run_limit, worthwhile_workers
from keepdrop.run.request import Request
from keepdrop.run.session import Session

SIZES = [(1, 1), (1, 7), (100, 1), (3, 50), (101, 13), (4096, 1), (4097, 3), (1, 10_001), (9000, 7), (333, 1000)]


def cover(chunks: list[RunSlice], samples: int, batch: int) -> np.ndarray:
    """How many chunks hold each sample of each row: [T, B]."""
    count = np.zeros((samples, batch), int)
    for chunk in chunks:
        count[chunk.samples, chunk.rows] += 1
    return count


@pytest.mark.parametrize("workers", [1, 2, 3, 8])
@pytest.mark.parametrize(
    ("samples", "batch", "limit"), [(t, b, n) for t, b in SIZES for n in (1, 300, 4096) if t * b <= 100 * n]
)
def test_chunks_cover_everything_once_and_stay_within_the_bound(
    samples: int, batch: int, limit: int, workers: int
) -> None:
    chunks = plan_chunks(samples, batch, workers, limit)
    assert (cover(chunks, samples, batch) == 1).all()
    sizes = [(c.samples.stop - c.samples.start) * (c.rows.stop - c.rows.start) for c in chunks]
    assert max(sizes) <= limit
    assert min(sizes) > 0


def test_a_lost_or_doubled_chunk_would_be_seen() -> None:
    chunks = plan_chunks(101, 13, 3, 300)
    assert not (cover(chunks[1:], 101, 13) == 1).all()
    assert not (cover([*chunks, chunks[0]], 101, 13) == 1).all()


def test_every_worker_gets_as_many_chunks() -> None:
    assert len(plan_chunks(100, 1, 2, 4096)) == 2
    assert len(plan_chunks(10_000, 1, 2, 1000)) == 10
    assert len(plan_chunks(10_001, 1, 2, 1000)) == 12
    assert len(plan_chunks(100, 1000, 8, 4096)) % 8 == 0


@pytest.mark.parametrize(
    ("sample_rows", "threads", "sample", "workers"),
    [(1, 8, 1.0, 1), (2, 8, 1.0, 2), (100, 1, 1.0, 1), (100, 2, 2e-5, 1), (100, 2, 3e-5, 2), (10**6, 4, 1e-6, 4)],
)
def test_workers_are_woken_where_they_save_more_than_the_waking(
    sample_rows: int, threads: int, sample: float, workers: int
) -> None:
    assert worthwhile_workers(sample_rows, threads, Cost(run=1e-4, sample=sample)) == workers


@pytest.mark.parametrize(
    ("samples", "run", "sample", "workers"),
    # Measured on two threads of one core: 0.55 ms on one and 0.91 on two; 1.3 and 2.0; 4.7 and 3.4; 40 and 22.
    [(100, 0.3e-3, 2.5e-6, 1), (10, 0.9e-3, 38e-6, 1), (100, 0.9e-3, 38e-6, 2), (1000, 0.9e-3, 38e-6, 2)],
)
def test_two_workers_where_two_were_faster(samples: int, run: float, sample: float, workers: int) -> None:
    assert worthwhile_workers(samples, 2, Cost(run, sample)) == workers


@pytest.mark.parametrize("run", [1e-4, 1e-3, 1e-2])
@pytest.mark.parametrize("work", [1e-4, 1e-2, 1.0])
def test_workers_at_most_double_the_work(run: float, work: float) -> None:
    workers = worthwhile_workers(10_000, 64, Cost(run, work / 10_000))
    assert workers * run + work <= 2 * (run + work) * (1 + 1e-9)
    assert workers == 1 or workers > 1 and engine.SOONER * (run + work) > engine.HANDOFF


def test_a_cost_of_0_is_unknown() -> None:
    for sample_rows in (10, 1000, 10**6):
        assert worthwhile_workers(sample_rows, 8, Cost(0.0, 0.0)) == worthwhile_workers(sample_rows, 8, None)


@pytest.mark.parametrize("numbers", [1, 100, 10_000, 10**9])
def test_a_run_stays_within_its_memory(metadata, numbers: int) -> None:
    draws = (Draw("dropout", "rate", "dropout", 0.5, (numbers,), 0, 0),)
    limit = run_limit(replace(metadata, draws=draws), 3)
    assert 1 <= limit <= engine.MAX_RUN
    assert limit == 1 or limit * numbers * engine.BYTES_A_NUMBER <= engine.RUN_BYTES


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
    seen: dict[int, Session] = {}
    meet = threading.Barrier(threads)
    run = Session.run

    def watched(session, request):
        if threading.get_ident() not in seen:
            seen[threading.get_ident()] = session
            meet.wait(timeout=10)  # also shows that they do run at once
        return run(session, request)

    monkeypatch.setattr(Session, "run", watched)
    loaded.sample(x, samples=100)
    assert len(seen) == threads
    assert threading.get_ident() in seen
    assert len(set(map(id, seen.values()))) == threads


@pytest.mark.parametrize(("threads", "runs"), [(1, 1), (2, 2)])
def test_a_call_that_fits_one_run_is_shared_where_two_pay(one, x, monkeypatch, threads: int, runs: int) -> None:
    monkeypatch.setattr(engine, "HANDOFF", 0.0)
    loaded = keepdrop.load(one, threads=threads)
    seen: list[int] = []
    meet = threading.Barrier(threads)
    run = Session.run

    def watched(session, request):
        seen.append(threading.get_ident())
        meet.wait(timeout=10)
        return run(session, request)

    monkeypatch.setattr(Session, "run", watched)
    loaded.sample(x, samples=200)
    assert len(seen) == len(set(seen)) == runs


@pytest.mark.parametrize("change", ["gone", "other"])
def test_a_file_that_is_no_longer_there_changes_nothing(one, two, closed, x, monkeypatch, change: str) -> None:
    monkeypatch.setattr(engine, "MAX_RUN", 4)
    loaded = keepdrop.load(one, threads=2)
    if change == "gone":
        Path(one).unlink()
    else:
        Path(one).write_bytes(Path(two).read_bytes())
    np.testing.assert_array_equal(loaded.sample(x, samples=50), closed(x, 50))


@pytest.mark.parametrize("threads", [1, 3])
def test_an_error_in_a_chunk_ends_the_call(one, x, monkeypatch, threads: int) -> None:
    monkeypatch.setattr(engine, "MAX_RUN", 1)
    loaded = keepdrop.load(one, threads=threads)
    runs = []

    def failing(session, request):
        runs.append(request)
        raise keepdrop.InputError("boom")

    monkeypatch.setattr(Session, "run", failing)
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
