"""Ctrl-C, SIGTERM and SIGHUP end a command with one line on standard error and the exit code that a shell gives them.

A signal that was ignored when the command began stays so: that is how nohup and a shell's background jobs ask for it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import IO, Any, Optional

import click

# What ends a command; SIGHUP is sent when its terminal closes, and is unknown to Windows.
_ENDING = [signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]


class Terminated(KeyboardInterrupt):
    """SIGTERM or SIGHUP, which unwinds the command as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def ending_by_signal(what_remains: Callable[[], str]) -> Iterator[None]:
    """Exit with 128 and the signal's number (Ctrl-C: 130), once all is tidied up, saying what remains of the work."""

    def terminate(number: int, _: Any) -> None:
        raise Terminated(number)

    with _handling(_ENDING, terminate):
        try:
            yield
        except KeyboardInterrupt as error:
            number = error.number if isinstance(error, Terminated) else int(signal.SIGINT)
            with contextlib.suppress(OSError):  # the terminal may be gone
                click.echo(f"keepdrop: interrupted; {what_remains()}", err=True)
            raise SystemExit(128 + number) from None


class BetweenLines:
    """Signals end the reading of lines: at once where one is waited for, otherwise after the one in work."""

    def __enter__(self) -> BetweenLines:
        self._received: Optional[KeyboardInterrupt] = None
        self._waits = False
        self._stack = contextlib.ExitStack()
        self._stack.enter_context(_handling([signal.SIGINT, *_ENDING], self._note))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def lines(self, file: IO[bytes]) -> Iterator[bytes]:
        """The lines of `file` until it ends; an interruption comes between two of them, as KeyboardInterrupt."""
        while line := self._next(file):
            yield line

    def _next(self, file: IO[bytes]) -> bytes:
        self._waits = True
        try:
            if self._received:
                raise self._received
            return file.readline()
        finally:
            self._waits = False

    def _note(self, number: int, _: Any) -> None:
        self._received = KeyboardInterrupt() if number == signal.SIGINT else Terminated(number)
        if self._waits:
            self._waits = False
            raise self._received


@contextlib.contextmanager
def _handling(numbers: list[Any], handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Have these signals handled, but for those that are ignored."""
    before: dict[Any, Any] = {}
    with contextlib.suppress(ValueError):  # signals are the main thread's
        for number in numbers:
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
