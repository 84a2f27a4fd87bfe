"""The numbers of every draw, for B rows and samples first_sample ... first_sample + T - 1.

Draws whose size is known come from one flat run of the generator. A draw of K numbers a sample is a stretch
of T * K elements; stretches are cut into segments of equal length, so that the operators run over one
[B, segments, blocks] array with a key per segment. Draws of very different sizes would leave much of it
unused and get a run of their own, and so do very long ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keepdrop.artifact.metadata import Draw
from keepdrop_exporter.plan.draws import size

from . import axes, philox
from .call import Call

# Within one run no draw is longer than this many segments.
_MOST_SEGMENTS = 16
# So many numbers a sample has a run of several draws at most: it takes some 64 bytes for each, which bounds a sample's
# memory from below, and no caches hold what is much larger.
_MOST_NUMBERS = 2**18
# From so many numbers a sample on, the generator holds the pairs of its blocks apart (see ``philox.blocks``).
_LONG = 2**14


class Numbers:
    """The numbers of a call's draws.

    Parameters
    ----------
    draws
        Every draw of the plan, in order.
    call
        What is asked for.
    """

    def __init__(self, draws: Sequence[Draw], call: Call) -> None:
        self._call = call
        counters = tf.expand_dims(call.rows, 1) * len(draws) + np.arange(len(draws), dtype=np.int64)
        states = philox.mix(call.seed, tf.reshape(counters, [-1]))
        self._states = axes.reshape(states, [1, 2, -1, len(draws)])  # [1, 2, B, D]
        self._kept: dict[int, tf.Tensor] = {}
        for run in _runs([draw for draw in draws if draw.kind == "dropout" and size(draw) is not None]):
            self._kept.update(self._keep(run))

    def keep(self, draw: Draw, count: tf.Tensor) -> tf.Tensor:
        """Which elements a dropout keeps: float32 [B, T, K] of zeros and ones; ``count`` is K, int64 []."""
        if draw.offset in self._kept:
            return self._kept[draw.offset]
        return self._keep(_Run((draw,), (count,)))[draw.offset]

    def uniform(self, draw: Draw, count: tf.Tensor) -> tf.Tensor:
        """Uniform numbers in [0, 1): float32 [B, T, K]; ``count`` is K, int64 []."""
        run = _Run((draw,), (count,))
        words = philox.blocks(*self._blocks(run), flip=False, apart=run.long)
        return self._shares(_interleave(philox.uniform(words)), run)[0]

    def normal(self, draw: Draw, count: tf.Tensor) -> tf.Tensor:
        """Standard normal numbers: float32 [B, T, K]; ``count`` is K, int64 []."""
        run = _Run((draw,), (count,))
        words = philox.blocks(*self._blocks(run), flip=False, apart=run.long)
        return self._shares(_interleave(philox.normal(words)), run)[0]

    def _keep(self, run: _Run) -> dict[int, tf.Tensor]:
        thresholds = np.repeat([philox.threshold(draw.rate or 0.0) for draw in run.draws], run.segments)
        kept = _interleave(philox.kept(*self._blocks(run), thresholds.reshape(-1, 1), apart=run.long))
        shares = self._shares(tf.cast(kept, tf.float32), run)
        return {draw.offset: share for draw, share in zip(run.draws, shares, strict=True)}

    def _blocks(self, run: _Run) -> tuple[tf.Tensor, tf.Tensor]:
        """State and index of a run's blocks: [1, 2, B, segments, 1] and [1, 1, 1, segments, n]."""
        length = run.segment_blocks(self._call.num_samples)
        first = self._call.first_sample * run.counts() // 4  # the block that holds each draw's first number
        draw_of = np.repeat(np.arange(len(run.draws)), run.segments)
        within = np.concatenate([np.arange(n) for n in run.segments])
        start = tf.gather(first, draw_of) + within * length  # [segments]
        index = tf.reshape(start, [1, 1, 1, -1, 1]) + tf.range(length)  # [1, 1, 1, segments, blocks]
        offsets = np.array([draw.offset for draw in run.draws])[draw_of]
        state = tf.gather(self._states, offsets, axis=3)  # [1, 2, B, segments]
        return tf.expand_dims(state, 4), index

    def _shares(self, numbers: tf.Tensor, run: _Run) -> list[tf.Tensor]:
        """Cut a run into its draws: [B, segments, elements] -> [B, T, K] each."""
        samples = self._call.num_samples
        parts = tf.split(numbers, run.segments, axis=1) if len(run.draws) > 1 else [numbers]
        shares = []
        for part, count in zip(parts, run.sizes, strict=True):
            if not run.exact:
                # The stretch may begin within its first block and end before its last.
                flat = axes.reshape(part, [self._call.batch, -1])
                skip = self._call.first_sample * count % 4
                part = tf.slice(flat, axes.as_shape([0, skip]), axes.as_shape([self._call.batch, samples * count]))
            shares.append(axes.reshape(part, [self._call.batch, samples, count]))
        return shares


@dataclass(frozen=True)
class _Run:
    """Draws that one run of the generator serves, and how many numbers a sample takes of each (int, or int64 [])."""

    draws: tuple[Draw, ...]
    sizes: tuple[Any, ...]

    @property
    def segments(self) -> list[int]:
        """How many segments each draw's stretch is cut into."""
        return [1] if len(self.sizes) == 1 else [-(-count // self._unit) for count in self.sizes]

    @property
    def exact(self) -> bool:
        """Whether stretches consist of whole blocks and whole segments, whatever the samples."""
        return self._known and all(count % 4 == 0 and count % self._unit == 0 for count in self.sizes)

    @property
    def long(self) -> bool:
        """Whether a sample takes many numbers of the run; one of unknown length counts as short."""
        return self._known and sum(self.sizes) >= _LONG

    def counts(self) -> Any:
        """The sizes as one int64 tensor or array [draws]."""
        return np.array(self.sizes, np.int64) if self._known else tf.stack(list(self.sizes))

    def segment_blocks(self, samples: tf.Tensor) -> tf.Tensor:
        """How many blocks a segment has, int64 []."""
        if self.exact:
            return samples * (self._unit // 4)
        # One more than the numbers fill: a stretch that begins within a block ends within another.
        return (samples * self._unit + 3) // 4 + 1

    @property
    def _known(self) -> bool:
        return all(isinstance(count, int) for count in self.sizes)

    @property
    def _unit(self) -> Any:
        return min(self.sizes) if self._known else self.sizes[0]


def _interleave(words: tf.Tensor) -> tf.Tensor:
    """[4, B, segments, blocks] -> [B, segments, blocks * 4], word by word of each block."""
    _, rows, segments, _ = axes.sizes(words)
    return axes.reshape(tf.transpose(tf.reshape(words, [4, -1])), [rows, segments, -1])


def _runs(draws: Sequence[Draw]) -> list[_Run]:
    """Group draws of like size, so that none is over ``_MOST_SEGMENTS`` times as long as another of its group.

    Groups have ``_MOST_NUMBERS`` numbers at most, or one draw.
    """
    sized = sorted(((count, draw) for draw in draws if (count := size(draw)) is not None), key=lambda pair: pair[0])
    groups: list[list[tuple[int, Draw]]] = []
    for count, draw in sized:
        group = groups[-1] if groups else []
        if group and count <= _MOST_SEGMENTS * group[0][0] and count + sum(n for n, _ in group) <= _MOST_NUMBERS:
            group.append((count, draw))
        else:
            groups.append([(count, draw)])
    return [_Run(tuple(draw for _, draw in group), tuple(count for count, _ in group)) for group in groups]
