"""Writes the artifacts in this folder, which are kept: later versions have to read what this one wrote.

They are checked and sampled in tests/runtime without TensorFlow. Run with an environment that has the exporter.
"""

from __future__ import annotations

from pathlib import Path

import keras
from keras import layers

import keepdrop_exporter

FOLDER = Path(__file__).parent


def forecaster() -> keras.Model:
    """An LSTM with both dropouts, which becomes a Scan."""
    return keras.Sequential(
        [
            keras.Input((5, 2), name="window"),
            layers.LSTM(2, dropout=0.25, recurrent_dropout=0.5, name="lstm"),
            layers.Dense(1, name="forecast"),
        ]
    )


def sentence() -> keras.Model:
    """Two inputs of unlike dtypes, one of any length; two outputs; a GRU that becomes a fused operator."""
    words = keras.Input((None,), dtype="int32", name="words")
    extra = keras.Input((4,), name="extra")
    read = layers.GRU(3, dropout=0.3, name="gru")(layers.Embedding(11, 4, name="embedding")(words))
    joined = layers.Concatenate(name="joined")([read, layers.GaussianNoise(0.5, name="noise")(extra)])
    return keras.Model([words, extra], [layers.Dense(2, name="mood")(joined), layers.Dense(1, name="length")(read)])


if __name__ == "__main__":
    for build in (forecaster, sentence):
        keras.utils.set_random_seed(1)
        keepdrop_exporter.export(build(), FOLDER / f"{build.__name__}.onnx")
