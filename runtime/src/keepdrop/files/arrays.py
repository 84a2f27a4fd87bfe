"""Arrays: .npy and .npz files, read as streams whether compressed or not.

A member of a .npz file bears a checksum, which zipfile compares only at its end: before some of its rows are used, each
member is read through once, so that no damaged number is answered.
"""

from __future__ import annotations

import contextlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Optional, Protocol, Union

import numpy as np
from numpy.typing import NDArray

from keepdrop import npz
from keepdrop.errors import InputError

from . import opening
from .reader import CURE
from .rows import Rows

NO_ARRAY = "give a .npy file of numbers, or an .npz file with arrays by input name"
# What is read at once where a member is proven.
PROOF = 1 << 16


class ArraySource:
    """A .npy file, or the arrays of an .npz file, one example a row."""

    features: tuple[str, ...] = ()
    manner = ""

    def __init__(self, path: Path, files: contextlib.ExitStack, id_name: Optional[str]) -> None:
        self.name = str(path)
        self._ids: Optional[_Array] = None
        with opening.readable(self.name, NO_ARRAY):
            if path.suffix.lower() == ".npy":
                self._arrays: Union[_Array, dict[str, _Array]] = _array(
                    lambda: files.enter_context(open(path, "rb")),  # noqa: SIM115
                    lambda: np.load(path, "r", allow_pickle=False),
                    path.stat().st_size,
                )
            else:
                archive = files.enter_context(zipfile.ZipFile(path))
                self._arrays = _members(archive)
        if id_name is not None:
            self._ids = self._take_ids(id_name)
        self._count = self._common_length()

    def count(self) -> Optional[int]:
        """The number of rows."""
        return self._count

    def no_rows(self) -> str:
        """As :class:`~keepdrop.files.sources.Source` says."""
        return f"{self.name} has no row; give at least one"

    def example(self) -> Any:
        """The first row of every array."""
        with opening.readable(self.name, NO_ARRAY):
            return self._each(lambda array: array.read(0, 1) if array.shape else np.empty((), array.dtype))

    def read(self, start: int, stop: Optional[int], size: int) -> Iterator[Rows]:
        """As :class:`~keepdrop.files.sources.Source` says."""
        stop = self._count if stop is None else min(stop, self._count)
        for first in range(start, stop, size):
            last = min(first + size, stop)
            with opening.readable(self.name, NO_ARRAY):
                inputs = self._each(lambda array, a=first, b=last: array.read(a, b))
                ids = None if self._ids is None else self._ids.read(first, last).astype(np.int64)
            for name, array in inputs.items() if isinstance(inputs, dict) else [("", inputs)]:
                self._check_finite(name, array, first)
            yield Rows(ids, inputs, {})

    def _each(self, of: Callable[..., NDArray[Any]]) -> Any:
        if isinstance(self._arrays, dict):
            return {name: of(array) for name, array in self._arrays.items()}
        return of(self._arrays)

    def _check_finite(self, name: str, array: NDArray[Any], first: int) -> None:
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = first + int(np.argwhere(~np.isfinite(array))[0, 0])
            of_input = f" in array {name!r}" if name else ""
            raise InputError(f"{self.name} holds NaN or infinity{of_input}, first in row {row} (from 0); {CURE}")

    def _take_ids(self, name: str) -> _Array:
        if not isinstance(self._arrays, dict) or name not in self._arrays:
            has = list(self._arrays) if isinstance(self._arrays, dict) else "no names"
            raise InputError(f"{self.name} has no array {name!r} of row ids; it has {has}")
        ids = self._arrays.pop(name)
        if ids.dtype.kind not in "iu" or len(ids.shape) != 1:
            raise InputError(
                f"{self.name}: array {name!r} is {ids.dtype} {list(ids.shape)}; row ids are integers, one a row"
            )
        return ids

    def _common_length(self) -> int:
        arrays = dict(self._arrays) if isinstance(self._arrays, dict) else {"": self._arrays}
        if self._ids is not None:
            arrays["row ids"] = self._ids
        lengths = {name: array.shape[0] if array.shape else 1 for name, array in arrays.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"the arrays of {self.name} have different numbers of rows, {lengths}; give each the same")
        return next(iter(lengths.values()), 0)


class _Array(Protocol):
    """An array in a file, of which rows are read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`."""


class _Streamed:
    """An array in C order, read forwards from the file that `opened` opens: of its rows only those asked for."""

    def __init__(self, opened: Callable[[], IO[bytes]]) -> None:
        self._opened = opened
        self._row = 0
        self._start()

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`; going back starts the file anew."""
        if start < self._row:
            self._file.close()
            self._start()
        row_bytes = npz.array_bytes(self.shape[1:], self.dtype)
        self._file.seek((start - self._row) * row_bytes, os.SEEK_CUR)
        content = self._file.read((stop - start) * row_bytes)
        if len(content) != (stop - start) * row_bytes:
            raise EOFError("an array ends too early")
        self._row = stop
        return np.frombuffer(content, self.dtype).reshape(stop - start, *self.shape[1:])

    def _start(self) -> None:
        self._file = self._opened()
        self.shape, _, self.dtype = npz.array_header(self._file)
        self._row = 0


class _InMemory:
    """An array that cannot be read by rows, mapped into memory or there as a whole."""

    def __init__(self, array: NDArray[Any]) -> None:
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows `start` to `stop`."""
        return self._array[start:stop]


def _array(opened: Callable[[], IO[bytes]], whole: Callable[[], NDArray[Any]], size: int) -> _Array:
    """The array in the file of this size that `opened` opens; what `whole` gives where rows do not lie in a row."""
    with opened() as file:
        shape, columns_first, dtype = npz.array_header(file)
        left = size - file.tell()
    said = npz.array_bytes(shape, dtype)
    if said != left:
        raise EOFError(f"its header says {list(shape)} {dtype}, {said:,} bytes, and {left:,} follow")
    return _InMemory(whole()) if columns_first and len(shape) > 1 else _Streamed(opened)


def _members(archive: zipfile.ZipFile) -> dict[str, _Array]:
    """The arrays of an archive, each proven by its checksum."""
    found: dict[str, _Array] = {}
    for name, member in npz.entries(archive).items():
        if not name.endswith(npz.MEMBER):
            continue
        with archive.open(member) as file:
            while file.read(PROOF):
                pass
        found[name[: -len(npz.MEMBER)]] = _array(
            lambda member=member: archive.open(member),  # type: ignore[misc]
            lambda member=member: np.load(io.BytesIO(archive.read(member)), allow_pickle=False),  # type: ignore[misc]
            member.file_size,
        )
    if not found:
        raise ValueError("it holds no array")
    return found
