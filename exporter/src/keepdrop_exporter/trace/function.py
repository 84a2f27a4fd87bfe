"""Stage 3, trace: the plan becomes one TensorFlow function with the contract's signature.

It is the single source of every format. Nothing outside this module and those it calls knows how a model is lowered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keepdrop.artifact.metadata import FIRST_SAMPLE, NUM_SAMPLES, ROWS, SEED, STEPS_SEEN, Draw, Streaming
from keepdrop_exporter.errors import ConvertError, Refusal
from keepdrop_exporter.plan import keras_hooks
from keepdrop_exporter.plan.draws import Plan

from . import axes, stream_frontier
from .frontier import Frontier
from .loops import Masks, Recurrence, Recurrences
from .numbers import Call, Numbers
from .sequence_numbers import SequenceNumbers
from .time_distributed import fold_time


class Traced(NamedTuple):
    """The traced function, and the time loops it holds in a form that the conversion knows.

    ``function`` takes a dict of tensors under the contract's names and gives a dict of the outputs
    ``[num_samples, batch, ...]``.
    """

    function: Any
    recurrences: tuple[Recurrence, ...]
    stream: Streaming | None = None


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
    specs = _specs({t.name: t for t in plan.inputs})
    lowered: list[Recurrence] = []

    def sample(tensors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        call = _call(tensors)
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

    return Traced(_concrete(plan, sample, specs), tuple(lowered))


def trace_stream(plan: Plan) -> tuple[Traced, Plan]:
    """Trace a model as a function of a chunk of steps and of what a stream carries from chunk to chunk.

    Its inputs are those of ``trace``, with any number of steps, ``steps_seen``, and the states and masks of
    ``Traced.stream``; beside the outputs it gives each state's ``_next`` and each mask's ``_made``. The plan returned
    has None for the stream's time in the shapes of inputs, outputs and draws.

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
    specs = _specs({t.name: t for t in inputs})
    specs[STEPS_SEEN] = tf.TensorSpec([None], tf.int64, name=STEPS_SEEN)
    lowered: list[Recurrence] = []

    def traced(draws: tuple[Draw, ...], known: Streaming | None) -> tuple[Any, _Chunk]:
        found: list[_Chunk] = []

        def push(tensors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            chunk = _Chunk(plan, draws, tensors, None if known is None else tensors, prefix, block)
            found[:] = [chunk]
            results = chunk.run(lowered)
            return {name: tf.identity(y, name=name) for name, y in results.items()}

        carried = [] if known is None else [*known.states, *known.masks]
        more = {s.name: tf.TensorSpec(stream_frontier.carried_shape(s), s.dtype, name=s.name) for s in carried}
        with stream_frontier.rolled(plan.model):
            return _concrete(plan, push, specs | more), found[0]

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


def _specs(inputs: dict[str, Any]) -> dict[str, tf.TensorSpec]:
    specs = {name: tf.TensorSpec(t.shape, t.dtype, name=name) for name, t in inputs.items()}
    specs |= {name: tf.TensorSpec([], tf.int64, name=name) for name in (SEED, NUM_SAMPLES, FIRST_SAMPLE)}
    specs[ROWS] = tf.TensorSpec([None], tf.int64, name=ROWS)
    return specs


def _call(tensors: dict[str, tf.Tensor]) -> Call:
    return Call(*(tensors[name] for name in (SEED, ROWS, NUM_SAMPLES, FIRST_SAMPLE)))


def _concrete(plan: Plan, function: Callable[..., Any], specs: dict[str, tf.TensorSpec]) -> Any:
    try:
        with keras_hooks.sampling_state(plan.model), keras_hooks.convertible(), keras_hooks.plain_errors():
            return tf.function(function, autograph=False).get_concrete_function(specs)
    except Refusal:
        raise
    except Exception as error:  # of any kind: the model's own code runs here
        reason = " ".join(str(error).split())[:300]
        raise ConvertError(
            f"the model does not trace with its draws replaced ({type(error).__name__}: {reason})"
        ) from error


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
        shape = _listed(shape)
        numbers = self._uniform(seed, shape)
        return axes.reshape(numbers, [-1, *shape[1:]]) * (maxval - minval) + minval

    def normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> tf.Tensor:
        shape = _listed(shape)
        numbers = self._normal(seed, shape)
        return axes.reshape(numbers, [-1, *shape[1:]]) * stddev + mean

    def unsupported(self, kind: str) -> None:
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


class _Chunk(_Replay):
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
        call = _call(tensors)
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

    def run(self, lowered: list[Recurrence]) -> dict[str, tf.Tensor]:
        """The outputs after the chunk and what is carried on, by name; the time loops lowered in it go to the list."""
        self.row_origin = self._frontier.row_origin
        loops = stream_frontier.LoopStates(self._frontier, self.carried)
        recurrences = Recurrences(Masks(self.kept, self._frontier.row_origin), self._call.num_samples, loops)
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


def _drop(x: tf.Tensor, kept: tf.Tensor) -> tf.Tensor:
    # Not a product: what is dropped is zero even where it was infinite or NaN.
    return tf.where(tf.cast(kept, tf.bool), x, np.float32(0))


def _listed(shape: Any) -> list[Any]:
    return tf.unstack(tf.cast(shape, tf.int64)) if tf.is_tensor(shape) else list(shape)
