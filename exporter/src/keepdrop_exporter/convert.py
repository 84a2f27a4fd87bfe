"""Stage 4, convert: the traced function becomes an ONNX model. The one module that imports tf2onnx and onnx."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from keepdrop.artifact import METADATA_KEY, NUM_SAMPLES, ROWS, Metadata, Tensor
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from .errors import ConvertError

OPSET = 18
# The newest that onnxruntime 1.16 reads with opset 18.
_IR_VERSION = 8
_BATCH = "batch"


def to_onnx(function: Any, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], defaults: Mapping[str, int]) -> onnx.ModelProto:
    """Convert a traced function to a checked ONNX model under the contract's names.

    Parameters
    ----------
    function
        The concrete function of ``trace.trace``; its inputs and outputs are named as the contract names them.
    inputs, outputs
        The model's own tensors.
    defaults
        The values of the optional inputs, by name.

    Raises
    ------
    ConvertError
        tf2onnx left something that is not a standard operator, or the result does not pass onnx' checker.
    """
    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=False)
    names_in = {x.name: x.name.removesuffix(":0") for x in frozen.inputs}
    # The structured outputs of a concrete function are sorted by name.
    names_out = dict(zip([y.name for y in frozen.outputs], sorted(t.name for t in outputs), strict=True))
    with _quiet():
        try:
            model, _ = tf2onnx.convert.from_graph_def(
                frozen.graph.as_graph_def(add_shapes=True),
                name="keepdrop",
                input_names=list(names_in),
                output_names=list(names_out),
                opset=OPSET,
                tensors_to_rename={**names_in, **names_out},
            )
        except Exception as error:
            raise ConvertError(f"tf2onnx cannot convert the traced model ({type(error).__name__}: {error})") from error
    _refuse_operators(model)
    _declare(model, inputs, outputs, defaults)
    model.ir_version = _IR_VERSION
    model.producer_name, model.producer_version = "keepdrop", ""
    try:
        onnx.checker.check_model(model, full_check=True)
    except Exception as error:
        raise ConvertError(f"the converted model is not valid ONNX: {error}") from error
    return model


def with_metadata(model: onnx.ModelProto, metadata: Metadata) -> onnx.ModelProto:
    """The same model bearing this metadata in place of any it had."""
    bearing = onnx.ModelProto()
    bearing.CopyFrom(model)
    del bearing.metadata_props[:]
    onnx.helper.set_model_props(bearing, {METADATA_KEY: metadata.to_json()})
    return bearing


@contextlib.contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """A temporary file in the target's folder; it is gone when the context ends, unless renamed."""
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".partial", dir=target.parent)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _declare(model: onnx.ModelProto, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], defaults: Mapping[str, int]) -> None:
    """Give the graph's tensors the contract's order, axes and defaults."""
    graph = model.graph
    declared = {value.name: value for value in (*graph.input, *graph.output)}

    def value(name: str, axes: list[str | int]) -> onnx.ValueInfoProto:
        element = declared[name].type.tensor_type.elem_type
        return onnx.helper.make_tensor_value_info(name, element, axes)

    def axes(tensor: Tensor, leading: list[str]) -> list[str | int]:
        rest = tensor.shape[len(leading) :]
        return [*leading, *(n if n is not None else f"{tensor.name}_{len(leading) + i}" for i, n in enumerate(rest))]

    controls = [value(name, [_BATCH] if name == ROWS else []) for name in declared if name in _CONTROLS]
    own = [value(t.name, axes(t, [_BATCH])) for t in inputs]
    samples = [value(t.name, axes(t, [NUM_SAMPLES, _BATCH])) for t in outputs]
    del graph.input[:], graph.output[:], graph.value_info[:]
    graph.input.extend([*own, *sorted(controls, key=lambda v: _CONTROLS.index(v.name))])
    graph.output.extend(samples)
    graph.initializer.extend(onnx.numpy_helper.from_array(np.int64(n), name) for name, n in defaults.items())


_CONTROLS = ("seed", ROWS, NUM_SAMPLES, "first_sample")


def _refuse_operators(model: onnx.ModelProto) -> None:
    for node in _nodes(model.graph):
        try:
            if node.domain not in ("", "ai.onnx"):
                raise ConvertError(f"node {node.name!r} is of domain {node.domain!r}, not a standard operator")
            onnx.defs.get_schema(node.op_type, OPSET)
        except onnx.defs.SchemaError as error:
            raise ConvertError(
                f"TensorFlow operator {node.op_type} (node {node.name!r}) has no counterpart in ONNX that tf2onnx knows; "
                "replace the layer that uses it"
            ) from error
        if node.op_type.startswith(("Random", "Multinomial", "Bernoulli")):
            raise ConvertError(f"node {node.name!r} ({node.op_type}) would draw numbers that no seed of the artifact reaches")


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """tf2onnx and TensorFlow's freezing talk about themselves; what matters comes as an error."""
    loggers = [logging.getLogger(name) for name in ("tf2onnx", tf.get_logger().name)]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
