"""What the bench measures: one function a measurement, each giving what the JSON holds.

Times are milliseconds, memory is MB, a spread is median, quartiles (low, high) and the number of rounds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

import bench_contestants as by
import keepdrop
from bench_cases import (
    BASE,
    FLOOR,
    HEAD,
    INPUT,
    ON_ONE_THREAD,
    REPEATED,
    SEED,
    SMALL,
    STREAMED,
    Case,
    artifact,
    build_model,
    check_equal,
    data,
    streaming_artifact,
)
from bench_graphs import Deterministic, Floor, Generator
from bench_timing import Contestant, Effort, Spread, Times, race, ratio, spread

Json = dict[str, Any]

HEAD_TARGET = 1.5
GENERATOR_TARGET = 0.15
TENFOLD_TARGET = 10.5
START_TARGET = 1.3
STEP_TARGET = 20
GROWTH_TARGET = 1.05
MEMORY_TARGET = 150
OWN_TARGET = 0.05
THREADS_TARGET = 1.1
FLOOR_TARGET = 1.6

SAMPLES = (1, 10, 100, 1_000, 10_000)
ROWS = (1, 4, 16, 64)
UNITS = (16, 32, 64, 128, 256)
STEPS = (2, 10, 50, 100, 200)
STEPS_BEFORE = 20_000


def main_case(case: Case, threads: int, effort: Effort, folder: Path) -> Json:
    """Everyone's time, and keepdrop's in relation to it with its target."""
    times = race(by.contestants(case, threads, effort, folder), effort)
    workers = _choose_floor(times)
    milliseconds = {name: spread(times[name]).as_json() for name in by.SHOWN if name in times}
    ratios = {}
    for name in milliseconds:
        if name == by.KEEPDROP:
            continue
        mine, theirs = times[by.KEEPDROP], times[name]
        value = ratio(mine, theirs) if name == FLOOR else ratio(theirs, mine)
        ratios[name] = {**value.as_json(), **_target(value.median, case.targets.get(name), most=False)}
    return {
        "name": case.name,
        **asdict(case),
        "milliseconds": milliseconds,
        "ratios": ratios,
        "floor_workers": workers and (threads if workers == by.FLOOR_SHARED else 1),
        "recipe_passes": min(case.samples, effort.passes),
    }


def _choose_floor(times: Times) -> str | None:
    """The floor is whichever is faster: sharing loses on tiny calls."""
    floors = [name for name in (by.FLOOR_ONE, by.FLOOR_SHARED) if name in times]
    if not floors:
        return None
    best = min(floors, key=lambda name: float(np.median(times[name])))
    times[FLOOR] = times[best]
    return best


def _target(value: float, target: float | None, *, most: bool) -> Json:
    if target is None:
        return {}
    return {"target": target, "met": value <= target if most else value >= target}


def slower_cases(cases: Iterable[Json]) -> list[Json]:
    """Where keepdrop is slower than the plain conversion or TensorFlow on the repeated batch."""
    return [
        {"name": case["name"], "against": name, "times_faster": case["ratios"][name]}
        for case in cases
        for name in (by.PLAIN, REPEATED)
        if case["ratios"][name]["median"] < 1
    ]


def head(threads: int, effort: Effort, folder: Path) -> Json:
    """Samples of a model whose dropout sits before its head, against one pass without dropout."""
    model, x = build_model(HEAD), data(HEAD)
    deterministic = Deterministic(model, x, threads)
    fast = by.sampler(artifact(HEAD, model, folder), HEAD, x, threads)
    times = race([Contestant("samples", fast), Contestant("pass", deterministic.run)], effort)
    value = ratio(times["samples"], times["pass"])
    return {
        "samples": HEAD.samples,
        "operators": deterministic.operators,
        "keepdrop_ms": spread(times["samples"]).as_json(),
        "deterministic_pass_ms": spread(times["pass"]).as_json(),
        "ratio": {**value.as_json(), **_target(value.median, HEAD_TARGET, most=True)},
    }


def generator_share(effort: Effort, folder: Path) -> Json:
    """How much of the artifact's time the same graph saves whose masks are given."""
    graphs = Generator(artifact(BASE, build_model(BASE), folder), data(BASE), BASE.samples)
    times = race([Contestant("whole", graphs.whole), Contestant("given", graphs.masks_given)], effort)
    share = spread(1 - times["given"] / times["whole"])
    return {
        "whole_ms": spread(times["whole"]).as_json(),
        "masks_given_ms": spread(times["given"]).as_json(),
        "share": {**share.as_json(), **_target(share.median, GENERATOR_TARGET, most=True)},
    }


