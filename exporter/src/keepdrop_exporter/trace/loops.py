"""Which time loops are lowered, and how TensorFlow runs a lowered one.

A lowered time loop stands in the traced graph as one call of a function whose body is Keras' own loop, so that
TensorFlow computes it as Keras does. The conversion to ONNX replaces that call by the operators of
``onnx_recurrence``, which are written for speed; ``verify`` holds them against Keras.

The function's inputs and outputs are time-major with two batch axes ``[P, Q]``: rows and samples, [B, T], where
the sequence is the same for all samples of a row, and [N, 1] elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from keepdrop_exporter.loading.keras2.activations import keras2_hard_sigmoid
from keepdrop_exporter.plan import keras_hooks

from . import axes
from .recurrence import PREFIX, Recurrence

# Keras' activations that ONNX has an operator for, or a composition of few.
_ACTIVATIONS = {
    getattr(keras.activations, name): name
    for name in (
        "tanh",
        "sigmoid",
        "relu",
        "linear",
        "hard_sigmoid",
        "softsign",
        "softplus",
        "elu",
        "exponential",
        "silu",
    )
} | {keras2_hard_sigmoid: "keras2_hard_sigmoid"}


@dataclass(frozen=True)
class Masks:
    """Where the loop's dropout masks and row-level sequences are found.

    ``keep`` gives the keep mask, float32 [B, T, K], that a tensor was made with; ``row_origin`` the row-level
    tensor [B, ...] that a tensor repeats; both None where there is none.
    """

    keep: Callable[[tf.Tensor], tf.Tensor | None]
    row_origin: Callable[[tf.Tensor], tf.Tensor | None]


class Carrying(Protocol):
    """How a stream's loops go on where they ended, and which loops those are."""

    def is_sequence(self, x: tf.Tensor) -> bool:
        """Whether ``x`` is part of the stream."""

    def states(self, sizes: Sequence[int], sequences: tf.Tensor) -> list[tf.Tensor]:
        """The states of these sizes to start from, [B, T, size] each, or [B, size] where ``sequences`` is [B, ...]."""

    def give(self, values: Sequence[tf.Tensor]) -> None:
        """Be told these states after the loop, [N, size] or [B, size] each."""

    def hold(self, made: tf.Tensor) -> tf.Tensor:
        """A mask [B, T, K] as it was made for the stream's first chunk."""


