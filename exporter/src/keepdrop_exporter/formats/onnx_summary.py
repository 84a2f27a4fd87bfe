"""What the samples say, as further outputs of the ONNX graph: for a device whose program should not compute it.

Axes: T samples, B rows, Q quantiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper

from keepdrop.artifact.metadata import (
    MEAN,
    MEAN_LOGVAR,
    NUM_SAMPLES,
    QUANTILES,
    SIGMOID,
    SOFTMAX,
    Head,
    Metadata,
    Tensor,
)
from keepdrop.calibration.record import Calibration, Values
from keepdrop_exporter.errors import ExportError

from . import onnx_graph, onnx_observation
from .onnx_recurrence import Nodes

_Q = "quantiles_count"


_ENTROPIES = ("predictive_entropy", "expected_entropy", "mutual_information")
_VARIANCES = ("aleatoric", "epistemic", "total")


def summary_of(
    outputs: Sequence[Tensor], heads: Sequence[Head], calibration: Calibration | None = None
) -> tuple[Tensor, ...]:
    """The outputs that a summary adds.

    Of each output ``_mean``, ``_std`` (divisor T - 1) and ``_quantiles`` [Q, B, ...], linear between samples as NumPy;
    of class probabilities ``_predictive_entropy``, ``_expected_entropy`` and ``_mutual_information``; of a mean and its
    log-variance ``_aleatoric``, ``_epistemic`` and ``_total``; of what is calibrated where an observation will fall,
    see ``onnx_observation``.
    """
    by_output = {tensor.name: Head(tensor.name) for tensor in outputs} | {head.output: head for head in heads}
    kinds = {name: head.kind for name, head in by_output.items()}
    observed = {} if calibration is None else onnx_observation.observation_of(outputs, by_output, calibration)
    found = []
    for tensor in outputs:
        batch, rest = (None,), tensor.shape[2:]
        shapes: dict[str, tuple[int | None, ...]] = dict.fromkeys(("mean", "std"), (*batch, *rest))
        shapes["quantiles"] = (None, *batch, *rest)
        kind = kinds.get(tensor.name)
        if kind in (SOFTMAX, SIGMOID):
            shapes |= dict.fromkeys(_ENTROPIES, (*batch, *(rest[:-1] if kind == SOFTMAX else rest)))
        if kind in (MEAN, MEAN_LOGVAR):
            half = rest if kind == MEAN else (*rest[:-1], (rest[-1] or 0) // 2)
            shapes |= dict.fromkeys(_VARIANCES, (*batch, *half))
        found += [Tensor(f"{tensor.name}_{part}", "float32", shape) for part, shape in shapes.items()]
        found += [observed[tensor.name]] if tensor.name in observed else []
    return tuple(found)


def known_summary(metadata: Metadata, calibration: Calibration | None = None) -> tuple[Tensor, ...]:
    """``summary_of`` an artifact; ExportError where the model has a tensor of such a name."""
    added = summary_of(metadata.outputs, metadata.heads, calibration)
    carried = metadata.stream.states + metadata.stream.masks if metadata.stream else ()
    own = {tensor.name for tensor in (*metadata.inputs, *metadata.outputs)} | {state.name for state in carried}
    if taken := own & {QUANTILES, *(t.name for t in added)}:
        raise ExportError(f"the model's own {sorted(taken)} bear names of the summary's; rename these layers")
    return added


def add_summary(
    graph: onnx.GraphProto,
    outputs: Sequence[Tensor],
    heads: Sequence[Head],
    calibration: Calibration | None = None,
) -> None:
    """Add what ``summary_of`` names to a graph, and the input ``quantiles``."""
    nodes = Nodes("summary/")
    kinds = {tensor.name: Head(tensor.name) for tensor in outputs} | {head.output: head for head in heads}
    observed = {} if calibration is None else onnx_observation.observation_of(outputs, kinds, calibration)
    results: dict[str, str] = {}
    for tensor in outputs:
        name, head = tensor.name, kinds[tensor.name]
        mean, variance = _moments(nodes, name)
        parts = {"mean": mean, "std": nodes.add("Sqrt", variance)}
        ordered = _ordered(nodes, name)
        parts["quantiles"] = _between(
            nodes, ordered, nodes.add("Cast", QUANTILES, to=TensorProto.DOUBLE), len(tensor.shape) - 2
        )
        if head.kind in (SOFTMAX, SIGMOID):
            parts |= dict(zip(_ENTROPIES, _entropies(nodes, name, mean, head.kind), strict=True))
        if head.kind in (MEAN, MEAN_LOGVAR):
            parts |= dict(zip(_VARIANCES, _variances(nodes, name, variance, head), strict=True))
        results |= {f"{name}_{part}": result for part, result in parts.items()}
        if calibration is not None and name in observed:
            centre = _median(nodes, ordered, tensor, head)
            results[observed[name].name] = _observation(nodes, calibration, name, centre, parts)
    nodes.nodes += [helper.make_node("Identity", [result], [name]) for name, result in results.items()]
    for tensor in summary_of(outputs, heads, calibration):
        leading = [_Q, "batch"] if tensor.name.endswith("_quantiles") else ["batch"]
        rest = [n if n is not None else f"{tensor.name}_{i}" for i, n in enumerate(tensor.shape[len(leading) :])]
        graph.output.append(helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, [*leading, *rest]))
    graph.input.append(helper.make_tensor_value_info(QUANTILES, TensorProto.FLOAT, [_Q]))
    graph.node.extend(nodes.nodes)
    graph.initializer.extend(nodes.constants)


def _moments(nodes: Nodes, y: str) -> tuple[str, str]:
    """Mean and variance over T, of differences from the first sample: a large mean takes no digits from either."""
    axis = nodes.constant(np.array([0]))
    first = nodes.add("Squeeze", nodes.add("Gather", y, axis, axis=0), axis)  # [B, ...]
    apart = nodes.add("Sub", y, first)
    shift = _mean(nodes, apart)
    square = nodes.add("Mul", *[nodes.add("Sub", apart, shift)] * 2)
    others = nodes.add("Sub", _float(nodes, _samples(nodes, [])), nodes.constant(np.float32(1)))
    total = nodes.add("ReduceSum", square, axis, keepdims=0)
    return nodes.add("Add", first, shift), nodes.add("Div", total, others)


class _Ordered(NamedTuple):
    """Samples [T, B, ...] in ascending order, and T as int64 [1]."""

    samples: str
    number: str


def _ordered(nodes: Nodes, y: str) -> _Ordered:
    count = _samples(nodes, [1])
    ordered, _ = nodes.add_many("TopK", [y, count], 2, axis=0, largest=0, sorted=1)
    return _Ordered(ordered, count)


def _between(nodes: Nodes, ordered: _Ordered, asked: str, rest: int) -> str:
    """[Q, B, ...] at the quantiles asked for, float64 [Q]: linear between the two samples that one lies between."""
    one = nodes.constant(np.array([1]))
    last = nodes.add("Sub", ordered.number, one)
    exact = nodes.add("Cast", last, to=TensorProto.DOUBLE)
    position = nodes.add("Mul", asked, exact)
    position = nodes.add("Max", nodes.add("Min", position, exact), nodes.constant(np.float64(0)))  # [Q]
    below = nodes.add("Floor", position)
    lower = nodes.add("Cast", below, to=TensorProto.INT64)
    upper = nodes.add("Min", nodes.add("Add", lower, one), last)
    part = _float(nodes, nodes.add("Sub", position, below))
    wide = nodes.add("Unsqueeze", part, nodes.constant(np.arange(1, rest + 2)))  # [Q, 1, ...]
    low, high = (nodes.add("Gather", ordered.samples, at, axis=0) for at in (lower, upper))
    return nodes.add("Add", low, nodes.add("Mul", nodes.add("Sub", high, low), wide))


def _median(nodes: Nodes, ordered: _Ordered, tensor: Tensor, head: Head) -> str:
    """The centre of an observation, [B, ...]: of a mean and its log-variance in one output, the median of the means."""
    middle = _between(nodes, ordered, nodes.constant(np.array([0.5])), len(tensor.shape) - 2)
    median = nodes.add("Squeeze", middle, nodes.constant(np.array([0])))
    if head.kind != MEAN_LOGVAR:
        return median
    return nodes.add_many("Split", [median], 2, axis=-1, num_outputs=2)[0]


def _observation(nodes: Nodes, calibration: Calibration, name: str, centre: str, parts: dict[str, str]) -> str:
    of = calibration.of(name)
    if isinstance(of, Values):
        variance = parts["total"] if "total" in parts else nodes.add("Mul", parts["std"], parts["std"])
        return onnx_observation.quantiles(nodes, centre, variance, of)
    assert of is not None
    return onnx_observation.probability(nodes, parts["mean"], of)


def _samples(nodes: Nodes, shape: list[int]) -> str:
    """The number of samples, which is given as [] or [1], in this shape."""
    return nodes.add("Reshape", NUM_SAMPLES, nodes.constant(np.array(shape, np.int64)))


def _entropies(nodes: Nodes, y: str, mean: str, kind: str) -> tuple[str, str, str]:
    predictive, expected = _entropy(nodes, mean, kind), _mean(nodes, _entropy(nodes, y, kind))
    gained = nodes.add("Max", nodes.add("Sub", predictive, expected), nodes.constant(np.float32(0)))
    return predictive, expected, gained


def _entropy(nodes: Nodes, p: str, kind: str) -> str:
    """In nats, with 0 log 0 = 0."""
    if kind == SOFTMAX:
        return nodes.add("ReduceSum", _surprise(nodes, p), nodes.constant(np.array([-1])), keepdims=0)
    other = nodes.add("Sub", nodes.constant(np.float32(1)), p)
    return nodes.add("Add", _surprise(nodes, p), _surprise(nodes, other))


def _surprise(nodes: Nodes, p: str) -> str:
    least = nodes.constant(np.finfo(np.float32).tiny)
    return nodes.add("Neg", nodes.add("Mul", p, nodes.add("Log", nodes.add("Max", p, least))))


def _variances(nodes: Nodes, y: str, variance: str, head: Head) -> tuple[str, str, str]:
    if head.kind == MEAN:
        logvar, epistemic = str(head.partner), variance
    else:
        _, logvar = nodes.add_many("Split", [y], 2, axis=-1, num_outputs=2)
        epistemic, _ = nodes.add_many("Split", [variance], 2, axis=-1, num_outputs=2)
    aleatoric = _mean(nodes, nodes.add("Exp", logvar))
    return aleatoric, epistemic, nodes.add("Add", aleatoric, epistemic)


def _mean(nodes: Nodes, x: str) -> str:
    return nodes.add("ReduceMean", x, nodes.constant(np.array([0])), keepdims=0)


def _float(nodes: Nodes, x: str) -> str:
    return nodes.add("Cast", x, to=TensorProto.FLOAT)


def take_out(graph: onnx.GraphProto, summary: Sequence[Tensor]) -> None:
    """Take a summary out of a graph again: its outputs, the input ``quantiles``, and what only they need."""
    names = {tensor.name for tensor in summary}
    kept = [value for value in graph.output if value.name not in names]
    needed = sorted(onnx_graph.needed_for(graph, [value.name for value in kept]))
    before = onnx_graph.read(graph)
    nodes = [graph.node[i] for i in needed]
    del graph.node[:]
    graph.node.extend(nodes)
    given = [value for value in graph.input if value.name != QUANTILES]
    del graph.input[:], graph.output[:]
    graph.input.extend(given)
    graph.output.extend(kept)
    no_longer = before - onnx_graph.read(graph)
    for i in reversed(range(len(graph.initializer))):
        if graph.initializer[i].name in no_longer:
            del graph.initializer[i]
