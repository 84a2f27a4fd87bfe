"""The main job on real data: train a forecaster, export it, and sample the exported file as a device would.

The data are the hourly temperatures of San Francisco that the package vega_datasets carries: from NOAA, in degrees
Fahrenheit, and as smooth as an average over many years (an hour differs from the same hour a day before by 0.09
degrees). So the errors below are the model's own and not the weather's surprises.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib import dates as mdates
from matplotlib import pyplot as plt
from vega_datasets import data

import keepdrop
import keepdrop_exporter
from keepdrop_exporter.cli import silent_start

with silent_start():
    import keras

matplotlib.use("Agg")

DEMO = Path(__file__).resolve().parent.parent / "demo"

WINDOW = 48  # hours that the model sees
HORIZON = 6  # hours from the last of them to the one it forecasts
HELD_OUT = 28 * 24
EPOCHS = 10
SAMPLES = 200
SEED = 7
LEVEL = 0.9
SHOWN = 10 * 24
STREAMED = 24  # windows that are also pushed hour by hour


@dataclass(frozen=True)
class Windows:
    """Windows [N, 48, 3] (temperature, sine and cosine of the hour), what follows [N], in °F, and when [N]."""

    x: np.ndarray
    temperature: np.ndarray
    hours: np.ndarray


@dataclass(frozen=True)
class Scale:
    """Mean and standard deviation of the training hours, in °F."""

    mean: float
    std: float


def step(text: str) -> None:
    print(f"== {text}", flush=True)


def load() -> tuple[Windows, Windows, Scale]:
    table = data.sf_temps()
    temperature = table["temp"].to_numpy(np.float64)
    hours = table["date"].to_numpy("datetime64[h]")
    known = temperature[:-HELD_OUT]
    scale = Scale(known.mean(), known.std())
    angle = 2 * np.pi * (hours - hours.astype("datetime64[D]")).astype(int) / 24
    normalised = (temperature - scale.mean) / scale.std
    features = np.stack([normalised, np.sin(angle), np.cos(angle)], axis=-1).astype(np.float32)  # [hours, 3]

    def windows(targets: np.ndarray) -> Windows:
        past = targets[:, None] - HORIZON - np.arange(WINDOW)[::-1]  # [N, 48]
        return Windows(features[past], temperature[targets], hours[targets])

    first = WINDOW + HORIZON - 1
    every, cut = np.arange(first, len(temperature)), len(temperature) - HELD_OUT
    return windows(every[every < cut]), windows(every[every >= cut]), scale


def train(windows: Windows, scale: Scale) -> keras.Model:
    keras.utils.set_random_seed(SEED)
    model = keras.Sequential(
        [
            keras.Input(windows.x.shape[1:], name="window"),
            keras.layers.LSTM(32, dropout=0.25, recurrent_dropout=0.25, name="memory"),
            keras.layers.Dense(1, name="temperature"),
        ],
        name="forecaster",
    )
    batch = 64
    steps = EPOCHS * -(-len(windows.x) // batch)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(5e-3, steps)), "mse")

    def report(epoch: int, logs: dict[str, float]) -> None:
        print(f"   epoch {epoch + 1:2d} of {EPOCHS}, loss {logs['loss']:.4f}", flush=True)

    target = (windows.temperature - scale.mean) / scale.std
    progress = keras.callbacks.LambdaCallback(on_epoch_end=report)
    model.fit(windows.x, target, batch_size=batch, epochs=EPOCHS, verbose=0, callbacks=[progress])
    return model


def export(source: Path, target: Path, streaming: bool = False) -> None:
    keepdrop_exporter.export(source, target, streaming=streaming)
    verified = keepdrop.load(target).metadata.verified
    print(f"   {verified.rows} rows x {verified.samples} samples equal Keras', draw by draw:")
    for output in verified.outputs:
        print(
            f"   {output.name}: largest difference {output.max_abs:.1e} (allowed: {verified.atol:.0e} absolute "
            f"+ {verified.rtol:.0e} relative)"
        )


def forecast(artifact: Path, windows: Windows, scale: Scale) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Mean, low and high end of the interval [N], in °F, and the milliseconds a window took."""
    model = keepdrop.load(artifact)
    start = time.perf_counter()
    p = model.predict(windows.x, samples=SAMPLES, seed=SEED)
    milliseconds = (time.perf_counter() - start) * 1000 / len(windows.x)
    mean, low, high = (scale.mean + scale.std * part[:, 0] for part in (p.mean, *p.interval(LEVEL)))
    return mean, low, high, milliseconds


