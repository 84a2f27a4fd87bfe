"""Tabled: what an artifact's table says of a stream's readings and answers: the steps of time, names, units, times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import Head
from keepdrop.errors import InputError
from keepdrop.files.declared import TIME
from keepdrop.files.fields import ROW, Field
from keepdrop.files.headed import Headed
from keepdrop.files.outputs import Layout, headed_objects
from keepdrop.table import Table
from keepdrop.table.parts import REFUSE
from keepdrop.table.steps import step_text

from .messages import NAME, Reading


class Gap(InputError):
    """Readings are missing before this one, which the table refuses."""


class Tabled:
    """Of a table that :func:`keepdrop.table.fitted` gave, and the heads of the artifact's outputs."""

    def __init__(self, table: Table, heads: Sequence[Head]) -> None:
        self._headed = Headed(table, heads)
        self._time = table.time
        self._refuses = table.missing == REFUSE
        self._units = {f"{target.name}_unit": target.unit for target in self._headed.targets if target.unit is not None}

    def name(self, output: str) -> str:
        """What an output is called."""
        return self._headed.target(output).name

    def steps_since(self, reading: Reading, last: float, steps: int) -> int:
        """How many steps of time a reading comes after its row's last one; `steps` where the table does not know.

        Parameters
        ----------
        last
            The time of the row's last reading, minus infinity of none.
        steps
            Those of the reading itself.

        Raises
        ------
        Gap
            Steps are missing, and the table refuses that.
        InputError
            It is no whole number of steps.
        """
        if self._time is None or self._time.delta is None or reading.time is None or not np.isfinite(last):
            return steps
        since, step = int(reading.time - last), int(self._time.delta.astype(np.int64))
        if since % step == 0 and (since // step == steps or (since // step > steps and not self._refuses)):
            return since // step
        then, now = (_written(moment) for moment in (last, reading.time))
        where = f"{NAME}, line {reading.line}, column {self._time.column!r}: {now} comes after {then}"
        declared = step_text(self._time.delta)
        if since % step == 0 and since // step > steps:
            lacking = since // step - steps
            raise Gap(
                f"{where}, and {lacking} reading{'s' * (lacking > 1)} in steps of {declared} "
                f"{'are' if lacking > 1 else 'is'} missing; add them, or let missing= skip or hold: the row starts anew"
            )
        raise InputError(
            f"{where}, a step of {step_text(np.timedelta64(since, 'us'))}, and the model was trained on steps of "
            f"{declared}; resample them"
        )

    def figures(self, fields: Mapping[Field, NDArray[Any]], reading: Reading) -> dict[str, Any]:
        """What `predict` writes of a row: lists, where a horizon has a line for each step."""
        labelled = {Field(None, ROW): np.array([reading.row]), **fields}
        if self._time is not None and reading.time is not None:
            labelled[Field(None, TIME)] = np.array([reading.time]).astype(np.int64).astype("datetime64[us]")
        lines = list(headed_objects(labelled, Layout(self._headed, reading.zoned, units=False)))
        found = {name: [line[name] for line in lines] if len(lines) > 1 else lines[0][name] for name in lines[0]}
        found.pop(ROW, None)
        return {**found, **self._units}

    def kept(self, name: str) -> bool:
        """Whether a field of an answer is there without numbers too."""
        return name in (TIME, "ahead") or name in self._units


def _written(moment: float) -> str:
    return str(np.datetime_as_string(np.datetime64(int(moment), "us"), unit="s"))
