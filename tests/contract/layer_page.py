"""docs/layers.md, made of the table of layers: ``scripts/layers`` writes what this prints."""

from __future__ import annotations

import itertools

from .layer_cases import CASES, WITHOUT_ONEDNN, Case

_HEAD = """\
# Layers and options

Every row is a test: `tests/contract/test_layers.py` builds it, exports it, and compares its samples with those of stock
Keras, over rows that are padded to the right, to the left, with gaps, throughout, or not at all; where the length is
not fixed, at two of them, two series at lengths of their own. A row is *exact* (masks bit for bit, outputs within
float32 rounding), or *refused* before anything is written, in words that name the layer and the cure.

*Time loop* says what a recurrent layer's loop becomes, which is a matter of speed alone: *fused*, ONNX' own operator;
*step*, the step written out in matrix products; *Keras*, the loop as Keras runs it. Unrolled layers have none.

The table is generated: `scripts/layers` writes this page from `tests/contract/layer_cases.py`.
"""


def page() -> str:
    """The whole page."""
    sections = itertools.groupby(CASES, key=lambda case: case.section)
    return _HEAD + "".join(f"\n## {section}\n\n{_table(list(cases))}" for section, cases in sections)


def _table(cases: list[Case]) -> str:
    loops = any(case.loops for case in cases)
    head = ["layer", "options", "status", *(["time loop"] if loops else [])]
    rows = [[_code(case), case.options, _status(case), *([_loops(case)] if loops else [])] for case in cases]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (head, ["---"] * len(head), *rows))


def _code(case: Case) -> str:
    return f"`{case.layer}`" if case.layer[0].isupper() and " " not in case.layer else case.layer


def _status(case: Case) -> str:
    if case.onednn:
        return f"exact; without oneDNN refused: {WITHOUT_ONEDNN}. Cure: set TF_ENABLE_ONEDNN_OPTS=1"
    return f"refused: {case.refused}. Cure: {case.cure}" if case.refused else "exact"


def _loops(case: Case) -> str:
    return ", ".join(case.loops.split())


if __name__ == "__main__":
    print(page(), end="")