def windows_as_streams(artifact: Path, streaming: Path, windows: Windows) -> float:
    """How far the samples of the last windows are from those of streams that were given the same hours one by one."""
    whole, shown = keepdrop.load(artifact), windows.x[-STREAMED:]
    rows = range(len(shown))
    stream = keepdrop.load(streaming).stream(samples=SAMPLES, seed=SEED, rows=rows)
    for hour in range(WINDOW):
        p = stream.push(shown[:, hour])
    expected = whole.sample(shown, samples=SAMPLES, seed=SEED, rows=rows)
    verified = whole.metadata.verified
    np.testing.assert_allclose(p.samples, expected, rtol=verified.rtol, atol=verified.atol)
    return float(np.abs(p.samples - expected).max())


def live(artifact: Path, streaming: Path, windows: Windows, scale: Scale) -> tuple[np.ndarray, float, float]:
    """Mean [N] of one stream over all hours, in °F, and the median milliseconds of a step and of a window's call."""
    whole, stream = keepdrop.load(artifact), keepdrop.load(streaming).stream(samples=SAMPLES, seed=SEED)
    means, steps, calls = [stream.push(windows.x[:1]).mean], [], []
    for window in windows.x[1:]:
        start = time.perf_counter()
        means.append(stream.push(window[-1:]).mean)
        middle = time.perf_counter()
        whole.predict(window[np.newaxis], samples=SAMPLES, seed=SEED)
        steps.append(middle - start)
        calls.append(time.perf_counter() - middle)
    return scale.mean + scale.std * np.concatenate(means)[:, 0], *(1000 * float(np.median(t)) for t in (steps, calls))


def share_inside(truth: np.ndarray, low: np.ndarray, high: np.ndarray) -> float:
    return float(np.mean((low <= truth) & (truth <= high)))


def table(rows: list[tuple[str, str]]) -> None:
    for name, value in rows:
        print(f"   {name:<50}{value:>12}")


def plot(windows: Windows, mean: np.ndarray, low: np.ndarray, high: np.ndarray, path: Path) -> None:
    shown = slice(-SHOWN, None)
    hours = windows.hours[shown].astype("datetime64[s]").astype(object)
    figure, axes = plt.subplots(figsize=(11, 4.6), dpi=150, layout="constrained")
    axes.fill_between(
        hours, low[shown], high[shown], color="#9ecae1", alpha=0.65, linewidth=0, label=f"{LEVEL:.0%} of the samples"
    )
    axes.plot(hours, mean[shown], color="#08519c", linewidth=1.8, label=f"mean of {SAMPLES} samples")
    axes.plot(hours, windows.temperature[shown], color="#d94801", linewidth=1.3, dashes=(4, 1.5), label="temperature")

    inside = share_inside(windows.temperature, low, high)
    axes.set_title(
        "San Francisco, hourly temperature: forecast 6 hours ahead, dropout active", loc="left", fontsize=13, pad=26
    )
    axes.text(
        0,
        1.035,
        f"LSTM(32) sampled through onnxruntime; the band holds {inside:.0%} of the {len(mean)} held-out hours",
        transform=axes.transAxes,
        color="#555555",
        fontsize=10,
    )
    axes.set_ylabel("temperature, °F")
    axes.margins(x=0)
    axes.xaxis.set_major_locator(mdates.DayLocator())
    axes.xaxis.set_major_formatter(mdates.DateFormatter("%-d %b"))
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, -0.22), ncols=3, frameon=False)
    figure.savefig(path)
    plt.close(figure)


