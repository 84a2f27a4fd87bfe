"""Parsed: stretches of a text as they were read, kept in bounded memory for the next reading of the same columns.

A job reads its lines twice, to check all of them and to answer; the numbers of a table that is not too large are parsed
once.
"""

from __future__ import annotations

from typing import Optional

from .lines import Picked
from .reader import Readings

# What is kept of one text, in bytes: some 800,000 lines of three numbers.
MOST_BYTES = 32 << 20
# A cell of text as a Python object.
TEXT_BYTES = 100


class Parsed:
    """The first stretches that were read for one selection, by their place in the text."""

    def __init__(self, picked: Picked) -> None:
        self.picked = picked
        self.stretches: Optional[int] = None  # how many the text has, once its end was seen
        self._stretches: dict[int, Readings] = {}
        self._bytes = 0

    def get(self, place: int) -> Optional[Readings]:
        """All lines of a stretch, if it is kept."""
        return self._stretches.get(place)

    def keep(self, place: int, readings: Readings) -> None:
        """Keep all lines of a stretch, where there is room."""
        size = _bytes(readings)
        if place not in self._stretches and self._bytes + size <= MOST_BYTES:
            self._stretches[place] = readings
            self._bytes += size


def _bytes(readings: Readings) -> int:
    arrays = (readings.lines, readings.numbers, readings.ids, readings.times)
    texts = sum(len(cells) for cells in readings.texts.values())
    return sum(array.nbytes for array in arrays if array is not None) + TEXT_BYTES * texts
