"""The ways to get the samples of one case: the recipes, TensorFlow, the plain conversion, keepdrop, and the floor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import tensorflow as tf
from numpy.typing import NDArray

import keepdrop
from bench_cases import (
    FLOOR,
    GATES,
    INPUT,
    REPEATED,
    SEED,
    XLA,
    Case,
    artifact,
    build_model,
    check_equal,
    data,
    plain_conversion,
)
from bench_graphs import Floor
from bench_timing import Contestant, Effort

KEEPDROP = "keepdrop"
RECIPE = "predict in a loop"
LOOP = "tf.function in a loop"
PLAIN = "plain conversion"
FLOOR_ONE = "floor, one worker"
FLOOR_SHARED = "floor, shared"

SHOWN = (RECIPE, LOOP, REPEATED, XLA, PLAIN, KEEPDROP, FLOOR)


class Recipe(keras.Model):
    """The recipes of the web: a model whose `predict` keeps dropout active."""

    def __init__(self, inner: keras.Model) -> None:
        super().__init__()
        self.inner = inner

    def call(self, x: Any) -> Any:
        return self.inner(x, training=True)


def sampler(path: Path, case: Case, x: NDArray[np.float32], threads: int) -> Callable[[], NDArray[np.float32]]:
    model = keepdrop.load(path, threads=threads)
    return lambda: model.sample(x, samples=case.samples, seed=SEED)


def bare(path: Path, case: Case, x: NDArray[np.float32]) -> Callable[[], NDArray[np.float32]]:
    """The run of the graph alone, on one thread, with the inputs that a call would give it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    numbers = {"seed": SEED, "num_samples": case.samples, "first_sample": 0}
    feeds = {name: np.array(number, np.int64) for name, number in numbers.items()}
    feeds |= {INPUT: x, "rows": np.arange(len(x), dtype=np.int64)}
    names = [output.name for output in session.get_outputs()]
    return lambda: session.run(names, feeds)[0]


def contestants(case: Case, threads: int, effort: Effort, folder: Path) -> list[Contestant]:
    """Everyone on the same model and data; those whose numbers can be compared are compared here."""
    model, x = build_model(case), data(case)
    exported = artifact(case, model, folder)
    fast = sampler(exported, case, x, threads)
    plain = sampler(plain_conversion(case, model, exported, folder), case, x, threads)
    check_equal(fast(), plain(), f"{case.name}, keepdrop and the plain conversion")
    result = [*_tensorflow(case, model, x, effort), Contestant(PLAIN, plain), Contestant(KEEPDROP, fast)]
    _check_random(case, result)
    if GATES[case.kind]:
        result.append(Contestant(FLOOR_ONE, Floor(case, 1, folder).run))
        if threads > 1 and case.rows * case.samples >= threads:
            result.append(Contestant(FLOOR_SHARED, Floor(case, threads, folder).run))
    return result


def _tensorflow(case: Case, model: keras.Model, x: NDArray[np.float32], effort: Effort) -> list[Contestant]:
    recipe = Recipe(model)
    one_pass = tf.function(lambda series: model(series, training=True))
    constant, passes = tf.constant(x), min(case.samples, effort.passes)

    def in_loop(one: Callable[[], Any], count: int) -> Callable[[], NDArray[np.float32]]:
        return lambda: np.stack([np.asarray(one()) for _ in range(count)])  # [T, B, 2]

    def repeated(series: tf.Tensor) -> tf.Tensor:
        return model(tf.repeat(series, case.samples, axis=0), training=True)

    def at_once(jit: bool) -> Callable[[], NDArray[np.float32]]:
        function = tf.function(repeated, jit_compile=jit)

        def run() -> NDArray[np.float32]:
            samples = function(constant).numpy().reshape(case.rows, case.samples, -1)
            return samples.transpose(1, 0, 2)

        return run

    recipe_run = in_loop(lambda: recipe.predict(x, verbose=0), passes)
    return [
        Contestant(RECIPE, recipe_run, slow=True, scale=case.samples / passes),
        Contestant(LOOP, in_loop(lambda: one_pass(constant), case.samples), slow=case.samples >= 50),
        Contestant(REPEATED, at_once(jit=False)),
        Contestant(XLA, at_once(jit=True)),
    ]


def _check_random(case: Case, contestants: list[Contestant]) -> None:
    """Each gives samples of the same shape, and they vary: its dropout is active. It is warm afterwards."""
    for contestant in contestants:
        samples = np.asarray(contestant.run())
        passes = round(case.samples / contestant.scale)
        if samples.shape != (passes, case.rows, 2):
            raise SystemExit(f"bench: {case.name}: {contestant.name} gives {samples.shape}")
        if passes > 1 and not samples.std(axis=0).all():
            raise SystemExit(f"bench: {case.name}: the samples of {contestant.name!r} do not vary")
