"""Choices: the dropouts that are compared, each a rate at one of the places or at all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keepdrop_exporter.errors import ExportError
from keepdrop_exporter.plan import keras_graphs, keras_hooks
from keepdrop_exporter.retrofit import places, with_dropout

RATES = (0.05, 0.1, 0.2)
HEAD = "head"

Dropout = dict[str, float]


def choices(model: keras.Model, rates: Sequence[float], where: Sequence[str] | None) -> dict[str, Dropout]:
    """Rates by place, by the name of the choice: each rate at each place of `where`, and at all of them.

    Without `where` the places are, as far as the model has them: the inputs of its recurrent layers, their recurrences,
    the dropout that it has, and its head.

    Raises
    ------
    RetrofitError
        A place is none of the model's, or it cannot take a rate.
    ExportError
        A rate is not between 0 and 1, or there is none.
    """
    if not rates or not all(isinstance(rate, (int, float)) and 0 < rate < 1 for rate in rates):
        raise ExportError(f"rates={list(rates)}: give one or more numbers between 0 and 1; none is tried anyway")
    if where is not None and not where:
        raise ExportError("where=[]: name one place or more, such as lstm.recurrent, or leave it out")
    groups = _groups(model) if where is None else [_resolved(model, name) for name in where]
    groups = [list(group) for group in dict.fromkeys(map(tuple, groups))]
    if len(groups) > 1:
        groups.append(list(dict.fromkeys(name for group in groups for name in group)))
    found = [dict.fromkeys(group, float(rate)) for group in groups for rate in dict.fromkeys(rates)]
    for group in groups:
        with_dropout(model, dict.fromkeys(group, float(rates[0])))  # whose errors come before the first export
    return {" ".join(f"{place}={rate:g}" for place, rate in choice.items()): choice for choice in found}


def _resolved(model: keras.Model, name: str) -> list[str]:
    """The places that a name means: itself, the input of a layer without a rate, or of the layers of the outputs."""
    known = places(model)
    if name in known:
        return [name]
    if f"{name}.input" in known and f"{name}.recurrent" not in known:
        return [f"{name}.input"]
    return _heads(model) if name == HEAD else [name]


def _groups(model: keras.Model) -> list[list[str]]:
    known = places(model)
    recurrent = [name for name in known if name.endswith(".recurrent")]
    inputs = [name for name in known if name.removesuffix(".input") + ".recurrent" in known and name not in recurrent]
    own = [name for name, rate in known.items() if rate is not None and name not in (*recurrent, *inputs)]
    head = [name for name in _heads(model) if name in known and name not in (*inputs, *own)]
    found = [group for group in (inputs, recurrent, own, head) if group]
    if not found:
        raise ExportError(
            f"model {model.name!r} has no recurrent layer, no dropout and no layer before its outputs that takes one; "
            f"say where: where= with one or more of {', '.join(known) or 'no place'}"
        )
    return found


def _heads(model: keras.Model) -> list[str]:
    """The inputs of the layers with weights that make the outputs."""
    paths = keras_hooks.layer_paths(model)
    layers = [_head(tensor) for tensor in model.outputs]
    return list(dict.fromkeys(f"{paths[id(layer)]}.input" for layer in layers if id(layer) in paths))


def _head(tensor: Any) -> Any:
    operation, sources, position = keras_graphs.origin(tensor)
    if (graph := keras_graphs.layer_graph(operation)) is not None:
        return _head(keras.tree.flatten(graph.outputs)[position])
    if getattr(operation, "weights", ()) or len(sources) != 1:
        return operation
    return _head(sources[0])
