"""Headed: answers as columns in the user's terms: times, steps ahead, names, units, the labels of classes.

A horizon is written long, a line for each step ahead, or wide, a line for each row; so are outputs that look ahead
differently.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import LOGVAR, MEAN_LOGVAR, SIGMOID, SOFTMAX, Head
from keepdrop.table import Table, Target
from keepdrop.table.steps import step_text

from .declared import READING, TIME
from .fields import MET, REASON, ROW, SAMPLES, Field, Fields, N

AHEAD = "ahead"
TOP = "top"
UTC = "UTC"
# Figures that are variances, that are entropies, and that have no unit.
SQUARED = ("aleatoric", "epistemic", "total")
ENTROPIES = ("predictive_entropy", "mutual_information")
BARE = (TOP, "top_probability", "decision", "probability")
CHANCES = ("above_", "below_", "set_")


class Headed:
    """How the fields of rows become columns [lines] by name, all of one length.

    Parameters
    ----------
    table
        One that :func:`keepdrop.table.fitted` gave.
    heads
        Those of the artifact's outputs.
    wide
        Whether a horizon has columns for its steps rather than lines.
    """

    def __init__(self, table: Table, heads: Sequence[Head], wide: bool = False) -> None:
        self._table = table
        self._heads = {head.output: head for head in heads if head.kind != LOGVAR}
        self.targets = [self.target(output) for output in self._heads]
        self._long = len({target.ahead for target in self.targets}) == 1 and not wide
        self._steps = self.targets[0].ahead if self._long else (0,)
        time = table.time
        self.delta = None if time is None else time.delta
        self.has_time = time is not None
        self._units: dict[str, str] = {}
        self._halves: dict[str, int] = {}

    def target(self, output: str) -> Target:
        """What the table says of an output; its own name where it says nothing."""
        return self._table.outputs.get(output) or Target(output, output)

    def ahead_text(self, target: Target) -> str:
        """How far ahead a single step is, as "6h"; in steps where the table has no time."""
        return str(target.ahead[0]) if self.delta is None else step_text(target.ahead[0] * self.delta)

    def unit(self, column: str, zoned: bool = False) -> Optional[str]:
        """The unit of a column that was given; of times "UTC" where they are `zoned`."""
        if column == TIME:
            return UTC if zoned else None
        found = self._units.get(column)
        return found or None

    def heading(self, column: str, zoned: bool = False) -> str:
        """A column's name with its unit behind."""
        unit = self.unit(column, zoned)
        return column if unit is None else f"{column} [{unit}]"

    def columns(self, fields: Fields) -> dict[str, NDArray[Any]]:
        """Columns of a piece: its time, series and steps ahead first, then the figures of each output."""
        labels = {field.statistic: values for field, values in fields.items() if field.output is None}
        # Means and log-variances of one output stand side by side; what is of both has half as many.
        self._halves = {f.output: v.shape[-1] for f, v in fields.items() if f.statistic == "mean" and f.output}
        found = dict(self._labels(labels))
        for field, values in fields.items():
            if field.output in self._heads and field.statistic != SAMPLES:
                for name, column in self._figures(field, values):
                    self._units[name] = self._unit(field)
                    found[name] = column
        found.update((name, self._repeated(labels[name])) for name in (N, MET, REASON) if name in labels)
        return found

    def _labels(self, labels: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
        if TIME in labels:
            times = self._repeated(labels[TIME])
            if self.delta is not None:
                times = times + np.tile(self._steps, len(labels[TIME])) * self.delta
            yield TIME, times
        else:
            yield ROW, self._repeated(labels[ROW])
        for name, values in labels.items():
            if name not in (TIME, ROW, N, MET, REASON) and not name.startswith(READING):
                yield name, self._repeated(values)
        if self._steps != (0,) and (self.delta is None or len(self._steps) > 1):
            yield AHEAD, np.tile(np.array(self._steps, np.int64), len(labels[ROW]))

    def _repeated(self, values: NDArray[Any]) -> NDArray[Any]:
        return np.repeat(values, len(self._steps), axis=0)

    def _figures(self, field: Field, values: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
        """The columns of a figure [rows, ...]."""
        assert field.output is not None
        target, head = self.target(field.output), self._heads[field.output]
        name = f"{target.name}_{field.statistic}"
        if head.kind == MEAN_LOGVAR and values.shape[-1] == self._halves.get(field.output):
            values = values[..., : values.shape[-1] // 2]
        if field.statistic == TOP and target.labels is not None:
            values = np.array([*target.labels, ""])[values]  # -1, of no answer, is the last
        if not target.is_horizon:
            suffix = [] if self._long or target.ahead == (0,) else [str(target.ahead[0])]
            yield from self._elements(name, suffix, values, target, head)
        elif self._long:
            yield from self._elements(name, [], values.reshape(-1, *values.shape[2:]), target, head)
        else:
            for i, step in enumerate(target.ahead):
                yield from self._elements(name, [str(step)], values[:, i], target, head)

    def _elements(
        self, name: str, suffix: list[str], values: NDArray[Any], target: Target, head: Head
    ) -> Iterator[tuple[str, NDArray[Any]]]:
        tail = values.shape[1:]
        if math.prod(tail) == 1:
            yield "_".join([name, *suffix]), values.reshape(len(values))
            return
        classes = target.labels if target.labels is not None and tail[-1] == len(target.labels) else None
        for index in np.ndindex(*tail):
            words = [str(i) for i in index]
            if classes is not None and head.kind in (SOFTMAX, SIGMOID):
                words[-1] = classes[index[-1]]
            yield "_".join([name, *suffix, *words]), values[(slice(None), *index)]

    def _unit(self, field: Field) -> str:
        assert field.output is not None
        unit = self.target(field.output).unit or ""
        if field.statistic in BARE or field.statistic.startswith(CHANCES):
            return ""
        if field.statistic in ENTROPIES:
            return "nats"
        if field.statistic in SQUARED and unit:
            return f"({unit})²" if len(unit) > 2 else f"{unit}²"
        return unit
