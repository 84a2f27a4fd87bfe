"""The contract's rule in stock Keras and nothing else: what every artifact has to equal.

No code of the exporter is used here. Generators are found by watching one pass. The passes are one ``tf.function``
where that is quicker than running Keras' code step by step: the same code, traced.
"""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

ATOL, RTOL = 1e-5, 1e-4
"""Masks are bit-identical; the arithmetic around them is float32 in another order of summation, which costs some
1e-7 a step of a recurrence. A wrong mask element moves an output by 1e-2 and more."""

Arrays = list[NDArray[np.generic]]
Generators = list[tuple[keras.random.SeedGenerator, int]]

# Tracing a recurrent layer takes as long as some 20 of its steps do eagerly.
STEPS_WORTH_TRACING = 20


def generators(model: keras.Model, inputs: Arrays) -> Generators:
    """The generators of one forward pass in the order of their first draw, each with how often it draws."""
    with _watched() as found:
        _forward(model, inputs)
    return _counted(found)


def samples(
    model: keras.Model, inputs: Arrays, rows: list[int], count: int, seed: int, window: Arrays | None = None
) -> Arrays:
    """Each output as [T, B, ...]; ``inputs`` in the order of ``model.inputs``, each [B, ...].

    Generators are found on ``window`` where the model's draws depend on the length of what it is given.
    """
    of_model = _reference(model)
    with _frozen_normalization(model), _without_masks(model), _as_traced():
        forward, found = of_model.forward(inputs, count, len(rows))
        if window is not None:
            found = of_model.generators(window)
        counts = [draws for _, draws in found]
        per_row = []
        for b, r in enumerate(rows):
            for i, (generator, _) in enumerate(found):
                generator.state.assign([seed, _int64(r * sum(counts) + sum(counts[:i]))])
            per_row.append([np.asarray(y) for y in forward([np.repeat(x[b : b + 1], count, axis=0) for x in inputs])])
    return [np.stack(outputs, axis=1) for outputs in zip(*per_row, strict=True)]


class _Reference:
    """What is known of a model after it was run once, by its inputs' shapes: its generators, and its call traced."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._generators: dict[object, Generators] = {}
        self._steps: Counter[object] = Counter()
        self._traced: dict[object, tuple[Callable[[Arrays], list[tf.Tensor]], Generators]] = {}

    def generators(self, inputs: Arrays) -> Generators:
        shapes = tuple(x.shape[1:] for x in inputs)
        if shapes not in self._generators:
            self._generators[shapes] = generators(self._model, [x[:1] for x in inputs])
        return self._generators[shapes]

    def forward(self, inputs: Arrays, count: int, rows: int) -> tuple[Callable[[Arrays], list[tf.Tensor]], Generators]:
        """The model's call on so many samples of a row, traced once that pays, and the generators that draw in it."""
        specs = tuple(tf.TensorSpec((count, *x.shape[1:]), x.dtype) for x in inputs)
        self._steps[specs] += rows * max((x.shape[1] for x in inputs if x.ndim > 1), default=1)
        if self._steps[specs] <= STEPS_WORTH_TRACING:
            return functools.partial(_forward, self._model), self.generators(inputs)
        if specs not in self._traced:
            with _watched() as found:
                call = tf.function(lambda *given: _forward(self._model, given), autograph=False)
                concrete = call.get_concrete_function(*specs)
            self._traced[specs] = lambda given: concrete(*map(tf.constant, given)), _counted(found)
        return self._traced[specs]


@contextlib.contextmanager
def _watched() -> Iterator[list[keras.random.SeedGenerator]]:
    """A list of the generators that draw while the context is open, one after the other."""
    drawn: list[keras.random.SeedGenerator] = []
    advance = keras.random.SeedGenerator.next

    def watch(self: keras.random.SeedGenerator, *args: object, **kwargs: object) -> object:
        drawn.append(self)
        return advance(self, *args, **kwargs)

    with mock.patch.object(keras.random.SeedGenerator, "next", watch):
        yield drawn


def _counted(drawn: list[keras.random.SeedGenerator]) -> Generators:
    return [(g, drawn.count(g)) for g in dict.fromkeys(drawn)]


@contextlib.contextmanager
def _as_traced() -> Iterator[None]:
    """Run traced calls as they are: to optimise one takes as long as to run it a hundred times."""
    kept = tf.config.optimizer.get_experimental_options()
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False, **kept})


# A few, so that models are let go again; tests use one after another.
_reference = functools.lru_cache(maxsize=8)(_Reference)


def assert_samples_equal(got: NDArray | dict[str, NDArray], expected: Arrays) -> None:
    """Fail unless an artifact's samples are the reference's."""
    got = list(got.values()) if isinstance(got, dict) else [got]
    assert len(got) == len(expected)
    for have, want in zip(got, expected, strict=True):
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=RTOL, atol=ATOL)


def _forward(model: keras.Model, inputs: Sequence[Any]) -> list[tf.Tensor]:
    structure = getattr(model, "_inputs_struct", None)  # a dict, a list of lists, ...: as the model was made
    packed = inputs[0] if structure is None else keras.tree.pack_sequence_as(structure, list(inputs))
    return list(keras.tree.flatten(model(packed, training=True)))


@contextlib.contextmanager
def _without_masks(model: keras.Model) -> Iterator[None]:
    """Begin and end without dropout masks in cells, where a call that failed has left its own (Keras 3.15)."""
    cells = [layer for layer in model._flatten_layers() if hasattr(layer, "reset_recurrent_dropout_mask")]
    try:
        _reset(cells)
        yield
    finally:
        _reset(cells)


def _reset(cells: Iterable[Any]) -> None:
    for cell in cells:
        cell.reset_dropout_mask()
        cell.reset_recurrent_dropout_mask()


@contextlib.contextmanager
def _frozen_normalization(model: keras.Model) -> Iterator[None]:
    norms = [layer for layer in model._flatten_layers() if isinstance(layer, keras.layers.BatchNormalization)]
    flags = [layer.trainable for layer in norms]
    try:
        for layer in norms:
            layer.trainable = False
        yield
    finally:
        for layer, flag in zip(norms, flags, strict=True):
            layer.trainable = flag


def _int64(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63
