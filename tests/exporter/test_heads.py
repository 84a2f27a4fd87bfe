"""What an output is, as its last layer says it; what is declared goes before."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers

import keepdrop
import keepdrop_exporter
from keepdrop.artifact.metadata import Head, Tensor
from keepdrop.cli import main
from keepdrop_exporter import ExportError, cli
from keepdrop_exporter.plan.heads import find_heads


class Same(layers.Dense):
    """A Dense of another name."""


class Doubled(layers.Dense):
    """A Dense that does something after its activation."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        return 2 * super().call(inputs)


def _inner(activation: str) -> keras.Model:
    x = keras.Input((4,))
    return keras.Model(x, [layers.Dense(2)(x), layers.Dense(3, activation=activation)(x)])


def _second(model: keras.Model) -> Any:
    return lambda x: model(x)[1]


SOFTMAX = layers.Dense(3, activation="softmax")

# What comes after an input [batch, 4], and the head it is.
VECTORS: dict[str, tuple[Any, str]] = {
    "Dense softmax": (layers.Dense(3, activation="softmax"), "softmax"),
    "Dense sigmoid": (layers.Dense(1, activation="sigmoid"), "sigmoid"),
    "Dense": (layers.Dense(3), "value"),
    "Dense hard_sigmoid": (layers.Dense(3, activation="hard_sigmoid"), "value"),
    "Dense log_softmax": (layers.Dense(3, activation="log_softmax"), "value"),
    "Dense with a function": (layers.Dense(3, activation=lambda x: keras.activations.softmax(x)), "value"),
    "Dense with a layer": (layers.Dense(3, activation=layers.Softmax()), "softmax"),
    "Activation softmax": (layers.Activation("softmax"), "softmax"),
    "Activation sigmoid": (layers.Activation("sigmoid"), "sigmoid"),
    "Softmax": (layers.Softmax(), "softmax"),
    "Softmax over axis 1 of 2": (layers.Softmax(axis=1), "softmax"),
    "Softmax over the batch": (layers.Softmax(axis=0), "value"),
    "ops.softmax": (keras.ops.softmax, "softmax"),
    "ops.softmax over the batch": (lambda x: keras.ops.softmax(x, axis=0), "value"),
    "activations.softmax": (keras.activations.softmax, "softmax"),
    "ops.sigmoid": (keras.ops.sigmoid, "sigmoid"),
    "linear after it": (lambda x: layers.Activation("linear")(SOFTMAX(x)), "softmax"),
    "Identity after it": (lambda x: layers.Identity()(SOFTMAX(x)), "softmax"),
    "Dropout after it": (lambda x: layers.Dropout(0.5)(SOFTMAX(x)), "value"),
    "arithmetic after it": (lambda x: SOFTMAX(x) * 2, "value"),
    "Reshape after softmax": (lambda x: layers.Reshape((3, 1))(SOFTMAX(x)), "value"),
    "Reshape after sigmoid": (lambda x: layers.Reshape((2, 2))(layers.Activation("sigmoid")(x)), "sigmoid"),
    "Add of two": (lambda x: layers.Add()([SOFTMAX(x), SOFTMAX(x)]), "value"),
    "subclass": (Same(3, activation="softmax"), "softmax"),
    "subclass with a call of its own": (Doubled(3, activation="softmax"), "value"),
    "nested model's second output": (_second(_inner("softmax")), "softmax"),
    "nested Sequential": (keras.Sequential([layers.Dense(3), layers.Activation("sigmoid")]), "sigmoid"),
    "twice nested": (keras.Sequential([keras.Sequential([layers.Dense(3, activation="softmax")])]), "softmax"),
}

# The same after [batch, 5, 4].
SEQUENCES: dict[str, tuple[Any, str]] = {
    "Dense over time": (layers.Dense(3, activation="softmax"), "softmax"),
    "TimeDistributed": (layers.TimeDistributed(layers.Dense(3, activation="softmax")), "softmax"),
    "TimeDistributed Softmax over axis 1 of 2": (layers.TimeDistributed(layers.Softmax(axis=1)), "softmax"),
    "TimeDistributed model": (layers.TimeDistributed(keras.Sequential([layers.Dense(3, "sigmoid")])), "sigmoid"),
    "Softmax over time": (layers.Softmax(axis=1), "value"),
    "Softmax over two axes": (layers.Softmax(axis=[1, 2]), "value"),
    "Conv1D": (layers.Conv1D(3, 2, activation="softmax"), "softmax"),
    "LSTM": (layers.LSTM(3, activation="softmax"), "value"),
    "Bidirectional": (layers.Bidirectional(layers.LSTM(3, activation="sigmoid")), "value"),
}


def _found(model: keras.Model, declared: Any = None) -> list[tuple[str, str]]:
    outputs = [Tensor(f"y{i}", y.dtype, (None, None, *y.shape[1:])) for i, y in enumerate(model.outputs)]
    heads, _ = find_heads(model, outputs, declared)
    return [(head.output, head.kind) for head in heads]


@pytest.mark.parametrize("name", VECTORS)
def test_the_last_operation_says_what_an_output_is(name: str) -> None:
    end, kind = VECTORS[name]
    x = keras.Input((4,))
    assert _found(keras.Model(x, end(layers.Dropout(0.5)(x)))) == [("y0", kind)]


