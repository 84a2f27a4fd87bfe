"""What circulates and is no plain float32 model with inputs: exact as it is, or refused by the layer's name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import keepdrop_exporter
from keepdrop_exporter import LoadError, Refusal, VerifyError, pipeline
from keepdrop_exporter.loading import custom_code, fitting, reading

ATOL = 1e-6
"""The same operators on the same float32 numbers."""

X = np.random.default_rng(0).standard_normal((2, 7, 3)).astype(np.float32)
Z = np.random.default_rng(1).standard_normal((2, 5)).astype(np.float32)

registered = keras.saving.register_keras_serializable("fitting")


@registered
class Net(keras.Model):
    """A model whose class makes its layers."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.memory, self.drop, self.out = layers.LSTM(4, dropout=0.2), layers.Dropout(0.3), layers.Dense(2)

    def call(self, x: Any, training: Any = None) -> Any:
        return self.out(self.drop(self.memory(x, training=training), training=training))


@registered
class Both(keras.Model):
    """The same with two arguments, of which Keras notes the first alone."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.memory, self.dense = layers.LSTM(4, dropout=0.2), layers.Dense(4)

    def call(self, x: Any, extra: Any = None, training: Any = None) -> Any:
        return self.memory(x, training=training) + self.dense(extra)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cost of a run is not what these tests are about."""
    monkeypatch.setattr(pipeline, "measure_cost", lambda *args: None)


def _exported(model: Any, folder: Path, **options: Any) -> keepdrop_exporter.Report:
    """The report of an export, which compares with Keras."""
    return keepdrop_exporter.export(model, folder / "m.onnx", rows=2, samples=3, **options)


def test_a_model_whose_class_makes_its_layers(tmp_path: Path) -> None:
    net = Net(name="net")
    expected = net(X)
    net.save(tmp_path / "net.keras")
    model = keepdrop_exporter.load(tmp_path / "net.keras")
    np.testing.assert_allclose(model(X), expected, rtol=0, atol=ATOL)
    report = _exported(tmp_path / "net.keras", tmp_path)
    assert [t.shape for t in report.metadata.inputs] == [(None, 7, 3)]
    assert "the model takes inputs of (7, 3), as it was built with" in report.metadata.changes
    assert _exported(net, tmp_path).metadata.changes == report.metadata.changes


def test_arguments_that_the_file_does_not_note(tmp_path: Path) -> None:
    both = Both(name="both")
    expected = both(X, extra=Z)
    both.save(tmp_path / "both.keras")
    with pytest.warns(UserWarning), pytest.raises(LoadError, match="its layer 'dense.*' is not built.*--input-shape"):
        keepdrop_exporter.load(tmp_path / "both.keras")
    model = keepdrop_exporter.load(tmp_path / "both.keras", input_shapes={"x": (7, 3), "extra": (5,)})
    np.testing.assert_allclose(model([X, Z]), expected, rtol=0, atol=ATOL)
    with pytest.raises(LoadError, match="does not take inputs of x \\(7, 3\\), other \\(5,\\)"):
        keepdrop_exporter.load(tmp_path / "both.keras", input_shapes={"x": (7, 3), "other": (5,)})


def test_a_model_that_nobody_called(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="does not say what its inputs are; give their shapes.*--input-shape 24,3"):
        _exported(Net(name="net"), tmp_path)
    report = _exported(Net(name="net"), tmp_path, input_shapes=(None, 3))
    assert [t.shape for t in report.metadata.inputs] == [(None, None, 3)]


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_mixed_policies_compute_in_float32(suffix: str, tmp_path: Path) -> None:
    policy = keras.dtype_policies.DTypePolicy("mixed_float16")
    x = keras.Input((7, 3))
    lstm = layers.LSTM(4, dropout=0.2, recurrent_dropout=0.2, dtype=policy, name="lstm")
    model = keras.Model(x, layers.Dense(1, dtype="float32")(lstm(x)))
    model.save(tmp_path / f"mixed{suffix}")
    plain = keras.Sequential([keras.Input((7, 3)), layers.LSTM(4, recurrent_dropout=0.2), layers.Dense(1)])
    plain.set_weights([w for w in model.get_weights() if w.dtype == np.float32])
    loaded = keepdrop_exporter.load(tmp_path / f"mixed{suffix}")
    np.testing.assert_allclose(loaded(X), plain(X), rtol=0, atol=ATOL)
    assert np.abs(np.asarray(model(X)) - plain(X)).max() > 10 * ATOL, "16 bits would be seen"
    lines = _exported(tmp_path / f"mixed{suffix}", tmp_path).metadata.changes
    assert any(line.startswith("float32 in place of the mixed policy") and "lstm" in line for line in lines)


