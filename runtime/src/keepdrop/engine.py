"""Engine: cuts a request into chunks of samples x rows and runs them on workers.

A sample is a pure function of seed, row and sample number, so how a request is cut and who runs
which chunk changes nothing but the time it takes.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from .request import Request
from .session import Session

# The most samples x rows in one run of the graph: it bounds the memory of masks and activations.
MAX_RUN = 4096
# The fewest samples x rows worth waking a worker for.
MIN_SHARE = 16
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
        # An executor starts its threads with the first work it gets, and they sleep when there is none.
        self._workers = ThreadPoolExecutor(threads - 1, "keepdrop") if threads > 1 else None

    def run(self, request: Request, progress: Optional[Progress] = None) -> list[NDArray[Any]]:
        """Each output as [samples, batch, ...]; `progress` is told the samples x rows of every chunk done."""
        chunks = plan_chunks(request.samples, request.batch, self._threads)
        work = _Work(self._session, request, chunks, progress)
        helpers = min(self._threads, len(chunks)) - 1
        futures = [self._workers.submit(work.drain) for _ in range(helpers)] if self._workers else []
        try:
            work.drain()
        finally:
            wait(futures)
        for future in futures:
            future.result()
        return work.outputs


class _Work:
    """The chunks of one request still to run, and the arrays their results go into."""

    def __init__(self, session: Session, request: Request, chunks: list[Chunk], progress: Optional[Progress]) -> None:
        self.outputs: list[NDArray[Any]] = []
        self._session = session
        self._request = request
        self._chunks = deque(chunks)
        self._whole = len(chunks) == 1
        self._progress = progress
        self._lock = threading.Lock()

    def drain(self) -> None:
        """Run chunks until none is left; after an error none is."""
        try:
            while True:
                try:
                    chunk = self._chunks.popleft()
                except IndexError:
                    return
                self._store(chunk, self._session.run(self._request.cut(chunk.rows, chunk.samples)))
        except BaseException:
            self._chunks.clear()
            raise

    def _store(self, chunk: Chunk, parts: list[NDArray[Any]]) -> None:
        with self._lock:
            if not self.outputs:
                self.outputs = parts if self._whole else [self._empty_like(part) for part in parts]
        if not self._whole:
            for output, part in zip(self.outputs, parts):
                output[chunk.samples, chunk.rows] = part  # [T, B, ...]
        if self._progress:
            with self._lock:
                self._progress(_size(chunk.samples) * _size(chunk.rows))

    def _empty_like(self, part: NDArray[Any]) -> NDArray[Any]:
        return np.empty((self._request.samples, self._request.batch, *part.shape[2:]), part.dtype)


def available_threads() -> int:
    """The number of CPUs this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def plan_chunks(samples: int, batch: int, threads: int) -> list[Chunk]:
    """Cut `samples` x `batch` into chunks of at most `MAX_RUN` each, enough of them for the workers worth waking.

    Rows are cut rather than samples where there are many, since what a graph computes before its first draw
    is done once a row and run; of a few rows each worker takes some of the samples.
    """
    workers = worthwhile_workers(samples * batch, threads)
    by_rows = batch >= ROWS_A_WORKER * workers
    sample_parts = _parts(samples, max(1 if by_rows else workers, -(-samples // MAX_RUN)))
    rows_a_run = MAX_RUN // max(_size(part) for part in sample_parts)
    row_parts = _parts(batch, max(workers if by_rows else 1, -(-batch // rows_a_run)))
    return [Chunk(part, rows) for rows in row_parts for part in sample_parts]


def worthwhile_workers(sample_rows: int, threads: int) -> int:
    """How many of `threads` are worth using for `sample_rows` samples x rows: tiny calls lose by being shared."""
    return max(1, min(threads, sample_rows // MIN_SHARE))


def _parts(length: int, count: int) -> list[slice]:
    """0 ... length cut into `count` slices whose lengths differ by one at most; none is empty."""
    count = min(count, length)
    edges = [length * i // count for i in range(count + 1)]
    return [slice(start, stop) for start, stop in zip(edges, edges[1:])]


def _size(part: slice) -> int:
    return int(part.stop - part.start)
