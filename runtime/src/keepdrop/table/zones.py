"""Zones: what the clocks of a place say at a time of UTC."""

from __future__ import annotations

from datetime import datetime, timezone, tzinfo

import numpy as np
from numpy.typing import NDArray

from keepdrop.errors import InputError

# Offsets are looked up once for each so many microseconds: they change at quarters of an hour.
_GRAIN = 15 * 60 * 1_000_000


def zone_of(name: str) -> tzinfo:
    """The zone of that name, such as "Europe/Berlin".

    Raises
    ------
    InputError
        There is no such zone, or the device has no data of zones.
    """
    try:
        from zoneinfo import ZoneInfo  # which reads the data of a device when it is asked

        return ZoneInfo(name)
    except Exception as error:  # ZoneInfoNotFoundError, and what malformed names lead to
        raise InputError(
            f"there is no zone {name!r} here ({' '.join(str(error).split())[:100]}); give one such as Europe/Berlin, "
            "or install tzdata"
        ) from error


def local_times(times: NDArray[np.datetime64], zone: tzinfo) -> NDArray[np.datetime64]:
    """The local times [lines] of times of UTC [lines], in microseconds."""
    microseconds: NDArray[np.int64] = times.astype("datetime64[us]").astype(np.int64)
    grains, which = np.unique(microseconds // _GRAIN, return_inverse=True)
    offsets = np.array([_offset(int(grain) * _GRAIN, zone) for grain in grains], np.int64)
    local: NDArray[np.int64] = microseconds + offsets[which.reshape(-1)]
    return local.view("datetime64[us]")


def _offset(microseconds: int, zone: tzinfo) -> int:
    """Microseconds that the clocks of a zone are ahead of UTC."""
    moment = datetime.fromtimestamp(microseconds // 1_000_000, timezone.utc).astimezone(zone)
    offset = moment.utcoffset()
    return 0 if offset is None else round(offset.total_seconds() * 1_000_000)
