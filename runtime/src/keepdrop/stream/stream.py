"""Stream: samples that go on from push to push, for rows that come and go.

A row carries its recurrent states and its masks for every sample, so a push costs its own steps and not those before.
As everywhere a sample is a pure function of seed, row, sample number and what its row was given: which rows are pushed
together changes nothing, nor does how many threads do it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepdrop.answer.heads import resolved
from keepdrop.answer.prediction import paired, summarise
from keepdrop.artifact.metadata import (
    FIRST_SAMPLE,
    MADE_SUFFIX,
    NEXT_SUFFIX,
    NUM_SAMPLES,
    ROWS,
    SEED,
    STEPS_SEEN,
    Metadata,
    Streaming,
)
from keepdrop.errors import ArtifactError, InputError
from keepdrop.run.engine import Chunk, Engine, plan_chunks, run_limit
from keepdrop.run.memory import Budget
from keepdrop.run.request import check_far, check_readings, integer, row_ids
from keepdrop.run.session import AnySession

from .saved_stream import SavedStream, state_shape, to_bytes

# The most steps in one run: more of them gain nothing, and take memory.
STEPS_A_RUN = 256
# The most samples x rows in one run. This and the memory of a run decide how a push is cut, not the number of threads,
# so that the same pushes give the same bits on any number of them.
SAMPLE_ROWS_A_RUN = 1024

TIME_AXIS = 2  # of an output that has one, [T, B, steps, ...]

Arrays = Mapping[str, NDArray[Any]]
# Some of a stream's rows by their places; a slice, where they stand side by side, copies nothing.
Places = Union[slice, NDArray[np.int64]]


class Stream:
    """Rows, such as sensors, whose samples go on; made by :meth:`Model.stream` and :meth:`Model.resume`.

    Many streams may share one model and be pushed from several threads at once; the calls of one stream take turns.
    Memory grows with rows x samples, and not with steps. After an error a stream is as it was before the call.

    Attributes
    ----------
    seed, samples, first_sample
        The samples are those of this seed, from first_sample to first_sample + samples - 1.
    """

    def __init__(self, session: AnySession, engine: Engine, budget: Budget, saved: SavedStream) -> None:
        metadata = session.metadata
        carried = streaming_of(metadata)
        demand(budget, carried, len(saved.rows), saved.samples)
        check_far(metadata, saved.first_sample, saved.samples, carried.block)
        self.seed, self.samples, self.first_sample = saved.seed, saved.samples, saved.first_sample
        self._metadata = metadata
        self._heads = resolved(metadata.outputs, metadata.heads)
        self._session = session
        self._engine = engine
        self._budget = budget
        self._artifact_sha256 = saved.artifact_sha256
        self._carried = carried
        self._rows = _Rows(carried, saved)
        self._lock = threading.Lock()
        self._numbers = _numbers(saved.seed, saved.first_sample, saved.samples)
        self._states = [state.name for state in carried.states]
        self._masks = [mask.name for mask in carried.masks]
        self._outputs = [tensor.name for tensor in metadata.outputs]
        self._asked = [*self._outputs, *(name + NEXT_SUFFIX for name in self._states)]
        self._timed = [tensor.shape[TIME_AXIS : TIME_AXIS + 1] == (None,) for tensor in metadata.outputs]
        self._axes = _leading_axes(metadata, carried)
        self._limits: dict[int, int] = {}

    @property
    def rows(self) -> tuple[int, ...]:
        """The row ids, in the order in which :meth:`push` takes them."""
        return tuple(self._rows.ids)

    @property
    def steps_seen(self) -> dict[int, int]:
        """How many steps each row has seen, by row id."""
        with self._lock:
            return dict(zip(self._rows.ids, self._rows.at(slice(None), STEPS_SEEN).tolist()))

    def push(self, x: Any, rows: Optional[ArrayLike] = None) -> Any:
        """Go on by a step or a chunk of steps: a :class:`Prediction`, by output name in a dict where there are several.

        An output without an axis of time is the answer after the last step: [rows, ...], samples [samples, rows, ...].
        One with that axis answers each step, [rows, steps, ...], and is without it where `x` is one step without it.
        How the same steps are cut into chunks changes the numbers by float32 rounding alone.

        Parameters
        ----------
        x
            One step, [rows, ...], or a chunk, [rows, steps, ...]; a dict of such arrays by input name where there are
            several inputs.
        rows
            The row ids of `x`, where only some of the stream's rows go on (default: all of them, as `rows` has them).

        Raises
        ------
        InputError
            `x` does not fit or is not finite; a row is unknown or named twice; the stream has no rows.
        """
        with self._lock:
            where, ids = self._rows.places(rows)
            inputs, one_step = check_readings(self._metadata, x, ids)
            outputs = self._advance(inputs, where, ids)
        predictions = paired(
            [
                summarise(samples[:, :, 0] if timed and one_step else samples, head=head)
                for samples, timed, head in zip(outputs, self._timed, self._heads)
            ]
        )
        return predictions[0] if len(predictions) == 1 else dict(zip(self._outputs, predictions))

    def reset(self, rows: Optional[ArrayLike] = None) -> None:
        """Start rows anew (default: all of them) at step 0, with the same masks; InputError for an unknown row."""
        with self._lock:
            self._rows.zero(slice(None) if rows is None else self._rows.places(rows)[0])

    def add(self, row: int) -> None:
        """Take up one more row at step 0, behind those there are.

        Raises
        ------
        InputError
            It is one of them.
        TooLarge
            What all of them carry does not fit in the memory budget.
        """
        with self._lock:
            demand(self._budget, self._carried, len(self._rows.ids) + 1, self.samples)
            self._rows.add(integer("row", row))

    def remove(self, row: int) -> None:
        """Drop a row and what it carries; those behind it move up. InputError for an unknown row."""
        with self._lock:
            self._rows.remove(integer("row", row))

    def save(self) -> bytes:
        """The stream as a .npz file, from which :meth:`Model.resume` goes on with the very numbers to come.

        `saved_stream` tells its entries.

        Raises
        ------
        InputError
            A row's state is no longer finite.
        """
        with self._lock:
            everyone = slice(None)
            return to_bytes(
                SavedStream(
                    artifact_sha256=self._artifact_sha256,
                    seed=self.seed,
                    first_sample=self.first_sample,
                    samples=self.samples,
                    rows=np.array(self._rows.ids, np.int64),
                    steps_seen=self._rows.at(everyone, STEPS_SEEN),
                    states={name: self._rows.at(everyone, name) for name in self._states},
                )
            )

    def _advance(self, inputs: Arrays, where: Places, ids: NDArray[np.int64]) -> list[NDArray[Any]]:
        """The samples of each output; what is carried changes at the end, once nothing can fail any more."""
        masks = self._masks_of(inputs, where, ids)
        carried = {name: self._rows.at(where, name) for name in (STEPS_SEEN, *self._states)}
        pieces: list[list[NDArray[Any]]] = []
        for piece in _pieces(inputs):
            steps = _steps(piece)
            results = self._run(self._asked, {**piece, **carried, **masks, ROWS: ids}, steps)
            pieces.append(results[: len(self._outputs)])
            carried = {
                STEPS_SEEN: carried[STEPS_SEEN] + steps,
                **dict(zip(self._states, results[len(self._outputs) :])),
            }
        self._rows.put(where, carried)
        if len(pieces) == 1:
            return pieces[0]
        return [
            np.concatenate(parts, TIME_AXIS) if timed else parts[-1] for parts, timed in zip(zip(*pieces), self._timed)
        ]

    def _masks_of(self, inputs: Arrays, where: Places, ids: NDArray[np.int64]) -> Arrays:
        """The masks of these rows; those not there yet are made by a run of their own.

        So every push runs with masks given: a row's first one is computed like any other, also after a resume.
        """
        new = [i for i, row in enumerate(ids.tolist()) if row in self._rows.unmasked] if self._rows.unmasked else []
        if new:
            count = len(new)
            feeds = {name: np.ascontiguousarray(array[new, :1]) for name, array in inputs.items()}
            feeds.update({s.name: np.zeros(state_shape(s, count, self.samples), s.dtype) for s in self._carried.states})
            feeds.update({m.name: np.zeros(state_shape(m, 0, self.samples), m.dtype) for m in self._carried.masks})
            feeds.update({ROWS: ids[new], STEPS_SEEN: np.zeros(count, np.int64)})
            made = self._run([name + MADE_SUFFIX for name in self._masks], feeds, 1)
            self._rows.give_masks(ids[new], dict(zip(self._masks, made)))
        return {name: self._rows.at(where, name) for name in self._masks}

    def _run(self, names: Sequence[str], feeds: Arrays, steps: int) -> list[NDArray[Any]]:
        """The graph's results of these names, in as many runs as their memory asks for."""
        batch = len(feeds[ROWS])
        limit = self._limit(steps)
        if batch * self.samples <= limit:
            results = self._session.call(names, {**feeds, **self._numbers})
        else:
            results = self._run_chunks(names, feeds, plan_chunks(self.samples, batch, 1, limit))
        for name, result in zip(names, results):
            leading = self._leading(name, batch)
            if result.shape[: len(leading)] != leading:
                raise ArtifactError(
                    f"{self._session.path} gave {name!r} as {list(result.shape)} for {self.samples} samples of {batch} "
                    "rows; it is not what an export writes: export the model again"
                )
        return results

    def _run_chunks(self, names: Sequence[str], feeds: Arrays, chunks: list[Chunk]) -> list[NDArray[Any]]:
        wholes: list[NDArray[Any]] = []
        lock = threading.Lock()

        def run(session: AnySession, chunk: Chunk) -> None:
            cut = {name: np.ascontiguousarray(array[self._part(name, chunk)]) for name, array in feeds.items()}
            count = chunk.samples.stop - chunk.samples.start
            numbers = _numbers(self.seed, self.first_sample + chunk.samples.start, count)
            parts = session.call(names, {**cut, **numbers})
            with lock:
                if not wholes:
                    wholes.extend(self._empty_like(name, part, len(feeds[ROWS])) for name, part in zip(names, parts))
            for name, whole, part in zip(names, wholes, parts):
                whole[self._part(name, chunk)] = part

        self._engine.share(run, chunks)
        return wholes

    def _empty_like(self, name: str, part: NDArray[Any], batch: int) -> NDArray[Any]:
        leading = self._leading(name, batch)
        return np.empty((*leading, *part.shape[len(leading) :]), part.dtype)

    def _leading(self, name: str, batch: int) -> tuple[int, ...]:
        return tuple(self.samples if axis == "T" else batch for axis in self._axes[name])

    def _part(self, name: str, chunk: Chunk) -> tuple[slice, ...]:
        return tuple(chunk.samples if axis == "T" else chunk.rows for axis in self._axes[name])

    def _limit(self, steps: int) -> int:
        if steps not in self._limits:
            self._limits[steps] = min(run_limit(self._metadata, steps), SAMPLE_ROWS_A_RUN)
        return self._limits[steps]