def series(threads: int, effort: Effort, folder: Path) -> Json:
    """What keepdrop's time does as one size of the base case grows."""
    path = artifact(BASE, build_model(BASE), folder)

    def of(case: Case, count: int = threads) -> Callable[[], Any]:
        return by.sampler(path, case, data(case), count)

    def of_another_model(case: Case) -> Callable[[], Any]:
        return by.sampler(artifact(case, build_model(case), folder), case, data(case), threads)

    samples = {n: of(replace(BASE, samples=n)) for n in SAMPLES if n <= effort.most_samples}
    sample_times = _race_sizes(samples, effort)
    tenfold = ratio(sample_times["1000"], sample_times["100"])
    counts = sorted({1, *(2**i for i in range(threads.bit_length()) if 2**i < threads), threads})
    others = {
        "rows": {n: of(replace(BASE, rows=n)) for n in ROWS},
        "units": {n: of_another_model(replace(BASE, units=n)) for n in UNITS},
        "steps": {n: of_another_model(replace(BASE, steps=n)) for n in STEPS},
        "threads": {n: of(BASE, n) for n in counts},
        "threads_of_1000_samples": {n: of(replace(BASE, samples=1000), n) for n in counts},
    }
    tables = {"samples": sample_times, **{name: _race_sizes(runs, effort) for name, runs in others.items()}}
    return {
        "milliseconds": {
            name: {size: spread(values).as_json() for size, values in times.items()} for name, times in tables.items()
        },
        "thousand_to_hundred": {**tenfold.as_json(), **_target(tenfold.median, TENFOLD_TARGET, most=True)},
    }


def own_python(effort: Effort, folder: Path) -> Json:
    """What a small call takes beside the run of the graph itself: the round's difference to bare onnxruntime."""
    case = replace(SMALL, samples=10)
    path = artifact(case, build_model(case), folder)
    model, x = keepdrop.load(path, threads=1), data(case)
    bare = by.bare(path, case, x)
    check_equal(model.sample(x, samples=case.samples, seed=SEED), bare(), "a call and bare onnxruntime")
    runs = {
        "bare onnxruntime": bare,
        "sample": lambda: model.sample(x, samples=case.samples, seed=SEED),
        "predict": lambda: model.predict(x, samples=case.samples, seed=SEED),
        "predict and its mean": lambda: model.predict(x, samples=case.samples, seed=SEED).mean,
    }
    times = race([Contestant(name, run) for name, run in runs.items()], effort)
    alone = times.pop("bare onnxruntime")
    found = {name: spread(values - alone) for name, values in times.items()}
    more = {name: {**value.as_json(), **_target(value.median, OWN_TARGET, most=True)} for name, value in found.items()}
    return {"milliseconds": spread(alone).as_json(), "more": more}


def threads_pay(threads: int, effort: Effort, folder: Path) -> list[Json]:
    """The default number of threads against one, for calls that are too small for two and calls that are not."""
    found = []
    for base, samples in ((SMALL, 100), (BASE, 10), (BASE, 100), (BASE, 1000)):
        case = replace(base, samples=samples)
        path = artifact(base, build_model(base), folder)
        runs = {str(n): by.sampler(path, case, data(case), n) for n in (1, threads)}
        times = race([Contestant(name, run) for name, run in runs.items()], effort)
        name = f"{case.steps}x{samples}x{case.features}x{case.units}"
        found.append(_compared(name, times, ratio(times[str(threads)], times["1"]), THREADS_TARGET))
    return found


