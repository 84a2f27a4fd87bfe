"""Frames: a table that is in memory as a :class:`~keepdrop.files.reader.Reader`.

A pandas or polars frame, a pyarrow table, or a dict of arrays; none is imported: each is known by what it can do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timezone
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.errors import InputError

from . import cells
from .reader import CURE, Readings, Selection, column_index


class FrameReader:
    """A frame as a :class:`~keepdrop.files.reader.Reader`; its lines are rows, counted from 0.

    An index of times, or one that has a name, is a column too. Rows of one id stand together in what is read, in the
    order of their first rows.

    Raises
    ------
    InputError
        It is no table, has columns of different lengths, or names one twice.
    """

    manner = ""
    of_rows = True

    def __init__(self, frame: Any, time: Optional[str] = None) -> None:
        self.name = "the table"
        self._columns = _columns(frame, time)
        self.columns = tuple(self._columns)
        self.dated = frozenset(name for name, column in self._columns.items() if _is_dated(column))
        self.zoned: Optional[bool] = None
        self.units: Mapping[str, str] = _units(frame)
        lengths = {name: _length(column) for name, column in self._columns.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"the columns of the table have different lengths, {lengths}; give each as many rows")
        self._count = next(iter(lengths.values()), 0)
        if not self._count:
            raise InputError("the table has no row; give at least one")

    def count(self) -> Optional[int]:
        """The number of rows."""
        return self._count

    def read(self, selection: Selection, most: int, start: int = 0, stop: Optional[int] = None) -> Iterator[Readings]:
        """As :class:`~keepdrop.files.reader.Reader` says."""
        stop = self._count if stop is None else min(stop, self._count)
        numbers = [self._numbers(column, selection) for column in selection.numbers]  # [rows] each
        times = None if selection.time is None else self._times(selection)
        texts = {column: self._texts(column) for column in selection.texts}
        if selection.id is not None:
            texts[selection.id] = self._texts(selection.id)
        ids = None if selection.id is None else self._ids(selection.id, texts[selection.id])
        order = np.arange(self._count) if ids is None else _together(ids)
        for first in range(start, stop, most):
            part = order[first : min(first + most, stop)]
            values = [column[part] for column in numbers]
            yield Readings(
                part,
                np.stack(values, axis=-1) if values else np.empty((len(part), 0), selection.dtype),
                None if ids is None else ids[part],
                None if times is None else times[part],
                {column: found[part] for column, found in texts.items()},
                {},
            )

    def _column(self, column: str) -> Any:
        column_index(self.name, self.columns, column)
        return self._columns[column]

    def _numbers(self, column: str, selection: Selection) -> NDArray[Any]:
        array = _array(self._column(column))
        if array.dtype.kind == "O":
            array = self._of_objects(column, array)
        if array.dtype.kind not in "iuf":
            raise InputError(f"{self.name}, column {column!r} holds {array.dtype}, not numbers; choose others")
        values = array.astype(selection.dtype)
        if selection.integers and not np.array_equal(values, array):
            self._refuse(column, array, int(np.argmax(values != array)), "a whole number that fits int64")
        if values.dtype.kind == "f":
            refused = np.isinf(values) if selection.missing else ~np.isfinite(values)
            if refused.any():
                self._refuse(column, array, int(np.argmax(refused)), "a finite number")
        return values

    def _of_objects(self, column: str, array: NDArray[Any]) -> NDArray[np.float64]:
        values = np.empty(len(array), np.float64)
        for row, cell in enumerate(array.tolist()):
            try:
                values[row] = np.nan if _is_null(cell) else cells.number(_plain(cell))
            except ValueError:
                self._refuse(column, array, row, "a finite number")
        return values

    def _refuse(self, column: str, array: NDArray[Any], row: int, kind: str) -> None:
        cell = array[row].item() if hasattr(array[row], "item") else array[row]
        raise InputError(f"{self.name}, row {row} (from 0), column {column!r} {cells.found(cell, kind)}; {CURE}")

    def _times(self, selection: Selection) -> NDArray[np.datetime64]:
        column = str(selection.time)
        found = self._column(column)
        moments, self.zoned = _moments(found)
        if moments is None:
            times = cells.Times(selection.time_format)
            array = _array(found)
            try:
                moments = times.read(array.tolist())
            except ValueError as error:
                place, why = error.args
                shown = "is empty" if _is_null(array[place]) else f"holds {array[place]!r}, {why}"
                where = f"{self.name}, row {place} (from 0), column {column!r}"
                raise InputError(f"{where} {shown}; mend it, or say how times are written") from None
            self.zoned = times.zoned
        if np.isnat(moments).any():
            row = int(np.argmax(np.isnat(moments)))
            raise InputError(f"{self.name}, row {row} (from 0), column {column!r} is empty; give each row its time")
        return moments

    def _texts(self, column: str) -> NDArray[np.object_]:
        found = _array(self._column(column)).tolist()
        texts = np.empty(len(found), object)
        texts[:] = ["" if _is_null(cell) else str(cell).strip() for cell in found]
        return texts

    def _ids(self, column: str, texts: NDArray[np.object_]) -> NDArray[np.int64]:
        try:
            return np.array([cells.row_id(text) for text in texts], np.int64)
        except ValueError:
            row = next(i for i, text in enumerate(texts) if not _is_id(text))
            raise InputError(
                f"{self.name}, row {row} (from 0), column {column!r} holds {texts[row]!r}; ids are integers or text"
            ) from None


def _together(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows in an order that has those of one id together, and otherwise as they were."""
    _, first, which = np.unique(ids, return_index=True, return_inverse=True)
    return np.argsort(first[which.reshape(-1)], kind="stable")