class _Rows:
    """What each row carries: arrays by name with one entry a row, in the rows' order, and with room to spare."""

    def __init__(self, carried: Streaming, saved: SavedStream) -> None:
        self.ids: list[int] = saved.rows.tolist()
        self._masks = [mask.name for mask in carried.masks]
        self.unmasked = set(self.ids) if self._masks else set()
        self._arrays = {
            STEPS_SEEN: saved.steps_seen,
            **saved.states,
            **{m.name: np.zeros(state_shape(m, len(self.ids), saved.samples), m.dtype) for m in carried.masks},
        }
        self._number()

    def places(self, rows: Optional[ArrayLike]) -> tuple[Places, NDArray[np.int64]]:
        """Where these rows (None: all) stand, and their ids; InputError where one is unknown or named twice."""
        if not self.ids:
            raise InputError("the stream has no rows; add one first, as in stream.add(row=0)")
        if rows is None:
            return slice(0, len(self.ids)), self._all_ids
        ids = row_ids(rows)
        if not ids.size:
            raise InputError("rows is empty; name one row or more, or leave rows out for all of them")
        places = [self._place(row) for row in ids.tolist()]
        if len(set(places)) < len(places):
            raise InputError(f"rows is {ids.tolist()} and names a row twice; give its steps as one chunk")
        first, after = places[0], places[0] + len(places)
        return (slice(first, after) if places == list(range(first, after)) else np.array(places)), ids

    def at(self, where: Places, name: str) -> NDArray[Any]:
        """An array's entries of these rows."""
        array = self._arrays[name]
        # All of them without room to spare, as it mostly is.
        whole = isinstance(where, slice) and where == slice(0, len(array))
        return array if whole else array[: len(self.ids)][where]

    def put(self, where: Places, arrays: Arrays) -> None:
        """New entries of these rows."""
        for name, array in arrays.items():
            if isinstance(where, slice) and len(array) == len(self.ids) and array.flags.writeable:
                self._arrays[name] = array
            else:
                self._arrays[name][where] = array

    def give_masks(self, ids: NDArray[np.int64], masks: Arrays) -> None:
        """Their masks to rows that lack them."""
        where = [self._place(row) for row in ids.tolist()]
        for name, array in masks.items():
            self._arrays[name][where] = array
        self.unmasked.difference_update(ids.tolist())

    def zero(self, where: Places) -> None:
        """These rows as at their start, but with the masks they have."""
        for name, array in self._arrays.items():
            if name not in self._masks:
                array[: len(self.ids)][where] = 0

    def add(self, row: int) -> None:
        """A row at its start."""
        if row in self._places:
            raise InputError(f"the stream has row {row} already; reset it to start it anew")
        count = len(self.ids)
        self._arrays = {
            name: array if count < len(array) else _resized(array, 2 * count + 1)
            for name, array in self._arrays.items()
        }
        self.ids.append(row)
        self._number()
        self.zero(slice(count, count + 1))
        if self._masks:
            self.unmasked.add(row)

    def remove(self, row: int) -> None:
        """Those behind it move up."""
        place = self._place(row)
        del self.ids[place]
        count = len(self.ids)
        for name, array in self._arrays.items():
            array[place:count] = array[place + 1 : count + 1]
            if 4 * count < len(array):
                self._arrays[name] = _resized(array, 2 * count)
        self._number()
        self.unmasked.discard(row)

    def _number(self) -> None:
        self._places = {row: place for place, row in enumerate(self.ids)}
        self._all_ids = np.array(self.ids, np.int64)

    def _place(self, row: int) -> int:
        if row not in self._places:
            raise InputError(f"the stream has no row {row}; add it first, as in stream.add(row={row})")
        return self._places[row]


