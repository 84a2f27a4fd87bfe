"""Written: from what users write of a table, in JSON or in Python, to its parts; errors name the place."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

import numpy as np

from keepdrop.errors import InputError

from .parts import CYCLES, HOLD, MOST_LINES, ONLY, AnyColumn, Column, Cyclic, InputColumns, Target, Time, parsed_rule
from .steps import parsed_step

_OTHER_NAMES = {"weekday": "day_of_week", "dayofweek": "day_of_week", "dayofyear": "day_of_year"}


def inputs_of(value: Any) -> Mapping[str, InputColumns]:
    """The columns of each input, from what a user writes of them."""
    if isinstance(value, InputColumns) or not isinstance(value, Mapping) or "columns" in value:
        return {ONLY: _input(value, "inputs")}
    if not value:
        raise InputError("inputs is empty; give the columns of each input, in the model's order")
    return {text_of(name, "inputs"): _input(of, f"inputs[{name!r}]") for name, of in value.items()}


def _input(value: Any, where: str) -> InputColumns:
    if isinstance(value, InputColumns):
        return value
    if isinstance(value, Mapping):
        refuse_unknown(value, ("columns", "window"), where)
        columns, window = value.get("columns"), value.get("window")
    else:
        columns, window = value, None
    if isinstance(columns, (str, Mapping)) or not isinstance(columns, Iterable):
        raise InputError(f'{where} is {shown(value)}; give a list of columns, such as ["temp", {{"cyclic": "hour"}}]')
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
        return Column(text_of(value, where))
    if isinstance(value, Mapping) and "cyclic" in value:
        refuse_unknown(value, ("cyclic", "period"), where)
        return _cyclic(value, where)
    if not isinstance(value, Mapping) or "column" not in value:
        raise InputError(
            f'{where} is {shown(value)}; give a name, {{"column": "temp", "unit": "°F"}} or {{"cyclic": "hour"}}'
        )
    refuse_unknown(value, ("column", "unit", "missing"), where)
    missing = value.get("missing")
    return Column(
        text_of(value["column"], f"{where}.column"),
        _optional_text(value.get("unit"), f"{where}.unit"),
        None if missing is None else rule_of(missing, f"{where}.missing"),
    )


def _cyclic(value: Mapping[str, Any], where: str) -> Cyclic:
    name = _OTHER_NAMES.get(str(value["cyclic"]), str(value["cyclic"]))
    if name not in CYCLES:
        raise InputError(f"{where} is {shown(dict(value))}; a cycle is one of {', '.join(CYCLES)}")
    period = value.get("period")
    if period is None:
        return Cyclic(name)
    if isinstance(period, bool) or not isinstance(period, (int, float)) or not 0 < period < math.inf:
        raise InputError(f"{where}.period is {shown(period)}; give a number above 0, in values of {name}")
    return Cyclic(name, float(period))


def outputs_of(value: Any) -> Mapping[str, Target]:
    """The target of each output, from what a user writes of them."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(
            f'outputs is {shown(value)}; give {{"OUTPUT": {{"target": "temp", "unit": "°F", "ahead": 1}}}}'
        )
    if not value or all(isinstance(of, (Mapping, Target)) for of in value.values()):
        return {text_of(name, "outputs"): _target(name, of, f"outputs[{name!r}]") for name, of in value.items()}
    return {ONLY: _target(ONLY, value, "outputs")}


def _target(output: str, value: Any, where: str) -> Target:
    if isinstance(value, Target):
        value = dataclasses.asdict(value)
    refuse_unknown(value, ("name", "target", "unit", "ahead", "labels"), where)
    name = _optional_text(value.get("name"), f"{where}.name")
    target = _optional_text(value.get("target"), f"{where}.target")
    labels = value.get("labels")
    if labels is not None:
        if isinstance(labels, str) or not isinstance(labels, Sequence):
            raise InputError(f"{where}.labels is {shown(labels)}; give the names of the classes as a list")
        labels = tuple(text_of(label, f"{where}.labels") for label in labels)
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
        raise InputError(f'{where} is {shown(list(steps))}; give steps that grow, such as [1, 2, 3] or "1..24"')
    return steps


def time_of(value: Any) -> Optional[Time]:
    """The column of times, from its name or its fields."""
    if value is None:
        return None
    if isinstance(value, Time):
        value = dataclasses.asdict(value)
    if isinstance(value, str):
        return Time(text_of(value, "time"))
    if not isinstance(value, Mapping) or "column" not in value:
        raise InputError(f'time is {shown(value)}; give a column, or {{"column": "date", "step": "1h"}}')
    refuse_unknown(value, ("column", "step", "format", "zone"), "time")
    step = _optional_text(value.get("step"), "time.step")
    if step is not None:
        parsed_step(step)
    return Time(
        text_of(value["column"], "time.column"),
        step,
        _optional_text(value.get("format"), "time.format"),
        _optional_text(value.get("zone"), "time.zone"),
    )


def rule_of(value: Any, where: str) -> str:
    """A rule for missing values, as it is kept."""
    text = text_of(value, where)
    kind, lines = parsed_rule(text)
    return f"{HOLD} {lines}" if kind == HOLD else kind


def refuse_unknown(value: Mapping[str, Any], fields: Sequence[str], where: str) -> None:
    """InputError where a field is none of these."""
    if unknown := next((name for name in value if name not in fields), None):
        raise InputError(f"{where} has a field {unknown!r}; there are {', '.join(fields)}")


def text_of(value: Any, where: str) -> str:
    """A text that is not empty, otherwise InputError."""
    if not isinstance(value, str) or not value:
        raise InputError(f"{where} is {shown(value)}; give a text")
    return value


def _optional_text(value: Any, where: str) -> Optional[str]:
    return None if value is None else text_of(value, where)


def _whole(value: Any, where: str, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= MOST_LINES:
        raise InputError(f"{where} is {shown(value)}; give a whole number from {least} to {MOST_LINES:,}")
    return int(value)


def unnamed(of: dict[str, Any]) -> Any:
    """What is said of the only input or output, without its name."""
    return of.get(ONLY, of)


def plain_input(of: InputColumns) -> dict[str, Any]:
    """The fields of an input as JSON has them."""
    window = {} if of.window is None else {"window": of.window}
    return {"columns": [plain(column) for column in of.columns], **window}


def plain(of: Any) -> dict[str, Any]:
    """The fields that say something, tuples as lists."""
    fields = dataclasses.asdict(of)
    return {k: list(v) if isinstance(v, tuple) else v for k, v in fields.items() if v not in (None, "")}


def shown(value: Any) -> str:
    """A value as an error shows it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
