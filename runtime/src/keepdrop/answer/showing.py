"""Showing: objects in a notebook, as a line of text or a small table of HTML."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import Head, Metadata
from keepdrop.errors import InputError
from keepdrop.table import Table
from keepdrop.table.lines import table_lines

# Rows of a table in a notebook; the others are counted.
MOST_ROWS = 10
MOST_COLUMNS = 12
# The libraries whose frames are made, the first that is loaded.
LIBRARIES = ("pandas", "polars", "pyarrow")


def html_table(
    title: str, header: Sequence[str], rows: Iterable[Sequence[Any]], more: int = 0, lines: Sequence[str] = ()
) -> str:
    """A table of HTML below a title; `more` rows are only counted, and `lines` stand below as they are."""
    import html  # brings all of HTML's entities, which only a notebook needs

    head = "".join(f"<th>{html.escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(_text(cell))}</td>' for cell in row)}</tr>" for row in rows)
    rest = f"<p>and {more:,} rows more</p>" if more else ""
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>" if header else ""
    below = f"<pre>{html.escape(chr(10).join(lines))}</pre>" if lines else ""
    return f"<div><p><b>{html.escape(title)}</b></p>{table}{rest}{below}</div>"


def artifact_table(title: str, metadata: Metadata, heads: Sequence[Head], table: Optional[Table]) -> str:
    """What an artifact takes and gives, and what its table says, as HTML."""
    tensors = [("input", t) for t in metadata.inputs] + [("output", t) for t in metadata.outputs]
    rows = [(kind, t.name, t.dtype, ["any" if n is None else n for n in t.shape]) for kind, t in tensors]
    kinds = {head.output: head.kind for head in heads}
    lines = [] if table is None else table_lines(table)
    cells = [(*row, kinds.get(row[1], "")) for row in rows]
    return html_table(title, ("", "name", "dtype", "shape", "head"), cells, lines=lines)


def _text(cell: Any) -> str:
    return f"{cell:.4g}" if isinstance(cell, (float, np.floating)) else str(cell)


def flat_columns(arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Arrays [rows, ...] as columns [rows]; of several elements the indices come after the name, as in ``mean_0_2``."""
    found: dict[str, NDArray[Any]] = {}
    for name, values in arrays.items():
        elements = values.reshape(len(values), -1)
        if elements.shape[1] == 1:
            found[name] = elements[:, 0]
            continue
        for index, column in zip(np.ndindex(*values.shape[1:]), elements.T):
            found["_".join([name, *map(str, index)])] = column
    return found


def frame_of(columns: Mapping[str, NDArray[Any]], library: Optional[str] = None) -> Any:
    """A frame of these columns by a library that is loaded already, or by the one that is named.

    Raises
    ------
    InputError
        None is loaded, or the name is none of them.
    """
    if library is not None and library not in LIBRARIES:
        raise InputError(f"library is {library!r}; give one of {', '.join(LIBRARIES)}")
    name = library or next((name for name in LIBRARIES if name in sys.modules), None)
    if name is None:
        raise InputError(
            f"no library of frames is loaded; import one of {', '.join(LIBRARIES)} first, or use to_dict()"
        )
    try:
        module: Any = __import__(name)
    except ImportError as error:
        raise InputError(f"{name} is not installed here; install it, or use to_dict()") from error
    return module.table(dict(columns)) if name == "pyarrow" else module.DataFrame(dict(columns))