def test_names_that_no_graph_takes(tmp_path: Path) -> None:
    x = keras.Input((7, 3), name="my in")
    model = keras.Model(x, layers.Dense(2, name="größe")(layers.LSTM(4, dropout=0.2, name="a>")(x)), name="net 1>2")
    model.save(tmp_path / "names.keras")
    for given in (tmp_path / "names.keras", model):
        report = _exported(given, tmp_path)
        assert [t.name for t in (*report.metadata.inputs, *report.metadata.outputs)] == ["my_in", "gr__e"]
        assert report.metadata.changes[-1] == (
            "renamed, as TensorFlow takes letters, digits, dots, dashes and underscores: 'net 1>2' -> net_1_2, "
            "'my in' -> my_in, 'a>' -> a_, 'größe' -> gr__e"
        )
    assert [layer.name for layer in model.layers] == ["my in", "a>", "größe"], "a live model is left as it was"


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_names_of_libraries_in_the_code_of_a_lambda(suffix: str, tmp_path: Path) -> None:
    libraries = {"tf": tf, "K": tf.keras.backend, "np": np, "keras": tf.keras}
    code = "lambda t: K.mean(t, axis=1) + np.pi * tf.reduce_max(t, axis=1) + keras.backend.sum(t, axis=1)"
    made = layers.Lambda(eval(code, libraries), output_shape=(4,))
    x = keras.Input((7, 3))
    model = keras.Model(x, made(layers.LSTM(4, dropout=0.2, return_sequences=True)(x)))
    model.save(tmp_path / f"lambda{suffix}")
    loaded = keepdrop_exporter.load(tmp_path / f"lambda{suffix}", trust_code=True)
    np.testing.assert_allclose(loaded(X), model(X), rtol=0, atol=ATOL)


def test_options_that_have_the_name_of_a_function(tmp_path: Path) -> None:
    """Keras 3.15 itself cannot read what it wrote: score_mode="dot" becomes the function keras.layers.dot."""
    x = keras.Input((7, 3))
    y = layers.LSTM(4, dropout=0.2, return_sequences=True)(x)
    model = keras.Model(x, layers.Attention(score_mode="dot")([y, y]))
    model.save(tmp_path / "attention.h5")
    loaded = keepdrop_exporter.load(tmp_path / "attention.h5")
    np.testing.assert_allclose(loaded(X), model(X), rtol=0, atol=ATOL)


class MCDropout(layers.Dropout):
    def call(self, inputs: Any) -> Any:
        return super().call(inputs, training=True)


class CustomDropout(layers.Layer):
    """As TensorFlow's guide has it."""

    def __init__(self, rate: float, **options: Any) -> None:
        super().__init__(**options)
        self.rate = rate

    def call(self, inputs: Any, training: Any = None) -> Any:
        return tf.nn.dropout(inputs, self.rate) if training else inputs

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "rate": self.rate}


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("cls", [MCDropout, CustomDropout])
def test_a_class_that_is_dropout_and_nothing_else(cls: Any, suffix: str, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), cls(0.3, name="drop"), layers.Dense(1)])
    model.save(tmp_path / f"m{suffix}")
    read = reading.read(tmp_path / f"m{suffix}")
    assert type(read.model.layers[1]) is layers.Dropout and read.model.layers[1].rate == 0.3
    assert f"'{cls.__name__}', a class that was not given" in "\n".join(read.changes)


