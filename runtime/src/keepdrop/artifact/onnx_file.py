"""An ONNX file's bytes, read before onnxruntime sees them: what is declared, and what no artifact holds.

A file is untrusted, and onnxruntime already works on a graph when it opens it: it reads external data, folds
constants, rewrites. A device has no `onnx` package, so this walks the few fields that matter, strictly and without
copying weights. A message that cannot be read is refused; fields it does not know are passed over, as Protocol
Buffers has it.

The field numbers: onnx.proto, where they never change.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Optional

from keepdrop.errors import ArtifactError

from .metadata import CHECKSUM_KEY, METADATA_KEY, OPSET, UNSEEDED_OPERATORS
from .wire import FIXED32, FIXED64, VARINT, count_varints, fields, tag_of, text, torn, varint, varints

# Graphs within graphs; an export has two or three.
MAX_DEPTH = 16
# Axes of a constant; onnxruntime's own limit is lower for most operators.
MAX_RANK = 64

MODEL_GRAPH, MODEL_OPSET, MODEL_METADATA = tag_of(7), tag_of(8), tag_of(14)
_MODEL_TRAINING, _MODEL_FUNCTIONS = tag_of(20), tag_of(25)
_OPSET_DOMAIN, _OPSET_VERSION = tag_of(1), tag_of(2, VARINT)
ENTRY_KEY, ENTRY_VALUE = tag_of(1), tag_of(2)
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = tag_of(1), tag_of(5), tag_of(15)
_GRAPH_INPUT, _GRAPH_OUTPUT = tag_of(11), tag_of(12)
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = tag_of(4), tag_of(5), tag_of(7)
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (
    (tag_of(5), tag_of(10)),
    (tag_of(6), tag_of(11)),
    (tag_of(22), tag_of(23)),
)
_TENSOR_NAME, _TENSOR_DTYPE, _TENSOR_RAW = tag_of(8), tag_of(2, VARINT), tag_of(9)
_TENSOR_SIZE, _TENSOR_SIZES = tag_of(1, VARINT), tag_of(1)
# What a tensor's numbers are packed in where they are not raw: float_data, double_data; and int32, int64, uint64_data.
_TENSOR_FIXED, _TENSOR_VARINTS = {tag_of(4): 4, tag_of(10): 8}, (tag_of(5), tag_of(7), tag_of(11))
_TENSOR_UNPACKED = (tag_of(4, FIXED32), tag_of(10, FIXED64), *(tag_of(n, VARINT) for n in (5, 7, 11)))
_TENSOR_EXTERNAL = (tag_of(13), tag_of(14, VARINT))
_VALUE_NAME, _VALUE_TYPE = tag_of(1), tag_of(2)
_TYPE_TENSOR, _TENSOR_TYPE_DTYPE, _TENSOR_TYPE_SHAPE = tag_of(1), tag_of(1, VARINT), tag_of(2)
_SHAPE_AXIS, _AXIS_SIZE = tag_of(1), tag_of(1, VARINT)

_UNSEEDED = frozenset(name.encode() for name in UNSEEDED_OPERATORS)
# TensorProto.DataType: numpy's name, and the bytes of one number.
_DTYPES = {
    1: ("float32", 4),
    2: ("uint8", 1),
    3: ("int8", 1),
    4: ("uint16", 2),
    5: ("int16", 2),
    6: ("int32", 4),
    7: ("int64", 8),
    9: ("bool", 1),
    10: ("float16", 2),
    11: ("float64", 8),
    12: ("uint32", 4),
    13: ("uint64", 8),
}
# The dtypes that an artifact's tensors can have.
NUMBERS = frozenset(name for name, _ in _DTYPES.values())


class Declared(NamedTuple):
    """A graph's input or output; None in ``shape`` is an axis without a number, None as ``shape`` an unknown rank."""

    name: str
    dtype: str
    shape: Optional[tuple[Optional[int], ...]]


class Contents(NamedTuple):
    """What was read of a file.

    Its properties (metadata_props) by key, the graph's inputs and outputs, its constants' names, the operators it has
    at any depth, and the checksum of all of it.
    """

    properties: Mapping[str, str]
    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]
    initializers: frozenset[str]
    operators: frozenset[str]
    checksum: str

    @property
    def metadata(self) -> Optional[str]:
        """The `keepdrop` metadata, JSON text."""
        return self.properties.get(METADATA_KEY)


