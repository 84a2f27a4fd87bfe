"""Classes and functions of the user's own, and code that lies in a file: both run only when they are asked for."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from click.testing import CliRunner, Result
from keras import layers
from tests.contract import reference

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import LoadError, Refusal, cli, pipeline
from keepdrop_exporter.loading import custom_code, reading, trust

SOURCE = """
import keras
from keras.layers import Dropout
from beside import squash

class MCDropout(Dropout):
    def call(self, inputs, training=None):
        return super().call(inputs, training=True)

@keras.saving.register_keras_serializable("mine")
class Scaled(keras.layers.Layer):
    def __init__(self, by=1.0, **options):
        super().__init__(**options)
        self.by = by

    def call(self, x):
        return x * self.by

    def get_config(self):
        return {**super().get_config(), "by": self.by}
"""
BESIDE = """
import keras

def squash(x):
    return keras.ops.tanh(0.5 * x)
"""
X = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("custom")
    (folder / "mine.py").write_text(SOURCE)
    (folder / "beside.py").write_text(BESIDE)
    return folder / "mine.py"


def _forget() -> None:
    """What a file registers with Keras stays known in this process; a new one knows nothing of it."""
    keras.saving.get_custom_objects().pop("mine>Scaled", None)


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    _forget()
    monkeypatch.setattr(pipeline, "measure_cost", lambda *args: None)


def _model(source: Path) -> tuple[keras.Model, dict[str, Any]]:
    own = custom_code.custom_objects(source)
    x = keras.Input((4,), name="x")
    y = layers.Dense(3, activation=own["squash"])(own["Scaled"](by=2.0, name="scaled")(x))
    return keras.Model(x, own["MCDropout"](0.5, name="mc")(y)), own


def test_what_a_file_offers(source: Path) -> None:
    """Its own, and what it imports of the user's; not Keras' own classes."""
    assert set(custom_code.custom_objects(source)) == {"MCDropout", "Scaled", "squash"}


@pytest.mark.parametrize(
    "content, said",
    [
        ("1 / 0", "running it failed (ZeroDivisionError: division by zero)"),
        ("def f(:", "running it failed (SyntaxError"),
        ("raise SystemExit(3)", "running it failed (SystemExit: 3)"),
        ("import keras\nfrom keras.layers import LSTM\nn = 3", "defines no class and no function"),
    ],
)
def test_a_file_that_offers_nothing(content: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises(LoadError) as caught:
        custom_code.custom_objects(tmp_path / "mine.py")
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_load_with_custom_objects(suffix: str, source: Path, tmp_path: Path) -> None:
    model, own = _model(source)
    path = tmp_path / f"model{suffix}"
    model.save(path)
    _forget()
    loaded = keepdrop_exporter.load(path, custom_objects=own)
    # The model ends in dropout that is always on: what comes before it has to be equal.
    np.testing.assert_array_equal(loaded.layers[-2](loaded.layers[1](X)), model.layers[-2](model.layers[1](X)))
    assert isinstance(loaded.layers[-1], own["MCDropout"])


def _as_keras2(path: Path) -> Path:
    """The file as Keras 2 would have written it, were its classes Keras 2's."""
    with h5py.File(path, "r+") as file:
        file.attrs["keras_version"] = "2.12.0"
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "Dense":
                layer["config"]["activation"] = "squash"
            layer["config"].pop("optional", None)
            layer["config"].pop("autocast", None)
        file.attrs["model_config"] = json.dumps(config)
    return path


def test_load_a_file_of_keras_2_with_custom_objects(source: Path, tmp_path: Path) -> None:
    model, own = _model(source)
    model.save(tmp_path / "model.h5")
    _forget()
    path = _as_keras2(tmp_path / "model.h5")
    loaded = keepdrop_exporter.load(path, custom_objects=own)
    np.testing.assert_array_equal(loaded.layers[-2](loaded.layers[1](X)), model.layers[-2](model.layers[1](X)))
    assert isinstance(loaded.layers[-1], own["MCDropout"]) and loaded.layers[-1].name == "mc"
    del own["MCDropout"]
    _forget()
    assert type(keepdrop_exporter.load(path, custom_objects=own).layers[-1]) is layers.Dropout


