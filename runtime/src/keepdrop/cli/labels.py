"""Labelled rows on the command line: the options that say what was observed, and the rows they make."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional, TypeVar

import click

from keepdrop.errors import InputError
from keepdrop.files.several import expanded
from keepdrop.files.sources import SUFFIXES, Choice
from keepdrop.files.truths import LabelledRows, declared_rows, labelled_rows, targets_of
from keepdrop.model import Model

from .answering import tell_skipped
from .options import choice_options

Verb = TypeVar("Verb", bound=Callable[..., Any])


def steps_ahead(ctx: click.Context, param: click.Parameter, value: Optional[str]) -> Optional[tuple[int, ...]]:
    """N, A..B or A,B,C."""
    if value is None:
        return None
    steps = re.fullmatch(r"(\d{1,6})\.\.(\d{1,6})", value)
    if steps and int(steps[1]) <= int(steps[2]):
        return tuple(range(int(steps[1]), int(steps[2]) + 1))
    if re.fullmatch(r"\d{1,6}(,\d{1,6})*", value):
        return tuple(int(step) for step in value.split(","))
    raise click.BadParameter(f"{value!r} is not a number of lines, such as 6, or those of a horizon: 1..24", ctx, param)


def columns_by_output(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[Optional[str], str]:
    """[OUTPUT=]COLUMN, once for each output."""
    found: dict[Optional[str], str] = {}
    for text in value:
        output, sign, column = text.partition("=")
        key, name = (output, column) if sign else (None, text)
        if not name or key in found:
            raise click.BadParameter(f"{text!r} is not [OUTPUT=]COLUMN, once for each output", ctx, param)
        found[key] = name
    return found


ahead_option = click.option(
    "--ahead",
    callback=steps_ahead,
    metavar="N",
    help="How many lines after a row's last one its target is: 0 is that line, 1..24 a horizon.",
)
target_option = click.option(
    "--target",
    multiple=True,
    callback=columns_by_output,
    metavar="[OUTPUT=]COLUMN",
    help="The column that holds what was observed; can be repeated for several outputs.",
)


def labels_options(command: Verb) -> Verb:
    """``--target``, ``--ahead``, ``--targets`` and how rows are read; the verb takes a function `rows_of(model)`."""

    @functools.wraps(command)
    def with_rows(
        *arguments: Any,
        data: tuple[Path, ...],
        choice: Choice,
        target: dict[Optional[str], str],
        ahead: Optional[tuple[int, ...]],
        targets: Optional[Path],
        **options: Any,
    ) -> Any:
        def rows_of(model: Model[Any, Any]) -> LabelledRows:
            rows = _rows(model, data, choice, target, ahead, targets)
            tell_skipped(choice.skipped)
            return rows

        return command(*arguments, data=data, rows_of=rows_of, targets=targets, **options)

    for option in (
        choice_options(
            id="The column that says which series a line is of.",
            order="The column of times by which lines are sorted first.",
        ),
        click.option(
            "--targets", type=click.Path(path_type=Path), help="What was observed: a .npy file, or .npz by output."
        ),
        ahead_option,
        target_option,
    ):
        with_rows = option(with_rows)
    data_argument = click.argument(
        "data", metavar="LABELLED...", nargs=-1, type=click.Path(path_type=Path, exists=False)
    )
    return data_argument(with_rows)  # type: ignore[return-value]


def _rows(
    model: Model[Any, Any],
    data: tuple[Path, ...],
    choice: Choice,
    target: dict[Optional[str], str],
    ahead: Optional[tuple[int, ...]],
    targets: Optional[Path],
) -> LabelledRows:
    if not data:
        raise click.UsageError("Missing argument 'LABELLED...', rows with what was observed for them.")
    if not target and targets is None and model.table is not None:
        return declared_rows(expanded(data, SUFFIXES), model.metadata, model.table, choice)
    if bool(target) == (targets is not None):
        raise click.UsageError(
            "Say what was observed, which the artifact does not tell: --target COLUMN with --ahead N, of the lines "
            "themselves, or --targets y.npy."
        )
    if target and ahead is None:
        raise click.UsageError(
            "--target needs --ahead: how many lines after a row's last one the target is, 0 for that very line."
        )
    if targets is not None and ahead is not None:
        raise click.UsageError("--ahead is of --target; the rows of --targets are those of LABELLED.")
    wanted = targets_of(target, ahead or (), model.metadata)
    for each in wanted:
        tensor = next(tensor for tensor in model.metadata.outputs if tensor.name == each.output)
        steps = tensor.shape[2] if len(tensor.shape) > 2 else 1
        if len(each.ahead) > 1 and steps not in (None, len(each.ahead)):
            raise InputError(
                f"output {each.output!r} has {steps} steps, and --ahead names {len(each.ahead)}; give as many"
            )
    return labelled_rows(expanded(data, SUFFIXES), model.metadata, choice, wanted, targets)
