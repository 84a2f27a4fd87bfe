"""Engine: cuts a request into chunks of samples x rows and runs them on workers.

A sample is a pure function of seed, row and sample number, so how a request is cut and who runs
which chunk changes nothing but the time it takes.
"""

from __future__ import annotations

import contextlib
import math
import os
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import Cost, Metadata
from keepdrop.errors import TooLarge

from .memory import Budget
from .request import Request, elements
from .session import AnySession

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
# Seconds that a run may take where the artifact says what a sample costs: an interrupt waits for its end.
RUN_SECONDS = 0.5
# What samples may take that are summarised and dropped, with what their summary takes.
BLOCK_BYTES = 64 << 20
# What summing up takes for each element of the samples: deviations in float64, a sorted copy.
BYTES_SUMMARISED = 12
# Seconds that workers add to a call: waking them, cutting and joining. 0.15 ms were measured on one processor (AVX-512)
# and 0.35 to 0.5 ms on another (AVX2, two threads of one core): taken as the largest, since a call that wakes a worker
# in vain loses more than one that does not loses.
HANDOFF = 500e-6
# How much slower runs are that go on at once: they share caches, and perhaps a core (1.09 on the second processor).
CROWDING = 1.1
# The share of one thread's time that a call on several has to be expected to take at most. Where others keep the
# processors busy a worker comes late: calls that should have taken 0.86 of the time took 1.2 (load 10 on two cores).
SOONER = 0.8
# What a run and a sample of a row in it cost where the artifact does not say: a small recurrent network's.
UNKNOWN_RUN = 200e-6
UNKNOWN_SAMPLE = 5e-6
# Workers may take so many times the processor time that one thread would.
MOST_WORK = 2
# With this many rows a worker the uneven share of the last one no longer matters.
ROWS_A_WORKER = 4

Progress = Callable[[int], None]


class RunSlice(NamedTuple):
    """One run of the graph: slices of the request's samples and rows."""

    samples: slice
    rows: slice


class _Sizes(NamedTuple):
    """Of one sample of one row: the elements and bytes of its results, the bytes while it runs; the most in a run."""

    elements: int
    result: int
    run: int
    limit: int

    def results(self, beside: int = 0) -> int:
        """The bytes of its results, and `beside` for each element."""
        return self.result + beside * self.elements


