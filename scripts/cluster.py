"""Engines: 40 series of readings in 16 Parquet files, scored by Ray and by Spark: are the bytes those of predict?

    scripts/cluster                    # 200,000 readings, 2 and 8 partitions, and 8 with a worker that is killed
    scripts/cluster --lines 500        # of each series; 5,000 by default
    scripts/cluster spark              # this engine only

Exit code 1 where an engine's answers are other bytes.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.compute
import pyarrow.parquet

import keepdrop
from keepdrop.artifact.metadata import TABLE_KEY
from keepdrop.artifact.properties import with_properties
from keepdrop.scoring import Scorer, dotless

FORECASTER = Path(__file__).parents[1] / "tests" / "runtime" / "data" / "forecaster.onnx"
TABLE = keepdrop.Table(
    ["north", "south"], {"target": "north", "ahead": 1}, {"column": "time", "step": "1min"}, id="sensor"
)
SERIES, FILES = 40, 16
LEVEL, SAMPLES = 0.9, 50
# Which series' worker is killed: one of the middle.
KILLED = f"s{SERIES // 2}"
# Partitions of the engine, and whether a worker is killed.
RUNS = ((2, False), (8, False), (8, True))

Scoring = Callable[[pyarrow.Table], pyarrow.Table]
Job = Callable[[Path, Scoring, Scorer, int, Path], None]
"""Scores the files of a folder, with the schema that the scorer tells, in so many partitions, into another folder."""


def artifact(path: Path) -> None:
    """A small LSTM that knows its table, calibrated on rows that are its own predictions and noise."""
    path.write_bytes(with_properties(FORECASTER.read_bytes(), {TABLE_KEY: TABLE.to_json()}))
    model = keepdrop.load(path)
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 5, 2)).astype(np.float32)  # [B, T, features]
    truths = model.predict(x).mean + 0.1 * rng.standard_normal((200, 1))
    path.write_bytes(keepdrop.calibrate(model, x, truths).to_bytes())


def readings(folder: Path, lines: int) -> None:
    """So many lines of each series, in files by slices of time, as they are collected."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    when = np.datetime64("2025-01-01T00:00", "us") + np.arange(lines) * np.timedelta64(1, "m")
    for number, part in enumerate(np.array_split(when, FILES)):
        count = len(part) * SERIES
        table = pyarrow.table(
            {
                "sensor": [f"s{i}" for i in range(SERIES)] * len(part),
                "time": np.repeat(part, SERIES),
                "north": rng.standard_normal(count).astype(np.float32),
                "south": rng.standard_normal(count),
            }
        )
        pyarrow.parquet.write_table(table, folder / f"slice-{number:02}.parquet")


def killed_once(scorer: Scorer, marker: str) -> Scoring:
    """The scorer, whose process is killed with the first table of `KILLED`, as by a kernel that is out of memory."""

    def scored(table: pyarrow.Table) -> pyarrow.Table:
        if table["sensor"][0].as_py() == KILLED:
            with contextlib.suppress(FileExistsError):
                open(marker, "x").close()
                os.kill(os.getpid(), signal.SIGKILL)
        return scorer(table)

    return scored


