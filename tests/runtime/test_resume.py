"""--resume: after a kill nothing is lost and nothing done twice, and the file is that of an uninterrupted run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import keepdrop
from keepdrop import cli

# Instead of the toy's y: the same beside a product of two large matrices, which takes about a tenth of a second a call
# and adds nothing.
SLOWLY = """
  fast = Add(xtr, s)
  side = Mul(num_samples, many)
  side1 = Unsqueeze(side, front)
  shape = Concat<axis = 0>(side1, side1)
  large = ConstantOfShape(shape)
  product = MatMul(large, large)
  total = ReduceSum<keepdims = 0>(product)
  nothing = Mul(total, zero)
  y = Add(fast, nothing)
"""
ROWS = 24
OPTIONS = ("--samples", "5", "--seed", "3", "--interval", "0.9", "--batch", "1", "--threads", "1")


@pytest.fixture
def slow(write, metadata, one_text) -> Path:
    constants = "<int64[1] front = {0}, int64 many = {300}, float zero = {0}, int64 one"
    text = one_text.replace("<int64 one", constants).replace("  y = Add(xtr, s)", SLOWLY)
    return write(text, metadata.to_json(), "slow.onnx")


@pytest.fixture
def data(tmp_path) -> Path:
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((ROWS, 3)).astype(np.float32))
    return tmp_path / "x.npy"


@pytest.fixture
def calls(tmp_path_factory) -> Path:
    """A file that counts, outside of the job's folder."""
    return tmp_path_factory.mktemp("calls") / "calls"


def call(*arguments, code: int = 0):
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


# Adds a byte to a file whenever rows are about to be computed.
CHILD = """
import sys
import keepdrop
from keepdrop.cli import main
predict = keepdrop.Model.predict
def told(self, *arguments, **options):
    with open(sys.argv[1], "ab") as file:
        file.write(b".")
    return predict(self, *arguments, **options)
keepdrop.Model.predict = told
main(sys.argv[2:])
"""


def started(calls: Path, *arguments) -> subprocess.Popen:
    """The command in a process of its own; `calls` grows by a byte with every piece it begins."""
    command = [sys.executable, "-c", CHILD, str(calls), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path, size: int, process: subprocess.Popen) -> None:
    """Until the file has that size, with the process still at work."""
    until = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < size:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.005)


def finished_in(tmp_path: Path, artifact: Path, data: Path, suffix: str) -> bytes:
    out = tmp_path / f"whole{suffix}"
    call("predict", artifact, data, "-o", out, *OPTIONS)
    return out.read_bytes()


@pytest.fixture
def rows_computed(monkeypatch) -> list[int]:
    """The ids of the rows that `predict` is asked for from now on, in their order."""
    seen: list[int] = []
    predict = keepdrop.Model.predict

    def counted(self, x, *, rows, **options):
        seen.extend(rows)
        return predict(self, x, rows=rows, **options)

    monkeypatch.setattr(keepdrop.Model, "predict", counted)
    return seen


def test_after_a_kill_the_job_goes_on_and_the_file_is_the_same(slow, data, tmp_path, calls, rows_computed) -> None:
    out = tmp_path / "out.npz"
    process = started(calls, "predict", slow, data, "-o", out, *OPTIONS, "--resume")
    wait_for(calls, 4, process)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not out.exists()
    call("predict", slow, data, "-o", out, *OPTIONS, "--resume")
    computed = list(rows_computed)
    assert 3 <= computed[0] < ROWS  # three pieces at least were finished, and not all
    assert computed == list(range(computed[0], ROWS))
    assert out.read_bytes() == finished_in(tmp_path, slow, data, ".npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npz", "slow.onnx", "whole.npz", "x.npy"]


@pytest.mark.parametrize(
    ("number", "code", "resume"),
    [
        (signal.SIGTERM, 143, True),
        (signal.SIGINT, 130, True),
        (signal.SIGTERM, 143, False),
        (signal.SIGINT, 130, False),
    ],
)
def test_an_interrupt_leaves_no_output(slow, data, tmp_path, calls, number, code, resume) -> None:
    out = tmp_path / "out.csv"
    before = sorted(tmp_path.iterdir())
    process = started(calls, "predict", slow, data, "-o", out, *OPTIONS, *(["--resume"] if resume else []))
    wait_for(calls, 3, process)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout) == (code, "")
    assert len(stderr.splitlines()) == 1
    assert stderr.startswith("keepdrop: interrupted; ")
    if resume:
        assert "the same command goes on from there" in stderr
        assert sorted(tmp_path.iterdir()) == sorted([*before, tmp_path / "out.csv.work"])
    else:
        assert sorted(tmp_path.iterdir()) == before


@pytest.fixture
def half(one, data, tmp_path, monkeypatch) -> Path:
    """The work file of a job that failed after half of its pieces."""
    predict = keepdrop.Model.predict

    def failing(self, x, *, rows, **options):
        if rows[0] == ROWS // 2:
            raise keepdrop.InputError("no more")
        return predict(self, x, rows=rows, **options)

    with monkeypatch.context() as patched:
        patched.setattr(keepdrop.Model, "predict", failing)
        told = call("predict", one, data, "-o", tmp_path / "out.npz", *OPTIONS, "--resume", code=1).stderr
    assert f"rows {ROWS // 2} to {ROWS // 2} of {data}: no more" in told
    assert not (tmp_path / "out.npz").exists()
    return tmp_path / "out.npz.work"


