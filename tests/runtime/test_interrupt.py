"""Ctrl-C and SIGTERM: the call ends with the chunk it is in, nothing is left behind, and the interpreter ends."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import keepdrop
from keepdrop.run import engine
from keepdrop.run.session import Session

FORECASTER = Path(__file__).parent / "data" / "forecaster.onnx"
# A bound on what would otherwise hang; nothing here takes more than some tenths of a second.
PATIENCE = 60

CALL = """
import sys, threading
import numpy as np
import keepdrop

model = keepdrop.load(sys.argv[1], threads=int(sys.argv[2]))
x = np.zeros((64, 5, 2), np.float32)
before = model.sample(x, samples=10)
done = 0

def progress(count):
    global done
    if not done:
        print("started", flush=True)
    done += count

try:
    model.predict(x, samples=10**9, quantiles=(), progress=progress)  # hours of work, in little memory
except KeyboardInterrupt:
    reached = done
    print("interrupted", flush=True)
    print(np.array_equal(model.sample(x, samples=10), before))
"""


def started(process: subprocess.Popen) -> None:
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    time.sleep(0.2)


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_ctrl_c_ends_a_call_and_the_interpreter(threads: int) -> None:
    script = [sys.executable, "-c", CALL, FORECASTER, str(threads)]
    with subprocess.Popen(script, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            started(process)
            process.send_signal(signal.SIGINT)
            out, error = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (out, error, process.returncode) == ("interrupted\nTrue\n", "", 0)


# The command, which says when it begins its first run: before that a signal would meet an import.
COMMAND = """
from keepdrop.cli import main
from keepdrop.run.session import Session

run = Session.run

def said(session, request):
    print("started", flush=True)
    Session.run = run
    return run(session, request)

Session.run = said
main()
"""


@pytest.mark.parametrize(("signal_", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_command_leaves_no_output(tmp_path, signal_: int, code: int) -> None:
    np.save(tmp_path / "x.npy", np.zeros((64, 5, 2), np.float32))
    command = [sys.executable, "-c", COMMAND, "predict", FORECASTER]
    command += [tmp_path / "x.npy", "-o", tmp_path / "out.npz", "--samples", str(10**8)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            started(process)
            assert process.poll() is None
            process.send_signal(signal_)
            out, error = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    assert (out, process.returncode) == ("", code)
    assert error.startswith("keepdrop: interrupted; nothing was written") and error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


class _Interrupt(BaseException):
    """As KeyboardInterrupt, which the test runner would take for its own."""


@pytest.mark.parametrize("where", ["run", "wake", "wait"])
def test_workers_stop_where_the_caller_is_interrupted(one, x, closed, monkeypatch, where: str) -> None:
    monkeypatch.setattr(engine, "MAX_RUN", 1)
    model = keepdrop.load(one, threads=3)
    model.sample(x, samples=20)
    caller = threading.get_ident()
    runs = []
    run = Session.run

    def slow(session, request):
        runs.append(request)
        if where == "run" and threading.get_ident() == caller:
            raise _Interrupt
        time.sleep(0.01)
        return run(session, request)

    def interrupted(*arguments):
        raise _Interrupt

    monkeypatch.setattr(Session, "run", slow)
    if where == "wake":
        wake = engine.Engine._wake
        monkeypatch.setattr(engine.Engine, "_wake", lambda *arguments: (wake(*arguments), interrupted()))
    if where == "wait":
        monkeypatch.setattr(engine._ChunkQueue, "drain", _leaving_to_workers(engine._ChunkQueue.drain, caller))
        monkeypatch.setattr(engine._ChunkQueue, "wait", interrupted)
    with pytest.raises(_Interrupt):
        model.sample(x, samples=500)
    time.sleep(0.1)
    count = len(runs)
    time.sleep(0.1)
    assert len(runs) == count < 200
    monkeypatch.undo()
    np.testing.assert_array_equal(model.sample(x, samples=20), closed(x, 20))


def _leaving_to_workers(drain, caller: int):
    def drained(work, session):
        if threading.get_ident() != caller:
            drain(work, session)

    return drained


def test_a_run_is_short_where_a_sample_is_slow(metadata) -> None:
    """An interrupt waits for the run's end."""
    from dataclasses import replace

    from keepdrop.artifact.metadata import Cost

    slow = replace(metadata, cost=Cost(run=0.0, sample=0.1))
    assert engine.run_limit(slow, 3) * 0.1 <= engine.RUN_SECONDS
    assert engine.run_limit(replace(slow, cost=Cost(run=0.0, sample=100.0)), 3) == 1
    assert engine.run_limit(replace(slow, cost=Cost(run=0.0, sample=1e-6)), 3) == engine.run_limit(metadata, 3)


def test_workers_that_would_not_stop_would_be_seen(one, x, monkeypatch) -> None:
    monkeypatch.setattr(engine, "MAX_RUN", 1)
    model = keepdrop.load(one, threads=3)
    runs = []
    run = Session.run

    def slow(session, request):
        runs.append(request)
        time.sleep(0.01)
        return run(session, request)

    def interrupted(*arguments):
        raise _Interrupt

    monkeypatch.setattr(Session, "run", slow)
    monkeypatch.setattr(engine._ChunkQueue, "stop", lambda work: None)
    monkeypatch.setattr(
        engine._ChunkQueue, "drain", _leaving_to_workers(engine._ChunkQueue.drain, threading.get_ident())
    )
    monkeypatch.setattr(engine._ChunkQueue, "wait", interrupted)
    with pytest.raises(_Interrupt):
        model.sample(x[:1], samples=400)
    wait_until = time.monotonic() + PATIENCE
    while len(runs) < 400 and time.monotonic() < wait_until:
        time.sleep(0.05)
    assert len(runs) == 400
