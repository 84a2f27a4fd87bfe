"""Results: those of the one output, or of each by name, and how type checkers tell the two apart.

``Model`` and ``Stream`` are generic in what they give. Without arguments they are those of an artifact with one
output: ``sample`` gives an array, ``predict`` and ``push`` a Prediction. ``keepdrop.load(path, by_output=True)`` gives
those by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .prediction import Prediction

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from typing_extensions import TypeVar

    Samples = TypeVar("Samples", default=NDArray[Any])
    Answers = TypeVar("Answers", default=Prediction)
else:  # a type variable has no default before Python 3.13
    from typing import TypeVar

    Samples, Answers = TypeVar("Samples"), TypeVar("Answers")


def of_outputs(names: Sequence[str], results: Sequence[Any], by_output: bool) -> Any:
    """The result itself where there is one output, unless `by_output`; otherwise a dict of them by name."""
    return results[0] if len(results) == 1 and not by_output else dict(zip(names, results))
