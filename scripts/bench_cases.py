"""The cases of the bench: model, data, and the files made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import keepdrop
from keepdrop_exporter.options import silent_start

with silent_start():
    import keras

    from keepdrop_exporter import export
    from keepdrop_exporter.formats import onnx_export
    from keepdrop_exporter.plan.draws import make_plan
    from keepdrop_exporter.trace.function import trace

RATE = 0.25
SEED = 7
INPUT = "series"
GATES = {"lstm": 4, "gru": 3, "bidirectional": 8, "head": 0}
"""Products a step under masks of their own; both directions of a Bidirectional. The head has none."""

REPEATED = "repeated batch"
XLA = "XLA"
FLOOR = "floor"


@dataclass(frozen=True)
class Case:
    """A model and how much is asked of it. `targets` are what it has to reach, by contestant.

    They say how many times faster than the contestant keepdrop should be.
    """

    kind: str
    steps: int
    samples: int
    features: int
    units: int
    rows: int = 1
    targets: dict[str, float] = field(default_factory=dict)

    @property
    def name(self) -> str:
        size = f"{self.steps}x{self.samples}x{self.features}x{self.units}"
        return f"{self.kind}-{size}" + (f"-{self.rows}rows" if self.rows > 1 else "")

    @property
    def model_name(self) -> str:
        """The same for cases that ask the same model for more or less."""
        return f"{self.kind}-{self.steps}x{self.features}x{self.units}"


BEATEN = {REPEATED: 1.3, XLA: 1.15}

CASES = (
    Case("lstm", 2, 100, 8, 32, targets=BEATEN),
    Case("lstm", 50, 100, 8, 64, targets=BEATEN),
    Case("lstm", 100, 50, 16, 128, targets=BEATEN),
    Case("lstm", 50, 1000, 8, 64, targets=BEATEN),
    Case("lstm", 50, 100, 8, 64, rows=16, targets=BEATEN),
    Case("gru", 50, 100, 8, 64, targets=BEATEN),
    Case("bidirectional", 50, 100, 8, 64, targets=BEATEN),
    Case("head", 50, 100, 8, 64, targets=BEATEN),
    Case("lstm", 2, 1, 8, 32, targets=BEATEN),
    Case("lstm", 2, 10, 8, 32, targets=BEATEN),
)
BASE = Case("lstm", 50, 100, 8, 64)
SMALL = Case("lstm", 2, 100, 8, 32)
HEAD = Case("head", 50, 100, 8, 64)
ON_ONE_THREAD = (Case("lstm", 50, 500, 8, 64), Case("lstm", 50, 1000, 8, 64), Case("lstm", 100, 500, 16, 128))
STREAMED = (BASE, Case("gru", 50, 100, 8, 64), Case("stacked", 50, 100, 8, 64))


def build_model(case: Case) -> keras.Model:
    keras.utils.set_random_seed(SEED)
    layers = keras.layers
    dropped = {"dropout": RATE, "recurrent_dropout": RATE}
    body: dict[str, Any] = {
        "lstm": lambda: [layers.LSTM(case.units, **dropped)],
        "gru": lambda: [layers.GRU(case.units, **dropped)],
        "bidirectional": lambda: [layers.Bidirectional(layers.LSTM(case.units, **dropped))],
        "stacked": lambda: [
            layers.LSTM(case.units, return_sequences=True, **dropped),
            layers.Dropout(RATE),
            layers.LSTM(case.units, **dropped),
        ],
        "head": lambda: [layers.LSTM(case.units), layers.Dropout(0.5)],
    }
    series = keras.Input((case.steps, case.features), name=INPUT)
    return keras.Sequential([series, *body[case.kind](), layers.Dense(2, name="forecast")])


def data(case: Case) -> NDArray[np.float32]:
    """[rows, steps, features]"""
    return np.random.default_rng(SEED).standard_normal((case.rows, case.steps, case.features), np.float32)


def artifact(case: Case, model: keras.Model, folder: Path) -> Path:
    """What `keepdrop export` writes, verified against Keras. Weights are seeded, so there is one file a model."""
    path = folder / f"{case.model_name}.onnx"
    if not path.exists():
        export(model, path, rows=2, samples=8)
    return path


def streaming_artifact(case: Case, model: keras.Model, folder: Path) -> Path:
    """What `keepdrop export --streaming` writes of it."""
    path = folder / f"{case.model_name}-streaming.onnx"
    if not path.exists():
        export(model, path, streaming=True, rows=2, samples=8)
    return path


def plain_conversion(case: Case, model: keras.Model, exported: Path, folder: Path) -> Path:
    """The same traced model as Keras runs it, converted without the fast lowering."""
    path = folder / f"{case.model_name}-plain.onnx"
    if path.exists():
        return path
    plan = make_plan(model)
    metadata = keepdrop.load(exported, threads=1).metadata
    proto = onnx_export.to_onnx(trace(plan, lower=False), plan.inputs, plan.outputs)
    path.write_bytes(onnx_export.with_metadata(proto.SerializeToString(), metadata))
    return path


def check_equal(got: NDArray[Any], expected: NDArray[Any], what: str) -> None:
    """A benchmark of wrong numbers is worthless. The tolerance is that of `keepdrop verify`."""
    if got.shape != expected.shape or not np.allclose(got, expected, atol=1e-5, rtol=1e-4):
        worst = np.abs(got - expected).max() if got.shape == expected.shape else f"shapes {got.shape}, {expected.shape}"
        raise SystemExit(f"bench: {what}: results differ ({worst}); nothing is worth timing until they agree")
