"""The numbers of the draws on sequences, for the steps of a stream's chunk alone.

A draw of F numbers a step on a window of S steps is a stretch of T * S * F elements; what step j takes of it are F of
them for each sample, from (t * S + j) * F on. Time goes on in blocks of S steps: block 0 is drawn from the state
``[s, c]`` of the contract, block e >= 1 from ``stateless_fold_in([s, c], e)``. Rows may be at different steps. All
draws come from one run of the generator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from keepdrop.artifact.metadata import Draw

from . import axes, philox
from .call import Call

_TOP = np.int64(-(2**63))


class SequenceNumbers:
    """The numbers of a chunk's draws on sequences.

    Parameters
    ----------
    draws
        Those on a sequence, of shape (None, ...).
    draws_per_row
        D of the contract.
    call
        What is asked for.
    position
        The number of each step of the chunk, counted from the row's first one: int64 [B, L].
    block
        S.
    hold
        Gives what it is given, int64 [B, draws], as it was made for the stream's first chunk.
    """

    def __init__(
        self,
        draws: Sequence[Draw],
        draws_per_row: int,
        call: Call,
        position: tf.Tensor,
        block: int,
        hold: Callable[[tf.Tensor], tf.Tensor],
    ) -> None:
        self._places = {draw.offset: i for i, draw in enumerate(draws)}
        self._widths = [width(draw) for draw in draws]
        self._lengths = [_blocks(n) for n in self._widths]
        self._sizes = [call.batch, call.num_samples, axes.sizes(position)[1]]  # B, T, L
        epoch = position // block  # [B, L]
        sample = call.first_sample + tf.range(call.num_samples)
        step = tf.reshape(sample, [1, -1, 1]) * block + tf.expand_dims(position - epoch * block, 1)  # [B, T, L]
        starts = tf.expand_dims(step, 3) * np.array(self._widths, np.int64)  # [B, T, L, draws]
        self._skips = starts % 4  # of the block that holds a step's first number
        draw_of = np.repeat(np.arange(len(draws)), self._lengths)
        within = np.concatenate([np.arange(n) for n in self._lengths])
        index = tf.gather(starts // 4, draw_of, axis=3) + within  # [B, T, L, blocks]
        counters = tf.expand_dims(call.rows, 1) * draws_per_row + np.array([draw.offset for draw in draws], np.int64)
        mixed = self._mixed(call, counters, epoch, hold)
        state = mixed if len(draws) == 1 else tf.gather(mixed, draw_of, axis=5)  # [1, 2, B, 1, L, blocks]
        self._words = philox.blocks(state, tf.reshape(index, axes.as_shape([1, 1, *axes.sizes(index)])), flip=True)
        thresholds = np.array([philox.threshold(draw.rate or 0.0) for draw in draws])[draw_of]
        self._kept = self._interleaved(tf.cast(self._words >= thresholds, tf.float32))

    def keep(self, draw: Draw) -> tf.Tensor:
        """Which elements a dropout keeps: float32 [B, T, L, F] of zeros and ones."""
        part = tf.split(self._kept, [4 * n for n in self._lengths], axis=3)[self._places[draw.offset]]
        return self._taken(draw, part)

    def uniform(self, draw: Draw) -> tf.Tensor:
        """Uniform numbers in [0, 1): float32 [B, T, L, F]."""
        return self._taken(draw, self._interleaved(philox.uniform(self._unflipped(draw))))

    def normal(self, draw: Draw) -> tf.Tensor:
        """Standard normal numbers: float32 [B, T, L, F]."""
        return self._taken(draw, self._interleaved(philox.normal(self._unflipped(draw))))

    def _mixed(
        self, call: Call, counters: tf.Tensor, epoch: tf.Tensor, hold: Callable[[tf.Tensor], tf.Tensor]
    ) -> tf.Tensor:
        """What each row, step and draw starts from: [1, 2, B, 1, L, draws]."""
        rows, _, steps = self._sizes
        count = len(self._widths)
        folded = hold(axes.reshape(philox.fold_in(call.seed, tf.reshape(counters, [-1])), [rows, count]))
        first = tf.expand_dims(tf.equal(epoch, 0), 2)  # [B, L, 1]
        seeds = tf.where(first, call.seed, tf.expand_dims(folded, 1))
        numbers = tf.where(first, tf.expand_dims(counters, 1), tf.expand_dims(epoch, 2))  # [B, L, draws]
        return axes.reshape(
            philox.mix(tf.reshape(seeds, [-1]), tf.reshape(numbers, [-1])), [1, 2, rows, 1, steps, count]
        )

    def _unflipped(self, draw: Draw) -> tf.Tensor:
        """The words of one draw, [4, B, T, L, blocks]."""
        words = tf.split(self._words, self._lengths, axis=4)[self._places[draw.offset]]
        return tf.bitwise.bitwise_xor(words, _TOP)

    def _interleaved(self, numbers: tf.Tensor) -> tf.Tensor:
        """[4, B, T, L, blocks] -> [B, T, L, blocks * 4], word by word of each block."""
        return axes.reshape(tf.transpose(tf.reshape(numbers, [4, -1])), [*self._sizes, 4 * int(numbers.shape[-1])])

    def _taken(self, draw: Draw, numbers: tf.Tensor) -> tf.Tensor:
        """Of each step's blocks the F numbers it takes: [B, T, L, blocks * 4] -> [B, T, L, F]."""
        i = self._places[draw.offset]
        count, stride = self._widths[i], math.gcd(self._widths[i], 4)
        taken = numbers[..., :count]
        for skip in range(stride, 4, stride):
            here = tf.equal(self._skips[..., i : i + 1], skip)
            taken = tf.where(here, numbers[..., skip : skip + count], taken)
        return taken


def width(draw: Draw) -> int:
    """F: how many numbers a step takes of a draw on a sequence."""
    return math.prod(int(n) for n in draw.shape[1:] if n is not None)


def _blocks(count: int) -> int:
    """How many blocks of four ``count`` numbers may lie in, which begin at multiples of ``count``."""
    return -(-(count + 4 - math.gcd(count, 4)) // 4)