def test_a_subclass_of_a_recurrent_layer_is_cured_as_that_is(tmp_path: Path) -> None:
    class MonteCarloLSTM(layers.LSTM):
        pass

    x = keras.Input((5, 3), name="x")
    keras.Model(x, MonteCarloLSTM(2, name="mc")(x)).save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"][1]["config"] |= {"time_major": False, "recurrent_activation": "hard_sigmoid"}
        config["config"]["layers"][0]["config"].pop("optional", None)  # newer Keras 3 alone has it
        file.attrs.update({"model_config": json.dumps(config), "keras_version": "2.11.0"})
    given = {"MonteCarloLSTM": MonteCarloLSTM}
    (layer,) = keepdrop_exporter.load(tmp_path / "model.h5", custom_objects=given).layers[1:]
    assert type(layer) is MonteCarloLSTM
    assert layer.cell.recurrent_activation(np.array([2.0], np.float32))[0] == np.float32(0.9)


def test_a_key_means_to_a_class_of_ones_own_what_it_says(tmp_path: Path) -> None:
    """Keys that Keras 2 had for layers of its own are dropped from those alone."""

    class Own(layers.Layer):
        def __init__(self, groups: int = 5, causal: bool = True, **options: Any) -> None:
            super().__init__(**options)
            self.groups, self.causal = groups, causal

        def get_config(self) -> dict[str, Any]:
            return {**super().get_config(), "groups": self.groups, "causal": self.causal}

    keras.Sequential([keras.Input((3,), name="x"), Own(1, False)]).save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "r+") as file:
        file.attrs["keras_version"] = "2.11.0"
    (layer,) = keepdrop_exporter.load(tmp_path / "model.h5", custom_objects={"Own": Own}).layers
    assert (layer.groups, layer.causal) == (1, False)


def _run(verb: Any, *arguments: object) -> Result:
    return CliRunner().invoke(verb, [str(argument) for argument in arguments])


def test_the_command(source: Path, tmp_path: Path, target: Path, untouched: Callable[[], None]) -> None:
    model, _ = _model(source)
    model.save(tmp_path / "model.keras")
    _forget()
    failed = _run(cli.export, tmp_path / "model.keras", "-o", target)
    assert failed.exit_code == 1 and "--custom FILE.py" in str(failed.exception)
    untouched()
    options = ["--custom", source, "--samples", 3, "--rows", 2]
    done = _run(cli.export, tmp_path / "model.keras", "-o", target, *options)
    assert done.exit_code == 0, done.output
    assert "draws a row in mc" in done.stdout
    _forget()
    assert _run(cli.verify, tmp_path / "model.keras", target, *options).exit_code == 0


def _with_lambda(path: Path) -> keras.Model:
    model = keras.Sequential([keras.Input((4,), name="x"), layers.Lambda(lambda x: 3 * x), layers.Dropout(0.5)])
    model.save(path)
    return model


