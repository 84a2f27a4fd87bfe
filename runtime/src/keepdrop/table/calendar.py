"""Calendar: sine and cosine of what a clock and a calendar say of a time."""

from __future__ import annotations

from typing import Optional

import numpy as np
from numpy.typing import NDArray

from .parts import CYCLES, Cyclic

Times = NDArray[np.datetime64]


def cyclic_values(column: Cyclic, times: Times) -> NDArray[np.float64]:
    """Sine and cosine of an attribute of each time: [lines, 2], of times [lines] in the calendar's zone.

    The attribute is a whole number that counts from 0, as in darts' cyclic encoders: Monday, January and the first day
    of a year are 0.
    """
    period = CYCLES[column.cyclic] if column.period is None else column.period
    angle = 2 * np.pi / period * attribute_values(column.cyclic, times)
    return np.stack([np.sin(angle), np.cos(angle)], axis=-1)


def attribute_values(attribute: str, times: Times) -> NDArray[np.int64]:
    """The value of an attribute of ``CYCLES`` at each time, from 0: int64 [lines]."""
    if attribute in ("second", "minute", "hour"):
        of_unit = {"second": "s", "minute": "m", "hour": "h"}[attribute]
        return _count(times, of_unit, cycle=int(CYCLES[attribute]))
    if attribute == "day_of_week":
        return _count(times, "D", cycle=7, first=3)  # 1970 began on a Thursday
    if attribute == "day_of_year":
        return _count(times, "D") - _count(times.astype("datetime64[Y]"), "D")
    if attribute == "day":
        return _count(times, "D") - _count(times.astype("datetime64[M]"), "D")
    month = _count(times, "M", cycle=12)
    return month // 3 if attribute == "quarter" else month


def _count(times: Times, unit: str, cycle: Optional[int] = None, first: int = 0) -> NDArray[np.int64]:
    """How many whole units each time is after 1970, plus `first`, modulo `cycle`."""
    since: NDArray[np.int64] = times.astype(f"datetime64[{unit}]").astype(np.int64)
    whole = since + first
    return whole if cycle is None else np.asarray(whole % cycle, np.int64)
