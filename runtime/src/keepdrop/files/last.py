"""Last: of every series the newest row alone, for a forecast from now on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

from keepdrop.errors import InputError

from .declared import DeclaredSource
from .rows import Rows, together

# Rows looked at at once.
AT_ONCE = 1 << 12


class LastRows:
    """The last row of each series of a source, in the order of their ids' first appearance."""

    def __init__(self, source: DeclaredSource) -> None:
        self.name = source.name
        self.features = source.features
        self.table = source.table
        self._source = source
        self._found: Optional[Rows] = None

    @property
    def manner(self) -> str:
        """As :class:`~keepdrop.files.sources.Source` says."""
        return self._source.manner

    @property
    def zoned(self) -> bool:
        """Whether the times are of UTC."""
        return self._source.zoned

    @property
    def recent(self) -> Any:
        """The last readings of the targets, see :class:`DeclaredSource`."""
        return self._source.recent

    def count(self) -> Optional[int]:
        """The number of series that have a row."""
        rows = self._source.count()
        return len(self._rows()) if rows else rows

    def no_rows(self) -> str:
        """As :class:`~keepdrop.files.sources.Source` says."""
        return self._source.no_rows()

    def example(self) -> Any:
        """As :class:`~keepdrop.files.sources.Source` says."""
        return self._source.example()

    def read(self, start: int, stop: Optional[int], size: int) -> Iterator[Rows]:
        """As :class:`~keepdrop.files.sources.Source` says."""
        rows = self._rows()
        for first in range(start, len(rows) if stop is None else min(stop, len(rows)), size):
            yield rows.cut(slice(first, min(first + size, len(rows) if stop is None else stop)))

    def _rows(self) -> Rows:
        if self._found is None:
            newest: dict[Optional[int], Rows] = {}
            for rows in self._source.read(0, None, AT_ONCE):
                places: dict[Optional[int], int] = {None: len(rows) - 1} if len(rows) else {}
                if rows.ids is not None:
                    places = {series: place for place, series in enumerate(rows.ids.tolist())}
                newest.update((series, rows.cut(slice(place, place + 1))) for series, place in places.items())
            if not newest:
                raise InputError(self.no_rows())
            self._found = together(list(newest.values()))
        return self._found