def one_thread(effort: Effort, folder: Path) -> list[Json]:
    """Many samples on one thread against the steps' bare products on one thread."""
    found = []
    for case in ON_ONE_THREAD:
        mine = by.sampler(artifact(case, build_model(case), folder), case, data(case), 1)
        times = race([Contestant("keepdrop", mine), Contestant(FLOOR, Floor(case, 1, folder).run)], effort)
        found.append(_compared(case.name, times, ratio(times["keepdrop"], times[FLOOR]), FLOOR_TARGET))
    return found


def _compared(name: str, times: Times, value: Spread, target: float) -> Json:
    """Contestants' times and a ratio of two of them, which may be the target at most."""
    return {
        "name": name,
        "milliseconds": {contestant: spread(values).as_json() for contestant, values in times.items()},
        "ratio": {**value.as_json(), **_target(value.median, target, most=True)},
    }


def _race_sizes(runs: dict[int, Callable[[], Any]], effort: Effort) -> Times:
    return race([Contestant(str(size), run) for size, run in runs.items()], effort)


def streams(effort: Effort, folder: Path) -> list[Json]:
    """`stream` of some models."""
    return [stream(case, effort, folder) for case in STREAMED]


def stream(case: Case, effort: Effort, folder: Path) -> Json:
    """A push of one step against a call on the whole window, and against the same push many steps later; one thread."""
    model, x = build_model(case), data(case)
    streaming = keepdrop.load(streaming_artifact(case, model, folder), threads=1)
    new, old = (streaming.stream(samples=case.samples, seed=SEED) for _ in range(2))
    pushed = [new.push(x[:, start : start + 2]).samples for start in range(0, case.steps, 2)]
    window = by.sampler(artifact(case, model, folder), case, x, 1)
    check_equal(pushed[-1], window(), f"{case.name}, the stream and its window")
    old.push(np.tile(x, (1, STEPS_BEFORE // case.steps, 1)))
    step = x[:, 0]
    runs = {"window": window, "push": lambda: new.push(step), "push later": lambda: old.push(step)}
    times = race([Contestant(name, run) for name, run in runs.items()], effort)
    cheaper, growth = ratio(times["window"], times["push"]), ratio(times["push later"], times["push"])
    return {
        "name": case.name,
        "steps_before": STEPS_BEFORE,
        "milliseconds": {name: spread(values).as_json() for name, values in times.items()},
        "window_to_push": {**cheaper.as_json(), **_target(cheaper.median, STEP_TARGET, most=False)},
        "growth": {**growth.as_json(), **_target(growth.median, GROWTH_TARGET, most=True)},
    }


def fresh(threads: int, effort: Effort, folder: Path) -> Json:
    """Start to first prediction and peak memory in processes of their own, and the memory of many samples."""
    path = artifact(BASE, build_model(BASE), folder)
    request = {
        "path": str(path),
        "name": INPUT,
        "shape": [1, BASE.steps, BASE.features],
        "threads": threads,
        "rounds": effort.fresh_rounds,
        "samples": BASE.samples,
        "many": effort.many_samples,
    }
    script = Path(__file__).with_name("bench_fresh.py")
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(request)], check=True, stdout=subprocess.PIPE, text=True
    )
    found = json.loads(done.stdout)
    result: Json = {}
    for quantity in ("milliseconds", "megabytes"):
        mine, bare = (np.array(found[who][quantity]) for who in ("keepdrop", "onnxruntime"))
        value = ratio(mine, bare)
        result[quantity] = {
            "keepdrop": spread(mine).as_json(),
            "onnxruntime": spread(bare).as_json(),
            "ratio": {**value.as_json(), **_target(value.median, START_TARGET, most=True)},
        }
    few, many = (float(np.median(values)) for values in found["many"].values())
    result["many"] = {
        "samples": effort.many_samples,
        "megabytes": many,
        "megabytes_of_100": few,
        "more": many - few,
        **_target(many - few, MEMORY_TARGET, most=True),
    }
    return result
