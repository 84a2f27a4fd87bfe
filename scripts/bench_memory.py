"""What an export takes of memory beyond the model, as a multiple of its weights; each case in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from keepdrop_exporter.options import silent_start

CASES = ("dense", "embedding", "lstm")
# Linux counts in KiB, macOS in bytes.
MEGABYTE = 1024**2 if sys.platform == "darwin" else 1024


def memory_table() -> str:
    """The table of the report, in Markdown."""
    head = ["| model | weights | beyond the model | times the weights |", "| --- | ---: | ---: | ---: |"]
    return "\n".join([*head, *(_measured(case) for case in CASES)])


def _measured(case: str) -> str:
    done = subprocess.run([sys.executable, __file__, case], capture_output=True, text=True, check=True)
    weights, beyond = map(float, done.stdout.split()[-2:])
    return f"| {case} | {weights:.0f} MB | {beyond:.0f} MB | {beyond / weights:.1f} |"


def _export(case: str) -> None:
    with silent_start():
        import keras

        from keepdrop_exporter import export

    layers = keras.layers
    bodies = {
        "dense": lambda: [keras.Input((3600,)), layers.Dropout(0.2), layers.Dense(3600)],
        "embedding": lambda: [
            keras.Input((4,), dtype="int32"),
            layers.Embedding(100_000, 128),
            layers.LSTM(16, dropout=0.2),
        ],
        "lstm": lambda: [keras.Input((4, 512)), layers.LSTM(1600, dropout=0.2, recurrent_dropout=0.2)],
    }
    with tempfile.TemporaryDirectory() as folder:
        small = keras.Sequential([keras.Input((8,)), layers.Dropout(0.2), layers.Dense(4)])
        export(small, Path(folder) / "small.onnx")  # what the first export imports and compiles is not the model's
        model = keras.Sequential(bodies[case]())
        weights = sum(weight.numpy().nbytes for weight in model.weights) / 2**20
        before = _peak()
        export(model, Path(folder) / "large.onnx", rows=1, samples=2)
        print(weights, _peak() - before)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE


if __name__ == "__main__":
    _export(sys.argv[1])
