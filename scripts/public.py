"""Model files as people have published them: which are exported, and what is said of the others.

A folder holds one folder for each source, and that its files: ``.keras``, ``.h5``, ``.hdf5``, ``.json`` with weights
as an ``.h5`` file of the same stem, and folders of SavedModels. A ``custom.py`` beside them is what its owner would
give as ``--custom``. Where nothing in a model is random, it is given a rate, as ``--dropout`` does.
"""

from __future__ import annotations

import json
import multiprocessing
import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click

# With TensorFlow, once: of this process one is forked for each file, which may crash or never end.
from keepdrop_exporter import ExportError, pipeline
from keepdrop_exporter.loading.custom_code import custom_objects

_SUFFIXES = (".keras", ".h5", ".hdf5", ".json")
# Rates for models without any: of recurrences, where there are some, or before every layer that takes one.
_RATES = ({"*.recurrent": 0.2}, {"*.input": 0.1})

# What messages say, as the table calls it; the first that fits.
_REASONS = {
    "weights alone": "holds weights alone",
    "a class or function that is not Keras', not given": "which is not Keras'",
    "code of a Lambda layer, nothing given for it": "is a Lambda layer",
    "weights of another model": "its weights do not fit",
    "samples do not vary, in Keras either": "in Keras either",
    "Keras 1": "written by Keras 1",
    "WRONG: samples differ": "differs from Keras",
}


class Case(NamedTuple):
    """A model file, and its weights where it has none."""

    path: Path
    weights: Path | None


def cases(folder: Path) -> Iterator[Case]:
    """The model files below a folder of sources."""
    for path in sorted(folder.glob("*/*")):
        described = path.with_suffix(".json")
        if path.is_dir() or (path.suffix in _SUFFIXES and (path.suffix == ".json" or not described.exists())):
            yield Case(path, path.with_suffix(".h5") if path.suffix == ".json" else None)


def outcome(case: Case, write: Any) -> None:
    """Export a file and tell, by ``write``, what came of it."""
    given: dict[str, Any] = {"weights": case.weights}
    if (custom := case.path.parent / "custom.py").exists():
        given["custom_objects"] = custom_objects(custom)
    with tempfile.TemporaryDirectory() as folder:
        for rates in ({}, *_RATES):
            try:
                pipeline.export(case.path, Path(folder) / "model.onnx", dropout=rates, **given)
                write.send("exact, with the rates given" if rates else "exact")
                return
            except ExportError as error:
                message = str(error)
            if not rates and "nothing in it is random" not in message:
                break
        write.send(message)


def told(case: Case, seconds: int) -> str:
    """What a process of its own tells of a file."""
    fork = multiprocessing.get_context("fork")
    read, write = fork.Pipe(duplex=False)
    process = fork.Process(target=outcome, args=(case, write))
    process.start()
    write.close()
    try:
        return str(read.recv()) if read.poll(seconds) else f"not within {seconds} s"
    except EOFError:
        return "the process died"
    finally:
        process.kill()
        process.join()


def reason(said: str) -> str:
    """What the table calls an outcome: its kind, or the message without the file's name."""
    kind = next((kind for kind, text in _REASONS.items() if text in said), None)
    return kind or re.sub(r"^/.*?: ", "", said)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--seconds", default=120, show_default=True, help="The longest that a file may take.")
@click.option("--log", type=click.Path(path_type=Path), help="A file of JSON lines to write: each file's outcome.")
def main(folder: Path, seconds: int, log: Path | None) -> None:
    """Export every model file below FOLDER/SOURCE/, each in a process of its own, and print a table of the outcomes."""
    counts: Counter[str] = Counter()
    sources = set()
    for case in cases(folder):
        began = time.monotonic()
        said = told(case, seconds)
        counts[reason(said)] += 1
        sources.add(case.path.parent)
        if log is not None:
            line = {
                "file": str(case.path.relative_to(folder)),
                "seconds": round(time.monotonic() - began),
                "said": said,
            }
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
    click.echo(f"{counts.total()} files of {len(sources)} sources\n\n| outcome | files |\n|---|---|")
    for kind, count in counts.most_common():
        click.echo(f"| {kind} | {count} |")


if __name__ == "__main__":
    main()
