"""Measures keepdrop against the ways to do the same with TensorFlow, and against what the processor allows.

The report is printed as Markdown and written beside its JSON. Nothing in it is written down here but the targets.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

# First: it silences TensorFlow's start.
import bench_cases  # isort: skip
import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
import tf2onnx

import bench_measure
import bench_tables
import keepdrop
from bench_export import export_table
from bench_feedback import feedback_table
from bench_memory import memory_table
from bench_report import markdown
from bench_timing import FULL, QUICK


def main() -> None:
    options = _options()
    if options.memory:
        print(memory_table())
        return
    if options.export:
        print(export_table(3))
        return
    if options.feedback:
        print("\n".join(feedback_table(options.feedback)))
        return
    effort = QUICK if options.quick else FULL
    # TensorFlow takes this before its first operation only.
    tf.config.threading.set_intra_op_parallelism_threads(options.threads)
    tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    chosen = [case for case in bench_cases.CASES if not options.case or case.name in options.case]
    report: dict[str, Any] = {
        "quick": options.quick,
        "threads": options.threads,
        "effort": asdict(effort),
        "machine": _machine(),
        "versions": _versions(),
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report["cases"] = []
        for case in chosen:
            _tell(case.name)
            report["cases"].append(bench_measure.main_case(case, options.threads, effort, folder))
        report["slower"] = bench_measure.slower_cases(report["cases"])
        if not options.case:
            _tell("dropout before the head only")
            report["head"] = bench_measure.head(options.threads, effort, folder)
            _tell("the generator's share")
            report["generator"] = bench_measure.generator_share(effort, folder)
            _tell("what the time follows")
            report["series"] = bench_measure.series(options.threads, effort, folder)
            _tell("one thread against the floor")
            report["one_thread"] = bench_measure.one_thread(effort, folder)
            _tell("small calls and threads")
            report["own_python"] = bench_measure.own_python(effort, folder)
            report["threads_pay"] = bench_measure.threads_pay(options.threads, effort, folder)
            _tell("steps of streams")
            report["streams"] = bench_measure.streams(effort, folder)
            _tell("tables")
            report["tables"] = bench_tables.tables(50_000 if options.quick else 300_000, effort.rounds, folder)
            _tell("fresh processes")
            report["fresh"] = bench_measure.fresh(options.threads, effort, folder)
    _write(report, options.output_dir)
    print(json.dumps(report, indent=1) if options.json else markdown(report), end="\n" if options.json else "")


def _options() -> argparse.Namespace:
    names = [case.name for case in bench_cases.CASES]
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions: whether it works, not how fast")
    parser.add_argument("--output-dir", type=Path, default=Path("bench"), help="for bench.md and bench.json [bench]")
    parser.add_argument("--threads", type=int, default=_available_threads(), help="for everyone [every CPU]")
    parser.add_argument("--json", action="store_true", help="print the JSON instead of the Markdown")
    parser.add_argument("--memory", action="store_true", help="print what an export takes of memory, nothing else")
    parser.add_argument("--export", action="store_true", help="print what the stages of an export take, nothing else")
    parser.add_argument(
        "--feedback", type=int, metavar="READINGS", help="print what a stream takes that learns from them, nothing else"
    )
    parser.add_argument(
        "--case", action="append", choices=names, help="measure this case's line alone; can be repeated"
    )
    options = parser.parse_args()
    if options.threads < 1:
        parser.error("--threads: give 1 or more")
    return options


def _available_threads() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", info.read_text()) if info.exists() else None
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "processor": found[1] if found else platform.processor() or platform.machine(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": _available_threads(),
        "load_average": "unknown" if load is None else round(load, 2),
    }


def _versions() -> dict[str, str]:
    modules = {"keepdrop": keepdrop, "onnxruntime": onnxruntime, "TensorFlow": tf, "Keras": keras}
    modules |= {"tf2onnx": tf2onnx, "onnx": onnx, "NumPy": np}
    return {**{name: module.__version__ for name, module in modules.items()}, "Python": platform.python_version()}


def _tell(stage: str) -> None:
    print(f"bench: {stage}", file=sys.stderr, flush=True)


def _write(report: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    (folder / "bench.md").write_text(markdown(report), encoding="utf-8")


if __name__ == "__main__":
    main()
