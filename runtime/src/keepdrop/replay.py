"""Vectors: calls of an artifact with the outputs they gave, as plain files, and their replay on another machine.

A binding, a provider or a rebuilt onnxruntime can give wrong numbers in the right shape. Where the replay agrees, the
machine draws the samples that were verified.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import (
    FIRST_SAMPLE,
    MADE_SUFFIX,
    NEXT_SUFFIX,
    NUM_SAMPLES,
    QUANTILES,
    ROWS,
    SEED,
    STEPS_SEEN,
    Metadata,
    State,
)
from keepdrop.errors import InputError
from keepdrop.run.session import ONNXRUNTIME_VERSION, AnySession

FORMAT = "keepdrop vectors 1"
INDEX = "vectors.json"
# What export and verify allow beside Keras: onnxruntime's kernels sum in another order on another processor.
ATOL, RTOL = 1e-5, 1e-4

Arrays = dict[str, NDArray[Any]]

# seed, rows, num_samples, first_sample: both ends of int64, ids beyond 32 bits, equal ids, samples far on.
_CALLS: tuple[tuple[int, tuple[int, ...], int, int], ...] = (
    (7, (0, 1, 2), 5, 0),
    (-3, (2**40 + 3, -5, 17), 5, 0),
    (2**32 + 5, (2**62, 2**33 + 1, 0), 4, 1000),
    (2**63 - 1, (0, 0, 1), 3, 0),
    (-(2**63), (5, 6, 7), 3, 37),
    (123456789012345, (9,), 1, 2**20),
)
_CHUNKS = (1, 2, 5)
# What graphs that give summaries are asked for: both ends, between samples, and the ends of intervals.
_QUANTILES = (0.0, 0.05, 0.37, 0.5, 0.95, 1.0)

_README = f"""Calls of an ONNX artifact of keepdrop's, with the outputs they have to give.

{INDEX} is one JSON object. "calls" is a list; each call has "feeds" and "outputs", objects by the tensor's name:

    "dtype"  the element type, as NumPy names it (float32, int64, ...)
    "shape"  the sizes of its axes; [] is a scalar
    "file"   a file of this folder: the elements alone, little-endian, the last axis varying fastest

