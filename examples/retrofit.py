"""A model that was trained without dropout, or with other rates than you want to sample with.

python retrofit.py
"""

import keras
import numpy as np

import keepdrop
import keepdrop_exporter

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)

x = rng.standard_normal((800, 12, 3)).astype("float32")
y = x[:, :, 0].sum(axis=1, keepdims=True)

readings = keras.Input((12, 3), name="readings")
memory = keras.layers.LSTM(16, name="memory")(readings)
model = keras.Model(readings, keras.layers.Dense(1, name="level")(memory))
model.compile("adam", "mse")
model.fit(x, y, epochs=3, verbose=0)
model.save("plain.keras")

# Masks on what goes into layers; the weights stay as they are, and that is checked.
rates = {"memory.input": 0.1, "memory.recurrent": 0.1, "level.input": 0.2}
keepdrop_exporter.export("plain.keras", "level.onnx", dropout=rates)
p = keepdrop.load("level.onnx").predict(x[:4], samples=200)
for mean, std, plain in zip(p.mean[:, 0], p.std[:, 0], model.predict(x[:4], verbose=0)[:, 0]):
    print(f"{mean:6.2f} ± {std:.2f}   without dropout {plain:6.2f}")

# The same as a stock Keras model, for those who go on in Keras.
changed = keepdrop_exporter.with_dropout(model, rates)
changed.save("with_dropout.keras")
for layer in changed.layers:
    if hasattr(layer, "dropout"):
        print(f"rates now: {layer.name} {layer.dropout:g} and {layer.recurrent_dropout:g}")
