"""Which rates can be set, what is said where one cannot, and the file that `keepdrop retrofit` writes."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import keras
import pytest
from click.testing import CliRunner
from keras import layers as L

import keepdrop
import keepdrop_exporter
from keepdrop.cli import main
from keepdrop_exporter import RetrofitError, VerifyError, cli, with_dropout
from keepdrop_exporter.loading.keras2.activations import keras2_hard_sigmoid
from keepdrop_exporter.retrofit import save_with_dropout


def _sequential(*stack: L.Layer, shape: tuple[int | None, ...] = (6, 3)) -> keras.Model:
    return keras.Sequential([keras.Input(shape, name="x"), *stack])


def _plain() -> keras.Model:
    keras.utils.set_random_seed(3)
    return _sequential(L.LSTM(5, name="lstm"), L.Dense(2, name="dense"))


class OwnCell(L.Layer):
    state_size = output_size = 3

    def call(self, x: Any, states: Any) -> Any:
        return x, states


class Block(L.Layer):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inside = L.Dropout(0.1, name="inside")

    def call(self, x: Any) -> Any:
        return self.inside(x)


def _odd() -> keras.Model:
    x = keras.Input((6,), dtype="int32", name="ids")
    y = L.RNN(OwnCell(name="own"), name="rnn")(L.Embedding(5, 3, name="words")(x))
    y = L.Add(name="sum")([L.Dropout(0.5, name="drop")(y), Block(name="block")(y)])
    return keras.Model(x, L.LSTM(2, name="lstm")(L.Reshape((1, 3), name="shape")(y)), name="odd")


THERE = "rates can be set at drop, block.input, shape.input, lstm.input, lstm.recurrent"


@pytest.mark.parametrize(
    ("place", "rate", "text"),
    [
        ("head", 0.1, f"'head' matches nothing in model 'odd'; {THERE}"),
        ("drop*.recurrent", 0.1, f"matches nothing in model 'odd'; {THERE}"),
        ("lstm", 0.1, "'lstm': a recurrent layer has two rates: lstm.input and lstm.recurrent"),
        ("rnn.recurrent", 0.1, "its cell 'own' of class OwnCell has no recurrent_dropout"),
        ("rnn.input", 0.1, "its cell 'own' of class OwnCell has no dropout"),
        ("block/inside", 0.1, "lies in a layer that is copied as a whole"),
        ("block", 0.1, "its class Block has no dropout rate of its own"),
        ("shape.recurrent", 0.1, "layer 'shape' is not recurrent"),
        ("ids.input", 0.1, "it is an input"),
        ("words.input", 0.1, "it reads integers"),
        ("sum.input", 0.1, "it takes 2 tensors"),
        ("drop.input", 0.1, "it is a dropout itself"),
        ("drop", 1, "drop=1: a dropout rate is a number from 0 to below 1"),
        ("drop", -0.1, "from 0 to below 1"),
        ("drop", float("nan"), "from 0 to below 1"),
        ("drop", True, "from 0 to below 1"),
        ("drop", "0.5", "from 0 to below 1"),
    ],
)
def test_what_is_refused(place: str, rate: Any, text: str) -> None:
    with pytest.raises(RetrofitError) as refusal:
        with_dropout(_odd(), {place: rate})
    assert text in str(refusal.value)


def test_one_direction_alone_is_refused() -> None:
    model = _sequential(L.Bidirectional(L.GRU(2, name="gru"), name="both"))
    with pytest.raises(RetrofitError, match="'both/forward_gru' takes no rate of its own: 'both.recurrent' sets all"):
        with_dropout(model, {"both/forward_gru.recurrent": 0.1})


def test_a_stateful_layer_is_refused() -> None:
    x = keras.Input(batch_shape=(2, 6, 3), name="x")
    with pytest.raises(RetrofitError, match="layer 'gru' is stateful"):
        with_dropout(keras.Model(x, L.GRU(2, stateful=True, name="gru")(x)), {"gru.recurrent": 0.2})


def test_a_subclassed_model_is_refused() -> None:
    class Own(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    with pytest.raises(RetrofitError, match="of the class Own, whose own code"):
        with_dropout(Own(), {"*": 0.1})


def test_models_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(RetrofitError, match="model 'later' has no input yet"):
        with_dropout(keras.Sequential([L.Dense(2)], name="later"), {"*": 0.1})
    words = keras.Input((1,), dtype="string", name="words")
    ids = keras.ops.cast(L.StringLookup(vocabulary=["a"])(words), "float32")
    with pytest.raises(RetrofitError, match="input 'words' is of strings"):
        with_dropout(keras.Model(words, L.Dense(2, name="y")(ids)), {"y.input": 0.1})


class Forgetful(L.Dense):
    """Its config tells nothing of the activation."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "activation": "linear"}


