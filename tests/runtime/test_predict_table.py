"""Frames in, columns out: whatever library holds them, in whatever order, with times, zones, series and gaps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow
import pytest

import keepdrop
from keepdrop.table import Table

from . import table_toys as toys

N = 12
START = np.datetime64("2024-03-30T21:00", "us")
HOURS = START + np.arange(N) * np.timedelta64(1, "h")
RNG = np.random.default_rng(0)
TEMP = np.round(50 + 10 * RNG.standard_normal(N), 1)

TABLE = Table(
    [{"column": "temp", "unit": "°F"}, {"cyclic": "hour"}],
    {"target": "temp", "unit": "°F", "ahead": 6},
    {"column": "date", "step": "1h"},
)


def frame() -> pandas.DataFrame:
    return pandas.DataFrame({"date": HOURS, "temp": TEMP, "hum": RNG.uniform(0, 1, N)})


def features(temp: np.ndarray, times: np.ndarray) -> np.ndarray:
    """By pandas, not by our own code: [lines, 3]."""
    angle = 2 * np.pi * pandas.DatetimeIndex(times).hour.to_numpy() / 24
    return np.stack([temp, np.sin(angle), np.cos(angle)], axis=-1)


def windows(lines: np.ndarray) -> np.ndarray:
    return np.stack([lines[i : i + toys.LINES] for i in range(len(lines) - toys.LINES + 1)])


EXPECTED = toys.means(windows(features(TEMP, HOURS)))[:, 0]
AFTER = HOURS[toys.LINES - 1 :] + np.timedelta64(6, "h")


@pytest.fixture
def model(tmp_path: Path) -> Any:
    return keepdrop.load(toys.write(tmp_path / "toy.onnx", TABLE), threads=1)


def shuffled(data: pandas.DataFrame) -> pandas.DataFrame:
    return data[["hum", "date", "temp"]].assign(note="x")


FRAMES = {
    "pandas": lambda: frame(),
    "pandas, other order and more columns": lambda: shuffled(frame()),
    "pandas, times as index": lambda: frame().set_index("date"),
    "pandas, index without a name": lambda: frame().set_index(frame().date.rename(None)).drop(columns="date"),
    "pandas, dates as text": lambda: frame().assign(date=frame().date.dt.strftime("%Y-%m-%d %H:%M")),
    "pandas, nullable": lambda: frame().convert_dtypes(),
    "polars": lambda: polars.from_pandas(shuffled(frame())),
    "pyarrow": lambda: pyarrow.Table.from_pandas(shuffled(frame())),
    "a dict of arrays": lambda: {name: column.to_numpy() for name, column in frame().items()},
    "a dict of lists": lambda: {"date": [str(t) for t in HOURS], "temp": TEMP.tolist()},
}


@pytest.mark.parametrize("name", FRAMES)
def test_every_frame_gives_the_same_columns(name: str, model: Any) -> None:
    forecast = model.predict_table(FRAMES[name](), interval=0.9)
    assert list(forecast) == ["time", "temp_mean", "temp_std", "temp_low_0.9", "temp_high_0.9"]
    np.testing.assert_array_equal(forecast["time"], AFTER)
    np.testing.assert_allclose(forecast["temp_mean"], EXPECTED, rtol=1e-5)
    table = pandas.DataFrame(forecast)
    assert len(table) == len(AFTER) and (table["temp_low_0.9"] < table["temp_high_0.9"]).all()


def test_it_is_what_predict_gives_of_windows_made_by_hand(model: Any) -> None:
    p = model.predict(windows(features(TEMP, HOURS)).astype(np.float32), samples=7, seed=3)
    forecast = model.predict_table(frame(), samples=7, seed=3, interval=(0.5, 0.9))
    np.testing.assert_allclose(forecast["temp_mean"], p.mean[:, 0], rtol=1e-6)
    np.testing.assert_allclose(forecast["temp_high_0.5"], p.interval(0.5)[1][:, 0], rtol=1e-6)
    assert not np.allclose(forecast["temp_mean"], model.predict_table(frame(), samples=7, seed=4)["temp_mean"])


def test_swapped_columns_of_equal_unit_are_told_apart_by_their_names(tmp_path: Path) -> None:
    table = Table(["north", "south", "east"], {"target": "load"})
    model = keepdrop.load(toys.write(tmp_path / "toy.onnx", table), threads=1)
    lines = RNG.uniform(0, 10, (N, 3))
    data = pandas.DataFrame(lines, columns=["north", "south", "east"])
    found = model.predict_table(data)
    np.testing.assert_allclose(found["load_mean"], toys.means(windows(lines))[:, 0], rtol=1e-5)
    assert list(found) == ["row", "load_mean", "load_std"]
    np.testing.assert_array_equal(
        model.predict_table(data[["south", "east", "north"]])["load_mean"], found["load_mean"]
    )
    swapped = model.predict_table(data.rename(columns={"north": "south", "south": "north"}))
    assert not np.allclose(swapped["load_mean"], found["load_mean"])


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_times_with_a_zone_are_answered_in_utc(zone: str, model: Any) -> None:
    """The calendar is that of UTC unless the table names a zone."""
    index = pandas.DatetimeIndex(HOURS, tz="UTC").tz_convert(zone)
    for data in (frame().set_index(index).drop(columns="date"), polars.from_pandas(frame().assign(date=index))):
        forecast = model.predict_table(data)
        np.testing.assert_array_equal(forecast["time"], AFTER)
        np.testing.assert_allclose(forecast["temp_mean"], EXPECTED, rtol=1e-5)


def test_the_calendar_of_a_zone_over_the_change_to_summer_time(tmp_path: Path) -> None:
    time = {"column": "date", "step": "1h", "zone": "Europe/Berlin"}
    table = Table([{"column": "temp"}, {"cyclic": "hour"}], {"target": "temp", "ahead": 6}, time)
    model = keepdrop.load(toys.write(tmp_path / "toy.onnx", table), threads=1)
    index = pandas.DatetimeIndex(HOURS, tz="UTC")
    local = index.tz_convert("Europe/Berlin").tz_localize(None).to_numpy()
    assert len(set(np.diff(local))) == 2  # 2024-03-31 has no 02:00 there
    forecast = model.predict_table(frame().assign(date=index))
    expected = toys.means(windows(features(TEMP, local)))[:, 0]
    np.testing.assert_allclose(forecast["temp_mean"], expected, rtol=1e-5)
    np.testing.assert_array_equal(forecast["time"], AFTER)
    assert not np.allclose(expected, EXPECTED)


SERIES = Table(
    [{"column": "temp"}, {"cyclic": "hour"}],
    {"target": "temp", "ahead": 1},
    {"column": "date", "step": "1h"},
    id="station",
)


def test_series_by_text_mixed_line_by_line(tmp_path: Path) -> None:
    model = keepdrop.load(toys.write(tmp_path / "toy.onnx", SERIES), threads=1)
    parts = [frame().assign(station=name, temp=TEMP + shift) for name, shift in (("north", 0), ("south", 5))]
    mixed = pandas.concat(parts).sort_values("date", kind="stable", ignore_index=True)
    forecast = model.predict_table(mixed)
    count = N - toys.LINES + 1
    assert forecast["station"].tolist() == ["north"] * count + ["south"] * count
    for name, shift in (("north", 0), ("south", 5)):
        of = forecast["station"] == name
        expected = toys.means(windows(features(TEMP + shift, HOURS)))[:, 0]
        np.testing.assert_allclose(forecast["temp_mean"][of], expected, rtol=1e-5)
    newest = model.predict_table(mixed, last=True)
    assert newest["station"].tolist() == ["north", "south"]
    np.testing.assert_array_equal(newest["time"], np.repeat(HOURS[-1:], 2) + np.timedelta64(1, "h"))
    np.testing.assert_array_equal(newest["temp_mean"], forecast["temp_mean"][[count - 1, -1]])


def test_a_horizon_long_and_wide(tmp_path: Path) -> None:
    table = Table(
        [{"column": "temp"}, {"cyclic": "hour"}],
        {"target": "temp", "ahead": "1..3"},
        {"column": "date", "step": "1h"},
    )
    model = keepdrop.load(toys.write(tmp_path / "toy.onnx", table, steps=3), threads=1)
    expected = toys.means(windows(features(TEMP, HOURS)), 3)  # [B, 3]
    long = model.predict_table(frame())
    assert list(long) == ["time", "ahead", "temp_mean", "temp_std"]
    np.testing.assert_allclose(long["temp_mean"], expected.reshape(-1), rtol=1e-5)
    assert long["ahead"].tolist() == [1, 2, 3] * len(expected)
    ends = np.repeat(HOURS[toys.LINES - 1 :], 3)
    np.testing.assert_array_equal(long["time"], ends + long["ahead"] * np.timedelta64(1, "h"))
    wide = model.predict_table(frame(), wide=True)
    assert list(wide) == ["time", *(f"temp_{s}_{i}" for s in ("mean", "std") for i in (1, 2, 3))]
    np.testing.assert_array_equal(wide["time"], HOURS[toys.LINES - 1 :])
    np.testing.assert_array_equal(wide["temp_mean_2"], long["temp_mean"][1::3])


def test_labels_of_classes(tmp_path: Path) -> None:
    table = Table(["a", "b", "c"], {"name": "mood", "labels": ["calm", "busy"]})
    model = keepdrop.load(toys.write(tmp_path / "toy.onnx", table, steps=2, kind="sigmoid"), threads=1)
    lines = RNG.uniform(0, 0.001, (N, 3))
    found = model.predict_table(dict(zip("abc", lines.T, strict=True)), samples=1)
    assert [name for name in found if "mean" in name] == ["mood_mean_calm", "mood_mean_busy"]


def gapped(rule: str) -> Table:
    return Table(
        [{"column": "temp"}, {"cyclic": "hour"}],
        {"target": "temp", "ahead": 6},
        {"column": "date", "step": "1h"},
        missing=rule,
    )


def test_missing_values_are_skipped_with_a_reason(tmp_path: Path) -> None:
    model = keepdrop.load(toys.write(tmp_path / "toy.onnx", gapped("skip")), threads=1)
    data = frame()
    data.loc[6, "temp"] = np.nan
    forecast = model.predict_table(data)
    lacking = np.isnan(forecast["temp_mean"])
    assert np.flatnonzero(lacking).tolist() == [3, 4, 5, 6]  # the windows that hold row 6
    assert set(forecast["reason"][lacking]) == {"line 6: temp is missing"}
    np.testing.assert_allclose(forecast["temp_mean"][~lacking], EXPECTED[~lacking], rtol=1e-5)
    np.testing.assert_array_equal(forecast["time"], AFTER)


def test_missing_values_are_held(tmp_path: Path) -> None:
    model = keepdrop.load(toys.write(tmp_path / "toy.onnx", gapped("hold 1")), threads=1)
    data, held = frame(), TEMP.copy()
    data.loc[6, "temp"] = np.nan
    held[6] = held[5]
    expected = toys.means(windows(features(held, HOURS)))[:, 0]
    np.testing.assert_allclose(model.predict_table(data)["temp_mean"], expected, rtol=1e-5)
    data.loc[7, "temp"] = np.nan  # two in a row, of which one may be held
    lacking = np.isnan(model.predict_table(data)["temp_mean"])
    assert np.flatnonzero(lacking).tolist() == [4, 5, 6, 7]


def test_a_gap_in_time_is_skipped_where_missing_values_are(tmp_path: Path) -> None:
    model = keepdrop.load(toys.write(tmp_path / "toy.onnx", gapped("skip")), threads=1)
    forecast = model.predict_table(frame().drop(index=[5, 6]))
    lacking = np.isnan(forecast["temp_mean"])
    assert np.flatnonzero(lacking).tolist() == [2, 3, 4]
    assert forecast["reason"][2] == "line 5: there is a gap in time before it"


def cell(name: str, row: int, value: Any) -> pandas.DataFrame:
    data = frame().astype({name: object})
    data.loc[row, name] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            frame().drop(columns="temp"),
            r"has no column 'temp', which the model was trained on; it has \['date', 'hum'\]",
        ),
        (frame().rename(columns={"temp": "temp [°C]"}), "column 'temp' is in °C, and the model was trained on °F"),
        (cell("temp", 7, "warm"), r"row 7 \(from 0\), column 'temp' holds 'warm', not a finite number"),
        (cell("temp", 7, None), r"row 7 \(from 0\), column 'temp' is empty"),
        (frame().iloc[[0, 1, 3, 2, 4]], r"column 'date': 2024-03-30T23:00:00 comes after 2024-03-31T00:00:00; sort"),
        (
            frame().drop(index=5),
            r"column 'date': 2024-03-31T03:00:00 comes after .*, and 1 line in steps of 1h is missing",
        ),
        (
            frame().assign(date=START + np.arange(N) * np.timedelta64(30, "m")),
            "a step of 30min, and the model was trained",
        ),
        (frame().head(3), "has fewer than the 4 lines in a row that a window takes"),
        (frame().assign(date=[None] * N), r"row 0 \(from 0\), column 'date'"),
        (frame().assign(date="yesterday"), "column 'date' holds 'yesterday', not a time of ISO 8601"),
        ({"temp": [1.0], "date": HOURS}, "different lengths"),
        (3, "a int is no table; give a pandas or polars frame"),
    ],
)
def test_errors_name_row_and_column(data: Any, message: str, model: Any) -> None:
    with pytest.raises(keepdrop.InputError, match=message) as caught:
        model.predict_table(data)
    assert "\n" not in str(caught.value)


def test_a_unit_in_the_heading_that_agrees_is_understood(model: Any) -> None:
    for heading in ("temp [°F]", "temp (°F)"):
        found = model.predict_table(frame().rename(columns={"temp": heading}))
        np.testing.assert_allclose(found["temp_mean"], EXPECTED, rtol=1e-5)


def test_an_artifact_without_a_table_is_given_one(tmp_path: Path) -> None:
    model = keepdrop.load(toys.write(tmp_path / "toy.onnx", None), threads=1)
    assert model.table is None
    with pytest.raises(keepdrop.InputError, match="does not say what columns mean; give table="):
        model.predict_table(frame())
    np.testing.assert_allclose(model.predict_table(frame(), table=TABLE)["temp_mean"], EXPECTED, rtol=1e-5)


def test_a_table_that_does_not_fit_its_artifact_is_an_artifact_error(tmp_path: Path) -> None:
    toys.write(tmp_path / "toy.onnx", Table(["temp"], {"target": "temp"}))
    with pytest.raises(keepdrop.ArtifactError, match="does not fit it: input 'window' takes 3 columns"):
        keepdrop.load(tmp_path / "toy.onnx")
