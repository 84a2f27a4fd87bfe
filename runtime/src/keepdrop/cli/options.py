"""Options that verbs share: their names, their ranges, and what a command line's text becomes."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Optional, TypeVar

import click

from keepdrop.answer.heads import Heads
from keepdrop.artifact.metadata import MEAN_LOGVAR, SIGMOID, SOFTMAX, VALUE
from keepdrop.errors import InputError
from keepdrop.files.gaps import REFUSE, SKIP, Missing
from keepdrop.files.lines import NAMES, Dialect
from keepdrop.files.skipped import Skipped
from keepdrop.files.sources import SUFFIXES, Choice
from keepdrop.table import Table, otherwise
from keepdrop.table.parts import HOLD

INT64 = click.IntRange(-(2**63), 2**63 - 1)

Verb = TypeVar("Verb", bound=Callable[..., Any])


class Share(click.ParamType):  # type: ignore[type-arg,unused-ignore]
    """A number between 0 and 1, as levels and confidences are; proposes 0.9 for 90 and for 90%."""

    name = "share"

    def convert(self, value: Any, param: Optional[click.Parameter], ctx: Optional[click.Context]) -> float:
        """The number."""
        text = str(value).strip()
        try:
            number = float(text.rstrip("% "))
        except ValueError:
            self.fail(f"{text!r} is not a number between 0 and 1.", param, ctx)
        if 0 < number < 1 and not text.endswith("%"):
            return number
        meant = f"; for {number:g} % give {number / 100:g}" if 0 < number < 100 and math.isfinite(number) else ""
        self.fail(f"{text} is not between 0 and 1{meant}.", param, ctx)


def _names(ctx: click.Context, param: click.Parameter, value: Optional[str]) -> Optional[tuple[str, ...]]:
    return tuple(name.strip() for name in value.split(",")) if value else None


def _separator(ctx: click.Context, param: click.Parameter, value: Optional[str]) -> Optional[str]:
    """One character, or a name for it."""
    if value is None:
        return None
    sign = {"tab": "\t", "\\t": "\t", "space": " ", "comma": ",", "semicolon": ";"}.get(value.lower(), value)
    if len(sign) != 1 or sign in '\r\n"' or ord(sign) > 127:
        raise click.BadParameter(f"{value!r} is not one character, such as ; or tab", ctx, param)
    return sign


def _missing(ctx: click.Context, param: click.Parameter, value: str) -> Missing:
    """refuse, skip, or the number of `hold N`."""
    text = " ".join(value.lower().replace("=", " ").split())
    if text in (REFUSE, SKIP):
        return text
    match = re.fullmatch(r"hold (\d{1,6})", text)
    if match and int(match[1]) > 0:
        return int(match[1])
    raise click.BadParameter(f"{value!r} is not refuse, skip or 'hold N' with a number of lines from 1 on", ctx, param)


def exported_path(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """The path of what an export wrote, a SavedModel too; a model of Keras is told from it."""
    if value.suffix.lower() in (".keras", ".h5", ".hdf5"):
        raise InputError(
            f"{value} is no artifact but a model; make one of it: keepdrop export {value} -o {value.stem}.onnx"
        )
    return value


def artifact_path(ctx: click.Context, param: click.Parameter, value: Path) -> Path:
    """The path of an artifact; a model, a SavedModel and readings are told from it."""
    if (value / "saved_model.pb").is_file():
        raise InputError(f"{value} is a SavedModel, which TensorFlow runs; give the .onnx file of that model")
    if value.suffix.lower() in SUFFIXES:
        raise InputError(f"{value} holds readings, and the artifact, which comes first, is an .onnx file")
    return exported_path(ctx, param, value)


artifact_argument = click.argument("artifact", type=click.Path(path_type=Path), callback=artifact_path)
interval_option = click.option(
    "--interval",
    "levels",
    type=Share(),
    multiple=True,
    metavar="LEVEL",
    help="Write the central interval of this level too, such as 0.9: for an observation where the artifact is "
    "calibrated, otherwise of the samples; can be repeated.",
)
samples_option = click.option(
    "--samples", type=click.IntRange(1), help="Samples of every row. [default: what the artifact says]"
)
threads_option = click.option(
    "--threads", type=click.IntRange(1), help="The most threads to use. [default: what this process may use]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
columns_option = click.option(
    "--columns",
    metavar="A,B,...",
    callback=_names,
    help="Features of a table, in the model's order. [default: all but those of --id, --time and dates]",
)
window_option = click.option(
    "--window", type=click.IntRange(1), metavar="N", help="Of a table, every N consecutive lines are one row."
)


missing_option = click.option(
    "--missing",
    metavar="RULE",
    default=REFUSE,
    show_default=True,
    callback=_missing,
    help="What becomes of empty cells: refuse, skip (no answer where one is needed), or 'hold N': the last "
    "value for at most N lines.",
)


def head_option(default: str) -> Callable[[Verb], Verb]:
    """`--head`, whose help says what holds where it is not given."""
    return click.option(
        "--head",
        "heads",
        multiple=True,
        metavar="[OUTPUT=]KIND",
        help=f"What an output is: {VALUE}, {SOFTMAX}, {SIGMOID} or {MEAN_LOGVAR} (both halves of one, or "
        f"MEAN,LOGVAR={MEAN_LOGVAR} of two); can be repeated. [default: {default}]",
    )


def declared_heads(texts: Sequence[str]) -> Optional[Heads]:
    """The declaration that ``[OUTPUT=]KIND`` texts make; None of none.

    Raises
    ------
    InputError
        Several texts, one of which does not name its output; an output that is named twice.
    """
    if len(texts) == 1 and "=" not in texts[0]:
        return texts[0]
    unnamed = [text for text in texts if "=" not in text]
    if unnamed:
        raise InputError(f"head {unnamed[0]!r} does not say of which output; give OUTPUT={unnamed[0]}")
    declared = [text.split("=", 1) for text in texts]
    names = [name for name, _ in declared]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"output {twice!r} has two heads declared; give it one")
    return dict(declared) or None


def dialect_options(command: Verb) -> Verb:
    """``--separator`` and ``--decimal``, which the verb takes as `dialect`."""

    @functools.wraps(command)
    def with_dialect(*arguments: Any, separator: Optional[str], decimal: Optional[str], **options: Any) -> Any:
        return command(*arguments, dialect=Dialect(separator, decimal), **options)

    for option in (
        click.option(
            "--decimal",
            type=click.Choice([".", ","]),
            help="Of CSV, the decimal sign. [default: . or as the first line has it, where no comma is between cells]",
        ),
        click.option(
            "--separator",
            callback=_separator,
            metavar="SIGN",
            help=f"Of CSV, what is between cells. [default: of {', '.join(NAMES.values())} the one in the header]",
        ),
    ):
        with_dialect = option(with_dialect)
    return with_dialect  # type: ignore[return-value]


def choice_options(id: str, order: str) -> Callable[[Verb], Verb]:
    """Which columns are meant, how lines are read and what becomes of those that cannot be, which the verb takes as
    `choice`; `id` and `order` are the help of these two.
    """

    def decorated(command: Verb) -> Verb:
        @functools.wraps(command)
        def with_choice(
            *arguments: Any,
            columns: Optional[tuple[str, ...]],
            window: Optional[int],
            id_column: Optional[str],
            dialect: Dialect,
            time_column: Optional[str],
            time_format: Optional[str],
            missing: Missing,
            on_error: str,
            order: Optional[str],
            **options: Any,
        ) -> Any:
            skipped = Skipped() if on_error == "skip" else None
            choice = Choice(columns, id_column, window, time_column, time_format, missing, skipped, dialect, order)
            return command(*arguments, choice=choice, **options)

        for option in (
            click.option("--order", metavar="TIME", help=order),
            click.option(
                "--on-error",
                type=click.Choice(["stop", "skip"]),
                default="stop",
                show_default=True,
                help="What becomes of a line that cannot be read.",
            ),
            missing_option,
            click.option(
                "--time-format",
                metavar="FORMAT",
                help="How times are written: s or ms since 1970, or as in %d.%m.%Y %H:%M. [default: ISO 8601]",
            ),
            click.option(
                "--time", "time_column", metavar="COLUMN", help="The column of times, which answers then bear."
            ),
            dialect_options,
            click.option("--id", "id_column", metavar="COLUMN", help=id),
            window_option,
            columns_option,
        ):
            with_choice = option(with_choice)
        return with_choice  # type: ignore[return-value]

    return decorated


def table_as_asked(
    table: Optional[Table], id: Optional[str], time: Optional[str], time_format: Optional[str], missing: Missing
) -> Optional[Table]:
    """The artifact's table, with what the command line says otherwise."""
    if table is None:
        return None
    source = click.get_current_context().get_parameter_source("missing")
    rule = None
    if source is not None and source.name != "DEFAULT":
        rule = f"{HOLD} {missing}" if isinstance(missing, int) else missing
    return otherwise(table, id, time, time_format, rule)
