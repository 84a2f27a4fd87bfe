"""Lines: a table in words, as `keepdrop inspect` shows it."""

from __future__ import annotations

from typing import Optional

from .declared import Table
from .parts import CYCLES, HOLD, REFUSE, AnyColumn, Cyclic, InputColumns, Target
from .steps import step_text


def table_lines(table: Table) -> list[str]:
    """Columns with units, windows, the time and its step, and what is forecast, how far ahead."""
    lines = [("time", _time(table))] if table.time is not None else []
    lines += [] if table.id is None else [("series", f"column {table.id!r}")]
    for name, of in table.inputs.items():
        lines += [("columns" if i == 0 else "", text) for i, text in enumerate(_input(name, of, table))]
    lines += [("forecasts" if i == 0 else "", _target(t, table)) for i, t in enumerate(table.outputs.values())]
    return [f"{label:<18}{text}" for label, text in lines]


def _time(table: Table) -> str:
    time = table.time
    assert time is not None
    parts = [f"column {time.column!r}"]
    parts += [] if time.delta is None else [f"a line every {step_text(time.delta)}"]
    parts += [f"as {time.format}"] if time.format else []
    parts += [f"calendar of {time.zone}"] if time.zone else []
    return ", ".join(parts)


def _input(name: str, of: InputColumns, table: Table) -> list[str]:
    lines = "a line" if of.window is None else f"windows of {of.window} lines"
    return [f"{name}: {lines} of", *(f"  {_column(column, table)}" for column in of.columns)]


def _column(column: AnyColumn, table: Table) -> str:
    if isinstance(column, Cyclic):
        usual = column.period is None or column.period == CYCLES[column.cyclic]
        return f"{', '.join(column.names)} from the time{'' if usual else f', period {column.period:g}'}"
    rule, lines = table.rule(column)
    gaps = {REFUSE: "", HOLD: f", gaps of up to {lines} held"}.get(rule, ", gaps skipped")
    return f"{column.column}{_unit(column.unit)}{gaps}"


def _target(target: Target, table: Table) -> str:
    of = "" if target.target == target.name else f" of {target.target!r}"
    if target.labels is not None:
        return f"{target.name}{of}: {', '.join(target.labels)}{_ahead(target, table)}"
    return f"{target.name}{of}{_unit(target.unit)}{_ahead(target, table)}"


def _ahead(target: Target, table: Table) -> str:
    if target.ahead == (0,):
        return ""
    ends = list(dict.fromkeys((target.ahead[0], target.ahead[-1])))
    delta = None if table.time is None else table.time.delta
    spans = "" if delta is None else f" ({' to '.join(step_text(end * delta) for end in ends)})"
    return f", {' to '.join(map(str, ends))} step{'s' * (ends[-1] > 1)} ahead{spans}"


def _unit(unit: Optional[str]) -> str:
    return "" if unit is None else f" [{unit}]"
