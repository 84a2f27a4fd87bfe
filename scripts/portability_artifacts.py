"""Four small artifacts and their vectors: an LSTM, masks that are the output, normal numbers, and a stream."""

from __future__ import annotations

from pathlib import Path

import keras

from keepdrop_exporter import export

L = keras.layers
RATES = {"dropout": 0.25, "recurrent_dropout": 0.2}


def _lstm() -> keras.Model:
    return keras.Sequential([keras.Input((12, 3), name="window"), L.LSTM(16, **RATES), L.Dense(2, name="next")])


def _masks() -> keras.Model:
    return keras.Sequential([keras.Input((64,), name="values"), L.Dropout(0.5, name="kept")])


def _normals() -> keras.Model:
    return keras.Sequential([keras.Input((64,), name="values"), L.GaussianNoise(1.0, name="noisy")])


def _stream() -> keras.Model:
    layers = [L.LSTM(8, return_sequences=True, **RATES), L.Dropout(0.3), L.Dense(2, name="next")]
    return keras.Sequential([keras.Input((12, 3), name="window"), *layers])


MODELS = {"lstm": _lstm, "masks": _masks, "normals": _normals, "stream": _stream}


def make(folder: Path) -> None:
    """Write NAME.onnx and its vectors NAME/ for each of MODELS to a folder, which is made."""
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir(parents=True)
    for name, model in MODELS.items():
        keras.utils.set_random_seed(5)
        options = {"streaming": True} if name == "stream" else {}
        export(model(), partial / f"{name}.onnx", vectors=partial / name, **options)
    partial.rename(folder)
