"""The verbs this package adds to the command ``keepdrop``; TensorFlow is imported only once one of them runs."""

from __future__ import annotations

import dataclasses
import json
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from keepdrop import npz
from keepdrop.artifact.metadata import DEFAULT_SAMPLES
from keepdrop.cli.options import declared_heads, head_option, json_option
from keepdrop.files.targets import refuse_overwriting

from .options import LOADING, SCALING, TABLE, custom_objects, dropout_option, exporter, with_options
from .plan import ATOL, RTOL

if TYPE_CHECKING:
    from keepdrop.artifact.metadata import Verification

_STAGES = {
    "load": "reading the Keras model",
    "plan": "finding what is random in it",
    "trace": "tracing it with the seed as an input",
    "convert": "converting to the artifact's format",
    "verify": "comparing samples with Keras",
    "cost": "measuring what a sample costs",
}

_verification = [
    click.option("--rows", default=4, show_default=True, help="Examples to compare with Keras."),
    click.option("--samples", default=16, show_default=True, help="Samples of each to compare."),
    click.option("--seed", default=0, show_default=True, help="Seed of the compared samples."),
    click.option(
        "--data",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Real inputs to compare on (.npy, or .npz by input name); random ones by default.",
    ),
    click.option("--atol", default=ATOL, show_default=True, help="Absolute tolerance."),
    click.option("--rtol", default=RTOL, show_default=True, help="Relative tolerance."),
    json_option,
]


@click.command(
    epilog="Example: keepdrop export forecaster.keras -o forecaster.onnx",
    short_help="Turn a Keras model into a file that samples.",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="The ONNX file, or the directory of a SavedModel; by default beside the model.",
)
@click.option("--streaming", is_flag=True, help="Let the file take one step after another, for keepdrop stream.")
@click.option(
    "--format",
    type=click.Choice(["onnx", "savedmodel"]),
    help="What to write. [default: onnx where OUTPUT ends in .onnx, savedmodel where it has no suffix]",
)
@dropout_option("Set a rate first: a dropout layer's, LAYER.input or LAYER.recurrent; globs; can be repeated.")
@with_options(SCALING)
@TABLE
@click.option(
    "--default-samples",
    default=DEFAULT_SAMPLES,
    show_default=True,
    help="Samples the file draws where none are asked for.",
)
@click.option(
    "--per-sample",
    multiple=True,
    metavar="INPUT",
    help="Let each sample have this input of its own, as forecasts have that are fed with their own output; can be "
    "repeated.",
)
@click.option("--summary", is_flag=True, help="Let the graph give mean, std and quantiles of the samples too.")
@click.option(
    "--vectors",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write calls of the file and their outputs, by which keepdrop check proves a device.",
)
@head_option("what the model ends in")
@with_options([*LOADING, *_verification])
def export(
    model: Path,
    output: Path | None,
    streaming: bool,
    format: str | None,
    heads: tuple[str, ...],
    as_json: bool,
    data: Path | None,
    custom: Path | None,
    **options: Any,
) -> None:
    """Turn MODEL into a file whose dropout stays on and whose seed is an input.

    MODEL is a .keras file (Keras 3, or 2.13 to 2.15), an .h5 or .hdf5 file (Keras 3, or 2.0 on), the .json of an
    architecture with --weights, or the folder of a SavedModel that Keras 2 wrote. What is rewritten for Keras 3 is said
    in a line each.

    With --streaming it takes the steps of a sequence one by one, and never forgets what came before.
    The samples of the file are compared with those stock Keras computes, before it gets its name.

    --dropout puts dropout where the model was trained without: lstm.input and lstm.recurrent set both rates of a
    recurrent layer, dense.input puts a Dropout before another layer, dropout_1 sets a dropout layer's rate (0 takes
    it out), '*.recurrent' means every recurrent layer.

    --input-scaler and --output-scaler put the scaling of the training data into the file, so that it takes and gives
    numbers in their own units; keepdrop_exporter.scaler_json(scaler) writes the JSON of a fitted scaler.

    --table says which columns of a raw file are the inputs, which are computed from the time, and what the outputs
    forecast, in which unit and how many steps ahead:

    \b
      {"time": {"column": "date", "step": "1h"},
       "inputs": [{"column": "temp", "unit": "°F"}, {"cyclic": "hour"}],
       "outputs": {"target": "temp", "unit": "°F", "ahead": 6}}
    """
    target = output or model.with_suffix("" if format == "savedmodel" else ".onnx")
    refuse_overwriting({"the artifact": target}, {"the data": data, "the custom code": custom})
    api = exporter()
    began = time.perf_counter()

    def progress(stage: str) -> None:
        click.echo(f"[{time.perf_counter() - began:5.1f} s] {stage}: {_STAGES[stage]}", err=True)

    report = api.export(
        model,
        target,
        streaming=streaming,
        format=format,
        heads=declared_heads(heads),
        data=_read(data),
        custom_objects=custom_objects(custom),
        progress=progress,
        **options,
    )
    if as_json:
        click.echo(
            json.dumps(
                {
                    "path": str(report.path),
                    "size": report.size,
                    **dataclasses.asdict(report.metadata),
                    "notes": report.notes,
                }
            )
        )
        return
    layers = dict.fromkeys(draw.layer for draw in report.metadata.draws)
    click.echo(
        f"{report.path}: {report.size / 1024:.0f} KiB, "
        f"{report.metadata.draws_per_row} draws a row in {', '.join(layers)}"
    )
    _print_verification(report.verified)
    for note in report.notes:
        click.echo(f"note: {note}")


