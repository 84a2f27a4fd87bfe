"""Limits: the most samples that a row may have, and the most seconds that a call may take."""

from __future__ import annotations

import math
import time
from typing import Any, Optional

import numpy as np

from keepdrop.errors import InputError
from keepdrop.run.request import integer

# What `until` and `deadline` end with where nothing is said.
MAX_SAMPLES = 10_000

clock = time.perf_counter
"""What deadlines are kept by."""


def most_samples(samples: Optional[int], max_samples: Optional[int], adapts: bool) -> Optional[int]:
    """The number of samples of a fixed call (None: what the artifact says), or the most of one that adapts.

    Raises
    ------
    InputError
        A number is given that goes with the other kind of call, or that is none.
    """
    if adapts and samples is not None:
        raise InputError(
            f"samples is {samples!r} beside until= or deadline=, which find out how many; "
            "give max_samples= to bound them"
        )
    if not adapts and max_samples is not None:
        raise InputError(
            f"max_samples is {max_samples!r} without until= or deadline=; give samples= for a fixed number"
        )
    if not adapts:
        return samples
    return integer("max_samples", MAX_SAMPLES if max_samples is None else max_samples, least=1)


def seconds_of(deadline: Any) -> float:
    """`deadline` as seconds above 0, otherwise InputError."""
    if isinstance(deadline, (int, float, np.number)) and math.isfinite(deadline) and deadline > 0:
        return float(deadline)
    raise InputError(f"deadline is {deadline!r}; give seconds above 0, such as 0.02 for 20 ms")
