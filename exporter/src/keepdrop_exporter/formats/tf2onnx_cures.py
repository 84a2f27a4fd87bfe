"""tf2onnx, called so that what it gets wrong or does too slowly for us is cured. The one module that imports it."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx.convert
import tf2onnx.graph
import tf2onnx.onnx_opset.controlflow
import tf2onnx.optimizer
import tf2onnx.optimizer.optimizer_base
import tf2onnx.tf_loader
import tf2onnx.tfonnx

from keepdrop.artifact.metadata import OPSET

_optimize_graph = tf2onnx.optimizer.optimize_graph
_run_rewriters = tf2onnx.tfonnx.run_rewriters
_Pass = tf2onnx.optimizer.optimizer_base.GraphOptimizerBase
# Passes for what no traced model has: quantised numbers, resized pictures, TensorFlow's loops in ONNX' form. And one
# that takes an Einsum apart: it tries every order of its axes (tf2onnx 1.17: half a minute for attention over images),
# and onnxruntime runs the Einsum as fast as what comes of it.
_LEFT_OUT = (
    "remove_redundant_upsample",
    "const_dequantize_optimizer",
    "loop_optimizer",
    "q_dq_optimizer",
    "einsum_optimizer",
)
# Rewriters of what a graph of TensorFlow 2 with its draws replaced does not hold: quantised and random numbers, and
# loops and branches in TensorFlow 1's form.
_IDLE_REWRITERS = (
    "rewrite_quantize_and_dequantize",
    "rewrite_random_uniform",
    "rewrite_random_uniform_fold_const",
    "rewrite_random_normal",
    "rewrite_dropout",
    "rewrite_single_direction_lstm",
    "rewrite_single_direction_gru",
    "rewrite_custom_rnn_cell",
    "rewrite_generic_loop",
    "rewrite_cond",
)


def converted(graph: Any, inputs: list[str], outputs: list[str], renamed: dict[str, str]) -> onnx.ModelProto:
    """What tf2onnx makes of a frozen graph. A placeholder of unknown rank is taken as a scalar."""
    for node in graph.node:
        if node.op == "Placeholder" and node.attr["shape"].shape.unknown_rank:
            # tf2onnx (1.17) takes it so too, but builds the graph again for it.
            node.attr["shape"].shape.Clear()
    # ``from_graph_def`` does this after it has built the graph once more, for variables, which a frozen graph has not.
    with tf.Graph().as_default():
        optimised = tf2onnx.tf_loader.tf_optimize(inputs, outputs, graph)

    def convert() -> onnx.ModelProto:
        model: onnx.ModelProto
        model, _ = tf2onnx.convert._convert_common(
            optimised,
            name="keepdrop",
            continue_on_error=True,
            input_names=inputs,
            output_names=outputs,
            opset=OPSET,
            tensors_to_rename=dict(renamed),
            custom_op_handlers={name: (handler, []) for name, handler in _HANDLERS.items()},
        )
        return model

    with (
        mock.patch.object(tf2onnx.graph.Graph, "extract_sub_graph_nodes", _leading_to),
        mock.patch.object(tf2onnx.onnx_opset.controlflow, "copy", SimpleNamespace(deepcopy=_alone)),
        mock.patch.object(tf2onnx.tfonnx, "run_rewriters", _rewritten),
    ):
        try:
            with mock.patch.object(tf2onnx.optimizer, "optimize_graph", _optimized):
                return convert()
        except _PassFailed:
            return convert()


class _PassFailed(Exception):
    """One of tf2onnx' passes over the graph does not work on it; tf2onnx goes on without that pass."""


def _rewritten(graph: Any, rewriters: list[Any], continue_on_error: bool) -> None:
    """``tf2onnx.tfonnx.run_rewriters`` without idle ones."""
    _run_rewriters(graph, [f for f in rewriters if f.__name__ not in _IDLE_REWRITERS], continue_on_error)


def _optimized(graph: Any, catch_errors: bool = True, optimizers: Any = None) -> Any:
    """``tf2onnx.optimizer.optimize_graph`` without some passes, nor a copy of the graph before each of the others."""
    passes = tf2onnx.optimizer._get_optimizers()
    try:
        wanted = {name: made for name, made in passes.items() if name not in _LEFT_OUT}
        with mock.patch.object(_Pass, "optimize", _run_pass):
            return _optimize_graph(graph, catch_errors=False, optimizers=wanted)
    except Exception as error:
        raise _PassFailed from error


