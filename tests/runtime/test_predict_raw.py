"""The command on raw files: whatever holds the readings, forecasts with times and units, by the artifact's table."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow.parquet
import pytest
from click.testing import CliRunner

import keepdrop
from keepdrop.cli import main
from keepdrop.table import Table

from . import table_toys as toys
from .test_predict_table import AFTER, EXPECTED, HOURS, SERIES, TABLE, TEMP, N, frame

HORIZON = Table(
    [{"column": "temp", "unit": "°F"}, {"cyclic": "hour"}],
    {"target": "temp", "unit": "°F", "ahead": "1..3"},
    {"column": "date", "step": "1h"},
)


def run(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exit_code == code, done.output
    return done.output


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return toys.write(tmp_path / "toy.onnx", TABLE)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "sensors.csv"
    frame()[["hum", "date", "temp"]].to_csv(path, index=False)
    return path


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_raw_file_becomes_forecasts_with_times_and_units(artifact: Path, raw: Path, tmp_path: Path) -> None:
    said = run("predict", artifact, raw, "-o", tmp_path / "out.csv", "--interval", "0.9")
    found = rows(tmp_path / "out.csv")
    names = ["temp_mean [°F]", "temp_std [°F]", "temp_low_0.9 [°F]", "temp_high_0.9 [°F]"]
    assert list(found[0]) == ["time", *names]
    assert [row["time"] for row in found] == [str(time) for time in AFTER.astype("datetime64[s]")]
    np.testing.assert_allclose([float(row[names[0]]) for row in found], EXPECTED, rtol=1e-5)
    assert "columns: temp" in said
    run("predict", artifact, raw, "-o", tmp_path / "plain.csv", "--no-units")
    assert list(rows(tmp_path / "plain.csv")[0]) == ["time", "temp_mean", "temp_std"]


WRITERS = {
    "semicolon.csv": lambda data, path: data.to_csv(path, index=False, sep=";", decimal=","),
    "packed.csv.gz": lambda data, path: data.to_csv(path, index=False),
    "lines.jsonl": lambda data, path: data.assign(date=data.date.astype(str)).to_json(
        path, orient="records", lines=True
    ),
    "table.parquet": lambda data, path: data.to_parquet(path),
    "index.parquet": lambda data, path: data.set_index("date").to_parquet(path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_other_formats_of_the_same_readings(name: str, artifact: Path, tmp_path: Path) -> None:
    WRITERS[name](frame(), tmp_path / name)
    run("predict", artifact, tmp_path / name, "-o", tmp_path / "out.jsonl")
    found = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    np.testing.assert_allclose([row["temp_mean"] for row in found], EXPECTED, rtol=1e-5)
    assert list(found[0]) == ["time", "temp_mean", "temp_std", "temp_unit"] and found[0]["temp_unit"] == "°F"
    assert found[0]["time"] == str(AFTER[0].astype("datetime64[s]"))


def test_parquet_has_units_and_zones_in_its_fields(artifact: Path, tmp_path: Path) -> None:
    frame().assign(date=pandas.DatetimeIndex(HOURS, tz="UTC")).to_parquet(tmp_path / "in.parquet")
    run("predict", artifact, tmp_path / "in.parquet", "-o", tmp_path / "out.parquet")
    schema = pyarrow.parquet.read_schema(tmp_path / "out.parquet")
    assert schema.field("temp_mean").metadata[b"unit"] == "°F".encode()
    assert schema.field("time").type.tz == "UTC"
    found = pandas.read_parquet(tmp_path / "out.parquet")
    np.testing.assert_array_equal(found["time"].dt.tz_convert(None).to_numpy(), AFTER)
    run("predict", artifact, tmp_path / "in.parquet", "-o", tmp_path / "out.csv")
    first = rows(tmp_path / "out.csv")[0]
    assert "time [UTC]" in first and first["time [UTC]"].endswith("Z")


def test_parquet_in_another_unit_is_refused(artifact: Path, tmp_path: Path) -> None:
    table = pyarrow.Table.from_pandas(frame())
    fields = [f.with_metadata({"unit": "°C"}) if f.name == "temp" else f for f in table.schema]
    pyarrow.parquet.write_table(table.cast(pyarrow.schema(fields)), tmp_path / "in.parquet")
    said = run("predict", artifact, tmp_path / "in.parquet", "-o", tmp_path / "out.csv", code=1)
    assert "column 'temp' is in °C, and the model was trained on °F" in said


def test_a_horizon_long_wide_and_from_now_on(raw: Path, tmp_path: Path) -> None:
    artifact = toys.write(tmp_path / "toy.onnx", HORIZON, steps=3)
    run("predict", artifact, raw, "-o", tmp_path / "long.csv")
    long = rows(tmp_path / "long.csv")
    assert list(long[0])[:3] == ["time", "ahead", "temp_mean [°F]"] and len(long) == 3 * len(AFTER)
    run("predict", artifact, raw, "-o", tmp_path / "wide.csv", "--wide")
    wide = rows(tmp_path / "wide.csv")
    assert len(wide) == len(AFTER) and wide[0]["temp_mean_2 [°F]"] == long[1]["temp_mean [°F]"]
    run("predict", artifact, raw, "-o", tmp_path / "now.npz", "--last", "--keep-samples")
    now = np.load(tmp_path / "now.npz")
    assert now["time"].tolist() == (HOURS[-1] + np.arange(1, 4) * np.timedelta64(1, "h")).tolist()
    assert now["temp_samples"].shape == (5, 1, 3)
    np.testing.assert_allclose(now["temp_mean"], now["temp_samples"].mean(axis=0)[0])
    run("predict", artifact, raw, "-o", tmp_path / "figures.npz", "--last")
    assert set(now) - set(np.load(tmp_path / "figures.npz")) == {"temp_samples"}


def test_parts_and_resumed_runs_are_the_whole(artifact: Path, raw: Path, tmp_path: Path) -> None:
    run("predict", artifact, raw, "-o", tmp_path / "whole.csv", "--batch", "2")
    for i in (1, 2, 3):
        run("predict", artifact, raw, "-o", tmp_path / f"{i}.csv", "--part", f"{i}/3", "--resume")
    parts = [(tmp_path / f"{i}.csv").read_text(encoding="utf-8").splitlines(keepends=True) for i in (1, 2, 3)]
    joined = "".join([*parts[0], *parts[1][1:], *parts[2][1:]])
    assert joined == (tmp_path / "whole.csv").read_text(encoding="utf-8")


def test_a_pipe_is_answered_in_json_lines(artifact: Path, raw: Path) -> None:
    done = CliRunner().invoke(main, ["predict", str(artifact), "-"], input=raw.read_text())
    found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    np.testing.assert_allclose([row["temp_mean"] for row in found], EXPECTED, rtol=1e-5)


def test_several_series_and_files(tmp_path: Path) -> None:
    artifact = toys.write(tmp_path / "toy.onnx", SERIES)
    parts = [frame().assign(station=name, temp=TEMP + shift) for name, shift in (("north", 0), ("south", 5))]
    pandas.concat(parts).to_csv(tmp_path / "all.csv", index=False)
    run("predict", artifact, tmp_path / "all.csv", "-o", tmp_path / "out.csv")
    found = rows(tmp_path / "out.csv")
    assert list(found[0])[:2] == ["time", "station"]
    assert [row["station"] for row in found] == ["north"] * 9 + ["south"] * 9
    mixed = pandas.concat(parts).sort_values("date", kind="stable")
    mixed.to_csv(tmp_path / "mixed.csv", index=False)
    assert "interleaved" in run("predict", artifact, tmp_path / "mixed.csv", "-o", tmp_path / "x.csv", code=1)
    run("predict", artifact, tmp_path / "mixed.csv", "-o", tmp_path / "ordered.csv", "--order", "date")
    assert rows(tmp_path / "ordered.csv") == found
    folder = tmp_path / "stations"
    folder.mkdir()
    for part, name in zip(parts, ("a.csv", "b.csv"), strict=True):
        part.to_csv(folder / name, index=False)
    run("predict", artifact, folder, "-o", tmp_path / "files.csv")
    several = rows(tmp_path / "files.csv")
    assert [{k: v for k, v in row.items() if k != "file"} for row in several] == found
    assert [row["file"] for row in several] == ["a.csv"] * 9 + ["b.csv"] * 9


def test_missing_values_by_the_command_line(artifact: Path, tmp_path: Path) -> None:
    data = frame()
    data.loc[6, "temp"] = np.nan
    data.to_csv(tmp_path / "gap.csv", index=False)
    said = run("predict", artifact, tmp_path / "gap.csv", "-o", tmp_path / "out.csv", code=1)
    assert "gap.csv, line 8, column 'temp' is empty; fill or drop such lines first" in said
    run("predict", artifact, tmp_path / "gap.csv", "-o", tmp_path / "out.csv", "--missing", "skip")
    found = rows(tmp_path / "out.csv")
    assert [row["temp_mean [°F]"] == "" for row in found] == [3 <= i <= 6 for i in range(len(found))]
    assert found[3]["reason"] == "line 8: temp is missing"
    run("predict", artifact, tmp_path / "gap.csv", "-o", tmp_path / "out.jsonl", "--missing", "hold 1")
    assert "null" not in (tmp_path / "out.jsonl").read_text()


def test_lines_that_cannot_be_read_are_passed_over_where_that_is_asked(artifact: Path, tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "in.csv", index=False)
    lines = (tmp_path / "in.csv").read_text().splitlines(keepends=True)
    lines[7] = lines[7].replace(",", ",warm", 1)
    (tmp_path / "bad.csv").write_text("".join(lines))
    assert "line 8, column 'temp'" in run("predict", artifact, tmp_path / "bad.csv", "-o", tmp_path / "x.csv", code=1)
    run("predict", artifact, tmp_path / "bad.csv", "-o", tmp_path / "out.csv", "--on-error", "skip")
    found = rows(tmp_path / "out.csv")
    assert [row["temp_mean [°F]"] == "" for row in found] == [3 <= i <= 6 for i in range(len(found))]
    assert "line 8" in found[3]["reason"]


def test_samples_are_not_dropped_in_silence(artifact: Path, raw: Path, tmp_path: Path) -> None:
    said = run("predict", artifact, raw, "-o", tmp_path / "out.jsonl", "--keep-samples", code=1)
    assert "hold no samples; write .npz with --keep-samples" in said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: data.drop(index=[5]), "line 7, column 'date': 2024-03-31T03:00:00 comes after"),
        (
            lambda data: data.iloc[::-1],
            "line 3, column 'date': 2024-03-31T07:00:00 comes after 2024-03-31T08",
        ),
        (
            lambda data: data.rename(columns={"temp": "temperature"}),
            "has no column 'temp', which the model was trained on",
        ),
        (lambda data: data.rename(columns={"temp": "temp (°C)"}), "is in °C, and the model was trained on °F"),
        (lambda data: data.drop(columns="date"), "has no column 'date'"),
        (lambda data: data.head(2), "fewer than the 4 lines in a row that a window takes"),
        (lambda data: data.assign(temp="1,5 K"), "line 2, column 'temp' holds '1,5 K', not a finite number"),
    ],
)
def test_errors_name_line_and_column(change: Any, message: str, artifact: Path, tmp_path: Path) -> None:
    change(frame()).to_csv(tmp_path / "in.csv", index=False)
    said = run("predict", artifact, tmp_path / "in.csv", "-o", tmp_path / "out.csv", code=1)
    assert message in said and not (tmp_path / "out.csv").exists()


def test_columns_on_the_command_line_go_before_the_table(artifact: Path, tmp_path: Path) -> None:
    lines = pandas.DataFrame(np.random.default_rng(1).uniform(0, 9, (N, 3)), columns=["a", "b", "c"])
    lines.to_csv(tmp_path / "plain.csv", index=False)
    run("predict", artifact, tmp_path / "plain.csv", "--columns", "a,b,c", "--window", 4, "-o", tmp_path / "out.csv")
    assert list(rows(tmp_path / "out.csv")[0])[:2] == ["row", "position"]


def test_inspect_shows_the_table(artifact: Path) -> None:
    said = run("inspect", artifact)
    for line in (
        "time              column 'date', a line every 1h",
        "columns           window: windows of 4 lines of",
        "                    temp [°F]",
        "                    hour_sin, hour_cos from the time",
        "forecasts         temp [°F], 6 steps ahead (6h)",
    ):
        assert line in said.splitlines()
    told = json.loads(run("inspect", artifact, "--json"))
    assert Table.from_json(json.dumps(told["table"])) == keepdrop.load(artifact).table


def test_the_checksum_covers_the_table(artifact: Path) -> None:
    content = artifact.read_bytes()
    artifact.write_bytes(content.replace("°F".encode(), "°C".encode()))
    assert "damaged" in run("inspect", artifact, code=1) or "checksum" in run("inspect", artifact, code=1)


def test_decimal_commas_are_found_where_windows_are_counted_by_their_ids(artifact: Path, tmp_path: Path) -> None:
    """Counting reads ids alone, which say nothing of decimals."""
    frame().assign(station="north").to_csv(tmp_path / "in.csv", index=False, sep=";", decimal=",")
    said = run("predict", artifact, tmp_path / "in.csv", "--id", "station", "-o", tmp_path / "out.csv")
    assert "read with ';' between cells, decimals behind ','" in said
    means = [float(row["temp_mean [°F]"]) for row in rows(tmp_path / "out.csv")]
    assert len(means) == len(EXPECTED) and np.isfinite(means).all()
