"""What stands in an ONNX file beside its graph: changed without touching the graph, and told apart from the numbers.

A device does so without the `onnx` package, by the bytes of the file.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Optional, Union

from .metadata import CHECKSUM_KEY, METADATA_KEY, Metadata
from .onnx_file import (
    ENTRY_KEY,
    ENTRY_VALUE,
    MODEL_GRAPH,
    MODEL_METADATA,
    MODEL_OPSET,
    add_property,
    top_level,
)
from .wire import field


def with_properties(data: bytes, changes: Mapping[str, Optional[str]]) -> bytes:
    """The same file with these properties (metadata_props) in place of what it had of them, and a new checksum.

    The graph and all else stay byte by byte; the properties are written in the order of their keys, so that the same
    ones give the same file whichever came first.

    Parameters
    ----------
    data
        A serialized ONNX model, an artifact or to become one.
    changes
        Text by key, such as ``metadata.CALIBRATION_KEY``; None takes the property away.

    Raises
    ------
    ArtifactError
        The file is torn.
    """
    body: list[Union[memoryview, bytes]] = []
    properties: dict[str, str] = {}
    for tag, start, stop, whole in top_level(data):
        if tag == MODEL_METADATA:
            add_property(properties, data, start, stop)
        else:
            body.append(whole)
    kept = {key: value for key, value in {**properties, **changes}.items() if value is not None}
    kept.pop(CHECKSUM_KEY, None)
    parts = [*body, *(_written(key, kept[key]) for key in sorted(kept))]
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return b"".join([*parts, _written(CHECKSUM_KEY, f"{crc:08x}")])


def numbers_digest(data: bytes) -> str:
    """The sha256, in hexadecimal, of what an artifact's numbers depend on: its graph, its weights, its contract.

    It is the same for a copy with another calibration, table or measured cost, and for the same model exported again by
    the same versions. What is valid for these numbers alone binds to it: a saved stream, a calibration.

    Raises
    ------
    ArtifactError
        The file is torn, or is no artifact.
    """
    import hashlib  # brings OpenSSL, which few calls need

    properties: dict[str, str] = {}
    digest = hashlib.sha256()
    for tag, start, stop, whole in top_level(data):
        if tag == MODEL_METADATA:
            add_property(properties, data, start, stop)
        elif tag in (MODEL_GRAPH, MODEL_OPSET):
            digest.update(whole)
    contract = Metadata.from_json(properties.get(METADATA_KEY, "")).contract
    digest.update(f"contract {contract}".encode())
    return digest.hexdigest()


def _written(key: str, value: str) -> bytes:
    entry = field(ENTRY_KEY, key.encode()) + field(ENTRY_VALUE, value.encode())
    return field(MODEL_METADATA, entry)
