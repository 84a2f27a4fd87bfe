"""Mutants: small faults planted one at a time, and whether the tests of that module see them.

cosmic-ray makes the mutants, in a copy of the sources. Each is tried in a fork of this process, which has imported what
the tests need of others, so that one takes a second rather than ten. A survivor is a fault that no test sees, or no
fault: what `EXPLAINED` says of its line.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

TOP = Path(__file__).parents[1]
PACKAGE = Path("runtime/src/keepdrop")
TESTS = Path("tests/runtime")
# What is tried, and the tests that have to see it: the quick ones first.
MODULES = {
    "run/engine.py": ("test_engine", "test_model", "test_memory", "test_threads", "test_interrupt"),
    "run/request.py": ("test_model", "test_engine", "test_hard_inputs", "test_stream"),
    "until/stopping.py": ("test_adaptive", "test_stopping"),
    "until/adaptive.py": ("test_adaptive", "test_memory"),
    "stream/stream.py": ("test_stream", "test_stream_truths", "test_notebook", "test_stream_command"),
    "stream/rows.py": ("test_stream", "test_stream_command"),
    "stream/saved_stream.py": ("test_stream", "test_stream_command"),
    "files/work.py": ("test_durable", "test_predict_files", "test_resume"),
    "files/outputs.py": ("test_durable", "test_predict_files", "test_predict_table", "test_predict_raw", "test_resume"),
    "files/targets.py": ("test_durable", "test_reading", "test_predict_files", "test_resume"),
    "files/cells.py": ("test_reading", "test_predict_files"),
    "files/job.py": ("test_predict_files", "test_predict_table", "test_predict_raw", "test_resume", "test_cli"),
}
# By a part of the line: why a mutant of it is no fault that a test could see.
EXPLAINED = {
    "HANDOFF =": "only moves the time",
    "SOONER =": "only moves the time",
    "CROWDING =": "only moves the time",
    "UNKNOWN_RUN =": "only moves the time",
    "UNKNOWN_SAMPLE =": "only moves the time",
    "MAX_RUN =": "only moves time and memory",
    "MAX_BLOCK =": "only moves time and memory",
    "RUN_BYTES =": "only moves time and memory",
    "BLOCK_BYTES =": "only moves time and memory",
    "BYTES_A_NUMBER =": "an estimate",
    "BYTES_AN_ELEMENT =": "an estimate",
    "BYTES_SUMMARISED =": "an estimate",
    "ROWS_A_WORKER =": "only moves the time",
    "RUN_SECONDS =": "only moves the time",
    "PIECE = 1 <<": "only moves the time",
    "step = max(1, PIECE": "only moves time and memory",
    "row_bytes = BYTES_AN_ELEMENT": "an estimate",
    "by_time = PIECE_SECONDS": "only moves the time",
    "(diverged > 0)": "it is a number of steps, 0 for none",
    "write_through=True": "detaching writes what is left",
    "CHUNK = 1 <<": "only moves the time",
    "IN_MEMORY = 32 <<": "only moves time and memory",
    "len(array) == len(self.ids) and array.flags.writeable": "what is not taken as it is is copied",
    'dtype.kind != "f"': "what is looked at besides are integers, all of which are finite",
    "len(ids) <= 8": "where a long message is cut",
    "2**256": "where a long message is cut",
    "FAR = 2**31": "from there on a slower check, which never refuses what the quick one lets pass",
    "Optional[": "an annotation",
    "Union[": "an annotation",
    "met | np.any(lost": "a row that has met its rule has finite means, so it is never both",
}
# `is` is the same as `==` for the names and small numbers that are compared here, and `is not` as `!=`.
BY_IDENTITY = re.compile(r"ReplaceComparisonOperator_\w+_Is(Not)?$")
# What the tests may take, in seconds without a mutant, and in times of that with one.
PATIENCE = 900
LONGER = 3


@dataclass(frozen=True)
class Mutant:
    """One fault: a module, the operator that plants it, and where."""

    module: str
    operator: str
    occurrence: int
    diff: tuple[str, ...]
    code: str

    @property
    def explained(self) -> str | None:
        """Why no test could see it."""
        before = [line[1:] for line in self.diff if line.startswith("-")]
        return next((why for part, why in EXPLAINED.items() if any(part in line for line in before)), None)


def mutants(module: str, sample: int | None, seed: int) -> tuple[list[Mutant], int]:
    """The mutants of a module, or so many of them, and how many there are."""
    code = (TOP / PACKAGE / module).read_text()
    nodes = list(ast_nodes(get_ast(code)))
    places = []
    for name in sorted(name for name in operator_names() if not BY_IDENTITY.search(name)):
        with contextlib.suppress(TypeError):  # those that need to be told of variables
            operator = get_operator(name)()
            count = sum(len(list(operator.mutation_positions(node))) for node in nodes)
            places += [(name, operator, occurrence) for occurrence in range(count)]
    found = [_mutant(module, code, *place) for place in _chosen(places, sample, seed)]
    return [mutant for mutant in found if mutant is not None], len(places)


def _chosen(places: list[Any], sample: int | None, seed: int) -> list[Any]:
    return places if sample is None or sample >= len(places) else random.Random(seed).sample(places, sample)


def _mutant(module: str, code: str, name: str, operator: Any, occurrence: int) -> Mutant | None:
    mutated = mutate_code(code, operator, occurrence)
    if mutated is None or not _compiles(mutated):
        return None
    lines = difflib.unified_diff(code.splitlines(), mutated.splitlines(), n=0, lineterm="")
    diff = tuple(line for line in lines if not line.startswith(("---", "+++", "@@")))
    return Mutant(module, name, occurrence, diff, mutated)


def _compiles(code: str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of comparisons by identity
            compile(code, "mutant", "exec")
    except SyntaxError:
        return False
    return True


def killed(mutant: Mutant, copy: Path, seconds: float) -> bool:
    """Whether a test fails on it, or does not end."""
    path = copy / PACKAGE / mutant.module
    original = path.read_text()
    path.write_text(mutant.code)
    try:
        return ending([f"{TESTS}/{name}.py" for name in MODULES[mutant.module]], copy, seconds) != 0
    finally:
        path.write_text(original)


def ending(tests: list[str], copy: Path, seconds: float) -> int:
    """The exit code of pytest in a fork; what takes longer than so many seconds is ended, and counts as a failure."""
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        _run_tests(tests, copy)
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def _run_tests(tests: list[str], copy: Path) -> None:
    import pytest

    os.chdir(copy)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    sys.path[:0] = [str(copy / "runtime/src"), str(copy / "exporter/src")]
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])
    sys.dont_write_bytecode = True
    try:
        code = int(
            pytest.main(["-x", "-q", "-p", "no:cacheprovider", *[test for test in tests if Path(test).exists()]])
        )
    except BaseException:
        code = 1
    os._exit(code)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, metavar="N", help="mutants of each module, chosen at random [all]")
    parser.add_argument("--seed", type=int, default=0, help="of that choice [0]")
    parser.add_argument("--module", action="append", choices=sorted(MODULES), help="can be repeated [all]")
    arguments = parser.parse_args()
    # What the tests need of others, once for all forks; none of ours, which the forks import anew.
    import onnxruntime  # noqa: F401
    import pytest  # noqa: F401

    tried = survived = unexplained = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "keepdrop"
        shutil.copytree(
            TOP, copy, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", ".mypy_cache", "bench")
        )
        for module in arguments.module or MODULES:
            began = time.monotonic()
            if ending([f"{TESTS}/{name}.py" for name in MODULES[module]], copy, PATIENCE) != 0:
                print(f"{module}: its tests fail without a mutant", flush=True)
                return 2
            seconds = 10 + LONGER * (time.monotonic() - began)
            chosen, count = mutants(module, arguments.sample, arguments.seed)
            alive = [mutant for mutant in chosen if not killed(mutant, copy, seconds)]
            for mutant in alive:
                print(f"{module}: survived, {mutant.explained or 'NOT EXPLAINED'} ({mutant.operator})")
                print("    " + "\n    ".join(mutant.diff), flush=True)
            print(f"{module}: {len(chosen) - len(alive)} of {len(chosen)} died ({count} there are)", flush=True)
            tried, survived = tried + len(chosen), survived + len(alive)
            unexplained += sum(mutant.explained is None for mutant in alive)
    died, no_faults = tried - survived, survived - unexplained
    share = 100 * died / max(1, tried - no_faults)
    print(f"{died} of {tried} mutants died, {no_faults} are no faults: {share:.1f} % of the faults were seen")
    return int(share < 90)


if __name__ == "__main__":
    sys.exit(main())
