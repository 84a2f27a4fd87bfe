"""An HDF5 file, opened safely: damage, sizes and links are judged before Keras sees it; the weights in it by layer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from keepdrop_exporter.errors import LoadError

from .archive import BOMB_RATIO, BOMB_SIZE

_DEEPEST = 64


@dataclass(frozen=True)
class SavedLayer:
    """The weights of one layer as a file holds them: names and arrays, trainable ones first."""

    name: str
    names: tuple[str, ...]
    arrays: tuple[NDArray[np.generic], ...]


@contextlib.contextmanager
def hdf5(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file, open for reading.

    Raises
    ------
    LoadError
        It is none, or is cut short or corrupted.
    """
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise LoadError(
            f"{path}: it is damaged, or no HDF5 file at all ({_plain(error)}); save the model again with "
            "model.save('name.keras')"
        ) from error
    try:
        with file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:  # h5py's kinds for what lies damaged within
        raise LoadError(f"{path}: it is damaged ({_plain(error)}); fetch or save it again") from error


def text(value: Any) -> str:
    """An HDF5 attribute as text, whether it was written as bytes or not."""
    return value.decode("utf8") if hasattr(value, "decode") else str(value)


def layer_weights(group: h5py.Group) -> list[SavedLayer]:
    """The weights in a group as Keras 2 (and Keras 3 in ``.h5``) lays them out, layers with none left out.

    Raises
    ------
    LoadError
        One that is named is not there.
    """
    layers = []
    for name in (*_listed(group, "layer_names"), "top_level_model_weights"):
        if name == "top_level_model_weights" and name not in group:
            continue
        inner = _own(group, name)
        names = tuple(_listed(inner, "weight_names"))
        if names:
            layers.append(SavedLayer(name, names, tuple(np.asarray(_own(inner, weight)) for weight in names)))
    return layers


def _listed(group: h5py.Group, name: str) -> list[str]:
    """An attribute of names; where it is large it lies in numbered parts."""
    if name in group.attrs:
        return [text(value) for value in group.attrs[name]]
    parts: list[str] = []
    while f"{name}{(count := len(parts))}" in group.attrs:
        parts.append(f"{name}{count}")
    return [text(value) for part in parts for value in group.attrs[part]]


def _own(group: h5py.Group, name: str) -> Any:
    if name not in group:
        raise LoadError(f"{group.file.filename}: it names weights {name!r} and does not hold them; save it again")
    return group[name]


def judge(path: Path, group: h5py.Group, depth: int = 0) -> None:
    """Refuse what lies elsewhere than in the file itself, and sizes that the file does not hold.

    Raises
    ------
    LoadError
        There is such a thing below the group; the text names it.
    """
    if depth > _DEEPEST:
        raise LoadError(f"{path}: its groups are nested more than {_DEEPEST} deep; no save makes that, do not trust it")
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise LoadError(f"{path}: its {name!r} is a link; no save makes that, do not trust it")
        item = group[name]
        if isinstance(item, h5py.Group):
            judge(path, item, depth + 1)
        elif isinstance(item, h5py.Dataset):
            stored = item.id.get_storage_size()
            if item.is_virtual or item.external:
                raise LoadError(f"{path}: its {name!r} lies in another file; no save makes that, do not trust it")
            if item.nbytes > BOMB_SIZE and item.nbytes > BOMB_RATIO * max(1, stored):
                raise LoadError(
                    f"{path}: its {name!r} would unpack {stored:,} bytes to {item.nbytes:,}; no save makes that, do "
                    "not trust it"
                )


def variables(file: h5py.Group) -> list[tuple[int, ...]]:
    """The shapes of all weights in a ``.weights.h5`` file, those of an optimizer left out."""
    shapes: list[tuple[int, ...]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and "vars" in name.split("/") and not name.startswith("optimizer"):
            shapes.append(item.shape)

    file.visititems(visit)
    return shapes


def declared(group: h5py.Group) -> list[tuple[int, ...]]:
    """The shapes of all datasets below a group."""
    shapes: list[tuple[int, ...]] = []
    group.visititems(lambda name, item: shapes.append(item.shape) if isinstance(item, h5py.Dataset) else None)
    return shapes


def _plain(error: BaseException) -> str:
    return " ".join(str(error).strip("'\"").split())[:200]
