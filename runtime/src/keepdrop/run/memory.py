"""Memory: what a call may take, counted before it starts.

The budget is for the arrays of one call, on top of the open model and of what the caller holds: cast copies of the
inputs, the results, and what runs need meanwhile. How a call is cut depends on the file, the call and `memory=`
alone, so that it gives the same bits on every day; what the device has free only decides what is refused.
"""

from __future__ import annotations

import contextlib
import operator
import re
from typing import Optional, Union

from keepdrop.errors import InputError, TooLarge

from .device import available_memory

# The share of the device's free memory that one call may take.
SHARE = 0.5
# Calls below this do not ask the device what it has free, which takes longer than a small call itself.
SMALL = 16 << 20

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


class Budget:
    """What one call may take: `memory` bytes, or half of what the device has free when the call is made."""

    def __init__(self, memory: Optional[int] = None) -> None:
        self.memory = memory

    def fits(self, size: int) -> bool:
        """Whether so many bytes are in it."""
        return (self.memory is None and size <= SMALL) or size <= self._limit()

    def refusal(self, size: int, what: str, cure: str) -> TooLarge:
        """The error for bytes that are not; `what` is the arithmetic behind them."""
        origin = "half of the memory that is free here" if self.memory is None else "memory="
        return TooLarge(f"{what} = {readable(size)}, and the budget is {readable(self._limit())} ({origin}); {cure}")

    def _limit(self) -> int:
        return int(SHARE * available_memory()) if self.memory is None else self.memory


def parsed(memory: Union[int, str]) -> int:
    """Bytes from an integer or a text such as "500MB" or "2 GiB" (MB is 10**6 bytes, MiB is 2**20).

    Raises
    ------
    InputError
        It is neither, or less than one byte.
    """
    size: float = 0
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*(\d{1,18}(?:\.\d{1,9})?)\s*([kmgt]i?)?b?\s*", memory, re.IGNORECASE | re.ASCII)
        if match:
            size = float(match[1]) * _UNITS[(match[2] or "").lower()]
    elif not isinstance(memory, bool):
        with contextlib.suppress(TypeError):
            size = operator.index(memory)
    if size < 1:
        raise InputError(f'memory is {memory!r}; give a number of bytes, or a text such as "500MB" or "2GiB"')
    return int(size)


def readable(size: int) -> str:
    """Bytes in the largest decimal unit of which there is one."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= factor:
            return f"{size / factor:,.1f} {unit}"
    return f"{size} bytes"
