"""Stage 3, trace: the plan becomes one TensorFlow function with the contract's signature.

It is the single source of every format. Nothing outside this module and those it calls knows how a model is lowered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keepdrop.artifact import FIRST_SAMPLE, NUM_SAMPLES, ROWS, SEED, Draw

from . import axes, keras_hooks
from .errors import ConvertError
from .frontier import Frontier
from .numbers import Call, Numbers
from .plan import Plan
from .recurrence import Masks, Recurrence, Recurrences
from .time_distributed import fold_time


class Traced(NamedTuple):
    """The traced function, and the time loops it holds in a form that the conversion knows.

    ``function`` takes a dict of tensors under the contract's names and gives a dict of the outputs
    ``[num_samples, batch, ...]``.
    """

    function: Any
    recurrences: tuple[Recurrence, ...]


def trace(plan: Plan, *, lower: bool = True) -> Traced:
    """Trace a model as a function of its inputs, ``seed``, ``rows``, ``num_samples`` and ``first_sample``.

    Parameters
    ----------
    plan
        What is random in the model.
    lower
        Run what precedes the first draw once a row, and time loops in their fast form. Without it the model
        is traced just as Keras runs it; the samples are the same.

    Raises
    ------
    ConvertError
        The model cannot be traced with its draws replaced.
    """
    specs = {t.name: tf.TensorSpec(t.shape, t.dtype, name=t.name) for t in plan.inputs}
    specs |= {name: tf.TensorSpec([], tf.int64, name=name) for name in (SEED, NUM_SAMPLES, FIRST_SAMPLE)}
    specs[ROWS] = tf.TensorSpec([None], tf.int64, name=ROWS)
    lowered: list[Recurrence] = []

    def sample(tensors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        call = Call(*(tensors[name] for name in (SEED, ROWS, NUM_SAMPLES, FIRST_SAMPLE)))
        inputs = [tensors[t.name] for t in plan.inputs]
        replay = _Replay(plan, Numbers(plan.draws, call), call)
        with keras_hooks.intercept(replay):
            if lower:
                outputs = _lowered(plan, call, replay, inputs, lowered)
            else:
                outputs = plan.call([call.repeat(x) for x in inputs])
        return {
            t.name: tf.identity(call.samples_first(y), name=t.name) for t, y in zip(plan.outputs, outputs, strict=True)
        }

    try:
        with keras_hooks.sampling_state(plan.model), keras_hooks.plain_errors():
            function = tf.function(sample, autograph=False).get_concrete_function(specs)
    except Exception as error:  # of any kind: the model's own code runs here
        reason = " ".join(str(error).split())[:300]
        raise ConvertError(
            f"the model does not trace with its draws replaced ({type(error).__name__}: {reason})"
        ) from error
    return Traced(function, tuple(lowered))


def _lowered(
    plan: Plan, call: Call, replay: _Replay, inputs: list[tf.Tensor], lowered: list[Recurrence]
) -> list[tf.Tensor]:
    frontier = Frontier(plan, call)
    recurrences = Recurrences(Masks(replay.kept, frontier.row_origin), call.num_samples)
    replay.row_origin = frontier.row_origin
    with keras_hooks.replaced_loops(recurrences.inner_loop, fold_time):
        outputs = frontier.run(inputs)
    lowered[:] = recurrences.lowered
    return outputs


class _Replay:
    """Answers each draw of the model with the numbers that the contract gives it."""

    def __init__(self, plan: Plan, numbers: Numbers, call: Call) -> None:
        self.row_origin: Callable[[tf.Tensor], tf.Tensor | None] = lambda x: None
        self._numbers = numbers
        self._call = call
        self._kept: dict[Any, tf.Tensor] = {}
        self._waiting = {id(g): [d for d in plan.draws if d.generator == i] for i, g in enumerate(plan.generators)}

    def dropout(self, inputs: tf.Tensor, rate: float, noise_shape: Any = None, seed: Any = None) -> tf.Tensor:
        if rate == 0.0:
            return inputs
        if rate == 1.0:
            return tf.zeros_like(inputs)
        scale = np.float32(1 / (1 - rate))
        shape = axes.sizes(inputs)
        if noise_shape is not None:
            shape = [size if n is None else n for size, n in zip(shape, noise_shape, strict=True)]
        draw, count = self._next(seed, shape)
        kept = self._numbers.keep(draw, count)
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
        shape = _listed(shape)
        numbers = self._numbers.uniform(*self._next(seed, shape))
        return axes.reshape(numbers, [-1, *shape[1:]]) * (maxval - minval) + minval

    def normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> tf.Tensor:
        shape = _listed(shape)
        numbers = self._numbers.normal(*self._next(seed, shape))
        return axes.reshape(numbers, [-1, *shape[1:]]) * stddev + mean

    def unsupported(self, kind: str) -> None:
        raise AssertionError(f"the plan let keras.random.{kind} pass")

    def _next(self, generator: keras.random.SeedGenerator, shape: Sequence[Any]) -> tuple[Draw, tf.Tensor]:
        """The generator's next draw, and how many numbers a sample takes of it."""
        draw = self._waiting[id(generator)].pop(0)
        return draw, tf.reduce_prod(axes.as_shape(shape)) // self._call.passes


def _drop(x: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
    # Not a product: what is dropped is zero even where it was infinite or NaN.
    return tf.where(tf.cast(kept, tf.bool), x, np.float32(0))


def _listed(shape: Any) -> list[Any]:
    return tf.unstack(tf.cast(shape, tf.int64)) if tf.is_tensor(shape) else list(shape)
