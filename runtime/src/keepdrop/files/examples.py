"""Examples: JSON lines that hold whole examples, for models with several inputs or inputs of several axes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import Tensor
from keepdrop.errors import InputError

from .lines import Picked
from .reader import Selection
from .rows import Rows
from .text import TextReader


class ExampleSource:
    """JSON lines that hold whole examples: a nested list (or a number) by input name in every object."""

    features: tuple[str, ...] = ()
    manner = ""

    def __init__(self, reader: TextReader, tensors: tuple[Tensor, ...], id_column: Optional[str]) -> None:
        self.name = reader.name
        self._reader = reader
        self._tensors = tensors
        self._id = id_column
        self._dtypes = {tensor.name: np.dtype(tensor.dtype) for tensor in tensors}

    def count(self) -> Optional[int]:
        """The number of rows."""
        return self._reader.count()

    def no_rows(self) -> str:
        """As :class:`~keepdrop.files.sources.Source` says."""
        return f"{self.name} has no line; give at least one"

    def example(self) -> Any:
        """That of the first line."""
        number, found = self._reader.first
        if not isinstance(found, dict):
            raise found if isinstance(found, InputError) else InputError(f"{self.name} is not JSON lines")
        return {t.name: self._array(number, t, found)[np.newaxis] for t in self._tensors}

    def read(self, start: int, stop: Optional[int], size: int) -> Iterator[Rows]:
        """As :class:`~keepdrop.files.sources.Source` says."""
        picked = Picked(self._reader.lines, Selection(id=self._id))
        rows: list[list[NDArray[Any]]] = []
        ids: list[int] = []
        shapes: list[tuple[int, ...]] = []
        for number, found in self._reader.objects(start, stop):
            row = [self._array(number, t, found) for t in self._tensors]
            shapes = shapes or [array.shape for array in row]
            if [array.shape for array in row] != shapes:
                raise InputError(
                    f"{self.name}, line {number}: its arrays are not as long as those of the lines before; "
                    "give examples of one length"
                )
            rows.append(row)
            if self._id is not None:
                ids.append(int(picked.line(number, found).id or 0))
            if len(rows) == size:
                yield self._rows(rows, ids)
                rows, ids = [], []
        if rows:
            yield self._rows(rows, ids)

    def _rows(self, rows: list[list[NDArray[Any]]], ids: list[int]) -> Rows:
        inputs = {t.name: np.stack([row[i] for row in rows]) for i, t in enumerate(self._tensors)}
        return Rows(np.array(ids, np.int64) if self._id is not None else None, inputs, {})

    def _array(self, number: int, tensor: Tensor, found: dict[str, Any]) -> NDArray[Any]:
        want = tensor.shape[1:]
        array = _numbers(found.get(tensor.name), self._dtypes[tensor.name])
        fits = array is not None and len(want) == array.ndim
        if array is None or not fits or not all(a is None or a == b for a, b in zip(want, array.shape)):
            form = ", ".join("any" if size is None else str(size) for size in want)
            raise InputError(
                f"{self.name}, line {number}: {tensor.name!r} is not [{form}] finite numbers, "
                "which the input takes an example; give a nested list of them"
            )
        return array


def _numbers(found: Any, dtype: np.dtype[Any]) -> Optional[NDArray[Any]]:
    """A nested list of finite numbers: integers as int64, exactly, else float64; None where it is none."""
    try:
        array = np.array(found)
        if array.dtype.kind == "u":
            array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        return None
    if array.dtype.kind == "i" or (array.dtype.kind == "b" and dtype.kind == "b"):
        return array
    return array if array.dtype.kind == "f" and np.isfinite(array).all() else None