def _columns(frame: Any, time: Optional[str]) -> dict[str, Any]:
    """Columns by name, as the frame holds them."""
    if isinstance(frame, Mapping):
        return {str(name): column for name, column in frame.items()}
    if hasattr(frame, "column_names") and hasattr(frame, "column"):  # pyarrow
        return _distinct(frame.column_names, [frame.column(i) for i in range(len(frame.column_names))])
    if not hasattr(frame, "columns") or not hasattr(frame, "__getitem__"):
        raise InputError(
            f"a {type(frame).__name__} is no table; give a pandas or polars frame, a pyarrow table or a dict of arrays"
        )
    names = [str(name) for name in frame.columns]
    if not hasattr(frame, "iloc"):  # polars
        return _distinct(names, [frame[name] for name in names])
    found = _distinct(names, [frame.iloc[:, i] for i in range(len(names))])
    index = frame.index
    for level, name in enumerate(index.names):
        of_level = index.get_level_values(level)
        label = str(name) if name is not None else time if _is_dated(of_level) and time not in found else None
        if label is not None and label not in found:
            found[label] = of_level
    return found


def _distinct(names: Sequence[str], columns: Sequence[Any]) -> dict[str, Any]:
    if twice := next((name for name in names if list(names).count(name) > 1), None):
        raise InputError(f"the table names column {twice!r} twice; give each a name of its own")
    return dict(zip(names, columns))


def _units(frame: Any) -> dict[str, str]:
    """The units that the fields of a pyarrow table, or a frame's attributes, tell of."""
    if hasattr(frame, "schema") and hasattr(frame, "column_names"):
        found = {field.name: (field.metadata or {}).get(b"unit") for field in frame.schema}
        return {name: unit.decode() for name, unit in found.items() if unit}
    units = getattr(frame, "attrs", {}).get("units", {}) if hasattr(frame, "iloc") else {}
    return {str(name): str(unit) for name, unit in units.items()} if isinstance(units, Mapping) else {}


def _length(column: Any) -> int:
    try:
        return len(column)
    except TypeError:
        raise InputError(f"a column of the table is a {type(column).__name__}; give an array for each") from None


def _array(column: Any) -> NDArray[Any]:
    """A column as an array [rows], missing cells as None or NaN where it has such."""
    if hasattr(column, "combine_chunks"):  # pyarrow
        column = column.to_numpy()
    array = np.asarray(column)
    if array.ndim != 1:
        raise InputError(f"a column of the table has the shape {list(array.shape)}; give one number a row")
    return array


def _is_dated(column: Any) -> bool:
    kind = str(getattr(column, "dtype", getattr(column, "type", ""))).lower()
    return kind.startswith(("datetime", "timestamp", "date"))


def _moments(column: Any) -> tuple[Optional[NDArray[np.datetime64]], Optional[bool]]:
    """Times that are held as such, in microseconds, of UTC where they have a zone; None for texts and numbers."""
    kind = getattr(column, "dtype", getattr(column, "type", None))
    zone = getattr(kind, "tz", None) or getattr(kind, "time_zone", None)
    if zone is not None and hasattr(column, "tz_convert"):  # an index of pandas, or a series by its index
        column = column.tz_convert("UTC").tz_localize(None) if not hasattr(column, "dt") else column
    if zone is not None and hasattr(column, "dt"):  # a series of pandas or polars
        convert = getattr(column.dt, "tz_convert", None) or column.dt.convert_time_zone
        column = convert("UTC")
        column = column.dt.tz_localize(None) if hasattr(column.dt, "tz_localize") else column.dt.replace_time_zone(None)
    array = _array(column)  # pyarrow gives UTC
    if array.dtype.kind == "M":
        return array.astype("datetime64[us]"), zone is not None
    return _of_datetimes(array) if array.dtype.kind == "O" else (None, None)


def _of_datetimes(array: NDArray[Any]) -> tuple[Optional[NDArray[np.datetime64]], Optional[bool]]:
    """Datetimes or dates of Python."""
    found = array.tolist()
    if not all(isinstance(cell, date) for cell in found):
        return None, None
    zoned = any(isinstance(cell, datetime) and cell.tzinfo is not None for cell in found)
    plain = [
        cell.astimezone(timezone.utc).replace(tzinfo=None) if isinstance(cell, datetime) and cell.tzinfo else cell
        for cell in found
    ]
    return np.array(plain, "datetime64[us]"), zoned


def _is_null(cell: Any) -> bool:
    # pandas' NA has no truth value, and so no comparison with itself (2.3, 3.1).
    return cell is None or type(cell).__name__ in ("NAType", "NaTType") or cell != cell


def _plain(cell: Any) -> Any:
    """A cell as a number of Python where it is one in another guise, such as a Decimal."""
    if isinstance(cell, (str, int, float)) or not hasattr(cell, "__float__"):
        return cell
    return float(cell)


def _is_id(text: str) -> bool:
    try:
        cells.row_id(text)
    except ValueError:
        return False
    return True
