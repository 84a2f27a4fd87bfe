"""What the verbs share: options, and the start of TensorFlow once one of them runs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

LOADING = [
    click.option(
        "--weights",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="The weights (.h5), where MODEL is the .json of an architecture.",
    ),
    click.option(
        "--custom",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Python file with the classes and functions of MODEL that are not Keras'. Runs that file.",
    ),
    click.option(
        "--trust-code",
        is_flag=True,
        help="Run the Python code that Lambda layers have left in MODEL. It can do whatever you can: only for files "
        "whose maker you trust.",
    ),
    click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        metavar="[NAME=]SIZE,...",
        callback=lambda context, parameter, values: _shapes(values),
        help="Shape of an input without the batch, ? for a free length, where MODEL is of a class of its own and does "
        "not say; NAME is the argument of its call; can be repeated. Example: --input-shape 24,3",
    ),
]


def with_options(options: list[Any]) -> Callable[[Any], Any]:
    """A decorator that adds them in this order."""

    def add(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return add


def _shapes(values: tuple[str, ...]) -> dict[str, tuple[int | None, ...]] | None:
    shapes = {}
    for value in values:
        name, _, sizes = value.rpartition("=")
        try:
            shapes[name] = tuple(None if size.strip() in ("?", "None") else int(size) for size in sizes.split(","))
        except ValueError as error:
            raise click.BadParameter(f"{value!r}; give it as 24,3 or NAME=24,3, with ? for a free length") from error
    return shapes or None


def _rates(context: click.Context, parameter: click.Parameter, values: tuple[str, ...]) -> dict[str, float]:
    rates = {}
    for value in values:
        place, _, rate = value.rpartition("=")
        try:
            rates[place] = float(rate)
        except ValueError:
            place = ""
        if not place:
            raise click.BadParameter(f"{value!r}; give it as LAYER=RATE, such as lstm.recurrent=0.25")
    return rates


SCALING = [
    click.option(
        "--input-scaler",
        type=click.Path(path_type=Path),
        metavar="FILE.json",
        help='What the inputs were scaled with, {"mean": [...], "scale": [...]} or {"min": [...], "max": [...]}: raw '
        "numbers go in.",
    ),
    click.option(
        "--output-scaler",
        type=click.Path(path_type=Path),
        metavar="FILE.json",
        help="What the targets were scaled with: raw numbers come out.",
    ),
]


TABLE = click.option(
    "--table",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="What the columns of raw readings mean, and what the outputs forecast: predict then takes the raw file.",
)


def dropout_option(help: str) -> Callable[[Any], Any]:
    """``--dropout LAYER=RATE``, which the verb takes as a dict."""
    return click.option("--dropout", multiple=True, metavar="LAYER=RATE", callback=_rates, help=help)


@contextlib.contextmanager
def silent_start() -> Iterator[None]:
    """Let TensorFlow be imported without its notes on GPUs and CPU features, which come before any log level counts."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def exporter() -> Any:
    """This package, with TensorFlow imported."""
    from .backend import own_process

    with silent_start():
        own_process()
    import keepdrop_exporter

    return keepdrop_exporter


def custom_objects(path: Path | None) -> Any:
    """What ``--custom`` names, by name; None without it."""
    if path is None:
        return None
    from keepdrop_exporter.loading import custom_code

    return custom_code.custom_objects(path)
