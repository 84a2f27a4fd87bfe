"""NPZ: NumPy's files, .npy of one array and .npz of several by name, as whoever reads them here takes them apart.

What they hold is not trusted: a header may say any size, and pickled objects, which would run what they say, are
refused. Damage shows as whatever zipfile, zlib, struct, tokenize and numpy meet it with; readers say what it means.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import IO, Any, Union

import numpy as np
from numpy.typing import NDArray

MEMBER = ".npy"


def array_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype of the .npy file that begins here; ValueError where it has none."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, columns_first, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    if any(size < 0 for size in shape):
        raise ValueError(f"its shape is {list(shape)}")
    return shape, columns_first, dtype


def array_bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    """The bytes of such an array, by Python's integers: a header may say any size."""
    size = dtype.itemsize
    for length in shape:
        size *= int(length)
    return size


def entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The entries of an .npz file by their names in it; ValueError where one comes twice."""
    found: dict[str, zipfile.ZipInfo] = {}
    for entry in archive.infolist():
        if entry.filename in found:
            raise ValueError(f"it holds {entry.filename!r} twice")
        found[entry.filename] = entry
    return found


def whole(path: Path) -> Union[NDArray[Any], dict[str, NDArray[Any]]]:
    """The array of a .npy file, or those of an .npz file by name, in memory."""
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        return loaded
    with loaded:
        return {name: loaded[name] for name in loaded.files}
