"""Beginning: how an artifact goes on, what of it learns, and a stream before its first step."""

from __future__ import annotations

import math
from typing import Optional

import numpy as np
from numpy.typing import ArrayLike

from keepdrop.artifact.metadata import Metadata, State
from keepdrop.calibration.record import Calibration
from keepdrop.errors import InputError
from keepdrop.run.engine import Engine
from keepdrop.run.memory import Budget
from keepdrop.run.request import integer, number_of_samples, row_ids
from keepdrop.run.session import AnySession
from keepdrop.table import Table
from keepdrop.table.parts import MOST_LINES

from .learning import Learning
from .recurrent import Recurrent
from .rolling import Rolling
from .saved_stream import Identity, SavedStream, counts_at_start, state_shape
from .steps import Drawn, Steps


def steps_of(session: AnySession, engine: Engine, drawn: Drawn, window: Optional[int]) -> Steps:
    """How this artifact goes on; InputError where it cannot."""
    metadata = session.metadata
    if metadata.stream is None:
        return Rolling(metadata, engine, drawn, window)
    recurrent = Recurrent(session, engine, metadata.stream, drawn)
    if window is not None and recurrent.window is not None and window != recurrent.window:
        raise InputError(
            f"window is {window} and the artifact was trained on windows of {recurrent.window} steps; leave window out"
        )
    if window is not None:
        recurrent.window = integer("window", window, least=1)
    return recurrent


def known_window(metadata: Metadata) -> Optional[int]:
    """The steps of the windows that an artifact's model was trained on, where it says that."""
    if metadata.stream is not None:
        return metadata.stream.block if metadata.stream.block > 1 else None
    return next((tensor.shape[1] for tensor in metadata.inputs if len(tensor.shape) > 1 and tensor.shape[1]), None)


def demand(budget: Budget, steps: Steps, learning: Optional[Learning], rows: int, samples: int) -> None:
    """Raise TooLarge where what so many rows carry does not fit in the budget."""
    a_row = sum(_bytes_a_row(state, samples) for state in (*steps.kept, *steps.masks))
    a_row += learning.bytes_a_row if learning else 0
    if not budget.fits(rows * a_row):
        raise budget.refusal(
            rows * a_row,
            f"{rows:,} rows x {a_row:,} bytes of states and masks for {samples:,} samples",
            "give fewer rows or samples to a stream, or more memory= to keepdrop.load",
        )


def checked_drawn(metadata: Metadata, samples: Optional[int], seed: int, first_sample: int) -> Drawn:
    """Which samples a new stream draws; InputError where an argument does not fit the artifact."""
    return Drawn(
        integer("seed", seed),
        integer("first_sample", first_sample, least=0),
        number_of_samples(metadata, samples),
    )


def learning_of(
    calibration: Optional[Calibration], metadata: Metadata, steps: Steps, ahead: Optional[int], table: Optional[Table]
) -> Optional[Learning]:
    """What learns from truths, `ahead` steps late or as the table says; None where nothing is calibrated."""
    if ahead is None:
        ahead = max((max(target.ahead) for target in table.outputs.values()), default=0) if table else 0
    ahead = integer("ahead", ahead, least=0, most=MOST_LINES)
    once = [tensor.name for tensor, timed in zip(metadata.outputs, steps.timed) if not timed]
    return None if calibration is None else Learning(calibration, once, ahead)


def fresh(
    identity: Identity, budget: Budget, drawn: Drawn, steps: Steps, learning: Optional[Learning], rows: ArrayLike
) -> SavedStream:
    """A stream before its first step; InputError where a row is named twice, TooLarge where they do not fit."""
    ids = row_ids(rows)
    if len(np.unique(ids)) < len(ids):
        raise InputError(f"rows is {ids.tolist()} and names a row twice; give each an id of its own")
    demand(budget, steps, learning, len(ids), drawn.samples)
    return SavedStream(
        identity=identity,
        seed=drawn.seed,
        first_sample=drawn.first_sample,
        samples=drawn.samples,
        window=steps.window,
        rows=ids,
        counts=counts_at_start(len(ids)),
        states={s.name: np.zeros(state_shape(s, len(ids), drawn.samples), s.dtype) for s in steps.kept},
        calibration=learning.digest if learning else "",
        learned=learning.begun(len(ids)) if learning else {},
    )


def _bytes_a_row(state: State, samples: int) -> int:
    return math.prod(state_shape(state, 1, samples)) * np.dtype(state.dtype).itemsize
