"""Forecast a series with an interval: train with dropout, export, and sample the exported file.

On a workstation, with keepdrop and keepdrop-exporter installed:

    python forecasting.py
"""

import keras
import numpy as np

import keepdrop
import keepdrop_exporter

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)

# A noisy wave: 24 readings in, the next one out.
start = rng.uniform(0, 2 * np.pi, (1500, 1, 1))
series = np.sin(start + 0.3 * np.arange(25)[:, None]) + rng.normal(0, 0.1, (1500, 25, 1))
x, y = series[:, :-1].astype("float32"), series[:, -1].astype("float32")  # [1500, 24, 1], [1500, 1]

# Any dropout will do: on inputs, in the recurrence, between layers.
window = keras.Input((24, 1), name="window")
memory = keras.layers.LSTM(16, dropout=0.1, recurrent_dropout=0.1)(window)
model = keras.Model(window, keras.layers.Dense(1, name="next")(memory))
model.compile("adam", "mse")
model.fit(x[:1300], y[:1300], epochs=4, verbose=0)
model.save("forecaster.keras")

# The file that the device gets; the export compares it with Keras, sample by sample.
report = keepdrop_exporter.export("forecaster.keras", "forecaster.onnx")
print(f"exported; largest difference from Keras: {report.verified.outputs[0].max_abs:.1g}")

# From here on as on the device.
forecaster = keepdrop.load("forecaster.onnx")
p = forecaster.predict(x[1300:], samples=200, seed=7)
low, high = p.interval(0.9)  # [200, 1] each
inside = np.mean((low <= y[1300:]) & (y[1300:] <= high))
print(f"first forecast: {p.mean[0, 0]:.2f}, 90 % of its samples between {low[0, 0]:.2f} and {high[0, 0]:.2f}")
print(f"the interval of the samples held {inside:.0%} of what came: it is the model's doubt, not the data's noise")

# As many samples as a precision takes, row by row.
p = forecaster.predict(x[1300:], until=keepdrop.standard_error(0.01))
print(f"for a standard error of 0.01: {p.n.min()} to {p.n.max()} samples a row")