def streaming_of(metadata: Metadata) -> Streaming:
    """What a stream of this artifact carries; InputError where it does not stream."""
    if metadata.stream is None:
        raise InputError(
            "this artifact takes whole inputs and does not stream; export the model once more with --streaming "
            "(streaming=True in Python), and stream that file"
        )
    return metadata.stream


def demand(budget: Budget, carried: Streaming, rows: int, samples: int) -> None:
    """Raise TooLarge where what so many rows carry does not fit in the budget."""
    a_row = sum(
        math.prod(state_shape(state, 1, samples)) * np.dtype(state.dtype).itemsize
        for state in (*carried.states, *carried.masks)
    )
    if not budget.fits(rows * a_row):
        raise budget.refusal(
            rows * a_row,
            f"{rows:,} rows x {a_row:,} bytes of states and masks for {samples:,} samples",
            "give fewer rows or samples to a stream, or more memory= to keepdrop.load",
        )


def fresh(
    metadata: Metadata,
    artifact_sha256: str,
    budget: Budget,
    *,
    samples: Optional[int],
    seed: int,
    rows: ArrayLike,
    first_sample: int,
) -> SavedStream:
    """A stream before its first step; InputError where an argument does not fit the artifact."""
    carried = streaming_of(metadata)
    count = integer("samples", metadata.default_samples if samples is None else samples, least=1)
    ids = row_ids(rows)
    if len(np.unique(ids)) < len(ids):
        raise InputError(f"rows is {ids.tolist()} and names a row twice; give each an id of its own")
    demand(budget, carried, len(ids), count)
    return SavedStream(
        artifact_sha256=artifact_sha256,
        seed=integer("seed", seed),
        first_sample=integer("first_sample", first_sample, least=0),
        samples=count,
        rows=ids,
        steps_seen=np.zeros(len(ids), np.int64),
        states={s.name: np.zeros(state_shape(s, len(ids), count), s.dtype) for s in carried.states},
    )


