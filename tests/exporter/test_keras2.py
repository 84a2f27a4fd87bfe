"""What Keras 2 saved computes in Keras 3 what it did in Keras 2.

The files are written, and the numbers to be equal computed, by ``tf_keras`` in a process of its own (keras2_models.py);
where no Keras 2 of today writes a form any more, by hand, and the numbers by the layer's definition in NumPy.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from tensorflow.core.protobuf import saved_model_pb2

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import LoadError, pipeline
from keepdrop_exporter.loading import hdf5, reading
from keepdrop_exporter.loading.keras2 import descriptions, options
from keepdrop_exporter.loading.keras2 import savedmodel as keras2_savedmodel

ATOL = 1e-5
"""The same float32 operators in nearly the same order: 6e-8 at most was seen. Another hard_sigmoid, or two gates of a
recurrence exchanged, moves these outputs by 1e-3 and more."""

ALL = ["h5", "keras", "2.13.1", "2.14.0", "weights", "by_layer", "savedmodel"]
FORMS = {
    "words": ALL,
    "nested": ALL,
    "encoder_decoder": ["h5", "keras", "weights", "by_layer"],
    "attention": ["h5", "keras", "2.13.1"],
    "cells": ["h5", "keras", "2.13.1", "2.14.0"],
    "convolutions": ["h5", "keras", "2.13.1"],
    "images": ["h5", "keras"],
    "films": ["h5", "keras"],
    "fixed_batch": ["h5", "keras"],
    "wrapped_first": ["h5", "keras"],
    "unbuilt_nested": ["h5", "keras"],
    "shared_between": ["h5", "keras"],
    "masked": ["h5", "keras"],
    "merged": ["h5"],
    "activated": ["h5", "keras"],
    "normalised": ["h5", "keras"],
    "fitted": ["h5", "keras", "2.13.1", "2.14.0"],
    "operators": ["h5", "savedmodel"],
    "functions": ["h5", "keras"],
    "backend_functions": ["h5", "keras"],
    "slashes": ["h5"],
    "frozen": ["h5", "2.13.1", "2.14.0", "savedmodel"],
}
EQUAL = [(c, form) for c, forms in FORMS.items() for form in forms if (c, form) != ("shared_between", "keras")]


@pytest.fixture(scope="module")
def keras2(made_once: Callable[..., Path]) -> Path:
    """The folder of what keras2_models.py writes."""

    def make(folder: Path) -> None:
        folder.mkdir()
        script = Path(__file__).with_name("keras2_models.py")
        done = subprocess.run([sys.executable, script, folder, json.dumps(FORMS)], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    return made_once("keras2", make)


def _given(folder: Path, case: str, form: str) -> dict[str, Any]:
    """The arguments of ``load`` for a case in one of its forms."""
    if form in ("weights", "by_layer"):
        return {"path": folder / f"{case}.json", "weights": folder / f"{case}.{form}.h5"}
    if form[0] == "2":
        return {"path": folder / f"{case}.{form}.keras"}
    return {"path": folder / case if form == "savedmodel" else folder / f"{case}.{form}"}


def _difference(model: keras.Model, folder: Path, case: str) -> float:
    with np.load(folder / f"{case}.npz") as arrays:
        inputs = [arrays[name] for name in arrays if not name.startswith("output_")]
        expected = [arrays[name] for name in arrays if name.startswith("output_")]
    got = model(inputs if len(inputs) > 1 else inputs[0], training=False)
    got = got if isinstance(got, list) else [got]
    assert [y.shape for y in got] == [y.shape for y in expected]
    return max(float(np.abs(np.asarray(a) - b).max()) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("case, form", EQUAL)
def test_outputs_are_those_of_keras_2(keras2: Path, case: str, form: str) -> None:
    given = _given(keras2, case, form)
    model = keepdrop_exporter.load(**given)
    assert isinstance(model, keras.Model) and type(model).__module__.startswith("keras.")
    assert _difference(model, keras2, case) <= ATOL


def test_what_was_changed_is_said(keras2: Path) -> None:
    changes = reading.read(keras2 / "slashes.h5").changes
    assert changes[0].startswith("written by Keras 2.") and len(changes) == 2
    assert "encoder/lstm -> encoder_lstm, head/out -> head_out" in changes[1]
    said = "\n".join(reading.read(keras2 / "words.keras").changes)
    assert "hard_sigmoid is Keras 2's, clip(0.2 x + 0.5, 0, 1), and not Keras 3's: lstm, gru, dense" in said
    assert "the input embedding_input [None, 6]" in "\n".join(
        reading.read(_without_inputs(keras2 / "words.h5")).changes
    )
    assert reading.read(keras2 / "fixed_batch.h5").changes[-1] == (
        "the batch size, fixed to 5, was lifted: any number of rows"
    )


def _without_inputs(path: Path) -> Path:
    """The same file as Keras before 2.2 wrote it: no InputLayer, the layers a list."""
    copy = path.with_name(f"{path.stem}_as_list.h5")
    shutil.copy(path, copy)
    with h5py.File(copy, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        layers = [layer for layer in config["config"]["layers"] if layer["class_name"] != "InputLayer"]
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": layers})
        file.attrs["keras_version"] = file["model_weights"].attrs["keras_version"] = "2.0.8"
    return copy


def test_a_sequential_model_whose_configuration_is_a_list(keras2: Path) -> None:
    model = keepdrop_exporter.load(_without_inputs(keras2 / "words.h5"))
    assert _difference(model, keras2, "words") <= ATOL
    assert model.inputs[0].shape == (None, 6) and model.inputs[0].name == "embedding_input"


def test_hdf5_under_the_name_of_an_archive(keras2: Path, tmp_path: Path) -> None:
    shutil.copy(keras2 / "words.h5", tmp_path / "words.keras")
    assert _difference(keepdrop_exporter.load(tmp_path / "words.keras"), keras2, "words") <= ATOL


def test_a_saved_model_from_before_tensorflow_2_5(keras2: Path, tmp_path: Path) -> None:
    """What Keras noted was in saved_model.pb itself."""
    older = shutil.copytree(keras2 / "words", tmp_path / "older")
    noted = keras2_savedmodel._metadata_message().FromString((older / "keras_metadata.pb").read_bytes()).nodes
    saved = saved_model_pb2.SavedModel.FromString((older / "saved_model.pb").read_bytes())
    for node in noted:
        saved.meta_graphs[0].object_graph_def.nodes[node.node_id].user_object.metadata = node.metadata
    (older / "saved_model.pb").write_bytes(saved.SerializeToString())
    (older / "keras_metadata.pb").unlink()
    assert _difference(keepdrop_exporter.load(older), keras2, "words") <= ATOL


def test_a_fixed_batch_is_lifted(keras2: Path) -> None:
    model = keepdrop_exporter.load(keras2 / "fixed_batch.keras")
    assert model.inputs[0].shape[0] is None and model.outputs[0].shape[0] is None
    assert model(np.zeros((3, 7, 3), np.float32)).shape == (3, 4)


def test_a_batch_that_a_layer_needs_stays_fixed(tmp_path: Path) -> None:
    x = keras.Input(batch_shape=(4, 6, 3), name="x")
    keras.Model(x, keras.layers.LSTM(2, stateful=True)(x)).save(tmp_path / "model.keras")
    loaded = reading.read(tmp_path / "model.keras")
    assert loaded.model.inputs[0].shape[0] == 4 and loaded.changes == ()


@pytest.mark.parametrize("case, form", [("frozen", "savedmodel"), ("nested", "by_layer")])
def test_export_and_verify(keras2: Path, tmp_path: Path, case: str, form: str) -> None:
    given = _given(keras2, case, form)
    options = {"weights": given.get("weights"), "rows": 2, "samples": 3}
    report = keepdrop_exporter.export(given["path"], tmp_path / "m.onnx", **options)
    assert report.notes[: len(report.metadata.changes)] == report.metadata.changes != ()
    assert keepdrop.load(report.path).metadata.changes == report.metadata.changes
    keepdrop_exporter.verify(given["path"], report.path, **options)
    assert len(report.metadata.source_sha256) == 64


def test_the_artifact_computes_keras_2s_hard_sigmoid(keras2: Path, tmp_path: Path) -> None:
    """And is noticed if it does not: Keras 3's function of that name is another."""
    model = keras.Sequential([keras.Input((7, 3), name="x"), *keepdrop_exporter.load(keras2 / "frozen.h5").layers[1:3]])
    model.add(keras.layers.Dropout(0.5))
    report = keepdrop_exporter.export(model, tmp_path / "m.onnx", rows=2, samples=3)
    other = keras.models.clone_model(model)
    other.set_weights(model.get_weights())
    other.layers[0].cell.recurrent_activation = keras.activations.hard_sigmoid
    with pytest.raises(keepdrop_exporter.VerifyError, match="differs from Keras"):
        keepdrop_exporter.verify(other, report.path, rows=2, samples=3)


