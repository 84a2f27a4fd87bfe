"""A recurrence in ONNX operators, in the form measured fastest in onnxruntime.

Without recurrent masks it is onnxruntime's fused ``LSTM``, ``GRU`` or ``RNN``. Under masks, or where time steps are
masked, it is a ``Scan`` over a written step: ``h`` and ``x_t`` (with a one for the bias) stand side by side, a mask
per gate is multiplied in, and each gate is one product with a constant matrix, which onnxruntime packs once. What a
kept element is multiplied by (1 / (1 - rate)) is part of that matrix.

Axes: L time steps, P and Q the two batch axes, F features, H units.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from keepdrop_exporter.trace.recurrence import Recurrence

# Activations of ONNX's fused operators, with their parameters.
_FUSED = {
    "tanh": ("Tanh", 0.0, 0.0),
    "sigmoid": ("Sigmoid", 0.0, 0.0),
    "relu": ("Relu", 0.0, 0.0),
    "hard_sigmoid": ("HardSigmoid", 1 / 6, 0.5),
    "keras2_hard_sigmoid": ("HardSigmoid", 0.2, 0.5),
    "softsign": ("Softsign", 0.0, 0.0),
}
# Keras' order of gates -> ONNX'.
_FUSED_ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (0, 1, 2), "RNN": (0,)}

_PLAIN_OPERATORS = {
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
    "relu": "Relu",
    "softsign": "Softsign",
    "softplus": "Softplus",
    "elu": "Elu",
    "exponential": "Exp",
}


class Nodes:
    """Collects ONNX nodes and constants under names that begin with ``prefix``."""

    def __init__(self, prefix: str) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._prefix = prefix
        self._count = 0

    def constant(self, value: Any) -> str:
        """Add a constant; its name."""
        name = self._name()
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node of one output; the output's name."""
        (output,) = self.add_many(op, inputs, 1, **attributes)
        return output

    def add_many(self, op: str, inputs: Sequence[str], outputs: int, **attributes: Any) -> list[str]:
        """Add a node of several outputs; their names."""
        names = [self._name() for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=names[0], **attributes))
        return names

    def body(self) -> Nodes:
        """Nodes for the body of a ``Scan``; its constants belong to the graph outside, where they are packed."""
        inner = Nodes(f"{self._prefix}body_")
        inner.constants = self.constants
        return inner

    def name(self, label: str) -> str:
        """A name of these nodes' own, for what is not a node's output."""
        return f"{self._prefix}{label}"

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}{self._count}"


def build(recurrence: Recurrence, inputs: Sequence[str], outputs: Sequence[str]) -> Nodes:
    """The nodes that compute a recurrence.

    Parameters
    ----------
    recurrence
        What to compute.
    inputs, outputs
        The names of its tensors and of its results, in the order ``Recurrence`` gives them.
    """
    nodes = Nodes(f"{recurrence.name}/")
    results = _fused(recurrence, nodes, inputs) if _is_fused(recurrence) else _scan(recurrence, nodes, inputs)
    for result, name in zip(results, outputs, strict=True):
        nodes.nodes.append(helper.make_node("Identity", [result], [name]))
    return nodes


def _is_fused(r: Recurrence) -> bool:
    return (
        r.recurrent_masks == 0
        and r.input_masks <= 1
        and not r.masked
        and r.activation in _FUSED
        and (r.cell == "RNN" or r.recurrent_activation in _FUSED)
    )


