"""Stage 4, convert: the traced function becomes an ONNX model. The one module that imports tf2onnx and onnx."""

from __future__ import annotations

import graphlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx.convert
import tf2onnx.graph
import tf2onnx.optimizer
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from keepdrop import ArtifactError
from keepdrop.artifact import check as artifact_check
from keepdrop.artifact import onnx_file
from keepdrop.artifact.metadata import (
    MADE_SUFFIX,
    METADATA_KEY,
    NEXT_SUFFIX,
    NUM_SAMPLES,
    OPSET,
    RESERVED_NAMES,
    ROWS,
    SCALARS,
    STEPS_SEEN,
    UNSEEDED_OPERATORS,
    Metadata,
    State,
    Streaming,
    Tensor,
)
from keepdrop.artifact.properties import with_properties
from keepdrop_exporter.errors import ConvertError
from keepdrop_exporter.trace.function import Traced
from keepdrop_exporter.trace.recurrence import Recurrence
from keepdrop_exporter.writing import quiet

from . import onnx_recurrence

# The newest that onnxruntime 1.16 reads with opset 18.
_IR_VERSION = 8
_BATCH = "batch"

MOST_BYTES = 2**31 - 2**20
"""How many bytes of weights a file may hold: a protocol buffer has at most 2 GiB, and the graph needs some of it."""

_optimize_graph = tf2onnx.optimizer.optimize_graph


def to_onnx(traced: Traced, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]) -> onnx.ModelProto:
    """Convert a traced function to a checked ONNX model under the contract's names.

    Parameters
    ----------
    traced
        The function of ``trace.trace``; its inputs and outputs are named as the contract names them.
    inputs, outputs
        The model's own tensors.

    Raises
    ------
    ConvertError
        tf2onnx left something that is not a standard operator, or the result does not pass onnx' checker.
    """
    frozen = convert_variables_to_constants_v2(traced.function, lower_control_flow=False, aggressive_inlining=False)
    graph = frozen.graph.as_graph_def(add_shapes=True)
    names_in = {x.name: x.name.removesuffix(":0") for x in frozen.inputs}
    # The structured outputs of a concrete function are sorted by name.
    names_out = dict(zip([y.name for y in frozen.outputs], sorted(traced.function.structured_outputs), strict=True))
    calls = [_cut_out(graph, recurrence) for recurrence in traced.recurrences]
    # What a stream hands to a recurrence may be an input of the graph itself.
    needed = [name for call in calls for name in call.tensors if name not in names_in]
    with quiet():
        try:
            model = _converted(
                graph,
                inputs=[*names_in, *(name for call in calls for name in call.results)],
                outputs=[*names_out, *dict.fromkeys(needed)],
                renamed={**names_in, **names_out},
            )
        except Exception as error:
            raise ConvertError(f"tf2onnx cannot convert the traced model ({type(error).__name__}: {error})") from error
    for recurrence, call in zip(traced.recurrences, calls, strict=True):
        nodes = onnx_recurrence.build(recurrence, [names_in.get(name, name) for name in call.tensors], call.results)
        model.graph.node.extend(nodes.nodes)
        model.graph.initializer.extend(nodes.constants)
    _take_scalars(model.graph)
    _sort(model.graph)
    _refuse_operators(model)
    _declare(model, inputs, outputs, traced.stream)
    if traced.stream:
        _make_once(model.graph, traced.stream.masks)
    model.ir_version = _IR_VERSION
    model.producer_name, model.producer_version = "keepdrop", ""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ConvertError(f"the converted model is not valid ONNX: {error}") from error
    return model


def refuse_size(model: keras.Model) -> None:
    """Refuse a model whose weights do not fit into an ONNX file, before anything is traced.

    Raises
    ------
    ConvertError
        They do not; the text has the sum.
    """
    numbers = sum(math.prod(weight.shape) for weight in model.weights)
    if numbers * 4 > MOST_BYTES:
        raise ConvertError(
            f"model {model.name!r}: its weights are {numbers:,} numbers of 4 bytes, {numbers * 4 / 2**30:.1f} GiB, "
            f"and an ONNX file holds at most {MOST_BYTES / 2**30:.1f} GiB; write a SavedModel (--format savedmodel), "
            "or make the model smaller"
        )


