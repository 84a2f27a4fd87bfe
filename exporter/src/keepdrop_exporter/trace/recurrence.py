"""What a lowered time loop is: the form that ``loops`` gives it and the conversion to ONNX reads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PREFIX = "keepdrop_recurrence_"
"""What the names of the functions of lowered loops begin with."""

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


@dataclass(frozen=True)
class Recurrence:
    """One lowered time loop.

    Its tensors, in order: the sequence x [L, P, 1 or Q, F]; ``input_masks`` keep masks [P, Q, F] and
    ``recurrent_masks`` keep masks [P, Q, H], float32 of zeros and ones; if ``masked``, which steps count,
    bool [L, P, Q, 1]; if ``carried``, the states it starts from, [P, Q, H], which are zero otherwise. Its results:
    the outputs [L, P, Q, H] or the last one [P, Q, H], then the states [P, Q, H] if ``states``. ``shared``: the Q
    samples of a row have the same sequence, x is [L, P, 1, F]; otherwise Q is 1. ``joined``: in place of its masks come
    those that a step multiplies by, see ``joined_masks``.

    ``kernel`` [F, G * H], ``recurrent_kernel`` [H, G * H], ``bias`` [G * H] and (GRU, ``reset_after``)
    ``recurrent_bias`` [G * H] are Keras', gates in Keras' order (LSTM i f c o, GRU z r h). ``input_scale`` and
    ``recurrent_scale`` are what a kept element is multiplied by.
    """

    name: str
    cell: str
    activation: str
    recurrent_activation: str
    kernel: NDArray[np.float32]
    recurrent_kernel: NDArray[np.float32]
    bias: NDArray[np.float32]
    recurrent_bias: NDArray[np.float32] | None
    reset_after: bool
    input_masks: int
    recurrent_masks: int
    input_scale: float
    recurrent_scale: float
    shared: bool
    masked: bool
    zero_output_for_mask: bool
    backward: bool
    sequences: bool
    states: bool
    carried: bool = False
    joined: bool = False

    @property
    def tensor_count(self) -> int:
        """How many tensors it takes."""
        return 1 + self.mask_count + int(self.masked) + self.state_count * int(self.carried)

    @property
    def mask_count(self) -> int:
        """How many masks it takes."""
        if not self.joined:
            return self.input_masks + self.recurrent_masks
        return 3 + int(self.input_masks > 0) if self.cell == "GRU" else self.gates

    @property
    def state_count(self) -> int:
        """How many states the cell has."""
        return 2 if self.cell == "LSTM" else 1

    @property
    def result_shapes(self) -> list[list[int | None]]:
        """The shapes of its results; None where an axis is dynamic."""
        final = [None, None, self.units]
        states = [final] * self.state_count if self.states else []
        return [[None, *final] if self.sequences else final, *states]

    @property
    def gates(self) -> int:
        """How many gates the cell has."""
        return _GATES[self.cell]

    @property
    def units(self) -> int:
        """The size H of the state."""
        return int(self.recurrent_kernel.shape[0])

    @property
    def features(self) -> int:
        """The size F of one step's input."""
        return int(self.kernel.shape[0])
