"""The contract's rule in stock Keras and nothing else: what every artifact has to equal.

No code of the exporter is used here. Generators are found by watching one eager pass. The passes are one
``tf.function`` where that is quicker than running Keras' code step by step: the same code, traced.
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


# Tracing a recurrent layer takes as long as some 30 of its steps do eagerly.
STEPS_WORTH_TRACING = 30


def generators(model: keras.Model, inputs: Arrays) -> list[tuple[keras.random.SeedGenerator, int]]:
    """The generators of one forward pass in the order of their first draw, each with how often it draws."""
    drawn: list[keras.random.SeedGenerator] = []
    advance = keras.random.SeedGenerator.next

    def watch(self: keras.random.SeedGenerator, *args: object, **kwargs: object) -> object:
        drawn.append(self)
        return advance(self, *args, **kwargs)

    with mock.patch.object(keras.random.SeedGenerator, "next", watch):
        _forward(model, inputs)
    return [(g, drawn.count(g)) for g in dict.fromkeys(drawn)]


def samples(
    model: keras.Model, inputs: Arrays, rows: list[int], count: int, seed: int, window: Arrays | None = None
) -> Arrays:
    """Each output as [T, B, ...]; ``inputs`` in the order of ``model.inputs``, each [B, ...].

    Generators are found on ``window`` where the model's draws depend on the length of what it is given.
    """
    of_model = _reference(model)
    with _frozen_normalization(model), _without_masks(model):
        found = of_model.generators(inputs if window is None else window)
        counts = [draws for _, draws in found]
        per_row = []
        forward = of_model.forward(inputs, len(rows))
        for b, r in enumerate(rows):
            for i, (generator, _) in enumerate(found):
                generator.state.assign([seed, _int64(r * sum(counts) + sum(counts[:i]))])
            per_row.append([np.asarray(y) for y in forward([np.repeat(x[b : b + 1], count, axis=0) for x in inputs])])
    return [np.stack(outputs, axis=1) for outputs in zip(*per_row, strict=True)]


class _Reference:
    """What is known of a model after it was run once: its generators, and its call traced, by the inputs' shapes."""

    def __init__(self, model: keras.Model) -> None:
        self._model = model
        self._generators: dict[object, list[tuple[keras.random.SeedGenerator, int]]] = {}
        self._steps: Counter[object] = Counter()
        self._traced = tf.function(functools.partial(_forward, model), autograph=False)

    def generators(self, inputs: Arrays) -> list[tuple[keras.random.SeedGenerator, int]]:
        shapes = tuple(x.shape[1:] for x in inputs)
        if shapes not in self._generators:
            self._generators[shapes] = generators(self._model, [x[:1] for x in inputs])
        return self._generators[shapes]

    def forward(self, inputs: Arrays, rows: int) -> Callable[[Arrays], list[tf.Tensor]]:
        """The model's call, traced once it has been asked for often enough."""
        shapes = tuple(x.shape[1:] for x in inputs)
        self._steps[shapes] += rows * max((x.shape[1] for x in inputs if x.ndim > 1), default=1)
        traced = self._steps[shapes] > STEPS_WORTH_TRACING
        return self._traced if traced else functools.partial(_forward, self._model)


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
