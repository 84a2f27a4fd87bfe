"""How near samples are to those expected, and what counts as equal.

Two float32 computations of the same sample round differently. Where a model magnifies that (recurrences with unbounded
activations, long chains), right samples differ by more than any fixed tolerance. Both are then held against the same
sample in float64: the artifact may be as far from it as Keras is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import OutputCheck
from keepdrop_exporter.errors import VerifyError
from keepdrop_exporter.plan import ATOL, RTOL
from keepdrop_exporter.plan.reference import Samples

REAL_INPUTS = "give real ones (--data, data=)"

# The largest of some samples' rounding errors depends on chance: of two right computations one was up to 6 times as far
# from float64 as the other, where few samples dominate.
_FACTOR = 10
# A wrong mask moves a sample by some hundredth of itself and more: what Keras itself rounds by that much shows nothing.
_MOST = 1e-2


class Unclear(VerifyError):
    """Keras itself is so far from float64 on these inputs that nothing can be told."""


@dataclass(frozen=True)
class Bound:
    """What counts as equal: ``atol + rtol * |expected|``, else as near to ``exact()`` as ``keras`` is.

    ``exact`` gives the samples of ``keras`` computed in float64.
    """

    keras: Samples
    atol: float
    rtol: float
    exact: Callable[[], Samples]

    @property
    def strict(self) -> bool:
        """Whether it is tighter than the default, so that float64 is no excuse."""
        return self.atol < ATOL or self.rtol < RTOL


def compare(got: Samples, expected: Samples, bound: Bound, fault: str) -> dict[str, OutputCheck]:
    """How far samples are from those expected, by output; VerifyError where it is farther than the bound."""
    checks = {}
    for name, want in expected.items():
        have = got[name]
        if have.shape != want.shape:
            raise VerifyError(f"output {name!r} {fault}: its shape is {have.shape} and should be {want.shape}")
        _refuse_other_nans(name, have, want, fault)
        difference = _distance(have, want)
        size = np.abs(np.nan_to_num(want.astype(np.float64)))
        found = OutputCheck(
            name,
            float(difference.max()),
            float((difference / np.maximum(size, ATOL / RTOL)).max()),
            nan=int(np.isnan(want).sum()),
        )
        excess = difference - (bound.atol + bound.rtol * size)
        if excess.max() > 0:
            sample, row = np.unravel_index(int(excess.argmax()), excess.shape)[:2]
            apart = (
                f"output {name!r} {fault}: by up to {found.max_abs:.3g} (sample {sample}, row {row} of those "
                f"compared); allowed are {bound.atol:g} + {bound.rtol:g} * |expected|"
            )
            found = _near_to_float64(found, have, bound, apart)
        checks[name] = found
    return checks


def worse(a: OutputCheck | None, b: OutputCheck) -> OutputCheck:
    """The larger differences of both."""
    if a is None:
        return b
    fields = ("max_abs", "max_rel", "nan", "from_float64", "keras_from_float64")
    return OutputCheck(b.name, **{field: max(getattr(a, field), getattr(b, field)) for field in fields})


def _near_to_float64(found: OutputCheck, have: NDArray[Any], bound: Bound, apart: str) -> OutputCheck:
    """That check with both distances from float64; VerifyError where the artifact is farther from it than Keras is."""
    cure = "; --data (data=) compares on real inputs, --atol and --rtol (atol=, rtol=) set what is allowed"
    if bound.strict:
        raise VerifyError(apart + cure)
    try:
        exact = bound.exact()[found.name]
    except VerifyError as error:  # code of a layer's own that asks for float32
        raise VerifyError(apart + cure) from error
    keras, artifact = (_relative(y, exact) for y in (bound.keras[found.name], have))
    if keras > _MOST:
        raise Unclear(
            f"{apart}. On these inputs the model magnifies rounding until Keras itself is {keras:.2g} of a sample away "
            f"from float64, where nothing can be told: {REAL_INPUTS}, or allow more (--atol, --rtol)"
        )
    if artifact > min(_FACTOR * keras, _MOST):
        raise VerifyError(
            f"{apart}. From float64 under the same masks the artifact is {artifact:.2g} of a sample away and Keras "
            f"{keras:.2g}{cure}"
        )
    return replace(found, from_float64=artifact, keras_from_float64=keras)


def _relative(y: NDArray[Any], exact: NDArray[Any]) -> float:
    return float((_distance(y, exact) / (ATOL / RTOL + np.abs(np.nan_to_num(exact)))).max())


def _distance(have: NDArray[Any], want: NDArray[Any]) -> NDArray[np.float64]:
    """|have - want|; 0 where both are the same infinity, or either is NaN."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(have.astype(np.float64) - want.astype(np.float64))
    return np.where(np.isnan(have) | np.isnan(want) | (have == want), 0.0, apart)


def _refuse_other_nans(name: str, have: NDArray[Any], want: NDArray[Any], fault: str) -> None:
    here, there = np.isnan(have), np.isnan(want)
    if (here != there).any():
        raise VerifyError(
            f"output {name!r} {fault}: of {have.size} numbers {here.sum()} are NaN where {there.sum()} should be; the "
            f"model overflows on these inputs: {REAL_INPUTS}"
        )
