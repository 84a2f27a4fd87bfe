"""Vectors: what a device replays to prove itself, and what the replay has to notice."""

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

import keepdrop
from keepdrop.artifact.properties import with_properties
from keepdrop.cli import main
from keepdrop.replay import check_vectors, worst_of


def run(*arguments: object):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(params=["two", "streaming"])
def artifact(request, tmp_path: Path) -> Path:
    return request.getfixturevalue(request.param)


@pytest.fixture
def written(artifact: Path, tmp_path: Path) -> Path:
    done = run("vectors", artifact, "-o", tmp_path / "v")
    assert done.exit_code == 0, done.output
    return tmp_path / "v"


def test_they_are_right_where_they_were_written(artifact: Path, written: Path) -> None:
    done = run("check", artifact, written)
    assert done.exit_code == 0 and done.stdout.startswith("right: ")
    told = json.loads(run("check", artifact, written, "--json").stdout)
    assert told["right"] and all(output["worst"] == 0 for output in told["outputs"])
    assert sorted(path.name for path in written.parent.iterdir() if path.name.startswith(".")) == []


def test_a_program_that_reads_the_description_finds_the_numbers(two: Path, closed, tmp_path: Path) -> None:
    """By JSON and raw bytes alone; y of the toy has a closed form."""
    assert run("vectors", two, "-o", tmp_path / "v").exit_code == 0
    index = json.loads((tmp_path / "v" / "vectors.json").read_text())

    def read(told: dict) -> np.ndarray:
        raw = (tmp_path / "v" / told["file"]).read_bytes()
        return np.frombuffer(raw, np.dtype(told["dtype"]).newbyteorder("<")).reshape(told["shape"])

    seeds = set()
    for call in index["calls"]:
        feeds = {name: read(told) for name, told in call["feeds"].items()}
        assert feeds["seed"].shape == feeds["num_samples"].shape == feeds["first_sample"].shape == ()
        seeds.add(int(feeds["seed"]))
        y = read(call["outputs"]["y"])
        count, first = int(feeds["num_samples"]), int(feeds["first_sample"])
        expected = closed(feeds["x"].astype(float), count, float(feeds["seed"]), feeds["rows"].astype(float), first)
        np.testing.assert_allclose(y, expected, rtol=1e-6)
    assert min(seeds) == -(2**63) and max(seeds) == 2**63 - 1


def test_other_numbers_are_noticed(artifact: Path, written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A binding that passes over an input, as some do: the right shape, and other samples."""
    session = keepdrop.load(artifact, threads=1)._session
    call = session.call
    monkeypatch.setattr(session, "call", lambda names, feeds: call(names, {**feeds, "seed": np.array(8)}))
    worst = worst_of(check_vectors(session, written))
    assert worst is not None and worst.worst > 1


def test_the_command_says_what_differs(two: Path, tmp_path: Path) -> None:
    run("vectors", two, "-o", tmp_path / "v")
    index = json.loads((tmp_path / "v" / "vectors.json").read_text())
    file = tmp_path / "v" / index["calls"][1]["outputs"]["n"]["file"]
    numbers = np.frombuffer(file.read_bytes(), "<f4").copy()
    numbers[0] = np.nan
    file.write_bytes(numbers.tobytes())
    done = run("check", two, tmp_path / "v")
    assert done.exit_code == 1
    assert (
        "other numbers here: 1 of 6 calls differ, most of all call 1 in 'n' (7% of its numbers, by up to inf"
        in done.output
    )


def test_vectors_of_another_artifact_are_refused(two: Path, one: Path, tmp_path: Path) -> None:
    run("vectors", two, "-o", tmp_path / "v")
    done = run("check", one, tmp_path / "v")
    assert done.exit_code == 1 and "was written for an artifact of other numbers (two.onnx, digest" in done.output
    two.write_bytes(with_properties(two.read_bytes(), {"keepdrop.later": "calibrated"}))
    assert run("check", two, tmp_path / "v").exit_code == 0  # a copy that gives the same numbers


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: (folder / "vectors.json").unlink(), "holds no vectors"),
        (lambda folder: (folder / "vectors.json").write_text("{"), "holds no vectors"),
        (lambda folder: (folder / "0-in-0.bin").unlink(), "is damaged"),
        (lambda folder: (folder / "0-in-0.bin").write_bytes(b"\0"), "has 1 bytes and its shape"),
        (lambda folder: shutil.rmtree(folder), "holds no vectors"),
    ],
)
def test_damaged_vectors_are_refused(two: Path, tmp_path: Path, damage, text: str) -> None:
    run("vectors", two, "-o", tmp_path / "v")
    damage(tmp_path / "v")
    done = run("check", two, tmp_path / "v")
    assert done.exit_code == 1 and text in done.output


def test_nothing_is_overwritten(two: Path, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    done = run("vectors", two, "-o", tmp_path / "v")
    assert done.exit_code == 1 and "is there already" in done.output and list((tmp_path / "v").iterdir()) == []
    (tmp_path / "link").symlink_to(two)
    for name in (two, tmp_path / "link"):
        assert "is there already" in run("vectors", two, "-o", name).output and two.is_file()


def test_inspect_names_the_operators(two: Path) -> None:
    told = json.loads(run("inspect", two, "--json").stdout)
    assert told["opset"] == 18
    assert told["operators"] == sorted({node.op_type for node in onnx.load(two).graph.node})
