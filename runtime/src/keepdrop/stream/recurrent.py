"""Recurrent: how a streaming artifact goes on, with the states that it takes and gives."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from keepdrop.errors import ArtifactError
from keepdrop.run.engine import Engine, RunSlice, plan_chunks, run_limit
from keepdrop.run.session import AnySession

from .rows import Arrays
from .saved_stream import state_shape
from .steps import Drawn, number_of_steps

# The most steps in one run: more of them gain nothing, and take memory.
STEPS_A_RUN = 256
# The most samples x rows in one run. This and the memory of a run decide how a push is cut, not the number of threads,
# so that the same pushes give the same bits on any number of them.
SAMPLE_ROWS_A_RUN = 1024

TIME_AXIS = 2  # of an output that has one, [T, B, steps, ...]


class Recurrent:
    """Runs a chunk of steps from what is carried to what is carried then."""

    def __init__(self, session: AnySession, engine: Engine, streaming: Streaming, drawn: Drawn) -> None:
        metadata = session.metadata
        self.inputs = metadata.inputs
        self.kept, self.masks = streaming.states, streaming.masks
        self.window = streaming.block if streaming.block > 1 else None
        self.longest = streaming.block
        self.timed = [tensor.shape[TIME_AXIS : TIME_AXIS + 1] == (None,) for tensor in metadata.outputs]
        self._metadata = metadata
        self._session = session
        self._engine = engine
        self._drawn = drawn
        self._numbers = _numbers(drawn)
        self._states = [state.name for state in streaming.states]
        self._outputs = [tensor.name for tensor in metadata.outputs]
        self._asked = [*self._outputs, *(name + NEXT_SUFFIX for name in self._states)]
        self._axes = _leading_axes(metadata, streaming)
        self._limits: dict[int, int] = {}

    def run(self, inputs: Arrays, ids: NDArray[np.int64], carried: Arrays) -> tuple[list[NDArray[Any]], Arrays]:
        """The samples of each output, and the states after the last step; `carried` has masks too."""
        masks = {mask.name: carried[mask.name] for mask in self.masks}
        states = {name: carried[name] for name in (STEPS_SEEN, *self._states)}
        pieces: list[list[NDArray[Any]]] = []
        for piece in _pieces(inputs):
            steps = number_of_steps(piece)
            results = self._run(self._asked, {**piece, **states, **masks, ROWS: ids}, steps)
            pieces.append(results[: len(self._outputs)])
            states = {STEPS_SEEN: states[STEPS_SEEN] + steps, **dict(zip(self._states, results[len(self._outputs) :]))}
        del states[STEPS_SEEN]
        if len(pieces) == 1:
            return pieces[0], states
        joined = [
            np.concatenate(parts, TIME_AXIS) if timed else parts[-1] for parts, timed in zip(zip(*pieces), self.timed)
        ]
        return joined, states

    def make_masks(self, inputs: Arrays, ids: NDArray[np.int64]) -> Arrays:
        """The masks of rows that begin, by a run of their own with these rows' inputs.

        So every push runs with masks given: a row's first one is computed like any other, also after a resume.
        """
        count, samples = len(ids), self._drawn.samples
        feeds = {name: np.ascontiguousarray(array[:, :1]) for name, array in inputs.items()}
        feeds.update({s.name: np.zeros(state_shape(s, count, samples), s.dtype) for s in self.kept})
        feeds.update({m.name: np.zeros(state_shape(m, 0, samples), m.dtype) for m in self.masks})
        feeds.update({ROWS: ids, STEPS_SEEN: np.zeros(count, np.int64)})
        names = [mask.name for mask in self.masks]
        return dict(zip(names, self._run([name + MADE_SUFFIX for name in names], feeds, 1)))

    def _run(self, names: Sequence[str], feeds: Arrays, steps: int) -> list[NDArray[Any]]:
        """The graph's results of these names, in as many runs as their memory asks for."""
        batch = len(feeds[ROWS])
        samples = self._drawn.samples
        limit = self._limit(steps)
        if batch * samples <= limit:
            results = self._session.call(names, {**feeds, **self._numbers})
        else:
            results = self._run_chunks(names, feeds, plan_chunks(samples, batch, 1, limit))
        for name, result in zip(names, results):
            leading = self._leading(name, batch)
            if result.shape[: len(leading)] != leading:
                raise ArtifactError(
                    f"{self._session.path} gave {name!r} as {list(result.shape)} for {samples} samples of {batch} "
                    "rows; it is not what an export writes: export the model again"
                )
        return results

    def _run_chunks(self, names: Sequence[str], feeds: Arrays, chunks: list[RunSlice]) -> list[NDArray[Any]]:
        wholes: list[NDArray[Any]] = []
        lock = threading.Lock()

        def run(session: AnySession, chunk: RunSlice) -> None:
            cut = {name: np.ascontiguousarray(array[self._part(name, chunk)]) for name, array in feeds.items()}
            parts = session.call(names, {**cut, **_numbers(self._drawn.cut(chunk.samples))})
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
        return tuple(self._drawn.samples if axis == "T" else batch for axis in self._axes[name])

    def _part(self, name: str, chunk: RunSlice) -> tuple[slice, ...]:
        return tuple(chunk.samples if axis == "T" else chunk.rows for axis in self._axes[name])

    def _limit(self, steps: int) -> int:
        if steps not in self._limits:
            self._limits[steps] = min(run_limit(self._metadata, steps), SAMPLE_ROWS_A_RUN)
        return self._limits[steps]


def _leading_axes(metadata: Metadata, streaming: Streaming) -> dict[str, str]:
    """Which of samples (T) and batch (B) each of the graph's tensors begins with."""
    axes = {ROWS: "B", STEPS_SEEN: "B"}
    axes.update({tensor.name: "B" for tensor in metadata.inputs})
    axes.update({tensor.name: "TB" for tensor in metadata.outputs})
    for kept, suffix in ((streaming.states, NEXT_SUFFIX), (streaming.masks, MADE_SUFFIX)):
        for state in kept:
            axes[state.name] = axes[state.name + suffix] = "BT" if state.per_sample else "B"
    return axes


def _numbers(drawn: Drawn) -> dict[str, NDArray[Any]]:
    return {
        SEED: np.array(drawn.seed, np.int64),
        FIRST_SAMPLE: np.array(drawn.first_sample, np.int64),
        NUM_SAMPLES: np.array(drawn.samples, np.int64),
    }


def _pieces(inputs: Arrays) -> list[Arrays]:
    """The inputs, cut along time where a run could not take all steps."""
    steps = number_of_steps(inputs)
    if steps <= STEPS_A_RUN:
        return [inputs]
    return [
        {name: np.ascontiguousarray(array[:, start : start + STEPS_A_RUN]) for name, array in inputs.items()}
        for start in range(0, steps, STEPS_A_RUN)
    ]
