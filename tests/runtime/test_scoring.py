"""A scorer answers what `keepdrop predict` answers, bit for bit, whatever the tables it is called with."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import multiprocessing
import os
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner

import keepdrop
from keepdrop import cli, scoring
from keepdrop.artifact.metadata import TABLE_KEY
from keepdrop.artifact.properties import with_properties

FORECASTER = Path(__file__).parent / "data" / "forecaster.onnx"
TABLE = keepdrop.Table(
    ["north", {"column": "south", "unit": "°C"}],
    {"target": "north", "ahead": 1},
    {"column": "when", "step": "1h"},
    id="sensor",
)
SENSORS = ["attic", "007", "7", "roof", "-3"]
LINES = 12
START = np.datetime64("2025-03-30T00:00", "us")
# Lines are those of a file as it grows: by time, the sensors interleaved.
OPTIONS = {"columns": ("north", "south"), "window": 5, "id": "sensor", "time": "when"}


def readings(lines: int = LINES) -> pyarrow.Table:
    rng = np.random.default_rng(3)
    count = lines * len(SENSORS)
    return pyarrow.table(
        {
            "site": [f"{name}-site" for name in SENSORS] * lines,
            "when": np.repeat(START + np.arange(lines) * np.timedelta64(1, "h"), len(SENSORS)),
            "north": rng.standard_normal(count).astype(np.float32),
            "sensor": SENSORS * lines,
            "south": rng.standard_normal(count),
            "number": np.arange(count),
        }
    )


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    path = tmp_path / "declared.onnx"
    path.write_bytes(with_properties(FORECASTER.read_bytes(), {TABLE_KEY: TABLE.to_json()}))
    return path


def predicted(folder: Path, artifact: Path, table: pyarrow.Table, *options: str) -> pyarrow.Table:
    """What the command writes of a table in a file."""
    pyarrow.parquet.write_table(table, folder / "readings.parquet")
    command = ["predict", str(artifact), str(folder / "readings.parquet"), "-o", str(folder / "answers.parquet")]
    result = CliRunner().invoke(cli.main, [*command, *options])
    assert result.exit_code == 0, result.output
    return pyarrow.parquet.read_table(folder / "answers.parquet")


def shuffled(table: pyarrow.Table) -> pyarrow.Table:
    return table.take(np.random.default_rng(1).permutation(table.num_rows))


def of(table: pyarrow.Table, *names: str) -> pyarrow.Table:
    return table.filter(pyarrow.compute.is_in(table["sensor"], pyarrow.array(names)))


# Tables as engines give them: a series each, several, all of them in no order, and one series in record batches.
PARTITIONS = {
    "a series each": lambda table: [of(table, name) for name in SENSORS],
    "a series each, shuffled": lambda table: [shuffled(of(table, name)) for name in reversed(SENSORS)],
    "two": lambda table: [shuffled(of(table, *SENSORS[:3])), of(table, *SENSORS[3:])],
    "one": lambda table: [shuffled(table)],
    "chunked": lambda table: [pyarrow.concat_tables([of(table, n).slice(i, 1) for n in SENSORS for i in range(LINES)])],
}


def same(found: pyarrow.Table, expected: pyarrow.Table, time: str = "when") -> None:
    """That the answers are the same bytes, column by column, in the order of series and time."""
    keys = [("sensor", "ascending"), (time, "ascending")] if time != "row" else [("row", "ascending")]
    assert found.num_rows == expected.num_rows
    found, expected = found.sort_by(keys), expected.sort_by(keys)
    compared = 0
    for name in expected.column_names:
        if name in ("sensor", "position", time):
            continue
        ours, theirs = (np.asarray(t.column(n)) for t, n in ((found, scoring.dotless(name)), (expected, name)))
        assert (ours.dtype, ours.tobytes()) == (theirs.dtype, theirs.tobytes()), name
        compared += 1
    assert compared >= 4


@pytest.mark.parametrize("partitions", PARTITIONS)
def test_windows_of_given_columns(partitions: str, tmp_path: Path) -> None:
    scorer = keepdrop.scorer(FORECASTER, **OPTIONS, keep=["site", "number"], interval=(0.9, 0.975))
    expected = predicted(
        tmp_path, FORECASTER, readings(), "--columns=north,south", "--window=5", "--id=sensor", "--order=when",
        "--interval=0.9", "--interval=0.975",
    )  # fmt: skip
    found = pyarrow.concat_tables([scorer(part) for part in PARTITIONS[partitions](readings())])
    assert found.column_names[:5] == ["sensor", "when", "site", "number", "row"]
    assert {"forecast_low_90", "forecast_high_97_5"} <= set(found.column_names)
    texts = np.datetime_as_string(found["when"], unit="s").tolist()
    same(found.set_column(1, "when", pyarrow.array(texts)), expected)
    # What is kept is that of the window's last line.
    lines = readings().to_pylist()
    for row in found.to_pylist():
        assert row["site"] == f"{row['sensor']}-site"
        assert lines[row["number"]]["when"] == row["when"] and lines[row["number"]]["sensor"] == row["sensor"]


@pytest.mark.parametrize("partitions", PARTITIONS)
def test_a_table_in_the_artifact_says_it_all(partitions: str, declared: Path, tmp_path: Path) -> None:
    scorer = keepdrop.scorer(declared, interval=0.9, keep="site")
    expected = predicted(tmp_path, declared, readings(), "--order=when", "--interval=0.9")
    found = pyarrow.concat_tables([scorer(part) for part in PARTITIONS[partitions](readings())])
    assert found.column_names == ["sensor", "site", "time", "north_mean", "north_std", "north_low_90", "north_high_90"]
    same(found, expected, "time")
    assert found["time"].to_numpy().min() == START + np.timedelta64(5, "h")  # a step after the first window


def test_half_a_series_would_be_seen(declared: Path, tmp_path: Path) -> None:
    scorer = keepdrop.scorer(declared, interval=0.9)
    expected = predicted(tmp_path, declared, readings(), "--order=when", "--interval=0.9")
    half = readings().num_rows // 2
    cut = pyarrow.concat_tables([scorer(readings().slice(0, half)), scorer(readings().slice(half))])
    with pytest.raises(AssertionError):
        same(cut, expected, "time")
    other = keepdrop.scorer(declared, interval=0.9, seed=1)
    with pytest.raises(AssertionError):
        same(other(readings()), expected, "time")


def test_lines_without_windows_go_by_their_ids(three: Path, tmp_path: Path) -> None:
    """Classes, means and their noise, of whatever cut; and without an id there is no scorer."""
    rng = np.random.default_rng(0)
    table = pyarrow.table({**{name: rng.standard_normal(40) for name in "abc"}, "sensor": np.arange(40) * 7})
    expected = predicted(tmp_path, three, table, "--columns=a,b,c", "--id=sensor", "--interval=0.5")
    scorer = keepdrop.scorer(three, columns=("a", "b", "c"), id="sensor", interval=0.5)
    for cuts in ([0, 40], [0, 1, 2, 19, 40]):
        parts = [shuffled(table).slice(a, b - a) for a, b in zip(cuts, cuts[1:], strict=False)]
        found = pyarrow.concat_tables([scorer(part) for part in parts])
        same(found, expected, "row")
    assert {"mood_top", "level_aleatoric_0", "mood_low_50_2"} <= set(found.column_names)
    assert not scorer.takes_series
    with pytest.raises(keepdrop.InputError, match="no row id; name the column of ids"):
        keepdrop.scorer(three, columns=("a", "b", "c"))
    with pytest.raises(keepdrop.InputError, match="give columns="):
        keepdrop.scorer(three, id="sensor")


def test_batches_are_joined_and_series_stay_whole(declared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer = keepdrop.scorer(declared, interval=0.9)
    table = readings().sort_by([("sensor", "ascending"), ("when", "ascending")])
    whole = scorer(table)
    monkeypatch.setattr(scoring, "AT_ONCE", 20)
    calls = []
    called = scoring.Scorer.__call__
    monkeypatch.setattr(scoring.Scorer, "__call__", lambda self, part: calls.append(part) or called(self, part))
    for size in (1, 7, 60):
        calls.clear()
        found = list(scorer.batches(table.to_batches(max_chunksize=size)))
        assert all(isinstance(part, pyarrow.RecordBatch) for part in found)
        same(pyarrow.Table.from_batches(found), whole, "time")
        assert len(calls) <= 5
    assert list(scorer.batches([])) == []
    same(pyarrow.concat_tables(scorer.batches([table.slice(0, 30), table.slice(30)])), whole, "time")
    with pytest.raises(keepdrop.InputError, match="comes again after another one.*sort it by that and time"):
        list(scorer.batches(readings().to_batches(max_chunksize=7)))


def test_batches_of_lines_are_joined(three: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = pyarrow.table({**{name: np.arange(50.0) for name in "abc"}, "sensor": np.arange(50)})
    scorer = keepdrop.scorer(three, columns=("a", "b", "c"), id="sensor")
    monkeypatch.setattr(scoring, "AT_ONCE", 20)
    found = list(scorer.batches(table.to_batches(max_chunksize=9)))
    assert [batch.num_rows for batch in found] == [27, 23]
    same(pyarrow.Table.from_batches(found), scorer(table), "row")


def _scored(given: tuple[bytes, pyarrow.Table]) -> tuple[int, int, pyarrow.Table]:
    """In a worker: its process, how many artifacts it has open, and the answers."""
    found = pickle.loads(given[0])(given[1])
    return os.getpid(), len(scoring._MODELS), found


def test_a_pickle_goes_to_processes_that_open_it_once(declared: Path, tmp_path: Path) -> None:
    scorer = keepdrop.scorer(declared, interval=0.9)
    pickled = pickle.dumps(scorer)
    assert str(tmp_path).encode() not in pickled and declared.name.encode() not in pickled
    assert len(pickled) < len(declared.read_bytes()) + 2_000
    expected = predicted(tmp_path, declared, readings(), "--order=when", "--interval=0.9")
    declared.unlink()  # the workers are on other machines
    parts = [of(readings(), name) for name in SENSORS]
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        found = list(pool.map(_scored, [(pickled, part) for part in parts]))
    assert all(pid != os.getpid() and open == 1 for pid, open, _ in found)
    same(pyarrow.concat_tables([answers for _, _, answers in found]), expected, "time")


def test_a_pickle_has_no_count_of_this_machine(declared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = pickle.dumps(keepdrop.scorer(declared)), pickle.dumps(keepdrop.load(declared))
    monkeypatch.setattr("keepdrop.run.device.available_threads", lambda: 7)
    monkeypatch.setattr("keepdrop.model.available_threads", lambda: 7)
    assert (pickle.dumps(keepdrop.scorer(declared)), pickle.dumps(keepdrop.load(declared))) == here
    assert pickle.dumps(keepdrop.scorer(declared, threads=2)) != here[0]


def test_a_damaged_scorer_is_refused(declared: Path) -> None:
    made = keepdrop.scorer(declared)
    _, (content, _, asked) = made.__reduce__()
    with pytest.raises(keepdrop.ArtifactError, match="damaged"):
        scoring.Scorer(content, "0" * 64, asked)(readings())


def test_calibrated_and_learning_from_the_truths(declared: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    model = keepdrop.load(declared, threads=1)
    x = rng.standard_normal((60, 5, 2)).astype(np.float32)
    truths = model.predict(x).mean + 0.1 * rng.standard_normal((60, 1))
    calibrated = keepdrop.calibrate(model, x, truths)
    path = tmp_path / "calibrated.onnx"
    path.write_bytes(calibrated.to_bytes())
    table = readings(60)
    answers = {}
    for adapt in (False, True):
        options = ["--order=when", "--interval=0.8", "--above=0.5", *(["--adapt"] if adapt else [])]
        expected = predicted(tmp_path, path, table, *options)
        for artifact in (path, calibrated):
            scorer = keepdrop.scorer(artifact, interval=0.8, above=0.5, adapt=adapt)
            answers[adapt] = pyarrow.concat_tables([scorer(shuffled(of(table, name))) for name in SENSORS])
            same(answers[adapt], expected, "time")
    assert "north_above_0_5" in answers[True].column_names
    with pytest.raises(AssertionError):
        same(answers[True], answers[False], "time")
    with pytest.raises(keepdrop.InputError, match="adapt= is for calibrated artifacts"):
        keepdrop.scorer(declared, adapt=True)


def test_what_is_refused_names_the_series(declared: Path) -> None:
    scorer = keepdrop.scorer(declared)
    attic = of(readings(), "attic")

    def refused(table: Any) -> str:
        with pytest.raises(keepdrop.InputError) as caught:
            scorer(table)
        return str(caught.value)

    gap = pyarrow.concat_tables([attic.slice(0, 6), attic.slice(7)])
    assert refused(gap).startswith("the table of sensor 'attic', row 6 (from 0), column 'when': 2025-03-30T07:00")
    twice = pyarrow.concat_tables([attic, attic.slice(3, 1)])
    assert "the table of sensor 'attic': lines 3 and 12 of 'attic' are both of 2025-03-30T03:00:00" in refused(twice)
    when = attic["when"].to_pylist()
    lacking = attic.set_column(1, "when", pyarrow.array([None, *when[1:]], pyarrow.timestamp("us")))
    assert "row 0 (from 0), column 'when' is empty" in refused(lacking)
    empty = attic.set_column(2, "north", pyarrow.array([1.0, None, *[2.0] * 10]))
    assert "row 1 (from 0), column 'north' is empty" in refused(empty)
    nameless = attic.set_column(3, "sensor", pyarrow.array([None] * LINES, pyarrow.string()))
    assert "column 'sensor' holds ''; ids are integers or text" in refused(nameless)
    converted = attic.cast(attic.schema.set(4, attic.schema.field("south").with_metadata({"unit": "°F"})))
    assert "column 'south' is in °F, and the model was trained on °C" in refused(converted)
    assert "has no column 'sensor'" in refused(attic.drop_columns(["sensor"]))
    assert 'batch_format="pyarrow"' in refused(attic.to_pandas())
    with pytest.raises(keepdrop.InputError, match="windows need their order; name the column of times by time="):
        keepdrop.scorer(FORECASTER, columns=("north", "south"), window=5, id="sensor")
    with pytest.raises(keepdrop.InputError, match="no rule for missing values"):
        keepdrop.scorer(FORECASTER, **OPTIONS, missing="maybe")
    with pytest.raises(keepdrop.InputError, match="has no column 'sit'"):
        keepdrop.scorer(declared, keep=["sit"])(readings())


def test_missing_values_are_answered_by_the_rule(declared: Path, tmp_path: Path) -> None:
    table = readings()
    values = table["south"].to_pylist()
    values[33] = None
    table = table.set_column(4, "south", pyarrow.array(values, pyarrow.float64()))
    for rule in ("skip", "hold 2"):
        expected = predicted(tmp_path, declared, table, "--order=when", "--interval=0.9", f"--missing={rule}")
        found = keepdrop.scorer(declared, missing=rule, interval=0.9)(shuffled(table))
        assert found.schema.field("reason").type == pyarrow.string()
        kept = [name for name in expected.column_names if name != "reason"]
        same(found.drop_columns(["reason"]), expected.select(kept), "time")
        reasons = [text for text in found["reason"].to_pylist() if text]
        assert len(reasons) == (5 if rule == "skip" else 0)


@pytest.mark.parametrize("kind", ["us", "ns", "zoned", "text", "text with offset"])
def test_the_schema_is_that_of_the_answers(kind: str, declared: Path) -> None:
    when = readings()["when"]
    times = {
        "us": when,
        "ns": when.cast(pyarrow.timestamp("ns")),
        "zoned": when.cast(pyarrow.timestamp("ms")).cast(pyarrow.timestamp("ms", "Europe/Berlin")),
        "text": pyarrow.array(np.datetime_as_string(when.to_numpy(), unit="s").tolist()),
        "text with offset": pyarrow.array([f"{t}Z" for t in np.datetime_as_string(when.to_numpy(), unit="s")]),
    }[kind]
    table = readings().set_column(1, "when", times)
    scorer = keepdrop.scorer(declared, keep=["site", "number", "when"])
    answers = scorer(table)
    few = scorer(of(table, "attic").slice(0, 4))  # fewer than a window
    assert (few.num_rows, few.schema) == (0, answers.schema)
    assert answers.schema.field("time").type == pyarrow.timestamp("us", "UTC" if "o" in kind else None)
    if "text" in kind:
        with pytest.raises(keepdrop.InputError, match="make timestamps of it first"):
            scorer.schema(table.schema)
    else:
        assert scorer.schema(table.schema) == answers.schema
        assert scorer(table.slice(0, 0)).schema == answers.schema


def test_dictionaries_and_integers_as_ids(declared: Path) -> None:
    scorer = keepdrop.scorer(declared)
    table = readings()
    coded = table.set_column(3, "sensor", table["sensor"].dictionary_encode())
    assert scorer(coded).equals(scorer(table)) and scorer.schema(coded.schema) == scorer(table).schema
    seven = of(table, "7")
    integers = seven.set_column(3, "sensor", pyarrow.array([7] * LINES, pyarrow.int32()))
    assert scorer(integers)["north_mean"].equals(scorer(seven)["north_mean"])
    assert scorer(integers).schema.field("sensor").type == pyarrow.int32()


def test_the_schema_for_spark_is_its_text(declared: Path) -> None:
    kinds = {"site": "string", "when": "timestamp", "north": "float", "sensor": "bigint", "south": "double"}
    fields = [SimpleNamespace(name=n, dataType=SimpleNamespace(simpleString=lambda k=k: k)) for n, k in kinds.items()]
    fields.append(SimpleNamespace(name="tags", dataType=SimpleNamespace(simpleString=lambda: "array<string>")))
    scorer = keepdrop.scorer(declared, keep=["site", "tags"], interval=0.95)
    assert scorer.schema(SimpleNamespace(fields=fields, fieldNames=lambda: None)) == (
        "`sensor` bigint, `site` string, `tags` array<string>, `time` timestamp, `north_mean` float, "
        "`north_std` float, `north_low_95` float, `north_high_95` float"
    )


@pytest.mark.parametrize(
    ("column", "name"),
    [
        ("y_low_0.9", "y_low_90"),
        ("y_high_0.975_2", "y_high_97_5_2"),
        ("y_set_0.05", "y_set_5"),
        ("y_above_72.5", "y_above_72_5"),
        ("y.z_mean", "y_z_mean"),
        ("y_mean", "y_mean"),
    ],
)
def test_names_without_dots(column: str, name: str) -> None:
    assert scoring.dotless(column) == name


def test_names_and_representation(declared: Path) -> None:
    scorer = keepdrop.scorer(declared, samples=7)
    assert scorer.__name__ == "keepdrop_scorer"
    assert repr(scorer) == f"Scorer({scorer.sha256[:12]}, id='sensor', 7 samples)"
    assert repr(pickle.loads(pickle.dumps(scorer))) == repr(scorer)
    clash = readings().append_column("north_mean", pyarrow.array([1] * readings().num_rows))
    assert keepdrop.scorer(declared, keep=["north_mean"])(clash).column_names[1:4] == [
        "north_mean_",
        "time",
        "north_mean",
    ]
    assert dataclasses.is_dataclass(scorer.__reduce__()[1][2])