class Growing(L.Dense):
    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "units": self.units + 1}


class Silent(L.Layer):
    def __init__(self, factor: float, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor

    def call(self, x: Any) -> Any:
        return x * self.factor

    def get_config(self) -> dict[str, Any]:
        return {"name": self.name}


@pytest.mark.parametrize(
    ("layer", "text"),
    [
        (lambda: Forgetful(3, "relu", name="own"), "output 'y' would change without dropout too"),
        (lambda: Growing(3, name="own"), "layer 'own' of class Growing has other weights"),
        (lambda: Silent(2.0, name="own"), "layer 'own' of class Silent cannot be made again"),
    ],
)
def test_a_layer_that_does_not_come_out_the_same_is_noticed(layer: Any, text: str) -> None:
    model = _sequential(layer(), L.Flatten(), L.Dense(2, name="y"))
    with pytest.raises(RetrofitError, match=text):
        with_dropout(model, {"y.input": 0.1})


class MonteCarloLSTM(L.LSTM):
    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool = False) -> Any:
        return super().call(sequences, initial_state=initial_state, mask=mask, training=True)


class MCDropout(L.Dropout):
    def call(self, inputs: Any) -> Any:
        return super().call(inputs, training=True)


def _squared(x: Any) -> Any:
    return x * x


def test_functions_of_the_users_own() -> None:
    model = _sequential(L.LSTM(3, activation=_squared, name="lstm"), L.Dense(2, activation=_squared, name="y"))
    made = with_dropout(model, {"lstm.recurrent": 0.3, "y.input": 0.2})
    assert made.get_layer("lstm").cell.activation is made.get_layer("y").activation is _squared


def test_classes_of_the_users_own_and_lambdas() -> None:
    """They stay what they are; what they draw even without training does not disturb the check."""
    factor = 2.0
    with keras.saving.custom_object_scope({"MonteCarloLSTM": MonteCarloLSTM}):
        recurrent = L.Bidirectional(MonteCarloLSTM(3, dropout=0.1, name="mc"), name="both")
    model = _sequential(L.Lambda(lambda x: x * factor, name="twice"), recurrent, MCDropout(0.5, name="drop"))
    made = with_dropout(model, {"both.recurrent": 0.3, "drop": 0.2})
    assert [type(layer) for layer in made.layers] == [type(layer) for layer in model.layers]
    assert type(made.get_layer("both").forward_layer) is MonteCarloLSTM
    assert [made.get_layer("both").backward_layer.recurrent_dropout, made.get_layer("drop").rate] == [0.3, 0.2]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plain") / "plain.keras"
    _plain().save(path)
    return path


@pytest.fixture
def older(tmp_path: Path) -> Path:
    path = tmp_path / "target" / "mc.keras"
    path.parent.mkdir()
    path.write_bytes(b"older")
    return path


def _run(verb: Any, *arguments: object) -> Any:
    return CliRunner().invoke(verb, [str(argument) for argument in arguments])


def test_the_command_writes_a_stock_model(plain: Path, older: Path) -> None:
    result = _run(cli.retrofit, plain, "-o", older, "--dropout", "*.recurrent=0.2", "--dropout", "dense.input=0.5")
    assert result.exit_code == 0, result.output
    assert "  lstm.recurrent: dropout rate 0.2, was 0\n  dense.input: Dropout(0.5) put before it\n" in result.stdout
    assert list(older.parent.iterdir()) == [older]
    with zipfile.ZipFile(older) as archive:
        assert b"keepdrop" not in archive.read("config.json")
    model = keras.models.load_model(older)
    assert [layer.name for layer in model.layers] == ["lstm", "dense_dropout", "dense"]
    assert (model.layers[0].dropout, model.layers[0].recurrent_dropout, model.layers[1].rate) == (0, 0.2, 0.5)
    assert json.loads(_run(cli.retrofit, plain, "-o", older, "--dropout", "lstm.input=0.1", "--json").stdout) == {
        "path": str(older),
        "changes": ["lstm.input: dropout rate 0.1, was 0"],
    }


