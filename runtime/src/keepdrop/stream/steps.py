"""Steps: what a stream needs of the way in which its artifact goes on from step to step.

There are two: `Recurrent` for a streaming artifact, which carries states, and `Rolling` for an ordinary one, which is
given the last steps as its window.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Optional, Protocol

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import State, Tensor

from .rows import Arrays


class Drawn(NamedTuple):
    """Which samples a stream draws: those of this seed from first_sample to first_sample + samples - 1."""

    seed: int
    first_sample: int
    samples: int

    def cut(self, samples: slice) -> Drawn:
        """Some of them (a slice of 0 ... samples)."""
        return Drawn(self.seed, self.first_sample + samples.start, samples.stop - samples.start)


class Steps(Protocol):
    """How an artifact goes on from what is carried of some rows to what is carried of them then.

    Attributes
    ----------
    inputs
        The inputs, [batch, steps, ...] each, the steps of any number.
    kept, masks
        What a row carries: zeros at its start; and what is made once, by `make_masks`.
    window
        The steps of the windows that the model was trained on; None where that is not known.
    longest
        The longest axis that a draw may follow.
    timed
        Of each output, whether it answers every step, [T, B, steps, ...].
    """

    inputs: tuple[Tensor, ...]
    kept: tuple[State, ...]
    masks: tuple[State, ...]
    window: Optional[int]
    longest: int
    timed: list[bool]

    def run(self, inputs: Arrays, ids: NDArray[np.int64], carried: Arrays) -> tuple[list[NDArray[Any]], Arrays]:
        """The samples of each output, [T, B, ...], and what is kept of these rows after the last step."""

    def make_masks(self, inputs: Arrays, ids: NDArray[np.int64]) -> Arrays:
        """The masks of rows that begin."""


def number_of_steps(inputs: Arrays) -> int:
    """Of a chunk, [B, steps, ...] each."""
    return int(next(iter(inputs.values())).shape[1])


def blanked(samples: NDArray[Any], rows: NDArray[np.bool_]) -> NDArray[Any]:
    """The same samples, [T, B, ...], with no number (NaN) for these rows; integers stay, for they have none."""
    if samples.dtype.kind == "f":
        samples = samples if samples.flags.writeable else samples.copy()
        samples[:, rows] = np.nan
    return samples
