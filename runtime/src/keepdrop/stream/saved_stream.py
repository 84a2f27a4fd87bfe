"""A stream as a file: a plain .npz without pickled objects, whose entries are

    keepdrop_stream    int64 []        version of this format, 1
    contract           int64 []        version of the sampling contract
    artifact_sha256    str []          digest of the artifact's file, in hexadecimal
    seed               int64 []
    first_sample       int64 []
    samples            int64 []
    rows               int64 [rows]    the row ids, in the stream's order
    steps_seen         int64 [rows]
    state/NAME         [rows, samples, ...] or [rows, ...], one entry for each of the artifact's states

Masks are left out: they follow from seed, row and sample number, and are made anew. The archive's own checksums tell a
damaged file.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import CONTRACT_VERSION, STEPS_SEEN, State, Streaming
from keepdrop.errors import InputError

FORMAT = 1
FORMAT_KEY = "keepdrop_stream"
STATE = "state/"

# Paths as `open` takes them, or what `Stream.save` gave.
Saved = Union[bytes, bytearray, memoryview, str, "os.PathLike[str]"]


@dataclass(frozen=True, eq=False)
class SavedStream:
    """What a stream is, apart from what its artifact is."""

    artifact_sha256: str
    seed: int
    first_sample: int
    samples: int
    rows: NDArray[np.int64]  # [B]
    steps_seen: NDArray[np.int64]  # [B]
    states: Mapping[str, NDArray[Any]]  # each [B, T, ...] or [B, ...]


def state_shape(state: State, rows: int, samples: int) -> tuple[int, ...]:
    """The shape of a state, or mask, of so many rows and samples."""
    return (rows, samples, *state.shape) if state.per_sample else (rows, *state.shape)


def to_bytes(saved: SavedStream) -> bytes:
    """The file's content.

    Raises
    ------
    InputError
        A row's state is not finite, so that nothing could go on from it.
    """
    _check_finite(saved.states, saved.rows, "reset or remove that row first")
    file = io.BytesIO()
    np.savez(
        file,
        **{  # type: ignore[arg-type]
            FORMAT_KEY: np.array(FORMAT, np.int64),
            "contract": np.array(CONTRACT_VERSION, np.int64),
            "artifact_sha256": np.array(saved.artifact_sha256),
            "seed": np.array(saved.seed, np.int64),
            "first_sample": np.array(saved.first_sample, np.int64),
            "samples": np.array(saved.samples, np.int64),
            "rows": saved.rows,
            STEPS_SEEN: saved.steps_seen,
            **{STATE + name: array for name, array in saved.states.items()},
        },
    )
    return file.getvalue()


def from_bytes(source: Saved, carried: Streaming, artifact_sha256: str) -> SavedStream:
    """What was saved, for the artifact of this digest.

    Raises
    ------
    InputError
        The file is missing, damaged, of another version or artifact, or does not fit the artifact's states.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        name, content = "the saved stream", bytes(source)
    elif isinstance(source, (str, os.PathLike)):
        name, content = os.fsdecode(source), _content(source)
    else:
        raise InputError(f"data is {source!r}; give what a stream's save() gave, or the path of a file that holds it")
    entries = _Entries(name, content)
    entries.expect(FORMAT_KEY, FORMAT, "install the keepdrop that saved it")
    entries.expect("contract", CONTRACT_VERSION, "install the keepdrop that saved it")
    found = str(entries.take("artifact_sha256", None, ()))
    if found != artifact_sha256:
        raise InputError(
            f"{name} was saved with another artifact: that one's sha256 begins with {found[:12]!r}, and this one's "
            f"with {artifact_sha256[:12]!r}; load the artifact it was saved with, or start a new stream"
        )
    samples = entries.number("samples", least=1)
    rows = entries.take("rows", "int64", (None,))
    saved = SavedStream(
        artifact_sha256=artifact_sha256,
        seed=entries.number("seed"),
        first_sample=entries.number("first_sample", least=0),
        samples=samples,
        rows=rows,
        steps_seen=entries.take(STEPS_SEEN, "int64", rows.shape),
        states={
            state.name: entries.take(STATE + state.name, state.dtype, state_shape(state, len(rows), samples))
            for state in carried.states
        },
    )
    entries.end()
    if len(np.unique(rows)) < len(rows) or (saved.steps_seen < 0).any():
        raise entries.refusal("its rows are not unique, or have seen less than no step")
    _check_finite(saved.states, rows, f"{name} cannot be resumed: start a new stream")
    return saved


def _content(path: Union[str, os.PathLike[str]]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(
            f"cannot read {os.fsdecode(path)} ({error.strerror}); give a file that holds what a stream's save() gave"
        ) from error


class _Entries:
    """The entries of a file, each taken once and held against what it has to be."""

    def __init__(self, name: str, content: bytes) -> None:
        self._name = name
        try:
            with np.load(io.BytesIO(content), allow_pickle=False) as archive:
                self._left = {key: archive[key] for key in archive.files}
        except Exception as error:  # of zipfile, zlib, struct, tokenize, numpy: whatever damage leads to
            raise self.refusal(str(error) or repr(error)) from error

    def refusal(self, reason: str) -> InputError:
        """The error for a file that is not what `to_bytes` writes."""
        return InputError(
            f"{self._name} is damaged, or is not a saved stream ({reason}); take an older one, or start a new stream"
        )

    def take(self, key: str, dtype: Optional[str], shape: tuple[Optional[int], ...]) -> NDArray[Any]:
        """An entry of this dtype (None: text) and shape (None: any size), in native byte order."""
        if key not in self._left:
            raise self.refusal(f"it lacks {key!r}")
        array = self._left.pop(key)
        native = array.dtype.newbyteorder("=")
        of_kind = native.kind == "U" if dtype is None else native == np.dtype(dtype)
        of_shape = array.ndim == len(shape) and all(
            want is None or want == have for want, have in zip(shape, array.shape)
        )
        if not (of_kind and of_shape):
            raise self.refusal(
                f"its {key!r} is {array.dtype} {list(array.shape)}, expected {dtype or 'text'} "
                f"{['any' if size is None else size for size in shape]}"
            )
        return np.array(array, native, order="C")

    def number(self, key: str, least: int = int(np.iinfo(np.int64).min)) -> int:
        """An int64 of `least` or more."""
        value = int(self.take(key, "int64", ()))
        if value < least:
            raise self.refusal(f"its {key!r} is {value}, expected {least} or more")
        return value

    def expect(self, key: str, version: int, cure: str) -> None:
        """A version that this keepdrop knows."""
        found = self.number(key)
        if found != version:
            raise InputError(f"{self._name} bears {key} version {found} and this keepdrop knows {version}; {cure}")

    def end(self) -> None:
        """Nothing may be left."""
        if self._left:
            raise self.refusal(f"it also holds {sorted(self._left)}")


def _check_finite(states: Mapping[str, NDArray[Any]], rows: NDArray[np.int64], cure: str) -> None:
    for name, array in states.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            row = rows[int(np.argwhere(~np.isfinite(array))[0, 0])]
            raise InputError(f"state {name!r} of row {row} holds NaN or infinity, and no number follows it; {cure}")
