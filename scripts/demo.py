"""The main job on real data: train a forecaster on a raw file, put its scaling and its table into one ONNX file, go
on with the command alone, on raw files in degrees Fahrenheit with times.

The data are the hourly temperatures of San Francisco that the package vega_datasets carries: from NOAA, in degrees
Fahrenheit, and as smooth as an average over many years (an hour differs from the same hour a day before by 0.09
degrees). So the errors below are the model's own and not the weather's surprises.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from vega_datasets import data

import keepdrop
from keepdrop_exporter.options import silent_start

with silent_start():
    import keras

TOP = Path(__file__).resolve().parent.parent
DEMO = TOP / "demo"

WINDOW = 48  # hours that the model sees
HORIZON = 6  # hours from the last of them to the one it forecasts
WEEKS = 4 * 7 * 24  # hours that are held out, once to calibrate and once more to judge
EPOCHS = 10
SAMPLES = 200
SEED = 7
LEVEL = 0.9
STREAMED = 24  # windows that are also pushed hour by hour

TABLE = {
    "time": {"column": "date", "step": "1h"},
    "inputs": {"window": [{"column": "temp", "unit": "°F"}, {"cyclic": "hour"}]},
    "outputs": {"temperature": {"target": "temp", "unit": "°F", "ahead": HORIZON}},
}


def step(text: str) -> None:
    print(f"== {text}", flush=True)


def run(*arguments: str) -> None:
    """The command as a user types it, from the checkout's folder; its progress is left out."""
    print(f"   $ {' '.join(arguments)}", flush=True)
    command = [str(Path(sys.executable).with_name(arguments[0])), *arguments[1:]]
    done = subprocess.run(command, cwd=TOP, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}demo: that command ended with {done.returncode}")
    print("".join(f"   {line}\n" for line in done.stdout.splitlines()), end="", flush=True)


def show(path: Path, lines: int) -> None:
    print(f"   $ head -n {lines} {path.relative_to(TOP)}")
    with open(path, encoding="utf-8") as file:
        print("".join(f"   {line}" for _, line in zip(range(lines), file, strict=False)), end="", flush=True)


