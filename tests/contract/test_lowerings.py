"""Every lowering of a recurrence against stock Keras, over the cross product of the layers' options.

Many layers share a model, one output each, so that one export covers them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import onnx_recurrence, pipeline
from keepdrop_exporter.activations import keras2_hard_sigmoid

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
OPTIONS = list(itertools.product((0.0, 0.3), (0.0, 0.25), (False, True), (False, True)))


def layers(make: Callable[..., keras.layers.RNN], **options: Any) -> list[keras.layers.RNN]:
    """A layer for every combination of dropout, recurrent dropout, sequences and direction."""
    return [
        make(UNITS, dropout=d, recurrent_dropout=r, return_sequences=s, go_backwards=b, **options)
        for d, r, s, b in OPTIONS
    ]


def model_of(
    branches: list[Callable[[Any], Any]], before: Sequence[Callable[[Any], Any]] = (), steps: int | None = STEPS
) -> keras.Model:
    """A model with an output for each branch, all of them fed by what ``before`` makes of the input."""
    keras.utils.set_random_seed(3)
    x = h = keras.Input((steps, FEATURES), name="x")
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


def some_input(steps: int = STEPS, gaps: bool = False) -> np.ndarray:
    x = np.random.default_rng(0).normal(size=(len(ROWS), steps, FEATURES)).astype("float32")
    if gaps:
        x[0, [0, 2]] = 0
        x[1, [1, 4, 5]] = 0
    return x


def operators(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize("cell", CELLS)
def test_dropouts_sequences_and_directions(cell: str, tmp_path: Path) -> None:
    model = model_of(layers(CELLS[cell]))
    artifact, proto = exported(model, tmp_path)
    compare(model, artifact, some_input())
    found = operators(proto)
    assert "Loop" not in found
    # Where recurrent dropout is 0 the fused operator applies, elsewhere the written step.
    assert sum(found.count(op) for op in ("LSTM", "GRU", "RNN")) == len(OPTIONS) // 2
    assert found.count("Scan") == len(OPTIONS) // 2


@pytest.mark.parametrize("cell", CELLS)
def test_masked_steps(cell: str, tmp_path: Path) -> None:
    branches = layers(CELLS[cell])[::5] + layers(CELLS[cell], zero_output_for_mask=True)[::3]
    model = model_of(branches, before=[L.Masking()])
    artifact, proto = exported(model, tmp_path)
    compare(model, artifact, some_input(gaps=True))
    assert "Loop" not in operators(proto)


@pytest.mark.parametrize("cell", CELLS)
def test_sequences_that_differ_by_sample(cell: str, tmp_path: Path) -> None:
    model = model_of(layers(CELLS[cell])[::3], before=[L.Dropout(0.2)])
    artifact, proto = exported(model, tmp_path)
    compare(model, artifact, some_input())
    assert "Loop" not in operators(proto)


def test_any_length(tmp_path: Path) -> None:
    kinds = [make(UNITS, dropout=0.3, recurrent_dropout=0.25, return_sequences=True) for make in CELLS.values()]
    model = model_of([*kinds, L.TimeDistributed(L.Dense(2))], steps=None)
    artifact, _ = exported(model, tmp_path)
    for length in (1, 9):
        compare(model, artifact, some_input(length))


def test_states_wrappers_and_cells(tmp_path: Path) -> None:
    recurrent = {"dropout": 0.3, "recurrent_dropout": 0.25}

    def from_states(h: Any) -> Any:
        _, *states = L.LSTM(UNITS, return_state=True, **recurrent)(h)
        return L.LSTM(UNITS, **recurrent)(h, initial_state=states)

    branches: list[Callable[[Any], Any]] = [
        L.Bidirectional(L.LSTM(UNITS, return_sequences=True, **recurrent)),
        L.Bidirectional(L.SimpleRNN(UNITS, **recurrent), merge_mode=None),
        L.Bidirectional(L.GRU(UNITS)),
        L.LSTM(UNITS, return_state=True, **recurrent),
        L.LSTM(UNITS, return_state=True, return_sequences=True),
        L.GRU(UNITS, return_state=True, recurrent_dropout=0.2),
        L.SimpleRNN(UNITS, unroll=True, **recurrent),
        L.LSTM(UNITS, use_bias=False, **recurrent),
        L.GRU(UNITS, use_bias=False, **recurrent),
        L.GRU(UNITS, dropout=0.2, implementation=1, use_cudnn=False),
        L.RNN(L.LSTMCell(UNITS, **recurrent), return_sequences=True),
        L.RNN([L.GRUCell(UNITS, **recurrent), L.LSTMCell(4, **recurrent)]),
        from_states,
    ]
    model = model_of(branches)
    artifact, _ = exported(model, tmp_path)
    compare(model, artifact, some_input())


def test_activations(tmp_path: Path) -> None:
    names = ["relu", "linear", "hard_sigmoid", "softsign", "softplus", "elu", "exponential", "silu"]
    # Each activation in a fused operator and in a written step, in one cell and in another.
    cells = itertools.cycle((L.LSTM, L.GRU, L.SimpleRNN))
    branches = [
        next(cells)(UNITS, activation=name, dropout=0.2, recurrent_dropout=rate)
        for rate in (0.0, 0.25)
        for name in names
    ]
    branches += [
        L.LSTM(UNITS, recurrent_activation=sigmoid, recurrent_dropout=rate)
        for sigmoid in ("hard_sigmoid", keras2_hard_sigmoid)
        for rate in (0.0, 0.25)
    ]
    model = model_of(branches)
    for weight in model.trainable_weights:
        weight.assign(weight / 5)  # so that the unbounded ones stay finite
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
    feeds = {**inputs, "seed": np.array(0), "rows": np.arange(batch), "num_samples": np.array(samples)}
    return [output.shape for output in session.run(None, feeds)]
