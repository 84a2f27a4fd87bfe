"""A stream as a file: a plain .npz without pickled objects, whose entries are

    keepdrop_stream    int64 []        version of this format, 2
    contract           int64 []        version of the sampling contract
    artifact_sha256    str []          digest of the artifact's file, in hexadecimal
    numbers_sha256     str []          digest of what its numbers depend on, by which it is known: a rebuild and a
                                       calibrated copy have the same
    seed               int64 []
    first_sample       int64 []
    samples            int64 []
    window             int64 []        steps of the windows that the model was trained on; 0: not known
    rows               int64 [rows]    the row ids, in the stream's order
    steps_seen         int64 [rows]
    diverged           int64 [rows]    the step at which a row's state ceased to be finite; 0: it is finite
    time               float64 [rows]  the time of a row's last reading (microseconds since 1970, or a number); -inf
    held               float64 [rows, columns, 2]  where missing values are held, the last one of each column (NaN of
                                       none) and how many readings ago it came
    state/NAME         [rows, samples, ...] or [rows, ...], one entry for each state; zeros where it diverged
    calibration        str []          digest of what calibrated the artifact, "" of none
    feedback/OUTPUT/NAME [rows, ...]   what each row learned from truths, as `keepdrop.calibration.feedback` has it

Masks are left out: they follow from seed, row and sample number, and are made anew. The archive's own checksums tell a
damaged file. What was learned with another calibration is left, and the rows begin to learn anew.

Version 1, which is read as well, is bound to the artifact's file: it has no `numbers_sha256`, `window`, `diverged` and
`time`, and nothing that was learned.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any, Literal, NamedTuple, Optional, Protocol, Union, get_args

import numpy as np
from numpy.typing import NDArray

from keepdrop import npz
from keepdrop.artifact.metadata import CONTRACT_VERSION, STEPS_SEEN, State
from keepdrop.errors import InputError
from keepdrop.run.memory import Budget
from keepdrop.run.request import fits

FORMAT = 2
FORMAT_KEY = "keepdrop_stream"
STATE, FEEDBACK = "state/", "feedback/"
CALIBRATION = "calibration"
DIVERGED = "diverged"
TIME, HELD = "time", "held"
# What is kept of a row beside its states, and where it starts; its dtype is that of these numbers.
AT_START: Mapping[str, float] = {STEPS_SEEN: 0, DIVERGED: 0, TIME: -math.inf}
# The entries that have come since, by the version that brought them.
SINCE = {"numbers_sha256": 2, "window": 2, DIVERGED: 2, TIME: 2, CALIBRATION: 2}

# Paths as `open` takes them, or what `Stream.save` gave.
Saved = Union[bytes, bytearray, memoryview, str, "os.PathLike[str]"]


# What becomes of a stream that was saved with an artifact of other numbers.
OnNewArtifact = Literal["refuse", "keep", "reset"]


class Identity(NamedTuple):
    """Which artifact a stream is of: its file, and what its numbers depend on ("" where that is not known)."""

    artifact_sha256: str
    numbers_sha256: str

    def same(self, other: Identity) -> bool:
        """Whether both give the same numbers."""
        if self.numbers_sha256 and other.numbers_sha256:
            return self.numbers_sha256 == other.numbers_sha256
        return self.artifact_sha256 == other.artifact_sha256


@dataclass(frozen=True, eq=False)
class SavedStream:
    """What a stream is, apart from what its artifact is."""

    identity: Identity
    seed: int
    first_sample: int
    samples: int
    window: Optional[int]
    rows: NDArray[np.int64]  # [B]
    counts: Mapping[str, NDArray[Any]]  # each [B], as in AT_START
    states: Mapping[str, NDArray[Any]]  # each [B, T, ...] or [B, ...]
    calibration: str
    learned: Mapping[str, NDArray[Any]]  # each [B, ...]
    held: Optional[NDArray[np.float64]] = None  # [B, columns, 2]


class Learner(Protocol):
    """What a file needs of `Learning`."""

    digest: str

    def stored_shapes(self) -> dict[str, tuple[tuple[Optional[int], ...], str]]:
        """Shape without the axis of rows, None for any size, and dtype, of each array by its name."""

    def begun(self, rows: int) -> dict[str, NDArray[Any]]:
        """The arrays of so many rows that have learned nothing yet."""

    def adopted(self, arrays: Mapping[str, NDArray[Any]]) -> Optional[Mapping[str, NDArray[Any]]]:
        """Arrays of these shapes that come from a file, as those of some rows; None where they cannot be that."""


def state_shape(state: State, rows: int, samples: int) -> tuple[int, ...]:
    """The shape of a state, or mask, of so many rows and samples."""
    return (rows, samples, *state.shape) if state.per_sample else (rows, *state.shape)


def counts_at_start(rows: int) -> dict[str, NDArray[Any]]:
    """What so many rows begin with, [rows] each."""
    return {name: np.full(rows, start, np.array(start).dtype) for name, start in AT_START.items()}


def to_bytes(saved: SavedStream) -> bytes:
    """The file's content."""
    file = io.BytesIO()
    np.savez(
        file,
        **{  # type: ignore[arg-type]
            FORMAT_KEY: np.array(FORMAT, np.int64),
            "contract": np.array(CONTRACT_VERSION, np.int64),
            **{name: np.array(digest) for name, digest in saved.identity._asdict().items()},
            "seed": np.array(saved.seed, np.int64),
            "first_sample": np.array(saved.first_sample, np.int64),
            "samples": np.array(saved.samples, np.int64),
            "window": np.array(saved.window or 0, np.int64),
            "rows": saved.rows,
            **saved.counts,
            **{STATE + name: array for name, array in saved.states.items()},
            CALIBRATION: np.array(saved.calibration),
            **{FEEDBACK + name: array for name, array in saved.learned.items()},
            **({} if saved.held is None else {HELD: saved.held}),
        },
    )
    return file.getvalue()


