"""Declared: the table as its user writes it, in JSON or in Python; both have the same names.

    {
      "time": {"column": "date", "step": "1h"},
      "inputs": {"window": {"columns": [{"column": "temp", "unit": "°F"}, {"cyclic": "hour"}], "window": 48}},
      "outputs": {"temperature": {"target": "temp", "unit": "°F", "ahead": 6}}
    }

What may be left out is completed by `fitting` when the table meets a model: names of the only input and output, and
lengths that the graph has.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np

from keepdrop.errors import InputError

from .steps import parsed_step

REFUSE, SKIP, HOLD = "refuse", "skip", "hold"

# Attributes of the calendar: the value at a time counts from 0, and comes again after so many. Those of darts' cyclic
# encoders (0.35), which divide by the most values there can be: 366 days of a year, 31 of a month.
CYCLES = {
    "second": 60.0,
    "minute": 60.0,
    "hour": 24.0,
    "day_of_week": 7.0,
    "day": 31.0,
    "day_of_year": 366.0,
    "month": 12.0,
    "quarter": 4.0,
}
_OTHER_NAMES = {"weekday": "day_of_week", "dayofweek": "day_of_week", "dayofyear": "day_of_year"}

# The longest window and horizon: what a file says is read into memory, whoever wrote it.
MOST_LINES = 100_000

# The name of the only input, or the only output, as long as it is not said.
ONLY = ""


@dataclass(frozen=True)
class Column:
    """A column of readings.

    ``missing`` says what becomes of an empty cell: ``"refuse"``, ``"skip"`` (the windows that hold it are answered
    with nulls) or ``"hold N"`` (the last value, for at most N lines in a row); None is the table's own rule.
    """

    column: str
    unit: Optional[str] = None
    missing: Optional[str] = None

    @property
    def width(self) -> int:
        """How many of the model's features it is."""
        return 1

    @property
    def names(self) -> tuple[str, ...]:
        """The names of these features."""
        return (self.column,)


@dataclass(frozen=True)
class Cyclic:
    """Sine and cosine of an attribute of the time, in that order: ``sin(2 pi value / period)``.

    ``period`` is in values of the attribute (hours of ``"hour"``); None is that of the calendar, ``CYCLES``.
    """

    cyclic: str
    period: Optional[float] = None

    @property
    def width(self) -> int:
        """How many of the model's features it is."""
        return 2

    @property
    def names(self) -> tuple[str, ...]:
        """The names of these features, darts' own."""
        return f"{self.cyclic}_sin", f"{self.cyclic}_cos"


AnyColumn = Union[Column, Cyclic]


@dataclass(frozen=True)
class InputColumns:
    """What an input of the model is made of: columns in the model's order, and the lines of a window.

    ``window`` is None for an input that takes one line.
    """

    columns: tuple[AnyColumn, ...]
    window: Optional[int] = None

    @property
    def width(self) -> int:
        """The number of features."""
        return sum(column.width for column in self.columns)

    @property
    def names(self) -> tuple[str, ...]:
        """The features by name, in the model's order."""
        return tuple(name for column in self.columns for name in column.names)


@dataclass(frozen=True)
class Time:
    """The column of times: its name, the step from line to line, its format and its zone.

    ``format`` is one of ``time.strptime``, or ``"s"`` or ``"ms"`` since 1970; None is ISO 8601. ``zone`` is the zone
    of the calendar, such as ``"Europe/Berlin"``: times with an offset are turned into it, times without are in it.
    Without it, times with an offset are turned into UTC and times without are taken as they are.
    """

    column: str
    step: Optional[str] = None
    format: Optional[str] = None
    zone: Optional[str] = None

    @property
    def delta(self) -> Optional[np.timedelta64]:
        """The step."""
        return None if self.step is None else parsed_step(self.step)


@dataclass(frozen=True)
class Target:
    """What an output says: of which target, in which unit, how many steps after the last line of the window.

    ``name`` is how the answer is called (default: the output). ``target`` is the column of readings that the truth
    will be in (default: `name`). ``ahead`` has one number, or those of a horizon, which the output's first axis then
    counts. ``labels`` are the names of classes, in the order of the last axis.
    """

    name: str
    target: str
    unit: Optional[str] = None
    ahead: tuple[int, ...] = (0,)
    labels: Optional[tuple[str, ...]] = None

    @property
    def is_horizon(self) -> bool:
        """Whether the output's first axis counts steps ahead."""
        return len(self.ahead) > 1

    def class_number(self, text: str) -> int:
        """Which class a label is, counted from 0, or a number that is one.

        Raises
        ------
        ValueError
            It is none of them; the text names them.
        """
        labels = self.labels or ()
        if text in labels:
            return labels.index(text)
        if text.isdecimal() and int(text) < len(labels):
            return int(text)
        raise ValueError(f"{text!r}, none of the classes {list(labels)}")


