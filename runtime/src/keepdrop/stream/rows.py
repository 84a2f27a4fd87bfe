"""RowStore: what each row of a stream carries, for rows that come and go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepdrop.errors import InputError
from keepdrop.run.request import row_ids

Arrays = Mapping[str, NDArray[Any]]
# Some of a stream's rows by their places; a slice, where they stand side by side, copies nothing.
Places = Union[slice, NDArray[np.int64]]


class RowStore:
    """Arrays by name with one entry a row, in the rows' order, and with room to spare.

    `kept` are given with their values, all of them zero at a row's start but those that `at_start` says otherwise of;
    `masks` are made when a row first needs them, and stay when it starts anew, as `learned` does, whose owner begins it
    for a new row.
    """

    def __init__(
        self,
        ids: Iterable[int],
        kept: Arrays,
        masks: Arrays,
        at_start: Optional[Mapping[str, float]] = None,
        learned: Optional[Arrays] = None,
    ) -> None:
        self.ids = list(ids)
        self._standing = {*masks, *(learned or {})}
        self._masks = list(masks)
        self._at_start = dict(at_start or {})
        self.unmasked = set(self.ids) if self._masks else set()
        self._arrays = {**kept, **masks, **(learned or {})}
        self._number()

    def places(self, rows: Optional[ArrayLike]) -> tuple[Places, NDArray[np.int64]]:
        """Where these rows (None: all) stand, and their ids; InputError where one is unknown or named twice."""
        if not self.ids:
            raise InputError("the stream has no rows; add one first, as in stream.add(row=0)")
        if rows is None:
            return slice(0, len(self.ids)), self._all_ids
        ids = row_ids(rows)
        if not ids.size:
            raise InputError("rows is empty; name one row or more, or leave rows out for all of them")
        places = [self.place(row) for row in ids.tolist()]
        if len(set(places)) < len(places):
            raise InputError(f"rows is {ids.tolist()} and names a row twice; give its steps as one chunk")
        first, after = places[0], places[0] + len(places)
        return (slice(first, after) if places == list(range(first, after)) else np.array(places)), ids

    def place(self, row: int) -> int:
        """Where a row stands; InputError for an unknown one."""
        if row not in self._places:
            raise InputError(f"the stream has no row {row}; add it first, as in stream.add(row={row})")
        return self._places[row]

    def __contains__(self, row: object) -> bool:
        return row in self._places

    def at(self, where: Places, name: str) -> NDArray[Any]:
        """An array's entries of these rows."""
        array = self._arrays[name]
        # All of them without room to spare, as it mostly is.
        whole = isinstance(where, slice) and where == slice(0, len(array))
        return array if whole else array[: len(self.ids)][where]

    def whole(self, name: str) -> NDArray[Any]:
        """An array with the room it has to spare, to be changed in place."""
        return self._arrays[name]

    def put(self, where: Places, arrays: Arrays) -> None:
        """New entries of these rows."""
        for name, array in arrays.items():
            if isinstance(where, slice) and len(array) == len(self.ids) and array.flags.writeable:
                self._arrays[name] = array
            else:
                self._arrays[name][where] = array

    def give_masks(self, ids: NDArray[np.int64], masks: Arrays) -> None:
        """Their masks to rows that lack them."""
        where = [self.place(row) for row in ids.tolist()]
        for name, array in masks.items():
            self._arrays[name][where] = array
        self.unmasked.difference_update(ids.tolist())

    def start(self, where: Places) -> None:
        """These rows as at their start, but with the masks they have."""
        for name, array in self._arrays.items():
            if name not in self._standing:
                array[: len(self.ids)][where] = self._at_start.get(name, 0)

    def add(self, row: int) -> None:
        """A row at its start."""
        if row in self._places:
            raise InputError(f"the stream has row {row} already; reset it to start it anew")
        count = len(self.ids)
        self._arrays = {
            name: array if count < len(array) else _resized(array, 2 * count + 1)
            for name, array in self._arrays.items()
        }
        self.ids.append(row)
        self._number()
        self.start(slice(count, count + 1))
        if self._masks:
            self.unmasked.add(row)

    def remove(self, row: int) -> None:
        """Those behind it move up."""
        place = self.place(row)
        del self.ids[place]
        count = len(self.ids)
        for name, array in self._arrays.items():
            array[place:count] = array[place + 1 : count + 1]
            if 4 * count < len(array):
                self._arrays[name] = _resized(array, 2 * count)
        self._number()
        self.unmasked.discard(row)

    def _number(self) -> None:
        self._places = {row: place for place, row in enumerate(self.ids)}
        self._all_ids = np.array(self.ids, np.int64)


def _resized(array: NDArray[Any], length: int) -> NDArray[Any]:
    resized = np.zeros((length, *array.shape[1:]), array.dtype)
    kept = min(length, len(array))
    resized[:kept] = array[:kept]
    return resized