def _converted(graph: Any, inputs: list[str], outputs: list[str], renamed: dict[str, str]) -> onnx.ModelProto:
    """What tf2onnx makes of a frozen graph."""

    def convert() -> onnx.ModelProto:
        model: onnx.ModelProto
        model, _ = tf2onnx.convert.from_graph_def(
            graph,
            name="keepdrop",
            input_names=inputs,
            output_names=outputs,
            opset=OPSET,
            tensors_to_rename=dict(renamed),
            custom_op_handlers={name: (handler, []) for name, handler in _HANDLERS.items()},
        )
        return model

    with mock.patch.object(tf2onnx.graph.Graph, "extract_sub_graph_nodes", _leading_to):
        try:
            with mock.patch.object(tf2onnx.optimizer, "optimize_graph", _optimized):
                return convert()
        except _PassFailed:
            return convert()


class _PassFailed(Exception):
    """One of tf2onnx' passes over the graph does not work on it; tf2onnx goes on without that pass."""


def _optimized(graph: Any, catch_errors: bool = True, optimizers: Any = None) -> Any:
    """``tf2onnx.optimizer.optimize_graph`` without a copy of the graph, weights and all, before each of its passes."""
    try:
        return _optimize_graph(graph, catch_errors=False, optimizers=optimizers)
    except Exception as error:
        raise _PassFailed from error


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


class _Cut(NamedTuple):
    """The tensors that go into a recurrence and that come out of it, by TensorFlow's names."""

    tensors: list[str]
    results: list[str]


def _cut_out(graph: Any, recurrence: Recurrence) -> _Cut:
    """Take a recurrence's call out of a frozen graph: its results become placeholders, what it needs stays."""
    (node,) = [
        n for n in graph.node if n.op.endswith("PartitionedCall") and f"_{recurrence.name}" in n.attr["f"].func.name
    ]
    tensors = [name if ":" in name else f"{name}:0" for name in list(node.input)[: recurrence.tensor_count]]
    results = []
    renamed = {}
    for i, shape in enumerate(recurrence.result_shapes):
        placeholder = graph.node.add(name=f"{recurrence.name}result_{i}", op="Placeholder")
        placeholder.attr["dtype"].type = tf.float32.as_datatype_enum
        placeholder.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())
        renamed[f"{node.name}:{i}"] = placeholder.name
        if i == 0:
            renamed[node.name] = placeholder.name
        results.append(f"{placeholder.name}:0")
    for other in graph.node:
        # A frozen graph changes nothing, so the order that control inputs (^name) ask for is of no account.
        other.input[:] = [renamed.get(name, name) for name in other.input if not name.startswith("^")]
    graph.node.remove(node)
    return _Cut(tensors, results)


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


def _take_scalars(graph: onnx.GraphProto) -> None:
    """Reshape each scalar that is given as [] or [1]; tf2onnx (1.17) leaves the traced function's own reshape out."""
    _rename(graph.node, {name: f"{name}/scalar" for name in SCALARS})
    no_axis = "keepdrop/no_axis"
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(0, np.int64), no_axis))
    graph.node.extend(
        onnx.helper.make_node("Reshape", [name, no_axis], [f"{name}/scalar"], f"{name}/scalar") for name in SCALARS
    )


def _sort(graph: onnx.GraphProto) -> None:
    """Order the nodes so that each comes after those it takes from."""
    made_by = {name: i for i, node in enumerate(graph.node) for name in node.output}
    needs = {i: {made_by[name] for name in _read_by(node) if name in made_by} for i, node in enumerate(graph.node)}
    ordered = [graph.node[i] for i in graphlib.TopologicalSorter(needs).static_order()]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(copies)


def _read_by(node: onnx.NodeProto) -> Iterator[str]:
    yield from node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _read_by(inner)


def with_metadata(artifact: bytes, metadata: Metadata) -> bytes:
    """The same serialized model bearing this metadata in place of any it had, and a checksum of all of it.

    Raises
    ------
    ConvertError
        The runtime would refuse the file; what it says is in the text.
    """
    try:
        bearing = with_properties(artifact, {METADATA_KEY: metadata.to_json()})
        artifact_check.checked(onnx_file.read(bearing))
    except ArtifactError as error:
        raise ConvertError(f"keepdrop would refuse the converted model: {error}") from error
    return bearing