def test_what_is_not_taken_for_dropout() -> None:
    def found(name: str, given: tuple[str, ...] = (), **options: Any) -> dict[str, str]:
        layer = {"class_name": name, "config": {"name": "it", "rate": 0.5, **options}}
        return custom_code.dropouts({"layers": [layer]}, dict.fromkeys(given))

    assert found("MonteCarloDropout") == {"MonteCarloDropout": "it"}
    assert not found("MonteCarloDropout", given=("MonteCarloDropout",))
    assert not found("MCDropout", temperature=0.1)
    assert not any(found(name) for name in ("TimestepDropout", "ConcreteDropout", "SpatialMCDropout", "Dropout", "Net"))


def test_tensorflows_dropout_is_refused_with_the_cure(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), CustomDropout(0.3, name="drop"), layers.Dense(1)])
    with pytest.raises(Refusal) as caught:
        _exported(model, tmp_path)
    assert str(caught.value) == (
        "layer 'drop' calls tf.nn.dropout, whose numbers no seed of Keras reaches; give a class of the same name that "
        "is keras.layers.Dropout: class NAME(keras.layers.Dropout): pass, in --custom FILE.py (custom_objects={'NAME': "
        "keras.layers.Dropout} in Python)"
    )


@pytest.mark.parametrize(
    "layer, dtype",
    [
        (lambda: layers.IntegerLookup(vocabulary=[3, 5], name="it"), "int64"),
        (lambda: layers.StringLookup(vocabulary=["a", "b"], name="it"), "string"),
        (lambda: layers.Hashing(5, name="it"), "int64"),
        (lambda: layers.Discretization([0.0, 1.0], name="it"), "float32"),
    ],
)
def test_preprocessing_that_only_tensorflow_has_is_refused_by_name(layer: Any, dtype: str, tmp_path: Path) -> None:
    x = keras.Input((4,), dtype=dtype)
    y = layers.Dropout(0.5)(layers.Flatten()(layers.Embedding(9, 3)(layer()(x))))
    with pytest.raises(Refusal, match="layer 'it' is a preprocessing layer"):
        _exported(keras.Model(x, y), tmp_path)


def test_preprocessing_that_is_arithmetic_is_exact(tmp_path: Path) -> None:
    x = keras.Input((4,), dtype="int64")
    y = layers.Dense(2)(layers.Dropout(0.5)(layers.CategoryEncoding(5, output_mode="multi_hot")(x)))
    z = keras.Input((4,))
    n = layers.Dense(2)(layers.Dropout(0.5)(layers.Normalization(mean=1.0, variance=2.0)(z)))
    assert len(_exported(keras.Model([x, z], [y, n]), tmp_path).metadata.draws) == 2


def test_quantised_layers_are_exact_or_refused(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(4, dropout=0.2), layers.Dense(2)])
    with pytest.warns(UserWarning):
        model.quantize("int8")
    report = _exported(model, tmp_path)
    assert max(output.max_abs for output in report.verified.outputs) < ATOL
    bias = model.layers[1].bias
    bias.assign(bias + 0.1)
    with pytest.raises(VerifyError, match="differs from Keras.*Layer 'dense.*' is quantised.*before quantize"):
        keepdrop_exporter.verify(model, report.path, rows=2, samples=3)


@pytest.mark.parametrize(
    "wrapper, cure",
    [
        ("PruneLowMagnitude", "strip_pruning"),
        ("QuantizeWrapperV2", "before quantize_model"),
        ("ClusterWeights", "strip_"),
    ],
)
def test_wrappers_of_the_optimization_toolkit_are_refused_by_name(wrapper: str, cure: str, tmp_path: Path) -> None:
    dense = {"class_name": "Dense", "config": {"name": "y", "units": 2}}
    described = [
        {"class_name": "InputLayer", "config": {"batch_input_shape": [None, 3], "name": "x", "dtype": "float32"}},
        {"class_name": wrapper, "config": {"name": "wrapped_y", "layer": dense}},
    ]
    config = {"class_name": "Sequential", "config": {"name": "net", "layers": described}}
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs["model_config"], file.attrs["keras_version"] = json.dumps(config), "2.12.0"
        file.create_group("model_weights").attrs["layer_names"] = np.array([], "S1")
    with pytest.raises(LoadError, match=f"{wrapper}.*{cure}"):
        keepdrop_exporter.load(tmp_path / "m.h5")


