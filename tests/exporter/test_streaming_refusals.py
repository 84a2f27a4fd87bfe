"""What cannot go on from chunk to chunk is refused, by the layer's name and with the reason."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import pytest
from keras import layers as L

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import Refusal, pipeline

X = Any


@keras.saving.register_keras_serializable()
class Shifted(keras.layers.Layer):
    """Adds each step to the one before it."""

    def call(self, x: X) -> X:
        return x + keras.ops.roll(x, 1, axis=1)


def attended(x: X) -> X:
    return L.MultiHeadAttention(1, 2, name="bad")(x, x)


def added_to_last(x: X) -> X:
    return L.Add(name="bad")([x, L.RepeatVector(6)(L.LSTM(3)(x))])


def positions(x: X) -> X:
    return x + keras.ops.reshape(keras.ops.arange(18, dtype="float32"), (1, 6, 3))


def started(x: X) -> X:
    _, h, c = L.LSTM(3, return_state=True)(x)
    return L.LSTM(3, name="bad")(x, initial_state=[h, c])


def slope(x: X) -> X:
    return L.PReLU(name="bad")(x)


REFUSED: dict[str, tuple[Callable[[X], X], str]] = {
    "Bidirectional": (L.Bidirectional(L.LSTM(2), name="bad"), "reads the sequence from its end"),
    "go_backwards": (L.GRU(2, go_backwards=True, name="bad"), "reads the sequence from its end"),
    "attention": (attended, "attends to all steps"),
    "global pooling": (L.GlobalAveragePooling1D(name="bad"), "pools over all steps"),
    "pooling": (L.MaxPooling1D(name="bad"), "pools over steps"),
    "centred convolution": (L.Conv1D(2, 3, padding="same", name="bad"), "padding='causal' it streams"),
    "strided convolution": (L.Conv1D(2, 3, strides=2, padding="causal", name="bad"), "strides"),
    "Flatten": (L.Flatten(name="bad"), "joins the steps"),
    "Reshape": (L.Reshape((18,), name="bad"), "move values between steps"),
    "Permute": (L.Permute((2, 1), name="bad"), "moves the time axis"),
    "normalization over time": (L.LayerNormalization(axis=1, name="bad"), "along the time axis"),
    "softmax over time": (L.Softmax(axis=1, name="bad"), "along the time axis"),
    "concatenation over time": (lambda x: L.Concatenate(axis=1, name="bad")([x, x]), "along the time axis"),
    "a slope for each step": (slope, "a slope for each step"),
    "an activation of one's own": (L.Activation(lambda x: x, name="bad"), "activation of its own code"),
    "a layer of one's own": (Shifted(name="bad"), "not known to treat every step alone"),
    "an initial state": (started, "starts from a state"),
    "two times": (added_to_last, "another time axis or none"),
    "positions": (positions, "another time axis or none"),
    "dropout within steps": (L.TimeDistributed(L.Dropout(0.3), name="bad"), "draws within each step"),
    "an earlier step": (lambda x: x[:, 0, :], "another part of the sequence"),
    "a share of noise for each of some steps": (L.Dropout(0.3, noise_shape=(None, 6, 1), name="bad"), "for 6 steps"),
}


def chain(layer: Callable[[X], X]) -> keras.Model:
    x = keras.Input((6, 3), name="x")
    # SpatialDropout1D makes each model random before what is refused.
    return keras.Model(x, layer(L.SpatialDropout1D(0.2)(x)))


@pytest.mark.parametrize("name", REFUSED)
def test_refused_with_name_and_reason(name: str, tmp_path: Path) -> None:
    layer, reason = REFUSED[name]
    with pytest.raises(Refusal, match=reason) as refused:
        keepdrop_exporter.export(chain(layer), tmp_path / "s.onnx", streaming=True)
    if name not in ("positions", "an earlier step"):
        assert "layer 'bad'" in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def two_lengths() -> keras.Model:
    a, b = keras.Input((6, 3), name="a"), keras.Input((5, 3), name="b")
    return keras.Model([a, b], L.Concatenate()([L.LSTM(2, dropout=0.2)(a), L.LSTM(2)(b)]))


def features() -> keras.Model:
    a, b = keras.Input((6, 3), name="a"), keras.Input((6,), name="b")
    return keras.Model([a, b], L.Concatenate()([L.LSTM(2, dropout=0.2)(a), L.Dense(2, name="bad")(b)]))


def named_as_a_control() -> keras.Model:
    x = keras.Input((6, 3), name="steps_seen")
    return keras.Model(x, L.LSTM(2, dropout=0.2)(x))


def stacked_with_mask() -> keras.Model:
    x = keras.Input((6, 3), name="x")
    cells = [L.LSTMCell(2, dropout=0.2), L.LSTMCell(2)]
    return keras.Model(x, L.RNN(cells, name="bad")(L.Masking()(x)))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (two_lengths, "different lengths"),
        (features, "takes the steps of a sequence of single numbers"),
        (named_as_a_control, "called 'steps_seen'"),
        (stacked_with_mask, "skips masked steps with stacked cells"),
    ],
)
def test_refused_models(build: Callable[[], keras.Model], reason: str, tmp_path: Path) -> None:
    with pytest.raises(Refusal, match=reason):
        keepdrop_exporter.export(build(), tmp_path / "s.onnx", streaming=True)


def test_names_of_the_model_are_left_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "verify_stream", lambda *args, **options: None)
    monkeypatch.setattr(pipeline, "measure_push", lambda *args: None)
    x = keras.Input((6, 3), name="stream_state_0")
    model = keras.Model(x, L.SimpleRNN(2, dropout=0.2, name="y")(x))
    report = keepdrop_exporter.export(model, tmp_path / "s.onnx", streaming=True)
    assert report.metadata.stream is not None
    assert [state.name for state in report.metadata.stream.states] == ["stream__state_0"]


def test_a_streaming_artifact_takes_no_whole_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "verify_stream", lambda *args, **options: None)
    monkeypatch.setattr(pipeline, "measure_push", lambda *args: None)
    report = keepdrop_exporter.export(chain(L.SimpleRNN(2)), tmp_path / "s.onnx", streaming=True)
    assert report.metadata.inputs[0].shape == (None, None, 3)
    with pytest.raises(keepdrop.InputError, match="streams"):
        keepdrop.load(tmp_path / "s.onnx").sample([[[0.0, 0.0, 0.0]]])
