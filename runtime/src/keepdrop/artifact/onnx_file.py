"""An ONNX file's bytes, read before onnxruntime sees them: what is declared, and what no artifact holds.

A file is untrusted, and onnxruntime already works on a graph when it opens it: it reads external data, folds
constants, rewrites. A device has no `onnx` package, so this walks the few fields that matter, strictly and without
copying weights. A message that cannot be read is refused; fields it does not know are passed over, as Protocol
Buffers has it.

The wire format: https://protobuf.dev/programming-guides/encoding. The field numbers: onnx.proto, where they never
change.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple, Optional

from keepdrop.errors import ArtifactError

from .metadata import CHECKSUM_KEY, METADATA_KEY, OPSET, UNSEEDED_OPERATORS

# Graphs within graphs; an export has two or three.
MAX_DEPTH = 16

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def _tag(number: int, wire: int = _BYTES) -> int:
    return number << 3 | wire


_MODEL_GRAPH, _MODEL_OPSET, _MODEL_METADATA = _tag(7), _tag(8), _tag(14)
_MODEL_TRAINING, _MODEL_FUNCTIONS = _tag(20), _tag(25)
_OPSET_DOMAIN, _OPSET_VERSION = _tag(1), _tag(2, _VARINT)
_ENTRY_KEY, _ENTRY_VALUE = _tag(1), _tag(2)
_GRAPH_NODE, _GRAPH_INITIALIZER, _GRAPH_SPARSE = _tag(1), _tag(5), _tag(15)
_GRAPH_INPUT, _GRAPH_OUTPUT = _tag(11), _tag(12)
_NODE_OPERATOR, _NODE_ATTRIBUTE, _NODE_DOMAIN = _tag(4), _tag(5), _tag(7)
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (
    (_tag(5), _tag(10)),
    (_tag(6), _tag(11)),
    (_tag(22), _tag(23)),
)
_TENSOR_NAME, _TENSOR_DTYPE, _TENSOR_RAW = _tag(8), _tag(2, _VARINT), _tag(9)
_TENSOR_SIZE, _TENSOR_SIZES = _tag(1, _VARINT), _tag(1)
# What a tensor's numbers are packed in where they are not raw: float_data, double_data; and int32, int64, uint64_data.
_TENSOR_FIXED, _TENSOR_VARINTS = {_tag(4): 4, _tag(10): 8}, (_tag(5), _tag(7), _tag(11))
_TENSOR_EXTERNAL = (_tag(13), _tag(14, _VARINT))
_VALUE_NAME, _VALUE_TYPE = _tag(1), _tag(2)
_TYPE_TENSOR, _TENSOR_TYPE_DTYPE, _TENSOR_TYPE_SHAPE = _tag(1), _tag(1, _VARINT), _tag(2)
_SHAPE_AXIS, _AXIS_SIZE = _tag(1), _tag(1, _VARINT)

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

    Its `keepdrop` metadata, the graph's inputs and outputs, its constants' names, the checksum of all of it, and every
    property by its key.
    """

    metadata: Optional[str]
    inputs: tuple[Declared, ...]
    outputs: tuple[Declared, ...]
    initializers: frozenset[str]
    checksum: str
    properties: Mapping[str, str] = {}


def read(data: bytes) -> Contents:
    """Walk a whole ONNX file.

    Raises
    ------
    ArtifactError
        It is torn or not ONNX; its checksum is another; or it holds what no artifact does: external data, operators
        outside the standard or with random numbers of their own, functions, another opset.
    """
    metadata: dict[str, str] = {}
    graphs, opsets = [], []
    for tag, start, stop in _fields(data, 0, len(data)):
        if tag == _MODEL_GRAPH:
            graphs.append((start, stop))
        elif tag == _MODEL_OPSET:
            opsets.append(_opset(data, start, stop))
        elif tag == _MODEL_METADATA:
            key, value = _entry(data, start, stop)
            if key in metadata:
                raise ArtifactError(f"its metadata hold {key!r} twice; export the model again")
            metadata[key] = value
        elif tag in (_MODEL_TRAINING, _MODEL_FUNCTIONS):
            raise ArtifactError("it holds training steps or functions, which no export writes; export the model again")
    if len(graphs) != 1:
        raise _torn(f"{len(graphs)} graphs")
    expected, found = metadata.get(CHECKSUM_KEY), checksum(data)
    if expected not in (None, found):
        raise ArtifactError(
            f"it is damaged: its checksum is {found} and it was written with {str(expected)[:8]!r}; copy it again, or "
            "export the model again (what another tool has rewritten is no longer what was verified)"
        )
    if [version for domain, version in opsets if domain in (b"", b"ai.onnx")] != [OPSET]:
        raise ArtifactError(f"it is not of opset {OPSET}, in which an artifact is written; export the model again")
    inputs, outputs, initializers = _graph(data, *graphs[0], depth=0)
    return Contents(metadata.get(METADATA_KEY), tuple(inputs), tuple(outputs), frozenset(initializers), found, metadata)


