"""The table goes into the artifact of either format, completed by the model, and what does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from click.testing import CliRunner
from sklearn.preprocessing import StandardScaler

import keepdrop
import keepdrop_exporter
from keepdrop.cli import main
from keepdrop_exporter import ExportError, ScalingError, cli

TABLE: dict[str, Any] = {
    "time": {"column": "date", "step": "1h"},
    "inputs": [{"column": "temp", "unit": "°F"}, {"cyclic": "hour"}],
    "outputs": {"target": "temp", "unit": "°F", "ahead": "1..2"},
}
N = 14
RNG = np.random.default_rng(0)
FRAME = pandas.DataFrame(
    {
        "hum": RNG.uniform(0, 1, N),
        "temp": RNG.normal(56, 7, N),
        "date": pandas.date_range("2025-01-01", periods=N, freq="h"),
    }
)


def by_hand(frame: pandas.DataFrame) -> np.ndarray:
    """Windows of raw readings: [N - 8, 9, 3]."""
    angle = 2 * np.pi * frame.date.dt.hour / 24
    lines = np.stack([frame.temp, np.sin(angle), np.cos(angle)], axis=-1)
    return np.stack([lines[i : i + 9] for i in range(len(lines) - 8)]).astype(np.float32)


def test_export_with_table_and_scalers_and_predict_the_frame(forecaster_file: Path, tmp_path: Path) -> None:
    """The scaler knows the one column it was fitted on, and leaves the calendar's as they are."""
    scaler = StandardScaler().fit(FRAME[["temp"]])
    (tmp_path / "table.json").write_text(json.dumps(TABLE))
    (tmp_path / "scaler.json").write_text(keepdrop_exporter.scaler_json(scaler))
    scalers = ["--input-scaler", str(tmp_path / "scaler.json"), "--output-scaler", str(tmp_path / "scaler.json")]
    target = tmp_path / "raw.onnx"
    arguments = [str(forecaster_file), "-o", str(target), "--table", str(tmp_path / "table.json"), *scalers]
    done = CliRunner().invoke(cli.export, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    model = keepdrop.load(target, threads=1)
    assert model.table is not None and model.table.inputs["window"].window == 9
    forecast = model.predict_table(FRAME, samples=8, interval=0.9)
    p = model.predict(by_hand(FRAME), samples=8)
    np.testing.assert_allclose(forecast["temp_mean"], p.mean.reshape(-1), rtol=1e-6)
    np.testing.assert_allclose(forecast["temp_low_0.9"], p.interval(0.9)[0].reshape(-1), rtol=1e-6)
    plain = keepdrop.load(keepdrop_exporter.export(forecaster_file, tmp_path / "plain.onnx").path, threads=1)
    windows = by_hand(FRAME)
    windows[..., 0] = (windows[..., 0] - scaler.mean_) / scaler.scale_
    expected = scaler.mean_ + scaler.scale_ * plain.predict(windows, samples=8).mean
    np.testing.assert_allclose(p.mean, expected, rtol=1e-5)
    said = CliRunner().invoke(main, ["inspect", str(target)], catch_exceptions=False).output
    assert "windows of 9 lines of" in said and "temp [°F], 1 to 2 steps ahead (1h to 2h)" in said


def test_a_savedmodel_and_a_stream_have_the_table_too(forecaster_file: Path, tmp_path: Path) -> None:
    keepdrop_exporter.export(forecaster_file, tmp_path / "saved", table=TABLE)
    assert "forecasts         temp [°F]" in CliRunner().invoke(main, ["inspect", str(tmp_path / "saved")]).output
    saved = keepdrop_exporter.load_savedmodel(tmp_path / "saved")
    stream = keepdrop_exporter.export(forecaster_file, tmp_path / "stream.onnx", table=TABLE, streaming=True)
    assert saved.table == keepdrop.load(stream.path).table and saved.table.window == 9
    assert len(saved.predict_table(FRAME, samples=4, last=True)["time"]) == 2


def other(**fields: Any) -> dict[str, Any]:
    return {**TABLE, **fields}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (other(inputs=["temp"]), r"table: input 'window' takes 3 columns and the table gives 1 \(temp\)"),
        (other(inputs={"columns": ["a", "b", "c"], "window": 4}), "takes 9 lines and the table says 4"),
        (other(outputs={"target": "temp", "ahead": "1..3"}), r"has \[2\] a row and the table says 3 steps ahead"),
        (other(rows=3), "a table has a field 'rows'"),
        (Path("none.json"), "cannot read the table none.json"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(
    table: Any, message: str, forecaster_file: Path, target: Path, untouched: Any
) -> None:
    with pytest.raises(ExportError, match=message):
        keepdrop_exporter.export(forecaster_file, target, table=table)
    untouched()


def test_a_scaler_fitted_in_another_order_is_refused(forecaster_file: Path, tmp_path: Path) -> None:
    scaler = StandardScaler().fit(FRAME.assign(wind=1.0)[["hum", "temp", "wind"]])
    table = {"inputs": ["temp", "hum", "wind"], "outputs": {"target": "temp"}}
    with pytest.raises(ScalingError, match=r"was fitted on \(hum, temp, wind\), and the table has \(temp, hum, wind\)"):
        keepdrop_exporter.export(forecaster_file, tmp_path / "x.onnx", table=table, input_scaler=scaler)
