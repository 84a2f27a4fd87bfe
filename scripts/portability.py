"""Replays the vectors of four small artifacts wherever the tools for it are, and prints docs/devices.md's table.

    scripts/portability              # what can be replayed here; what is missing is named
    scripts/portability --install    # first downloads what npm and Debian have: about 700 MB, kept for later runs
    scripts/portability node c++     # these ways only

Exit code 1 where a replay gives other numbers, or takes another seed for the same.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import onnxruntime

import portability_tools as tools
from portability_browser import browse

REPLAYS = Path(__file__).parent / "replays"
RUNTIME = Path(__file__).parents[1] / "runtime" / "src"
# The output of these is made without a sum: every number has to be the same everywhere.
EQUAL_BITS = ("masks",)
NAMES = ("lstm", "masks", "normals", "stream")
SECONDS = 400


class Way(NamedTuple):
    """A way to run an artifact: what it is, what it lacks here, and the replays' lines."""

    what: Callable[[], str]
    missing: Callable[[], list[str]]
    replay: Callable[[Path, Sequence[str], Path], str]  # artifacts, names, a folder for what it makes


class Failed(Exception):
    """A replay that did not come to an end."""


def run(*command: object, **environment: str) -> str:
    try:
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            timeout=SECONDS,
            env=environment or None,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"took more than {SECONDS} seconds") from None
    if done.returncode:
        raise Failed(f"exit code {done.returncode}: {' '.join(done.stderr.split())[-300:]}")
    return done.stdout


def python(engine: str, folder: Path, names: Sequence[str]) -> str:
    return run(sys.executable, REPLAYS / "replay.py", engine, folder, *names)


def ort_file(folder: Path, names: Sequence[str], made: Path) -> str:
    for name in names:
        shutil.copy(folder / f"{name}.onnx", made)
        shutil.copytree(folder / name, made / name)
    # It writes the operators that a reduced build has to have beside them.
    run(sys.executable, "-m", "onnxruntime.tools.convert_onnx_models_to_ort", made, "--optimization_style", "Fixed")
    return python("ort", made, names)


def in_node(folder: Path, names: Sequence[str], made: Path) -> str:
    return run("node", REPLAYS / "node.mjs", tools.NODE_MODULES, folder, *names)


def in_browser(folder: Path, names: Sequence[str], made: Path) -> str:
    command = tools.chromium()
    assert command is not None
    roots = {"replays": REPLAYS, "artifacts": folder, "ort": tools.NODE_MODULES / "onnxruntime-web" / "dist"}
    told = browse(command, roots, f"replays/page.html?{','.join(names)}", SECONDS)
    if told.startswith("failed"):
        raise Failed(told)
    return told


def compiled(source: Path, made: Path) -> Path:
    """A C++ program that is linked with the wheel's library."""
    program, link = made / source.stem, made / "libonnxruntime.so.1"
    link.symlink_to(tools.library())
    includes = [f"-I{tools.CPP}/usr/include", f"-I{tools.CPP}/usr/include/onnxruntime"]
    run("g++", "-std=c++17", *includes, source, link, f"-Wl,-rpath,{made}", "-o", program)
    return program


def in_cpp(folder: Path, names: Sequence[str], made: Path) -> str:
    return run(compiled(REPLAYS / "replay.cpp", made), folder, *names)


def emulated(processor: tools.Processor) -> Way:
    def replay(folder: Path, names: Sequence[str], made: Path) -> str:
        own = processor.environment
        own["PYTHONPATH"] = os.pathsep.join([str(RUNTIME), own["PYTHONPATH"]])
        return run(*processor.command, REPLAYS / "replay.py", "keepdrop", folder, *names, **own)

    whose = f"PyPI's wheel {onnxruntime.__version__}" if processor.wheels else "Debian 13's python3-onnxruntime"
    return Way(
        lambda: f"{processor.debian} ({processor.model}), {whose}, qemu",
        lambda: tools.missing(files=(Path(processor.command[0]), processor.root)),
        replay,
    )


def node_package(name: str) -> str:
    version = json.loads((tools.NODE_MODULES / name / "package.json").read_text())["version"]
    return f"{name} {version}"


def browser_version() -> str:
    command = tools.chromium()
    assert command is not None
    return " ".join(run(command, "--version").split()[:2])


