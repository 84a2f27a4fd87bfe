"""Rows: consecutive examples of a source, whatever they were read from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Rows:
    """Consecutive rows of a source."""

    ids: Optional[NDArray[np.int64]]  # [n]; None where the position is the id
    inputs: Union[NDArray[Any], dict[str, NDArray[Any]]]  # [n, ...], by input name in a dict
    labels: dict[str, NDArray[Any]]  # [n] each: what else tells which row it is
    reasons: Optional[NDArray[np.object_]] = None  # [n] str: why a row has no answer, empty where it has one

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())) if isinstance(self.inputs, dict) else self.inputs)

    def cut(self, part: Union[slice, NDArray[np.bool_]]) -> Rows:
        """Some of these rows."""
        inputs = self.inputs
        return Rows(
            None if self.ids is None else self.ids[part],
            {name: array[part] for name, array in inputs.items()} if isinstance(inputs, dict) else inputs[part],
            {name: label[part] for name, label in self.labels.items()},
            None if self.reasons is None else self.reasons[part],
        )


def grouped(parts: Iterator[Rows], size: int) -> Iterator[Rows]:
    """The same rows in groups of exactly `size`; the last may have fewer."""
    waiting: list[Rows] = []
    length = 0
    for part in parts:
        if not len(part):
            continue
        waiting.append(part)
        length += len(part)
        if length < size:
            continue
        whole = together(waiting)
        for start in range(0, length - size + 1, size):
            yield whole.cut(slice(start, start + size))
        length %= size
        waiting = [whole.cut(slice(len(whole) - length, len(whole)))] if length else []
    if length:
        yield together(waiting)


def together(parts: Sequence[Rows]) -> Rows:
    """Several as one."""
    if len(parts) == 1:
        return parts[0]
    first = parts[0]
    ids = None if first.ids is None else np.concatenate([part.ids for part in parts if part.ids is not None])
    inputs: Any
    if isinstance(first.inputs, dict):
        inputs = {name: np.concatenate([part.inputs[name] for part in parts]) for name in first.inputs}
    else:
        inputs = np.concatenate([part.inputs for part in parts])
    labels = {name: np.concatenate([part.labels[name] for part in parts]) for name in first.labels}
    reasons = None
    if any(part.reasons is not None for part in parts):
        reasons = np.concatenate([none(len(part)) if part.reasons is None else part.reasons for part in parts])
    return Rows(ids, inputs, labels, reasons)


def none(length: int) -> NDArray[np.object_]:
    """No reason for any of so many rows."""
    return np.full(length, "", object)