def save_readings() -> tuple[np.ndarray, np.ndarray]:
    """Raw files of what the model learns from, what calibrates it and what judges it; the first, as times and °F."""
    table = data.sf_temps()
    times, temp = table["date"].to_numpy("datetime64[s]"), table["temp"].to_numpy(np.float64)
    parts = {
        "known": slice(0, -2 * WEEKS),
        "autumn": slice(-2 * WEEKS, -WEEKS),
        "sensors": slice(-WEEKS, None),
    }
    for name, part in parts.items():
        with open(DEMO / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(["station", "date", "temp"])  # a column that nobody needs, as raw files have them
            writer.writerows(zip(["SF"] * len(times[part]), times[part], temp[part], strict=True))
    return times[parts["known"]], temp[parts["known"]]


def windows(times: np.ndarray, temp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Windows [N, 48, 3] (temperature, sine and cosine of the hour) and what follows each [N], in °F."""
    angle = 2 * np.pi * (times.astype("datetime64[h]").astype(int) % 24) / 24
    features = np.stack([temp, np.sin(angle), np.cos(angle)], axis=-1)  # [hours, 3]
    last = np.arange(WINDOW - 1, len(temp) - HORIZON)
    return features[last[:, None] - np.arange(WINDOW)[::-1]], temp[last + HORIZON]


def train(x: np.ndarray, y: np.ndarray) -> keras.Model:
    """On scaled numbers, as it is usually done."""
    keras.utils.set_random_seed(SEED)
    model = keras.Sequential(
        [
            keras.Input(x.shape[1:], name="window"),
            keras.layers.LSTM(32, dropout=0.25, recurrent_dropout=0.25, name="memory"),
            keras.layers.Dense(1, name="temperature"),
        ],
        name="forecaster",
    )
    batch = 64
    steps = EPOCHS * -(-len(x) // batch)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-3, steps)), "mse")

    def report(epoch: int, logs: dict[str, float]) -> None:
        print(f"   epoch {epoch + 1:2d} of {EPOCHS}, loss {logs['loss']:.4f}", flush=True)

    progress = keras.callbacks.LambdaCallback(on_epoch_end=report)
    model.fit(x.astype(np.float32), y, batch_size=batch, epochs=EPOCHS, verbose=0, callbacks=[progress])
    return model


def judged(forecast: Path, readings: Path) -> None:
    """The error of the forecasts, joined to the readings by time."""
    with open(readings, encoding="utf-8", newline="") as file:
        truth = {row["date"]: float(row["temp"]) for row in csv.DictReader(file)}
    with open(forecast, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["time"] in truth]
    true = np.array([truth[row["time"]] for row in rows])
    mean, low, high = (
        np.array([float(row[f"temperature_{name} [°F]"]) for row in rows])
        for name in ("mean", f"low_{LEVEL}", f"high_{LEVEL}")
    )
    unchanged = np.abs(true[HORIZON:] - true[:-HORIZON]).mean()
    for name, value in [
        (f"mean absolute error, {HORIZON} hours ahead", f"{np.abs(mean - true).mean():.2f} °F"),
        (f"no change in {HORIZON} hours, for scale", f"{unchanged:.2f} °F"),
        (f"hours inside the {LEVEL:.0%} interval", f"{np.mean((low <= true) & (true <= high)):.1%}"),
        ("mean width of that interval", f"{np.mean(high - low):.2f} °F"),
    ]:
        print(f"   {name:<50}{value:>12}")


def windows_as_streams(artifact: Path, streaming: Path, x: np.ndarray) -> float:
    """How far the samples of the last windows are from those of streams that were given the same hours one by one."""
    whole, shown = keepdrop.load(artifact), x[-STREAMED:].astype(np.float32)
    rows = range(len(shown))
    stream = keepdrop.load(streaming).stream(samples=SAMPLES, seed=SEED, rows=rows)
    for hour in range(WINDOW):
        p = stream.push(shown[:, hour])
    expected = whole.sample(shown, samples=SAMPLES, seed=SEED, rows=rows)
    verified = whole.metadata.verified
    np.testing.assert_allclose(p.samples, expected, rtol=verified.rtol, atol=verified.atol)
    return float(np.abs(p.samples - expected).max())


def main() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    DEMO.mkdir(exist_ok=True)

    step("raw files of San Francisco's hourly temperatures: demo/known.csv, autumn.csv, sensors.csv")
    times, temp = save_readings()
    show(DEMO / "sensors.csv", 3)

    step("train LSTM(32, dropout=0.25, recurrent_dropout=0.25) + Dense(1) with Keras, on scaled windows")
    x, y = windows(times, temp)
    mean, scale = temp.mean(), temp.std()
    train((x - [mean, 0, 0]) / [scale, 1, 1], (y - mean) / scale).save(DEMO / "forecaster.keras")
    (DEMO / "scaler.json").write_text(json.dumps({"columns": ["temp"], "mean": [mean], "scale": [scale]}))
    parts = (f'"{key}": {json.dumps(value, ensure_ascii=False)}' for key, value in TABLE.items())
    (DEMO / "table.json").write_text("{" + ",\n ".join(parts) + "}\n", encoding="utf-8")
    show(DEMO / "table.json", 3)

    step("one file that takes raw readings: the scaling and the table go in, and it is verified against Keras")
    into = ["--table", "demo/table.json", "--input-scaler", "demo/scaler.json", "--output-scaler", "demo/scaler.json"]
    run("keepdrop", "export", "demo/forecaster.keras", "-o", "demo/forecaster.onnx", *into)
    run("keepdrop", "inspect", "demo/forecaster.onnx")

    step("four weeks that it has not seen, forecast from the raw file")
    asked = ["--samples", str(SAMPLES), "--seed", str(SEED), "--interval", str(LEVEL)]
    files = ["demo/sensors.csv", "-o", "demo/forecast.csv", "--plot", "demo/forecast.png"]
    run("keepdrop", "predict", "demo/forecaster.onnx", *files, *asked)
    show(DEMO / "forecast.csv", 3)
    judged(DEMO / "forecast.csv", DEMO / "sensors.csv")
    print("   (the interval is the spread of the dropout samples alone)")

    step("calibrated on the four weeks before, so that the interval is one for the temperature")
    run("keepdrop", "calibrate", "demo/forecaster.onnx", "demo/autumn.csv", "-o", "demo/calibrated.onnx")
    files = ["demo/sensors.csv", "-o", "demo/calibrated.csv", "--plot", "demo/calibrated.png"]
    run("keepdrop", "predict", "demo/calibrated.onnx", *files, *asked)
    judged(DEMO / "calibrated.csv", DEMO / "sensors.csv")

    step("and learning on the way from what came: December is none of the months that it was trained on")
    files = ["demo/sensors.csv", "-o", "demo/adapted.csv", "--adapt", "--plot", "demo/adapted.png"]
    run("keepdrop", "predict", "demo/calibrated.onnx", *files, *asked)
    judged(DEMO / "adapted.csv", DEMO / "sensors.csv")

    step("the same model for a stream, hour by hour as a thermometer would deliver them")
    run("keepdrop", "export", "demo/forecaster.keras", "-o", "demo/stream.onnx", "--streaming", *into)
    apart = windows_as_streams(DEMO / "forecaster.onnx", DEMO / "stream.onnx", x)
    print(f"   the last {STREAMED} windows, streamed: samples differ by up to {apart:.1e} °F")
    np.save(DEMO / "windows.npy", x[-STREAMED:].astype(np.float32))  # as arrays, for `keepdrop bench`
    step(f"written: {', '.join(sorted(path.name for path in DEMO.iterdir() if path.is_file()))}")


if __name__ == "__main__":
    main()
