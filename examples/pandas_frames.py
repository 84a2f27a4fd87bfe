"""A time series in a pandas frame: hours with a time zone in, forecasts with their times out.

python pandas_frames.py
"""

import keras
import numpy as np
import pandas as pd

import keepdrop
import keepdrop_exporter

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)

# A month of hourly readings of two rooms, indexed by time.
hours = pd.date_range("2025-03-01", periods=600, freq="h", tz="Europe/Berlin", name="time")
day = 2 * np.pi * hours.tz_convert("UTC").hour.to_numpy() / 24
rooms = {"hall": 19 + 2 * np.sin(day - 2), "office": 21 + 3 * np.sin(day - 2.5)}
frame = pd.concat(
    [
        pd.DataFrame({"room": room, "temp": temp + rng.normal(0, 0.3, len(hours)), "door": 0}, index=hours)
        for room, temp in rooms.items()
    ]
)

# Windows of 24 hours: the temperature, and sine and cosine of the hour (UTC, as the table below says).
features = np.stack([frame.temp, np.tile(np.sin(day), 2), np.tile(np.cos(day), 2)], axis=-1).reshape(2, 600, 3)
x = np.concatenate([[room[i : i + 24] for i in range(600 - 24)] for room in features]).astype("float32")
y = np.concatenate([room[24:, 0] for room in features]).astype("float32")

window = keras.Input((24, 3), name="window")
scaled = keras.layers.Normalization(mean=[20, 0, 0], variance=[4, 1, 1])(window)
memory = keras.layers.GRU(16, dropout=0.1)(scaled)
model = keras.Model(window, keras.layers.Rescaling(2, 20, name="temp")(keras.layers.Dense(1)(memory)))
model.compile("adam", "mse")
model.fit(x, y, epochs=6, verbose=0)

table = keepdrop.Table(
    inputs=[{"column": "temp", "unit": "°C"}, {"cyclic": "hour"}],
    outputs={"target": "temp", "unit": "°C", "ahead": 1},
    time={"column": "time", "step": "1h"},
    id="room",
    missing="hold 2",
)
keepdrop_exporter.export(model, "rooms.onnx", table=table)

# The next hour of each room, and the whole month for a look back. polars frames and pyarrow tables do as well.
forecaster = keepdrop.load("rooms.onnx")
now = pd.DataFrame(forecaster.predict_table(frame, interval=0.9, last=True))
print(now.to_string(index=False, float_format="%.2f"))

past = pd.DataFrame(forecaster.predict_table(frame, interval=0.9)).assign(time=lambda f: f.time.dt.tz_localize("UTC"))
joined = past.merge(frame.reset_index(), on=["time", "room"])
print(f"mean absolute error over {len(joined)} hours: {(joined.temp - joined.temp_mean).abs().mean():.2f} °C")
