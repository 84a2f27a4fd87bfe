"""Trained on columns that scikit-learn scaled: the scalers go into the file, and the device takes raw readings.

python scikit_learn.py
"""

import keras
import numpy as np
import pandas as pd
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import keepdrop
import keepdrop_exporter

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)

# A building's readings: temperature, humidity, and the power that they are to explain.
n = 1200
frame = pd.DataFrame({"temp": rng.normal(56, 7, n), "humidity": rng.uniform(30, 90, n)})
frame["power"] = 300 + 12 * np.abs(frame.temp - 62) + 0.5 * frame.humidity + rng.normal(0, 5, n)

# As it is usually done: scale the columns, train on what comes out.
scaler_x = StandardScaler().fit(frame[["temp", "humidity"]])
scaler_y = MinMaxScaler().fit(frame[["power"]])
x, y = scaler_x.transform(frame[["temp", "humidity"]]), scaler_y.transform(frame[["power"]])
inputs = keras.Input((2,), name="conditions")
hidden = keras.layers.Dropout(0.1)(keras.layers.Dense(32, "relu")(inputs))
model = keras.Model(inputs, keras.layers.Dense(1, name="power")(hidden))
model.compile("adam", "mse")
model.fit(x, y, epochs=20, verbose=0)

# The fitted scalers become layers of stock Keras around the model; the table says what the columns are.
keepdrop_exporter.export(
    model,
    "power.onnx",
    input_scaler=scaler_x,
    output_scaler=scaler_y,
    table={
        "inputs": [{"column": "temp", "unit": "°F"}, {"column": "humidity", "unit": "%"}],
        "outputs": {"target": "power", "unit": "kW"},
    },
)

# On the device: raw columns in any order, kilowatts out. No scikit-learn, no TensorFlow.
today = pd.DataFrame({"humidity": [40.0, 80.0], "temp": [50.0, 75.0]})
answer = pd.DataFrame(keepdrop.load("power.onnx").predict_table(today, interval=0.9))
print(answer.to_string(index=False, float_format="%.1f"))

# A scaler as JSON, for `keepdrop export --input-scaler scaler.json` on another machine.
print(keepdrop_exporter.scaler_json(scaler_x))