def read(data: bytes) -> Contents:
    """Walk a whole ONNX file.

    Raises
    ------
    ArtifactError
        It is torn or not ONNX; its checksum is another; or it holds what no artifact does: external data, operators
        outside the standard or with random numbers of their own, functions, another opset.
    """
    properties: dict[str, str] = {}
    graphs, opsets = [], []
    for tag, start, stop in fields(data, 0, len(data)):
        if tag == MODEL_GRAPH:
            graphs.append((start, stop))
        elif tag == MODEL_OPSET:
            opsets.append(_opset(data, start, stop))
        elif tag == MODEL_METADATA:
            add_property(properties, data, start, stop)
        elif tag in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise ArtifactError("it holds training steps or functions, which no export writes; export the model again")
    if len(graphs) != 1:
        raise torn(f"{len(graphs)} graphs")
    expected, found = properties.get(CHECKSUM_KEY), checksum(data)
    if expected not in (None, found):
        raise ArtifactError(
            f"it is damaged: its checksum is {found} and it was written with {str(expected)[:8]!r}; copy it again, or "
            "export the model again (what another tool has rewritten is no longer what was verified)"
        )
    if [version for domain, version in opsets if domain in (b"", b"ai.onnx")] != [OPSET]:
        raise ArtifactError(f"it is not of opset {OPSET}, in which an artifact is written; export the model again")
    operators: set[bytes] = set()
    inputs, outputs, initializers = _graph(data, *graphs[0], depth=0, operators=operators)
    names = frozenset(operator.decode("ascii", "replace") for operator in operators)
    return Contents(properties, tuple(inputs), tuple(outputs), frozenset(initializers), names, found)


def checksum(data: bytes) -> str:
    """CRC-32 of a serialized ONNX model without the metadata entry that holds it, as eight hexadecimal digits.

    It tells a torn or flipped file, metadata included; it is no protection against someone who means to deceive.
    """
    crc = 0
    for tag, start, stop, whole in top_level(data):
        if tag != MODEL_METADATA or _entry(data, start, stop)[0] != CHECKSUM_KEY:
            crc = zlib.crc32(whole, crc)
    return f"{crc:08x}"


def top_level(data: bytes) -> Iterator[tuple[int, int, int, memoryview]]:
    """Tag and extent of each field of the model, and all of its bytes."""
    position = 0
    for tag, start, stop in fields(data, 0, len(data)):
        yield tag, start, stop, memoryview(data)[position:stop]
        position = stop


def add_property(properties: dict[str, str], data: bytes, start: int, stop: int) -> None:
    """Read one property of the model; ArtifactError where its key is there already."""
    key, value = _entry(data, start, stop)
    if key in properties:
        raise ArtifactError(f"its metadata hold {key!r} twice; export the model again")
    properties[key] = value


def _graph(
    data: bytes, start: int, stop: int, depth: int, operators: set[bytes]
) -> tuple[list[Declared], list[Declared], list[str]]:
    if depth > MAX_DEPTH:
        raise ArtifactError(f"its graph is nested more than {MAX_DEPTH} deep; export the model again")
    inputs, outputs, initializers = [], [], []
    for tag, at, end in fields(data, start, stop):
        if tag == _GRAPH_NODE:
            _check_node(data, at, end, depth, operators)
        elif tag == _GRAPH_INITIALIZER:
            initializers.append(_tensor(data, at, end))
        elif tag == _GRAPH_INPUT:
            inputs.append(_declared(data, at, end))
        elif tag == _GRAPH_OUTPUT:
            outputs.append(_declared(data, at, end))
        elif tag == _GRAPH_SPARSE:
            raise _sparse()
    return inputs, outputs, initializers


def _check_node(data: bytes, start: int, stop: int, depth: int, operators: set[bytes]) -> None:
    for tag, at, end in fields(data, start, stop):
        if tag == _NODE_ATTRIBUTE:
            _check_attribute(data, at, end, depth, operators)
        elif tag == _NODE_OPERATOR:
            operators.add(data[at:end])
            if data[at:end] in _UNSEEDED:
                raise ArtifactError(
                    f"it holds the operator {text(data, at, end)}, whose random numbers no seed reaches; export the "
                    "model again"
                )
        elif tag == _NODE_DOMAIN and at != end:
            raise ArtifactError(
                f"it holds an operator of domain {text(data, at, end)!r}; an artifact has standard ONNX operators "
                "alone: export the model again"
            )


