"""Skipped: lines that could not be read and were passed over, all of them counted and the first of them named."""

from __future__ import annotations

from .reader import Reader, Readings

# How many are named.
NAMED = 20


class Skipped:
    """Counts lines once, where they are first read: a job reads them twice, to check and to answer."""

    def __init__(self) -> None:
        self.count = 0
        self.named: list[str] = []  # at most `NAMED`
        self._ended = False
        self._noted: set[str] = set()  # readers by name

    def add(self, text: str) -> bool:
        """Count a line of which `text` says what is wrong; whether it is among those that are named."""
        self.count += 1
        if len(self.named) < NAMED:
            self.named.append(text)
            return True
        return False

    def note(self, reader: Reader, readings: Readings) -> None:
        """Count those among lines that this gave, and those that have no place in its order."""
        if self._ended:
            return
        if reader.name not in self._noted:
            self._noted.add(reader.name)
            for text in getattr(reader, "left_out", ()):
                self.add(f"{reader.name}, {text}")
        for place in sorted(readings.problems):
            self.add(f"{reader.name}, {readings.problems[place]}")

    def end(self) -> None:
        """Every line was read once."""
        self._ended = True

    def summary(self) -> str:
        """How many there were, in words; empty of none."""
        if not self.count:
            return ""
        more = f", of which the first {NAMED} are named" if self.count > NAMED else ""
        return f"{self.count:,} {'line was' if self.count == 1 else 'lines were'} skipped{more}"
