"""The numbers of a draw on a sequence, for the steps of a stream's chunk alone.

A draw of F numbers a step on a window of S steps is a stretch of T * S * F elements; what a step takes of it are F of
them for each sample, at ``((t * S) + j) * F``. Time goes on in blocks of S steps: block 0 is drawn from the state
``[s, c]`` of the contract, block e >= 1 from ``stateless_fold_in([s, c], e)``. Rows may be at different steps.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from . import axes, philox
from .numbers import Call


class SequenceNumbers:
    """The numbers of one draw on a sequence.

    Parameters
    ----------
    call
        What is asked for.
    counters
        c of the draw's state for each row, int64 [B].
    folded
        ``philox.fold_in`` of these states, int64 [B].
    position
        The number of each step of the chunk, counted from the row's first one: int64 [B, L].
    block
        S.
    width
        F.
    """

    def __init__(
        self, call: Call, counters: tf.Tensor, folded: tf.Tensor, position: tf.Tensor, block: int, width: int
    ) -> None:
        self._width = width
        epoch = position // block  # [B, L]
        first = tf.equal(epoch, 0)
        seed = tf.where(first, call.seed, tf.expand_dims(folded, 1))
        counter = tf.where(first, tf.expand_dims(counters, 1), epoch)
        mixed = philox.mix(tf.reshape(seed, [-1]), tf.reshape(counter, [-1]))
        self._sizes = [call.batch, call.num_samples, axes.sizes(position)[1]]  # B, T, L
        self._state = axes.reshape(mixed, [1, 2, self._sizes[0], 1, self._sizes[2], 1])
        sample = call.first_sample + tf.range(call.num_samples)
        step = tf.reshape(sample, [1, -1, 1]) * block + tf.expand_dims(position - epoch * block, 1)  # [B, T, L]
        start = step * width
        self._skip = start % 4  # of the block that holds a step's first number
        self._index = tf.expand_dims(start // 4, -1)  # [B, T, L, 1]

    def keep(self, rate: float) -> tf.Tensor:
        """Which elements a dropout of this rate keeps: float32 [B, T, L, F] of zeros and ones."""
        return self._taken(tf.cast(self._words(flip=True) >= philox.threshold(rate), tf.float32))

    def uniform(self) -> tf.Tensor:
        """Uniform numbers in [0, 1): float32 [B, T, L, F]."""
        return self._taken(philox.uniform(self._words(flip=False)))

    def normal(self) -> tf.Tensor:
        """Standard normal numbers: float32 [B, T, L, F]."""
        return self._taken(philox.normal(self._words(flip=False)))

    @property
    def _stride(self) -> int:
        """Steps begin at multiples of this within a block of four."""
        return math.gcd(self._width, 4)

    def _words(self, flip: bool) -> tf.Tensor:
        """[4, B, T, L, blocks]"""
        count = -(-(self._width + 4 - self._stride) // 4)
        index = tf.expand_dims(tf.expand_dims(self._index + np.arange(count), 0), 0)
        return philox.blocks(self._state, index, flip)

    def _taken(self, numbers: tf.Tensor) -> tf.Tensor:
        """Of each step's blocks the F numbers it takes: [4, B, T, L, blocks] -> [B, T, L, F]."""
        flat = axes.reshape(tf.transpose(tf.reshape(numbers, [4, -1])), [*self._sizes, 4 * int(numbers.shape[-1])])
        taken = flat[..., : self._width]
        for skip in range(self._stride, 4, self._stride):
            here = tf.expand_dims(tf.equal(self._skip, skip), -1)
            taken = tf.where(here, flat[..., skip : skip + self._width], taken)
        return taken
