"""One file, the same samples wherever onnxruntime runs, as far as its tools are here; others are skipped by name."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import keepdrop
import portability
import portability_tools as tools
from portability_browser import browse

EXAMPLES = Path(__file__).parents[1] / "examples"
# Minutes under emulation; arm64 is what most devices are.
NIGHTLY = ("armhf", "riscv64")
WAYS = [pytest.param(name, marks=[pytest.mark.nightly] if name in NIGHTLY else []) for name in portability.WAYS]
MOST_LINES = 60


@pytest.fixture(scope="session")
def artifacts(made_once) -> Path:
    from portability_artifacts import make

    return made_once("four-artifacts", make)


def need(way: str) -> portability.Way:
    lacking = portability.WAYS[way].missing()
    if lacking:
        pytest.skip("; ".join(lacking))
    return portability.WAYS[way]


@pytest.mark.parametrize("name", WAYS)
def test_the_same_samples(name: str, artifacts: Path) -> None:
    way = need(name)
    told = portability.results(way, artifacts)
    assert [fault for each in told for fault in portability.faults(each)] == []


def test_other_numbers_are_told_and_what_is_missing_is_named(
    artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(artifacts, tmp_path / "artifacts")
    call = json.loads((copy / "masks" / "vectors.json").read_text())["calls"][0]
    file = copy / "masks" / call["outputs"]["kept"]["file"]
    numbers = np.frombuffer(file.read_bytes(), "<f4").copy()
    # Less than what is allowed beside sums, which masks have none of.
    changed = np.flatnonzero(numbers)[0]
    numbers[changed] = np.nextafter(numbers[changed], np.float32(9))
    file.write_bytes(numbers.tobytes())
    monkeypatch.setattr(tools, "NODE_MODULES", tools.HOME / "none")
    assert portability.table(copy, ["python", "node"]) == 1
    out, err = capsys.readouterr()
    assert "| noticed |" in out
    assert "python: masks: the masks differ" in err
    assert "node: not tried, no none/onnxruntime-node (scripts/portability --install)" in err


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ({"worst": 1.5, "same": False, "control": 9.0}, "lstm: other numbers, by up to 1.5 times"),
        ({"worst": None, "same": False, "control": 9.0}, "lstm: other numbers, by up to infinitely many"),
        ({"worst": 0, "same": True, "control": 0.5}, "lstm: another seed gave the same samples"),
    ],
)
def test_a_fault_is_told(told: dict, text: str) -> None:
    (fault,) = portability.faults({"artifact": "lstm", **told})
    assert fault.startswith(text)


@pytest.fixture
def readings(tmp_path: Path) -> Path:
    t = np.arange(40)
    lines = np.stack([np.sin(t / 4), np.cos(t / 7), np.sin(t / 3)], axis=1)
    np.savetxt(tmp_path / "readings.csv", lines, "%.6f", ",", header="a,b,c", comments="")
    return tmp_path / "readings.csv"


def windows(readings: Path) -> np.ndarray:
    """Every window of twelve lines, the last one last: [29, 12, 3]."""
    x = np.loadtxt(readings, delimiter=",", skiprows=1, dtype=np.float32)
    return np.lib.stride_tricks.sliding_window_view(x, 12, axis=0).swapaxes(1, 2)


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.replace(",", "").split() if word.lstrip("-")[:1].isdigit()]


def in_node(made: Path) -> list[object]:
    # As a user has it: beside node_modules.
    shutil.copy(EXAMPLES / "sample.mjs", made)
    (made / "node_modules").symlink_to(tools.NODE_MODULES)
    return ["node", made / "sample.mjs"]


def in_cpp(made: Path) -> list[object]:
    return [portability.compiled(EXAMPLES / "sample.cpp", made)]


@pytest.mark.parametrize(("way", "command"), [("node", in_node), ("c++", in_cpp)])
def test_a_program_forecasts_as_keepdrop_does(
    way: str, command, artifacts: Path, readings: Path, tmp_path: Path
) -> None:
    need(way)
    program = command(tmp_path)
    done = subprocess.run([*program, artifacts / "lstm.onnx", readings], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    p = keepdrop.load(artifacts / "lstm.onnx").predict(windows(readings)[-1:], samples=100, seed=7)
    low, high = p.interval(0.9)
    for i, line in enumerate(done.stdout.splitlines()):
        assert line.startswith(f"next[{i}] mean ")
        _, *said = numbers(line.replace("90 %", "").replace("next", "0 "))
        np.testing.assert_allclose(said, [a[0, i] for a in (p.mean, p.std, low, high)], rtol=1e-4, atol=1e-5)
    readings.write_text("a,b,c\n1,2,3\n")
    done = subprocess.run([*program, artifacts / "lstm.onnx", readings], capture_output=True, text=True)
    assert done.returncode == 1 and "is shorter than" in done.stderr


def test_the_page_draws_its_band(artifacts: Path, readings: Path, tmp_path: Path) -> None:
    """Artifact chosen, readings dropped, both sliders moved, readings too short; a request to elsewhere is refused."""
    need("browser")
    page = shutil.copytree(EXAMPLES / "page", tmp_path / "page", ignore=shutil.ignore_patterns("ort"))
    (page / "ort").symlink_to(tools.NODE_MODULES / "onnxruntime-web" / "dist")
    given = tmp_path / "given"
    given.mkdir()
    shutil.copy(artifacts / "lstm.onnx", given / "forecaster.onnx")
    shutil.copy(readings, given / "readings.csv")
    (given / "short.csv").write_text("a,b,c\n1,2,3\n")
    roots = {"page": page, "given": given, "driver": Path(__file__).parent}
    told = json.loads(browse(tools.chromium(), roots, "driver/page_driver.html"))
    assert "failed" not in told, told
    assert told["elsewhere"] == "Failed to fetch"
    chosen, dropped, level, samples, short = told["said"]
    assert len({band for _, band in (chosen, dropped, level, samples)}) == 4
    model = keepdrop.load(artifacts / "lstm.onnx")
    for (text, _), count, share in ((dropped, 100, 0.9), (level, 100, 0.5), (samples, 200, 0.5)):
        p = model.predict(windows(readings), samples=count, seed=7)
        expected = [p.mean[-1, 0], 100 * share, count, *(edge[-1, 0] for edge in p.interval(share))]
        np.testing.assert_allclose(numbers(text), expected, rtol=1e-4, atol=1e-5)
    assert short[0] == "Not drawn: the artifact takes 12 lines of 3 numbers"


def test_examples_are_short() -> None:
    long = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.rglob("*.*") if "ort" not in path.parts}
    programs = {name: lines for name, lines in long.items() if name.endswith((".cpp", ".mjs", ".html"))}
    assert len(programs) == 3 and max(programs.values()) <= MOST_LINES
