"""In memory: a frame in, columns out, by the same way as from file to file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Union

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import Head
from keepdrop.errors import InputError
from keepdrop.table import Table

from .declared import DeclaredSource
from .frames import FrameReader
from .headed import Headed
from .job import Answerer, Job, Question, Span
from .last import LastRows


def answered(
    model: Answerer,
    heads: Sequence[Head],
    table: Table,
    frame: Any,
    levels: tuple[float, ...],
    samples: int,
    seed: int,
    last: bool,
    wide: bool,
) -> dict[str, NDArray[Any]]:
    """What :meth:`keepdrop.Model.predict_table` gives."""
    reader = FrameReader(frame, None if table.time is None else table.time.column)
    whole = DeclaredSource(reader, table, model.metadata.inputs)
    source: Union[DeclaredSource, LastRows] = LastRows(whole) if last else whole
    rows = source.count()
    if not rows:
        raise InputError(source.no_rows())
    job = Job(model, source, Question(samples, seed, levels), Span(0, rows), None)
    headed = Headed(table, heads, wide)
    parts = [headed.columns(fields) for fields in job.answers()]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
