"""Classes: which the model is sure of, which are ambiguous, and which it has never seen.

python classification.py
"""

import keras
import numpy as np

import keepdrop
import keepdrop_exporter

rng = np.random.default_rng(0)
keras.utils.set_random_seed(0)

# Three clouds of points; between two of them a point is ambiguous, far from all of them it is unknown.
centres = np.array([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]])
labels = rng.integers(0, 3, 1500)
points = (centres[labels] + rng.normal(0, 0.6, (1500, 2))).astype("float32")  # [1500, 2]

model = keras.Sequential(
    [
        keras.Input((2,), name="point"),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(32, activation="relu"),
        keras.layers.Dropout(0.3),
        keras.layers.Dense(3, activation="softmax", name="mood"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(points, labels, epochs=10, verbose=0)

keepdrop_exporter.export(model, "moods.onnx")  # the softmax is recognised: the answers below need no more
moods = keepdrop.load("moods.onnx")

asked = np.array([[2.0, 0.0], [-1.0, 0.0], [0.5, -9.0]], "float32")
p = moods.predict(asked, samples=500)
print("             class  probability  entropy  of which the samples disagree about")
for name, *figures in zip(
    ["clear", "ambiguous", "unknown"], p.top.label, p.top.probability, p.predictive_entropy, p.mutual_information
):
    print(f"{name:<12} {figures[0]:5} {figures[1]:12.2f} {figures[2]:8.3f} {figures[3]:8.3f}")

# Is the first class more likely than not? As few samples as that can be said with, for each point.
question = keepdrop.decided(threshold=0.5, confidence=0.99, element=0)
p = moods.predict(asked, until=question, max_samples=2000)
for name, answer, n in zip(["clear", "ambiguous", "unknown"], p.decision, p.n):
    print(f"{name:<12} class 0 is {answer} one half, after {n} samples")
