"""How far a long job is: on a terminal, on standard error.

click.progressbar is not used: it has to know a length, which a pipe has not, shows itself at once where this waits a
second, and tells no rate.
"""

from __future__ import annotations

import sys
import time
from typing import Optional

import click

# Work shorter than this shows no progress.
QUIET_SECONDS = 1.0
# Seconds between two pictures of the bar.
REDRAW_SECONDS = 0.1
WIDTH = 30


class Bar:
    """Rows done, their rate and the time left; `done` is told of samples x rows.

    Without `rows`, the number of all rows, there is neither bar nor time left.
    """

    def __init__(self, rows: Optional[int], samples: int, before: int = 0, verb: str = "") -> None:
        self._verb = verb
        self._rows = rows
        self._samples = samples
        self._before = before
        self._start = time.monotonic()
        self._drawn = self._start + QUIET_SECONDS - REDRAW_SECONDS
        self._count = 0
        self._width = 0

    def done(self, count: int) -> None:
        """Some more samples x rows are done."""
        self._count += count
        now = time.monotonic()
        if now - self._drawn >= REDRAW_SECONDS:
            self._drawn = now
            self._draw(self.text(now - self._start))

    def clear(self) -> None:
        """Take the bar away."""
        if self._width:
            self._draw("")

    def text(self, seconds: float) -> str:
        """The line after so many seconds of work."""
        new = self._count / self._samples
        rate = new / seconds if seconds else 0.0
        rows = self._before + new
        if self._rows is None:
            return f"{self._verb}{rows:,.0f} rows, {_short(rate)} rows/s"
        share = min(1.0, rows / self._rows)
        filled = int(share * WIDTH)
        left = f", {_clock((self._rows - rows) / rate)} left" if rate else ""
        bar = "#" * filled + "-" * (WIDTH - filled)
        return f"{self._verb}{share:4.0%} [{bar}] {rows:,.0f} of {self._rows:,} rows, {_short(rate)} rows/s{left}"

    def _draw(self, text: str) -> None:
        click.echo(f"\r{text.ljust(self._width)}" + ("" if text else "\r"), err=True, nl=False)
        self._width = len(text)


def bar(rows: Optional[int], samples: int, before: int = 0, verb: str = "") -> Optional[Bar]:
    """A bar where standard error is a terminal."""
    return Bar(rows, samples, before, verb) if sys.stderr.isatty() else None


def _short(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


def _clock(seconds: float) -> str:
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}"
