"""One loaded model under many threads, in forked and spawned processes, and at an interpreter's end."""

import copy
import io
import os
import pickle
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import keepdrop
from keepdrop.run import engine
from keepdrop.run.session import Session

FORECASTER = Path(__file__).parent / "data" / "forecaster.onnx"


def windows(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 5, 2)).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 3])
def test_many_threads_get_what_one_after_the_other_gets(threads: int, monkeypatch) -> None:
    monkeypatch.setattr(engine, "HANDOFF", 0.0)  # wakes the workers for small calls too
    monkeypatch.setattr(engine, "MAX_RUN", 16)
    model = keepdrop.load(FORECASTER, threads=threads)
    calls = [(windows(1 + n % 5), dict(samples=20 + n % 7, seed=n, first_sample=n % 3)) for n in range(64)]
    expected = [model.sample(x, **arguments) for x, arguments in calls]
    start = threading.Barrier(8)

    def every(offset: int) -> list[np.ndarray]:
        start.wait(timeout=30)
        order = [(offset * 8 + n) % len(calls) for n in range(len(calls))]
        return [(n, model.sample(calls[n][0], **calls[n][1])) for n in order]

    with ThreadPoolExecutor(8) as pool:
        for results in pool.map(every, range(8)):
            for n, got in results:
                np.testing.assert_array_equal(got, expected[n])


def test_a_thread_that_took_anothers_samples_would_be_seen(monkeypatch) -> None:
    model = keepdrop.load(FORECASTER, threads=1)
    x = windows(1)
    assert not np.array_equal(model.sample(x, samples=5, seed=1), model.sample(x, samples=5, seed=2))


def test_an_error_in_one_thread_is_not_anothers(one, x, closed, monkeypatch) -> None:
    monkeypatch.setattr(engine, "MAX_RUN", 4)
    model = keepdrop.load(one, threads=2)
    run = Session.run

    def failing(session, request):
        if request.seed == 13:
            raise keepdrop.InputError("boom")
        return run(session, request)

    monkeypatch.setattr(Session, "run", failing)

    def call(seed: int) -> np.ndarray:
        if seed == 13:
            with pytest.raises(keepdrop.InputError, match="boom"):
                model.sample(x, samples=50, seed=seed)
            return closed(x, 50, seed=seed)
        return model.sample(x, samples=50, seed=seed)

    with ThreadPoolExecutor(4) as pool:
        for seed, got in enumerate(pool.map(call, range(20))):
            np.testing.assert_array_equal(got, closed(x, 50, seed=seed))


@pytest.mark.parametrize("through", [lambda m: pickle.loads(pickle.dumps(m)), copy.copy, copy.deepcopy])
def test_a_model_is_pickled_with_what_it_was_opened_with(one, x, closed, through) -> None:
    model = through(keepdrop.load(one, threads=2, memory="1MB", by_output=True))
    np.testing.assert_array_equal(model.sample(x)["y"], closed(x, 5))
    with pytest.raises(keepdrop.TooLarge, match="the budget is 1.0 MB"):
        model.sample(x, samples=10**6)


def test_a_model_from_memory_is_pickled_with_its_content(one, x, closed) -> None:
    model = keepdrop.load(io.BytesIO(one.read_bytes()))
    Path(one).unlink()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).sample(x), closed(x, 5))


def test_a_pickled_model_needs_no_file_and_tells_of_no_machine(one, two, x, closed, monkeypatch) -> None:
    monkeypatch.setattr("keepdrop.model.available_threads", lambda: 3)
    pickled = pickle.dumps(keepdrop.load(one.resolve()))
    assert str(one.parent).encode() not in pickled and b"one.onnx" in pickled
    one.write_bytes(two.read_bytes())
    monkeypatch.setattr("keepdrop.model.available_threads", lambda: 5)  # another machine
    again = pickle.loads(pickled)
    np.testing.assert_array_equal(again.sample(x), closed(x, 5))
    assert again._engine._threads == 5
    one.unlink()
    assert pickle.dumps(again) == pickled


