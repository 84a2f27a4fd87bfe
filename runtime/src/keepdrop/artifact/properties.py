"""Properties: further texts that an artifact keeps beside its graph, written without the `onnx` package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from .metadata import CHECKSUM_KEY
from .onnx_file import checksum, properties_apart


def with_properties(data: bytes, properties: Mapping[str, Optional[str]]) -> bytes:
    """The ONNX file `data` with these properties instead of those of the same names, None for none; checksum renewed.

    Everything else stays as it is, byte for byte.
    """
    rest, found = properties_apart(data)
    entries = {**found, **properties, CHECKSUM_KEY: None}
    content = rest + b"".join(_entry(key, text) for key, text in entries.items() if text is not None)
    return content + _entry(CHECKSUM_KEY, checksum(content))


def _entry(key: str, text: str) -> bytes:
    """An entry of ``metadata_props``: field 14 of a model, key and value its fields 1 and 2."""
    return _field(14, _field(1, key.encode()) + _field(2, text.encode()))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value >= 0x80:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
