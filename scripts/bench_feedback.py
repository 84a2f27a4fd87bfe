"""What a stream that learns takes over many readings and their truths: memory, the saved state, the cost of a push."""

from __future__ import annotations

import resource
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import keepdrop

# A small network over windows of 5 steps of 2 features, which roll.
ARTIFACT = Path(__file__).parents[1] / "tests" / "runtime" / "data" / "forecaster.onnx"
STEPS, FEATURES = 5, 2
SAMPLES, AHEAD = 10, 6
# Readings after which all that is set aside once is there.
SETTLED = 2_000
# Pushes that are timed at once, with and without learning in turn, and how often.
BLOCK, ROUNDS = 100, 40
# Linux counts in KiB, macOS in bytes.
MEGABYTE = 1024**2 if sys.platform == "darwin" else 1024


def feedback_table(readings: int) -> Iterator[str]:
    """The lines of the report, in Markdown."""
    plain = keepdrop.load(ARTIFACT, threads=1)
    calibrated = _calibrated(plain)
    yield f"A push of one row that learns takes {_cost(plain, calibrated):.2f} times the processor time.\n"
    yield "| readings, each with its truth | peak memory | saved state |"
    yield "| ---: | ---: | ---: |"
    stream, rng = calibrated.stream(samples=SAMPLES), np.random.default_rng(2)
    for count in range(1, readings + 1):
        stream.push(rng.normal(size=(1, FEATURES)).astype(np.float32)).observation.interval(0.9)
        if count >= AHEAD + STEPS:
            stream.observe(rng.normal(), step=count - AHEAD)
        if count in (SETTLED, readings // 4, readings):
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEGABYTE
            yield f"| {count:,} | {peak:.1f} MB | {len(stream.save()) / 1e3:.1f} kB |"


def _calibrated(model: keepdrop.Model) -> keepdrop.Model:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, STEPS, FEATURES)).astype(np.float32)
    answers = model.predict(x, samples=SAMPLES).quantile(0.5)
    return keepdrop.calibrate(
        model, x, answers + 0.3 * answers.std() * rng.standard_t(5, answers.shape), samples=SAMPLES
    )


def _cost(plain: keepdrop.Model, calibrated: keepdrop.Model) -> float:
    """Median of ratios of a push's processor time, with learning and without."""
    streams = [model.stream(samples=SAMPLES) for model in (plain, calibrated)]
    step, ratios = np.zeros((1, FEATURES), np.float32), []
    for _ in range(ROUNDS):
        without, learning = (_seconds(stream, step) for stream in streams)
        ratios.append(learning / without)
    return statistics.median(ratios[ROUNDS // 8 :])


def _seconds(stream: keepdrop.Stream, step: np.ndarray) -> float:
    start = time.thread_time()
    for _ in range(BLOCK):
        stream.push(step)
    return time.thread_time() - start


if __name__ == "__main__":
    for line in feedback_table(int(sys.argv[1])):
        print(line, flush=True)
