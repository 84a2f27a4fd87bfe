"""What one call of the traced function asks for."""

from __future__ import annotations

from dataclasses import dataclass

import tensorflow as tf

from . import axes


@dataclass(frozen=True)
class Call:
    """One call of the graph: int64 tensors ``seed`` [], ``rows`` [B], ``num_samples`` [] and ``first_sample`` []."""

    seed: tf.Tensor
    rows: tf.Tensor
    num_samples: tf.Tensor
    first_sample: tf.Tensor

    @property
    def batch(self) -> tf.Tensor:
        """How many rows there are, B: int64 []."""
        return tf.size(self.rows, out_type=tf.int64)

    @property
    def passes(self) -> tf.Tensor:
        """How many forward passes the call makes, N = B * T: int64 []."""
        return self.batch * self.num_samples

    def repeat(self, x: tf.Tensor) -> tf.Tensor:
        """Each row T times: [B, ...] -> [N, ...]."""
        wide = tf.broadcast_to(tf.expand_dims(x, 1), axes.as_shape([self.batch, self.num_samples, *axes.sizes(x)[1:]]))
        wide.set_shape([None, None, *x.shape[1:]])
        return axes.merge(wide)

    def rows_first(self, x: tf.Tensor) -> tf.Tensor:
        """Each sample's own input: [T, B, ...] -> [N, ...]"""
        y = tf.transpose(x, [1, 0, *range(2, x.shape.rank)])
        return axes.merge(y)

    def samples_first(self, y: tf.Tensor) -> tf.Tensor:
        """[N, ...] -> [T, B, ...]"""
        apart = axes.reshape(y, [self.batch, self.num_samples, *axes.sizes(y)[1:]])
        return tf.transpose(apart, [1, 0, *range(2, y.shape.rank + 1)])