def _leading_axes(metadata: Metadata, carried: Streaming) -> dict[str, str]:
    """Which of samples (T) and batch (B) each of the graph's tensors begins with."""
    axes = {ROWS: "B", STEPS_SEEN: "B"}
    axes.update({tensor.name: "B" for tensor in metadata.inputs})
    axes.update({tensor.name: "TB" for tensor in metadata.outputs})
    for kept, suffix in ((carried.states, NEXT_SUFFIX), (carried.masks, MADE_SUFFIX)):
        for state in kept:
            axes[state.name] = axes[state.name + suffix] = "BT" if state.per_sample else "B"
    return axes


def _numbers(seed: int, first_sample: int, samples: int) -> dict[str, NDArray[Any]]:
    return {
        SEED: np.array(seed, np.int64),
        FIRST_SAMPLE: np.array(first_sample, np.int64),
        NUM_SAMPLES: np.array(samples, np.int64),
    }


def _pieces(inputs: Arrays) -> list[Arrays]:
    """The inputs, cut along time where a run could not take all steps."""
    steps = _steps(inputs)
    if steps <= STEPS_A_RUN:
        return [inputs]
    return [
        {name: np.ascontiguousarray(array[:, start : start + STEPS_A_RUN]) for name, array in inputs.items()}
        for start in range(0, steps, STEPS_A_RUN)
    ]


def _steps(inputs: Arrays) -> int:
    return int(next(iter(inputs.values())).shape[1])


def _resized(array: NDArray[Any], length: int) -> NDArray[Any]:
    resized = np.zeros((length, *array.shape[1:]), array.dtype)
    kept = min(length, len(array))
    resized[:kept] = array[:kept]
    return resized