def save_readings(windows: Windows, path: Path) -> None:
    """The hours of these windows as a table, a line an hour: `--window 48` makes the windows of it again."""
    readings = np.concatenate([windows.x[0], windows.x[1:, -1]])  # [hours, 3]
    last = windows.hours[-1] - np.timedelta64(HORIZON, "h")
    hours = last - np.arange(len(readings))[::-1].astype("timedelta64[h]")
    lines = [f"{hour},{','.join(map(str, reading))}" for hour, reading in zip(hours, readings, strict=True)]
    path.write_text("\n".join(["hour,temperature,sine,cosine", *lines, ""]))


def main() -> None:
    DEMO.mkdir(exist_ok=True)
    source, artifact = DEMO / "forecaster.keras", DEMO / "forecaster.onnx"

    step("load San Francisco's hourly temperatures")
    known, held_out, scale = load()
    print(f"   {len(known.x)} windows to learn from, {len(held_out.x)} held out (the last four weeks)")

    step("train LSTM(32, dropout=0.25, recurrent_dropout=0.25) + Dense(1) with Keras")
    train(known, scale).save(source)

    step("export to ONNX and verify against Keras")
    export(source, artifact)

    step(f"sample every held-out window {SAMPLES} times through onnxruntime")
    mean, low, high, milliseconds = forecast(artifact, held_out, scale)
    truth = held_out.temperature
    unchanged = np.abs(truth[HORIZON:] - truth[:-HORIZON]).mean()
    yesterday = np.abs(truth[24:] - truth[:-24]).mean()
    table(
        [
            (f"mean absolute error, {HORIZON} hours ahead", f"{np.abs(mean - truth).mean():.2f} °F"),
            (f"no change in {HORIZON} hours, for scale", f"{unchanged:.2f} °F"),
            ("same hour of the day before (smooth data)", f"{yesterday:.2f} °F"),
            (f"held-out hours inside the {LEVEL:.0%} interval", f"{share_inside(truth, low, high):.1%}"),
            ("mean width of that interval", f"{np.mean(high - low):.2f} °F"),
            (f"time a window ({SAMPLES} samples)", f"{milliseconds:.2f} ms"),
            ("size of the file", f"{artifact.stat().st_size / 1000:.0f} kB"),
        ]
    )
    print("   (the interval is the spread of the dropout samples alone; nothing has calibrated it)")

    step("export for streaming, and push the same hours one by one, as a thermometer would deliver them")
    streaming = DEMO / "stream.onnx"
    export(source, streaming, streaming=True)
    apart = windows_as_streams(artifact, streaming, held_out)
    streamed, push, call = live(artifact, streaming, held_out, scale)
    table(
        [
            (f"the last {STREAMED} windows, streamed: largest difference", f"{apart:.1e}" if apart else "none"),
            (f"time an hour, streamed ({SAMPLES} samples)", f"{push:.2f} ms"),
            (f"time an hour, its window of {WINDOW} called anew", f"{call:.2f} ms"),
            ("mean absolute error of one stream over all hours", f"{np.abs(streamed - truth).mean():.2f} °F"),
        ]
    )
    print(
        f"   (medians; a stream remembers more than the {WINDOW} hours it was trained on, so from then on it differs)"
    )

    np.save(DEMO / "windows.npy", held_out.x[-24:])
    shown = Windows(held_out.x[-SHOWN:], held_out.temperature[-SHOWN:], held_out.hours[-SHOWN:])
    save_readings(shown, DEMO / "readings.csv")
    plot(held_out, mean, low, high, DEMO / "forecast.png")
    step("written: demo/forecaster.keras, forecaster.onnx, stream.onnx, windows.npy, readings.csv, forecast.png")


if __name__ == "__main__":
    main()
