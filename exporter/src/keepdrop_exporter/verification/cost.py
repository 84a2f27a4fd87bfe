"""What a run and a sample cost: processor time and peak memory, which the runtime cuts its calls by."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable
from pathlib import Path

from keepdrop.artifact.metadata import Cost
from keepdrop.run.engine import RUN_BYTES
from keepdrop.run.request import check
from keepdrop.run.session import AnySession
from keepdrop_exporter.formats.savedmodel import SavedModelSession, open_artifact
from keepdrop_exporter.plan.draws import Plan
from keepdrop_exporter.plan.inputs import Data, given, random_batches
from keepdrop_exporter.plan.reference import Arrays

Run = Callable[[int], Callable[[], object]]

# Seconds that the timed runs may take together, about; how many there are at most, and of how many samples.
_SECONDS = 2.0
_RUNS = 7
_SAMPLES = 101

_PROCESS = Path("/proc/self")


def measure_cost(plan: Plan, artifact: str | Path, data: Data = None) -> Cost:
    """What a run and a sample of a row in it cost on one thread, within seconds and the memory of a run."""
    x = given(plan, data, 1) if data is not None else random_batches(plan, 1, 0)[0]
    return cost_of(open_artifact(artifact), x)


def cost_of(session: AnySession, x: Arrays) -> Cost:
    """The same, for these inputs of one row, by name."""
    inputs = session.metadata.inputs
    dynamic = [n for t in inputs for n, size in zip(x[t.name].shape[1:], t.shape[1:], strict=True) if size is None]

    def run(samples: int) -> Callable[[], object]:
        request = check(session.metadata, x, samples=samples, seed=0, rows=None, first_sample=0)
        return lambda: session.run(request)

    # TensorFlow runs a SavedModel in threads of its own.
    clock = time.process_time if isinstance(session, SavedModelSession) else time.thread_time
    return cost(run, _RUNS, clock, length=max(dynamic, default=0))


def cost(run: Run, runs: int, clock: Callable[[], float] = time.thread_time, length: int = 0) -> Cost:
    """What a run and a sample in it cost: ``run(samples)()`` with one and with many samples, the quickest of some.

    Parameters
    ----------
    runs
        How many runs are timed at most; there are fewer where they take long.
    clock
        Processor seconds.
    length
        Of the dynamic axes.
    """
    seconds, one_peak = _peak(run(1), clock)  # which also lets onnxruntime allocate what it keeps
    samples = max(2, min(_SAMPLES, int(_SECONDS / 2 / max(seconds, 1e-9))))
    if one_peak > 0:
        # As large as the runtime lets a run be: beyond the processor's caches a sample costs several times as much.
        samples = max(2, min(samples, RUN_BYTES // one_peak))
    many_seconds, many_peak = _peak(run(samples), clock)
    runs = max(1, min(runs, int(_SECONDS / max(many_seconds, 1e-9))))
    one, many = (_quickest(run(n), runs, clock) for n in (1, samples))
    sample = max(0.0, (many - one) / (samples - 1))
    each = max(0, many_peak - one_peak) // (samples - 1) if one_peak and many_peak else 0
    return Cost(run=max(0.0, one - sample), sample=sample, bytes=each, length=length)


def _quickest(action: Callable[[], object], runs: int, clock: Callable[[], float]) -> float:
    return min(_seconds(action, clock) for _ in range(runs))


def _seconds(action: Callable[[], object], clock: Callable[[], float]) -> float:
    began = clock()
    action()
    return clock() - began


def _peak(action: Callable[[], object], clock: Callable[[], float]) -> tuple[float, int]:
    """How long an action takes, and what it adds to the process' memory at its peak; 0 bytes where Linux is not."""
    try:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).malloc_trim(0)  # of glibc: what was freed before would hide what is taken now
        (_PROCESS / "clear_refs").write_text("5")  # the peak is counted anew, see proc(5)
        before = _status("VmRSS")
        seconds = _seconds(action, clock)
        return seconds, max(0, _status("VmHWM") - before)
    except (OSError, KeyError):
        return _seconds(action, clock), 0


def _status(field: str) -> int:
    lines = dict(line.split(":", 1) for line in (_PROCESS / "status").read_text().splitlines())
    return int(lines[field].split()[0]) * 1024
