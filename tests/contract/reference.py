"""The contract's rule in stock Keras and nothing else: what every artifact has to equal.

No code of the exporter is used here. Generators are found by watching one eager pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import keras
import numpy as np
from numpy.typing import NDArray

ATOL, RTOL = 1e-5, 1e-4
"""Masks are bit-identical; the arithmetic around them is float32 in another order of summation, which costs some
1e-7 a step of a recurrence. A wrong mask element moves an output by 1e-2 and more."""

Arrays = list[NDArray[np.generic]]


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
    with _frozen_normalization(model):
        found = generators(model, inputs if window is None else window)
        counts = [draws for _, draws in found]
        per_row = []
        for b, r in enumerate(rows):
            for i, (generator, _) in enumerate(found):
                generator.state.assign([seed, _int64(r * sum(counts) + sum(counts[:i]))])
            per_row.append(_forward(model, [np.repeat(x[b : b + 1], count, axis=0) for x in inputs]))
    return [np.stack(outputs, axis=1) for outputs in zip(*per_row, strict=True)]


def assert_samples_equal(got: NDArray | dict[str, NDArray], expected: Arrays) -> None:
    """Fail unless an artifact's samples are the reference's."""
    got = list(got.values()) if isinstance(got, dict) else [got]
    assert len(got) == len(expected)
    for have, want in zip(got, expected, strict=True):
        assert have.shape == want.shape
        np.testing.assert_allclose(have, want, rtol=RTOL, atol=ATOL)


def _forward(model: keras.Model, inputs: Arrays) -> Arrays:
    structure = getattr(model, "_inputs_struct", None)  # a dict, a list of lists, ...: as the model was made
    packed = inputs[0] if structure is None else keras.tree.pack_sequence_as(structure, inputs)
    return [np.asarray(y) for y in keras.tree.flatten(model(packed, training=True))]


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