def _fused(r: Recurrence, nodes: Nodes, inputs: Sequence[str]) -> list[str]:
    x = inputs[0]  # [L, P, 1, F]
    if r.input_masks:
        x = nodes.add("Mul", x, inputs[1])  # [L, P, Q, F]
    lead = nodes.add(
        "Shape", inputs[1] if r.input_masks else x, start=0 if r.input_masks else 1, end=2 if r.input_masks else 3
    )
    merged = nodes.add("Reshape", x, nodes.constant(np.array([0, -1, r.features])))  # [L, N, F]
    order = _FUSED_ORDER[r.cell]

    def by_gate(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
        gates = np.split(matrix, r.gates, axis=-1)
        return np.concatenate([gates[g] for g in order], axis=-1)

    scale = np.float32(r.input_scale if r.input_masks else 1)
    recurrent_bias = np.zeros_like(r.bias) if r.recurrent_bias is None else r.recurrent_bias
    weights = [
        by_gate(r.kernel * scale).T[None],  # [1, G * H, F]
        by_gate(r.recurrent_kernel).T[None],  # [1, G * H, H]
        np.concatenate([by_gate(r.bias), by_gate(recurrent_bias)])[None],  # [1, 2 * G * H]
    ]
    activations = [r.activation] if r.cell == "RNN" else [r.recurrent_activation, r.activation]
    if r.cell == "LSTM":
        activations.append(r.activation)
    attributes: dict[str, Any] = {
        "hidden_size": r.units,
        "direction": "reverse" if r.backward else "forward",
        "activations": [_FUSED[name][0] for name in activations],
    }
    # Parameters are listed for the functions that have any, in their order.
    if parameters := [_FUSED[name][1:] for name in activations if any(_FUSED[name][1:])]:
        attributes["activation_alpha"] = [alpha for alpha, _ in parameters]
        attributes["activation_beta"] = [beta for _, beta in parameters]
    if r.cell == "GRU":
        attributes["linear_before_reset"] = int(r.reset_after)
    states = r.state_count
    operands = [merged, *(nodes.constant(w) for w in weights)]
    if r.carried:
        flat = nodes.constant(np.array([1, -1, r.units]))
        operands += ["", *(nodes.add("Reshape", state, flat) for state in inputs[-states:])]  # [1, N, H]
    sequence, *final = nodes.add_many(r.cell, operands, 1 + states, **attributes)
    units = nodes.constant(np.array([r.units]))
    unmerged = nodes.add("Concat", lead, units, axis=0)
    finals = [nodes.add("Reshape", state, unmerged) for state in final]  # [1, N, H] -> [P, Q, H]
    if not r.sequences:
        result = finals[0]
    else:
        if r.backward:
            # ONNX gives a reversed sequence in the order of time, Keras in that of its steps.
            ends = [nodes.constant(np.array([n])) for n in (-1, np.iinfo(np.int64).min, 0, -1)]
            sequence = nodes.add("Slice", sequence, *ends)
        shape = nodes.add("Concat", nodes.constant(np.array([0])), unmerged, axis=0)
        result = nodes.add("Reshape", nodes.add("Squeeze", sequence, nodes.constant(np.array([1]))), shape)
    return [result, *finals] if r.states else [result]


def _scan(r: Recurrence, nodes: Nodes, inputs: Sequence[str]) -> list[str]:
    """A ``Scan`` over the written step of the cell."""
    x, *rest = inputs
    step = _Step(r, nodes, x, rest[: r.mask_count])
    body = step.body
    old = [body.name("h"), body.name("c")][: r.state_count]
    steps = inputs[1 + r.mask_count] if r.masked else None
    new = _CELLS[r.cell](r, body, step, *old)
    output = new[0]
    if steps is not None:
        counts = step.scan(steps)  # [P, 1 or Q, 1]
        if r.zero_output_for_mask:
            output = body.add("Where", counts, new[0], nodes.constant(np.float32(0)))
        new = [body.add("Where", counts, n, o) for n, o in zip(new, old, strict=True)]
        output = output if r.zero_output_for_mask else new[0]
    emits = [body.add("Identity", output)] if r.sequences or r.zero_output_for_mask else []
    state_shape: list[str | int | None] = ["P", "Q", r.units]
    graph = helper.make_graph(
        body.nodes,
        f"{r.name}/step",
        [
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, state_shape) for name in old),
            # Older onnxruntime wants a shape for each, if only its rank.
            *(
                helper.make_tensor_value_info(
                    name, TensorProto.BOOL if source == steps else TensorProto.FLOAT, [None] * 3
                )
                for source, name in step.scanned
            ),
        ],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, state_shape) for name in (*new, *emits)],
    )
    results = nodes.add_many(
        "Scan",
        [
            *(inputs[-len(old) :] if r.carried else [step.zero_state()] * len(old)),
            *(source for source, _ in step.scanned),
        ],
        len(old) + len(emits),
        body=graph,
        num_scan_inputs=len(step.scanned),
        scan_input_directions=[int(r.backward)] * len(step.scanned),
    )
    finals = results[: len(old)]
    result = finals[0]
    if r.sequences:
        result = results[-1]
    elif emits:
        result = nodes.add("Gather", results[-1], nodes.constant(np.int64(-1)), axis=0)
    return [result, *finals] if r.states else [result]


