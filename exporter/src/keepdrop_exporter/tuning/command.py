"""keepdrop tune: which dropout rate, and where, makes a trained model's intervals best."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keepdrop.cli.labels import labels_options
from keepdrop.cli.options import INT64, Share, declared_heads, head_option, json_option
from keepdrop.cli.progress import bar
from keepdrop.files import targets as files
from keepdrop.files.several import expanded
from keepdrop.files.sources import SUFFIXES
from keepdrop.files.truths import LabelledRows
from keepdrop.labelled.rows import Labelled, labelled
from keepdrop_exporter.options import LOADING, SCALING, TABLE, custom_objects, exporter, with_options

if TYPE_CHECKING:
    from keepdrop import Model


# What is given again on the way from the model to the artifact.
_OF_EXPORT = ("table", "input_scaler", "output_scaler", "heads", "weights", "custom", "trust_code", "input_shapes")


def _others(context: click.Context) -> list[str]:
    """The options that `keepdrop export` has to be given too, as they were given here."""
    found: list[str] = []
    for option in context.command.params:
        value = context.params.get(option.name or "")
        if option.name not in _OF_EXPORT or not value:
            continue
        if option.name == "input_shapes":
            sizes = {name: ",".join("?" if n is None else str(n) for n in shape) for name, shape in value.items()}
            value = tuple(f"{name}={text}" if name else text for name, text in sizes.items())
        for each in value if isinstance(value, tuple) else (value,):
            found += [option.opts[0]] if each is True else [option.opts[0], str(each)]
    return found


def _several(context: click.Context, parameter: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(name.strip() for name in value.split(","))


def _numbers(context: click.Context, parameter: click.Parameter, value: str) -> tuple[float, ...]:
    return tuple(Share().convert(text, parameter, context) for text in value.split(","))


@click.command(short_help="Find the dropout rate that makes intervals best.")
@click.argument("model", type=click.Path(path_type=Path))
@labels_options
@click.option("--rates", default="0.05,0.1,0.2", show_default=True, callback=_numbers, help="Rates to try.")
@click.option(
    "--where",
    callback=_several,
    metavar="PLACE,...",
    help="Places to try them at, each and all together: LAYER.input, LAYER.recurrent, a dropout layer, head (what the "
    "layers of the outputs read). [default: inputs and recurrences of recurrent layers, own dropout, head]",
)
@click.option("--splits", type=click.IntRange(1), default=4, show_default=True, help="Parts of the rows to judge.")
@click.option("--gap", type=click.IntRange(0), help="Rows left out before each part. [default: window + steps ahead]")
@click.option("--level", type=Share(), default=0.9, show_default=True, help="Level of the intervals that are judged.")
@click.option("--separately", is_flag=True, help="An output's elements are different targets, not steps of a horizon.")
@click.option("--samples", type=click.IntRange(2), default=100, show_default=True, help="Samples of every row.")
@click.option("--seed", type=INT64, default=0, show_default=True, help="Any int64.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write an .html file with pictures, too.")
@TABLE
@with_options(SCALING)
@head_option("what the model ends in")
@with_options(LOADING)
@json_option
def tune(
    model: Path,
    data: tuple[Path, ...],
    rows_of: Callable[[Model[Any, Any]], LabelledRows],
    targets: Path | None,
    rates: tuple[float, ...],
    where: tuple[str, ...] | None,
    splits: int,
    gap: int | None,
    level: float,
    separately: bool,
    samples: int,
    seed: int,
    plot: Path | None,
    heads: tuple[str, ...],
    as_json: bool,
    table: Path | None,
    input_scaler: Path | None,
    output_scaler: Path | None,
    custom: Path | None,
    weights: Path | None,
    **loading: Any,
) -> None:
    """Try dropout of several rates in a trained MODEL, and say on LABELLED rows which is best.

    Every choice is exported, calibrated on earlier rows and judged on those that follow, as is the model without
    dropout: CRPS, coverage and width after calibration, coverage of the samples as they are, and whether errors are
    large where the spread is. The weights stay as they are.

    LABELLED and what was observed are as for `keepdrop calibrate`: rows that MODEL was not trained on, in the order of
    time. A choice is called better than none only where that is no chance among so many.

    \b
    Example:
      keepdrop tune plain.keras since.csv --window 24 --target temp --ahead 6 --time date
      keepdrop tune plain.keras since.csv --table table.json --rates 0.05,0.1,0.2 --where lstm.input,lstm.recurrent,head
      keepdrop tune plain.keras x.npy --targets y.npy --plot rates.html
    """
    read = {"the model": model, "the file of targets": targets, **files.inputs(expanded(data, SUFFIXES))}
    files.refuse_overwriting({"the picture": plot}, read)
    if plot:
        files.check(plot, (".html", ".htm"))
    exporter()
    from keepdrop_exporter.loading.live import taken

    from . import choices, judging, picture, tables
    from . import rates as tuning

    loaded = taken(model, custom_objects(custom), weights, **loading).model
    began = time.perf_counter()
    notes: list[str] = []
    shown = bar(None, samples)

    def labelled_rows(plain: Model[Any, Any]) -> tuple[Labelled, int]:
        found = rows_of(plain)
        notes.extend(found.notes)
        given = labelled(plain, found.inputs, found.targets, found.rows, found.times, found.series)
        return given, tuning.overlap(given, found.ahead) if gap is None else gap

    def progress(choice: str) -> None:
        if shown:
            shown.clear()
        click.echo(f"[{time.perf_counter() - began:5.1f} s] {choice}", err=True)

    found = tuning.tuned(
        loaded,
        labelled_rows,
        choices.choices(loaded, rates, where),
        judging.JudgingOptions(samples, seed, level, not separately),
        splits,
        {"table": table, "heads": declared_heads(heads), "input_scaler": input_scaler, "output_scaler": output_scaler},
        progress,
        shown.done if shown else None,
    )
    if shown:
        shown.clear()
    command = (
        None if found.best is None else tables.command_of(str(model), found.best, _others(click.get_current_context()))
    )
    if plot:
        picture.write(plot, found, f"Dropout of {model.name} on {data[0].name}")
    if as_json:
        click.echo(json.dumps({**found.to_dict(), "command": command, "notes": notes}))
        return
    click.echo(found)
    if command:
        click.echo(f"{'' if found.helps else 'to export it all the same:'}\n  {command}".lstrip("\n"))
    if plot:
        click.echo(f"wrote {plot}")
    for note in notes:
        click.echo(f"keepdrop: {note}", err=True)