def _check_attribute(data: bytes, start: int, stop: int, depth: int, operators: set[bytes]) -> None:
    for tag, at, end in fields(data, start, stop):
        if tag in _ATTRIBUTE_GRAPHS:
            _graph(data, at, end, depth + 1, operators)
        elif tag in _ATTRIBUTE_TENSORS:
            _tensor(data, at, end)
        elif tag in _ATTRIBUTE_SPARSE:
            raise _sparse()


def _tensor(data: bytes, start: int, stop: int) -> str:
    """The name of a tensor whose numbers are all in this file, as many as its shape has."""
    name, dtype, shape, size, count = "", 0, [], None, 0
    for tag, at, end in fields(data, start, stop):
        if tag in _TENSOR_EXTERNAL:
            raise ArtifactError(
                "it keeps tensors in other files (external data); an artifact is one file: export the model again"
            )
        if tag == _TENSOR_NAME:
            name = text(data, at, end)
        elif tag == _TENSOR_DTYPE:
            dtype = varint(data, at, end)[0]
        elif tag == _TENSOR_SIZE:
            shape.append(varint(data, at, end)[0])
        elif tag == _TENSOR_SIZES and end - at <= 10 * MAX_RANK:
            shape += varints(data, at, end)
        elif tag == _TENSOR_RAW:
            size = end - at
        elif tag in _TENSOR_FIXED:
            count += (end - at) // _TENSOR_FIXED[tag]
        elif tag in _TENSOR_VARINTS:
            count += count_varints(data, at, end)
        if len(shape) > MAX_RANK or tag == _TENSOR_SIZES and end - at > 10 * MAX_RANK:
            raise ArtifactError(f"it holds a constant of more than {MAX_RANK} axes; export the model again")
        if tag in _TENSOR_UNPACKED:
            raise torn(f"numbers of constant {name!r} one by one, which no ONNX writer does")
    if dtype not in _DTYPES:
        raise ArtifactError(f"its constant {name!r} is of ONNX dtype {dtype}, not of numbers; export the model again")
    # In Python's integers: in 64 bits, sizes such as [2**62, 4] come to nothing.
    elements = math.prod(shape)
    if elements * _DTYPES[dtype][1] != size if size is not None else elements != count:
        raise ArtifactError(
            f"its constant {name!r} has the shape {shape} and {count if size is None else f'{size} bytes'} of numbers; "
            "export the model again"
        )
    return name


def _declared(data: bytes, start: int, stop: int) -> Declared:
    name, types = "", []
    for tag, at, end in fields(data, start, stop):
        if tag == _VALUE_NAME:
            name = text(data, at, end)
        elif tag == _VALUE_TYPE:
            types += [_tensor_type(data, *type_[1:]) for type_ in fields(data, at, end) if type_[0] == _TYPE_TENSOR]
    if len(types) != 1:
        return Declared(name, "no tensor", None)
    return Declared(name, *types[0])


def _tensor_type(data: bytes, start: int, stop: int) -> tuple[str, Optional[tuple[Optional[int], ...]]]:
    dtype, shapes = "no dtype", []
    for tag, at, end in fields(data, start, stop):
        if tag == _TENSOR_TYPE_DTYPE:
            code = varint(data, at, end)[0]
            dtype = _DTYPES[code][0] if code in _DTYPES else f"ONNX dtype {code}"
        elif tag == _TENSOR_TYPE_SHAPE:
            axes = [axis for axis in fields(data, at, end) if axis[0] == _SHAPE_AXIS]
            shapes.append(tuple(_size(data, *axis[1:]) for axis in axes))
    return dtype, shapes[0] if len(shapes) == 1 else None


def _size(data: bytes, start: int, stop: int) -> Optional[int]:
    size = None
    for tag, at, end in fields(data, start, stop):
        if tag == _AXIS_SIZE:
            size = varint(data, at, end)[0]
    return size


def _opset(data: bytes, start: int, stop: int) -> tuple[bytes, int]:
    domain, version = b"", 0
    for tag, at, end in fields(data, start, stop):
        if tag == _OPSET_DOMAIN:
            domain = data[at:end]
        elif tag == _OPSET_VERSION:
            version = varint(data, at, end)[0]
    return domain, version


def _entry(data: bytes, start: int, stop: int) -> tuple[str, str]:
    """Key and value of an entry of the metadata."""
    parts = {tag: text(data, at, end) for tag, at, end in fields(data, start, stop) if tag in (ENTRY_KEY, ENTRY_VALUE)}
    return parts.get(ENTRY_KEY, ""), parts.get(ENTRY_VALUE, "")


def _sparse() -> ArtifactError:
    return ArtifactError("it holds sparse tensors, which no export writes; export the model again")
