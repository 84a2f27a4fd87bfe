"""An HDF5 file, opened safely: damage, sizes and links are judged before Keras sees it; the weights in it by layer."""

from __future__ import annotations

import contextlib
import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from keepdrop_exporter.errors import LoadError

from .archive import BOMB_RATIO, BOMB_SIZE, plain

SUFFIXES, SIGNATURE = (".h5", ".hdf5"), b"\x89HDF\r\n\x1a\n"

_DEEPEST = 64
_LARGEST_ATTRIBUTE = 1 << 27

# What compile and fit leave in a .weights.h5 file, by the attribute of the model that Keras 2.13 to 3.15 walk through.
_OF_TRAINING = {
    "optimizer", "_optimizer", "metrics", "_metrics", "loss", "_loss", "compiled_loss", "compiled_metrics",
    "_compile_loss", "_compile_metrics", "loss_tracker", "_loss_tracker",
}  # fmt: skip
_OF_LAYERS = ("layers", "_layer_checkpoint_dependencies")


@dataclass(frozen=True)
class SavedLayer:
    """The weights of one layer as a file holds them: names and arrays, trainable ones first."""

    name: str
    names: tuple[str, ...]
    arrays: tuple[NDArray[np.generic], ...]


@contextlib.contextmanager
def hdf5(path: Path, given: Path | None = None) -> Iterator[h5py.File]:
    """An HDF5 file, open for reading, called ``given`` in messages; what is in it was judged.

    Raises
    ------
    LoadError
        It is none, is cut short or corrupted, or holds links, or sizes out of all proportion.
    """
    given = given or path
    try:
        file = h5py.File(path, "r")
    except Exception as error:
        raise LoadError(
            f"{given}: it is damaged, or no HDF5 file at all ({plain(error)}); save the model again with "
            "model.save('name.keras')"
        ) from error
    try:
        with file:
            if _is_endless(path):
                raise ValueError("HDF5 would read its texts for ever")
            _Judge(given).group(file)
            yield file
    except LoadError:
        raise
    # For what lies damaged within h5py 3.14 raises a dozen kinds, UnicodeDecodeError and MemoryError among them.
    except Exception as error:
        raise LoadError(f"{given}: it is damaged ({plain(error)}); fetch or save it again") from error


# How a collection of a global heap begins (HDF5 File Format Specification, III.E): the signature and version 1.
_HEAP = b"GCOL\x01\0\0\0"
_HEADER = 16


def _is_endless(path: Path) -> bool:
    """Whether a heap of texts has free space of no length, which libhdf5 (1.14) never leaves when it reads one."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        begin = content.find(_HEAP)
        while begin >= 0:
            end = min(begin + int.from_bytes(content[begin + 8 : begin + _HEADER], "little"), len(content))
            at = begin + _HEADER
            while at + _HEADER <= end:
                index, length = struct.unpack_from("<HxxxxxxQ", content, at)
                if not index and not length:
                    return True
                at += _HEADER + -(-length // 8) * 8 if index else length
            begin = content.find(_HEAP, begin + 1)
    return False


class _Judge:
    """Refuses what lies elsewhere than in the file itself, and sizes that the file does not hold."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: set[int] = set()
        self._stored = self._unpacked = 0

    def group(self, group: h5py.Group, depth: int = 0) -> None:
        """Judge all that is below a group, whose own links are judged by its parent."""
        if depth > _DEEPEST:
            raise self._untrusted(f"its groups are nested more than {_DEEPEST} deep")
        for name in group:
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise self._untrusted(f"its {name!r} is a link")
            item = group[name]
            place = h5py.h5o.get_info(item.id).addr
            if place in self._seen:
                raise self._untrusted(f"its {name!r} is another name of what it holds already")
            self._seen.add(place)
            if isinstance(item, h5py.Group):
                self.group(item, depth + 1)
            elif isinstance(item, h5py.Dataset):
                self._dataset(name, item)

    def _dataset(self, name: str, item: h5py.Dataset) -> None:
        if item.is_virtual or item.external:
            raise self._untrusted(f"its {name!r} lies in another file")
        size = math.prod(item.shape or ()) * item.dtype.itemsize
        self._stored += item.id.get_storage_size()
        self._unpacked += size
        if self._unpacked > BOMB_SIZE and self._unpacked > BOMB_RATIO * max(1, self._stored):
            raise self._untrusted(f"with {name!r} it would unpack {self._stored:,} bytes to {self._unpacked:,}")

    def _untrusted(self, what: str) -> LoadError:
        return LoadError(f"{self._path}: {what}; no save makes that, do not trust it")


