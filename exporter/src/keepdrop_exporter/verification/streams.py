"""Stage 5 for a streaming artifact: what keepdrop's streams answer, against stock Keras on the prefixes."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

import keepdrop
from keepdrop.artifact.metadata import Cost, Draw, Metadata, OutputCheck, Streaming, Verification
from keepdrop.stream.stream import Stream
from keepdrop_exporter.errors import VerifyError
from keepdrop_exporter.plan import keras_hooks
from keepdrop_exporter.plan.draws import Plan
from keepdrop_exporter.plan.inputs import Data, given, random_batch
from keepdrop_exporter.plan.reference import Arrays, Samples, exact_reference, reference
from keepdrop_exporter.trace import stream_frontier

from .comparison import Bound, compare, worse
from .cost import cost
from .whole import behaves, check_counts, row_ids

# Steps that are compared where no draw follows the time; else a block. They are more where convolutions look farther
# back, and always a few over.
_STEPS = 23
_OVER = 3
# Chunks of these lengths in turn, none of which divides another of the next.
_CHUNKS = (3, 1, 4, 2, 5)
# How many steps ahead the other rows are when the last one comes.
_LEAD = 4
_TIMED_PUSHES = 30
_TIME = 2  # of an output [T, B, L, ...]


def verify_stream(
    plan: Plan, artifact: str | Path, *, rows: int, samples: int, seed: int, data: Data, atol: float, rtol: float
) -> Verification:
    """``verify`` for a streaming artifact.

    Streams are pushed step by step, in chunks of uneven lengths, and with rows that are at different steps; their
    answers are compared with stock Keras' on the whole prefix. Draws on a sequence are Keras' own, block by block.

    Parameters
    ----------
    plan
        What is random in the model, whose input lengths may be fixed.
    artifact, rows, samples, seed, data, atol, rtol
        As for ``verify``; of ``data`` all steps are pushed.

    Raises
    ------
    VerifyError
        As for ``verify``.
    """
    check_counts(rows, samples)
    model = keepdrop.load(artifact, threads=1)
    metadata = model.metadata
    assert metadata.stream is not None
    if not _same_draws(metadata.draws, plan.draws):
        raise VerifyError(f"{artifact}: it was made from another model than {plan.model.name!r}: their draws differ")
    on_sequences = {draw.offset for draw in metadata.draws if None in draw.shape}
    block = metadata.stream.block
    plan = replace(plan, inputs=metadata.inputs)
    if data is not None:
        x = given(plan, data, rows)
    else:
        length = max(block if on_sequences else _STEPS, _reach(metadata.stream)) + _OVER
        x = random_batch(plan, rows, length, np.random.default_rng(seed % 2**64))
    ids = row_ids(x)
    steps = next(iter(x.values())).shape[1]
    lengths = sorted({1, min(block, steps) if on_sequences else -(-steps // 2), steps})
    expected = prefixes(plan, x, ids, samples, seed, lengths, on_sequences, block)

    def exact(length: int) -> Samples:
        return prefixes(plan, x, ids, samples, seed, [length], on_sequences, block, exact_reference)[length]

    bound = {n: Bound(expected[n], atol, rtol, functools.partial(exact, n)) for n in lengths}

    def draw(
        x: Arrays = x,
        ids: NDArray[np.int64] = ids,
        *,
        seed: int = seed,
        samples: int = samples,
        first: int = 0,
        chunks: Sequence[int] = _CHUNKS,
    ) -> Samples:
        stream = model.stream(samples=samples, seed=seed, rows=ids, first_sample=first)
        return _joined(metadata, [_pushed(metadata, stream, part) for part in _cut(x, chunks)])

    worst: dict[str, OutputCheck] = {}
    try:
        for length in lengths:
            answers = draw({name: a[:, :length] for name, a in x.items()}, chunks=(1,))
            for name, found in compare(
                answers, expected[length], bound[length], f"differs from Keras after {length} steps"
            ).items():
                worst[name] = worse(worst.get(name), found)
        got = draw()
        compare(got, expected[steps], bound[steps], "differs from Keras where steps are pushed in chunks")
        if len(ids) > 1 and steps > _LEAD:
            apart = _apart(metadata, model.stream(samples=samples, seed=seed, rows=ids[:-1]), x, int(ids[-1]))
            compare(apart, expected[steps], bound[steps], "differs from Keras where rows are at different steps")
        behaves(draw, x, ids, got, samples, seed, bound[steps])
    except VerifyError:
        raise
    except keepdrop.KeepdropError as error:
        raise VerifyError(f"the artifact does not stream: {error}") from error
    source = "given" if data is not None else "random"
    return Verification(len(ids), samples, seed, atol, rtol, source, tuple(worst.values()))


def measure_push(plan: Plan, artifact: str | Path) -> Cost:
    """What a push of one step and a sample of a row in it cost on one thread: the quickest of some pushes."""
    model = keepdrop.load(artifact, threads=1)
    x = random_batch(replace(plan, inputs=model.metadata.inputs), 1, 1, np.random.default_rng(0))

    def run(samples: int) -> Callable[[], object]:
        stream = model.stream(samples=samples)
        stream.push(x)  # which makes its masks
        return lambda: stream.push(x)

    return cost(run, _TIMED_PUSHES, length=1)


def prefixes(
    plan: Plan,
    x: Arrays,
    rows: NDArray[np.int64],
    samples: int,
    seed: int,
    lengths: Sequence[int],
    on_sequences: set[int],
    block: int,
    compute: Callable[..., Samples] = reference,
) -> dict[int, Samples]:
    """The samples after each of some lengths, by the untouched Keras model on the whole prefix: [T, B, ...] each.

    Parameters
    ----------
    on_sequences
        The offsets of the draws that follow the time. They are drawn as Keras draws them for a whole block of
        steps, block after block, each from the state ``stateless_fold_in(state, block's number)`` but for block 0.
    block
        How many steps a block has.
    compute
        ``reference``, or ``exact_reference`` for float64.
    """
    draws = _BlockDraws(plan, on_sequences, block, -(-max(lengths) // block))
    with keras_hooks.any_length(), stream_frontier.rolled(plan.model):
        return {
            length: compute(plan, {name: a[:, :length] for name, a in x.items()}, rows, samples, seed, draws)
            for length in lengths
        }


class _BlockDraws:
    """Keras' own draws, those on a sequence made block by block."""

    def __init__(self, plan: Plan, on_sequences: set[int], block: int, blocks: int) -> None:
        # A generator makes the same draws in every forward pass.
        self._follow = {
            id(g): itertools.cycle([d.offset in on_sequences for d in plan.draws if d.generator == i])
            for i, g in enumerate(plan.generators)
        }
        self._block = block
        self._blocks = blocks

    def dropout(self, inputs: tf.Tensor, rate: float, noise_shape: Any = None, seed: Any = None) -> tf.Tensor:
        if rate in (0.0, 1.0) or not self._follows_time(seed):
            return keras_hooks.stock_dropout(inputs, rate, noise_shape, seed)
        shape = [inputs.shape[0], self._block, *inputs.shape[2:]]
        scaled = self._by_block(seed, lambda: keras_hooks.stock_dropout(tf.ones(shape), rate, noise_shape, seed))
        return inputs * scaled[:, : inputs.shape[1]]

    def uniform(
        self, shape: Any, minval: Any = 0.0, maxval: Any = 1.0, dtype: Any = None, seed: Any = None
    ) -> tf.Tensor:
        return self._drawn(keras_hooks.stock_uniform, shape, (minval, maxval), dtype, seed)

    def normal(self, shape: Any, mean: Any = 0.0, stddev: Any = 1.0, dtype: Any = None, seed: Any = None) -> tf.Tensor:
        return self._drawn(keras_hooks.stock_normal, shape, (mean, stddev), dtype, seed)

    def unsupported(self, kind: str) -> None:
        raise AssertionError(f"the plan let keras.random.{kind} pass")

    def _drawn(self, stock: Callable[..., Any], shape: Any, parameters: tuple[Any, Any], dtype: Any, seed: Any) -> Any:
        if not self._follows_time(seed):
            return stock(shape, *parameters, dtype=dtype, seed=seed)
        whole = [shape[0], self._block, *shape[2:]]
        return self._by_block(seed, lambda: stock(whole, *parameters, dtype=dtype, seed=seed))[:, : shape[1]]

    def _follows_time(self, generator: keras.random.SeedGenerator) -> bool:
        return next(self._follow[id(generator)])

    def _by_block(self, generator: keras.random.SeedGenerator, draw: Callable[[], tf.Tensor]) -> tf.Tensor:
        """[T, blocks * S, ...]; the generator ends where one draw would have left it."""
        start = tf.identity(generator.state.value)
        parts = [draw()]
        for number in range(1, self._blocks):
            generator.state.assign(tf.random.experimental.stateless_fold_in(start, tf.constant(number, tf.int64)))
            parts.append(draw())
        generator.state.assign(start + np.array([0, 1]))
        return tf.concat(parts, 1)


def _reach(stream: Streaming) -> int:
    """How many steps the convolutions of a stream look back at most, one after another."""
    return sum(state.shape[0] for state in stream.states if len(state.shape) > 1)


def _same_draws(streamed: Sequence[Draw], draws: Sequence[Draw]) -> bool:
    """Whether these are the same draws, the time of those on a sequence left out."""
    return len(streamed) == len(draws) and all(
        replace(a, shape=()) == replace(b, shape=()) and a.shape[1:] == b.shape[1:]
        for a, b in zip(streamed, draws, strict=True)
    )


def _cut(x: Arrays, lengths: Sequence[int]) -> Iterator[Arrays]:
    """``x`` in chunks of steps of these lengths, over and over."""
    steps, start = next(iter(x.values())).shape[1], 0
    for length in itertools.cycle(lengths):
        if start >= steps:
            return
        yield {name: a[:, start : start + length] for name, a in x.items()}
        start += length


def _pushed(metadata: Metadata, stream: Stream[Any], x: Arrays, rows: Sequence[int] | None = None) -> Samples:
    """The samples of each output after a chunk, [T, B, ...] or [T, B, L, ...]."""
    answer = stream.push(x, rows)
    by_name = answer if isinstance(answer, dict) else {metadata.outputs[0].name: answer}
    return {name: prediction.samples for name, prediction in by_name.items()}


def _joined(metadata: Metadata, answers: Sequence[Samples]) -> Samples:
    """All steps of the outputs that have a time axis, the last answer of the others."""
    timed = {t.name for t in metadata.outputs if t.shape[_TIME : _TIME + 1] == (None,)}
    return {
        name: np.concatenate([a[name] for a in answers], axis=_TIME) if name in timed else last
        for name, last in answers[-1].items()
    }


def _apart(metadata: Metadata, stream: Stream, x: Arrays, late: int) -> Samples:
    """The answers of a stream to which the last row, of id ``late``, comes some steps after the others."""

    def push(rows: slice, start: int, stop: int, ids: Sequence[int] | None = None) -> Samples:
        return _pushed(metadata, stream, {name: a[rows, start:stop] for name, a in x.items()}, ids)

    steps = next(iter(x.values())).shape[1]
    answers = [push(slice(0, -1), 0, _LEAD)]
    of_late = []
    stream.add(late)
    for start in range(_LEAD, steps):
        both = {
            name: np.concatenate([a[:-1, start : start + 1], a[-1:, start - _LEAD : start - _LEAD + 1]])
            for name, a in x.items()
        }
        together = _pushed(metadata, stream, both)
        answers.append({name: y[:, :-1] for name, y in together.items()})
        of_late.append({name: y[:, -1:] for name, y in together.items()})
    of_late.append(push(slice(-1, None), steps - _LEAD, steps, [late]))
    others, last = _joined(metadata, answers), _joined(metadata, of_late)
    return {name: np.concatenate([y, last[name]], axis=1) for name, y in others.items()}
