"""Fields: what is written of a row, and the columns and keys it is written under."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.answer.figures import SAMPLES as SAMPLES
from keepdrop.answer.figures import statistics as statistics

ROW = "row"
N = "n"
MET = "met"
REASON = "reason"


class Field(NamedTuple):
    """A statistic of an output, or a label of the row, such as its id, where `output` is None."""

    output: Optional[str]
    statistic: str

    @property
    def row_axis(self) -> int:
        """The axis of its array that counts rows: samples are [samples, rows, ...], all else is [rows, ...]."""
        return 1 if self.statistic == SAMPLES else 0

    @property
    def column(self) -> str:
        """Its name in a table."""
        return self.statistic if self.output is None else f"{self.output}_{self.statistic}"


Fields = Mapping[Field, NDArray[Any]]


def keys(fields: Mapping[Field, Any]) -> dict[Field, str]:
    """The names of the arrays of a .npy or .npz file: with the output's name before where there are several."""
    several = len({field.output for field in fields} - {None}) > 1
    return {f: f"{f.output}/{f.statistic}" if several and f.output is not None else f.statistic for f in fields}


def columns(fields: Fields) -> Iterator[tuple[str, NDArray[Any]]]:
    """Flat columns [rows] by name; where a row has several elements their indices come after, as in ``y_mean_0_2``."""
    for field, values in fields.items():
        tail = values.shape[1:]
        if math.prod(tail) == 1:
            yield field.column, values.reshape(len(values))
            continue
        for index in np.ndindex(*tail):
            yield "_".join([field.column, *map(str, index)]), values[(slice(None), *index)]


def objects(fields: Fields) -> Iterator[dict[str, Any]]:
    """A JSON object a row: numbers, or nested lists where a row has several elements; null for what is not finite."""
    listed = {field.column: plain(_scalar(np.moveaxis(values, field.row_axis, 0))) for field, values in fields.items()}
    for row in zip(*listed.values()):
        yield dict(zip(listed, row))


def _scalar(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(len(values)) if math.prod(values.shape[1:]) == 1 else values


def written_times(times: NDArray[np.datetime64], zoned: bool) -> NDArray[np.str_]:
    """Times as ISO 8601, with a Z where they are of UTC; empty where there is none."""
    unknown = np.isnat(times)
    whole = not (times[~unknown].astype(np.int64) % 1_000_000).any()
    texts = np.datetime_as_string(times, unit="s" if whole else "us", timezone="UTC" if zoned else "naive")
    return np.where(unknown, "", texts)


def plain(values: NDArray[Any]) -> list[Any]:
    """An array as lists of what JSON has: null for what is not finite."""
    if values.ndim > 1:
        return [plain(part) for part in values]
    if values.dtype.kind != "f":
        return values.tolist()  # type: ignore[no-any-return]
    # By way of text: a float32 has fewer digits than the float64 of the same value.
    return [float(str(value)) if math.isfinite(value) else None for value in values]