@pytest.mark.parametrize(
    ("path", "text"),
    [("none/mc.keras", "there is no folder"), ("mc.onnx", "let its name end in .keras"), ("mc.keras", "matches")],
)
def test_a_failed_retrofit_leaves_what_was_there(plain: Path, older: Path, path: str, text: str) -> None:
    with pytest.raises(RetrofitError, match=text):
        save_with_dropout(plain, older.parent / path, {"nothing": 0.1})
    assert list(older.parent.iterdir()) == [older] and older.read_bytes() == b"older"


def test_what_loading_changed_and_what_plain_keras_needs_is_said(tmp_path: Path) -> None:
    """The model is not quite stock: its batch was fixed, and it has a function that only this package registers."""
    old = L.LSTM(4, recurrent_activation=keras2_hard_sigmoid, name="lstm")
    keras.Sequential([keras.Input(batch_shape=(4, 9, 3)), old, L.Dense(1)]).save(tmp_path / "old.keras")
    lifted, rate, needs = save_with_dropout(tmp_path / "old.keras", tmp_path / "mc.keras", {"lstm.input": 0.1})
    assert "batch" in lifted and rate == "lstm.input: dropout rate 0.1, was 0"
    # In a process of its own, since this one has registered the function.
    code = (
        "import keras, sys\n"
        "try: keras.models.load_model(sys.argv[1])\n"
        "except TypeError: pass\n"
        "else: raise SystemExit('nothing needed')\n"
        f"{needs.rpartition(', ')[2]}\n"
        "keras.models.load_model(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "mc.keras")], check=True, capture_output=True)


def test_the_source_is_never_overwritten(plain: Path, tmp_path: Path) -> None:
    source = tmp_path / "source.keras"
    source.write_bytes(plain.read_bytes())
    (tmp_path / "hard.keras").hardlink_to(source)
    for name in ("source.keras", "hard.keras"):
        with pytest.raises(keepdrop.InputError, match=f"the new model, .*{name}, is the model itself"):
            save_with_dropout(source, tmp_path / name, {"lstm.input": 0.1})
    assert len(list(tmp_path.iterdir())) == 2 and source.read_bytes() == plain.read_bytes()


def test_a_file_that_differs_is_not_given_its_name(plain: Path, older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = _plain()
    other.layers[-1].kernel.assign(other.layers[-1].kernel + 0.01)
    monkeypatch.setattr(keras.models, "load_model", lambda *args, **options: other)
    with pytest.raises(RetrofitError, match="output 'dense' would change"):
        save_with_dropout(_plain(), older, {"lstm.input": 0.1})
    assert list(older.parent.iterdir()) == [older] and older.read_bytes() == b"older"


def test_export_and_verify_by_the_command(plain: Path, tmp_path: Path) -> None:
    rates = {"lstm.input": 0.25, "lstm.recurrent": 0.25, "dense.input": 0.5}
    asked = [text for place, rate in rates.items() for text in ("--dropout", f"{place}={rate}")]
    out = tmp_path / "mc.onnx"
    result = _run(cli.export, plain, "-o", out, "--samples", 3, *asked)
    assert result.exit_code == 0, result.output
    changes = keepdrop.load(out).metadata.changes
    assert changes == (
        "lstm.input: dropout rate 0.25, was 0",
        "lstm.recurrent: dropout rate 0.25, was 0",
        "dense.input: Dropout(0.5) put before it",
    )
    assert all(f"note: {change}" in result.stdout for change in changes)
    shown = _run(main, "inspect", out).stdout
    assert all(f"  {change}\n" in shown for change in changes)
    assert _run(cli.verify, plain, out, "--samples", 3, *asked).exit_code == 0
    with pytest.raises(VerifyError, match="draws differ; on the way to it was set: lstm.input: dropout rate 0.25"):
        keepdrop_exporter.verify(plain, out, dropout={**rates, "dense.input": 0.4})
    with pytest.raises(
        keepdrop_exporter.Refusal, match="nothing in it is random.* --dropout LAYER=RATE .* those of the export"
    ):
        keepdrop_exporter.verify(plain, out)


@pytest.mark.parametrize("value", ["lstm.input", "=0.1", "lstm.input=much", "lstm.input="])
def test_usage_errors(plain: Path, tmp_path: Path, value: str) -> None:
    result = _run(cli.retrofit, plain, "-o", tmp_path / "mc.keras", "--dropout", value)
    assert result.exit_code == 2 and "give it as LAYER=RATE" in result.stderr
