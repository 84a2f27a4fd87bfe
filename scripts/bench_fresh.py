"""Fresh processes: from start to the first prediction, and peak memory. Runs alone: `bench_fresh.py '{"path": ...}'`.

A process of its own that imports the standard library alone, because what a child reports as its peak memory is at
least its parent's: under TensorFlow every child would seem as large as TensorFlow.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import Any

READ = """
import json, sys
path, name, shape, samples, threads = json.loads(sys.argv[1])
"""
KEEPDROP = """
import numpy, keepdrop
x = numpy.full(shape, 0.5, numpy.float32)
keepdrop.load(path, threads=threads).sample(x, samples=samples, seed=7)
"""
BARE = """
import numpy, onnxruntime
x = numpy.full(shape, 0.5, numpy.float32)
onnxruntime.set_default_logger_severity(3)
session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
feeds = {name: x, "seed": numpy.array(7), "rows": numpy.arange(len(x))}
feeds.update(num_samples=numpy.array(samples), first_sample=numpy.array(0))
session.run(None, feeds)
"""
REPORT = """
print(flush=True)
import resource
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
# Byte code is kept, as it is of what was installed, also where the environment says that none is written.
_BYTE_CODE = tempfile.TemporaryDirectory(prefix="bench-")
_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
_ENVIRONMENT["PYTHONPYCACHEPREFIX"] = _BYTE_CODE.name
# Linux counts in KiB, macOS in bytes.
MEGABYTE = 1024**2 if sys.platform == "darwin" else 1024


def first_prediction(code: str, *arguments: Any) -> tuple[float, float]:
    """Milliseconds from the start to the first prediction, and the process's peak memory in MB."""
    start = time.perf_counter()
    child = [sys.executable, "-c", READ + code + REPORT, json.dumps(arguments)]
    with subprocess.Popen(child, stdout=subprocess.PIPE, env=_ENVIRONMENT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        seconds = time.perf_counter() - start
        peak = process.stdout.read()
    if process.returncode:
        raise SystemExit(f"bench: a fresh process failed with code {process.returncode}")
    return seconds * 1e3, int(peak) / MEGABYTE


def measure(path: str, name: str, shape: list[int], threads: int, rounds: int, samples: int, many: int) -> Any:
    """Milliseconds and MB [rounds] of keepdrop and of bare onnxruntime in turns; MB [3] of many samples."""
    codes = {"keepdrop": KEEPDROP, "onnxruntime": BARE}
    result: dict[str, Any] = {key: {"milliseconds": [], "megabytes": []} for key in codes}
    for turn in range(rounds + 1):
        for key in sorted(codes, reverse=bool(turn % 2)):
            milliseconds, megabytes = first_prediction(codes[key], path, name, shape, samples, threads)
            if turn:  # the first round writes byte code and fills the disk's cache
                result[key]["milliseconds"].append(milliseconds)
                result[key]["megabytes"].append(megabytes)
    result["many"] = {
        str(n): [first_prediction(KEEPDROP, path, name, shape, n, threads)[1] for _ in range(3)]
        for n in (samples, many)
    }
    return result


if __name__ == "__main__":
    print(json.dumps(measure(**json.loads(sys.argv[1]))))