def _run_pass(own: Any, graph: Any, iteration: int) -> Any:
    """A pass without a count of the nodes before and after it; what they are in protocol buffers is made at the end."""
    own.opt_iteration = iteration
    graph = own._optimize(graph)
    graph.delete_unused_nodes(graph.outputs)
    return graph


def _leading_to(
    graph: Any, outputs_name: Any, input_checker: Any = None, remove_unused_inputs: bool = True
) -> list[Any]:
    """``Graph.extract_sub_graph_nodes`` in one walk; tf2onnx (1.17) walks the graph once for each output."""
    names = [*outputs_name, *(() if remove_unused_inputs else (node.output[0] for node in graph.inputs))]
    found: dict[Any, None] = {}
    while names:
        node = graph.get_node_by_output(names.pop(), search_in_parent_graphs=False)
        if node is None or node in found or (input_checker and input_checker(node) is False):
            continue
        found[node] = None
        names += [*node.input, *node.get_implicit_inputs()]
    return list(found)


def _alone(graph: Any) -> Any:
    """A deep copy of a loop's body; tf2onnx (1.17) copies the graph around it as well, once for each loop."""
    outer = graph.parent_graph
    return copy.deepcopy(graph, {id(outer): outer})


def _floor_mod(context: Any, node: Any, name: str, args: Any) -> None:
    """Integers' floor modulo as ONNX has it; tf2onnx' own (1.17) takes the sign of the dividend."""
    inputs, outputs, shapes, dtypes = list(node.input), list(node.output), node.output_shapes, node.output_dtypes
    context.remove_node(node.name)
    if dtypes[0] in (onnx.TensorProto.INT32, onnx.TensorProto.INT64):
        context.make_node("Mod", inputs, name=name, outputs=outputs, shapes=shapes, dtypes=dtypes)
        return
    whole = context.make_node("Floor", context.make_node("Div", inputs).output)
    product = context.make_node("Mul", [whole.output[0], inputs[1]])
    context.make_node("Sub", [inputs[0], product.output[0]], name=name, outputs=outputs, shapes=shapes, dtypes=dtypes)


def _erfc(context: Any, node: Any, name: str, args: Any) -> None:
    """1 - erf(x), which Keras' gelu needs and tf2onnx (1.17) does not know."""
    inputs, outputs, shapes, dtypes = list(node.input), list(node.output), node.output_shapes, node.output_dtypes
    context.remove_node(node.name)
    one = context.make_const(f"{name}_one", np.ones((), onnx.helper.tensor_dtype_to_np_dtype(dtypes[0])))
    erf = context.make_node("Erf", inputs)
    context.make_node("Sub", [one.output[0], erf.output[0]], name=name, outputs=outputs, shapes=shapes, dtypes=dtypes)


def _expm1(context: Any, node: Any, name: str, args: Any) -> None:
    """exp(x) - 1 as tanh(x / 2) (exp(x) + 1), which keeps its digits near 0; tf2onnx (1.17) does not know it."""
    inputs, outputs, shapes, dtypes = list(node.input), list(node.output), node.output_shapes, node.output_dtypes
    context.remove_node(node.name)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(dtypes[0])
    one = context.make_const(f"{name}_one", np.array(1, dtype)).output[0]
    half = context.make_const(f"{name}_half", np.array(0.5, dtype)).output[0]
    tanh = context.make_node("Tanh", context.make_node("Mul", [*inputs, half]).output)
    sum_ = context.make_node("Add", [context.make_node("Exp", inputs).output[0], one])
    factors = [tanh.output[0], sum_.output[0]]
    context.make_node("Mul", factors, name=name, outputs=outputs, shapes=shapes, dtypes=dtypes)


def _where(context: Any, node: Any, name: str, args: Any) -> None:
    """``tf.where`` as ONNX has it; tf2onnx (1.17) multiplies by zeros and ones, which turns an infinity into NaN."""
    inputs, outputs, shapes, dtypes = list(node.input), list(node.output), node.output_shapes, node.output_dtypes
    context.remove_node(node.name)
    context.make_node("Where", inputs, name=name, outputs=outputs, shapes=shapes, dtypes=dtypes)


_HANDLERS = {"FloorMod": _floor_mod, "Erfc": _erfc, "Expm1": _expm1, "SelectV2": _where}