def _declare(
    model: onnx.ModelProto,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    stream: Streaming | None,
) -> None:
    """Give the graph's tensors the contract's order and axes."""
    graph = model.graph
    declared = {value.name: value for value in (*graph.input, *graph.output)}

    def value(name: str, axes: list[str | int]) -> onnx.ValueInfoProto:
        element = declared[name].type.tensor_type.elem_type
        return onnx.helper.make_tensor_value_info(name, element, axes)

    def axes(tensor: Tensor, leading: list[str]) -> list[str | int]:
        rest = tensor.shape[len(leading) :]
        return [*leading, *(n if n is not None else f"{tensor.name}_{len(leading) + i}" for i, n in enumerate(rest))]

    def carried(state: State, name: str, batch: str) -> onnx.ValueInfoProto:
        return value(name, [batch, *([NUM_SAMPLES] if state.per_sample else []), *state.shape])

    controls = [value(name, [_BATCH] if name == ROWS else []) for name in declared if name in RESERVED_NAMES]
    own = [value(t.name, axes(t, [_BATCH])) for t in inputs]
    samples = [value(t.name, axes(t, [NUM_SAMPLES, _BATCH])) for t in outputs]
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend([*own, *sorted(controls, key=lambda v: RESERVED_NAMES.index(v.name))])
    graph.output.extend(samples)
    if stream:
        graph.input.append(value(STEPS_SEEN, [_BATCH]))
        graph.input.extend(carried(s, s.name, _BATCH) for s in stream.states)
        graph.input.extend(carried(s, s.name, f"{_BATCH}_or_0") for s in stream.masks)
        graph.output.extend(carried(s, s.name + NEXT_SUFFIX, _BATCH) for s in stream.states)
        graph.output.extend(carried(s, s.name + MADE_SUFFIX, _BATCH) for s in stream.masks)


def _make_once(graph: onnx.GraphProto, masks: Sequence[State]) -> None:
    """Put what only the masks need under an ``If``: it runs where they are given with batch 0, and never again."""
    made = [mask.name + MADE_SUFFIX for mask in masks]
    for_masks = _needed(graph, made)
    for_others = _needed(graph, [y.name for y in graph.output if y.name not in made])
    nodes = list(graph.node)
    inside = [nodes[i] for i in sorted(for_masks - for_others)]
    outside = [nodes[i] for i in sorted(for_others)]
    # What a branch gives bears a name of its own, for what makes a mask may stand outside.
    _rename(nodes, {name: f"{name}/source" for name in made})
    inside += [onnx.helper.make_node("Identity", [f"{name}/source"], [f"{name}/new"]) for name in made]
    _rename(outside, {mask.name: mask.name + MADE_SUFFIX for mask in masks})
    declared = {y.name: y for y in graph.output}

    def branch(name: str, suffix: str, body: Sequence[onnx.NodeProto]) -> onnx.GraphProto:
        values = []
        for y in made:
            values.append(onnx.ValueInfoProto())
            values[-1].CopyFrom(declared[y])
            values[-1].name = f"{y}/{suffix}"
        return onnx.helper.make_graph(body, name, [], values)

    given = [onnx.helper.make_node("Identity", [mask.name], [f"{mask.name}{MADE_SUFFIX}/given"]) for mask in masks]
    choice = [
        onnx.helper.make_node("Shape", [masks[0].name], ["stream/rows_with_masks"], start=0, end=1),
        onnx.helper.make_node("Equal", ["stream/rows_with_masks", "stream/none"], ["stream/without_masks"]),
        onnx.helper.make_node(
            "If",
            ["stream/without_masks"],
            made,
            then_branch=branch("make_masks", "new", inside),
            else_branch=branch("take_masks", "given", given),
        ),
    ]
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.int64), "stream/none"))
    del graph.node[:]
    graph.node.extend([*choice, *outside])
    _sort(graph)


def _needed(graph: onnx.GraphProto, names: Sequence[str]) -> set[int]:
    """The numbers of the nodes that these tensors come from."""
    made_by = {name: i for i, node in enumerate(graph.node) for name in node.output}
    found: set[int] = set()
    waiting = [made_by[name] for name in names if name in made_by]
    while waiting:
        i = waiting.pop()
        if i not in found:
            found.add(i)
            waiting += [made_by[name] for name in _read_by(graph.node[i]) if name in made_by]
    return found


def _rename(nodes: Sequence[onnx.NodeProto], names: Mapping[str, str]) -> None:
    """Give tensors other names, in bodies of control flow too."""
    for node in nodes:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(list(attribute.g.node), names)


def _refuse_operators(model: onnx.ModelProto) -> None:
    for node in _nodes(model.graph):
        try:
            if node.domain not in ("", "ai.onnx"):
                raise ConvertError(f"node {node.name!r} is of domain {node.domain!r}, not a standard operator")
            onnx.defs.get_schema(node.op_type, OPSET)
        except onnx.defs.SchemaError as error:
            raise ConvertError(
                f"TensorFlow operator {node.op_type} (node {node.name!r}) has no counterpart in ONNX that tf2onnx "
                "knows; replace the layer that uses it"
            ) from error
        if node.op_type in UNSEEDED_OPERATORS:
            raise ConvertError(
                f"node {node.name!r} ({node.op_type}) would draw numbers that no seed of the artifact reaches"
            )


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)