WAYS: dict[str, Way] = {
    "python": Way(
        lambda: f"Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}, {platform.machine()}",
        list,
        lambda folder, names, made: python("keepdrop", folder, names),
    ),
    "ort": Way(lambda: f"`.ort` file, onnxruntime {onnxruntime.__version__}", list, ort_file),
    "reference": Way(
        lambda: f"ONNX's ReferenceEvaluator {onnx.__version__} (NumPy, no onnxruntime)",
        list,
        lambda folder, names, made: python("reference", folder, names),
    ),
    "node": Way(
        lambda: f"Node {run('node', '--version').strip()}, {node_package('onnxruntime-node')}",
        lambda: tools.missing(("node",), (tools.NODE_MODULES / "onnxruntime-node",)),
        in_node,
    ),
    "browser": Way(
        lambda: f"{browser_version()}, {node_package('onnxruntime-web')}, wasm, one thread",
        lambda: [
            *([] if tools.chromium() else ["no chromium (install it)"]),
            *tools.missing(files=(tools.NODE_MODULES / "onnxruntime-web",)),
        ],
        in_browser,
    ),
    "c++": Way(
        lambda: f"C++, headers of Debian 13 (1.21), library {onnxruntime.__version__} of the wheel",
        lambda: tools.missing(("g++",), (tools.CPP / "usr/include/onnxruntime",)),
        in_cpp,
    ),
    **{each.debian: emulated(each) for each in tools.PROCESSORS},
}


def results(way: Way, folder: Path, names: Sequence[str] = NAMES) -> list[dict[str, Any]]:
    """One object for each artifact; see replays/replay.py."""
    with tempfile.TemporaryDirectory() as made:
        lines = [line for line in way.replay(folder, names, Path(made)).splitlines() if line.startswith("{")]
    told = [json.loads(line) for line in lines]
    if [each["artifact"] for each in told] != list(names):
        raise Failed(f"told of {[each['artifact'] for each in told]} and not of {list(names)}")
    return told


def faults(told: dict[str, Any]) -> list[str]:
    """What is wrong about an artifact's replay."""
    name, worst, control = told["artifact"], told["worst"], told["control"]
    found = []
    if worst is None or worst > 1:
        found.append(f"{name}: other numbers, by up to {worst or 'infinitely many'} times what is allowed")
    elif name in EQUAL_BITS and not told["same"]:
        found.append(f"{name}: the masks differ")
    if control is not None and control <= 1:
        found.append(f"{name}: another seed gave the same samples")
    return found


def row(told: dict[str, Any]) -> str:
    return "same" if told["same"] else f"{told['worst']:.1g}" if told["worst"] is not None else "not numbers"


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/portability", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("ways", nargs="*", metavar="WAY", help=f"of {', '.join(WAYS)}; by default all")
    parser.add_argument("--install", action="store_true", help=f"first download what is missing, to {tools.HOME}")
    parser.add_argument("--artifacts", type=Path, help="a folder of artifacts and vectors that --keep wrote")
    parser.add_argument("--keep", type=Path, help="keep the artifacts and vectors in this folder, which is made")
    given = parser.parse_args()
    unknown = [name for name in given.ways if name not in WAYS]
    if unknown:
        parser.error(f"there is no way {unknown[0]!r}; ways are {', '.join(WAYS)}")
    if given.install:
        for name, reason in tools.install():
            print(f"{name}: {reason or 'here'}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.artifacts or given.keep or Path(temporary) / "artifacts"
        if given.artifacts is None:
            from portability_artifacts import make

            print("exporting four artifacts, with vectors", file=sys.stderr, flush=True)
            make(folder)
        return table(folder.resolve(), given.ways or list(WAYS))


def table(folder: Path, names: Sequence[str]) -> int:
    print(f"| with | {' | '.join(NAMES)} | another seed | seconds |")
    print(f"|---|{'---|' * (len(NAMES) + 2)}")
    wrong, absent = [], []
    for name in names:
        way, began = WAYS[name], time.monotonic()
        lacking = way.missing()
        if lacking:
            absent.append(f"{name}: not tried, {'; '.join(lacking)}")
            continue
        try:
            told = results(way, folder)
        except (Failed, OSError) as error:
            wrong.append(f"{name}: {error}")
            continue
        bad = [fault for each in told for fault in faults(each)]
        wrong += [f"{name}: {fault}" for fault in bad]
        seen = "noticed" if all(each["control"] is None or each["control"] > 1 for each in told) else "NOT noticed"
        print(f"| {way.what()} | {' | '.join(map(row, told))} | {seen} | {time.monotonic() - began:.0f} |", flush=True)
    for line in [*absent, *wrong]:
        print(line, file=sys.stderr)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
