"""Sensors that deliver a reading at a time: each answer costs one step, and the state survives a restart.

python streaming.py
"""

import keras
import numpy as np

import keepdrop
import keepdrop_exporter

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)

start = rng.uniform(0, 2 * np.pi, (800, 1, 1))
series = np.sin(start + 0.3 * np.arange(21)[:, None]) + rng.normal(0, 0.05, (800, 21, 1))
x, y = series[:, :-1].astype("float32"), series[:, -1].astype("float32")

readings = keras.Input((20, 1), name="readings")
memory = keras.layers.GRU(16, dropout=0.1, recurrent_dropout=0.1)(readings)
model = keras.Model(readings, keras.layers.Dense(1, name="next")(memory))
model.compile("adam", "mse")
model.fit(x, y, epochs=4, verbose=0)

# Such a file keeps its state and its masks from reading to reading.
keepdrop_exporter.export(model, "stream.onnx", streaming=True)

model = keepdrop.load("stream.onnx")
stream = model.stream(samples=100, seed=7, rows=[101, 205])  # the ids of two sensors
for t in range(10):
    p = stream.push(x[:2, t])  # [2, 1]: a reading of each
    print(f"step {t + 1:2}: " + ", ".join(f"{m:6.2f} ± {s:.2f}" for m, s in zip(p.mean[:, 0], p.std[:, 0])))

# The device restarts.
with open("stream.npz", "wb") as file:
    file.write(stream.save())
stream = model.resume("stream.npz")
p = stream.push(x[:2, 10:])  # several readings at once, where some have piled up
print(f"after {stream.steps_seen[101]} readings: {p.mean[0, 0]:.2f}, and {y[0, 0]:.2f} came")