def test_the_rest_alone_is_computed(one, data, tmp_path, half, rows_computed) -> None:
    result = call("predict", one, data, "-o", tmp_path / "out.npz", *OPTIONS, "--resume", "--json")
    assert rows_computed == list(range(ROWS // 2, ROWS))
    assert json.loads(result.stdout)["rows"] == ROWS
    assert (tmp_path / "out.npz").read_bytes() == finished_in(tmp_path, one, data, ".npz")
    assert not half.exists()


def test_a_job_that_lacks_the_output_alone_computes_nothing(one, data, tmp_path, rows_computed, monkeypatch) -> None:
    def failing(*_):
        raise keepdrop.InputError("no room")

    with monkeypatch.context() as patched:
        patched.setattr("keepdrop.files.outputs.write", failing)
        call("predict", one, data, "-o", tmp_path / "out.npz", *OPTIONS, "--resume", code=1)
    assert rows_computed == list(range(ROWS))
    call("predict", one, data, "-o", tmp_path / "out.npz", *OPTIONS, "--resume")
    assert len(rows_computed) == ROWS
    assert (tmp_path / "out.npz").read_bytes() == finished_in(tmp_path, one, data, ".npz")


def test_without_resume_all_is_computed(one, data, tmp_path, half, rows_computed) -> None:
    """The control of the test above: the work file is what makes the difference, and it stays."""
    call("predict", one, data, "-o", tmp_path / "out.npz", *OPTIONS)
    assert rows_computed == list(range(ROWS))
    assert half.exists()


@pytest.mark.parametrize("damage", ["torn", "flipped", "appended", "header"])
def test_what_a_crash_left_damaged_is_computed_again(one, data, tmp_path, half, rows_computed, damage) -> None:
    content = bytearray(half.read_bytes())
    if damage == "torn":
        del content[-5:]
    elif damage == "flipped":
        content[-300] ^= 1
    elif damage == "appended":
        content += os.urandom(100)
    else:
        del content[40:]
    half.write_bytes(content)
    call("predict", one, data, "-o", tmp_path / "out.npz", *OPTIONS, "--resume")
    assert rows_computed[0] == {"torn": 11, "flipped": 10, "appended": 12, "header": 0}[damage]
    assert rows_computed == list(range(rows_computed[0], ROWS))
    assert (tmp_path / "out.npz").read_bytes() == finished_in(tmp_path, one, data, ".npz")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_every_format_is_the_same_after_a_resume(one, data, tmp_path, half, suffix) -> None:
    half.rename(tmp_path / f"out{suffix}.work")
    call("predict", one, data, "-o", tmp_path / f"out{suffix}", *OPTIONS, "--resume")
    assert (tmp_path / f"out{suffix}").read_bytes() == finished_in(tmp_path, one, data, suffix)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--seed", "4"), "--seed was 3 and is 4"),
        (("--samples", "6"), "--samples was 5 and is 6"),
        (("--interval", "0.5"), "--interval was [0.9] and is [0.9, 0.5]"),
        (("--batch", "2"), "--batch was 1 and is 2"),
        (("--threads", "2"), "--threads was 1 and is 2"),
        (("--first-row", "1"), "--first-row was 0 and is 1"),
        (("--rows", "0:20"), f"--rows was [0, {ROWS}] and is [0, 20]"),
        (("--keep-samples",), "--keep-samples was false and is true"),
    ],
)
def test_another_job_is_refused_with_the_difference(one, data, tmp_path, half, options, difference) -> None:
    before = half.read_bytes()
    told = call("predict", one, data, "-o", tmp_path / "out.npz", *OPTIONS, *options, "--resume", code=1).stderr
    assert f"{half} holds finished pieces of another job: {difference}; " in told
    assert "remove out.npz.work to start anew" in told
    assert half.read_bytes() == before
    assert not (tmp_path / "out.npz").exists()


def test_another_input_or_artifact_is_refused(one, slow, data, tmp_path, half) -> None:
    arguments = ("-o", tmp_path / "out.npz", *OPTIONS, "--resume")
    assert 'artifact was "' in call("predict", slow, data, *arguments, code=1).stderr
    os.utime(data, ns=(0, 0))
    told = call("predict", one, data, *arguments, code=1).stderr
    assert 'and is "416 bytes, changed 1970-01-01 00:00:00.000000000 UTC"' in told
    half.write_bytes(b"something else")
    assert "is not a work file of this keepdrop" in call("predict", one, data, *arguments, code=1).stderr
    assert half.read_bytes() == b"something else"


def test_two_processes_do_not_share_a_work_file(one, data, tmp_path, half) -> None:
    fcntl = pytest.importorskip("fcntl")
    with open(half) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        told = call("predict", one, data, "-o", tmp_path / "out.npz", *OPTIONS, "--resume", code=1).stderr
    assert "another process is working on" in told