def test_a_functional_model_of_keras_3_in_hdf5(tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    model = keras.Model(x, layers.Dense(2)(layers.Lambda(lambda x: 3 * x, name="triple")(x)))
    model.save(tmp_path / "model.h5")
    loaded = keepdrop_exporter.load(tmp_path / "model.h5", custom_objects={"triple": lambda x: 3 * x})
    np.testing.assert_array_equal(loaded(X), model(X))


def _saved_with_lambda(suffix: str, folder: Path) -> tuple[Path, keras.Model]:
    path = folder / f"model{suffix.partition(' ')[0]}"
    model = _with_lambda(path)
    if "Keras 2" in suffix:
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            options = config["config"]["layers"][1]["config"]
            code = options["function"]["config"]
            options |= {"function": [code["code"], code["defaults"], code["closure"]], "function_type": "lambda",
                        "module": "__main__", "output_shape": None, "output_shape_type": "raw"}  # fmt: skip
            config["config"]["layers"][0]["config"].pop("optional", None)  # newer Keras 3 alone has it
            file.attrs.update({"model_config": json.dumps(config), "keras_version": "2.11.0"})
    return path, model


FORMS = [".keras", ".h5", ".h5 of Keras 2"]


@pytest.mark.parametrize("suffix", FORMS)
def test_lambda_runs_for_those_who_trust_it(suffix: str, tmp_path: Path) -> None:
    path, model = _saved_with_lambda(suffix, tmp_path)
    with pytest.raises(LoadError, match="Lambda layer, whose Python code would run on loading.*--trust-code"):
        keepdrop_exporter.load(path)
    np.testing.assert_array_equal(keepdrop_exporter.load(path, trust_code=True)(X), model(X))


class Noise(keras.layers.Layer):
    """Draws as what a variational autoencoder samples with has to."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, x: Any) -> Any:
        return x + keras.random.normal(keras.ops.shape(x), seed=self.seeds)


@pytest.mark.parametrize("suffix", FORMS)
def test_what_is_given_under_a_lambdas_name_stands_for_its_code(suffix: str, tmp_path: Path) -> None:
    """No code of the file runs, which versions of Python other than the one that wrote it could not run anyway."""
    path, model = _saved_with_lambda(suffix, tmp_path)
    name = model.layers[0].name
    changes = reading.read(path, {name: lambda x: 3 * x}).changes
    assert changes[-1].endswith(f"what was given stands for the code of Lambda layers: {name}")
    np.testing.assert_array_equal(keepdrop_exporter.load(path, custom_objects={name: lambda x: 3 * x})(X), model(X))
    (tmp_path / "own.py").write_text(f"def {trust.function_name(name)}(x):\n    return 4 * x\n")
    other = keepdrop_exporter.load(path, custom_objects=custom_code.custom_objects(tmp_path / "own.py"))
    assert not np.array_equal(other(X), model(X))
    assert isinstance(keepdrop_exporter.load(path, custom_objects={name: Noise}).layers[0], Noise)


def sampling(parts: Any) -> Any:
    mean, spread = parts
    return mean + keras.random.normal(keras.ops.shape(mean)) * keras.ops.exp(spread)


class Sampling(Noise):
    def call(self, parts: Any) -> Any:
        mean, spread = parts
        return mean + keras.random.normal(keras.ops.shape(mean), seed=self.seeds) * keras.ops.exp(spread)


def _noting_masks(path: Path) -> None:
    """The archive as Keras before 3.9 wrote it, which noted the masks that it gave a Lambda."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(parts["config.json"])
    for layer in config["config"]["layers"]:
        if layer["class_name"] == "Lambda":
            layer["inbound_nodes"][0]["kwargs"]["mask"] = [None, None]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in {**parts, "config.json": json.dumps(config)}.items():
            archive.writestr(name, content)


def test_a_lambda_that_draws_becomes_a_layer_that_owns_what_it_draws_from(tmp_path: Path) -> None:
    """The encoder of a variational autoencoder, as it is published: a Lambda of a function called sampling."""
    x = keras.Input((4,), name="x")
    parts = layers.Dense(2, name="mean")(x), layers.Dense(2, name="spread")(x)
    keras.Model(x, layers.Lambda(sampling, output_shape=(2,), name="z")(parts)).save(tmp_path / "vae.keras")
    _noting_masks(tmp_path / "vae.keras")
    with pytest.raises(LoadError, match="the function 'sampling', which is not Keras'.*--custom FILE.py"):
        keepdrop_exporter.load(tmp_path / "vae.keras")
    with pytest.raises(Refusal, match="'z' draws from Keras' global generator.*a layer class of the Lambda's name"):
        keepdrop_exporter.export(tmp_path / "vae.keras", tmp_path / "m.onnx", custom_objects={"sampling": sampling})
    for name in ("sampling", "z"):
        given = keepdrop_exporter.load(tmp_path / "vae.keras", custom_objects={name: Sampling})
        keepdrop_exporter.export(given, tmp_path / "m.onnx", rows=2, samples=4)
        expected = reference.samples(given, [X], [5, 0, 2], 6, seed=3)
        got = keepdrop.load(tmp_path / "m.onnx").sample(X, rows=[5, 0, 2], samples=6, seed=3)
        reference.assert_samples_equal(got, expected)
        assert given.get_layer("z").output.shape == (None, 2)


def test_a_layer_in_the_place_of_a_lambda_of_a_nested_model(tmp_path: Path) -> None:
    """The file lacks the state of its generator, and nothing else."""
    x = keras.Input((4,), name="x")
    parts = layers.Dense(2)(x), layers.Dense(2)(x)
    inner = keras.Model(x, layers.Lambda(sampling, output_shape=(2,), name="z")(parts))
    model = keras.Sequential([keras.Input((4,)), inner, layers.Dense(3)])
    model.save(tmp_path / "vae.keras")
    loaded = keepdrop_exporter.load(tmp_path / "vae.keras", custom_objects={"z": Sampling})
    for have, want in zip(loaded.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(have, want)
    with pytest.raises(LoadError, match="its weights do not fit: they are"):
        keepdrop_exporter.load(tmp_path / "vae.keras", custom_objects={"z": Weighted})


class Failing(Noise):
    def call(self, x: Any) -> Any:
        raise ValueError("it takes two")


def test_what_fails_in_a_class_of_ones_own_is_said(tmp_path: Path) -> None:
    path, model = _saved_with_lambda(".keras", tmp_path)
    with pytest.raises(LoadError, match=r"Keras cannot load it \(ValueError: it takes two") as caught:
        keepdrop_exporter.load(path, custom_objects={model.layers[0].name: Failing})
    assert "\x1b" not in str(caught.value)


class Weighted(Noise):
    def build(self, shape: Any) -> None:
        self.bias = self.add_weight((2,))

    def call(self, parts: Any) -> Any:
        return parts[0] + self.bias


def test_a_lambda_called_lambda_has_a_name_that_python_takes() -> None:
    assert [trust.function_name(name) for name in ("lambda", "lambda_1", "tf.mean-1")] == [
        "lambda_",
        "lambda_1",
        "tf_mean_1",
    ]


class Unnamed(keras.layers.Layer):
    """Takes no options of any layer, and has no ``get_config``: Keras notes its arguments."""

    def __init__(self, units: int, rate: float = 0.5) -> None:
        super().__init__()
        self.dense, self.dropout = layers.Dense(units), layers.Dropout(rate)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.dropout(self.dense(x), training=training)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_class_whose_init_takes_no_name(suffix: str, tmp_path: Path) -> None:
    """Keras saves it, and cannot make it again; published transformers have such blocks."""
    model = keras.Sequential([keras.Input((4,)), Unnamed(2)])
    model.save(tmp_path / f"model{suffix}")
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        keras.models.load_model(tmp_path / f"model{suffix}", custom_objects={"Unnamed": Unnamed})
    loaded = keepdrop_exporter.load(tmp_path / f"model{suffix}", custom_objects={"Unnamed": Unnamed})
    np.testing.assert_array_equal(loaded(X), model(X))
    assert isinstance(loaded.layers[0], Unnamed)


def test_the_command_trusts_code_only_when_told(tmp_path: Path) -> None:
    _with_lambda(tmp_path / "model.keras")
    assert _run(cli.export, tmp_path / "model.keras", "-o", tmp_path / "m.onnx").exit_code == 1
    done = _run(
        cli.export, tmp_path / "model.keras", "-o", tmp_path / "m.onnx", "--trust-code", "--samples", 3, "--rows", 2
    )
    assert done.exit_code == 0, done.output
    assert "in dropout" in done.stdout and keepdrop.load(tmp_path / "m.onnx").sample(X, samples=2).shape == (2, 3, 4)


def test_help_says_that_the_file_is_run() -> None:
    for verb in (cli.export, cli.verify):
        said = " ".join(_run(verb, "--help").stdout.split())
        assert "Runs that file" in said and "Run the Python code that Lambda layers have left" in said
