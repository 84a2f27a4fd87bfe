"""Fitting: a table beside the inputs and outputs of a model; what it leaves out is completed, what clashes refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Optional, TypeVar

from keepdrop.artifact.metadata import MEAN_LOGVAR, SIGMOID, SOFTMAX, Head, Tensor
from keepdrop.errors import InputError

from .declared import Table
from .parts import ONLY, Column, InputColumns, Target, Time

Declared = TypeVar("Declared", InputColumns, Target)


def fitted(table: Table, inputs: Sequence[Tensor], outputs: Sequence[Tensor], heads: Sequence[Head] = ()) -> Table:
    """The table with the names and lengths that the model has.

    Parameters
    ----------
    inputs, outputs, heads
        Those of the artifact's metadata: an input is [batch, ...], an output [samples, batch, ...].

    Raises
    ------
    InputError
        An input or output has another name, width, length or number of classes than the table says.
    """
    found = _named(table.inputs, [tensor.name for tensor in inputs], "input", every=True)
    kinds = {head.output: head.kind for head in heads}
    targets = _named(table.outputs, [tensor.name for tensor in outputs], "output", every=False)
    fits = Table(
        {tensor.name: _input(tensor, found[tensor.name]) for tensor in inputs},
        {t.name: _output(t, targets[t.name], kinds.get(t.name, "")) for t in outputs if t.name in targets},
        table.time,
        table.id,
        table.missing,
    )
    if any(max(target.ahead) for target in targets.values()) and fits.time is not None and fits.time.step is None:
        raise InputError(
            f"an answer is for a time some steps after column {fits.time.column!r}; say how long a step is: "
            f'"time": {{"column": "{fits.time.column}", "step": "1h"}}'
        )
    return fits


def otherwise(
    table: Table,
    id: Optional[str] = None,
    time: Optional[str] = None,
    time_format: Optional[str] = None,
    missing: Optional[str] = None,
) -> Table:
    """The table with what is said otherwise of it: columns by name, and one rule for all missing values."""
    inputs = dict(table.inputs)
    if missing is not None:
        for name, of in table.inputs.items():
            columns = (dataclasses.replace(c, missing=None) if isinstance(c, Column) else c for c in of.columns)
            inputs[name] = dataclasses.replace(of, columns=tuple(columns))
    when = table.time or (Time(time) if time else None)
    if when is not None:
        when = dataclasses.replace(when, column=time or when.column, format=time_format or when.format)
    return Table(inputs, table.outputs, when, id or table.id, table.missing if missing is None else missing)


def _named(declared: Mapping[str, Declared], names: Sequence[str], kind: str, every: bool) -> dict[str, Declared]:
    found = dict(declared)
    if ONLY in found:
        if len(names) > 1:
            raise InputError(f"the model has the {kind}s {list(names)}; give the table's {kind}s by these names")
        found[names[0]] = found.pop(ONLY)
    if unknown := next((name for name in found if name not in names), None):
        raise InputError(f"the table has an {kind} {unknown!r}; the model's {kind}s are {list(names)}")
    if every and (missing := next((name for name in names if name not in found), None)):
        raise InputError(f"the table says nothing of input {missing!r}; give its columns: it has {list(found)}")
    return found


def _input(tensor: Tensor, declared: InputColumns) -> InputColumns:
    """An input is [batch, width] of one line, or [batch, lines, width] of a window."""
    axes = tensor.shape[1:]
    if len(axes) not in (1, 2):
        raise InputError(
            f"input {tensor.name!r} takes {_form(axes)} an example; a table makes [columns] of a line, or "
            "[lines, columns] of a window"
        )
    width = axes[-1]
    if width is not None and width != declared.width:
        # A window of a single column is often declared without an axis of features: [batch, 48].
        if len(axes) == 1 and declared.width == 1 and declared.window in (None, width):
            return dataclasses.replace(declared, window=width)
        raise InputError(
            f"input {tensor.name!r} takes {width} columns and the table gives {declared.width} "
            f"({', '.join(declared.names)}); give them in the order the model was trained with"
        )
    if len(axes) == 1:
        if declared.window is not None and declared.window != 1:
            raise InputError(f"input {tensor.name!r} takes one line and the table says {declared.window}; leave it out")
        return dataclasses.replace(declared, window=None)
    lines = axes[0] if declared.window is None else declared.window
    if lines is None:
        raise InputError(
            f"input {tensor.name!r} takes windows of any length; say how many lines the model was trained with: "
            f'"{tensor.name}": {{"columns": [...], "window": 48}}'
        )
    if axes[0] not in (None, lines):
        raise InputError(f"input {tensor.name!r} takes {axes[0]} lines and the table says {lines}; give {axes[0]}")
    return dataclasses.replace(declared, window=lines)


def _output(tensor: Tensor, declared: Target, kind: str) -> Target:
    axes = tensor.shape[2:]
    fits = dataclasses.replace(declared, name=declared.name or tensor.name, target=declared.target or tensor.name)
    steps = len(fits.ahead)
    if steps > 1 and (not axes or axes[0] != _steps_axis(axes, kind, steps)):
        raise InputError(
            f"output {tensor.name!r} has {_form(axes)} a row and the table says {steps} steps ahead "
            f"({fits.ahead[0]} to {fits.ahead[-1]}); its first axis has to count them"
        )
    classes = axes[-1] if axes else None
    if fits.labels is not None and (kind not in (SOFTMAX, SIGMOID) or len(fits.labels) != _classes(axes, kind)):
        raise InputError(
            f"output {tensor.name!r} has {classes if kind in (SOFTMAX, SIGMOID) else 'no'} classes and the table names "
            f"{len(fits.labels)} ({', '.join(fits.labels)}); name each, in the order of the output"
        )
    if fits.unit is not None and kind in (SOFTMAX, SIGMOID):
        raise InputError(f"output {tensor.name!r} holds probabilities, which have no unit; leave {fits.unit!r} out")
    return fits


def _steps_axis(axes: tuple[Any, ...], kind: str, steps: int) -> int:
    """How long the first axis has to be: steps, and their log-variances beside them where it is the only one."""
    return 2 * steps if kind == MEAN_LOGVAR and len(axes) == 1 else steps


def _classes(axes: tuple[Any, ...], kind: str) -> int:
    """The labels that an output can have: one a class; of a single event its contrary and itself."""
    if kind == SIGMOID and axes == (1,):
        return 2
    return axes[-1] if axes and axes[-1] is not None else 0


def _form(axes: tuple[Any, ...]) -> str:
    return "[" + ", ".join("any" if size is None else str(size) for size in axes) + "]"
