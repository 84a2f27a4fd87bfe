"""Ray on this machine gives the bytes of `keepdrop predict`, also where a worker is killed in the middle.

It starts a cluster of its own, which takes longer than all tests of the scorer: `scripts/test -m nightly`.
"""

from __future__ import annotations

import os
import signal
import sys
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


class KilledOnce:
    """A scorer whose process is killed the first time, as by a kernel that is out of memory."""

    __name__ = "killed_once"

    def __init__(self, scorer: Any, marker: Path) -> None:
        self.scorer = scorer
        self.marker = str(marker)

    def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
        if not os.path.exists(self.marker):
            open(self.marker, "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.scorer(table)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_agent_register_timeout_ms"] = "240000"  # noqa: SIM112  its name; 30 s are few on a busy machine
    ray = pytest.importorskip("ray", reason="the group cluster is not installed")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not have this file
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


def test_ray_with_a_worker_that_is_killed(ray: Any, scorer: Any, expected: pyarrow.Table, tmp_path: Path) -> None:
    killed = KilledOnce(scorer, tmp_path / "killed")
    grouped = ray.data.from_arrow(readings()).groupby("sensor", num_partitions=2)
    assert collected(ray, grouped.map_groups(killed, batch_format="pyarrow")).equals(expected)
    assert (tmp_path / "killed").exists()
