"""What counts as equal: the tolerance, float64 where both round beyond it, and numbers that are none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from keepdrop_exporter import VerifyError
from keepdrop_exporter.verification.comparison import Bound, compare

KERAS = np.full((3, 2, 1), 100.0, np.float32)
FAULT = "differs from Keras"


def bound(keras: Any = KERAS, exact: Any = None, **tolerance: float) -> Bound:
    def computed() -> dict[str, Any]:
        assert exact is not None, "not asked for where the tolerance is met"
        return {"y": exact}

    return Bound({"y": keras}, **{"atol": 1e-5, "rtol": 1e-4, **tolerance}, exact=computed)


def test_within_the_tolerance_float64_is_not_computed() -> None:
    (check,) = compare({"y": KERAS + 0.005}, {"y": KERAS}, bound(), FAULT).values()
    assert check.max_abs == pytest.approx(0.005, rel=1e-2) and check.from_float64 == 0


@pytest.mark.parametrize("away, accepted", [(0.03, True), (0.29, True), (0.4, False), (50.0, False)])
def test_ten_times_as_far_from_float64_as_keras_is_chance(away: float, accepted: bool) -> None:
    exact = KERAS.astype(np.float64) - 0.03
    got = {"y": (exact - away).astype(np.float32)}
    if accepted:
        (check,) = compare(got, {"y": KERAS}, bound(exact=exact), FAULT).values()
        assert (check.from_float64, check.keras_from_float64) == pytest.approx((away / 100, 3e-4), rel=1e-2)
    else:
        with pytest.raises(VerifyError, match="the artifact is .* away and Keras 0.0003.*--data .*--atol and --rtol"):
            compare(got, {"y": KERAS}, bound(exact=exact), FAULT)


def test_where_keras_itself_is_far_from_float64_nothing_is_proved() -> None:
    exact = KERAS.astype(np.float64) * 1.1
    with pytest.raises(
        VerifyError, match="magnifies rounding until Keras itself is 0.09.*give real ones .--data, .*--atol, --rtol"
    ):
        compare({"y": KERAS * 1.1}, {"y": KERAS}, bound(exact=exact), FAULT)


def test_a_tighter_tolerance_is_meant() -> None:
    with pytest.raises(VerifyError, match=r"allowed are 0 [+] 0 \* .*data="):
        compare({"y": KERAS + 0.001}, {"y": KERAS}, bound(atol=0, rtol=0), FAULT)


def test_numbers_that_are_none() -> None:
    some, more = KERAS.copy(), KERAS.copy()
    some[0] = more[:2] = np.nan
    (check,) = compare({"y": some}, {"y": some}, bound(some), FAULT).values()
    assert (check.nan, check.max_abs) == (2, 0)
    with pytest.raises(VerifyError, match="of 6 numbers 2 are NaN where 4 should be; the model overflows.*data="):
        compare({"y": some}, {"y": more}, bound(more), FAULT)
    infinite = np.where(np.isnan(some), np.inf, some)
    compare({"y": infinite}, {"y": infinite}, bound(infinite), FAULT)
