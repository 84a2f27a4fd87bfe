"""Large constants, kept out of a graph while it is converted: TensorFlow and tf2onnx copy what they hold at every step.

A frozen graph gets a placeholder for each, the ONNX graph the numbers at the very end.
"""

from __future__ import annotations

from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework import convert_to_constants

from . import onnx_graph

LEAST_BYTES = 2**17
"""What counts as large: below, a constant costs less than what it lets the converter fold."""

# A large constant is frozen as this number less its own, filled to its shape; no model's constants are that.
_MARK = np.float32(-(2.0**23))


class Frozen(NamedTuple):
    """A frozen graph, its inputs and outputs, and the large constants that are placeholders in it, by tensor name."""

    graph: Any
    inputs: list[str]
    outputs: list[str]
    large: dict[str, NDArray[np.float32]]


def freeze(function: Any) -> Frozen:
    """A traced function with its variables as constants, and placeholders for the large ones."""
    arrays: list[NDArray[np.float32]] = []
    make = convert_to_constants.tensor_util.make_tensor_proto

    def marked(values: Any, dtype: Any = None, shape: Any = None, **options: Any) -> Any:
        if not isinstance(values, np.ndarray) or values.dtype != np.float32 or values.nbytes < LEAST_BYTES:
            return make(values, dtype, shape, **options)
        arrays.append(values)
        return make(_MARK - np.float32(len(arrays) - 1), tf.float32, values.shape)

    # TensorFlow (2.21) copies what it freezes into a graph six times over; a filled tensor is one number there. Of the
    # frozen graph it would make a function, operator by operator in Python, which nothing here calls.
    with (
        mock.patch.object(convert_to_constants.tensor_util, "make_tensor_proto", marked),
        mock.patch.object(convert_to_constants, "_construct_concrete_function", _left_open),
    ):
        graph, inputs = convert_to_constants.convert_variables_to_constants_v2(
            function, lower_control_flow=False, aggressive_inlining=False
        )
    large = {}
    for node in graph.node:
        if (array := _marked(node, arrays)) is not None:
            large[f"{node.name}:0"] = array
            _make_placeholder(node, array.shape)
    for body in graph.library.function:
        for node in body.node_def:
            if (array := _marked(node, arrays)) is not None:
                node.attr["value"].tensor.CopyFrom(make(array, tf.float32, array.shape))
    return Frozen(graph, inputs, [y.name for y in function.outputs], large)


def _left_open(function: Any, graph: Any, converted: set[int]) -> tuple[Any, list[str]]:
    """A frozen graph and its inputs' names; ``converted`` numbers the captured inputs that became constants."""
    constants = {function.graph.internal_captures[i].name for i in converted}
    return graph, [x.name for x in function.inputs if x.name not in constants]


def folded(graph: onnx.GraphProto, large: dict[str, NDArray[np.float32]]) -> list[onnx.TensorProto]:
    """The large constants as the graph needs them: what only turns their axes is done here, once.

    Its nodes are in order. The arrays are taken out of ``large`` as they become tensors.
    """
    shown = {value.name for value in graph.output}
    for node in [n for n in graph.node if n.op_type in ("Transpose", "Identity") and n.output[0] not in shown]:
        if node.input[0] in large:
            array = large[node.input[0]]
            axes = [list(a.ints) for a in node.attribute if a.name == "perm"]
            large[node.output[0]] = np.transpose(array, *axes) if node.op_type == "Transpose" else array
            graph.node.remove(node)
    read = onnx_graph.read(graph)
    kept = [(name, large.pop(name)) for name in list(large) if name in read]
    return [onnx.numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in kept]


def _marked(node: Any, arrays: list[NDArray[np.float32]]) -> NDArray[np.float32] | None:
    """The array that a constant of a frozen graph stands for, if it is a large one's mark."""
    if node.op != "Const" or len(node.attr["value"].tensor.float_val) != 1:
        return None
    number = int(_MARK) - node.attr["value"].tensor.float_val[0]
    if number not in range(len(arrays)):
        return None
    return arrays[int(number)]


def _make_placeholder(node: Any, shape: tuple[int, ...]) -> None:
    node.op = "Placeholder"
    del node.attr["value"]
    node.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