# Each cure taken away: the file does not load any more, or gives other numbers.
def _keras3s_hard_sigmoid(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(descriptions, "keras2_hard_sigmoid", keras.activations.hard_sigmoid)


def _without_key(key: str) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.delitem(options.KEYS, key)


def _without_node_offsets(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(descriptions, "_node_offset", lambda layer: 0)


def _without_moving(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("keepdrop_exporter.loading.keras2.layout_2_13.lay_out_as_keras3", lambda path: None)


UNCURED: list[tuple[str, Callable[[pytest.MonkeyPatch], None]]] = [
    ("words.h5", _keras3s_hard_sigmoid),
    ("films.keras", _keras3s_hard_sigmoid),
    ("words.keras", _without_key("time_major")),
    ("words.h5", _without_key("trainable")),
    ("attention.h5", _without_key("softmax_robust_masking")),
    ("convolutions.h5", _without_key("kernel_initializer")),
    ("nested.h5", _without_node_offsets),
    ("frozen.2.13.1.keras", _without_moving),
    ("fitted.keras", lambda patch: patch.setattr(hdf5, "_OF_TRAINING", set())),
    ("fitted.2.13.1.keras", lambda patch: patch.setattr(hdf5, "_OF_TRAINING", set())),
]


@pytest.mark.parametrize("file, uncure", UNCURED)
def test_without_the_cure(
    keras2: Path, file: str, uncure: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    uncure(monkeypatch)
    case = file.partition(".")[0]
    try:
        difference = _difference(keepdrop_exporter.load(keras2 / file), keras2, case)
    except LoadError:
        return
    assert difference > 100 * ATOL


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _hard(x: np.ndarray) -> np.ndarray:
    return np.clip(0.2 * x + 0.5, 0, 1)


def _rng(seed: int = 0) -> Callable[..., np.ndarray]:
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.normal(0, 0.7, shape).astype(np.float32)


F, H, STEPS = 3, 4, 5
X = _rng(9)(2, STEPS, F)


def _write(path: Path, config: Any, weights: dict[str, dict[str, np.ndarray]], version: str, **attributes: str) -> Path:
    """A file as h5py and Keras 2.0 to 2.2 lay it out."""
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version.encode()
        file.attrs["backend"] = attributes.get("backend", "tensorflow").encode()
        file.attrs["model_config"] = json.dumps(config).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [name.encode() for name in weights]
        for name, arrays in weights.items():
            layer = group.create_group(name)
            layer.attrs["weight_names"] = [f"{name}/{weight}:0".encode() for weight in arrays]
            for weight, array in arrays.items():
                layer.create_dataset(f"{name}/{weight}:0", data=array)
    return path


def _as_list(layer: dict[str, Any]) -> dict[str, Any]:
    return {"class_name": "Sequential", "config": [layer]}


def _options(name: str, **options: Any) -> dict[str, Any]:
    """What Keras 2.0 wrote of a recurrent layer."""
    return {
        "name": name, "trainable": True, "batch_input_shape": [None, STEPS, F], "dtype": "float32",
        "return_sequences": False, "return_state": False, "go_backwards": False, "stateful": False, "units": H,
        "kernel_initializer": {"class_name": "VarianceScaling", "config": {"scale": 1.0, "mode": "fan_avg",
                               "distribution": "normal", "seed": None, "dtype": "float32"}},
        "recurrent_initializer": {"class_name": "Orthogonal", "config": {"gain": 1.0, "seed": None}},
        "bias_initializer": {"class_name": "Zeros", "config": {}}, "kernel_regularizer": None,
        "recurrent_regularizer": None, "bias_regularizer": None, "activity_regularizer": None,
        "kernel_constraint": None, "recurrent_constraint": None, "bias_constraint": None, **options,
    }  # fmt: skip


def _plain_options(name: str, **options: Any) -> dict[str, Any]:
    return _options(
        name, unroll=False, use_bias=True, activation="tanh", recurrent_activation="hard_sigmoid", dropout=0.2,
        recurrent_dropout=0.0, implementation=0, **options,
    )  # fmt: skip


def _lstm(path: Path) -> tuple[Path, np.ndarray]:
    """LSTM of Keras 2.0, gates i f c o, in NumPy."""
    normal = _rng()
    w, u, b = normal(F, 4 * H), normal(H, 4 * H), normal(4 * H)
    layer = {"class_name": "LSTM", "config": _plain_options("lstm_1", unit_forget_bias=True)}
    h = c = np.zeros((2, H))
    for t in range(STEPS):
        i, f, g, o = np.split(X[:, t] @ w + h @ u + b, 4, axis=1)
        c = _hard(f) * c + _hard(i) * np.tanh(g)
        h = _hard(o) * np.tanh(c)
    return _write(path, _as_list(layer), {"lstm_1": {"kernel": w, "recurrent_kernel": u, "bias": b}}, "2.0.8"), h


def _gru(path: Path) -> tuple[Path, np.ndarray]:
    """GRU before there was reset_after, gates z r h."""
    normal = _rng()
    w, u, b = normal(F, 3 * H), normal(H, 3 * H), normal(3 * H)
    h = np.zeros((2, H))
    for t in range(STEPS):
        xz, xr, xh = np.split(X[:, t] @ w + b, 3, axis=1)
        uz, ur, uh = np.split(u, 3, axis=1)
        z, r = _hard(xz + h @ uz), _hard(xr + h @ ur)
        h = z * h + (1 - z) * np.tanh(xh + (r * h) @ uh)
    layer = {"class_name": "GRU", "config": _plain_options("gru_1")}
    return _write(path, _as_list(layer), {"gru_1": {"kernel": w, "recurrent_kernel": u, "bias": b}}, "2.1.2"), h


def _cudnn_gates(w: np.ndarray, u: np.ndarray, b: np.ndarray, gates: int) -> Sequence[Any]:
    """cuDNN's matrices of each gate: it reads Keras' arrays row by row as [H, F] and [H, H]; two biases a gate."""
    input_bias, state_bias = np.split(b, 2)
    return [
        (wg.reshape(H, -1), ug.reshape(H, H), bi, bs)
        for wg, ug, bi, bs in zip(
            np.split(w, gates, 1), np.split(u, gates, 1), np.split(input_bias, gates), np.split(state_bias, gates),
            strict=True,
        )
    ]  # fmt: skip


def _cudnn_lstm_in_numpy(w: np.ndarray, u: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """As NVIDIA's manual defines CUDNN_LSTM."""
    h = c = np.zeros((len(x), H))
    for t in range(x.shape[1]):
        i, f, g, o = (x[:, t] @ wg.T + h @ ug.T + bi + bs for wg, ug, bi, bs in _cudnn_gates(w, u, b, 4))
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        h = _sigmoid(o) * np.tanh(c)
    return h


def _cudnn_lstm(path: Path) -> tuple[Path, np.ndarray]:
    normal = _rng()
    w, u, b = normal(F, 4 * H), normal(H, 4 * H), normal(8 * H)
    layer = {"class_name": "CuDNNLSTM", "config": _options("cu_dnnlstm_1", unit_forget_bias=True)}
    weights = {"cu_dnnlstm_1": {"kernel": w, "recurrent_kernel": u, "bias": b}}
    return _write(path, _as_list(layer), weights, "2.1.6"), _cudnn_lstm_in_numpy(w, u, b, X)


def _cudnn_gru(path: Path) -> tuple[Path, np.ndarray]:
    """As NVIDIA's manual defines CUDNN_GRU; Keras' order of gates is z r h."""
    normal = _rng()
    w, u, b = normal(F, 3 * H), normal(H, 3 * H), normal(6 * H)
    h = np.zeros((2, H))
    for t in range(STEPS):
        (z, r), (wh, uh, bi, bs) = (
            [_sigmoid(X[:, t] @ wg.T + h @ ug.T + bi + bs) for wg, ug, bi, bs in _cudnn_gates(w, u, b, 3)[:2]],
            _cudnn_gates(w, u, b, 3)[2],
        )
        h = z * h + (1 - z) * np.tanh(X[:, t] @ wh.T + bi + r * (h @ uh.T + bs))
    layer = {"class_name": "CuDNNGRU", "config": _options("cu_dnngru_1")}
    weights = {"cu_dnngru_1": {"kernel": w, "recurrent_kernel": u, "bias": b}}
    return _write(path, _as_list(layer), weights, "2.2.4"), h


def _cudnn_both_ways(path: Path) -> tuple[Path, np.ndarray]:
    normal = _rng()
    arrays = {
        f"{way}/{name}": normal(*shape)
        for way in ("forward", "backward")
        for name, shape in {"kernel": (F, 4 * H), "recurrent_kernel": (H, 4 * H), "bias": (8 * H,)}.items()
    }
    ways = np.array(list(arrays.values()), dtype=object).reshape(2, 3)
    y = [_cudnn_lstm_in_numpy(*way, x) for way, x in zip(ways, (X, X[:, ::-1]), strict=True)]
    inner = {"class_name": "CuDNNLSTM", "config": _options("cu_dnnlstm_1", unit_forget_bias=True)}
    config = {"name": "both", "trainable": True, "merge_mode": "concat", "layer": inner}
    # The shape stands in the layer that is wrapped alone.
    layer = {"class_name": "Bidirectional", "config": config}
    return _write(path, _as_list(layer), {"both": arrays}, "2.2.4"), np.concatenate(y, axis=1)


def _normalised(path: Path) -> tuple[Path, np.ndarray]:
    """The axis a list, as TensorFlow 1.x wrote it; then a slope that NumPy once held."""
    normal = _rng()
    arrays = {"gamma": normal(F), "beta": normal(F), "moving_mean": normal(F), "moving_variance": normal(F) ** 2}
    norm = {
        "name": "norm", "trainable": True, "dtype": "float32", "batch_input_shape": [None, STEPS, F], "axis": [2],
        "momentum": 0.99, "epsilon": 0.01, "center": True, "scale": True, "fused": None, "renorm": False,
        "beta_initializer": {"class_name": "Zeros", "config": {"dtype": "float32"}},
    }  # fmt: skip
    slope = {"name": "slope", "trainable": True, "alpha": {"type": "ndarray", "value": 0.25}}
    config = {
        "name": "model",
        "layers": [
            {"class_name": "BatchNormalizationV1", "config": norm},
            {"class_name": "LeakyReLU", "config": slope},
        ],
    }
    y = (X - arrays["moving_mean"]) / np.sqrt(arrays["moving_variance"] + 0.01) * arrays["gamma"] + arrays["beta"]
    written = _write(path, {"class_name": "Sequential", "config": config}, {"norm": arrays}, "2.2.4-tf")
    return written, np.where(y > 0, y, 0.25 * y)


BY_HAND = {
    "LSTM of 2.0": _lstm,
    "GRU without reset_after": _gru,
    "CuDNNLSTM": _cudnn_lstm,
    "CuDNNGRU": _cudnn_gru,
    "Bidirectional CuDNNLSTM": _cudnn_both_ways,
    "BatchNormalizationV1, axis a list; LeakyReLU": _normalised,
}


@pytest.mark.parametrize("case", BY_HAND)
def test_forms_that_no_keras_writes_today(case: str, tmp_path: Path) -> None:
    path, expected = BY_HAND[case](tmp_path / "model.h5")
    got = np.asarray(keepdrop_exporter.load(path)(X))
    np.testing.assert_allclose(got, expected, rtol=0, atol=ATOL)


def test_names_that_lie_in_numbered_parts(tmp_path: Path) -> None:
    """HDF5 has no attribute of more than 64 KiB: Keras cuts long lists."""
    path, expected = _lstm(tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        attributes = file["model_weights/lstm_1"].attrs
        names = list(attributes["weight_names"])
        del attributes["weight_names"]
        attributes["weight_names0"], attributes["weight_names1"] = names[:2], names[2:]
    np.testing.assert_allclose(np.asarray(keepdrop_exporter.load(path)(X)), expected, rtol=0, atol=ATOL)


UNCURED_BY_HAND: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "LSTM of 2.0": _keras3s_hard_sigmoid,
    "CuDNNLSTM": lambda patch: patch.setattr(descriptions, "_CUDNN", {}),
    "CuDNNGRU": lambda patch: patch.setitem(descriptions._CUDNN, "CuDNNGRU", {"recurrent_activation": "sigmoid"}),
    "Bidirectional CuDNNLSTM": lambda patch: patch.setattr(
        "keepdrop_exporter.loading.keras2.weights._from_cudnn", lambda layer, variables, arrays: None
    ),
    "BatchNormalizationV1, axis a list; LeakyReLU": lambda patch: patch.setattr(descriptions, "_RENAMED", {}),
}


@pytest.mark.parametrize("case", UNCURED_BY_HAND)
def test_without_the_cure_by_hand(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, expected = BY_HAND[case](tmp_path / "model.h5")
    UNCURED_BY_HAND[case](monkeypatch)
    try:
        got = np.asarray(keepdrop_exporter.load(path)(X))
    except LoadError:
        return
    assert np.abs(got - expected).max() > 100 * ATOL


def test_that_the_default_of_reset_after_would_be_noticed(tmp_path: Path) -> None:
    """Keras 3's GRU is another where the key is absent: its bias has two rows."""
    path, _ = _gru(tmp_path / "model.h5")
    model = keepdrop_exporter.load(path)
    assert model.layers[0].reset_after is False
    assert "reset_after is False" in "\n".join(reading.read(path).changes)
    assert keras.layers.GRU(H).reset_after is True


def test_a_functional_model_of_a_class_of_its_own_is_named(keras2: Path, tmp_path: Path) -> None:
    """Its call may be another."""
    path = shutil.copy(keras2 / "frozen.h5", tmp_path / "model.h5")
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps({**config, "class_name": "Ensemble"})
    with pytest.raises(LoadError, match="its model is of the class 'Ensemble'.*--custom FILE.py"):
        keepdrop_exporter.load(path)

    class Ensemble(keras.Model):
        pass

    model = keepdrop_exporter.load(path, custom_objects={"Ensemble": Ensemble})
    assert type(model) is Ensemble and _difference(model, keras2, "frozen") <= ATOL


def test_one_mask_for_all_gates_is_said(tmp_path: Path) -> None:
    path, _ = _lstm(tmp_path / "model.h5")
    assert "one input mask for all gates" in "\n".join(reading.read(path).changes)


def test_masked_steps_of_a_bidirectional_layer_before_keras_2_4(keras2: Path, tmp_path: Path) -> None:
    path = shutil.copy(keras2 / "words.h5", tmp_path / "model.h5")
    for version, said in {"2.2.4": True, "2.2.4-tf": False, "2.4.0": False}.items():
        with h5py.File(path, "r+") as file:
            file.attrs["keras_version"] = version
        line = "masked steps of a sequence are zero, as in tf.keras"
        assert (line in "\n".join(reading.read(path).changes)) == said


def test_a_layer_that_two_nested_models_share_is_refused_where_it_is_stored_once(keras2: Path) -> None:
    with pytest.raises(LoadError, match="its weights do not fit"):
        keepdrop_exporter.load(keras2 / "shared_between.keras")


def _layer(name: str, **options: Any) -> dict[str, Any]:
    return {"class_name": name, "config": {"name": "it", "batch_input_shape": [None, STEPS, F], **options}}


REFUSED: dict[str, tuple[Any, dict[str, str], str]] = {
    "time first": (
        _layer("LSTM", units=4, recurrent_activation="sigmoid", time_major=True),
        {},
        "layer 'it' has time_major=True, which Keras 3 does not have; load it in Keras 2, build that layer otherwise "
        "and save it again",
    ),
    "renorm": (
        _layer("BatchNormalization", renorm=True),
        {},
        "layer 'it' has renorm=True, which Keras 3 does not have; load it in Keras 2, build that layer otherwise and "
        "save it again",
    ),
    "no recurrent_activation": (
        _layer("LSTM", units=4),
        {},
        "LSTM 'it' does not say its recurrent_activation, whose default was hard_sigmoid or sigmoid by version; load "
        "it in the Keras 2 that wrote it and save it again",
    ),
    "a dropped layer": (
        _layer("LocallyConnected1D", filters=2),
        {},
        "layer 'it' is a LocallyConnected1D, a layer that Keras 3 dropped; Keras 3 cannot load it: load the model in "
        "Keras 2, replace it by a layer that Keras 3 has, and save it again",
    ),
    "an operation": (
        _layer("TFOpLambda", function="linalg.svd"),
        {},
        "layer 'it' is a TFOpLambda (linalg.svd), a TensorFlow operation between layers; Keras 3 cannot load it: load "
        "the model in Keras 2, replace it by a layer that Keras 3 has, and save it again",
    ),
    "a class nobody gave": (
        _layer("Peephole", units=3),
        {},
        "layer 'it' is of the class 'Peephole', which is not Keras'; give it: --custom FILE.py with the file that "
        "defines it, or custom_objects={'Peephole': Peephole} in Python",
    ),
    "a function nobody gave": (
        _layer("Dense", units=3, activation="squash"),
        {},
        "layer 'it' calls the function 'squash', which is not Keras'; give it: --custom FILE.py with the file that "
        "defines it, or custom_objects={'squash': squash} in Python",
    ),
    "Theano's kernels": (
        _layer("Conv1D", filters=2),
        {"backend": "theano"},
        "it was written with the backend Theano, which flips the kernels of Conv1D 'it'; load it in Keras 2 with the "
        "TensorFlow backend and save it again",
    ),
    "Keras 1": (
        _layer("Dense"),
        {"version": "1.2.2"},
        "it was written by Keras 1.2.2; files of Keras 2 and 3 can be loaded: open it in Keras 2.0 to 2.3, which still "
        "read those of Keras 1, and save it again",
    ),
    "no shape": (
        {"class_name": "Dense", "config": {"name": "it", "units": 2}},
        {},
        "model 'sequential' does not say the shape of its input; load it in Keras 2, call it once on data and save it "
        "again",
    ),
    "a Lambda": (
        _layer("Lambda", function=["4wEA", None, None], function_type="lambda"),
        {},
        "'it' is a Lambda layer, whose Python code would run on loading; give what it does as a function of the "
        "layer's name, def it(x): ..., in --custom FILE.py (custom_objects={'it': ...} in Python), or run the code, if "
        "you trust who made the file, with --trust-code (trust_code=True in Python)",
    ),
}


def test_an_option_that_nobody_knows(tmp_path: Path, refuses: Callable[..., None]) -> None:
    """The text is Keras' own."""
    refuses(_write(tmp_path / "model.h5", _as_list(_layer("Dense", units=2, other=1)), {}, "2.2.4"), ["other", "Dense"])


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_kept_is_refused(case: str, tmp_path: Path, refuses: Callable[..., None]) -> None:
    layer, options, text = REFUSED[case]
    version, backend = options.get("version", "2.2.4"), options.get("backend", "tensorflow")
    refuses(_write(tmp_path / "model.h5", _as_list(layer), {}, version, backend=backend), text)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The cost of a run is not what these tests are about."""
    monkeypatch.setattr(pipeline, "measure_cost", lambda *args: None)
    yield
