"""Ray on this machine gives the bytes of `keepdrop predict`.

It starts a cluster of its own, which takes longer than all tests of the scorer: `scripts/test -m nightly`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest

import keepdrop

pytestmark = pytest.mark.nightly

FORECASTER = Path(__file__).parent / "data" / "forecaster.onnx"
KEYS = [("sensor", "ascending"), ("when", "ascending")]
SENSORS, LINES = 8, 40


def readings() -> pyarrow.Table:
    rng = np.random.default_rng(0)
    count = SENSORS * LINES
    when = np.datetime64("2025-01-01", "us") + np.arange(LINES) * np.timedelta64(1, "h")
    return pyarrow.table(
        {
            "sensor": [f"s{i}" for i in range(SENSORS)] * LINES,
            "when": np.repeat(when, SENSORS),
            "a": rng.standard_normal(count),
            "b": rng.standard_normal(count),
        }
    )


@pytest.fixture(scope="module")
def scorer() -> Any:
    return keepdrop.scorer(FORECASTER, columns=("a", "b"), window=5, id="sensor", time="when", interval=0.9)


@pytest.fixture(scope="module")
def expected(scorer: Any) -> pyarrow.Table:
    """In this process; tests of the scorer compare that with the command."""
    return scorer(readings()).sort_by(KEYS)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_agent_register_timeout_ms"] = "240000"  # noqa: SIM112  its name; 30 s are few on a busy machine
    ray = pytest.importorskip("ray", reason="the group cluster is not installed")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield ray
    ray.shutdown()


def collected(ray: Any, dataset: Any) -> pyarrow.Table:
    tables = [table for table in ray.get(dataset.to_arrow_refs()) if table.num_rows]
    return pyarrow.concat_tables(tables).sort_by(KEYS)


@pytest.mark.parametrize("partitions", [2, 8])
def test_ray_groups(partitions: int, ray: Any, scorer: Any, expected: pyarrow.Table) -> None:
    grouped = ray.data.from_arrow(readings()).groupby("sensor", num_partitions=partitions)
    assert collected(ray, grouped.map_groups(scorer, batch_format="pyarrow")).equals(expected)
