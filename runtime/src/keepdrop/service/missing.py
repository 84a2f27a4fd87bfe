"""Missing: what becomes of the numbers that a reading lacks, as `keepdrop.files.gaps` does it in files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.files.gaps import REFUSE
from keepdrop.table.parts import HOLD

# What is held of a column: its last value, NaN of none, and how many readings ago it came.
VALUE, AGE = 0, 1


class Filled(NamedTuple):
    """A reading's numbers, [columns].

    `lacking` are the columns without a number by their places, and `held` is what follows from it, [columns, 2].
    """

    numbers: NDArray[np.float64]
    lacking: NDArray[np.int64]
    held: Optional[NDArray[np.float64]]


class Rules:
    """Of each column the rule and, of "hold", for how many readings its last value stands in."""

    def __init__(self, rules: Sequence[tuple[str, int]]) -> None:
        self._longest = np.array([steps if rule == HOLD else 0 for rule, steps in rules], np.int64)
        self.refuses = np.array([rule == REFUSE for rule, _ in rules])

    def filled(self, numbers: NDArray[np.float64], held: Optional[NDArray[np.float64]]) -> Filled:
        """The numbers with those that are held in place of missing ones; `held` is what the row's last reading left."""
        known = ~np.isnan(numbers)
        if not self._longest.any():
            return Filled(numbers, np.flatnonzero(~known), None)
        if held is None or len(held) != len(numbers):  # of other columns
            held = np.tile([np.nan, 0.0], (len(numbers), 1))
        ages = np.where(known, 0, held[:, AGE] + 1)
        last = np.where(known, numbers, held[:, VALUE])
        found = np.where(known | (ages > self._longest), numbers, last)
        return Filled(found, np.flatnonzero(np.isnan(found)), np.stack([last, ages], axis=1))
