"""The numbers of every draw, for B rows and samples first_sample ... first_sample + T - 1.

Draws whose size is known come from one flat run of the generator. A draw of K numbers a sample is a stretch
of T * K elements; stretches are cut into segments of equal length, so that the operators run over one
[B, segments, blocks] array with a key per segment. Draws of very different sizes would leave much of it
unused and get a run of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from keepdrop.artifact import Draw

from . import philox
from .plan import size

# Within one run no draw is longer than this many segments.
_MOST_SEGMENTS = 16


@dataclass(frozen=True)
class Call:
    """One call of the graph: int64 tensors ``seed`` [], ``rows`` [B], ``num_samples`` [] and ``first_sample`` []."""

    seed: tf.Tensor
    rows: tf.Tensor
    num_samples: tf.Tensor
    first_sample: tf.Tensor

    @property
    def passes(self) -> tf.Tensor:
        """How many forward passes the call makes, N = B * T: int64 []."""
        return tf.size(self.rows, out_type=tf.int64) * self.num_samples

    def repeat(self, x: tf.Tensor) -> tf.Tensor:
        """Each row T times: [B, ...] -> [N, ...]."""
        shape = tf.shape(x, out_type=tf.int64)
        wide = tf.broadcast_to(x[:, tf.newaxis], tf.concat([shape[:1], [self.num_samples], shape[1:]], 0))
        result = tf.reshape(wide, tf.concat([[self.passes], shape[1:]], 0))
        result.set_shape([None, *x.shape[1:]])
        return result


class Numbers:
    """The numbers of a call's draws, by the draw's offset.

    Parameters
    ----------
    draws
        Every draw of the plan, in order.
    call
        What is asked for.
    """

    def __init__(self, draws: Sequence[Draw], call: Call) -> None:
        self._draws = draws
        self._call = call
        counters = call.rows[:, tf.newaxis] * len(draws) + np.arange(len(draws), dtype=np.int64)
        self._states = philox.mix(call.seed, counters)  # [2, B, D]
        self._kept: dict[int, tf.Tensor] = {}
        for run in _runs([draw for draw in draws if draw.kind == "dropout" and size(draw) is not None]):
            self._kept.update(self._keep([(draw, _known_size(draw)) for draw in run]))

    def keep(self, draw: Draw, count: tf.Tensor) -> tf.Tensor:
        """Which elements a dropout keeps: bool [N, K], where ``count`` is K, int64 []."""
        if draw.offset in self._kept:
            return self._kept[draw.offset]
        return self._keep([(draw, count)])[draw.offset]

    def uniform(self, draw: Draw, count: tf.Tensor) -> tf.Tensor:
        """Uniform numbers in [0, 1): float32 [N, K]."""
        (words,) = self._words([(draw, count)], flip=False)
        return self._share(_interleave(philox.uniform(words)), draw, count, 0, 1)

    def normal(self, draw: Draw, count: tf.Tensor) -> tf.Tensor:
        """Standard normal numbers: float32 [N, K]."""
        (words,) = self._words([(draw, count)], flip=False)
        return self._share(_interleave(philox.normal(words)), draw, count, 0, 1)

    def _keep(self, run: Sequence[tuple[Draw, int | tf.Tensor]]) -> dict[int, tf.Tensor]:
        segments = _segments([count for _, count in run])
        words = self._words(run, flip=True)[0]
        rates = np.repeat([philox.threshold(draw.rate or 0.0) for draw, _ in run], segments)
        kept = _interleave(words >= rates.reshape(-1, 1))  # [B, segments, elements]
        ends = np.cumsum(segments)
        return {
            draw.offset: self._share(kept, draw, count, int(end - n), int(n))
            for (draw, count), n, end in zip(run, segments, ends, strict=True)
        }

    def _words(self, run: Sequence[tuple[Draw, int | tf.Tensor]], flip: bool) -> tuple[tf.Tensor]:
        """The words of a run, [4, B, segments, blocks]."""
        segments = _segments([count for _, count in run])
        counts = tf.stack([tf.cast(count, tf.int64) for _, count in run])
        length = self._segment_blocks(run)
        first = self._call.first_sample * counts // 4  # the block that holds each draw's first number
        draw_of = np.repeat(np.arange(len(run)), segments)
        within = np.concatenate([np.arange(n) for n in segments])
        start = tf.gather(first, draw_of) + within * length  # [segments]
        index = start[:, tf.newaxis] + tf.range(length)  # [segments, blocks]
        offsets = np.array([draw.offset for draw, _ in run])[draw_of]
        state = tf.gather(self._states, offsets, axis=2)[..., tf.newaxis]  # [2, B, segments, 1]
        return (philox.blocks(state, index, flip),)

    def _segment_blocks(self, run: Sequence[tuple[Draw, int | tf.Tensor]]) -> tf.Tensor:
        """How many blocks a segment has: int64 []."""
        if all(isinstance(count, int) for _, count in run):
            unit = min(int(count) for _, count in run)
            aligned = all(int(count) % 4 == 0 for _, count in run)
        else:
            unit, aligned = run[0][1], False
        # An unaligned stretch may start within a block and end within another.
        return (self._call.num_samples * unit + 3) // 4 + (0 if aligned else 1)

    def _share(self, numbers: tf.Tensor, draw: Draw, count: int | tf.Tensor, start: int, segments: int) -> tf.Tensor:
        """Cut one draw out of a run: [B, segments, elements] -> [N, K]."""
        rows = tf.size(self._call.rows, out_type=tf.int64)
        flat = tf.reshape(numbers[:, start : start + segments], tf.stack([rows, np.int64(-1)]))
        total = self._call.num_samples * count
        skip = np.int64(0) if isinstance(count, int) and count % 4 == 0 else self._call.first_sample * count % 4
        taken = flat[:, skip : skip + total]
        return tf.reshape(taken, tf.stack([self._call.passes, tf.cast(count, tf.int64)]))


def _interleave(words: tf.Tensor) -> tf.Tensor:
    """[4, B, segments, blocks] -> [B, segments, blocks * 4], word by word of each block."""
    shape = tf.shape(words, out_type=tf.int64)
    ordered = tf.transpose(tf.reshape(words, [4, -1]))
    return tf.reshape(ordered, tf.stack([shape[1], shape[2], shape[3] * 4]))


def _known_size(draw: Draw) -> int:
    count = size(draw)
    assert count is not None
    return count


def _segments(counts: Sequence[int | tf.Tensor]) -> list[int]:
    if len(counts) == 1:
        return [1]
    sizes = [int(count) for count in counts]
    return [-(-count // min(sizes)) for count in sizes]


def _runs(draws: Sequence[Draw]) -> list[list[Draw]]:
    """Group draws of like size, so that none is over ``_MOST_SEGMENTS`` times as long as another of its group."""
    runs: list[list[Draw]] = []
    for draw in sorted(draws, key=_known_size):
        if runs and _known_size(draw) <= _MOST_SEGMENTS * _known_size(runs[-1][0]):
            runs[-1].append(draw)
        else:
            runs.append([draw])
    return runs
