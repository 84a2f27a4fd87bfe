"""What an export takes of memory beyond the model, as a multiple of its weights; each case in a process of its own.

The process' memory is looked at every few milliseconds: the system's own peak is reset by the export, which measures
what a sample takes by it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from keepdrop_exporter.options import silent_start

CASES = ("dense", "embedding", "lstm", "conv1d", "conv2d", "conv2d transposed")


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
        "conv1d": lambda: [
            keras.Input((16, 1024)),
            layers.Dropout(0.2),
            layers.Conv1D(2048, 5, padding="same"),
            layers.GlobalAveragePooling1D(),
        ],
        "conv2d": lambda: [keras.Input((8, 8, 1024)), layers.Dropout(0.2), layers.Conv2D(1024, 3), layers.Flatten()],
        "conv2d transposed": lambda: [
            keras.Input((4, 4, 1024)),
            layers.Dropout(0.2),
            layers.Conv2DTranspose(1024, 3),
            layers.Flatten(),
        ],
        "lstm": lambda: [keras.Input((4, 512)), layers.LSTM(1600, dropout=0.2, recurrent_dropout=0.2)],
    }
    with tempfile.TemporaryDirectory() as folder:
        small = keras.Sequential([keras.Input((8,)), layers.Dropout(0.2), layers.Dense(4)])
        export(small, Path(folder) / "small.onnx")  # what the first export imports and compiles is not the model's
        model = keras.Sequential(bodies[case]())
        weights = sum(weight.numpy().nbytes for weight in model.weights) / 2**20
        before = _resident()
        with _Peak() as peak:
            export(model, Path(folder) / "large.onnx", rows=1, samples=2)
        print(weights, peak.megabytes - before)


class _Peak:
    """The most memory that the process has while this is entered."""

    def __enter__(self) -> _Peak:
        self.megabytes = 0.0
        self._ended = threading.Event()
        self._watching = threading.Thread(target=self._watch)
        self._watching.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._watching.join()

    def _watch(self) -> None:
        while not self._ended.is_set():
            self.megabytes = max(self.megabytes, _resident())
            time.sleep(0.003)


def _resident() -> float:
    """What Linux tells in proc(5)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    _export(sys.argv[1])
