"""What is given to load, opened safely: damage, sizes, paths and links are judged before Keras sees the file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from keepdrop_exporter.errors import LoadError

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

# Keras stores members as they are; deflate gives at most 1,032 to 1, on zeros.
_BOMB_SIZE, _BOMB_RATIO = 1 << 26, 100
_LARGEST_CONFIG = 1 << 27
_LARGEST_ARCHIVE = 1 << 36
_DEEPEST = 64
_FLOAT32 = 4


@dataclass(frozen=True)
class SavedLayer:
    """The weights of one layer as a file holds them: names and arrays, trainable ones first."""

    name: str
    names: tuple[str, ...]
    arrays: tuple[NDArray[np.generic], ...]


def sha256(*paths: Path) -> str:
    """The SHA-256 of a file, in hexadecimal; of a folder or of several files, that of a listing.

    The listing has a line ``<sha256>  <path>`` for each file, sorted by path, as ``sha256sum`` prints it.
    """
    if len(paths) == 1 and paths[0].is_file():
        return _of_file(paths[0])
    files = {
        (path.name if path.is_file() else file.relative_to(path).as_posix()): file
        for path in paths
        for file in ([path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()))
    }
    listing = "".join(f"{_of_file(file)}  {name}\n" for name, file in sorted(files.items()))
    return hashlib.sha256(listing.encode()).hexdigest()


def _of_file(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def parse(path: Path, text: str | bytes) -> Any:
    """JSON that a file holds.

    Raises
    ------
    LoadError
        It is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise LoadError(f"{path}: it is damaged: the description of its layers is not JSON ({error})") from error


@contextlib.contextmanager
def zip_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A ``.keras`` archive whose members are what they seem, each read once against its checksum.

    Raises
    ------
    LoadError
        It is no archive, is cut short or corrupted, lacks a member, or holds a path, link or size that no save makes.
    """
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise LoadError(
            f"{path}: it is damaged, or no .keras file at all (which is a zip archive); save the model again with "
            "model.save('name.keras')"
        ) from error
    with archive:
        _judge_members(path, archive)
        try:
            damaged = archive.testzip()
        except Exception as error:  # zipfile raises zlib's, struct's and its own
            raise LoadError(f"{path}: it is damaged ({error}); fetch or save it again") from error
        if damaged is not None:
            raise LoadError(f"{path}: it is damaged: {damaged} does not match its checksum; fetch or save it again")
        yield archive


def _judge_members(path: Path, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    names = [member.filename for member in members]
    for member in members:
        name = member.filename
        posix = PurePosixPath(name.replace("\\", "/"))
        if posix.is_absolute() or ".." in posix.parts or ":" in posix.parts[0]:
            raise LoadError(
                f"{path}: its member {name!r} points out of the archive; no save makes that, do not trust it"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise LoadError(f"{path}: its member {name!r} is a symbolic link; no save makes that, do not trust it")
        if names.count(name) > 1:
            raise LoadError(f"{path}: it holds {name!r} twice; no save makes that, do not trust it")
        if member.flag_bits & 1:
            raise LoadError(f"{path}: its member {name!r} is encrypted; save the model again without a password")
        if member.file_size > _BOMB_SIZE and member.file_size > _BOMB_RATIO * max(1, member.compress_size):
            raise LoadError(
                f"{path}: its member {name!r} would unpack {member.compress_size:,} bytes to {member.file_size:,}; no "
                "save makes that, do not trust it"
            )
    if sum(member.file_size for member in members) > _LARGEST_ARCHIVE:
        raise LoadError(f"{path}: it would unpack to more than {_LARGEST_ARCHIVE:,} bytes; do not trust it")
    if missing := [name for name in (CONFIG, METADATA) if name not in names]:
        raise LoadError(
            f"{path}: it is no .keras file: the archive has no {missing[0]}; save the model with "
            "model.save('name.keras')"
        )
    if archive.getinfo(CONFIG).file_size > _LARGEST_CONFIG:
        raise LoadError(f"{path}: its {CONFIG} has {archive.getinfo(CONFIG).file_size:,} bytes; do not trust it")


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
            if item.nbytes > _BOMB_SIZE and item.nbytes > _BOMB_RATIO * max(1, stored):
                raise LoadError(
                    f"{path}: its {name!r} would unpack {stored:,} bytes to {item.nbytes:,}; no save makes that, do "
                    "not trust it"
                )


_KERAS_2_13 = "_layer_checkpoint_dependencies"


def is_of_keras_2_13(file: h5py.File) -> bool:
    """Whether ``lay_out_as_keras3`` has anything to move."""
    return bool(file.visit(lambda name: name.rpartition("/")[2] == _KERAS_2_13 or None))


def lay_out_as_keras3(path: Path) -> None:
    """Move, in place, the layers of a ``.weights.h5`` file of Keras 2.13 or 2.14 to where Keras 3 looks for them.

    The two walk a functional model by another list of its layers, in which a layer with weights stands twice: of the
    numbers that tell layers of one class apart, 2.13 skips some.
    """
    with h5py.File(path, "r+") as file:
        models: list[str] = []
        file.visit(lambda name: models.append(name) if name.rpartition("/")[2] == _KERAS_2_13 else None)
        for name in sorted(models, key=len, reverse=True):
            parent = file[name].parent
            if "layers" in parent:
                del parent["layers"]
            parent.move(_KERAS_2_13, "layers")
            counts: dict[str, int] = {}
            for old in sorted(parent["layers"], key=_class_and_number):
                kind, _ = _class_and_number(old)
                count = counts[kind] = counts.get(kind, -1) + 1
                new = f"{kind}_{count}" if count else kind
                if new != old:
                    parent["layers"].move(old, new)


def _class_and_number(name: str) -> tuple[str, int]:
    kind, _, number = name.rpartition("_")
    return (kind, int(number)) if kind and number.isdecimal() else (name, 0)


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


def refuse_size(what: object, shapes: Sequence[tuple[int | None, ...]], most: int | None) -> None:
    """Refuse weights that take more than ``most`` bytes as float32.

    Raises
    ------
    LoadError
        They do; the text has the sum.
    """
    numbers = sum(math.prod(n or 1 for n in shape) for shape in shapes)
    if most is not None and numbers * _FLOAT32 > most:
        raise LoadError(
            f"{what}: its weights are {numbers:,} numbers of 4 bytes, {numbers * _FLOAT32 / 2**30:.1f} GiB, and an "
            f"ONNX file holds at most {most / 2**30:.1f} GiB; write a SavedModel (--format savedmodel), or make "
            "the model smaller"
        )


def _plain(error: BaseException) -> str:
    return " ".join(str(error).strip("'\"").split())[:200]