class Engine:
    """Runs requests on at most `threads` threads, of which the calling thread is one, each call within `budget`."""

    def __init__(self, session: AnySession, threads: int, budget: Budget) -> None:
        self._session = session
        self._threads = threads
        self._budget = budget
        self._start()
        self._of_worker = threading.local()
        self._sizes: dict[int, _Sizes] = {}

    def run(self, request: Request, progress: Optional[Progress] = None) -> list[NDArray[Any]]:
        """Each output as [samples, batch, ...]; `progress` is told the samples x rows of every chunk done.

        An interrupt reaches the caller at the end of the chunk it runs, and the workers end theirs and no other.

        Raises
        ------
        TooLarge
            The results do not fit in the budget, or not one run beside them.
        """
        sample_rows = request.samples * request.batch
        sizes = self._sized(request)
        self._demand(request, sizes)
        workers = worthwhile_workers(sample_rows, self._threads, self._session.metadata.cost)
        limit = sizes.limit
        if self._budget.memory is not None:
            workers, limit = self._within_budget(request, sizes, workers)
        if workers == 1 and sample_rows <= limit:
            outputs = self._session.run(request)
            if progress:
                progress(sample_rows)
            return outputs
        results = _Results(request, progress)
        self.share(results.run, plan_chunks(request.samples, request.batch, workers, limit), workers)
        return results.outputs

    def share(
        self, run: Callable[[AnySession, RunSlice], None], chunks: list[RunSlice], workers: Optional[int] = None
    ) -> None:
        """Call `run` with each chunk and a session, on so many threads (default: all), and wait for the last one."""
        work = _ChunkQueue(run, chunks)
        try:
            self._wake(work, min(workers or self._threads, len(chunks)) - 1)
            work.drain(self._session)
            work.wait()
        finally:
            work.stop()  # for the workers, where an interrupt or an error ends this thread's part early

    def block(self, request: Request, most: int) -> int:
        """The samples x rows, at most `most`, of the blocks in which samples are summarised and dropped."""
        held = BLOCK_BYTES if self._budget.memory is None else min(BLOCK_BYTES, self._budget.memory // 2)
        return max(1, min(most, held // self._sized(request).results(BYTES_SUMMARISED)))

    @property
    def run_in_samples(self) -> int:
        """How many samples of a row cost as much as a run does by itself; 0 where the artifact does not say."""
        cost = self._session.metadata.cost
        return int(min(cost.run / cost.sample, MAX_RUN)) if cost and cost.sample > 0 else 0

    def demand(self, request: Request, beside: int = 0) -> None:
        """Raise TooLarge where all samples at once, with `beside` bytes more an element, do not fit in the budget."""
        self._demand(request, self._sized(request), beside)

    def _demand(self, request: Request, sizes: _Sizes, beside: int = 0) -> None:
        each = sizes.results(beside)
        size = request.batch * request.samples * each
        if not self._budget.fits(size):
            raise self._budget.refusal(
                size,
                f"{request.batch:,} rows x {request.samples:,} samples x {sizes.elements:,} elements x "
                f"{each / sizes.elements:g} bytes",
                "give fewer samples or rows at a time, ask predict(quantiles=(0.05, 0.95)) where samples need not be "
                "kept and quantiles=() for mean and std alone, or give more memory= to keepdrop.load",
            )
        if not self._budget.fits(sizes.run):
            raise self._budget.refusal(
                sizes.run,
                "what one sample of one row takes while it runs",
                "give shorter rows, or more memory= to keepdrop.load",
            )

    def demand_summaries(self, request: Request, count: int) -> None:
        """Raise TooLarge where `count` arrays [batch, ...] for each output, and their parts, do not fit."""
        elements = self._sized(request).elements
        size = count * request.batch * elements * 8
        if not self._budget.fits(size):
            raise self._budget.refusal(
                size,
                f"{count} summaries x {request.batch:,} rows x {elements:,} elements x 8 bytes",
                "give fewer rows at a time, or more memory= to keepdrop.load",
            )

    def _within_budget(self, request: Request, sizes: _Sizes, workers: int) -> tuple[int, int]:
        """Fewer and smaller runs where the caller set a budget; the cut depends on nothing else that may change."""
        assert self._budget.memory is not None
        held = request.batch * request.samples * sizes.results()
        runs = max(1, (self._budget.memory - held) // sizes.run)
        workers = min(workers, runs)
        return workers, min(sizes.limit, runs // workers)

    def _sized(self, request: Request) -> _Sizes:
        longest = request.longest
        if longest not in self._sizes:
            metadata = self._session.metadata
            self._sizes[longest] = _Sizes(
                elements=sum(elements(tensor.shape[2:], longest) for tensor in metadata.outputs),
                result=result_bytes(metadata, longest),
                run=sample_bytes(metadata, longest),
                limit=run_limit(metadata, longest),
            )
        return self._sizes[longest]

    def _start(self) -> None:
        self._process = os.getpid()
        # An executor starts its threads with the first work it gets, and they sleep when there is none.
        self._workers = ThreadPoolExecutor(self._threads - 1, "keepdrop") if self._threads > 1 else None

    def _wake(self, work: _ChunkQueue, count: int) -> None:
        """Have workers take part in some work, which does not depend on their coming."""
        if os.getpid() != self._process:
            self._start()  # a fork takes the executor along, and leaves its threads behind
        if self._workers:
            with contextlib.suppress(RuntimeError):  # at the interpreter's end, or where no more threads are allowed
                for _ in range(count):
                    self._workers.submit(self._help, work)

    def _help(self, work: _ChunkQueue) -> None:
        """Take part in some work, with a session of the worker's own: threads that share one wait for each other."""
        try:
            if work.waiting and not hasattr(self._of_worker, "session"):
                self._of_worker.session = self._session.another()
            if work.waiting:
                work.drain(self._of_worker.session)
        except BaseException as error:
            work.fail(error)


class _ChunkQueue:
    """The chunks still to run, and what is to be done with each."""

    def __init__(self, run: Callable[[AnySession, RunSlice], None], chunks: list[RunSlice]) -> None:
        self.waiting = deque(chunks)
        self._error: Optional[BaseException] = None
        self._run = run
        self._unfinished = len(chunks)
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def drain(self, session: AnySession) -> None:
        """Run chunks until none is left; after an error none is."""
        while True:
            try:
                chunk = self.waiting.popleft()
            except IndexError:
                return
            self._run(session, chunk)
            with self._lock:
                self._unfinished -= 1
                if not self._unfinished:
                    self._ended.set()

    def stop(self) -> None:
        """Leave what no one has begun."""
        self.waiting.clear()

    def fail(self, error: BaseException) -> None:
        """End the work with a worker's error."""
        self.stop()
        self._error = self._error or error
        self._ended.set()

    def wait(self) -> None:
        """Until the last chunk is done, not for a worker that came too late to have one; raise what went wrong."""
        self._ended.wait()
        if self._error:
            raise self._error


class _Results:
    """The arrays that the results of one request go into."""

    def __init__(self, request: Request, progress: Optional[Progress]) -> None:
        self.outputs: list[NDArray[Any]] = []
        self._request = request
        self._progress = progress
        self._lock = threading.Lock()

    def run(self, session: AnySession, chunk: RunSlice) -> None:
        """Run one chunk of the request."""
        parts = session.run(self._request.cut(chunk.rows, chunk.samples))
        with self._lock:
            if not self.outputs:
                self.outputs = [self._empty_like(part) for part in parts]
        for output, part in zip(self.outputs, parts):
            output[chunk.samples, chunk.rows] = part  # [T, B, ...]
        with self._lock:
            if self._progress:
                self._progress(_size(chunk.samples) * _size(chunk.rows))

    def _empty_like(self, part: NDArray[Any]) -> NDArray[Any]:
        shape = (self._request.samples, self._request.batch, *part.shape[2:])
        try:
            return np.empty(shape, part.dtype)
        except (MemoryError, ValueError):  # numpy's word for a size beyond its integers
            raise TooLarge(
                f"there is no memory for {part.dtype} {list(shape)}; give fewer samples or rows at a time, or ask "
                "predict(quantiles=(0.05, 0.95)) for these alone"
            ) from None


def plan_chunks(samples: int, batch: int, workers: int, limit: int) -> list[RunSlice]:
    """Cut `samples` x `batch` into chunks of at most `limit` each, as many for one worker as for the other.

    Rows are cut rather than samples where there are many, since what a graph computes before its first draw
    is done once a row and run; of a few rows each worker takes some of the samples.
    """
    by_rows = batch >= ROWS_A_WORKER * workers
    sample_parts = _parts(samples, _multiple(-(-samples // limit), 1 if by_rows else workers))
    rows_a_run = max(1, limit // max(_size(part) for part in sample_parts))
    row_parts = _parts(batch, _multiple(-(-batch // rows_a_run), workers if by_rows else 1))
    return [RunSlice(part, rows) for rows in row_parts for part in sample_parts]


def worthwhile_workers(sample_rows: int, threads: int, cost: Optional[Cost]) -> int:
    """How many of `threads` end soonest with `sample_rows` samples x rows, and take at most twice the work of one.

    With w of them a call takes ``run + sample * sample_rows / w``, the costs as the export measured them (0 is
    unknown), `CROWDING` times that and `HANDOFF` more where w is more than 1; each has a run of its own. Several are
    woken where that is at most `SOONER` of the time of one. It depends on nothing but the file and the call, so a call
    is always cut alike.
    """
    run = (cost and cost.run) or UNKNOWN_RUN
    work = ((cost and cost.sample) or UNKNOWN_SAMPLE) * sample_rows
    most = min(threads, sample_rows, int((MOST_WORK * (run + work) - work) / run))
    if most < 2 or CROWDING * (run + work / most) + HANDOFF > SOONER * (run + work):
        return 1
    return most


def run_limit(metadata: Metadata, longest: int) -> int:
    """How many samples x rows one run may have, where dynamic axes are `longest`.

    It stays within about `RUN_BYTES`, and within `RUN_SECONDS` as far as the file says what a sample costs.
    """
    most = MAX_RUN
    if metadata.cost and metadata.cost.sample * most > RUN_SECONDS:
        most = int(RUN_SECONDS / metadata.cost.sample)
    return max(1, min(most, RUN_BYTES // sample_bytes(metadata, longest)))


def sample_bytes(metadata: Metadata, longest: int) -> int:
    """About what one sample of one row takes while it runs, where dynamic axes are `longest`.

    The larger of what its random numbers, inputs and outputs take and of what the export measured, activations
    included. Activations grow with a dynamic axis, or with its square (attention): the larger of both is taken.
    """
    numbers = sum(elements(draw.shape, longest) for draw in metadata.draws)
    arrays = [t.shape[1:] for t in metadata.inputs] + [t.shape[2:] for t in metadata.outputs]
    of_arrays = sum(elements(shape, longest) for shape in arrays)
    return max(1, BYTES_A_NUMBER * numbers + BYTES_AN_ELEMENT * of_arrays, _measured_bytes(metadata, longest))


def _measured_bytes(metadata: Metadata, longest: int) -> int:
    cost = metadata.cost
    if cost is None or not cost.bytes:
        return 0
    dynamic = any(size is None for tensor in metadata.inputs for size in tensor.shape[1:])
    growth = longest / cost.length if dynamic and cost.length else 1.0
    return math.ceil(cost.bytes * max(growth, growth**2))


def result_bytes(metadata: Metadata, longest: int) -> int:
    """What one sample of one row takes in the results, where dynamic axes are `longest`."""
    return sum(elements(tensor.shape[2:], longest) * np.dtype(tensor.dtype).itemsize for tensor in metadata.outputs)


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
