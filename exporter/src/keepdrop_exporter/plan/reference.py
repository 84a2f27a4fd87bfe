"""The samples as the contract defines them, computed by stock Keras."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from keepdrop_exporter.errors import VerifyError

from . import keras_hooks
from .draws import Plan, call_model

Arrays = dict[str, NDArray[np.generic]]
Samples = dict[str, NDArray[np.float32]]

# Tracing a recurrent layer takes as long as some 30 of its steps do eagerly (Keras 3.15, TensorFlow 2.21).
_STEPS_WORTH_TRACING = 30


def reference(
    plan: Plan,
    x: Arrays,
    rows: NDArray[np.int64],
    samples: int,
    seed: int,
    draws: keras_hooks.RandomFunctions | None = None,
    per_sample: Collection[str] = (),
) -> Samples:
    """The samples as the contract defines them, row after row by the untouched Keras model: [T, B, ...] each.

    The inputs named `per_sample` are [T, B, ...]: the T rows of a call are then those that its samples have.

    Long sequences run as one ``tf.function`` of the model's call, which takes a hundredth of the time and computes the
    same: it is Keras' code, traced. ``draws`` stand in for Keras' random functions, where they are given.

    Raises
    ------
    VerifyError
        The Keras model does not run on these inputs; the text names the layer that failed.
    """
    per_row = []
    drawing = keras_hooks.intercept(draws) if draws is not None else contextlib.nullcontext()
    with keras_hooks.sampling_state(plan.model), keras_hooks.plain_errors(), drawing:
        forward = _forward(plan, {name: a[0] if name in per_sample else a for name, a in x.items()})
        for b, row in enumerate(rows):
            start_generators(plan, seed, int(row))
            inputs = [
                x[t.name][:, b] if t.name in per_sample else np.repeat(x[t.name][b : b + 1], samples, axis=0)
                for t in plan.inputs
            ]
            try:
                per_row.append([np.asarray(y) for y in forward(inputs)])
            except Exception as error:  # Keras' own kinds, for ids that an Embedding lacks among others
                raise _not_run(plan, x, [a[:1] for a in inputs], error) from error
    return {t.name: np.stack([row[i] for row in per_row], axis=1) for i, t in enumerate(plan.outputs)}


def exact_reference(
    plan: Plan,
    x: Arrays,
    rows: NDArray[np.int64],
    samples: int,
    seed: int,
    draws: keras_hooks.RandomFunctions | None = None,
    per_sample: Collection[str] = (),
) -> Samples:
    """``reference`` computed in float64, under the same float32 masks and noise: float64 [T, B, ...] each.

    ``draws`` are the functions that make the numbers, by default Keras' own.

    Raises
    ------
    VerifyError
        The model does not run in float64; code of a layer's own may ask for float32.
    """
    single = _SingleDraws(draws or keras_hooks.StockFunctions())
    with keras_hooks.in_float64(plan.model):
        return reference(plan, x, rows, samples, seed, single, per_sample)


class _SingleDraws:
    """Draws float32 numbers for a model that computes in float64."""

    def __init__(self, draws: keras_hooks.RandomFunctions) -> None:
        self._draws = draws

    def dropout(self, inputs: tf.Tensor, rate: float, noise_shape: Any = None, seed: Any = None) -> tf.Tensor:
        if rate in (0.0, 1.0):
            return self._draws.dropout(inputs, rate, noise_shape, seed)
        kept = self._draws.dropout(tf.ones(inputs.shape, tf.float32), rate, noise_shape, seed)
        return tf.where(kept > 0, inputs / tf.cast(1 - rate, inputs.dtype), tf.cast(0, inputs.dtype))

    def uniform(
        self, shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: Any = None
    ) -> tf.Tensor:
        return tf.cast(self._draws.uniform(shape, minval, maxval, "float32", seed), dtype or "float32")

    def normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> tf.Tensor:
        return tf.cast(self._draws.normal(shape, mean, stddev, "float32", seed), dtype or "float32")

    def unsupported(self, kind: str) -> None:
        self._draws.unsupported(kind)


def _forward(plan: Plan, x: Arrays) -> Callable[[Sequence[Any]], list[tf.Tensor]]:
    """``model(inputs, training=True)`` on flat inputs, traced where that pays."""

    def forward(inputs: Sequence[Any]) -> list[tf.Tensor]:
        return call_model(plan.model, inputs)

    rows = len(next(iter(x.values())))
    steps = max((a.shape[1] for a in x.values() if a.ndim > 1), default=1)
    if rows * steps <= _STEPS_WORTH_TRACING:
        return forward
    traced = tf.function(forward, autograph=False)

    def run(inputs: Sequence[Any]) -> list[tf.Tensor]:
        tensors = [tf.convert_to_tensor(a) for a in inputs]
        # Where a function itself is called, TensorFlow (2.21) counts, and warns of models that are traced one by one.
        found: list[tf.Tensor] = traced.get_concrete_function(tensors)(tensors)
        return found

    return run


def _not_run(plan: Plan, x: Arrays, row: Sequence[NDArray[np.generic]], error: Exception) -> VerifyError:
    """What a model fails with on a row; run eagerly, it shows which layer it was."""
    keras_hooks.forget_masks(plan.model)
    try:
        call_model(plan.model, row)
    except Exception as eager:
        error = eager
    layer = keras_hooks.failing_layer(error)
    where = "" if layer is None else f" in layer {keras_hooks.layer_paths(plan.model).get(id(layer), layer.name)!r}"
    shapes = {name: a.shape for name, a in x.items()}
    reason = " ".join(str(error).split())[:300]
    return VerifyError(f"the Keras model does not run on inputs of shape {shapes}{where}; check their values: {reason}")


def start_generators(plan: Plan, seed: int, row: int) -> None:
    """Give each generator of the model the state from which it draws for a row."""
    for i, generator in enumerate(plan.generators):
        offset = min(d.offset for d in plan.draws if d.generator == i)
        generator.state.assign([seed, _int64(row * plan.draws_per_row + offset)])


def _int64(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63
