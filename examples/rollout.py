"""An encoder and a decoder: six hours ahead, each sample a path that is fed with its own forecasts.

python rollout.py
"""

import keras
import numpy as np

import keepdrop
import keepdrop_exporter

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)
PAST, AHEAD, UNITS = 24, 6, 12

# A series that swings with the day; scaled already.
hours = np.arange(400)
series = (np.sin(2 * np.pi * hours / 24) + 0.15 * rng.normal(size=len(hours))).astype("float32")
windows = np.lib.stride_tricks.sliding_window_view(series, PAST + AHEAD)
x, y = windows[:, :PAST, None], windows[:, PAST:]

# The encoder reads the past; the decoder makes one hour of a state and the hour before, and the next state.
past = keras.Input((PAST, 1), name="past")
encoder = keras.Model(past, keras.layers.GRU(UNITS, dropout=0.1, name="memory")(past), name="encoder")

last, state = keras.Input((1,), name="last"), keras.Input((UNITS,), name="state")
step = keras.layers.GRU(UNITS, unroll=True, name="step")(keras.layers.Reshape((1, 1))(last), initial_state=state)
value = keras.layers.Dense(1, name="value")(keras.layers.Dropout(0.1, name="drop")(step))
decoder = keras.Model([last, state], {"value": value, "carried": step}, name="decoder")

# Trained together, the decoder on its own forecasts.
carried, fed, hours_ahead = encoder(past), past[:, -1], []
for _ in range(AHEAD):
    outputs = decoder([fed, carried])
    fed, carried = outputs["value"], outputs["carried"]
    hours_ahead.append(fed)
trained = keras.Model(past, keras.layers.Concatenate()(hours_ahead))
trained.compile(keras.optimizers.Adam(1e-2), "mse")
trained.fit(x[:320], y[:320], epochs=10, batch_size=64, verbose=0)

# What a sample gives itself is an input per sample; the past is the same for all.
keepdrop_exporter.export(encoder, "encoder.onnx")
report = keepdrop_exporter.export(decoder, "decoder.onnx", per_sample=["last", "state"])
print(f"exported; largest difference from Keras {max(output.max_abs for output in report.verified.outputs):.1e}")

# On the device: one call of the encoder, one of the decoder for each hour.
now = x[-1:]
states = keepdrop.load("encoder.onnx").sample(now, samples=200, seed=7)  # [200, 1, UNITS]


def feed(inputs: dict, outputs: dict, step: int) -> dict:
    """What each sample takes in the next hour: what it gave in this one."""
    return {"last": outputs["value"], "state": outputs["carried"]}


start = {"last": now[:, -1], "state": states}
forecast = keepdrop.rollout(keepdrop.load("decoder.onnx"), start, AHEAD, feed=feed, samples=200, seed=7)["value"]
low, high = forecast.interval(0.9)  # [1, 6, 1] each: 90 % of the paths
for hour in (0, 2, 5):
    print(f"{hour + 1:2} h ahead: {forecast.mean[0, hour, 0]:+.2f} ({low[0, hour, 0]:+.2f} to {high[0, hour, 0]:+.2f})")
