"""What runs on the device: keepdrop, numpy and the file that a workstation exported; no TensorFlow.

python device.py forecaster.onnx
"""

import sys

import numpy as np

import keepdrop

model = keepdrop.load(sys.argv[1], threads=1, memory="200MB")  # neither is needed; both are bounds
shape = model.metadata.inputs[0].shape[1:]
print(f"{model.metadata.inputs[0].name} {list(shape)}, {model.metadata.draws_per_row} draws a row")

# Here stands what the sensor delivers, in the shape the model was trained on: [batch, ...].
x = np.random.default_rng(0).standard_normal((2, *(size or 10 for size in shape))).astype(np.float32)
p = model.predict(x, samples=100, seed=7)
low, high = p.interval(0.9)
for row in range(len(x)):
    print(f"row {row}: mean {p.mean[row]}, std {p.std[row]}, 90 % of the samples from {low[row]} to {high[row]}")

# Sample numbers go on where another call ended: the same numbers as in one call for 150.
later = model.sample(x, samples=50, seed=7, first_sample=100)
assert np.allclose(later, model.sample(x, samples=150, seed=7)[100:], rtol=1e-4, atol=1e-5)
