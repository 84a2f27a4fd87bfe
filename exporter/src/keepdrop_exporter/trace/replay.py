"""The draws of a model, answered with the numbers that the contract gives them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keepdrop.artifact.metadata import Draw
from keepdrop_exporter.plan.draws import Plan

from . import axes
from .call import Call
from .numbers import Numbers


class Replay:
    """Answers each draw of the model with the numbers that the contract gives it."""

    def __init__(self, plan: Plan, numbers: Numbers, call: Call) -> None:
        self.row_origin: Callable[[tf.Tensor], tf.Tensor | None] = lambda x: None
        self._numbers = numbers
        self._call = call
        self._kept: dict[Any, tf.Tensor] = {}
        self._waiting = {id(g): [d for d in plan.draws if d.generator == i] for i, g in enumerate(plan.generators)}

    def dropout(self, inputs: tf.Tensor, rate: float, noise_shape: Any = None, seed: Any = None) -> tf.Tensor:
        """Stand in for ``keras.random.dropout``."""
        if rate == 0.0:
            return inputs
        if rate == 1.0:
            return tf.zeros_like(inputs)
        scale = np.float32(1 / (1 - rate))
        shape = axes.sizes(inputs)
        if noise_shape is not None:
            shape = [size if n is None else n for size, n in zip(shape, noise_shape, strict=True)]
        kept = self._keep(seed, shape)
        origin = self.row_origin(inputs)
        if origin is None:
            dropped = _drop(inputs * scale, axes.reshape(kept, [-1, *shape[1:]]))
        else:
            by_sample = axes.reshape(kept, [self._call.batch, self._call.num_samples, *shape[1:]])
            dropped = axes.merge(_drop(tf.expand_dims(origin * scale, 1), by_sample))
        self._kept[dropped.ref()] = kept
        return dropped

    def kept(self, dropped: tf.Tensor) -> tf.Tensor | None:
        """The keep mask, float32 [B, T, K] of zeros and ones, that a dropout's result was made with."""
        return self._kept.get(dropped.ref())

    def uniform(
        self, shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: Any = None
    ) -> tf.Tensor:
        """Stand in for ``keras.random.uniform``."""
        shape = _listed(shape)
        numbers = self._uniform(seed, shape)
        return axes.reshape(numbers, [-1, *shape[1:]]) * (maxval - minval) + minval

    def normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> tf.Tensor:
        """Stand in for ``keras.random.normal``."""
        shape = _listed(shape)
        numbers = self._normal(seed, shape)
        return axes.reshape(numbers, [-1, *shape[1:]]) * stddev + mean

    def unsupported(self, kind: str) -> None:
        """Functions whose numbers the contract does not define: the plan refuses the model."""
        raise AssertionError(f"the plan let keras.random.{kind} pass")

    def _keep(self, seed: Any, shape: Sequence[Any]) -> tf.Tensor:
        return self._numbers.keep(*self._next(seed, shape))

    def _uniform(self, seed: Any, shape: Sequence[Any]) -> tf.Tensor:
        return self._numbers.uniform(*self._next(seed, shape))

    def _normal(self, seed: Any, shape: Sequence[Any]) -> tf.Tensor:
        return self._numbers.normal(*self._next(seed, shape))

    def _next(self, generator: keras.random.SeedGenerator, shape: Sequence[Any]) -> tuple[Draw, tf.Tensor]:
        """The generator's next draw, and how many numbers a sample takes of it."""
        draw = self._waiting[id(generator)].pop(0)
        return draw, tf.reduce_prod(axes.as_shape(shape)) // self._call.passes


def _drop(x: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
    # Not a product: what is dropped is zero even where it was infinite or NaN.
    return tf.where(tf.cast(kept, tf.bool), x, np.float32(0))


def _listed(shape: Any) -> list[Any]:
    return tf.unstack(tf.cast(shape, tf.int64)) if tf.is_tensor(shape) else list(shape)
