"""Engine: cuts a request into chunks of samples x rows and runs them on workers.

A sample is a pure function of seed, row and sample number, so how a request is cut and who runs
which chunk changes nothing but the time it takes.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from .artifact import Cost, Metadata
from .request import Request, elements
from .session import Session

# What masks, activations and results of one run may take, in bytes; each worker has a run of its own.
RUN_BYTES = 24 << 20
# What one number of the generator takes at its peak: int64 state of two words in three, and float32 masks.
BYTES_A_NUMBER = 64
# What one element of an input or output takes: repeated for each sample, and once more in another order.
BYTES_AN_ELEMENT = 12
# The most samples x rows in one run, however small: more of them gain nothing.
MAX_RUN = 4096
# The most samples x rows held at once where samples are not kept.
MAX_BLOCK = 16 * MAX_RUN
# Seconds that a second worker adds to a call: waking it, cutting and joining, and what two at once slow each other
# down (130 to 150 us measured for calls of 0.2 to 0.4 ms).
HANDOFF = 150e-6
# Seconds a sample and row costs where the artifact does not say: a small recurrent network's.
UNKNOWN_SAMPLE = 5e-6
# With this many rows a worker the uneven share of the last one no longer matters.
ROWS_A_WORKER = 4

Progress = Callable[[int], None]


class Chunk(NamedTuple):
    """One run of the graph: slices of the request's samples and rows."""

    samples: slice
    rows: slice


class Engine:
    """Runs requests on at most `threads` threads, of which the calling thread is one."""

    def __init__(self, session: Session, threads: int) -> None:
        self._session = session
        self._threads = threads
        self._start()
        self._of_worker = threading.local()
        self._limits: dict[int, int] = {}

    def run(self, request: Request, progress: Optional[Progress] = None) -> list[NDArray[Any]]:
        """Each output as [samples, batch, ...]; `progress` is told the samples x rows of every chunk done."""
        sample_rows = request.samples * request.batch
        workers = worthwhile_workers(sample_rows, self._threads, self._session.metadata.cost)
        limit = self._limit(request.longest)
        if workers == 1 and sample_rows <= limit:
            outputs = self._session.run(request)
            if progress:
                progress(sample_rows)
            return outputs
        work = _Work(request, plan_chunks(request.samples, request.batch, workers, limit), progress)
        self._wake(work, workers - 1)
        work.drain(self._session)
        return work.result()

    def _start(self) -> None:
        self._process = os.getpid()
        # An executor starts its threads with the first work it gets, and they sleep when there is none.
        self._workers = ThreadPoolExecutor(self._threads - 1, "keepdrop") if self._threads > 1 else None

    def _wake(self, work: _Work, count: int) -> None:
        """Have workers take part in some work, which does not depend on their coming."""
        if os.getpid() != self._process:
            self._start()  # a fork takes the executor along, and leaves its threads behind
        if self._workers:
            with contextlib.suppress(RuntimeError):  # at the interpreter's end
                for _ in range(count):
                    self._workers.submit(self._help, work)

    def _limit(self, longest: int) -> int:
        if longest not in self._limits:
            self._limits[longest] = run_limit(self._session.metadata, longest)
        return self._limits[longest]

    def _help(self, work: _Work) -> None:
        """Take part in some work, with a session of the worker's own: threads that share one wait for each other."""
        if not hasattr(self._of_worker, "session"):
            self._of_worker.session = self._session.another()
        work.drain(self._of_worker.session)


class _Work:
    """The chunks of one request still to run, and the arrays their results go into."""

    def __init__(self, request: Request, chunks: list[Chunk], progress: Optional[Progress]) -> None:
        self._outputs: list[NDArray[Any]] = []
        self._error: Optional[BaseException] = None
        self._request = request
        self._waiting = deque(chunks)
        self._unfinished = len(chunks)
        self._progress = progress
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def drain(self, session: Session) -> None:
        """Run chunks until none is left; after an error none is."""
        try:
            while True:
                try:
                    chunk = self._waiting.popleft()
                except IndexError:
                    return
                self._store(chunk, session.run(self._request.cut(chunk.rows, chunk.samples)))
        except BaseException as error:
            self._waiting.clear()
            self._error = self._error or error
            self._ended.set()

    def result(self) -> list[NDArray[Any]]:
        """Wait until the last chunk is done, not for a worker that came too late to have one; raise what went wrong."""
        self._ended.wait()
        if self._error:
            raise self._error
        return self._outputs

    def _store(self, chunk: Chunk, parts: list[NDArray[Any]]) -> None:
        with self._lock:
            if not self._outputs:
                self._outputs = [self._empty_like(part) for part in parts]
        for output, part in zip(self._outputs, parts):
            output[chunk.samples, chunk.rows] = part  # [T, B, ...]
        with self._lock:
            if self._progress:
                self._progress(_size(chunk.samples) * _size(chunk.rows))
            self._unfinished -= 1
            if not self._unfinished:
                self._ended.set()

    def _empty_like(self, part: NDArray[Any]) -> NDArray[Any]:
        return np.empty((self._request.samples, self._request.batch, *part.shape[2:]), part.dtype)


def available_threads() -> int:
    """The number of CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def plan_chunks(samples: int, batch: int, workers: int, limit: int) -> list[Chunk]:
    """Cut `samples` x `batch` into chunks of at most `limit` each, as many for one worker as for the other.

    Rows are cut rather than samples where there are many, since what a graph computes before its first draw
    is done once a row and run; of a few rows each worker takes some of the samples.
    """
    by_rows = batch >= ROWS_A_WORKER * workers
    sample_parts = _parts(samples, _multiple(-(-samples // limit), 1 if by_rows else workers))
    rows_a_run = max(1, limit // max(_size(part) for part in sample_parts))
    row_parts = _parts(batch, _multiple(-(-batch // rows_a_run), workers if by_rows else 1))
    return [Chunk(part, rows) for rows in row_parts for part in sample_parts]


def worthwhile_workers(sample_rows: int, threads: int, cost: Optional[Cost]) -> int:
    """How many of `threads` end soonest with `sample_rows` samples x rows.

    With w of them a call takes ``run + sample * sample_rows / w``, the costs as `verify` measured them, and
    `HANDOFF` where w is more than 1. It depends on nothing but the file and the call, so a call is always cut alike.
    """
    sample = cost.sample if cost else UNKNOWN_SAMPLE
    threads = min(threads, sample_rows)
    saved = sample * sample_rows * (1 - 1 / threads)
    return threads if saved > HANDOFF else 1


def run_limit(metadata: Metadata, longest: int) -> int:
    """How many samples x rows one run may have to stay within about `RUN_BYTES`, where dynamic axes are `longest`."""

    numbers = sum(elements(draw.shape, longest) for draw in metadata.draws)
    arrays = [t.shape[1:] for t in metadata.inputs] + [t.shape[2:] for t in metadata.outputs]
    of_arrays = sum(elements(shape, longest) for shape in arrays)
    a_sample = BYTES_A_NUMBER * numbers + BYTES_AN_ELEMENT * of_arrays
    return max(1, min(MAX_RUN, RUN_BYTES // max(1, a_sample)))


def _multiple(count: int, of: int) -> int:
    """The least multiple of `of` that is not below `count`."""
    return -(-count // of) * of


def _parts(length: int, count: int) -> list[slice]:
    """0 ... length cut into `count` slices whose lengths differ by one at most; none is empty."""
    count = min(count, length)
    edges = [length * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in zip(edges, edges[1:])]


def _size(part: slice) -> int:
    return int(part.stop - part.start)