@pytest.mark.parametrize("change", ["gone", "other"])
def test_a_model_whose_file_is_no_longer_there_is_not_pickled(one, two, change: str) -> None:
    model = keepdrop.load(one)
    one.unlink() if change == "gone" else one.write_bytes(two.read_bytes())
    with pytest.raises(keepdrop.ArtifactError, match="is no longer the file that was opened; load it again"):
        pickle.dumps(model)


def run(script: str, *arguments) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


HEAD = """
import sys
import numpy as np
import keepdrop
from keepdrop.run import engine
engine.HANDOFF, engine.MAX_RUN = 0.0, 64
x = np.random.default_rng(1).standard_normal((9, 5, 2)).astype(np.float32)
model = keepdrop.load(sys.argv[1], threads=2)
expected = model.sample(x, samples=100)
np.array_equal(expected, expected)  # numpy 2 imports at the first such call, too late at the end
"""

FORKED = """
import os, threading, time
from keepdrop.run.session import Session

run, at_work = Session.run, set()

def watched(session, request):
    at_work.add(threading.get_ident())
    time.sleep(0.02)  # so that a worker has the time to come
    return run(session, request)

Session.run = watched
children = []
for _ in range(3):
    child = os.fork()
    if not child:
        same = np.array_equal(model.sample(x, samples=100), expected)
        os._exit(0 if same and len(at_work) == 2 else 1)  # a fork has none of its parent's threads
    children.append(child)
print([os.waitpid(child, 0)[1] for child in children], np.array_equal(model.sample(x, samples=100), expected))
"""

AT_EXIT = """
import atexit
atexit.register(lambda: print(np.array_equal(model.sample(x, samples=100), expected)))
"""

LEFT_OVER = """
import gc
class Late:
    def __del__(self):
        print(np.array_equal(self.model.sample(x, samples=100), expected))
late = Late()
late.model = model
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_forked_processes_use_the_model() -> None:
    assert run(HEAD + FORKED, FORECASTER) == "[0, 0, 0] True\n"


@pytest.mark.parametrize("script", [AT_EXIT, LEFT_OVER])
def test_a_model_works_while_the_interpreter_ends(script: str) -> None:
    assert run(HEAD + script, FORECASTER) == "True\n"


def test_nothing_is_written(tmp_path) -> None:
    """A device's file system can be read-only."""
    script = "import os, sys; os.chdir(sys.argv[2])\n" + HEAD + "model.predict(x)\n"
    run(script, FORECASTER, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert sorted(path.suffix for path in FORECASTER.parent.iterdir() if path.is_file()) == [".onnx", ".onnx", ".py"]


@pytest.mark.parametrize("name", ["ä ö/模型.onnx", "with space.onnx", "no suffix", "x.ort"])
def test_any_name_of_a_file(one, tmp_path, x, closed, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(one.read_bytes())
    for given in (path, str(path), os.fsencode(path)):
        np.testing.assert_array_equal(keepdrop.load(given, threads=2).sample(x), closed(x, 5))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have names of text alone")
def test_a_name_that_is_not_text(one, tmp_path, x, closed, monkeypatch) -> None:
    monkeypatch.setattr(engine, "MAX_RUN", 4)
    path = os.fsencode(tmp_path) + b"/\xff.onnx"
    with open(path, "wb") as file:
        file.write(one.read_bytes())
    np.testing.assert_array_equal(keepdrop.load(path, threads=2).sample(x, samples=50), closed(x, 50))


def test_a_file_in_memory(one, x, closed, monkeypatch) -> None:
    monkeypatch.setattr(engine, "MAX_RUN", 4)
    np.testing.assert_array_equal(
        keepdrop.load(io.BytesIO(one.read_bytes()), threads=2).sample(x, samples=50), closed(x, 50)
    )
    with open(one, "rb") as file:
        np.testing.assert_array_equal(keepdrop.load(file).sample(x), closed(x, 5))


def test_a_file_replaced_while_it_is_opened_is_not_run(one, two, monkeypatch) -> None:
    """What was checked is what runs."""
    from keepdrop.run import session

    def swapped(data: bytes):
        contents = read(data)
        os.replace(two, one)
        return contents

    read = session.read
    monkeypatch.setattr(session, "read", swapped)
    with pytest.raises(keepdrop.ArtifactError, match="was replaced while it was being opened; load it again"):
        keepdrop.load(one)