TRAINED_BY = {
    "Lion": lambda tk: tk.optimizers.Lion(),
    "Adafactor": lambda tk: tk.optimizers.Adafactor(),
    "a legacy Adam": lambda tk: tk.optimizers.legacy.Adam(),
    "a scaled loss": lambda tk: tk.mixed_precision.LossScaleOptimizer(tk.optimizers.Adam()),
    "momentum": lambda tk: tk.optimizers.SGD(momentum=0.9, nesterov=True),
}


@pytest.mark.parametrize("optimizer", TRAINED_BY)
def test_what_training_leaves_in_a_file_of_keras_2_does_not_count(optimizer: str, tmp_path: Path) -> None:
    tk = pytest.importorskip("tf_keras")
    model = tk.Sequential([tk.layers.Dense(2, input_shape=(5,)), tk.layers.Dropout(0.3)])
    model.compile(TRAINED_BY[optimizer](tk), "mse", metrics=["mae"])
    model.fit(Z, np.zeros((2, 2)), verbose=0)
    model.save(tmp_path / "m.keras")
    with zipfile.ZipFile(tmp_path / "m.keras") as archive, h5py.File(archive.open("model.weights.h5")) as file:
        assert "metrics" in file and ("optimizer" in file or "legacy" in optimizer)
    loaded = keepdrop_exporter.load(tmp_path / "m.keras")
    np.testing.assert_allclose(loaded.predict(Z, verbose=0), model.predict(Z, verbose=0), atol=ATOL)


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="a list of builtins is no Keras model; give one, or the path of a file"):
        _exported([], tmp_path)


def test_fitting_names() -> None:
    given = ["a b", "a>", ">a", "größe", "_x", "a:b", "-a", "lstm_1", "v0.2-b"]
    assert [fitting.fitting_name(name) for name in given] == [
        "a_b", "a_", "layer_a", "gr__e", "layer_x", "a_b", "layer_-a", "lstm_1", "v0.2-b",
    ]  # fmt: skip


def _python(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    sources = os.pathsep.join(sys.path)
    options = {**os.environ, "PYTHONPATH": sources, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env=options, capture_output=True, text=True)


def test_the_command_runs_keras_on_tensorflow_whatever_it_is_told(forecaster_file: Path, tmp_path: Path) -> None:
    (tmp_path / "keras.json").write_text('{"backend": "jax", "floatx": "float64", "epsilon": 0.1}')
    code = (
        "from keepdrop_exporter import cli; cli.export("
        f"[{str(forecaster_file)!r}, '-o', 'm.onnx', '--rows', '2', '--samples', '2'])"
    )
    for environment in ({"KERAS_HOME": str(tmp_path)}, {"KERAS_BACKEND": "nonsense"}):
        done = _python(code, tmp_path, **environment)
        assert done.returncode == 0 and "equal Keras' within" in done.stdout, done.stderr


def test_python_is_told_which_line_to_put_first(tmp_path: Path) -> None:
    done = _python("import keepdrop_exporter as k; k.export", tmp_path, KERAS_BACKEND="nonsense")
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .endswith(
            'put this line before the first import of keras: import os; os.environ["KERAS_BACKEND"] = "tensorflow"'
        )
    )


def test_a_live_model_of_keras_2(tmp_path: Path) -> None:
    """In a process of its own, as all of ``tf_keras``."""
    code = """
import numpy as np, tf_keras, keepdrop_exporter
layers = tf_keras.layers
model = tf_keras.Sequential([layers.LSTM(4, input_shape=(7, 3), dropout=0.4), layers.Dense(1)])
report = keepdrop_exporter.export(model, "m.onnx", rows=2, samples=8)
print(report.metadata.inputs[0].shape, report.metadata.changes[0])
"""
    done = _python(code, tmp_path)
    assert done.stdout.startswith("(None, 7, 3) written by Keras 2"), done.stderr