class _Step:
    """One step's sums: what comes from ``h`` and ``x_t`` under each gate's masks, times the gate's matrices.

    ``body`` collects the nodes of the step; ``scanned`` lists what is scanned and the name of one step of it.
    """

    def __init__(self, r: Recurrence, nodes: Nodes, x: str, masks: Sequence[str]) -> None:
        self.body = nodes.body()
        self.scanned: list[tuple[str, str]] = []
        self._r, self._nodes, self._x = r, nodes, x
        self._masks = list(masks)
        self._kernels = np.split(r.kernel * np.float32(r.input_scale if r.input_masks else 1), r.gates, axis=1)
        self._recurrent = np.split(
            r.recurrent_kernel * np.float32(r.recurrent_scale if r.recurrent_masks else 1), r.gates, axis=1
        )
        self._lead = (
            nodes.add("Shape", masks[0], start=0, end=2) if masks else nodes.add("Shape", x, start=1, end=3)
        )  # P, Q
        self._ones: dict[int, str] = {}
        self._wide: str | None = None

    def zero_state(self) -> str:
        """Zeros, [P, Q, H]."""
        return self._filled(0, self._r.units)

    def scan(self, source: str) -> str:
        """Scan a tensor over its first axis; the name of one step of it."""
        name = self.body.name(f"step_{len(self.scanned)}")
        self.scanned.append((source, name))
        return name

    def sums(self, h: str, gates: Sequence[int], biases: Sequence[NDArray[np.float32]]) -> list[str]:
        """The whole sums of some gates, [P, Q, H] each."""
        if self._by_projection:
            return [
                self.body.add("Add", self.recurrent(h, g), self.from_input(g, b))
                for g, b in zip(gates, biases, strict=True)
            ]
        wide = self.body.add("Concat", h, self._input_and_one(), axis=-1)  # [P, Q, H + F + 1]
        matrices = [
            np.concatenate([self._recurrent[g], self._kernels[g], b[None]]) for g, b in zip(gates, biases, strict=True)
        ]
        if self._masks:
            masked = [self.body.add("Mul", wide, self._mask(g, recurrent=True)) for g in gates]
            return [self.body.add("MatMul", m, self._nodes.constant(w)) for m, w in zip(masked, matrices, strict=True)]
        product = self.body.add("MatMul", wide, self._nodes.constant(np.concatenate(matrices, axis=1)))
        return (
            self.body.add_many("Split", [product], len(gates), axis=-1, num_outputs=len(gates))
            if len(gates) > 1
            else [product]
        )

    def recurrent(self, h: str, gate: int) -> str:
        """The part of a gate's sum that comes from ``h``."""
        if self._r.recurrent_masks:
            h = self.body.add("Mul", h, self._recurrent_mask(gate))
        return self.body.add("MatMul", h, self._nodes.constant(self._recurrent[gate]))

    def from_input(self, gate: int, bias: NDArray[np.float32]) -> str:
        """The part of a gate's sum that comes from x_t, with the bias."""
        if self._by_projection:
            # The same for all samples of a row: one product for all steps, outside the loop.
            product = self._nodes.add("MatMul", self._x, self._nodes.constant(self._kernels[gate]))
            return self.scan(self._nodes.add("Add", product, self._nodes.constant(bias)))
        x = self._input_and_one()
        if self._r.input_masks:
            x = self.body.add("Mul", x, self._mask(gate, recurrent=False))
        return self.body.add("MatMul", x, self._nodes.constant(np.concatenate([self._kernels[gate], bias[None]])))

    @property
    def _by_projection(self) -> bool:
        return self._r.shared and not self._r.input_masks

    def _input_and_one(self) -> str:
        """x_t and a one, for every sample: [P, Q, F + 1]."""
        if self._wide is None:
            n = self._nodes
            each = n.add(
                "Concat", n.add("Shape", self._x, start=0, end=1), self._lead, n.constant(np.array([1])), axis=0
            )
            ones = n.add("Expand", n.constant(np.ones((1, 1, 1, 1), np.float32)), each)
            self._wide = self.scan(n.add("Concat", n.add("Expand", self._x, each), ones, axis=-1))
        return self._wide

    def _mask(self, gate: int, recurrent: bool) -> str:
        """A gate's recurrent mask, input mask and a one side by side: [P, Q, H + F + 1], or without the first."""
        if self._r.joined:
            return self._masks[gate if recurrent else 3]
        inputs = self._masks[: self._r.input_masks]
        parts = [_of(inputs, gate) if inputs else self._one(self._r.features), self._one(1)]
        if recurrent:
            parts.insert(0, self._recurrent_mask(gate) if self._r.recurrent_masks else self._one(self._r.units))
        return self._nodes.add("Concat", *parts, axis=-1)

    def _recurrent_mask(self, gate: int) -> str:
        """A gate's recurrent mask alone, [P, Q, H]."""
        return self._masks[2] if self._r.joined else _of(self._masks[self._r.input_masks :], gate)

    def _one(self, size: int) -> str:
        if size not in self._ones:
            self._ones[size] = self._filled(1, size)
        return self._ones[size]

    def _filled(self, value: float, size: int) -> str:
        """A tensor of one value, [P, Q, size]."""
        shape = self._nodes.add("Concat", self._lead, self._nodes.constant(np.array([size])), axis=0)
        return self._nodes.add("ConstantOfShape", shape, value=numpy_helper.from_array(np.array([value], np.float32)))


