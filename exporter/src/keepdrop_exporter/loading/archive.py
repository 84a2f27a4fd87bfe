"""A ``.keras`` archive and what is given to load, judged before Keras sees it (damage, sizes, paths), and its hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import stat
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from keepdrop_exporter.errors import LoadError

SUFFIX, SIGNATURE = ".keras", b"PK\x03\x04"
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

# Keras stores members as they are; deflate gives at most 1,032 to 1, on zeros.
BOMB_SIZE, BOMB_RATIO = 1 << 26, 100
_LARGEST_CONFIG = 1 << 27
_LARGEST_ARCHIVE = 1 << 36
# Three, and one for each vocabulary; Keras 3.15 takes a time that grows with their square.
_MOST_MEMBERS = 1 << 12
_FLOAT32 = 4


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
        raise LoadError(f"{path}: it is damaged: the description of its layers is not JSON ({plain(error)})") from error


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
    except Exception as error:  # of damaged directories, struct's, zlib's and NotImplementedError too
        raise LoadError(
            f"{path}: it is damaged, or no .keras file at all (which is a zip archive); save the model again with "
            "model.save('name.keras')"
        ) from error
    with archive:
        _judge_members(path, archive)
        try:
            damaged = archive.testzip()
        except Exception as error:  # zipfile raises zlib's, struct's and its own
            raise LoadError(f"{path}: it is damaged ({plain(error)}); fetch or save it again") from error
        if damaged is not None:
            raise LoadError(f"{path}: it is damaged: {damaged} does not match its checksum; fetch or save it again")
        yield archive


def _judge_members(path: Path, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    if len(members) > _MOST_MEMBERS:
        raise LoadError(f"{path}: it has {len(members):,} members; no save makes that, do not trust it")
    names = Counter(member.filename for member in members)
    for member in members:
        name = member.filename
        posix = PurePosixPath(name.replace("\\", "/"))
        if posix.is_absolute() or ".." in posix.parts or not posix.parts or ":" in posix.parts[0]:
            raise LoadError(
                f"{path}: its member {name!r} points out of the archive; no save makes that, do not trust it"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise LoadError(f"{path}: its member {name!r} is a symbolic link; no save makes that, do not trust it")
        if names[name] > 1:
            raise LoadError(f"{path}: it holds {name!r} twice; no save makes that, do not trust it")
        if member.flag_bits & 1:
            raise LoadError(f"{path}: its member {name!r} is encrypted; save the model again without a password")
        if member.file_size > BOMB_SIZE and member.file_size > BOMB_RATIO * max(1, member.compress_size):
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


def weights(archive: zipfile.ZipFile, folder: Path) -> Path:
    """The weights of an archive as a file of their own in ``folder``."""
    return Path(archive.extract(WEIGHTS, folder))


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


def plain(error: BaseException) -> str:
    """An error's text in one line."""
    return " ".join(str(error).strip("'\"").split())[:300]
