"""A CNN-LSTM that forecasts the next 24 hours at once, from a raw CSV file to a picture.

python horizon.py
"""

import json

import keras
import numpy as np
import pandas as pd

import keepdrop
import keepdrop_exporter

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)

# A raw file: a load in megawatts that follows day and week, and a column that nobody needs.
hours = pd.date_range("2025-01-01", periods=24 * 60, freq="h")
shape = 400 + 80 * np.sin(2 * np.pi * (hours.hour - 8) / 24) - 60 * (hours.day_of_week >= 5)
raw = pd.DataFrame({"when": hours, "site": "A", "load": (shape + rng.normal(0, 8, len(hours))).round(1)})
raw.to_csv("load.csv", index=False)

# What the columns mean, once for training and once for all: 48 hours in, 24 out.
table = {
    "time": {"column": "when", "step": "1h"},
    "inputs": {"past": [{"column": "load", "unit": "MW"}, {"cyclic": "hour"}, {"cyclic": "day_of_week"}]},
    "outputs": {"demand": {"target": "load", "unit": "MW", "ahead": "1..24"}},
}
mean, scale = raw.load.mean(), raw.load.std()
angles = [2 * np.pi * hours.hour / 24, 2 * np.pi * hours.day_of_week / 7]
columns = [(raw.load - mean) / scale, *(f(angle) for angle in angles for f in (np.sin, np.cos))]
features = np.stack(columns, axis=-1)  # [hours, 5]
starts = range(len(hours) - 72)
x = np.stack([features[i : i + 48] for i in starts]).astype("float32")  # [N, 48, 5]
y = np.stack([features[i + 48 : i + 72, 0] for i in starts]).astype("float32")  # [N, 24]

past = keras.Input((48, 5), name="past")
patterns = keras.layers.Conv1D(16, 6, strides=2, activation="relu")(past)
memory = keras.layers.LSTM(24, dropout=0.1, recurrent_dropout=0.1)(patterns)
model = keras.Model(past, keras.layers.Dense(24, name="demand")(keras.layers.Dropout(0.1)(memory)))
model.compile(keras.optimizers.Adam(3e-3), "mse")
model.fit(x, y, epochs=3, batch_size=64, verbose=0)

scaler = {"columns": ["load"], "mean": [mean], "scale": [scale]}
with open("table.json", "w", encoding="utf-8") as file:
    json.dump(table, file, ensure_ascii=False)
keepdrop_exporter.export(model, "demand.onnx", table="table.json", input_scaler=scaler, output_scaler=scaler)

# From now on: 24 lines, one an hour. On the command line, with a picture whose fan begins at the last reading:
#   keepdrop predict demand.onnx load.csv -o forecast.csv --last --interval 0.9 --plot forecast.png
forecast = pd.DataFrame(keepdrop.load("demand.onnx").predict_table(pd.read_csv("load.csv"), interval=0.9, last=True))
print(forecast.head(4).to_string(index=False, float_format="%.1f"))
print(f"{len(forecast)} hours, from {forecast.time.iloc[0]} to {forecast.time.iloc[-1]}")