def checksum(data: bytes) -> str:
    """CRC-32 of a serialized ONNX model without the metadata entry that holds it, as eight hexadecimal digits.

    It tells a torn or flipped file, metadata included; it is no protection against someone who means to deceive.
    """
    crc = position = 0
    for tag, start, stop in _fields(data, 0, len(data)):
        if tag != _MODEL_METADATA or _entry(data, start, stop)[0] != CHECKSUM_KEY:
            crc = zlib.crc32(memoryview(data)[position:stop], crc)
        position = stop
    return f"{crc:08x}"


def properties_apart(data: bytes) -> tuple[bytes, dict[str, str]]:
    """A serialized ONNX model without its properties, and these by key."""
    rest, found, position = [], {}, 0
    for tag, start, stop in _fields(data, 0, len(data)):
        if tag == _MODEL_METADATA:
            key, value = _entry(data, start, stop)
            found[key] = value
        else:
            rest.append(memoryview(data)[position:stop])
        position = stop
    return b"".join(rest), found


def _graph(data: bytes, start: int, stop: int, depth: int) -> tuple[list[Declared], list[Declared], list[str]]:
    if depth > MAX_DEPTH:
        raise ArtifactError(f"its graph is nested more than {MAX_DEPTH} deep; export the model again")
    inputs, outputs, initializers = [], [], []
    for tag, at, end in _fields(data, start, stop):
        if tag == _GRAPH_NODE:
            _check_node(data, at, end, depth)
        elif tag == _GRAPH_INITIALIZER:
            initializers.append(_tensor(data, at, end))
        elif tag == _GRAPH_INPUT:
            inputs.append(_declared(data, at, end))
        elif tag == _GRAPH_OUTPUT:
            outputs.append(_declared(data, at, end))
        elif tag == _GRAPH_SPARSE:
            raise _sparse()
    return inputs, outputs, initializers


def _check_node(data: bytes, start: int, stop: int, depth: int) -> None:
    for tag, at, end in _fields(data, start, stop):
        if tag == _NODE_ATTRIBUTE:
            _check_attribute(data, at, end, depth)
        elif tag == _NODE_OPERATOR and data[at:end] in _UNSEEDED:
            raise ArtifactError(
                f"it holds the operator {_text(data, at, end)}, whose random numbers no seed reaches; export the model "
                "again"
            )
        elif tag == _NODE_DOMAIN and at != end:
            raise ArtifactError(
                f"it holds an operator of domain {_text(data, at, end)!r}; an artifact has standard ONNX operators "
                "alone: export the model again"
            )


def _check_attribute(data: bytes, start: int, stop: int, depth: int) -> None:
    for tag, at, end in _fields(data, start, stop):
        if tag in _ATTRIBUTE_GRAPHS:
            _graph(data, at, end, depth + 1)
        elif tag in _ATTRIBUTE_TENSORS:
            _tensor(data, at, end)
        elif tag in _ATTRIBUTE_SPARSE:
            raise _sparse()


