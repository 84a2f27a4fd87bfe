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

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional, Union

from keepdrop.errors import InputError

from .parts import REFUSE, Column, Cyclic, InputColumns, Target, Time, parsed_rule
from .written import (
    inputs_of,
    outputs_of,
    plain,
    plain_input,
    refuse_unknown,
    rule_of,
    shown,
    text_of,
    time_of,
    unnamed,
)


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
            inputs=inputs_of(inputs),
            outputs=outputs_of(outputs),
            time=time_of(time),
            id=None if id is None else text_of(id, "id"),
            missing=rule_of(missing, "missing"),
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
            raise InputError(f"a table is a JSON object, and this is {shown(fields)}; give one with inputs and outputs")
        refuse_unknown(fields, ("inputs", "outputs", "time", "id", "missing"), "a table")
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
            with open(path, encoding="utf-8-sig") as file:
                return cls.from_json(file.read())
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the table {os.fspath(path)} ({error}); give a JSON file") from error
        except InputError as error:
            raise InputError(f"{os.fspath(path)}: {error}") from error

    def to_json(self) -> str:
        """One line of JSON that :meth:`from_json` reads."""
        fields = {
            "time": None if self.time is None else plain(self.time),
            "id": self.id,
            "missing": self.missing,
            "inputs": unnamed({name: plain_input(of) for name, of in self.inputs.items()}),
            "outputs": unnamed({name: plain(target) for name, target in self.outputs.items()}),
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
                    f"column {column.column!r} is declared twice, as {plain(column)} and as {plain(clashing)}; "
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
            raise InputError(f'{plain(cyclic)} is computed from the time; say which column has it: "time": "date"')


def _set(table: Table, **fields: Any) -> None:
    for name, value in fields.items():
        object.__setattr__(table, name, value)  # the dataclass is frozen