@pytest.mark.parametrize("name", SEQUENCES)
def test_over_time_too(name: str) -> None:
    end, kind = SEQUENCES[name]
    x = keras.Input((5, 4))
    assert _found(keras.Model(x, end(layers.Dropout(0.5)(x)))) == [("y0", kind)]


def test_each_output_for_itself_and_after_loading(tmp_path: Path) -> None:
    x = keras.Input((4,))
    model = keras.Model(x, [layers.Dense(3, "softmax")(x), layers.Dense(1)(x), layers.Dense(2, "sigmoid")(x)])
    expected = [("y0", "softmax"), ("y1", "value"), ("y2", "sigmoid")]
    assert _found(model) == expected
    model.save(tmp_path / "model.keras")
    assert _found(keras.models.load_model(tmp_path / "model.keras")) == expected
    assert _found(model, {"y1": "sigmoid", "y0": "value"}) == [("y0", "value"), ("y1", "sigmoid"), ("y2", "sigmoid")]


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(3)
    x = keras.Input((4,), name="x")
    dropped = layers.Dropout(0.4)(layers.Dense(8, "tanh")(x))
    model = keras.Model(x, [layers.Dense(3, "softmax", name="mood")(dropped), layers.Dense(2, name="level")(dropped)])
    path = tmp_path_factory.mktemp("heads") / "classifier.keras"
    model.save(path)
    return path


def _export(*arguments: object) -> Any:
    return CliRunner().invoke(cli.export, [str(argument) for argument in arguments])


def test_an_export_records_what_it_recognised_and_what_is_declared(classifier: Path, tmp_path: Path) -> None:
    done = _export(classifier, "-o", tmp_path / "a.onnx", "--head", "level=mean,logvar", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert [(h["output"], h["kind"]) for h in report["heads"]] == [("mood", "softmax"), ("level", "mean,logvar")]
    assert [n for n in report["notes"] if "--head" in n] == [
        "output 'mood' ends in a softmax and is taken for class probabilities; --head mood=value if it is none"
    ]
    model = keepdrop.load(tmp_path / "a.onnx")
    assert model.metadata.heads == (Head("mood", "softmax"), Head("level", "mean,logvar"))
    p = model.predict(np.ones((2, 4)), samples=40)
    draws = p["mood"].samples.astype(np.float64)
    entropy = -(draws * np.log(draws)).sum(axis=-1).mean(axis=0)
    np.testing.assert_allclose(p["mood"].expected_entropy, entropy, rtol=1e-6)
    assert (p["mood"].mutual_information > 1e-4).all()
    assert p["level"].aleatoric.shape == p["level"].total.shape == (2, 1)
    with pytest.raises(keepdrop.InputError, match="head of output 'level' is 'mean,logvar'"):
        _ = p["level"].top
    shown = CliRunner().invoke(main, ["inspect", str(tmp_path / "a.onnx")]).stdout
    assert "mood  float32 [samples, batch, 3]  softmax\n" in shown
    assert "level  float32 [samples, batch, 2]  mean,logvar\n" in shown


def test_an_export_of_two_outputs_as_mean_and_logvar(classifier: Path, tmp_path: Path) -> None:
    model = keras.models.load_model(classifier)
    x = model.inputs[0]
    pair = keras.Model(x, [layers.Dense(1, name="level")(layers.Dropout(0.5)(x)), layers.Dense(1, name="spread")(x)])
    report = keepdrop_exporter.export(pair, tmp_path / "pair.onnx", heads="mean,logvar")
    assert report.metadata.heads == (Head("level", "mean", "spread"), Head("spread", "logvar", "level"))
    p = keepdrop.load(report.path).predict(np.ones((2, 4)), samples=30)
    np.testing.assert_allclose(p["level"].aleatoric, np.exp(p["spread"].samples).mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("heads", "text"),
    [
        (["gaussian"], "there is no head 'gaussian'; give one of ['value', 'softmax', 'sigmoid', 'mean,logvar']"),
        (["softmax"], "head 'softmax' does not say of which output, and the model has ['mood', 'level']; declare"),
        (["mood=softmax", "value"], "head 'value' does not say of which output; give OUTPUT=value"),
        (["mood=softmax", "mood=value"], "output 'mood' has two heads declared; give it one"),
        (["size=value"], "a head is declared for output 'size'; the model's outputs are ['mood', 'level']"),
        (["mood=mean,logvar"], "output 'mood' has the shape [3] a row; its last axis has to be means and as many"),
        (["mood,level=mean,logvar"], "outputs ['mood', 'level'] cannot be mean and log-variance: their rows have"),
        (["mood,level=softmax"], "only two outputs can be 'mean,logvar'"),
        (["mood,level=mean,logvar", "level=value"], "output 'level' has two heads declared; give it one"),
    ],
)
def test_a_wrong_declaration_is_refused(
    classifier: Path, target: Path, untouched: Any, heads: list[str], text: str
) -> None:
    done = _export(classifier, "-o", target, *(part for head in heads for part in ("--head", head)))
    assert done.exit_code == 1 and isinstance(done.exception, keepdrop.KeepdropError)
    assert re.search(re.escape(text), str(done.exception)), done.exception
    untouched()


def test_errors_are_the_exporters() -> None:
    x = keras.Input((4,))
    with pytest.raises(ExportError, match="there is no head"):
        find_heads(keras.Model(x, layers.Dense(1)(x)), [Tensor("y", "float32", (None, None, 1))], "vague")
