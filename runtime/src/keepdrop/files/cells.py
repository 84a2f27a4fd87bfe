"""Cells: the one place that reads a number, an id or a time, whether it comes from CSV, JSON lines or a pipe."""

from __future__ import annotations

import functools
import hashlib
import math
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

# What stands for a missing number, in any case of letters; JSON's null and NaN too.
MISSING = frozenset(("", "nan", "na", "n/a", "null", "none"))
# Up to here a float64 has every integer.
EXACT = 2**53

INT64 = np.iinfo(np.int64)
_ID = re.compile(r"0|-?[1-9][0-9]*")
_ISO = re.compile(
    r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d(?::\d\d(?::\d\d(?:[.,]\d+)?)?)?)\s?(Z|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII | re.IGNORECASE,
)
_SINCE_1970 = {"s": 1_000_000, "ms": 1_000}
_EPOCH = datetime(1970, 1, 1)
_MICROSECOND = _EPOCH.resolution


def is_missing(cell: Any) -> bool:
    """Whether a cell says that there is no number."""
    if isinstance(cell, str):
        return cell.strip().lower() in MISSING
    return cell is None or (isinstance(cell, float) and math.isnan(cell))


def number(cell: Any, decimal: str = ".") -> float:
    """A finite number, NaN where it is missing; ValueError for all else, ``1_000``, ``inf`` and ``true`` included."""
    if isinstance(cell, str):
        text = cell
        if decimal != ".":
            if "." in text:
                raise ValueError
            text = text.replace(decimal, ".")
        if "_" in text:  # Python reads 1_000
            raise ValueError
        try:
            value = float(text)
        except ValueError:
            if is_missing(cell):
                return math.nan
            raise
    elif isinstance(cell, (int, float)) and not isinstance(cell, bool):
        try:
            value = float(cell)
        except OverflowError:
            raise ValueError from None
    elif cell is None:
        return math.nan
    else:
        raise ValueError
    if math.isinf(value):
        raise ValueError
    return value


def integer(cell: Any, decimal: str = ".") -> int:
    """An int64, exactly; ValueError for all else. ``3.0`` is one, as far as a float64 has every integer."""
    if isinstance(cell, str) and "_" not in cell:
        try:
            value = int(cell)
        except ValueError:
            value = _whole(number(cell, decimal))
    elif isinstance(cell, int) and not isinstance(cell, bool):
        value = cell
    else:
        value = _whole(number(cell, decimal))
    if not INT64.min <= value <= INT64.max:
        raise ValueError
    return value


def _whole(value: float) -> int:
    if not value.is_integer() or abs(value) > EXACT:  # NaN is none either
        raise ValueError
    return int(value)


@functools.lru_cache(maxsize=1 << 16)
def row_id(text: str) -> int:
    """The row id that a text stands for, the same on every machine.

    That of an integer that fits int64 is the integer itself. Any other text, ``007`` too, has the first 53 bits of its
    SHA-256 in UTF-8, which every JSON reader keeps exactly. ValueError for what is empty, or a number that is written
    otherwise, such as ``1.5`` and ``+1``.
    """
    if _ID.fullmatch(text) and INT64.min <= int(text) <= INT64.max:
        return int(text)
    if not text.strip() or (not text.isdigit() and _is_float(text)):
        raise ValueError
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:7], "big") >> 3


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return "_" not in text


def id_text(cell: Any) -> str:
    """An id as text, of CSV or JSON; ValueError where it is neither text nor an integer."""
    if isinstance(cell, str):
        return cell.strip()
    if isinstance(cell, int) and not isinstance(cell, bool):
        return str(cell)
    raise ValueError


def looks_dated(cell: Any) -> bool:
    """Whether a cell holds a date, or a date and time, of ISO 8601."""
    return isinstance(cell, str) and _ISO.fullmatch(cell.strip()) is not None


class Times:
    """A column of times in one format, with an offset from UTC or without, but not both.

    Its format is None for ISO 8601, "s" or "ms" for seconds or milliseconds since 1970 (UTC), or one of strptime.
    `zoned` is None until the first time was read.
    """

    def __init__(self, format: Optional[str] = None, decimal: str = ".") -> None:
        self.zoned: Optional[bool] = None
        self._format = format
        self._decimal = decimal

    def read(self, cells: Sequence[Any]) -> NDArray[np.datetime64]:
        """[n] microseconds; ValueError says which place does not fit, and why, as its two arguments."""
        read = self._iso if self._format is None else self._of_1970 if self._format in _SINCE_1970 else self._formatted
        found = np.empty(len(cells), np.int64)
        for place, cell in enumerate(cells):
            try:
                found[place], zoned = read(cell)
            except (AttributeError, TypeError, ValueError, OverflowError):  # of a number where text belongs, or None
                raise ValueError(place, f"not {self._described()}") from None
            if self.zoned is None:
                self.zoned = zoned
            elif self.zoned != zoned:
                now, before = ("", "none") if zoned else ("no ", "one")
                raise ValueError(place, f"with {now}offset from UTC, where those before have {before}")
        return found.view("datetime64[us]")

    def _described(self) -> str:
        if self._format is None:
            return "a time of ISO 8601, such as 2025-01-31T14:00:00Z"
        if self._format in _SINCE_1970:
            return {"s": "seconds", "ms": "milliseconds"}[self._format] + " since 1970"
        return f"a time of the format {self._format!r}"

    def _iso(self, cell: Any) -> tuple[int, bool]:
        match = _ISO.fullmatch(cell.strip())
        if not match:
            raise ValueError
        day, clock, offset = match.groups()
        # By datetime rather than numpy: it refuses an hour of 25. Python 3.9 reads 3 or 6 digits alone.
        clock, _, fraction = (clock or "00:00").replace(",", ".").partition(".")
        moment = datetime.fromisoformat(f"{day}T{clock}")
        microseconds = _microseconds(moment) + int((fraction + "000000")[:6])
        return microseconds - _offset(offset), offset is not None

    def _of_1970(self, cell: Any) -> tuple[int, bool]:
        unit = _SINCE_1970[str(self._format)]
        try:
            return integer(cell, self._decimal) * unit, True
        except ValueError:
            return round(number(cell, self._decimal) * unit), True

    def _formatted(self, cell: Any) -> tuple[int, bool]:
        moment = datetime.strptime(cell.strip(), str(self._format))
        if moment.tzinfo is None:
            return _microseconds(moment), False
        return _microseconds(moment.astimezone(timezone.utc).replace(tzinfo=None)), True


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND


def _offset(text: Optional[str]) -> int:
    """Microseconds east of UTC."""
    if text is None or text in "zZ":
        return 0
    hours, minutes = int(text[1:3]), int(text[3:].lstrip(":") or 0)
    if hours > 23 or minutes > 59:
        raise ValueError
    return (-1 if text[0] == "-" else 1) * (60 * hours + minutes) * 60_000_000


def found(cell: Any, kind: str, decimal: str = ".") -> str:
    """What a cell that is no such kind holds, for a message."""
    if cell is None or (isinstance(cell, str) and not cell.strip()):
        return "is empty"
    shown = repr(cell)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    if isinstance(cell, bool) or (isinstance(cell, str) and cell.strip().lower() in ("true", "false")):
        return f"holds {shown}, not {kind} (give 1 and 0 for true and false)"
    other = "," if decimal == "." else "."
    if isinstance(cell, str) and decimal not in cell and re.fullmatch(rf"\s*[+-]?\d*\{other}\d+\s*", cell):
        return f"holds {shown}, not {kind} with decimals behind {decimal!r} (see decimal=)"
    return f"holds {shown}, not {kind}"
