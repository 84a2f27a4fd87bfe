"""The command `keepdrop`: one verb a module, and the exporter's verbs where it is installed."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import warnings
from importlib import import_module
from typing import IO, Any, Optional, Union

import click

from keepdrop import __version__
from keepdrop.errors import ExporterMissing, KeepdropError

from .interrupts import ending_by_signal
from .spelling import spelled

ENTRY_POINT_GROUP = "keepdrop.commands"
VERB = "keepdrop.verb"
# The module of each verb. It is imported when the verb is called: what the others need takes longer than a small call.
VERBS = {
    "bench": "bench",
    "calibrate": "calibrate",
    "check": "vectors",
    "evaluate": "evaluate",
    "inspect": "inspect",
    "predict": "predict",
    "stream": "stream",
    "vectors": "vectors",
}
EXPORTER_VERBS = {
    "export": "Turn a Keras model into a file that samples.",
    "retrofit": "Set a Keras model's dropout rates and scaling.",
    "summarise": "Let a file's graph give the answer too.",
    "tune": "Find the dropout rate that makes intervals best.",
    "verify": "Compare such a file's samples with Keras'.",
}


class Refused(click.ClickException):
    """An error of ours as the command shows it: one message on stderr, exit code 1."""

    def show(self, file: Optional[IO[Any]] = None) -> None:
        """Print the message."""
        click.echo(f"keepdrop: {self.message}", file=file, err=file is None)


class Commands(click.Group):
    """The verbs of the runtime and of the exporter, each of which is loaded when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Every verb, whether the exporter is installed or not."""
        return sorted([*VERBS, *EXPORTER_VERBS])

    def get_command(self, ctx: click.Context, cmd_name: str) -> Optional[click.Command]:
        """The verb; for the exporter's a stand-in with its one line of help."""
        if cmd_name in EXPORTER_VERBS:
            return click.Command(cmd_name, help=EXPORTER_VERBS[cmd_name])
        if cmd_name not in VERBS:
            return None
        command: click.Command = getattr(import_module(f"{__name__}.{VERBS[cmd_name]}"), cmd_name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[Optional[str], Optional[click.Command], list[str]]:
        """The verb that was called, the exporter's loaded."""
        name, command, rest = super().resolve_command(ctx, args)
        if name in EXPORTER_VERBS:
            command = _load_exporter_verb(name)
        ctx.meta[VERB] = command
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; every error of ours is one message and exit code 1, every interrupt one and a shell's code."""
        try:
            with ending_by_signal(lambda: "nothing was written"), warnings.catch_warnings():
                warnings.showwarning = _show_warning
                return super().invoke(ctx)
        except KeepdropError as error:
            raise Refused(spelled(str(error), ctx.meta.get(VERB) or self)) from error
        except OSError as error:  # of standard output alone: whatever else is written says what it is
            if error.errno == errno.EPIPE or error.filename is not None:
                raise
            _discard_standard_output()
            raise Refused(f"cannot write to standard output ({error.strerror}); make room for it") from error


def _discard_standard_output() -> None:
    """What is still waiting to be written would fail once more while the interpreter ends."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _show_warning(message: Union[Warning, str], category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning as the command shows it: one line on stderr, without the line of code that it came from."""
    click.echo(f"keepdrop: {message}", err=True)


def _load_exporter_verb(name: str) -> click.Command:
    from importlib.metadata import entry_points  # slow to import, and needed by these verbs alone

    if sys.version_info >= (3, 10):
        found = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    else:
        found = [point for point in entry_points().get(ENTRY_POINT_GROUP, []) if point.name == name]
    if not found:
        raise ExporterMissing(
            f"`keepdrop {name}` comes with keepdrop-exporter, which is not installed here; "
            f"install keepdrop-exporter {__version__} on a workstation (it brings TensorFlow)"
        )
    try:
        command: click.Command = found[0].load()
    except ImportError as error:
        raise ExporterMissing(
            f"keepdrop-exporter is installed but does not import ({error}); "
            f"install keepdrop-exporter {__version__} again, with what it depends on"
        ) from error
    return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="keepdrop")
def main() -> None:
    """Monte-Carlo dropout from an ONNX file: samples, intervals and what they rest on.

    \b
    Example:
      keepdrop predict forecaster.onnx windows.npy -o out.npz --interval 0.9
    """