class Recurrences:
    """Lowers the time loops of one trace, and lists what it lowered.

    Parameters
    ----------
    masks
        Where masks and row-level sequences are found.
    num_samples
        T, int64 [].
    carrying
        In a stream, where loops start and what becomes of their ends.
    whole
        Whether a lowered loop runs in TensorFlow too. The conversion to ONNX cuts its body out unread, and to trace and
        freeze that takes long.
    """

    def __init__(
        self, masks: Masks, num_samples: tf.Tensor, carrying: Carrying | None = None, whole: bool = True
    ) -> None:
        self.lowered: list[Recurrence] = []
        self._masks = masks
        self._num_samples = num_samples
        self._carrying = carrying
        self._whole = whole
        self._graph = tf.compat.v1.get_default_graph()

    def inner_loop(
        self,
        original: Any,
        layer: keras.layers.RNN,
        sequences: tf.Tensor,
        initial_state: Any,
        mask: Any,
        training: bool = False,
    ) -> Any:
        """Stand in for ``RNN.inner_loop`` of Keras: the same arguments, the same result."""
        mask = keras.tree.flatten(mask)[0] if mask is not None else None
        carried = self._carrying is not None and self._carrying.is_sequence(sequences)
        keeps = self._keeps(layer.cell)
        lowerable = (
            # The body of a lowered loop and of other control flow is left alone.
            tf.compat.v1.get_default_graph() is self._graph
            # Keras' own call uses the states of the loop only where it returns them.
            and keras_hooks.is_stock_loop(layer)
            and all(keep is not None for keep in keeps)
            and (training or not keeps)
            and all(_is_zero(state) for state in keras.tree.flatten(initial_state))
            and layer.cell.activation in _ACTIVATIONS
            and getattr(layer.cell, "recurrent_activation", keras.activations.linear) in _ACTIVATIONS
            # Unrolled, Keras zeros masked steps in the order of time even where the outputs are in the reverse one.
            and not (mask is not None and layer.unroll and layer.go_backwards and layer.zero_output_for_mask)
        )
        if lowerable:
            return self._lower(original, layer, sequences, mask, [keep for keep in keeps if keep is not None], carried)
        if carried:
            return self._carry(original, layer, sequences, initial_state, training)
        return original(layer, sequences, initial_state, mask, training)

    def _carry(
        self, original: Any, layer: keras.layers.RNN, sequences: tf.Tensor, initial_state: Any, training: bool
    ) -> Any:
        """Keras' own loop, from a stream's states and under its masks."""
        assert self._carrying is not None
        for cell in getattr(layer.cell, "cells", [layer.cell]):
            for name, rate in (("_dropout_mask", "dropout"), ("_recurrent_dropout_mask", "recurrent_dropout")):
                if cached := _listed(cell, name):
                    scale = np.float32(1 / (1 - getattr(cell, rate)))
                    held = [axes.merge(self._carrying.hold(self._masks.keep(mask))) * scale for mask in cached]
                    setattr(cell, name, _as_cached(held, getattr(cell, "dropout_mask_count", None)))
        sizes = [int(state.shape[-1]) for state in keras.tree.flatten(initial_state)]
        given = [
            state if state.shape.rank == 2 else axes.merge(state) for state in self._carrying.states(sizes, sequences)
        ]
        start = keras.tree.pack_sequence_as(initial_state, given)
        last, outputs, states = original(layer, sequences, start, None, training)
        self._carrying.give(keras.tree.flatten(states))
        return last, outputs, states

    def _keeps(self, cell: Any) -> list[tf.Tensor | None]:
        return [
            self._masks.keep(mask)
            for mask in (*_listed(cell, "_dropout_mask"), *_listed(cell, "_recurrent_dropout_mask"))
        ]

    def _lower(
        self,
        original: Any,
        layer: keras.layers.RNN,
        sequences: tf.Tensor,
        mask: tf.Tensor | None,
        keeps: list[tf.Tensor],
        carried: bool,
    ) -> Any:
        cell = layer.cell
        origin = self._masks.row_origin(sequences)
        shared = bool(keeps) and origin is not None
        recurrence = _describe(f"{PREFIX}{len(self.lowered)}_", layer, shared, mask is not None)
        if carried:
            assert self._carrying is not None
            # Where samples share a sequence without masks of its own, its products are no part of the step.
            joined = recurrence.recurrent_masks > 0 and not (shared and recurrence.input_masks == 0)
            recurrence = replace(recurrence, carried=True, states=True, joined=joined)
            keeps = [self._carrying.hold(keep) for keep in (joined_masks(recurrence, keeps) if joined else keeps)]
        self.lowered.append(recurrence)
        x = origin if shared and origin is not None else sequences
        tensors = [tf.expand_dims(tf.transpose(x, [1, 0, 2]), 2)]  # [L, P, 1, F]
        tensors += keeps if shared else [tf.expand_dims(axes.merge(keep), 1) for keep in keeps]  # [P, Q, K]
        if mask is not None:
            steps = tf.transpose(mask)
            rows = tf.shape(x, out_type=tf.int64)[0] if shared else -1
            samples = self._num_samples if shared else 1
            tensors.append(
                axes.reshape(steps, [tf.shape(steps, out_type=tf.int64)[0], rows, samples, 1])
            )  # [L, P, Q, 1]
        if carried:
            assert self._carrying is not None
            for state in self._carrying.states([recurrence.units] * recurrence.state_count, sequences):
                by_pass = state if shared or state.shape.rank == 2 else axes.merge(state)
                tensors.append(by_pass if shared else tf.expand_dims(by_pass, 1))  # [P, Q, H]

        def keras_loop(*given: tf.Tensor) -> list[tf.Tensor]:
            return (
                _run_keras(original, layer, recurrence, given) if self._whole else _empty(recurrence, given[0].shape[0])
            )

        keras_loop.__name__ = recurrence.name
        body = tf.function(keras_loop, autograph=False, experimental_attributes={"_noinline": True})
        results = []
        for y, shape in zip(body(*tensors), recurrence.result_shapes, strict=True):
            y.set_shape(shape)
            results.append(_without_q(y))
        output = tf.transpose(results[0], [1, 0, 2]) if recurrence.sequences else results[0]
        output.set_shape([None, *([sequences.shape[1]] if recurrence.sequences else []), recurrence.units])
        if carried:
            assert self._carrying is not None
            self._carrying.give(results[1:])
        states = results[1:] if recurrence.states else [output] * len(keras.tree.flatten(cell.state_size))
        return output, output, states


