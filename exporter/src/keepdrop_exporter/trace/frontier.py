"""What comes before the first draw runs once a row, not once a sample.

A functional or sequential model is walked node by node. A tensor is at *row level* ([B, ...]) as long as nothing
random has gone into it, and at *sample level* ([N, ...], N = B * T) from then on. A layer that draws, or that
joins both levels, gets its row-level tensors repeated; every other layer runs where its inputs are. Models of
other kinds run at sample level as a whole.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import keras
import tensorflow as tf

from keepdrop_exporter.plan import keras_graphs, keras_hooks
from keepdrop_exporter.plan.draws import Plan

from .call import Call


class Frontier:
    """Runs a model with each part at its level.

    Parameters
    ----------
    plan
        Tells which layers draw.
    call
        Tells how often a row is repeated.
    per_sample
        The inputs that are at sample level from the beginning.
    """

    def __init__(self, plan: Plan, call: Call, per_sample: Collection[str] = ()) -> None:
        self._per_sample = per_sample
        self._call = call
        self._plan = plan
        self._drawing = {id(generator) for generator in plan.generators}
        self._at_rows: dict[Any, tf.Tensor] = {}
        self._repeated: dict[Any, tf.Tensor] = {}
        self._origins: dict[Any, tf.Tensor] = {}

    def run(self, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The model's outputs at sample level, [N, ...] each, from its inputs at their levels."""
        at_rows = [t.name not in self._per_sample for t in self._plan.inputs]
        if keras_graphs.layer_graph(self._plan.model) is None or not self._plan.batch_first:
            return self._plan.call(
                [self._call.repeat(x) if rows else x for x, rows in zip(inputs, at_rows, strict=True)]
            )
        for x, rows in zip(inputs, at_rows, strict=True):
            if rows:
                self._at_rows[x.ref()] = x
        with keras_graphs.replaced_operations(self._apply):
            outputs = self._plan.call(inputs)
        return [self._repeat(y) for y in outputs]

    def row_origin(self, x: tf.Tensor) -> tf.Tensor | None:
        """The row-level tensor [B, ...] that ``x`` repeats, if it does nothing else."""
        return self._origins.get(x.ref()) if tf.is_tensor(x) else None

    def at_rows(self, x: tf.Tensor) -> bool:
        """Whether nothing random has gone into ``x``: it is [B, ...]."""
        return x.ref() in self._at_rows

    def _apply(self, operation: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """One operation of a graph, which ``call`` runs as Keras would."""
        tensors = [x for x in keras.tree.flatten((args, kwargs)) if tf.is_tensor(x)]
        if not self._draws(operation):
            if tensors and all(x.ref() in self._at_rows for x in tensors):
                outputs = call(*args, **kwargs)
                for y in keras.tree.flatten(outputs):
                    self._at_rows[y.ref()] = y
                return outputs
        elif self._keeps_levels(operation, args, kwargs):
            return call(*args, **kwargs)
        args, kwargs = keras.tree.map_structure(self._repeat, (args, kwargs))
        return call(*args, **kwargs)

    def _keeps_levels(self, operation: Any, args: Any, kwargs: Any) -> bool:
        """Whether this is a model with a graph of its own, whose inputs come to it as the tensors they are."""
        graph = keras_graphs.layer_graph(operation)
        if graph is None or len(args) != 1 or any(tf.is_tensor(x) for x in keras.tree.flatten(kwargs)):
            return False
        given = keras.tree.flatten(args[0])
        return len(given) == len(graph.inputs) and all(
            tf.is_tensor(x) and x.dtype == want.dtype and x.shape.rank == len(want.shape)
            for x, want in zip(given, graph.inputs, strict=True)
        )

    def _draws(self, operation: Any) -> bool:
        return isinstance(operation, keras.Layer) and any(
            id(g) in self._drawing for g in keras_hooks.generators(operation)
        )

    def _repeat(self, x: Any) -> Any:
        if not tf.is_tensor(x) or x.ref() not in self._at_rows:
            return x
        if x.ref() not in self._repeated:
            y = self._repeated[x.ref()] = self._call.repeat(x)
            self._origins[y.ref()] = x
            mask = keras_hooks.get_mask(x)
            if mask is not None:
                keras_hooks.set_mask(y, self._call.repeat(mask))
        return self._repeated[x.ref()]
