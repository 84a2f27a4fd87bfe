"""What comes before the first draw runs once a row, not once a sample.

A functional or sequential model is walked node by node. A tensor is at *row level* ([B, ...]) as long as nothing
random has gone into it, and at *sample level* ([N, ...], N = B * T) from then on. A layer that draws, or that
joins both levels, gets its row-level tensors repeated; every other layer runs where its inputs are. Models of
other kinds run at sample level as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from . import keras_hooks
from .numbers import Call
from .plan import Plan


class Frontier:
    """Runs a model with each part at its level.

    Parameters
    ----------
    plan
        Tells which layers draw.
    call
        Tells how often a row is repeated.
    """

    def __init__(self, plan: Plan, call: Call) -> None:
        self._call = call
        self._plan = plan
        self._drawing = {id(generator) for generator in plan.generators}
        self._at_rows: dict[Any, tf.Tensor] = {}
        self._repeated: dict[Any, tf.Tensor] = {}
        self._origins: dict[Any, tf.Tensor] = {}

    def run(self, inputs: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """The model's outputs at sample level, [N, ...] each, from its inputs at row level, [B, ...] each."""
        graph = keras_hooks.layer_graph(self._plan.model)
        if graph is None:
            return self._plan.call([self._call.repeat(x) for x in inputs])
        for x in inputs:
            self._at_rows[x.ref()] = x
        outputs = self._walk(graph, list(inputs))
        return [self._repeat(y) for y in keras.tree.flatten(outputs)]

    def row_origin(self, x: tf.Tensor) -> tf.Tensor | None:
        """The row-level tensor [B, ...] that ``x`` repeats, if it does nothing else."""
        return self._origins.get(x.ref()) if tf.is_tensor(x) else None

    def _walk(self, graph: Any, inputs: list[tf.Tensor]) -> Any:
        converted = keras_hooks.standard_inputs(graph, inputs)
        for x, y in zip(inputs, converted, strict=True):
            if x.ref() in self._at_rows:
                self._at_rows[y.ref()] = y
        return keras_hooks.run_graph(graph, converted, self._apply)

    def _apply(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        if not self._draws(operation):
            tensors = [x for x in keras.tree.flatten((args, kwargs)) if tf.is_tensor(x)]
            if tensors and all(x.ref() in self._at_rows for x in tensors):
                outputs = operation(*args, **kwargs)
                for y in keras.tree.flatten(outputs):
                    self._at_rows[y.ref()] = y
                return outputs
        elif (
            (graph := keras_hooks.layer_graph(operation)) is not None
            and len(args) == 1
            and kwargs.keys() <= {"training", "mask"}
        ):
            return self._walk(graph, keras.tree.flatten(args[0]))
        args, kwargs = keras.tree.map_structure(self._repeat, (args, kwargs))
        return operation(*args, **kwargs)

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
                repeated_mask = self._call.repeat(mask)
                self._origins[repeated_mask.ref()] = mask
                keras_hooks.set_mask(y, repeated_mask)
        return self._repeated[x.ref()]
