"""Stage 4, convert: the traced function becomes an ONNX model. The one module that imports tf2onnx and onnx."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
import onnx
import tensorflow as tf

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
    Head,
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

from . import large_constants, onnx_graph, onnx_recurrence, onnx_summary, tf2onnx_cures

# The newest that onnxruntime 1.16 reads with opset 18.
_IR_VERSION = 8
_BATCH = "batch"

MOST_BYTES = 2**31 - 2**20
"""How many bytes of weights a file may hold: a protocol buffer has at most 2 GiB, and the graph needs some of it."""


def to_onnx(
    traced: Traced,
    inputs: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    heads: tuple[Head, ...] | None = None,
    per_sample: Collection[str] = (),
) -> onnx.ModelProto:
    """Convert a traced function to a checked ONNX model under the contract's names.

    Parameters
    ----------
    traced
        The function of ``trace.trace``; its inputs and outputs are named as the contract names them.
    inputs, outputs
        The model's own tensors.
    heads
        What the outputs are, where summaries of them are to be outputs too (``onnx_summary``).
    per_sample
        The inputs that have a sample axis.

    Raises
    ------
    ConvertError
        tf2onnx left something that is not a standard operator, or the result does not pass onnx' checker.
    """
    graph, inputs_frozen, outputs_frozen, large = large_constants.freeze(traced.function)
    names_in = {name: name.removesuffix(":0") for name in inputs_frozen}
    # The structured outputs of a concrete function are sorted by name.
    names_out = dict(zip(outputs_frozen, sorted(traced.function.structured_outputs), strict=True))
    calls = [_cut_out(graph, recurrence) for recurrence in traced.recurrences]
    # What a stream hands to a recurrence may be an input of the graph itself.
    needed = [name for call in calls for name in call.tensors if name not in names_in]
    wanted = [*names_out, *dict.fromkeys(needed)]
    unread = large.keys() - _leading_to(graph, wanted)
    for name in unread:
        del large[name]
    with quiet():
        try:
            model = tf2onnx_cures.converted(
                graph,
                inputs=[*names_in, *(name for call in calls for name in call.results), *large],
                outputs=wanted,
                renamed={**names_in, **names_out},
            )
        except Exception as error:
            raise ConvertError(f"tf2onnx cannot convert the traced model ({type(error).__name__}: {error})") from error
    constants: list[onnx.TensorProto] = []
    for recurrence, call in zip(traced.recurrences, calls, strict=True):
        nodes = onnx_recurrence.build(recurrence, [names_in.get(name, name) for name in call.tensors], call.results)
        model.graph.node.extend(nodes.nodes)
        constants += nodes.constants
    _take_scalars(model.graph)
    onnx_graph.sort(model.graph)
    constants += large_constants.folded(model.graph, large)
    _refuse_operators(model)
    _declare(model, inputs, outputs, traced.stream, per_sample)
    if heads is not None:
        onnx_summary.add_summary(model.graph, outputs, heads)
    if traced.stream:
        _make_once(model.graph, traced.stream.masks)
    model.ir_version = _IR_VERSION
    model.producer_name, model.producer_version = "keepdrop", ""
    onnx_graph.rename_canonically(model.graph, constants)
    _check(model, constants)
    model.graph.initializer.extend(constants)
    return model


def _check(model: onnx.ModelProto, constants: Iterable[onnx.TensorProto]) -> None:
    """onnx' checker, on a model whose constants are inputs: it copies what it checks several times."""
    checked = onnx.ModelProto()
    checked.CopyFrom(model)
    for constant in constants:
        checked.graph.input.append(onnx.helper.make_tensor_value_info(constant.name, constant.data_type, constant.dims))
    try:
        onnx.checker.check_model(checked, full_check=True)
    except Exception as error:
        raise ConvertError(f"the converted model is not valid ONNX: {error}") from error


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


class _Cut(NamedTuple):
    """The tensors that go into a recurrence and that come out of it, by TensorFlow's names."""

    tensors: list[str]
    results: list[str]


def _leading_to(graph: Any, names: Iterable[str]) -> set[str]:
    """The tensors of a frozen graph that these come from, themselves included: the first output of each node."""
    nodes = {node.name: node for node in graph.node}
    found: set[str] = set()
    waiting = [name.partition(":")[0] for name in names]
    while waiting:
        name = waiting.pop()
        if name in nodes and f"{name}:0" not in found:
            found.add(f"{name}:0")
            waiting += [given.lstrip("^").partition(":")[0] for given in nodes[name].input]
    return found


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


def _take_scalars(graph: onnx.GraphProto) -> None:
    """Reshape each scalar that is given as [] or [1]; tf2onnx (1.17) leaves the traced function's own reshape out."""
    onnx_graph.rename(graph.node, {name: f"{name}/scalar" for name in SCALARS})
    no_axis = "keepdrop/no_axis"
    graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(0, np.int64), no_axis))
    graph.node.extend(
        onnx.helper.make_node("Reshape", [name, no_axis], [f"{name}/scalar"], f"{name}/scalar") for name in SCALARS
    )


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
    per_sample: Collection[str],
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
    own = [
        value(t.name, axes(t, [NUM_SAMPLES, _BATCH] if t.name in per_sample else [_BATCH]))
        for t in artifact_check.taken(inputs, per_sample)
    ]
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
    for_masks = onnx_graph.needed_for(graph, made)
    for_others = onnx_graph.needed_for(graph, [y.name for y in graph.output if y.name not in made])
    nodes = list(graph.node)
    inside = [nodes[i] for i in sorted(for_masks - for_others)]
    outside = [nodes[i] for i in sorted(for_others)]
    # What a branch gives bears a name of its own, for what makes a mask may stand outside.
    onnx_graph.rename(nodes, {name: f"{name}/source" for name in made})
    inside += [onnx.helper.make_node("Identity", [f"{name}/source"], [f"{name}/new"]) for name in made]
    onnx_graph.rename(outside, {mask.name: mask.name + MADE_SUFFIX for mask in masks})
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
    onnx_graph.sort(graph)


def _refuse_operators(model: onnx.ModelProto) -> None:
    for node in onnx_graph.nodes_of(model.graph):
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
