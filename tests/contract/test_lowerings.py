"""How models are lowered: what runs once a row, what one run of the generator serves. The layers: ``test_layers``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import pipeline
from keepdrop_exporter.formats import onnx_recurrence
from keepdrop_exporter.loading.keras2.activations import keras2_hard_sigmoid
from keepdrop_exporter.trace import numbers

from . import reference

L = keras.layers
STEPS, FEATURES, UNITS = 6, 3, 5
ROWS = [2, 2**33 + 5]
SAMPLES = 4

CELLS: dict[str, Callable[..., keras.layers.RNN]] = {
    "lstm": L.LSTM,
    "gru": L.GRU,
    "gru reset before": lambda *args, **options: L.GRU(*args, reset_after=False, **options),
    "rnn": L.SimpleRNN,
}


def model_of(branches: list[Callable[[Any], Any]], before: Sequence[Callable[[Any], Any]] = ()) -> keras.Model:
    """A model with an output for each branch, all of them fed by what ``before`` makes of the input."""
    keras.utils.set_random_seed(3)
    x = h = keras.Input((STEPS, FEATURES), name="x")
    for layer in before:
        h = layer(h)
    outputs = []
    for branch in branches:
        y = branch(h)
        # A model without any draw is refused; a last dropout makes each branch random.
        outputs += [L.Dropout(0.1)(part) for part in (y if isinstance(y, (list, tuple)) else [y])]
    model = keras.Model(x, outputs)
    for weight in model.weights:
        if "bias" in weight.name:
            weight.assign(np.random.default_rng(1).normal(0, 0.5, weight.shape))
    return model


@pytest.fixture(autouse=True)
def not_verified(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests compare with Keras themselves; to let the export do it as well would take twice the time."""
    if "verified" not in request.keywords:
        monkeypatch.setattr(pipeline, "verify_plan", lambda *args, **options: None)
        monkeypatch.setattr(pipeline, "measure_cost", lambda *args: None)


def exported(model: keras.Model, folder: Path) -> tuple[keepdrop.Model, onnx.ModelProto]:
    keepdrop_exporter.export(model, folder / "m.onnx")
    return keepdrop.load(folder / "m.onnx", threads=1), onnx.load(folder / "m.onnx")


def compare(model: keras.Model, artifact: keepdrop.Model, x: np.ndarray) -> None:
    expected = reference.samples(model, [x], ROWS, SAMPLES, seed=7)
    reference.assert_samples_equal(artifact.sample(x, samples=SAMPLES, seed=7, rows=ROWS), expected)


def some_input() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(len(ROWS), STEPS, FEATURES)).astype("float32")


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


def test_the_hard_sigmoid_of_keras_2(tmp_path: Path) -> None:
    rates = (0.0, 0.25)
    model = model_of([L.LSTM(UNITS, recurrent_activation=keras2_hard_sigmoid, recurrent_dropout=r) for r in rates])
    artifact, proto = exported(model, tmp_path)
    compare(model, artifact, some_input())
    # Fused operators' alphas stand in a list, those in the body of a Scan one by one.
    bodies = [a.g for node in proto.graph.node for a in node.attribute if node.op_type == "Scan" and a.name == "body"]
    hard = [node for graph in (proto.graph, *bodies) for node in graph.node if node.op_type == "HardSigmoid"]
    assert any(a.name == "alpha" and a.f == np.float32(0.2) for node in hard for a in node.attribute)
    fused = [a.floats for node in proto.graph.node for a in node.attribute if a.name == "activation_alpha"]
    assert any(np.float32(0.2) in alphas for alphas in fused)


def test_what_is_dropped_is_zero_even_where_it_was_not_finite(tmp_path: Path) -> None:
    model = model_of([L.Flatten()], before=[L.Dense(4, activation="exponential"), L.Dropout(0.5)])
    artifact, _ = exported(model, tmp_path)
    x = some_input() * 1e4
    assert np.isinf(artifact.sample(x)).any()
    compare(model, artifact, x)