class StreamFile:
    """A saved stream that is open: what it says of itself, and the states that it holds for an artifact that has some.

    Raises
    ------
    InputError
        The file is missing or damaged, or of another version.
    TooLarge
        What it holds does not fit in the budget.
    """

    def __init__(self, source: Saved, budget: Budget) -> None:
        self._stack = contextlib.ExitStack()
        name, file = self._stack.enter_context(_opened(source))
        self._entries = entries = _Entries(name, file, budget)
        self.name = name
        self.version = entries.number(FORMAT_KEY)
        if not 1 <= self.version <= FORMAT:
            raise entries.unknown(FORMAT_KEY, self.version, f"1 to {FORMAT}")
        contract = entries.number("contract")
        if contract != CONTRACT_VERSION:
            raise entries.unknown("contract", contract, str(CONTRACT_VERSION))
        artifact = str(entries.take("artifact_sha256", None, ()))
        numbers = str(entries.take("numbers_sha256", None, ())) if self._has("numbers_sha256") else ""
        self.identity = Identity(artifact, numbers)
        self.seed = entries.number("seed")
        self.first_sample = entries.number("first_sample", least=0)
        self.samples = entries.number("samples", least=1)
        self.window = (entries.number("window", least=0) or None) if self._has("window") else None

    def __enter__(self) -> StreamFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def resumed(
        self,
        identity: Identity,
        states: Sequence[State],
        learning: Optional[Learner],
        on_new_artifact: OnNewArtifact,
    ) -> SavedStream:
        """What goes on with the artifact of this identity, which has these states; `Model.resume` says how."""
        if on_new_artifact not in get_args(OnNewArtifact):
            raise InputError(f"on_new_artifact is {on_new_artifact!r}; give one of {list(get_args(OnNewArtifact))}")
        if self.identity.same(identity):
            return replace(self.read(states, learning), identity=identity)
        if on_new_artifact == "refuse":
            raise InputError(
                f"{self.name} was saved with another artifact: that one's sha256 begins with "
                f"{self.identity.artifact_sha256[:12]!r}, and this one's with {identity.artifact_sha256[:12]!r}; load "
                "the artifact it was saved with, start a new stream, or say by on_new_artifact= that its states are to "
                "be kept or reset"
            )
        if on_new_artifact == "reset":
            return replace(self.at_start(states, learning), identity=identity)
        try:
            return replace(self.read(states, learning), identity=identity)
        except InputError as error:
            raise InputError(
                f"{error}; states of another artifact can be kept where they have the same shapes"
            ) from None

    def at_start(self, states: Sequence[State], learning: Optional[Learner]) -> SavedStream:
        """Its rows and no more, before their first step."""
        rows = self._entries.take("rows", "int64", (None,))
        zeros = {s.name: np.zeros(state_shape(s, len(rows), self.samples), s.dtype) for s in states}
        numbers = (self.seed, self.first_sample, self.samples, self.window)
        digest, learned = (learning.digest, learning.begun(len(rows))) if learning else ("", {})
        return SavedStream(self.identity, *numbers, rows, counts_at_start(len(rows)), zeros, digest, learned)

    def read(self, states: Sequence[State], learning: Optional[Learner] = None) -> SavedStream:
        """All of it; InputError where it is damaged or does not fit these states."""
        entries = self._entries
        rows = entries.take("rows", "int64", (None,))
        count = len(rows)
        counts = {
            name: entries.take(name, array.dtype.name, rows.shape) if self._has(name) else array
            for name, array in counts_at_start(count).items()
        }
        found = {
            state.name: entries.take(STATE + state.name, state.dtype, state_shape(state, count, self.samples))
            for state in states
        }
        learned = self._learned(learning, count)
        held = entries.take(HELD, "float64", (count, None, 2)) if HELD in entries else None
        entries.end()
        if held is not None and not (held[..., 1] >= 0).all():
            raise entries.refusal("values are held of readings to come")
        less = any((counts[name] < 0).any() for name in (STEPS_SEEN, DIVERGED))
        if len(np.unique(rows)) < count or less or np.isnan(counts[TIME]).any():
            raise entries.refusal("its rows are not unique, or have seen less than no step, or at no time")
        for name, array in found.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                row = rows[int(np.argwhere(~np.isfinite(array))[0, 0])]
                raise InputError(
                    f"state {name!r} of row {row} holds NaN or infinity, and no number follows it; {self.name} cannot "
                    "be resumed: start a new stream"
                )
        numbers = (self.seed, self.first_sample, self.samples, self.window)
        digest = learning.digest if learning else ""
        return SavedStream(self.identity, *numbers, rows, counts, found, digest, learned, held)

    def _learned(self, learning: Optional[Learner], rows: int) -> Mapping[str, NDArray[Any]]:
        """What the rows learned with this calibration; with another one they begin anew."""
        entries = self._entries
        digest = str(entries.take(CALIBRATION, None, ())) if self._has(CALIBRATION) else ""
        if learning is not None and digest == learning.digest:
            learned = {
                name: entries.take(FEEDBACK + name, dtype, (rows, *shape))
                for name, (shape, dtype) in learning.stored_shapes().items()
            }
            adopted = learning.adopted(learned)
            if adopted is None:
                raise entries.refusal("what its rows learned is out of range")
            return adopted
        entries.leave(FEEDBACK)
        return learning.begun(rows) if learning else {}

    def _has(self, name: str) -> bool:
        return SINCE.get(name, 1) <= self.version


