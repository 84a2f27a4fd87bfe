"""Protocol Buffers' wire format, as far as an ONNX file needs it: fields read without a copy, and written.

https://protobuf.dev/programming-guides/encoding. A device has no `protobuf` package.
"""

from __future__ import annotations

from collections.abc import Iterator

from keepdrop.errors import ArtifactError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_GOES_ON = bytes(range(0x80, 0x100))
_PART = 2**16


def tag_of(number: int, wire: int = BYTES) -> int:
    """What a field of this number and wire type begins with."""
    return number << 3 | wire


def field(tag: int, content: bytes) -> bytes:
    """A field that has a length, as it is written."""
    return _encoded(tag) + _encoded(len(content)) + content


def _encoded(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def text(data: bytes, start: int, stop: int) -> str:
    """UTF-8 text; ArtifactError where it is none."""
    try:
        return data[start:stop].decode()
    except UnicodeDecodeError:
        raise torn("text that is not UTF-8") from None


def fields(data: bytes, position: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Tag and extent of each field of a message: of its content where it has a length."""
    while position < stop:
        tag = data[position]
        position += 1
        if tag >= 0x80:
            tag, position = varint(data, position - 1, stop)
        start, wire = position, tag & 7
        if wire == BYTES:
            length, start = varint(data, position, stop)
            position = start + length
        elif wire == VARINT:
            _, position = varint(data, position, stop)
        elif wire == FIXED32:
            position += 4
        elif wire == FIXED64:
            position += 8
        else:
            raise torn(f"a field of wire type {wire}")
        if position > stop or tag < 8:
            raise torn(f"a field {tag >> 3} up to byte {position} in a message up to {stop}")
        yield tag, start, position


def varint(data: bytes, position: int, stop: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where it ends."""
    value = shift = 0
    while position < stop and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise torn("a number without an end")


def varints(data: bytes, start: int, stop: int) -> list[int]:
    """Numbers of seven bits a byte, one after the other."""
    numbers = []
    while start < stop:
        number, start = varint(data, start, stop)
        numbers.append(number)
    return numbers


def count_varints(data: bytes, start: int, stop: int) -> int:
    """How many numbers stand one after the other: there may be millions, of which only that matters."""
    if stop > start and data[stop - 1] >= 0x80:
        raise torn("a number without an end")
    # Each number ends in a byte without the mark that it goes on.
    parts = (data[at : min(at + _PART, stop)] for at in range(start, stop, _PART))
    return sum(len(part.translate(None, _GOES_ON)) for part in parts)


def torn(found: str) -> ArtifactError:
    """What to say of bytes that cannot be read, with what was found."""
    return ArtifactError(
        f"it does not open as an ONNX file, or is torn ({found}); give the .onnx file that `keepdrop export` wrote"
    )