@contextlib.contextmanager
def on_ray(scratch: Path) -> Iterator[Job]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", _temp_dir=str(scratch))
    logging.getLogger("ray.data").setLevel("ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False

    def job(source: Path, scoring: Scoring, scorer: Scorer, partitions: int, out: Path) -> None:
        grouped = ray.data.read_parquet(str(source)).groupby("sensor", num_partitions=partitions)
        grouped.map_groups(scoring, batch_format="pyarrow").write_parquet(str(out))

    try:
        yield job
    finally:
        ray.shutdown()


@contextlib.contextmanager
def on_spark(scratch: Path) -> Iterator[Job]:
    from pyspark.sql import SparkSession

    # A task may fail twice: what is killed is scored again, as on a cluster. Alone on its machine it may not.
    builder = SparkSession.builder.master("local[2,3]").config("spark.local.dir", str(scratch))
    builder = builder.config("spark.ui.showConsoleProgress", "false").config("spark.ui.enabled", "false")
    builder = (
        builder.config("spark.driver.memory", "2g")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
    )
    # As many partitions as are asked for, however small.
    builder = builder.config("spark.sql.adaptive.enabled", "false")
    session = builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()
    session.sparkContext.setLogLevel("OFF")  # it tells of what is killed

    def job(source: Path, scoring: Scoring, scorer: Scorer, partitions: int, out: Path) -> None:
        session.conf.set("spark.sql.shuffle.partitions", str(partitions))
        frame = session.read.parquet(str(source))
        frame.groupBy("sensor").applyInArrow(scoring, scorer.schema(frame.schema)).write.parquet(str(out))

    try:
        yield job
    finally:
        session.stop()


ENGINES = {"ray": on_ray, "spark": on_spark}


def missing(engine: str) -> str | None:
    """What an engine lacks here."""
    package = "pyspark" if engine == "spark" else engine
    if importlib.util.find_spec(package) is None:
        return f"{package} is not installed"
    if engine == "spark" and shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        return "there is no Java"
    return None


def predicted(path: Path, source: Path, out: Path) -> pyarrow.Table:
    """What the command writes."""
    command = [Path(sys.executable).with_name("keepdrop"), "predict", path, source, "--order=time", "-o", out]
    subprocess.run([*command, f"--interval={LEVEL}", f"--samples={SAMPLES}"], check=True, stdout=subprocess.DEVNULL)
    return pyarrow.parquet.read_table(out)


def ordered(table: pyarrow.Table) -> pyarrow.Table:
    """By series and time, the columns by their names without dots."""
    table = table.rename_columns([dotless(name) for name in table.column_names])
    return table.sort_by([("sensor", "ascending"), ("time", "ascending")]).combine_chunks()


def equal_bytes(found: pyarrow.Table, expected: pyarrow.Table) -> bool:
    """Whether two tables have the same columns, of the same types, and in them the same bytes (-0.0 is not 0.0)."""
    found = found.select([name for name in expected.column_names if name in found.column_names])
    if found.schema.names != expected.schema.names or found.schema.types != expected.schema.types:
        return False
    return all(
        np.asarray(ours).tobytes() == np.asarray(theirs).tobytes() if ours.type != pyarrow.string() else ours == theirs
        for ours, theirs in zip(found.columns, expected.columns, strict=True)
    )


def check_comparison(path: Path, source: Path, expected: pyarrow.Table) -> None:
    """That another seed would be noticed, of one series."""
    one = expected.filter(pyarrow.compute.equal(expected["sensor"], KILLED)).combine_chunks()
    lines = pyarrow.parquet.read_table(source, filters=[("sensor", "=", KILLED)])
    for seed in (0, 1):
        found = ordered(keepdrop.scorer(path, interval=LEVEL, samples=SAMPLES, seed=seed)(lines))
        if equal_bytes(found, one) != (seed == 0):
            raise AssertionError(
                f"the comparison takes answers of seed {seed} for {'other' if seed == 0 else 'the same'} ones"
            )


def scored(engine: str, source: Path, scorer: Scorer, expected: pyarrow.Table, folder: Path) -> bool:
    """A line of the table for each run of an engine; whether all were the same bytes."""
    same = []
    with ENGINES[engine](folder / "scratch") as job:
        for partitions, killed in RUNS:
            out, marker = folder / f"{engine}-{partitions}-{killed}", folder / f"{engine}-killed"
            began = time.monotonic()
            job(source, killed_once(scorer, str(marker)) if killed else scorer, scorer, partitions, out)
            seconds = time.monotonic() - began
            if killed and not marker.exists():
                raise AssertionError(f"no worker of {engine} was killed")
            same.append(equal_bytes(ordered(pyarrow.parquet.read_table(out)), expected))
            row(engine, partitions, "yes" if killed else "no", f"{seconds:.0f}", "yes" if same[-1] else "NO")
    return all(same)


def row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/cluster", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("engines", nargs="*", metavar="ENGINE", help=f"of {', '.join(ENGINES)}; by default both")
    parser.add_argument("--lines", type=int, default=5_000, metavar="N", help="of each series (default: 5000)")
    given = parser.parse_args()
    unknown = [name for name in given.engines if name not in ENGINES]
    if unknown:
        parser.error(f"there is no engine {unknown[0]!r}; engines are {', '.join(ENGINES)}")
    os.environ["PYSPARK_PYTHON"] = sys.executable
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        path, source = folder / "calibrated.onnx", folder / "readings"
        artifact(path)
        readings(source, given.lines)
        scorer = keepdrop.scorer(path, interval=LEVEL, samples=SAMPLES)
        row("with", "partitions", "a worker is killed", "seconds", "bytes of `predict`")
        print("|---|---|---|---|---|")
        began = time.monotonic()
        expected = ordered(predicted(path, source, folder / "predicted.parquet"))
        row("`keepdrop predict`", "", "", f"{time.monotonic() - began:.0f}", f"{expected.num_rows:,} answers")
        check_comparison(path, source, expected)
        same = []
        for engine in given.engines or ENGINES:
            lacking = missing(engine)
            if lacking:
                print(f"{engine}: not tried, {lacking}", file=sys.stderr)
            else:
                same.append(scored(engine, source, scorer, expected, folder))
    return int(not all(same))


if __name__ == "__main__":
    sys.exit(main())