def text(value: Any) -> str:
    """An HDF5 attribute as text, whether it was written as bytes or not."""
    return value.decode("utf8") if hasattr(value, "decode") else str(value)


def attribute(holder: h5py.Group, name: str) -> Any:
    """An attribute of a file or group, None where there is none.

    Raises
    ------
    LoadError
        It says that it takes more than a description ever does.
    """
    if name not in holder.attrs:
        return None
    identifier = holder.attrs.get_id(name)
    size = math.prod(identifier.shape) * identifier.dtype.itemsize
    if size > _LARGEST_ATTRIBUTE:
        raise LoadError(f"{holder.file.filename}: its attribute {name!r} has {size:,} bytes; do not trust it")
    return holder.attrs[name]


def layer_weights(path: Path, group: h5py.Group) -> list[SavedLayer]:
    """The weights in a group as Keras 2 (and Keras 3 in ``.h5``) lays them out, layers with none left out.

    Raises
    ------
    LoadError
        One that is named is not there, or is named twice.
    """
    layers, seen = [], set[str]()

    def own(holder: h5py.Group, name: str) -> Any:
        if name not in holder:
            raise LoadError(f"{path}: it names weights {name!r} and does not hold them; fetch or save it again")
        place = f"{holder.name}/{name}"
        if place in seen or "." in name.split("/"):
            raise LoadError(f"{path}: it names {name!r} twice; no save makes that, do not trust it")
        seen.add(place)
        return holder[name]

    for name in (*_listed(group, "layer_names"), "top_level_model_weights"):
        if name == "top_level_model_weights" and name not in group:
            continue
        inner = own(group, name)
        names = tuple(_listed(inner, "weight_names"))
        if names:
            layers.append(SavedLayer(name, names, tuple(np.asarray(own(inner, weight)) for weight in names)))
    return layers


def _listed(group: h5py.Group, name: str) -> list[str]:
    """An attribute of names; where it is large it lies in numbered parts."""
    if (whole := attribute(group, name)) is not None:
        return [text(value) for value in whole]
    parts: list[str] = []
    while (part := attribute(group, f"{name}{len(parts)}")) is not None:
        parts.append(part)
    return [text(value) for part in parts for value in part]


def variables(file: h5py.Group, generators: bool = True) -> list[tuple[int, ...]]:
    """The shapes of all weights of layers in a ``.weights.h5`` file; what training left beside them does not count.

    ``generators``: the states of seed generators are among them.
    """
    shapes: list[tuple[int, ...]] = []

    def visit(name: str, item: Any) -> None:
        parts = name.split("/")
        state = not generators and any(part.startswith("seed_generator") for part in parts)
        if isinstance(item, h5py.Dataset) and "vars" in parts and not state and not _is_of_training(parts):
            shapes.append(item.shape)

    file.visititems(visit)
    return shapes


def _is_of_training(parts: list[str]) -> bool:
    """Whether a place lies below an attribute that training has left in a model, not in a layer of that name."""
    above = ["", *parts]
    return any(part in _OF_TRAINING and outer not in _OF_LAYERS for outer, part in zip(above, parts, strict=False))


def declared(group: h5py.Group) -> list[tuple[int, ...]]:
    """The shapes of all datasets below a group."""
    shapes: list[tuple[int, ...]] = []
    group.visititems(lambda name, item: shapes.append(item.shape) if isinstance(item, h5py.Dataset) else None)
    return shapes