def _tensor(data: bytes, start: int, stop: int) -> str:
    """The name of a tensor whose numbers are all in this file, as many as its shape has."""
    name, dtype, shape, size, count = "", 0, [], None, 0
    for tag, at, end in _fields(data, start, stop):
        if tag in _TENSOR_EXTERNAL:
            raise ArtifactError(
                "it keeps tensors in other files (external data); an artifact is one file: export the model again"
            )
        if tag == _TENSOR_NAME:
            name = _text(data, at, end)
        elif tag == _TENSOR_DTYPE:
            dtype = _varint(data, at, end)[0]
        elif tag == _TENSOR_SIZE:
            shape.append(_varint(data, at, end)[0])
        elif tag == _TENSOR_SIZES:
            shape += _varints(data, at, end)
        elif tag == _TENSOR_RAW:
            size = end - at
        elif tag in _TENSOR_FIXED:
            count += (end - at) // _TENSOR_FIXED[tag]
        elif tag in _TENSOR_VARINTS:
            count += len(_varints(data, at, end))
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
    for tag, at, end in _fields(data, start, stop):
        if tag == _VALUE_NAME:
            name = _text(data, at, end)
        elif tag == _VALUE_TYPE:
            types += [_tensor_type(data, *type_[1:]) for type_ in _fields(data, at, end) if type_[0] == _TYPE_TENSOR]
    if len(types) != 1:
        return Declared(name, "no tensor", None)
    return Declared(name, *types[0])


def _tensor_type(data: bytes, start: int, stop: int) -> tuple[str, Optional[tuple[Optional[int], ...]]]:
    dtype, shapes = "no dtype", []
    for tag, at, end in _fields(data, start, stop):
        if tag == _TENSOR_TYPE_DTYPE:
            code = _varint(data, at, end)[0]
            dtype = _DTYPES[code][0] if code in _DTYPES else f"ONNX dtype {code}"
        elif tag == _TENSOR_TYPE_SHAPE:
            axes = [axis for axis in _fields(data, at, end) if axis[0] == _SHAPE_AXIS]
            shapes.append(tuple(_size(data, *axis[1:]) for axis in axes))
    return dtype, shapes[0] if len(shapes) == 1 else None


def _size(data: bytes, start: int, stop: int) -> Optional[int]:
    size = None
    for tag, at, end in _fields(data, start, stop):
        if tag == _AXIS_SIZE:
            size = _varint(data, at, end)[0]
    return size


def _opset(data: bytes, start: int, stop: int) -> tuple[bytes, int]:
    domain, version = b"", 0
    for tag, at, end in _fields(data, start, stop):
        if tag == _OPSET_DOMAIN:
            domain = data[at:end]
        elif tag == _OPSET_VERSION:
            version = _varint(data, at, end)[0]
    return domain, version


def _entry(data: bytes, start: int, stop: int) -> tuple[str, str]:
    """Key and value of an entry of the metadata."""
    parts = {
        tag: _text(data, at, end) for tag, at, end in _fields(data, start, stop) if tag in (_ENTRY_KEY, _ENTRY_VALUE)
    }
    return parts.get(_ENTRY_KEY, ""), parts.get(_ENTRY_VALUE, "")


def _text(data: bytes, start: int, stop: int) -> str:
    try:
        return data[start:stop].decode()
    except UnicodeDecodeError:
        raise _torn("text that is not UTF-8") from None


def _fields(data: bytes, position: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Tag and extent of each field of a message: of its content where it has a length."""
    while position < stop:
        tag = data[position]
        position += 1
        if tag >= 0x80:
            tag, position = _varint(data, position - 1, stop)
        start, wire = position, tag & 7
        if wire == _BYTES:
            length, start = _varint(data, position, stop)
            position = start + length
        elif wire == _VARINT:
            _, position = _varint(data, position, stop)
        elif wire == _FIXED32:
            position += 4
        elif wire == _FIXED64:
            position += 8
        else:
            raise _torn(f"a field of wire type {wire}")
        if position > stop or tag < 8:
            raise _torn(f"a field {tag >> 3} up to byte {position} in a message up to {stop}")
        yield tag, start, position


def _varint(data: bytes, position: int, stop: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while position < stop and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _torn("a number without an end")


def _varints(data: bytes, start: int, stop: int) -> list[int]:
    """Numbers of seven bits a byte, one after the other."""
    numbers = []
    while start < stop:
        number, start = _varint(data, start, stop)
        numbers.append(number)
    return numbers


def _torn(found: str) -> ArtifactError:
    return ArtifactError(
        f"it does not open as an ONNX file, or is torn ({found}); give the .onnx file that `keepdrop export` wrote"
    )


def _sparse() -> ArtifactError:
    return ArtifactError("it holds sparse tensors, which no export writes; export the model again")