@click.command(
    epilog="Example: keepdrop verify forecaster.keras forecaster.onnx --samples 50",
    short_help="Compare such a file's samples with Keras'.",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.argument("artifact", type=click.Path(path_type=Path))
@dropout_option("A rate that was set on the way to ARTIFACT, as for export; can be repeated.")
@with_options(SCALING)
@with_options([*LOADING, *_verification])
def verify(model: Path, artifact: Path, as_json: bool, data: Path | None, custom: Path | None, **options: Any) -> None:
    """Compare the samples of ARTIFACT with those stock Keras computes from MODEL, the file it was made from.

    MODEL and the options for it are as for export.
    """
    api = exporter()
    report = api.verify(model, artifact, data=_read(data), custom_objects=custom_objects(custom), **options)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report)))
    else:
        _print_verification(report)


@click.command(
    epilog="Example: keepdrop retrofit plain.keras -o mc.keras --dropout '*.recurrent=0.2'",
    short_help="Set a Keras model's dropout rates and scaling.",
)
@click.argument("model", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The .keras file to write.")
@dropout_option(
    "LAYER=RATE for a dropout layer (0 takes it out), LAYER.input or LAYER.recurrent; globs; can be repeated.",
)
@with_options([*SCALING, *LOADING])
@json_option
def retrofit(
    model: Path, output: Path, dropout: dict[str, float], as_json: bool, custom: Path | None, **options: Any
) -> None:
    """Write MODEL with other dropout rates, or with its scaling built in, to a .keras file that plain Keras loads.

    LAYER.input and LAYER.recurrent set the dropout and recurrent_dropout of a recurrent layer; LAYER.input of any
    other puts a Dropout before it. Layers of nested models are named by path, such as encoder/lstm.recurrent.

    Weights and output without dropout are unchanged: that is checked before the file gets its name. With
    --input-scaler and --output-scaler it then takes and gives numbers in their own units.
    """
    if not dropout and options["input_scaler"] is None and options["output_scaler"] is None:
        raise click.UsageError("Nothing to set: give --dropout LAYER=RATE, --input-scaler or --output-scaler.")
    refuse_overwriting({"the new model": output}, {"the custom code": custom})
    exporter()
    from .retrofit import save_with_dropout

    changes = save_with_dropout(model, output, dropout, custom_objects=custom_objects(custom), **options)
    if as_json:
        click.echo(json.dumps({"path": str(output), "changes": changes}))
        return
    raw = any(options[name] for name in ("input_scaler", "output_scaler"))
    click.echo(f"{output}: the weights of {model}, and its output without dropout{', on raw numbers' * raw}")
    for change in changes:
        click.echo(f"  {change}")


@click.command(
    epilog="Example: keepdrop summarise calibrated.onnx -o device.onnx",
    short_help="Let a file's graph give the answer too.",
)
@click.argument("artifact", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The ONNX file to write.")
@click.option("--remove", is_flag=True, help="Take such outputs out instead, for another calibration.")
@json_option
def summarise(artifact: Path, output: Path, remove: bool, as_json: bool) -> None:
    """Write ARTIFACT with its answers as outputs of the graph, for programs that should not compute them.

    They are mean, std and quantiles of the samples, as with export --summary, and of a calibrated ARTIFACT where an
    observation will fall: NAME_observation_quantiles, or NAME_observation_probability of classes. Each is compared with
    what keepdrop computes itself before the file gets its name.

    The graph then holds that calibration, and another is refused: --remove first.
    """
    metadata = exporter().summarise(artifact, output, remove=remove)
    names = [tensor.name for tensor in metadata.summary]
    if as_json:
        click.echo(json.dumps({"path": str(output), "summary": names}))
        return
    click.echo(f"{output}: " + (f"also gives {', '.join(names)}" if names else "gives samples alone"))


def _read(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return npz.whole(path)
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise click.UsageError(f"{path}: not an .npy or .npz file of plain arrays ({error})") from error


def _print_verification(report: Verification) -> None:
    click.echo(
        f"verified: {report.samples} samples of {report.rows} rows ({report.data} inputs, seed {report.seed}) "
        f"equal Keras' within {report.atol:g} + {report.rtol:g} * |sample|"
    )
    for check in report.outputs:
        click.echo(f"  {check.name}: largest difference {check.max_abs:.2g}, relative {check.max_rel:.2g}")
        if check.from_float64:
            click.echo(
                f"    beyond that, and as near to float64 as Keras is: {check.from_float64:.2g} of a sample away, "
                f"Keras {check.keras_from_float64:.2g}"
            )
        if check.nan:
            click.echo(f"    {check.nan} numbers are NaN in both: the model overflows on these inputs")
