"""keepdrop vectors and keepdrop check: an artifact's calls and outputs as plain files, and their replay elsewhere."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import click

from keepdrop.errors import ArtifactError
from keepdrop.model import load
from keepdrop.replay import check_vectors, worst_of, write_vectors
from keepdrop.run.session import ONNXRUNTIME_VERSION

from .measure import random_inputs
from .options import json_option


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The folder to make.")
def vectors(file: Path, output: Path) -> None:
    """Write a handful of calls of FILE, and the outputs they have to give, to a folder.

    It holds JSON and raw little-endian arrays that a program in any language reads (README.txt in it says how), and
    `keepdrop check` replays. The inputs are random ones; FILE is an ONNX file.

    \b
    Example:
      keepdrop vectors forecaster.onnx -o vectors
      keepdrop check forecaster.onnx vectors      # on the device
    """
    session = load(file, threads=1)._session
    count = write_vectors(session, output, random_inputs(session.metadata, rows=3, length=8))
    click.echo(f"wrote {output}: {count} calls of {file}")


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@json_option
def check(file: Path, folder: Path, as_json: bool) -> None:
    """Prove that this machine draws the samples of FILE that are in FOLDER, which `keepdrop vectors` wrote.

    Every call is run again with the onnxruntime at hand and compared, masks and all. Exit code 1 where one differs.

    \b
    Example:
      keepdrop check forecaster.onnx vectors
    """
    results = check_vectors(load(file, threads=1)._session, folder)
    worst, calls = worst_of(results), len({result.call for result in results})
    if as_json:
        told = [dataclasses.asdict(result) for result in results]
        click.echo(json.dumps({"right": worst is None, "onnxruntime": ONNXRUNTIME_VERSION, "outputs": told}))
    if worst is not None:
        differ = len({result.call for result in results if result.wrong})
        raise ArtifactError(
            f"{file} gives other numbers here: {differ} of {calls} calls differ, most of all call {worst.call} in "
            f"{worst.output!r} ({worst.wrong:.0%} of its numbers, by up to {worst.worst:.3g} times what is allowed); "
            f"onnxruntime {ONNXRUNTIME_VERSION} on this machine does not draw this artifact's samples"
        )
    if not as_json:
        furthest = max(result.worst for result in results)
        click.echo(
            f"right: {len(results)} outputs of {calls} calls, at most {furthest:.2g} of what is allowed apart; "
            f"onnxruntime {ONNXRUNTIME_VERSION}"
        )
