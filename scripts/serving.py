"""Serving: 16 clients that ask one question after the other, answered one by one and by examples/serving.py.

Clients and server are threads of one process, whose processor time counts; the model has one thread. The ways take
turns, and what is printed are the medians of the rounds.

    scripts/serving                # the table of docs/serving.md
    scripts/serving --seconds 1    # of each way and round; 3 by default
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import keepdrop
from bench_cases import BASE, SMALL, Case, artifact, build_model

EXAMPLE = Path(__file__).parents[1] / "examples" / "serving.py"
CLIENTS, SAMPLES, INTERVAL, ROUNDS = 16, 100, 0.9, 5

Ask = Callable[[int, NDArray[np.float32]], Any]
"""Answers the question [...] of the client of this number."""


class Round(NamedTuple):
    """What was measured of one way in one round."""

    answers_a_cpu_second: float
    p99: float  # milliseconds
    rows_a_call: float


def example() -> ModuleType:
    """The recipe that the docs show, as it stands."""
    spec = importlib.util.spec_from_file_location("serving_example", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def asked_for(seconds: float, ask: Ask, questions: NDArray[np.float32]) -> tuple[list[float], float]:
    """The seconds that each answer took, and the processor seconds of all."""
    took: list[list[float]] = [[] for _ in range(CLIENTS)]
    ends = time.monotonic() + seconds

    def client(number: int) -> None:
        while (began := time.monotonic()) < ends:
            ask(number, questions[number])
            took[number].append(time.monotonic() - began)

    clients = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    began = time.process_time()
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return [each for one in took for each in one], time.process_time() - began


def measured(seconds: float, ask: Ask, questions: NDArray[np.float32], sizes: list[int]) -> Round:
    sizes.clear()
    took, processor = asked_for(seconds, ask, questions)
    return Round(len(took) / processor, float(np.quantile(took, 0.99)) * 1e3, float(np.mean(sizes or [1])))


def check_equal(alone: Any, gathered: Any) -> None:
    """That both ways give the same answer, up to the rounding of larger products."""
    low, high = alone.interval(INTERVAL)
    for got, expected in zip(gathered, (alone.mean[0], low[0], high[0]), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def of_case(case: Case, seconds: float, folder: Path) -> list[str]:
    """The lines of a model: answered one by one, and gathered."""
    module = example()
    model = keepdrop.load(artifact(case, build_model(case), folder), threads=1)
    shape = (CLIENTS, case.steps, case.features)
    questions = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    server = module.MicroBatcher(model, samples=SAMPLES, interval=INTERVAL)

    def alone(number: int, x: NDArray[np.float32]) -> Any:
        quantiles = module.central(INTERVAL)
        return model.predict(x[np.newaxis], rows=[number], samples=SAMPLES, quantiles=quantiles)

    check_equal(alone(3, questions[3]), server.predict(3, questions[3]))
    ways: dict[str, tuple[Ask, list[int]]] = {"one by one": (alone, []), "gathered": (server.predict, server.sizes)}
    rounds: dict[str, list[Round]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, (ask, sizes) in ways.items():
            rounds[name].append(measured(seconds, ask, questions, sizes))
    server.close()
    lines = []
    for name, found in rounds.items():
        each, p99, rows = np.median(np.array(found), axis=0)
        lines.append(f"| LSTM({case.units}) over {case.steps} steps | {name} | {rows:.1f} | {each:,.0f} | {p99:.0f} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/serving", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of each way and round (default: 3)")
    given = parser.parse_args()
    print(f"{CLIENTS} clients, {SAMPLES} samples each, medians of {ROUNDS} rounds:\n")
    print("| model | requests are answered | rows a call | answers a processor second | p99, ms |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for case in (SMALL, BASE):
            print("\n".join(of_case(case, given.seconds, Path(folder))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
