"""Stage 3, trace: the plan becomes one TensorFlow function with the contract's signature.

It is the single source of every format. Nothing outside this module and those it calls knows how a model is lowered.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keepdrop.artifact import FIRST_SAMPLE, NUM_SAMPLES, ROWS, SEED, Draw

from . import keras_hooks
from .numbers import Call, Numbers
from .plan import Plan


def trace(plan: Plan) -> Any:
    """Trace a model as a function of its inputs, ``seed``, ``rows``, ``num_samples`` and ``first_sample``.

    Returns
    -------
    tf.types.experimental.ConcreteFunction
        Keyword arguments are named as the contract names them; the result is a dict of outputs
        ``[num_samples, batch, ...]`` by name.
    """
    inputs = {t.name: tf.TensorSpec(t.shape, t.dtype, name=t.name) for t in plan.inputs}
    controls = {name: tf.TensorSpec([], tf.int64, name=name) for name in (SEED, NUM_SAMPLES, FIRST_SAMPLE)}
    controls[ROWS] = tf.TensorSpec([None], tf.int64, name=ROWS)

    def sample(tensors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        call = Call(*(tensors[name] for name in (SEED, ROWS, NUM_SAMPLES, FIRST_SAMPLE)))
        replay = _Replay(plan, Numbers(plan.draws, call), call)
        with keras_hooks.intercept(replay):
            outputs = plan.call([call.repeat(tensors[t.name]) for t in plan.inputs])
        return {t.name: tf.identity(_samples_first(y, call), name=t.name) for t, y in zip(plan.outputs, outputs, strict=True)}

    with keras_hooks.sampling_state(plan.model):
        return tf.function(sample, autograph=False).get_concrete_function({**inputs, **controls})


def _samples_first(y: tf.Tensor, call: Call) -> tf.Tensor:
    """[N, ...] -> [T, B, ...]"""
    shape = tf.shape(y, out_type=tf.int64)
    rows = tf.size(call.rows, out_type=tf.int64)
    split = tf.reshape(y, tf.concat([tf.stack([rows, call.num_samples]), shape[1:]], 0))
    return tf.transpose(split, [1, 0, *range(2, y.shape.rank + 1)])


class _Replay:
    """Answers each draw of the model with the numbers that the contract gives it."""

    def __init__(self, plan: Plan, numbers: Numbers, call: Call) -> None:
        self._numbers = numbers
        self._call = call
        self._waiting = {id(g): [d for d in plan.draws if d.generator == i] for i, g in enumerate(plan.generators)}

    def dropout(self, inputs: tf.Tensor, rate: float, noise_shape: Any = None, seed: Any = None) -> tf.Tensor:
        if rate == 0.0:
            return inputs
        if rate == 1.0:
            return tf.zeros_like(inputs)
        shape = tf.shape(inputs, out_type=tf.int64)
        if noise_shape is not None:
            shape = tf.stack([shape[i] if n is None else tf.cast(n, tf.int64) for i, n in enumerate(noise_shape)])
        draw, count = self._next(seed, shape)
        keep = tf.reshape(self._numbers.keep(draw, count), shape)
        return tf.where(keep, inputs * np.float32(1 / (1 - rate)), np.float32(0))

    def uniform(self, shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: Any = None) -> tf.Tensor:
        shape = _as_tensor(shape)
        numbers = self._numbers.uniform(*self._next(seed, shape))
        return tf.reshape(numbers, shape) * (maxval - minval) + minval

    def normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> tf.Tensor:
        shape = _as_tensor(shape)
        numbers = self._numbers.normal(*self._next(seed, shape))
        return tf.reshape(numbers, shape) * stddev + mean

    def unsupported(self, kind: str) -> None:
        raise AssertionError(f"the plan let keras.random.{kind} pass")

    def _next(self, generator: keras.random.SeedGenerator, shape: tf.Tensor) -> tuple[Draw, tf.Tensor]:
        """The generator's next draw, and how many numbers a sample takes of it."""
        draw = self._waiting[id(generator)].pop(0)
        return draw, tf.reduce_prod(shape) // self._call.passes


def _as_tensor(shape: Any) -> tf.Tensor:
    return tf.cast(shape, tf.int64) if tf.is_tensor(shape) else tf.stack([tf.cast(n, tf.int64) for n in shape])


