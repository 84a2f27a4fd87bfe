"""The models that show the rows of the table of layers, exported, with what keepdrop and stock Keras draw from them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import onnx
from numpy.typing import NDArray

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import pipeline

from . import layer_cases, reference
from .layer_cases import CASES, Case

ROWS = [0, 3, 2**33 + 5, 7, 1]
SEED = -3
# The artifact is asked for samples that begin within a block of the generator wherever a draw's size allows it.
SAMPLES, FIRST = 7, 3

# An export has a cost of its own, and tf2onnx' time grows faster than the graph.
_TOGETHER = 6

_KINDS = {"LSTM": "fused", "GRU": "fused", "RNN": "fused", "Scan": "step", "Loop": "Keras"}


@dataclass(frozen=True)
class Drawn:
    """Outputs of a model, in order: ``got`` of the artifact from sample FIRST on, ``expected`` of stock Keras."""

    got: list[NDArray[Any]]
    expected: list[NDArray[Any]]


@dataclass(frozen=True)
class LayerModel:
    """One exported model; ``outputs`` tells which of its outputs are a case's."""

    outputs: dict[str, slice]
    drawn: list[Drawn]
    graph: onnx.GraphProto

    def loops(self, case: Case) -> set[str]:
        """What the time loops that a case's outputs come from became."""
        made_by = {name: node for node in self.graph.node for name in node.output}
        waiting = [value.name for value in self.graph.output[self.outputs[case.name]]]
        seen: set[str] = set()
        kinds = set()
        while waiting:
            node = made_by.get(waiting.pop())
            if node is None or node.output[0] in seen:
                continue
            seen.add(node.output[0])
            kinds |= {_KINDS[node.op_type]} if node.op_type in _KINDS else set()
            waiting += _read_by(node)
        return kinds


def cases_beside(case: Case) -> tuple[Case, ...]:
    """The cases that are exported together with this one, itself included."""
    if case.whole or case.refused:
        return (case,)
    alike = (case.group, case.by_night, False, "")
    group = [c for c in CASES if c.known and (c.group, c.by_night, c.whole, c.refused) == alike]
    begin = group.index(case) // _TOGETHER * _TOGETHER
    return tuple(group[begin : begin + _TOGETHER])


@functools.cache
def layer_model(cases: tuple[Case, ...], made_once: Callable[[str, Callable[[Path], object]], Path]) -> LayerModel:
    """Build, export and draw from the model of these cases."""
    model, counts = layer_cases.build(cases)
    path = made_once(f"layers-{CASES.index(cases[0])}.onnx", lambda path: _export(model, path, cases[0].whole))
    artifact = keepdrop.load(path, threads=1)
    dynamic = any(None in x.shape[1:] for x in model.inputs)
    drawn = [
        _draw(model, artifact, layer_cases.data(model, lengths), SEED + i)
        for i, lengths in enumerate(layer_cases.LENGTHS if dynamic else layer_cases.LENGTHS[:1])
    ]
    ends = np.cumsum(counts)
    outputs = {c.name: slice(int(end - n), int(end)) for c, end, n in zip(cases, ends, counts, strict=True)}
    return LayerModel(outputs, drawn, onnx.load(path).graph)


def _export(model: keras.Model, path: Path, verified: bool) -> None:
    with contextlib.ExitStack() as stack:
        if not verified:
            # The tests compare with Keras themselves; to let the export do it as well would take twice the time.
            stack.enter_context(mock.patch.object(pipeline, "verify_plan", lambda *args, **options: None))
        stack.enter_context(mock.patch.object(pipeline, "measure_cost", lambda *args: None))
        keepdrop_exporter.export(model, path, rows=2, samples=3)


def _draw(model: keras.Model, artifact: keepdrop.Model, inputs: Sequence[NDArray[Any]], seed: int) -> Drawn:
    named = {t.name: x for t, x in zip(artifact.metadata.inputs, inputs, strict=True)}
    got = artifact.sample(named, samples=SAMPLES - FIRST, first_sample=FIRST, seed=seed, rows=ROWS)
    expected = reference.samples(model, list(inputs), ROWS, SAMPLES, seed)
    return Drawn(list(got.values()) if isinstance(got, dict) else [got], [np.asarray(y) for y in expected])


def _read_by(node: onnx.NodeProto) -> list[str]:
    inner = [n for a in node.attribute if a.type == onnx.AttributeProto.GRAPH for n in a.g.node]
    return [*node.input, *(name for n in inner for name in _read_by(n))]
