"""Options that verbs share: their help, and what their values mean to the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Optional, TypeVar

import click

from keepdrop.answer.heads import Heads
from keepdrop.artifact.metadata import MEAN_LOGVAR, SIGMOID, SOFTMAX, VALUE
from keepdrop.errors import InputError
from keepdrop.files.sources import Choice

Verb = TypeVar("Verb", bound=Callable[..., Any])

interval_option = click.option(
    "--interval",
    "levels",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    multiple=True,
    metavar="LEVEL",
    help="Write the central interval of this level too, such as 0.9; can be repeated.",
)
threads_option = click.option(
    "--threads", type=int, help="The most threads to use. [default: what this process may use]"
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
columns_option = click.option(
    "--columns", metavar="A,B,...", help="Features of a table, in the model's order. [default: all numeric]"
)
window_option = click.option(
    "--window", type=int, metavar="N", help="Of a table, every N consecutive lines are one row."
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


def chosen_columns(columns: Optional[str], id_column: Optional[str], window: Optional[int]) -> Choice:
    """The choice that ``A,B,...`` and the options beside it make."""
    names = tuple(name.strip() for name in columns.split(",")) if columns else None
    return Choice(names, id_column, window)
