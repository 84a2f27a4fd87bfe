"""Shapes with known and unknown sizes: what is known stays a constant, so that the graph computes nothing for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf


def sizes(x: tf.Tensor) -> list[Any]:
    """The size of each axis: an int where it is known, otherwise an int64 tensor []."""
    if None not in x.shape:
        return [int(n) for n in x.shape]
    dynamic = tf.shape(x, out_type=tf.int64)
    return [dynamic[i] if n is None else int(n) for i, n in enumerate(x.shape)]


def reshape(x: tf.Tensor, shape: Sequence[Any]) -> tf.Tensor:
    """``tf.reshape`` to sizes that are ints or int64 tensors []; one of them may be -1."""
    result = tf.reshape(x, as_shape(shape))
    result.set_shape([None if tf.is_tensor(n) or n == -1 else n for n in shape])
    return result


def as_shape(shape: Sequence[Any]) -> Any:
    """Sizes, ints or int64 tensors [], as one shape."""
    if any(tf.is_tensor(n) for n in shape):
        return tf.stack([tf.cast(n, tf.int64) for n in shape])
    return np.array(shape, np.int64)


def merge(x: tf.Tensor, axis: int = 0) -> tf.Tensor:
    """Join an axis with the one after it: [..., P, Q, ...] -> [..., P * Q, ...]."""
    rest = sizes(x) if any(n is None for i, n in enumerate(x.shape) if i not in (axis, axis + 1)) else list(x.shape)
    return reshape(x, [*rest[:axis], -1, *rest[axis + 2 :]])
