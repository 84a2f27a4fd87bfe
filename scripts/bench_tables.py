"""How fast tables are read: lines a CPU second, beside Python's csv module and float(). Runs alone too."""

from __future__ import annotations

import csv
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from keepdrop.files import text
from keepdrop.files.reader import Selection
from keepdrop.files.text import TextReader

COLUMNS = ("a", "b", "c")
PYTHON = "Python's csv and float()"
# What predict did before it kept what was parsed: each line was read to check it, and again to answer.
PYTHON_TWICE = f"{PYTHON}, twice"
MOST = 1 << 16


def by_python(path: Path) -> float:
    """Every cell as a finite float, line by line: what keepdrop did before it read in bulk."""
    total = 0.0
    with open(path, encoding="utf-8-sig", newline="") as file:
        lines = csv.reader(file, strict=True)
        header = next(lines)
        values: list[list[float]] = []
        for cells in lines:
            if len(cells) != len(header):
                raise ValueError
            row = [_number(cell) for cell in cells]
            if not all(map(math.isfinite, row)):
                raise ValueError
            values.append(row)
            if len(values) == MOST:
                total += float(np.array(values).sum())
                values = []
    return total + float(np.array(values).sum())


def _number(cell: str) -> float:
    if "_" in cell:
        raise ValueError
    return float(cell)


def by_keepdrop(path: Path) -> float:
    reader = TextReader(str(path), path)
    return float(sum(readings.numbers.sum() for readings in reader.read(Selection(COLUMNS), MOST)))


def as_predict_reads(path: Path) -> float:
    """Lines are counted, read to check them, and read to answer."""
    reader = TextReader(str(path), path)
    count = reader.count()
    for _ in reader.read(Selection(COLUMNS), MOST, 0, count):
        pass
    return float(sum(readings.numbers.sum() for readings in reader.read(Selection(COLUMNS), MOST, 0, count)))


def tables(lines: int, rounds: int, folder: Path) -> Any:
    """Lines a CPU second [rounds] of each way, and the medians of the rounds' ratios to Python's."""
    path = folder / "table.csv"
    values = np.random.default_rng(0).standard_normal((lines, len(COLUMNS)))
    np.savetxt(path, values, "%.6f", ",", header=",".join(COLUMNS), comments="")
    quoted = folder / "quoted.csv"
    quoted.write_text("\n".join(f'"{line.replace(",", _BETWEEN)}"' for line in path.read_text().split()) + "\n")
    ways: dict[str, Callable[[], float]] = {
        PYTHON: lambda: by_python(path),
        "quoted cells, line by line": lambda: by_keepdrop(quoted),
        "numpy": lambda: _with(1 << 60, path),
        "pyarrow": lambda: _with(0, path),
        PYTHON_TWICE: lambda: (by_python(path) + by_python(path)) / 2,
        "numpy, as predict reads": lambda: _with(1 << 60, path, as_predict_reads),
        "pyarrow, as predict reads": lambda: _with(0, path, as_predict_reads),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        sums = []
        for name, way in ways.items():
            start = time.thread_time()
            sums.append(way())
            if turn:  # the first imports
                found[name].append(lines / (time.thread_time() - start))
        if not np.allclose(sums, sums[0], rtol=1e-12):
            raise SystemExit(f"bench: the ways of reading differ, {sums}")
    beside = {name: PYTHON_TWICE if "predict" in name or name == PYTHON_TWICE else PYTHON for name in ways}
    ratios = {
        name: statistics.median(a / b for a, b in zip(found[name], found[beside[name]], strict=True)) for name in ways
    }
    return {"lines": lines, "rounds": rounds, "lines_a_second": found, "times_faster": ratios}


_BETWEEN = '","'


def _with(worth_arrow: int, path: Path, read: Callable[[Path], float] = by_keepdrop) -> float:
    before, text.WORTH_ARROW = text.WORTH_ARROW, worth_arrow
    try:
        return read(path)
    finally:
        text.WORTH_ARROW = before


def markdown(found: Any) -> str:
    """The report's section."""
    rows = [
        f"| {name} | {statistics.median(found['lines_a_second'][name]):,.0f} | {ratio:.1f} |"
        for name, ratio in found["times_faster"].items()
    ]
    return "\n".join(
        [
            "### Tables",
            "",
            f"{found['lines']:,} lines of {len(COLUMNS)} columns of CSV, lines a second of one CPU, medians of "
            f"{found['rounds']} rounds. What predict reads is counted, checked and read again, beside Python's twice:",
            "",
            "| | lines a second | times Python's |",
            "|---|---:|---:|",
            *rows,
        ]
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as name:
        report = tables(300_000, int(sys.argv[1]) if len(sys.argv) > 1 else 5, Path(name))
    print(json.dumps(report) if "--json" in sys.argv else markdown(report))
