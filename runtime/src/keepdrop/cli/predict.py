"""keepdrop predict: every row of a file."""

from __future__ import annotations

import json
import math
import os
import sys
import time
import zipfile
from pathlib import Path
from typing import Any, Optional

import click
import numpy as np
from numpy.typing import NDArray

from keepdrop.engine import Progress
from keepdrop.errors import InputError
from keepdrop.model import load
from keepdrop.prediction import Prediction, interval_quantiles

# Work shorter than this shows no progress.
QUIET_SECONDS = 1.0


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The .npz file to write.")
@click.option("--samples", type=int, help="Samples of every row. [default: what the file says]")
@click.option("--seed", type=int, default=0, show_default=True, help="Any int64; the same seed, the same samples.")
@click.option(
    "--interval",
    "levels",
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    multiple=True,
    metavar="LEVEL",
    help="Write the central interval of this level too, such as 0.9; can be repeated.",
)
@click.option("--first-row", type=int, default=0, show_default=True, help="The row id of the first row of DATA.")
@click.option("--threads", type=int, help="The most threads to use. [default: every CPU]")
@click.option("--keep-samples", is_flag=True, help="Write every sample too.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def predict(
    file: Path,
    data: Path,
    output: Path,
    samples: Optional[int],
    seed: int,
    levels: tuple[float, ...],
    first_row: int,
    threads: Optional[int],
    keep_samples: bool,
    as_json: bool,
) -> None:
    """Predict every row of DATA.

    DATA is a .npy file, or an .npz file with arrays by input name. Mean, standard deviation and intervals of every
    row are written to an .npz file.

    \b
    Example:
      keepdrop predict forecaster.onnx windows.npy -o out.npz --samples 200 --seed 7 --interval 0.9
    """
    _check_target(output)
    model = load(file, threads=threads)
    x = _read(data)
    batch = _length(x)
    samples = model.metadata.default_samples if samples is None else samples
    start = time.perf_counter()
    result = model.predict(
        x,
        samples=samples,
        seed=seed,
        rows=_row_ids(first_row, batch),
        quantiles=None if keep_samples else [q for level in levels for q in interval_quantiles(level)],
        progress=_progress(batch * samples),
    )
    seconds = time.perf_counter() - start
    predictions = {model.metadata.outputs[0].name: result} if isinstance(result, Prediction) else result
    outputs = {name: _arrays(prediction, levels) for name, prediction in predictions.items()}
    _write(output, _keys(outputs))
    report = {
        "file": str(file),
        "output": str(output),
        "rows": batch,
        "samples": samples,
        "seed": seed,
        "seconds": round(seconds, 6),
        "outputs": {
            name: {key: _number(array) for key, array in arrays.items() if key != "samples"}
            for name, arrays in outputs.items()
        },
    }
    click.echo(json.dumps(report) if as_json else "\n".join(_report_lines(report)))


def _check_target(target: Path) -> None:
    if target.is_dir():
        raise InputError(f"{target} is a directory; give the name of the .npz file to write")
    if not target.absolute().parent.is_dir():
        raise InputError(f"cannot write {target}: the directory {target.parent} does not exist; make it first")


def _read(data: Path) -> Any:
    try:
        loaded = np.load(data, mmap_mode="r", allow_pickle=False)
        return loaded if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(
            f"cannot read {data} ({error}); give a .npy file of numbers, or an .npz file with arrays by input name"
        ) from error


def _length(x: Any) -> int:
    """The number of rows, or 1 where there is none to see: what is wrong with `x` is for the model to say."""
    array = next(iter(x.values()), np.zeros(1)) if isinstance(x, dict) else x
    return len(array) if array.ndim else 1


def _row_ids(first_row: int, batch: int) -> NDArray[np.int64]:
    limits = np.iinfo(np.int64)
    if not limits.min <= first_row <= limits.max - batch:
        raise InputError(f"--first-row is {first_row}; row ids have to fit int64")
    return first_row + np.arange(batch, dtype=np.int64)


def _progress(total: int) -> Optional[Progress]:
    if not sys.stderr.isatty():
        return None
    start = time.monotonic()
    done = 0

    def show(count: int) -> None:
        nonlocal done
        done += count
        if time.monotonic() - start > QUIET_SECONDS:
            click.echo(f"\r{100 * done // total:3d} %", err=True, nl=done == total)

    return show


def _arrays(prediction: Prediction, levels: tuple[float, ...]) -> dict[str, NDArray[Any]]:
    arrays = {"mean": prediction.mean, "std": prediction.std}
    for level in levels:
        arrays[f"low_{level}"], arrays[f"high_{level}"] = prediction.interval(level)
    if prediction.samples is not None:
        arrays["samples"] = prediction.samples
    return arrays


def _keys(outputs: dict[str, dict[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The arrays by their key in the .npz file: with the output's name before it where there are several."""
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    return {f"{name}/{key}": array for name, arrays in outputs.items() for key, array in arrays.items()}


def _write(target: Path, arrays: dict[str, NDArray[Any]]) -> None:
    """All or nothing: a failure leaves an older file as it was."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, target)
    except OSError as error:
        raise InputError(f"cannot write {target} ({error}); an older file there is as it was") from error
    finally:
        temporary.unlink(missing_ok=True)


def _number(values: NDArray[Any]) -> Optional[float]:
    """The mean of `values`; None where it is not a number, which JSON has no word for."""
    mean = float(np.mean(values, dtype=np.float64))
    return mean if math.isfinite(mean) else None


def _report_lines(report: dict[str, Any]) -> list[str]:
    return [
        f"{report['rows']} rows x {report['samples']} samples, seed {report['seed']}: {report['seconds']:.3f} s",
        *(f"{name}, averaged: {_averages(averages)}" for name, averages in report["outputs"].items()),
        f"wrote {report['output']}",
    ]


def _averages(averages: dict[str, Optional[float]]) -> str:
    return ", ".join(f"{name} {'nan' if value is None else format(value, '.4g')}" for name, value in averages.items())
