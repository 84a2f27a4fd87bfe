"""--plot of declared tables: what is in the picture; that it is a good one was seen by eye."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.dates
import numpy as np
import pandas
import pytest
from click.testing import CliRunner

from keepdrop import cli
from keepdrop.files import plot
from keepdrop.table import Table

from . import table_toys as toys
from .test_predict_raw import HORIZON
from .test_predict_table import AFTER, EXPECTED, HOURS, SERIES, TABLE, TEMP, frame


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Predicts a frame with an artifact and draws; gives the figure."""
    figures = []
    figure_of = plot._figure
    monkeypatch.setattr(plot, "_figure", lambda *given: figures.append(figure_of(*given)) or figures[-1])

    def drawn(artifact: Path, data: pandas.DataFrame, *options: str, picture: str = "out.png") -> Any:
        data.to_csv(tmp_path / "in.csv", index=False)
        files = [str(artifact), str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.csv")]
        arguments = ["predict", *files, "--plot", str(tmp_path / picture), *options]
        done = CliRunner().invoke(cli.main, arguments)
        assert done.exit_code == 0, done.output
        assert (tmp_path / picture).stat().st_size > 5000
        return figures[-1]

    return drawn


def line(ax: Any, label: str) -> tuple[np.ndarray, np.ndarray]:
    (found,) = (each for each in ax.lines if each.get_label() == label)
    return found.get_xdata().astype("datetime64[us]"), found.get_ydata()


def test_forecast_and_readings_over_time_with_the_unit(drawn: Any, tmp_path: Path) -> None:
    (ax,) = drawn(toys.write(tmp_path / "toy.onnx", TABLE), frame(), "--interval", "0.9").axes
    times, mean = line(ax, "forecast (mean)")
    np.testing.assert_array_equal(times, AFTER)
    np.testing.assert_allclose(mean, EXPECTED, rtol=1e-5)
    times, readings = line(ax, "readings")
    np.testing.assert_array_equal(times, HOURS[toys.LINES - 1 :])
    np.testing.assert_allclose(readings, TEMP[toys.LINES - 1 :])
    assert (ax.get_ylabel(), ax.get_xlabel(), ax.get_title(loc="left")) == ("temp, °F", "time", "temp, 6h ahead")
    assert isinstance(ax.xaxis.get_major_formatter(), matplotlib.dates.ConciseDateFormatter)


def test_a_horizon_is_a_fan_from_the_last_reading(drawn: Any, tmp_path: Path) -> None:
    (ax,) = drawn(toys.write(tmp_path / "toy.onnx", HORIZON, steps=3), frame(), "--last", "--theme", "dark").axes
    times, mean = line(ax, "forecast (mean)")
    np.testing.assert_array_equal(times, HOURS[-1] + np.arange(4) * np.timedelta64(1, "h"))
    assert mean[0] == TEMP[-1]
    times, readings = line(ax, "readings")
    assert times[-1] == HOURS[-1] and readings[-1] == TEMP[-1] and len(readings) == 9  # three for each step


def test_series_are_panels_and_svg_text_stays_text(drawn: Any, tmp_path: Path) -> None:
    parts = [frame().assign(station=name, temp=TEMP + shift) for name, shift in (("north", 0), ("south", 5))]
    artifact = toys.write(tmp_path / "toy.onnx", SERIES)
    figure = drawn(artifact, pandas.concat(parts), picture="out.svg")
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["temp, north, 1h ahead", "temp, south, 1h ahead"]
    svg = (tmp_path / "out.svg").read_text(encoding="utf-8")
    assert "<text" in svg and "temp, north, 1h ahead" in svg


def test_classes_bear_their_labels(drawn: Any, tmp_path: Path) -> None:
    table = Table(
        ["temp", "hum", "wind"],
        {"name": "mood", "labels": ["calm", "busy"]},
        {"column": "date", "step": "1h"},
    )
    artifact = toys.write(tmp_path / "toy.onnx", table, steps=2, kind="sigmoid")
    figure = drawn(artifact, frame().assign(temp=0.01, hum=0.01, wind=0.01), "--samples", "1", "--no-units")
    (ax,) = figure.axes
    assert {each.get_label() for each in ax.lines} == {"calm", "busy"} and ax.get_ylabel() == "probability"


def test_rows_without_an_answer_leave_a_picture(drawn: Any, tmp_path: Path) -> None:
    data = frame()
    data.loc[5, "temp"] = np.nan
    (ax,) = drawn(toys.write(tmp_path / "toy.onnx", TABLE), data, "--missing", "skip").axes
    times, mean = line(ax, "forecast (mean)")
    assert np.isfinite(mean).all() and len(times) < len(AFTER)