@dataclass(frozen=True, init=False)
class Table:
    """What the columns of a table of readings mean to a model, and its outputs to the user.

    Parameters
    ----------
    inputs
        By input name a sequence of columns, or a dict of ``columns`` and ``window``; of a model with one input it
        needs no name. A column is its name, a dict of the fields of :class:`Column`, or of :class:`Cyclic`.
    outputs
        By output name a dict of the fields of :class:`Target`; ``ahead`` is a number, a sequence, or ``"1..24"``.
    time
        The name of the column of times, or a dict of the fields of :class:`Time`. None: the lines have no time.
    id
        The column that says which series a line belongs to.
    missing
        The rule for columns that have none of their own, see :class:`Column`.

    Raises
    ------
    InputError
        A field is unknown or is not what belongs there; the text says which.

    Examples
    --------
    >>> table = Table(["temp", {"cyclic": "hour"}], {"target": "temp", "unit": "°F", "ahead": 6}, time="date")
    """

    inputs: Mapping[str, InputColumns]
    outputs: Mapping[str, Target]
    time: Optional[Time]
    id: Optional[str]
    missing: str

    def __init__(
        self,
        inputs: Any,
        outputs: Any = None,
        time: Union[Time, str, Mapping[str, Any], None] = None,
        id: Optional[str] = None,
        missing: str = REFUSE,
    ) -> None:
        _set(
            self,
            inputs=_inputs(inputs),
            outputs=_outputs(outputs),
            time=_time(time),
            id=None if id is None else _text(id, "id"),
            missing=_rule(missing, "missing"),
        )
        self._check()

    @classmethod
    def from_json(cls, text: str) -> Table:
        """The table that a JSON object describes, by the names of the parameters.

        Raises
        ------
        InputError
            The text is no such object.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"a table is a JSON object, and this is not JSON ({error})") from error
        if not isinstance(fields, dict):
            raise InputError(
                f"a table is a JSON object, and this is {_shown(fields)}; give one with inputs and outputs"
            )
        _known(fields, ("inputs", "outputs", "time", "id", "missing"), "a table")
        if "inputs" not in fields:
            raise InputError('a table needs "inputs": the columns of each input, in the model\'s order')
        return cls(**fields)

    @classmethod
    def read(cls, path: Union[str, os.PathLike[str]]) -> Table:
        """The table in a JSON file.

        Raises
        ------
        InputError
            The file cannot be read or holds no table; the text names it.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the table {os.fspath(path)} ({error}); give a JSON file") from error
        except InputError as error:
            raise InputError(f"{os.fspath(path)}: {error}") from error

    def to_json(self) -> str:
        """One line of JSON that :meth:`from_json` reads."""
        fields = {
            "time": None if self.time is None else _plain(self.time),
            "id": self.id,
            "missing": self.missing,
            "inputs": _unnamed({name: _plain_input(of) for name, of in self.inputs.items()}),
            "outputs": _unnamed({name: _plain(target) for name, target in self.outputs.items()}),
        }
        return json.dumps({k: v for k, v in fields.items() if v}, ensure_ascii=False)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Every column of readings that the inputs need, once each."""
        every = (c for of in self.inputs.values() for c in of.columns if isinstance(c, Column))
        return tuple({column.column: column for column in every}.values())

    @property
    def needs_time(self) -> bool:
        """Whether an input has a column that is computed from the time."""
        return any(isinstance(column, Cyclic) for of in self.inputs.values() for column in of.columns)

    @property
    def window(self) -> Optional[int]:
        """The lines of the longest window; None where every input takes one line."""
        return max((of.window for of in self.inputs.values() if of.window is not None), default=None)

    def rule(self, column: Column) -> tuple[str, int]:
        """What becomes of a missing value of a column: "refuse", "skip" or "hold", and for how many lines."""
        return parsed_rule(self.missing if column.missing is None else column.missing)

    def unit(self, column: str) -> Optional[str]:
        """The unit of a column of readings, where an input or an output says it."""
        units = [c.unit for c in self.columns if c.column == column]
        units += [target.unit for target in self.outputs.values() if target.target == column]
        return next((unit for unit in units if unit is not None), None)

    def _check(self) -> None:
        every = [c for of in self.inputs.values() for c in of.columns if isinstance(c, Column)]
        for column in every:
            clashing = next((c for c in every if c.column == column.column and c != column), None)
            if clashing is not None:
                raise InputError(
                    f"column {column.column!r} is declared twice, as {_plain(column)} and as {_plain(clashing)}; "
                    "give it one unit and one rule"
                )
        for name, target in self.outputs.items():
            unit = next((c.unit for c in every if c.column == target.target and c.unit is not None), target.unit)
            if target.unit is not None and target.unit != unit:
                raise InputError(
                    f"output {name!r} forecasts {target.target!r} in {target.unit}, and that column is in {unit}; "
                    "give both one unit"
                )
        taken = {"time": self.time and self.time.column, "id": self.id}
        for what, name_ in taken.items():
            if name_ is not None and name_ in [column.column for column in every]:
                raise InputError(f"column {name_!r} is the {what} and a feature too; give it one meaning")
        if self.needs_time and self.time is None:
            cyclic = next(c for of in self.inputs.values() for c in of.columns if isinstance(c, Cyclic))
            raise InputError(f'{_plain(cyclic)} is computed from the time; say which column has it: "time": "date"')


def parsed_rule(text: str) -> tuple[str, int]:
    """A missing-value rule: "refuse", "skip" or "hold", and for how many lines (0 but for hold)."""
    match = re.fullmatch(r"(refuse|skip)|hold[ :](\d+)", text.strip())
    if not match or match[2] is not None and int(match[2]) < 1:
        raise InputError(f'{text!r} is no rule for missing values; give "refuse", "skip" or "hold N", such as "hold 3"')
    return (match[1], 0) if match[1] else (HOLD, int(match[2]))


def _set(table: Table, **fields: Any) -> None:
    for name, value in fields.items():
        object.__setattr__(table, name, value)  # the dataclass is frozen


def _inputs(value: Any) -> Mapping[str, InputColumns]:
    if isinstance(value, InputColumns) or not isinstance(value, Mapping) or "columns" in value:
        return {ONLY: _input(value, "inputs")}
    if not value:
        raise InputError("inputs is empty; give the columns of each input, in the model's order")
    return {_text(name, "inputs"): _input(of, f"inputs[{name!r}]") for name, of in value.items()}


def _input(value: Any, where: str) -> InputColumns:
    if isinstance(value, InputColumns):
        return value
    if isinstance(value, Mapping):
        _known(value, ("columns", "window"), where)
        columns, window = value.get("columns"), value.get("window")
    else:
        columns, window = value, None
    if isinstance(columns, (str, Mapping)) or not isinstance(columns, Iterable):
        raise InputError(f'{where} is {_shown(value)}; give a list of columns, such as ["temp", {{"cyclic": "hour"}}]')
    made = tuple(_column(column, f"{where}.columns[{i}]") for i, column in enumerate(columns))
    if not made:
        raise InputError(f"{where} has no column; give one at least")
    names = [name for column in made for name in column.names]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{where} has {twice!r} twice; give each column once")
    return InputColumns(made, None if window is None else _whole(window, f"{where}.window", 1))


def _column(value: Any, where: str) -> AnyColumn:
    if isinstance(value, (Column, Cyclic)):
        value = {k: v for k, v in dataclasses.asdict(value).items() if v is not None}
    if isinstance(value, str):
        return Column(_text(value, where))
    if isinstance(value, Mapping) and "cyclic" in value:
        _known(value, ("cyclic", "period"), where)
        return _cyclic(value, where)
    if not isinstance(value, Mapping) or "column" not in value:
        raise InputError(
            f'{where} is {_shown(value)}; give a name, {{"column": "temp", "unit": "°F"}} or {{"cyclic": "hour"}}'
        )
    _known(value, ("column", "unit", "missing"), where)
    missing = value.get("missing")
    return Column(
        _text(value["column"], f"{where}.column"),
        _optional_text(value.get("unit"), f"{where}.unit"),
        None if missing is None else _rule(missing, f"{where}.missing"),
    )


def _cyclic(value: Mapping[str, Any], where: str) -> Cyclic:
    name = _OTHER_NAMES.get(str(value["cyclic"]), str(value["cyclic"]))
    if name not in CYCLES:
        raise InputError(f"{where} is {_shown(dict(value))}; a cycle is one of {', '.join(CYCLES)}")
    period = value.get("period")
    if period is None:
        return Cyclic(name)
    if isinstance(period, bool) or not isinstance(period, (int, float)) or not 0 < period < math.inf:
        raise InputError(f"{where}.period is {_shown(period)}; give a number above 0, in values of {name}")
    return Cyclic(name, float(period))


def _outputs(value: Any) -> Mapping[str, Target]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(
            f'outputs is {_shown(value)}; give {{"OUTPUT": {{"target": "temp", "unit": "°F", "ahead": 1}}}}'
        )
    if not value or all(isinstance(of, (Mapping, Target)) for of in value.values()):
        return {_text(name, "outputs"): _target(name, of, f"outputs[{name!r}]") for name, of in value.items()}
    return {ONLY: _target(ONLY, value, "outputs")}


def _target(output: str, value: Any, where: str) -> Target:
    if isinstance(value, Target):
        value = dataclasses.asdict(value)
    _known(value, ("name", "target", "unit", "ahead", "labels"), where)
    name = _optional_text(value.get("name"), f"{where}.name")
    target = _optional_text(value.get("target"), f"{where}.target")
    labels = value.get("labels")
    if labels is not None:
        if isinstance(labels, str) or not isinstance(labels, Sequence):
            raise InputError(f"{where}.labels is {_shown(labels)}; give the names of the classes as a list")
        labels = tuple(_text(label, f"{where}.labels") for label in labels)
        if len(set(labels)) < len(labels):
            raise InputError(f"{where}.labels has a name twice; give each class its own")
    return Target(
        name or output or target or ONLY,
        target or name or output,
        _optional_text(value.get("unit"), f"{where}.unit"),
        _ahead(value.get("ahead", 0), f"{where}.ahead"),
        labels,
    )


def _ahead(value: Any, where: str) -> tuple[int, ...]:
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d{1,6})\s*\.\.\s*(\d{1,6})\s*", value)):
        value = range(int(match[1]), int(match[2]) + 1)
    if isinstance(value, str) or not isinstance(value, Iterable):
        return (_whole(value, where, 0),)
    steps = tuple(_whole(step, where, 0) for step in value)
    if not steps or any(b <= a for a, b in zip(steps, steps[1:])):
        raise InputError(f'{where} is {_shown(list(steps))}; give steps that grow, such as [1, 2, 3] or "1..24"')
    return steps


def _time(value: Any) -> Optional[Time]:
    if value is None:
        return None
    if isinstance(value, Time):
        value = dataclasses.asdict(value)
    if isinstance(value, str):
        return Time(_text(value, "time"))
    if not isinstance(value, Mapping) or "column" not in value:
        raise InputError(f'time is {_shown(value)}; give a column, or {{"column": "date", "step": "1h"}}')
    _known(value, ("column", "step", "format", "zone"), "time")
    step = _optional_text(value.get("step"), "time.step")
    if step is not None:
        parsed_step(step)
    return Time(
        _text(value["column"], "time.column"),
        step,
        _optional_text(value.get("format"), "time.format"),
        _optional_text(value.get("zone"), "time.zone"),
    )


def _rule(value: Any, where: str) -> str:
    text = _text(value, where)
    kind, lines = parsed_rule(text)
    return f"{HOLD} {lines}" if kind == HOLD else kind


def _known(value: Mapping[str, Any], fields: Sequence[str], where: str) -> None:
    if unknown := next((name for name in value if name not in fields), None):
        raise InputError(f"{where} has a field {unknown!r}; there are {', '.join(fields)}")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{where} is {_shown(value)}; give a text")
    return value


def _optional_text(value: Any, where: str) -> Optional[str]:
    return None if value is None else _text(value, where)


def _whole(value: Any, where: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= MOST_LINES:
        raise InputError(f"{where} is {_shown(value)}; give a whole number from {least} to {MOST_LINES:,}")
    return int(value)


def _unnamed(of: dict[str, Any]) -> Any:
    return of.get(ONLY, of)


def _plain_input(of: InputColumns) -> dict[str, Any]:
    window = {} if of.window is None else {"window": of.window}
    return {"columns": [_plain(column) for column in of.columns], **window}


def _plain(of: Any) -> dict[str, Any]:
    """The fields that say something, tuples as lists."""
    fields = dataclasses.asdict(of)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items() if v not in (None, "")}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