def _of(keeps: Sequence[str], gate: int) -> str:
    return keeps[gate] if len(keeps) > 1 else keeps[0]


def _lstm(r: Recurrence, body: Nodes, step: _Step, h: str, c: str) -> list[str]:
    sums = step.sums(h, [0, 1, 2, 3], np.split(r.bias, 4))
    i, f, o = (_activate(body, r.recurrent_activation, sums[g]) for g in (0, 1, 3))
    candidate = _activate(body, r.activation, sums[2])
    new_c = body.add("Add", body.add("Mul", f, c), body.add("Mul", i, candidate))
    return [body.add("Mul", o, _activate(body, r.activation, new_c)), new_c]


def _gru(r: Recurrence, body: Nodes, step: _Step, h: str) -> list[str]:
    biases = np.split(r.bias, 3)
    recurrent_biases = np.split(np.zeros_like(r.bias) if r.recurrent_bias is None else r.recurrent_bias, 3)
    sums = step.sums(h, [0, 1], [biases[g] + recurrent_biases[g] for g in (0, 1)])
    update, reset = (_activate(body, r.recurrent_activation, z) for z in sums)
    if r.reset_after:
        inner = step.recurrent(h, 2)
        if r.recurrent_bias is not None:
            inner = body.add("Add", inner, body.constant(recurrent_biases[2]))
        inner = body.add("Mul", reset, inner)
    else:
        inner = step.recurrent(body.add("Mul", reset, h), 2)
    candidate = _activate(body, r.activation, body.add("Add", step.from_input(2, biases[2]), inner))
    # update * h + (1 - update) * candidate, with one product less.
    return [body.add("Add", candidate, body.add("Mul", update, body.add("Sub", h, candidate)))]


def _rnn(r: Recurrence, body: Nodes, step: _Step, h: str) -> list[str]:
    return [_activate(body, r.activation, step.sums(h, [0], [r.bias])[0])]


_CELLS: dict[str, Callable[..., list[str]]] = {"LSTM": _lstm, "GRU": _gru, "RNN": _rnn}


def _activate(body: Nodes, name: str, x: str) -> str:
    if name == "linear":
        return x
    if name in ("hard_sigmoid", "keras2_hard_sigmoid"):
        operator, alpha, beta = _FUSED[name]
        return body.add(operator, x, alpha=alpha, beta=beta)
    if name == "silu":
        return body.add("Mul", x, body.add("Sigmoid", x))
    return body.add(_PLAIN_OPERATORS[name], x)
