"""Thousands of mutated artifacts; `scripts/fuzz` runs as many as wanted."""

import collections
import json

import pytest

from . import fuzz

# Chosen for about 10 s of one core: a file that onnxruntime sees costs some milliseconds, others less than one.
# Of the graphs after the first 900, one in 3,000 ends onnxruntime 1.32 itself: see docs/robustness.md.
# Damaged inputs are some milliseconds each; 3,000 of a kind were looked at with `scripts/fuzz`.
CASES = {"torn": 2000, "metadata": 1000, "forged": 700, "graph": 300, **dict.fromkeys(fuzz.FILES, 40)}


@pytest.fixture(scope="module")
def found(made_once) -> dict[str, dict[str, int]]:
    """How often each outcome came about, by kind; whatever is wrong under its full text."""

    def make(path) -> None:
        counts = collections.defaultdict(collections.Counter)
        for case, outcome in fuzz.outcomes(fuzz.plan(CASES)):
            counts[case.kind][f"{case}: {outcome}" if outcome[0].isupper() else outcome] += 1
        path.write_text(json.dumps(counts))

    return json.loads(made_once("fuzz.json", make).read_text())


@pytest.mark.parametrize("kind", fuzz.KINDS)
def test_an_error_of_ours_or_an_answer(found, kind: str) -> None:
    assert set(found[kind]) <= {"refused", "failed", "answered"}
    assert sum(found[kind].values()) == CASES[kind]


def test_a_torn_file_is_refused(found) -> None:
    """All but a few, in which the checksum itself was hit and nothing else."""
    assert found["torn"]["refused"] > 0.99 * CASES["torn"]


def test_some_mutations_leave_an_artifact(found) -> None:
    """Or else nothing after the checks would have been tried."""
    assert all("answered" in found[kind] for kind in ("metadata", "forged", "graph"))


@pytest.mark.parametrize("artifact", fuzz.ARTIFACTS)
def test_a_file_that_is_as_it_was_is_answered(artifact: str, monkeypatch) -> None:
    monkeypatch.setattr(fuzz, "mutated", lambda case: (fuzz.DATA / f"{artifact}.onnx").read_bytes())
    right = fuzz.keepdrop.load(fuzz.DATA / f"{artifact}.onnx").sample(
        fuzz.inputs(artifact), samples=fuzz.SAMPLES, seed=fuzz.SEED
    )
    case = fuzz.Case("torn", artifact, 0)
    assert fuzz.outcome(case, lambda name: right) == "answered"
    wrong = {k: v + 1 for k, v in right.items()} if isinstance(right, dict) else right + 1
    assert fuzz.outcome(case, lambda name: wrong) == "WRONG answer"


DYING = """
import sys
for line in sys.stdin:
    if "crash" in line:
        import os
        os.abort()
    if "hang" in line:
        import time
        time.sleep(60)
    print('"refused"', flush=True)
"""


def test_a_crash_and_a_hang_would_be_seen(tmp_path, monkeypatch) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    monkeypatch.setattr(fuzz, "__file__", str(tmp_path / "dying.py"))
    monkeypatch.setattr(fuzz, "PATIENCE", 2.0)
    cases = [fuzz.Case(kind, "x", 0) for kind in ("torn", "crash", "torn", "hang", "torn")]
    found = [outcome.split()[0] for _, outcome in fuzz.outcomes(cases)]
    assert found == ["refused", "CRASH", "refused", "HANG", "refused"]


def test_a_fuzz_that_is_interrupted_tells_its_counts(monkeypatch, capsys) -> None:
    def interrupted(cases):
        yield cases[0], "refused"
        yield cases[1], "answered"
        raise KeyboardInterrupt

    monkeypatch.setattr(fuzz, "outcomes", interrupted)
    monkeypatch.setattr("sys.argv", ["fuzz", "--cases", "9", "--kinds", "torn"])
    with pytest.raises(SystemExit) as ended:
        fuzz.main()
    assert ended.value.code == 130
    out = capsys.readouterr().out
    assert "interrupted after 2 cases" in out
    assert [line.split() for line in out.splitlines()[1:]] == [["torn", "answered", "1"], ["torn", "refused", "1"]]