For each call: read the feeds, run the graph on all of them, ask for the outputs named, and compare. An element y is
right where |y - e| <= atol + rtol * |e|, e being the element in the file ("atol" and "rtol" stand in {INDEX}); one
that is NaN in the file has to be NaN. A call needs nothing of the calls before it.
"""


@dataclass(frozen=True)
class Replayed:
    """How one output of one call compared: ``worst`` is the largest difference in units of what is allowed."""

    call: int
    output: str
    worst: float
    wrong: float
    """Which part of its elements differs by more than is allowed."""


def write_vectors(session: AnySession, folder: Union[str, Path], x: Mapping[str, NDArray[Any]]) -> int:
    """Write calls of an artifact and the outputs they give to a new folder; how many.

    Parameters
    ----------
    session
        The open artifact.
    folder
        To be made; it must not be there yet.
    x
        Inputs by name, [1 row or more, ...]; where there are fewer than a call takes, they begin again.

    Raises
    ------
    InputError
        The folder is there, or its own folder is not; the artifact has inputs per sample.
    """
    target = Path(folder)
    refuse_folder(target)
    if session.metadata.per_sample:
        raise InputError(
            f"{session.path} takes {list(session.metadata.per_sample)} for each sample, which vectors do not hold; "
            "make them of an artifact that was exported without per_sample="
        )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as partial:
        made = Path(partial) / "vectors"
        made.mkdir()
        told = [
            {"feeds": _stored(made, f"{i}-in", feeds), "outputs": _stored(made, f"{i}-out", outputs)}
            for i, (feeds, outputs) in enumerate(calls(session, x))
        ]
        index = {
            "format": FORMAT,
            "artifact": os.path.basename(session.path),
            "numbers_digest": session.numbers_digest(),
            "keepdrop_version": session.metadata.keepdrop_version,
            "onnxruntime_version": ONNXRUNTIME_VERSION,
            "atol": ATOL,
            "rtol": RTOL,
            "calls": told,
        }
        (made / INDEX).write_text(json.dumps(index, indent=1), encoding="utf-8")
        (made / "README.txt").write_text(_README, encoding="utf-8")
        os.replace(made, target)
    return len(told)


def calls(session: AnySession, x: Mapping[str, NDArray[Any]]) -> Iterator[tuple[Arrays, Arrays]]:
    """The calls of an artifact: feeds and outputs by name, those of a summary too where the graph gives it."""
    return _pushes(session, x) if session.metadata.stream else _plain(session, x)


def refuse_folder(target: Path) -> None:
    """Raise InputError where vectors cannot be written: nothing is overwritten."""
    if target.exists():
        raise InputError(f"{target} is there already; give another folder, or move it away")
    if not target.parent.is_dir():
        raise InputError(f"{target}: there is no folder {target.parent}; make it first")


def check_vectors(session: AnySession, folder: Union[str, Path]) -> list[Replayed]:
    """Replay vectors with the onnxruntime at hand, each output compared with the one that was written.

    Raises
    ------
    InputError
        The folder holds no vectors, is damaged, or was written for an artifact of other numbers.
    """
    path = Path(folder)
    try:
        index = json.loads((path / INDEX).read_text(encoding="utf-8"))
        written, told = index["numbers_digest"], index["calls"]
        allowed = float(index["atol"]), float(index["rtol"])
        kind = index["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} holds no vectors ({error!r}); give a folder that `keepdrop vectors` wrote") from error
    if kind != FORMAT:
        raise InputError(f"{path} is of the form {kind!r} and this keepdrop reads {FORMAT!r}; write the vectors again")
    if written != session.numbers_digest():
        raise InputError(
            f"{path} was written for an artifact of other numbers ({index.get('artifact')}, digest {written[:12]}...) "
            f"than {session.path} has ({session.numbers_digest()[:12]}...); write vectors of this one"
        )
    return [result for i, call in enumerate(told) for result in _replayed(session, path, i, call, allowed)]


def _replayed(
    session: AnySession, folder: Path, number: int, call: Mapping[str, Any], allowed: tuple[float, float]
) -> Iterator[Replayed]:
    feeds = {name: _read(folder, told) for name, told in call["feeds"].items()}
    outputs = session.call(list(call["outputs"]), feeds)
    for (name, told), given in zip(call["outputs"].items(), outputs):
        expected = _read(folder, told)
        if given.shape != expected.shape or given.dtype != expected.dtype:
            yield Replayed(number, name, math.inf, 1.0)
            continue
        ratio = _ratio(given, expected, *allowed)
        yield Replayed(number, name, float(ratio.max(initial=0.0)), float(np.mean(ratio > 1)) if ratio.size else 0.0)


def _ratio(given: NDArray[Any], expected: NDArray[Any], atol: float, rtol: float) -> NDArray[np.float64]:
    """Differences in units of what is allowed; infinite where only one of both is a number."""
    one, other = given.astype(np.float64), expected.astype(np.float64)
    with np.errstate(invalid="ignore"):
        ratio: NDArray[np.float64] = np.abs(one - other) / (atol + rtol * np.abs(other))
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.where(same, 0.0, np.where(np.isfinite(ratio), ratio, np.inf))


def _plain(session: AnySession, x: Mapping[str, NDArray[Any]]) -> Iterator[tuple[Arrays, Arrays]]:
    names = _shown(session.metadata)
    for seed, rows, samples, first in _CALLS:
        feeds = {name: _from(array, 0, 0, len(rows)) for name, array in x.items()}
        feeds.update(_controls(session.metadata, seed, rows, samples, first))
        yield feeds, dict(zip(names, session.call(names, feeds)))


def _pushes(session: AnySession, x: Mapping[str, NDArray[Any]]) -> Iterator[tuple[Arrays, Arrays]]:
    """Pushes one after the other, each with what the one before gave as its feeds."""
    stream = session.metadata.stream
    assert stream is not None
    seed, rows, samples, first = 2**32 + 5, (2**40, 1, -2), 4, 3

    def zeros(state: State, batch: int) -> NDArray[Any]:
        return np.zeros([batch, *([samples] if state.per_sample else []), *state.shape], state.dtype)

    carried = {state.name: zeros(state, len(rows)) for state in stream.states}
    carried.update({mask.name: zeros(mask, 0) for mask in stream.masks})
    following = {state.name: state.name + NEXT_SUFFIX for state in stream.states}
    following.update({mask.name: mask.name + MADE_SUFFIX for mask in stream.masks})
    names = [*_shown(session.metadata), *following.values()]
    seen = 0
    for steps in _CHUNKS:
        feeds = {name: _from(_from(array, 0, 0, len(rows)), 1, seen, steps) for name, array in x.items()}
        feeds.update(_controls(session.metadata, seed, rows, samples, first), **carried)
        feeds[STEPS_SEEN] = np.full(len(rows), seen, np.int64)
        outputs = dict(zip(names, session.call(names, feeds)))
        yield feeds, outputs
        carried = {name: outputs[later] for name, later in following.items()}
        seen += steps


def _from(array: NDArray[Any], axis: int, start: int, count: int) -> NDArray[Any]:
    """So many entries along an axis, from the first again after the last."""
    return np.take(array, range(start, start + count), axis=axis, mode="wrap")


def _shown(metadata: Metadata) -> list[str]:
    return [tensor.name for tensor in (*metadata.outputs, *metadata.summary)]


def _controls(metadata: Metadata, seed: int, rows: tuple[int, ...], samples: int, first: int) -> Arrays:
    scalars = {SEED: seed, NUM_SAMPLES: samples, FIRST_SAMPLE: first}
    asked = {QUANTILES: np.array(_QUANTILES, np.float32)} if metadata.summary else {}
    return {ROWS: np.array(rows, np.int64), **{name: np.array(n, np.int64) for name, n in scalars.items()}, **asked}


def _stored(folder: Path, prefix: str, arrays: Arrays) -> dict[str, dict[str, Any]]:
    told = {}
    for i, (name, array) in enumerate(arrays.items()):
        file = f"{prefix}-{i}.bin"
        little = array.astype(array.dtype.newbyteorder("<"))
        (folder / file).write_bytes(little.tobytes())
        told[name] = {"dtype": array.dtype.name, "shape": list(array.shape), "file": file}
    return told


def _read(folder: Path, told: Mapping[str, Any]) -> NDArray[Any]:
    """An array of the vectors; its file is one of the folder's own, and as long as its shape says."""
    try:
        dtype, shape, file = np.dtype(str(told["dtype"])), [int(n) for n in told["shape"]], str(told["file"])
        if file != os.path.basename(file):
            raise ValueError("it names a file of another folder")
        content = (folder / file).read_bytes()
        size = math.prod(shape) * dtype.itemsize
        if min(shape, default=0) < 0 or len(content) != size:
            raise ValueError(f"{file} has {len(content)} bytes and its shape {shape} takes {size}")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(f"{folder} is damaged ({error}); copy it again, or write the vectors again") from error
    array = np.frombuffer(content, dtype.newbyteorder("<")).reshape(shape)
    return array if sys.byteorder == "little" else array.astype(dtype)


def worst_of(results: list[Replayed]) -> Optional[Replayed]:
    """What is furthest from right, or None where all is."""
    wrong = [result for result in results if result.wrong > 0]
    return max(wrong, key=lambda result: result.worst, default=None)
