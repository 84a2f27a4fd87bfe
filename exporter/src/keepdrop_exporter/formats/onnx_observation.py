"""Where an observation will fall, as outputs of the ONNX graph: what ``keepdrop.answer.observation`` says of a call.

The numbers of the calibration stand in the graph; all is computed in float64, as there. Axes: B rows, E elements
of a row, Q quantiles, S kinds of scores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnx import TensorProto

from keepdrop.artifact.metadata import (
    MEAN_LOGVAR,
    OBSERVATION_PROBABILITY,
    OBSERVATION_QUANTILES,
    QUANTILES,
    SOFTMAX,
    Head,
    Tensor,
)
from keepdrop.calibration.classes import LEAST
from keepdrop.calibration.conformal import TAUS
from keepdrop.calibration.record import Calibration, Classes, Values
from keepdrop_exporter.errors import ExportError

from .onnx_recurrence import Nodes

# Quantiles are asked for in float32: 0.975 is 0.97500002 there.
_ROUNDING = 1e-6


def observation_of(outputs: Sequence[Tensor], heads: Mapping[str, Head], calibration: Calibration) -> dict[str, Tensor]:
    """The output that each calibrated output gets beside it, by its name.

    Of values ``_observation_quantiles`` [Q, B, ...], of class probabilities ``_observation_probability`` [B, ...].

    Raises
    ------
    ExportError
        Rows of an output are of another shape than those it was calibrated for.
    """
    found = {}
    for tensor in outputs:
        of = calibration.of(tensor.name)
        if of is None:
            continue
        kind, rest = heads[tensor.name].kind, tensor.shape[2:]
        half = (*rest[:-1], (rest[-1] or 0) // 2) if kind == MEAN_LOGVAR else rest
        if not of.is_of(kind) or half != of.shape:
            raise ExportError(
                f"output {tensor.name!r} has rows of {['any' if n is None else n for n in half]} ({kind}) and was "
                f"calibrated for rows of {list(of.shape)}; export the model with that length, or remove the calibration"
            )
        many = isinstance(of, Values)
        part = OBSERVATION_QUANTILES if many else OBSERVATION_PROBABILITY
        found[tensor.name] = Tensor(f"{tensor.name}_{part}", "float32", (*[None] * (2 if many else 1), *of.shape))
    return found


def quantiles(nodes: Nodes, centre: str, variance: str, of: Values) -> str:
    """``centre + sqrt(a v + b) Q``, [Q, B, ...]; NaN where the calibration's rows bear no such quantile.

    ``centre`` is the median of the samples and ``variance`` theirs, or the total one, [B, ...].
    """
    spread = of.spread
    scaled = nodes.add("Mul", nodes.constant(spread.a), _double(nodes, variance))
    squared = nodes.add("Add", scaled, nodes.constant(spread.b))
    scale = nodes.add("Sqrt", nodes.add("Max", squared, nodes.constant(np.float64(1e-300))))
    rows = nodes.constant(np.array([-1, 1, *of.shape]))
    z = nodes.add("Reshape", _scores(nodes, of), rows)  # [Q, 1, ...]
    return _single(nodes, nodes.add("Add", _double(nodes, centre), nodes.add("Mul", scale, z)))


def _scores(nodes: Nodes, of: Values) -> str:
    """Q of each element of a row at the quantiles asked for, linear between its knots: [Q, E]."""
    asked = _double(nodes, QUANTILES)
    one, last = nodes.constant(np.float64(1)), nodes.constant(np.float64(len(TAUS) - 2))
    level = nodes.add("Abs", nodes.add("Sub", nodes.add("Add", asked, asked), one))
    borne = nodes.add("LessOrEqual", level, nodes.constant(np.float64(of.most_level + _ROUNDING)))
    beyond = (1 - of.most_level) / 2
    inside = nodes.add("Max", nodes.add("Min", asked, _number(nodes, 1 - beyond)), _number(nodes, beyond))
    at = nodes.add("Mul", inside, _number(nodes, len(TAUS) - 1))
    below = nodes.add("Min", nodes.add("Floor", at), last)
    left = nodes.add("Cast", below, to=TensorProto.INT64)
    right = nodes.add("Add", left, nodes.constant(np.array(1)))
    knots = nodes.constant(np.array([scores.knots for scores in of.scores]).T)  # [201, S]
    low, high = (nodes.add("Gather", knots, place, axis=0) for place in (left, right))
    axis = nodes.constant(np.array([1]))
    share = nodes.add("Unsqueeze", nodes.add("Sub", at, below), axis)
    z = nodes.add("Add", low, nodes.add("Mul", nodes.add("Sub", high, low), share))  # [Q, S]
    known = nodes.add("Where", nodes.add("Unsqueeze", borne, axis), z, _number(nodes, np.nan))
    return nodes.add("Gather", known, nodes.constant(np.array(of.which)), axis=1)


def probability(nodes: Nodes, mean: str, of: Classes) -> str:
    """Tempered probabilities of classes, or moved ones of events, [B, ...]; ``mean`` is that of the samples."""
    least = _number(nodes, LEAST)
    p = nodes.add("Max", _double(nodes, mean), least)
    if of.kind == SOFTMAX:
        logits = nodes.add("Div", nodes.add("Log", p), _number(nodes, float(of.temperature or 1)))
        return _single(nodes, nodes.add("Softmax", logits, axis=-1))
    p = nodes.add("Min", p, _number(nodes, 1 - LEAST))
    other = nodes.add("Sub", _number(nodes, 1), p)
    logits = nodes.add("Sub", nodes.add("Log", p), nodes.add("Log", other))
    slope, offset = (nodes.constant(np.reshape(n, of.shape)) for n in (of.slope, of.offset))
    return _single(nodes, nodes.add("Sigmoid", nodes.add("Add", nodes.add("Mul", slope, logits), offset)))


def _number(nodes: Nodes, n: float) -> str:
    return nodes.constant(np.float64(n))


def _double(nodes: Nodes, x: str) -> str:
    return nodes.add("Cast", x, to=TensorProto.DOUBLE)


def _single(nodes: Nodes, x: str) -> str:
    return nodes.add("Cast", x, to=TensorProto.FLOAT)
