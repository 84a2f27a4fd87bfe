"""Ctrl-C and SIGTERM end a command with one line on standard error and the exit code that a shell gives them."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import click


class Terminated(KeyboardInterrupt):
    """SIGTERM, which unwinds the command as Ctrl-C does."""


@contextlib.contextmanager
def ending_by_signal(what_remains: Callable[[], str]) -> Iterator[None]:
    """Exit with 130 after Ctrl-C and with 143 after SIGTERM, once all is tidied up, saying what remains of the work."""

    def terminate(*_: Any) -> None:
        raise Terminated

    previous = None
    with contextlib.suppress(ValueError):  # signals are the main thread's
        previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt as error:
        click.echo(f"keepdrop: interrupted; {what_remains()}", err=True)
        raise SystemExit(143 if isinstance(error, Terminated) else 130) from None
    finally:
        if previous is not None:
            signal.signal(signal.SIGTERM, previous)
