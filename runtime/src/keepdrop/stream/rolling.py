"""Rolling: how an ordinary artifact goes on, given the last steps of a row as its window."""

from __future__ import annotations

from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import STEPS_SEEN, Metadata, State, Tensor
from keepdrop.errors import InputError
from keepdrop.run.engine import Engine
from keepdrop.run.request import Request, integer

from .rows import Arrays
from .steps import Drawn, blanked, number_of_steps


class Rolling:
    """Answers with the samples of ``predict`` on each row's last `window` steps; NaN until it has seen so many.

    Raises
    ------
    InputError
        An input has no axis of time, or their lengths differ; the length is neither in the artifact nor given.
    """

    def __init__(self, metadata: Metadata, engine: Engine, drawn: Drawn, window: Optional[int]) -> None:
        if metadata.per_sample:
            raise InputError(
                f"this artifact takes {list(metadata.per_sample)} for each sample, and a stream has one reading for "
                "all of them; export the model without per_sample="
            )
        self._length = _window(metadata, window)
        self.window: Optional[int] = self._length
        self.inputs = tuple(Tensor(t.name, t.dtype, (None, None, *t.shape[2:])) for t in metadata.inputs)
        self.kept = tuple(State(t.name, t.dtype, (self._length, *_sizes(t)), per_sample=False) for t in metadata.inputs)
        self.masks: tuple[State, ...] = ()
        self.longest = max(size for state in self.kept for size in state.shape)
        self.timed = [False] * len(metadata.outputs)
        self._engine = engine
        self._drawn = drawn

    def run(self, inputs: Arrays, ids: NDArray[np.int64], carried: Arrays) -> tuple[list[NDArray[Any]], Arrays]:
        """As :class:`Steps` says; of several steps the last one's window is answered."""
        windows = {
            name: np.ascontiguousarray(np.concatenate([carried[name], array], axis=1)[:, -self._length :])
            for name, array in inputs.items()
        }  # [B, window, ...]
        outputs = self._engine.run(
            Request(windows, ids, self._drawn.seed, self._drawn.first_sample, self._drawn.samples)
        )
        young = carried[STEPS_SEEN] + number_of_steps(inputs) < self._length
        if young.any():
            outputs = [blanked(samples, young) for samples in outputs]
        return outputs, windows

    def make_masks(self, inputs: Arrays, ids: NDArray[np.int64]) -> Arrays:
        """None: each run makes its own."""
        return {}


def _window(metadata: Metadata, given: Optional[int]) -> int:
    lengths = {t.name: t.shape[1] if len(t.shape) > 1 else 0 for t in metadata.inputs}
    if 0 in lengths.values():
        name = next(name for name, length in lengths.items() if length == 0)
        raise InputError(f"input {name!r} has no axis of time, and a stream goes step by step; call predict instead")
    fixed = {length for length in lengths.values() if length is not None}
    if len(fixed) > 1:
        raise InputError(f"the inputs take different numbers of steps, {lengths}; a stream gives each the same")
    if not fixed and given is None:
        raise InputError(
            "this artifact takes windows of any length; say how many steps those had that it was trained on "
            "(window=), or export it with streaming=True"
        )
    length = fixed.pop() if fixed else integer("window", given, least=1)
    if given is not None and given != length:
        raise InputError(f"window is {given} and this artifact takes windows of {length} steps; leave window out")
    return length


def _sizes(tensor: Tensor) -> tuple[int, ...]:
    """The axes of a step; a dynamic one cannot be kept."""
    sizes = [size for size in tensor.shape[2:] if size is not None]
    if len(sizes) < len(tensor.shape[2:]):
        raise InputError(
            f"a step of input {tensor.name!r} has axes of any length, {list(tensor.shape[2:])}; a stream keeps steps "
            "of one shape: export the model with a fixed one"
        )
    return tuple(sizes)