@contextlib.contextmanager
def _opened(source: Saved) -> Iterator[tuple[str, IO[bytes]]]:
    if isinstance(source, (bytes, bytearray, memoryview)):
        yield "the saved stream", io.BytesIO(source)
        return
    if not isinstance(source, (str, os.PathLike)):
        raise InputError(f"data is {source!r}; give what a stream's save() gave, or the path of a file that holds it")
    try:
        file = open(source, "rb")  # noqa: SIM115
    except (OSError, ValueError) as error:  # the latter for a name that no file can have
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(
            f"cannot read {os.fsdecode(source)} ({reason}); give a file that holds what a stream's save() gave"
        ) from error
    with file:
        yield os.fsdecode(source), file


class _Entries:
    """The entries of a file, each taken once, and held against what it has to be before it is given memory."""

    def __init__(self, name: str, file: IO[bytes], budget: Budget) -> None:
        self._name = name
        with self._intact():
            self._archive = zipfile.ZipFile(file)
            self._left = npz.entries(self._archive)
            size = sum(info.file_size for info in self._left.values())
        if not budget.fits(size):
            raise budget.refusal(
                size, f"what {name} says it holds", "take an older one, or give more memory= to keepdrop.load"
            )

    def __contains__(self, key: str) -> bool:
        """Whether there is an entry that was not taken yet."""
        return key + npz.MEMBER in self._left

    def refusal(self, reason: str) -> InputError:
        """The error for a file that is not what `to_bytes` writes."""
        return InputError(
            f"{self._name} is damaged, or is not a saved stream ({reason}); take an older one, or start a new stream"
        )

    def unknown(self, key: str, found: int, known: str) -> InputError:
        """The error for a version that is not known here."""
        return InputError(
            f"{self._name} bears {key} version {found} and this keepdrop knows {known}; install the keepdrop that "
            "saved it"
        )

    def take(self, key: str, dtype: Optional[str], shape: tuple[Optional[int], ...]) -> NDArray[Any]:
        """An entry of this dtype (None: text) and shape (None: any size), in native byte order."""
        info = self._left.pop(key + npz.MEMBER, None)
        if info is None:
            raise self.refusal(f"it lacks {key!r}")
        with self._intact(), self._archive.open(info) as member:
            found_shape, fortran, found = npz.array_header(member)
            native = found.newbyteorder("=")
            of_kind = native.kind == "U" if dtype is None else native == np.dtype(dtype)
            if not (of_kind and fits(found_shape, shape)):
                raise self.refusal(
                    f"its {key!r} is {found} {list(found_shape)}, expected {dtype or 'text'} "
                    f"{['any' if size is None else size for size in shape]}"
                )
            if npz.array_bytes(found_shape, found) > info.file_size:
                raise self.refusal(f"its {key!r} is cut")
            content = member.read()  # to its end, where its checksum is compared
            values = np.frombuffer(content, found, math.prod(found_shape))
        return np.array(values.reshape(found_shape, order="F" if fortran else "C"), native, order="C")

    def number(self, key: str, least: int = int(np.iinfo(np.int64).min)) -> int:
        """An int64 of `least` or more."""
        value = int(self.take(key, "int64", ()))
        if value < least:
            raise self.refusal(f"its {key!r} is {value}, expected {least} or more")
        return value

    def leave(self, prefix: str) -> None:
        """Entries that are not needed."""
        self._left = {name: info for name, info in self._left.items() if not name.startswith(prefix)}

    def end(self) -> None:
        """Nothing may be left."""
        if self._left:
            more = [name[: -len(npz.MEMBER)] if name.endswith(npz.MEMBER) else name for name in sorted(self._left)]
            raise self.refusal(f"it also holds {more}")

    @contextlib.contextmanager
    def _intact(self) -> Iterator[None]:
        try:
            yield
        except InputError:
            raise
        except Exception as error:  # of zipfile, zlib, struct, tokenize, numpy: whatever damage leads to
            raise self.refusal(str(error) or repr(error)) from error
