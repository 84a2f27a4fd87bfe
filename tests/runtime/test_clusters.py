"""Ray and Spark on this machine give the bytes of `keepdrop predict`, also where a worker is killed in the middle.

Each starts a cluster of its own, which takes longer than all tests of the scorer: `scripts/test -m nightly`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
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


def made_scorer(seed: int = 0) -> Any:
    return keepdrop.scorer(FORECASTER, columns=("a", "b"), window=5, id="sensor", time="when", interval=0.9, seed=seed)


@pytest.fixture(scope="module")
def scorer() -> Any:
    return made_scorer()


@pytest.fixture(scope="module")
def expected(scorer: Any) -> pyarrow.Table:
    """In this process; tests of the scorer compare that with the command."""
    return scorer(readings()).sort_by(KEYS)


def test_another_seed_would_be_seen(expected: pyarrow.Table) -> None:
    assert not made_scorer(seed=1)(readings()).sort_by(KEYS).equals(expected)


def killed_once(scorer: Any, marker: str) -> Callable[[pyarrow.Table], pyarrow.Table]:
    """A scorer whose process is killed the first time, as by a kernel that is out of memory."""

    def scored(table: pyarrow.Table) -> pyarrow.Table:
        if not os.path.exists(marker):
            open(marker, "x").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return scorer(table)

    return scored


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
    killed = killed_once(scorer, str(tmp_path / "killed"))
    grouped = ray.data.from_arrow(readings()).groupby("sensor", num_partitions=2)
    assert collected(ray, grouped.map_groups(killed, batch_format="pyarrow")).equals(expected)
    assert (tmp_path / "killed").exists()


@pytest.fixture(scope="module")
def spark() -> Iterator[Any]:
    pyspark = pytest.importorskip("pyspark", reason="the group cluster is not installed")
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("there is no Java, which Spark needs")
    from pyspark.sql import SparkSession

    pyspark.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers do not have this file
    options = {
        "spark.driver.memory": "512m",
        # Not the address that the machine's name has, which need not be one that anything reaches.
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.sql.session.timeZone": "UTC",
        # As many partitions as are asked for, however small.
        "spark.sql.adaptive.enabled": "false",
        # Several batches of a series.
        "spark.sql.execution.arrow.maxRecordsPerBatch": "16",
    }
    # A task may fail twice: what was killed is run again, as on a cluster. Alone on its machine it may not by default.
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYSPARK_PYTHON", sys.executable)  # the workers', by default the `python3` of the path
        session = SparkSession.builder.master("local[2,3]").config(map=options).getOrCreate()
        session.sparkContext.setLogLevel("OFF")  # it tells at length of what is killed
        yield session
        session.stop()


def answers_of_spark(spark: Any, scorer: Any, partitions: int, scoring: Any) -> pyarrow.Table:
    spark.conf.set("spark.sql.shuffle.partitions", str(partitions))
    frame = spark.createDataFrame(readings())
    found = frame.groupBy("sensor").applyInArrow(scoring, scorer.schema(frame.schema)).toArrow().sort_by(KEYS)
    # A timestamp of Spark is one of UTC.
    return found.cast(found.schema.set(1, pyarrow.field("when", pyarrow.timestamp("us"))))


@pytest.mark.parametrize("partitions", [2, 8])
def test_spark_groups(partitions: int, spark: Any, scorer: Any, expected: pyarrow.Table) -> None:
    assert answers_of_spark(spark, scorer, partitions, scorer).equals(expected)


def test_spark_with_batches(spark: Any, scorer: Any, expected: pyarrow.Table) -> None:
    frame = spark.createDataFrame(readings())
    ordered = frame.repartition(2, "sensor").sortWithinPartitions("sensor", "when")
    found = ordered.mapInArrow(scorer.batches, scorer.schema(frame.schema)).toArrow().sort_by(KEYS)
    assert found.drop_columns(["when"]).equals(expected.drop_columns(["when"]))


def test_spark_with_a_worker_that_is_killed(spark: Any, scorer: Any, expected: pyarrow.Table, tmp_path: Path) -> None:
    killed = killed_once(scorer, str(tmp_path / "killed"))
    assert answers_of_spark(spark, scorer, 2, killed).equals(expected)
    assert (tmp_path / "killed").exists()