@pytest.mark.verified
def test_a_wrong_step_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lstm = onnx_recurrence._lstm

    def swapped(r: Any, body: Any, step: Any, h: str, c: str) -> Any:
        sums = step.sums
        monkeypatch.setattr(step, "sums", lambda h, gates, biases: [sums(h, gates, biases)[g] for g in (1, 0, 2, 3)])
        return lstm(r, body, step, h, c)

    monkeypatch.setitem(onnx_recurrence._CELLS, "LSTM", swapped)
    with pytest.raises(keepdrop_exporter.VerifyError, match="differs from Keras"):
        keepdrop_exporter.export(model_of([L.LSTM(UNITS, recurrent_dropout=0.2)]), tmp_path / "m.onnx")


def test_one_run_of_the_generator_serves_all_draws(tmp_path: Path) -> None:
    alone = model_of([L.LSTM(8, dropout=0.2, recurrent_dropout=0.2)])
    many = model_of([make(8, dropout=0.2, recurrent_dropout=0.2) for make in CELLS.values()])
    counts = [operators(exported(model, tmp_path)[1]).count("BitwiseXor") for model in (alone, many)]
    assert counts[0] == counts[1]


def test_long_draws_get_runs_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 18, 30 and 30 numbers none go together here; and each run holds the pairs of its blocks apart."""
    model = model_of([lambda x: L.Dropout(0.4)(L.Dense(5)(L.Dropout(0.3)(x)))])
    artifact, proto = exported(model, tmp_path)
    compare(model, artifact, some_input())
    assert operators(proto).count("GreaterOrEqual") == 2
    monkeypatch.setattr(numbers, "_LONG", 16)
    monkeypatch.setattr(numbers, "_MOST_NUMBERS", 40)
    artifact, proto = exported(model, tmp_path)
    compare(model, artifact, some_input())
    assert operators(proto).count("GreaterOrEqual") == 3 * 4


def test_what_precedes_the_first_draw_runs_once_a_row(tmp_path: Path) -> None:
    inner = keras.Sequential([keras.Input((STEPS, FEATURES)), L.LSTM(UNITS, name="below"), L.Dropout(0.5), L.Dense(2)])
    x = keras.Input((STEPS, FEATURES), name="x")
    other = keras.Input((FEATURES,), name="other")
    joined = L.Concatenate()([inner(x), L.Dense(3)(other)])
    model = keras.Model([x, other], L.Dense(2)(joined))
    keepdrop_exporter.export(model, tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    # The LSTM's output, watched: [1, B, units] whatever the samples.
    (lstm,) = [node for node in proto.graph.node if node.op_type == "LSTM"]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(lstm.output[1], onnx.TensorProto.FLOAT, None))
    onnx.save(proto, tmp_path / "watched.onnx")
    shapes = run_bare(tmp_path / "watched.onnx", {"x": some_input(), "other": some_input()[:, 0]}, samples=9)
    assert shapes == [(9, 2, 2), (1, 2, UNITS)]


def test_a_layer_after_a_draw_runs_once_a_sample(tmp_path: Path) -> None:
    """The control of the test above: what it watches does grow where the LSTM comes after the draw."""
    x = keras.Input((STEPS, FEATURES), name="x")
    model = keras.Model(x, L.LSTM(UNITS)(L.Dropout(0.5)(x)))
    keepdrop_exporter.export(model, tmp_path / "m.onnx")
    proto = onnx.load(tmp_path / "m.onnx")
    (lstm,) = [node for node in proto.graph.node if node.op_type == "LSTM"]
    proto.graph.output.append(onnx.helper.make_tensor_value_info(lstm.output[1], onnx.TensorProto.FLOAT, None))
    onnx.save(proto, tmp_path / "watched.onnx")
    assert run_bare(tmp_path / "watched.onnx", {"x": some_input()}, samples=9)[1] == (1, 18, UNITS)


def run_bare(path: Path, inputs: dict[str, np.ndarray], samples: int) -> list[tuple[int, ...]]:
    """The shapes of a graph's outputs, by onnxruntime alone."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    batch = len(next(iter(inputs.values())))
    feeds = {**inputs, "seed": np.array(0), "rows": np.arange(batch)}
    feeds |= {"num_samples": np.array(samples), "first_sample": np.array(0)}
    return [output.shape for output in session.run(None, feeds)]
