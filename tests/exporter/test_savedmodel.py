"""The directory of a SavedModel: what is in it, what opens it, and that it is never half written."""

from __future__ import annotations

import importlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from click.testing import CliRunner
from keras import layers as L

import keepdrop
import keepdrop_exporter
from keepdrop import ArtifactError, InputError
from keepdrop.cli import main
from keepdrop_exporter import ConvertError, ExportError, Report, VerifyError, cli, load_savedmodel

stages = importlib.import_module("keepdrop_exporter.pipeline")
savedmodel = importlib.import_module("keepdrop_exporter.formats.savedmodel")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of a Dropout and a Dense layer."""
    return keepdrop_exporter.export(_small(), tmp_path_factory.mktemp("small") / "served", format="savedmodel")


def _small(x: str = "x", y: str = "y") -> keras.Model:
    keras.utils.set_random_seed(5)
    return keras.Sequential([keras.Input((4,), name=x), L.Dropout(0.5), L.Dense(2, name=y)])


@pytest.fixture
def copy(small: Report, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.path, tmp_path / "copy"))


def test_every_input_is_required(small: Report) -> None:
    """As TensorFlow Serving reads the signature, and as a session of the graph runs it; scalars with an axis too."""
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(small.path))
        signature = graph.signature_def["serving_default"]
        assert dict(signature.defaults) == {}
        assert set(signature.inputs) == {"x", "seed", "rows", "num_samples", "first_sample"}
        assert set(signature.outputs) == {"y"}

        def run(**feeds: Any) -> Any:
            return session.run(signature.outputs["y"].name, {signature.inputs[k].name: v for k, v in feeds.items()})

        x = {"x": np.ones((2, 4)), "rows": [0, 1]}
        drawn = [run(**x, seed=7, num_samples=5, first_sample=3), run(**x, seed=[7], num_samples=[5], first_sample=[3])]
        with pytest.raises(tf.errors.InvalidArgumentError, match="num_samples"):
            run(**x, seed=7, first_sample=0)
    expected = load_savedmodel(small.path).sample(x["x"].astype(np.float32), samples=5, seed=7, first_sample=3)
    np.testing.assert_array_equal(drawn, [expected, expected])


def test_the_metadata_are_an_asset(small: Report, tmp_path: Path) -> None:
    asset = small.path / "assets" / "keepdrop.json"
    assert asset.read_text() == small.metadata.to_json()
    assert load_savedmodel(small.path).metadata == small.metadata
    assert small.metadata.verified is not None and small.metadata.cost is not None
    assert tf.saved_model.load(str(small.path)).metadata.asset_path.numpy().decode().endswith("keepdrop.json")
    assert sorted(path.name for path in small.path.iterdir()) == [
        "assets",
        "fingerprint.pb",
        "saved_model.pb",
        "variables",
    ]
    assert small.size == sum(path.stat().st_size for path in small.path.rglob("*") if path.is_file())


def _run(verb: Any, *arguments: object) -> Any:
    return CliRunner().invoke(verb, [str(argument) for argument in arguments])


def test_the_command(tmp_path: Path) -> None:
    _small().save(tmp_path / "m.keras")
    made = _run(cli.export, tmp_path / "m.keras", "--format", "savedmodel", "--samples", 3)
    assert made.exit_code == 0, made.output
    assert f"{tmp_path / 'm'}: " in made.stdout and (tmp_path / "m" / "saved_model.pb").is_file()
    verified = _run(cli.verify, tmp_path / "m.keras", tmp_path / "m", "--samples", 3)
    assert verified.exit_code == 0 and "verified: 3 samples of 4 rows" in verified.stdout
    shown = _run(main, "inspect", tmp_path / "m")
    assert shown.exit_code == 0 and "output            y  float32 [samples, batch, 2]" in shown.stdout
    assert json.loads(_run(main, "inspect", tmp_path / "m", "--json").stdout)["draws_per_row"] == 1


def test_the_runtime_says_how_to_sample_it(small: Report, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="is a SavedModel, .* keepdrop_exporter.load_savedmodel"):
        keepdrop.load(small.path)
    with pytest.raises(ArtifactError, match="is a directory that holds no saved_model.pb"):
        load_savedmodel(tmp_path)
    with pytest.raises(ArtifactError, match="none is no directory"):
        load_savedmodel(tmp_path / "none")


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda path: (path / "assets" / "keepdrop.json").unlink(), "without a readable assets.keepdrop.json"),
        (lambda path: (path / "assets" / "keepdrop.json").write_text("{"), "is not the JSON object"),
        (lambda path: (path / "assets" / "keepdrop.json").write_bytes(b"\xff"), "without a readable"),
        (lambda path: (path / "saved_model.pb").write_bytes(b"damaged"), "does not load as a SavedModel"),
        (lambda path: shutil.rmtree(path / "variables"), "does not load as a SavedModel"),
        (lambda path: _rename_output(path / "assets" / "keepdrop.json"), r"lacks \['z'\]"),
    ],
    ids=["no metadata", "no JSON", "no text", "graph", "no variables", "other names"],
)
def test_a_damaged_directory(copy: Path, damage: Callable[[Path], Any], text: str) -> None:
    damage(copy)
    with pytest.raises(ArtifactError, match=text):
        load_savedmodel(copy)


def _rename_output(asset: Path) -> None:
    fields = json.loads(asset.read_text())
    fields["outputs"][0]["name"] = fields["heads"][0]["output"] = "z"
    asset.write_text(json.dumps(fields))


def test_inputs_that_the_model_does_not_take(small: Report) -> None:
    with pytest.raises(InputError, match="expected float32"):
        load_savedmodel(small.path).sample(np.ones((2, 5), np.float32))


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """The name of an artifact to be, where an older one stands."""
    path = tmp_path / "target" / "served"
    (path / "assets").mkdir(parents=True)
    (path / "saved_model.pb").write_bytes(b"older")
    (path / "assets" / "keepdrop.json").write_text("{}")
    return path


def _untouched(older: Path) -> bool:
    return list(older.parent.iterdir()) == [older] and (older / "saved_model.pb").read_bytes() == b"older"


def test_samples_that_differ(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, write = _small(), savedmodel.write

    def other_weights(*args: Any) -> None:
        write(*args)
        model.layers[-1].kernel.assign(model.layers[-1].kernel + 0.01)  # the directory then lags behind its model

    monkeypatch.setattr(savedmodel, "write", other_weights)
    with pytest.raises(VerifyError, match="'y' differs from Keras"):
        keepdrop_exporter.export(model, older)
    assert _untouched(older)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), VerifyError("no")], ids=repr)
def test_an_end_in_the_midst_of_verify(error: BaseException, older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(stages, "verify_plan", fail)
    with pytest.raises(type(error)):
        keepdrop_exporter.export(_small(), older)
    assert _untouched(older)


def test_an_older_directory_comes_back_where_the_new_one_cannot_have_its_name(
    older: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = os.rename

    def refuse(source: Path, target: Path) -> None:
        if "partial" in Path(source).name:
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        keepdrop_exporter.export(_small(), older, samples=2)
    assert _untouched(older)


def test_success_replaces_an_older_directory(older: Path) -> None:
    keepdrop_exporter.export(_small(), older, samples=2, default_samples=3)
    assert list(older.parent.iterdir()) == [older]
    assert load_savedmodel(older).sample(np.ones((2, 4), np.float32)).shape == (3, 2, 2)


@pytest.mark.parametrize(
    ("path", "options", "text"),
    [
        ("m.onnx", {"format": "savedmodel"}, "a SavedModel is a directory; give it a name without .onnx"),
        ("m", {"format": "onnx"}, "let its name end in .onnx"),
        ("m.pb", {}, "let its name end in .onnx, or say format='savedmodel'"),
        ("m", {"format": "tflite"}, "format='tflite': give 'onnx' or 'savedmodel'"),
        ("m", {"format": "savedmodel", "streaming": True}, "a streaming artifact is an ONNX file"),
        ("photos", {}, "photos is there and is no SavedModel of keepdrop's"),
        ("notes", {}, "notes is there and is no SavedModel of keepdrop's"),
        ("keras2", {}, "keras2 is there and is no SavedModel of keepdrop's"),
        ("folder.onnx", {}, "folder.onnx is a directory"),
    ],
)
def test_names_that_are_refused(path: str, options: Any, text: str, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.jpg").write_bytes(b"")
    (tmp_path / "notes").write_text("kept")
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "keras2").mkdir()
    (tmp_path / "keras2" / "saved_model.pb").write_bytes(b"may be the model that is exported")
    with pytest.raises(ExportError, match=text):
        keepdrop_exporter.export(_small(), tmp_path / path, **options)
    assert {p.name for p in tmp_path.iterdir()} == {"photos", "notes", "folder.onnx", "keras2"}
    assert {p.name for p in (tmp_path / "keras2").iterdir()} == {"saved_model.pb"}


def test_names_that_are_none_in_python(tmp_path: Path) -> None:
    """The contract's names are in the signature; TensorFlow would pair some with the wrong tensors."""
    keepdrop_exporter.export(_small("2.my-window", "my-y"), tmp_path / "served", samples=2)
    assert load_savedmodel(tmp_path / "served").sample(np.ones((2, 4), np.float32), samples=3).shape == (3, 2, 2)
    a, b = keras.Input((4,), name="a.b"), keras.Input((4,), name="aB")
    mixed = keras.Model([a, b], L.Dense(2, name="y")(L.Dropout(0.5)(L.Subtract()([a, b]))))
    with pytest.raises(ConvertError, match="mix up the inputs"):
        keepdrop_exporter.export(mixed, tmp_path / "mixed")
    assert not (tmp_path / "mixed").exists()