def joined_masks(recurrence: Recurrence, keeps: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The masks of a step as it multiplies by them, so that a stream joins them once.

    Parameters
    ----------
    keeps
        The input masks [..., F] and then the recurrent masks [..., H], one for each gate or one for all.

    Returns
    -------
    list
        For each gate its recurrent mask, its input mask and a one side by side, [..., H + F + 1]. A GRU's last gate has
        its recurrent mask [..., H] apart from its input mask and one [..., F + 1], which is there if there are any.
    """
    inputs, recurrent = _split(keeps, recurrence.input_masks)
    one = tf.ones_like(recurrent[0][..., :1])
    free = tf.repeat(one, recurrence.features, axis=-1)

    def beside(gate: int) -> list[tf.Tensor]:
        return [inputs[gate % len(inputs)] if inputs else free, one]

    whole = range(2 if recurrence.cell == "GRU" else recurrence.gates)
    joined = [tf.concat([recurrent[g % len(recurrent)], *beside(g)], -1) for g in whole]
    if recurrence.cell == "GRU":
        joined += [recurrent[2 % len(recurrent)], *([tf.concat(beside(2), -1)] if inputs else [])]
    return joined


def _parted(recurrence: Recurrence, joined: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    """The masks that ``joined_masks`` joined."""
    units, features = recurrence.units, recurrence.features
    whole, last = _split(joined, 2 if recurrence.cell == "GRU" else recurrence.gates)
    recurrent = [mask[..., :units] for mask in whole] + list(last[:1])
    inputs = [mask[..., units:-1] for mask in whole] + [mask[..., :features] for mask in last[1:]]
    return inputs[: recurrence.input_masks] + recurrent[: recurrence.recurrent_masks]


def _run_keras(
    original: Any, layer: keras.layers.RNN, recurrence: Recurrence, given: tuple[tf.Tensor, ...]
) -> list[tf.Tensor]:
    """The body of a lowered loop in TensorFlow: Keras' own inner loop on [N, L, F]."""
    cell = layer.cell
    x, *rest = given
    keeps, rest = _split(rest, recurrence.mask_count)
    keeps = _parted(recurrence, keeps) if recurrence.joined else keeps
    (steps,), start = _split(rest, 1) if recurrence.masked else ([None], rest)
    lead = tf.shape(keeps[0] if keeps else x[0])[:2]  # P, Q
    wide = tf.broadcast_to(x, tf.concat([tf.shape(x)[:1], lead, tf.shape(x)[3:]], 0))
    wide.set_shape([None, None, None, recurrence.features])
    sequences = tf.transpose(_without_q(wide), [1, 0, 2])  # [N, L, F]
    scales = [recurrence.input_scale] * recurrence.input_masks + [
        recurrence.recurrent_scale
    ] * recurrence.recurrent_masks
    masks = [_without_q(keep) * np.float32(scale) for keep, scale in zip(keeps, scales, strict=True)]
    count = getattr(cell, "dropout_mask_count", None)
    mask = None if steps is None else tf.transpose(_without_q(steps)[..., 0])  # [N, L]
    initial = layer.get_initial_state(tf.shape(sequences)[0])
    if recurrence.carried:
        initial = keras.tree.pack_sequence_as(initial, [_without_q(state) for state in start])
    cached = (_as_cached(part, count) for part in _split(masks, recurrence.input_masks))
    with keras_hooks.cached_masks(cell, *cached):
        last, outputs, states = original(layer, sequences, initial, mask, True)
    result = tf.transpose(outputs, [1, 0, 2]) if recurrence.sequences else last
    unflat = [
        tf.reshape(y, tf.concat([tf.shape(y)[:-2], lead, [recurrence.units]], 0))
        for y in (result, *keras.tree.flatten(states))
    ]
    return unflat if recurrence.states else unflat[:1]


def _empty(recurrence: Recurrence, steps: int | None) -> list[tf.Tensor]:
    """Results of a lowered loop's shapes, as far as these are known, for a function that is never run."""
    shapes = [[steps, *s[1:]] if len(s) > 3 else s for s in recurrence.result_shapes]
    return [tf.compat.v1.placeholder_with_default(tf.zeros([n or 0 for n in s]), s) for s in shapes]


def _describe(name: str, layer: keras.layers.RNN, shared: bool, masked: bool) -> Recurrence:
    cell = layer.cell
    kind = keras_hooks.STOCK_CELLS[type(cell)]
    with tf.init_scope():
        kernel, recurrent_kernel = cell.kernel.numpy(), cell.recurrent_kernel.numpy()
        bias = cell.bias.numpy() if cell.use_bias else np.zeros(kernel.shape[1], np.float32)
    recurrent_bias = None
    if kind == "GRU" and cell.reset_after:
        bias, recurrent_bias = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
    return Recurrence(
        name=name,
        cell=kind,
        activation=_ACTIVATIONS[cell.activation],
        recurrent_activation=_ACTIVATIONS[getattr(cell, "recurrent_activation", keras.activations.linear)],
        kernel=kernel,
        recurrent_kernel=recurrent_kernel,
        bias=bias,
        recurrent_bias=recurrent_bias,
        reset_after=bool(getattr(cell, "reset_after", False)),
        input_masks=len(_listed(cell, "_dropout_mask")),
        recurrent_masks=len(_listed(cell, "_recurrent_dropout_mask")),
        input_scale=1 / (1 - cell.dropout) if cell.dropout < 1 else 1.0,
        recurrent_scale=1 / (1 - cell.recurrent_dropout) if cell.recurrent_dropout < 1 else 1.0,
        shared=shared,
        masked=masked,
        zero_output_for_mask=bool(layer.zero_output_for_mask),
        backward=bool(layer.go_backwards),
        sequences=bool(layer.return_sequences),
        states=bool(layer.return_state),
    )


def _split(tensors: Sequence[tf.Tensor], count: int) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
    return list(tensors[:count]), list(tensors[count:])


def _listed(cell: Any, name: str) -> list[tf.Tensor]:
    """A cell's cached masks as a list: Keras caches none, one, or a list of one for each gate."""
    cached = getattr(cell, name, None)
    return [] if cached is None else list(cached) if isinstance(cached, (list, tuple)) else [cached]


def _as_cached(masks: list[tf.Tensor], count: int | None) -> Any:
    if not masks:
        return None
    return masks if count is not None else masks[0]


def _without_q(x: tf.Tensor) -> tf.Tensor:
    """Join the two batch axes: [..., P, Q, K] -> [..., N, K]."""
    return axes.merge(x, x.shape.rank - 3)


def _is_zero(state: tf.Tensor) -> bool:
    value = tf.get_static_value(state.op.inputs[1] if state.op.type == "Fill" else state)
    return value is not None and not np.any(value)
