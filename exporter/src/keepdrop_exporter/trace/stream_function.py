"""The plan of a stream becomes one TensorFlow function of a chunk of steps and of what is carried to the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import keras
import tensorflow as tf

from keepdrop.artifact.metadata import STEPS_SEEN, Draw, Streaming
from keepdrop_exporter.plan import keras_hooks
from keepdrop_exporter.plan.draws import Plan

from . import axes, stream_frontier
from .function import Traced, call_of, concrete, specs_of
from .loops import Masks, Recurrences
from .numbers import Numbers
from .recurrence import Recurrence
from .replay import Replay
from .sequence_numbers import SequenceNumbers
from .time_distributed import fold_time


def trace_stream(plan: Plan, *, whole: bool = True) -> tuple[Traced, Plan]:
    """Trace a model as a function of a chunk of steps and of what a stream carries from chunk to chunk.

    Its inputs are those of ``trace``, with any number of steps, ``steps_seen``, and the states and masks of
    ``Traced.stream``; beside the outputs it gives each state's ``_next`` and each mask's ``_made``. The plan returned
    has None for the stream's time in the shapes of inputs, outputs and draws. ``whole`` is that of ``trace``.

    Raises
    ------
    Refusal
        A layer does not go on from chunk to chunk.
    ConvertError
        The model cannot be traced with its draws replaced.
    """
    stream_frontier.refuse_names(plan)
    block = stream_frontier.block_length(plan)
    prefix = stream_frontier.carried_prefix(plan)
    inputs = tuple(replace(t, shape=(None, None, *t.shape[2:])) for t in plan.inputs)
    specs = specs_of({t.name: t for t in inputs})
    specs[STEPS_SEEN] = tf.TensorSpec([None], tf.int64, name=STEPS_SEEN)
    lowered: list[Recurrence] = []

    def traced(draws: tuple[Draw, ...], known: Streaming | None) -> tuple[Any, _ChunkReplay]:
        found: list[_ChunkReplay] = []

        def push(tensors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            chunk = _ChunkReplay(plan, draws, tensors, None if known is None else tensors, prefix, block)
            found[:] = [chunk]
            results = chunk.run(lowered, whole and known is not None)
            return {name: tf.identity(y, name=name) for name, y in results.items()}

        carried = [] if known is None else [*known.states, *known.masks]
        more = {s.name: tf.TensorSpec(stream_frontier.carried_shape(s), s.dtype, name=s.name) for s in carried}
        with stream_frontier.rolled(plan.model):
            return concrete(plan, push, specs | more), found[0]

    # Only a trace finds out what is carried, and what is carried is part of the function's signature.
    _, chunk = traced(plan.draws, None)
    draws = tuple(
        replace(draw, shape=(None, *draw.shape[1:])) if draw.offset in chunk.on_sequences else draw
        for draw in plan.draws
    )
    stream = stream_frontier.stream_of(chunk.carried, block)
    function, _ = traced(draws, stream)
    outputs = tuple(
        replace(t, shape=(None, None, None, *t.shape[3:])) if timed else t
        for t, timed in zip(plan.outputs, chunk.timed, strict=True)
    )
    notes = (*plan.notes, *stream_frontier.notes(draws, block))
    described = replace(plan, inputs=inputs, outputs=outputs, draws=draws, notes=notes)
    return Traced(function, tuple(lowered), stream), described


class _ChunkReplay(Replay):
    """One chunk of a stream: draws without the time axis are held, those on a sequence are made for its steps alone."""

    def __init__(
        self,
        plan: Plan,
        draws: tuple[Draw, ...],
        tensors: dict[str, tf.Tensor],
        given: dict[str, tf.Tensor] | None,
        prefix: str,
        block: int,
    ) -> None:
        call = call_of(tensors)
        super().__init__(replace(plan, draws=draws), Numbers(draws, call), call)
        self.carried = stream_frontier.Carried(call, given, prefix)
        self.on_sequences: set[int] = set()
        self.timed: list[bool] = []
        self._inputs = [tensors[t.name] for t in plan.inputs]
        self._frontier = stream_frontier.StreamFrontier(plan, call, self.carried)
        self._plan = plan
        streamed = [draw for draw in draws if None in draw.shape]
        self._on_sequences: SequenceNumbers | None = None
        if given is not None and streamed:
            steps = tf.shape(self._inputs[0], out_type=tf.int64)[1]
            position = tf.expand_dims(tensors[STEPS_SEEN], 1) + tf.range(steps)  # [B, L]
            self._on_sequences = SequenceNumbers(streamed, len(draws), call, position, block, self._hold_folded)

    def run(self, lowered: list[Recurrence], whole: bool) -> dict[str, tf.Tensor]:
        """The outputs after the chunk and what is carried on, by name; the time loops lowered in it go to the list."""
        self.row_origin = self._frontier.row_origin
        loops = stream_frontier.LoopStates(self._frontier, self.carried)
        recurrences = Recurrences(Masks(self.kept, self._frontier.row_origin), self._call.num_samples, loops, whole)
        with keras_hooks.intercept(self), keras_hooks.replaced_loops(recurrences.inner_loop, fold_time):
            outputs = self._frontier.run(self._inputs)
        self.timed = [self._frontier.is_sequence(y) for y in outputs]
        lowered[:] = recurrences.lowered
        if self.on_sequences and self._on_sequences is None:
            self._hold_folded(tf.zeros(axes.as_shape([self._call.batch, len(self.on_sequences)]), tf.int64))
        named = {t.name: self._call.samples_first(y) for t, y in zip(self._plan.outputs, outputs, strict=True)}
        return named | self.carried.results

    def _keep(self, seed: Any, shape: Sequence[Any]) -> tf.Tensor:
        if not tf.is_tensor(shape[1]):
            kept = super()._keep(seed, shape)
            return kept if self._frontier.in_recurrence else self.carried.hold(kept)
        return self._of_steps(seed, shape, SequenceNumbers.keep)

    def _uniform(self, seed: Any, shape: Sequence[Any]) -> tf.Tensor:
        if not tf.is_tensor(shape[1]):
            return self.carried.hold(super()._uniform(seed, shape))
        return self._of_steps(seed, shape, SequenceNumbers.uniform)

    def _normal(self, seed: Any, shape: Sequence[Any]) -> tf.Tensor:
        if not tf.is_tensor(shape[1]):
            return self.carried.hold(super()._normal(seed, shape))
        return self._of_steps(seed, shape, SequenceNumbers.normal)

    def _next(self, generator: keras.random.SeedGenerator, shape: Sequence[Any]) -> tuple[Draw, Any]:
        draw, count = super()._next(generator, shape)
        # What is made once must not depend on a chunk, not even on the shape of something in it.
        return draw, count if any(tf.is_tensor(n) for n in shape[1:]) else math.prod(int(n) for n in shape[1:])

    def _of_steps(self, seed: Any, shape: Sequence[Any], numbers: Callable[..., tf.Tensor]) -> tf.Tensor:
        """The numbers of a draw on a sequence, [B, T, L, F]; a first trace only finds out that it is one."""
        draw, _ = self._next(seed, shape)
        self.on_sequences.add(draw.offset)
        if self._on_sequences is not None:
            return numbers(self._on_sequences, draw)
        return tf.zeros(axes.as_shape([self._call.batch, self._call.num_samples, shape[1], math.prod(shape[2:])]))

    def _hold_folded(self, made: tf.Tensor) -> tf.Tensor:
        return self.carried.hold(made, per_sample=False, label="folded_seeds")
