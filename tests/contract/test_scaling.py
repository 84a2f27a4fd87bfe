"""Scaling inside the model: samples of the raw artifact are those of the unscaled model on numbers scaled by hand.

The reference scales in float64, draws from the untouched Keras model by the contract's loop, and scales back so too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers
from sklearn import pipeline, preprocessing

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import ScalingError, cli, scaler_json, with_scaling
from keepdrop_exporter.plan.draws import make_plan
from keepdrop_exporter.plan.inputs import random_batch

from . import reference

RNG = np.random.default_rng(3)
X = RNG.normal(size=(200, 3)) * [7, 0.1, 9] + [56, -2, 101]
Y = RNG.normal(size=(200, 1)) * 7 + 56
ROWS, SAMPLES, SEED = [0, 1, 2], 7, 5

# float32: what goes in and comes out is rounded, half an ulp of some hundred over the least scale above, and a step of
# the network loses as much again.
TOLERANCE = 1e-6


def windows(*axes: int) -> np.ndarray:
    return (np.random.default_rng(4).normal(size=(3, *axes, 3)) * X.std(axis=0) + X.mean(axis=0)).astype(np.float32)


def dense() -> keras.Model:
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [keras.Input((3,), name="x"), layers.Dense(4, "tanh"), layers.Dropout(0.3), layers.Dense(1, name="y")], name="m"
    )


def recurrent(*outputs: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 3), name="window")
    memory = layers.LSTM(4, dropout=0.25, recurrent_dropout=0.25, name="memory")(x)
    made = [output(memory) for output in outputs]
    return keras.Model(x, made[0] if len(made) == 1 else made, name="forecaster")


def expected(model: keras.Model, x: np.ndarray, scaler: Any, x_scale: Any = None) -> list[np.ndarray]:
    scaled = (x.astype(np.float64) - scaler.mean_) / scaler.scale_ if x_scale is None else x_scale(x.astype(np.float64))
    drawn = reference.samples(model, [scaled.astype(np.float32)], ROWS, SAMPLES, SEED)
    return [y.astype(np.float64) for y in drawn]


def drawn(path: Path, x: np.ndarray) -> Any:
    return keepdrop.load(path, threads=1).sample(x, samples=SAMPLES, seed=SEED, rows=ROWS)


def assert_equal(got: np.ndarray, want: np.ndarray, scale: float) -> None:
    room = TOLERANCE * scale + np.spacing(np.abs(want).max().astype(np.float32))
    assert np.abs(got - want).max() <= room


@pytest.fixture(scope="module")
def standard() -> tuple[Any, Any]:
    return preprocessing.StandardScaler().fit(X), preprocessing.StandardScaler().fit(Y)


SCALERS = {
    "StandardScaler": preprocessing.StandardScaler(),
    "MinMaxScaler": preprocessing.MinMaxScaler(),
    "RobustScaler": preprocessing.RobustScaler(),
    "MaxAbsScaler": preprocessing.MaxAbsScaler(),
    "Pipeline": pipeline.make_pipeline(preprocessing.MinMaxScaler((-1, 1)), preprocessing.StandardScaler()),
}


@pytest.mark.parametrize("name", SCALERS)
def test_every_scaler(name: str, tmp_path: Path) -> None:
    kind = SCALERS[name]
    before, after = keepdrop_exporter.scalers.read_scaler(kind.fit(X)), kind.transform
    model, x = dense(), windows()
    want = expected(model, x, None, after)[0]
    inputs = scaler_json(kind)  # before it is fitted again
    of_targets = kind.fit(Y)
    want = of_targets.inverse_transform(want.reshape(-1, 1)).reshape(want.shape)
    (tmp_path / "x.json").write_text(inputs)
    report = keepdrop_exporter.export(
        model, tmp_path / "raw.onnx", input_scaler=tmp_path / "x.json", output_scaler=of_targets
    )
    scale = float(keepdrop_exporter.scalers.read_scaler(of_targets).scale[0])
    got = drawn(tmp_path / "raw.onnx", x)
    assert_equal(got, want, scale)
    assert report.metadata.changes[0].startswith("input 'x': (x - offset) / scale, 3 columns; float32 costs up to")
    # Another scaler gives other numbers.
    other = with_scaling(model, {"mean": before.offset, "scale": 1.01 * before.scale}, of_targets)
    assert np.abs(reference.samples(other, [x], ROWS, SAMPLES, SEED)[0] - got).max() > 1e-3 * scale


def test_mean_and_log_variance_in_one_output(standard: tuple[Any, Any], tmp_path: Path) -> None:
    model, x = recurrent(layers.Dense(2, name="y")), windows(6)
    want = expected(model, x, standard[0])[0]
    want = np.concatenate(
        [standard[1].mean_ + standard[1].scale_ * want[..., :1], want[..., 1:] + 2 * np.log(standard[1].scale_)], -1
    )
    keepdrop_exporter.export(
        model, tmp_path / "raw.onnx", heads="mean,logvar", input_scaler=standard[0], output_scaler=standard[1]
    )
    got = drawn(tmp_path / "raw.onnx", x)
    assert_equal(got[..., :1], want[..., :1], float(standard[1].scale_[0]))
    assert_equal(got[..., 1:], want[..., 1:], 1.0)
    raw = keepdrop.load(tmp_path / "raw.onnx", threads=1).predict(x, samples=SAMPLES, seed=SEED)
    assert raw.head.kind == "mean,logvar"
    noise = np.exp(expected(model, x, standard[0])[0][..., 1:]).mean(axis=0) * standard[1].var_
    np.testing.assert_allclose(raw.aleatoric, noise, rtol=1e-5)


def test_mean_and_log_variance_in_two_outputs(standard: tuple[Any, Any], tmp_path: Path) -> None:
    model, x = recurrent(layers.Dense(1, name="level"), layers.Dense(1, name="spread")), windows(6)
    level, spread = expected(model, x, standard[0])
    heads = {"level,spread": "mean,logvar"}
    scalers = {"input_scaler": {"window": standard[0]}, "output_scaler": {"level": standard[1]}}
    keepdrop_exporter.export(model, tmp_path / "raw.onnx", heads=heads, **scalers)
    got = drawn(tmp_path / "raw.onnx", x)
    assert_equal(got["level"], standard[1].mean_ + standard[1].scale_ * level, float(standard[1].scale_[0]))
    assert_equal(got["spread"], spread + 2 * np.log(standard[1].scale_), 1.0)
    assert keepdrop_exporter.verify(model, tmp_path / "raw.onnx", **scalers).outputs
    with pytest.raises(ScalingError, match="'spread' is the log-variance of 'level'; give that one's scaler"):
        with_scaling(model, outputs={"spread": standard[1]}, heads=heads)


def test_probabilities_keep_their_head_and_refuse_a_scaler(standard: tuple[Any, Any], tmp_path: Path) -> None:
    model, x = recurrent(layers.Dense(3, "softmax", name="mood")), windows(6)
    report = keepdrop_exporter.export(model, tmp_path / "raw.onnx", input_scaler=standard[0])
    assert [head.kind for head in report.metadata.heads] == ["softmax"]
    assert_equal(drawn(tmp_path / "raw.onnx", x), expected(model, x, standard[0])[0], 1.0)
    with pytest.raises(ScalingError, match="output 'mood' holds probabilities, which nothing scales"):
        with_scaling(model, outputs=standard[1])


def test_small_units_are_verified_in_their_own_scale(tmp_path: Path) -> None:
    """An absolute tolerance of 1e-5 would let anything pass where the outputs are of 1e-6."""
    model, scaler = dense(), {"mean": 0, "scale": 1e-6}
    report = keepdrop_exporter.export(model, tmp_path / "raw.onnx", output_scaler=scaler)
    assert report.verified.atol == pytest.approx(1e-11)
    other = {"mean": 0, "scale": 1.01e-6}
    with pytest.raises(keepdrop_exporter.VerifyError, match="differs from Keras"):
        keepdrop_exporter.verify(model, tmp_path / "raw.onnx", output_scaler=other)


def test_a_horizon_with_a_scaler_of_one_column_and_of_each_step(standard: tuple[Any, Any]) -> None:
    model, x = recurrent(layers.Dense(4, name="y")), windows(6)
    want = expected(model, x, standard[0])[0]
    one = reference.samples(with_scaling(model, *standard), [x], ROWS, SAMPLES, SEED)[0]
    assert_equal(one, standard[1].mean_ + standard[1].scale_ * want, float(standard[1].scale_[0]))
    steps = {"mean": [10, 20, 30, 40], "scale": [1, 2, 3, 4]}
    each = reference.samples(with_scaling(model, standard[0], steps), [x], ROWS, SAMPLES, SEED)[0]
    assert_equal(each, np.array(steps["mean"]) + np.array(steps["scale"]) * want, 1.0)


def test_a_stream(standard: tuple[Any, Any], tmp_path: Path) -> None:
    model, x = recurrent(layers.Dense(1, name="y")), windows(6)
    want = standard[1].mean_ + standard[1].scale_ * expected(model, x, standard[0])[0]
    keepdrop_exporter.export(
        model, tmp_path / "raw.onnx", streaming=True, input_scaler=standard[0], output_scaler=standard[1]
    )
    stream = keepdrop.load(tmp_path / "raw.onnx", threads=1).stream(samples=SAMPLES, seed=SEED, rows=ROWS)
    for step in range(6):
        p = stream.push(x[:, step])
    assert_equal(p.samples, want, float(standard[1].scale_[0]))


def test_the_model_stays_stock_keras_with_its_names(standard: tuple[Any, Any], tmp_path: Path) -> None:
    model, x = recurrent(layers.Dense(1, name="forecaster_y")), windows(6)
    raw = with_scaling(model, *standard)
    raw.save(tmp_path / "raw.keras")
    loaded = keras.models.load_model(tmp_path / "raw.keras")
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), raw.predict(x, verbose=0))
    assert [layer.__module__.split(".")[0] for layer in loaded.layers] == ["keras"] * 4
    assert (raw.inputs[0].name, raw.output_names) == ("window", ["forecaster_y"])
    np.testing.assert_allclose(
        raw.predict(x, verbose=0),
        standard[1].mean_ + standard[1].scale_ * model.predict((x - standard[0].mean_) / standard[0].scale_, verbose=0),
        rtol=1e-5,
    )


def test_the_verb_retrofit_writes_the_raw_model_and_export_and_verify_agree(
    standard: tuple[Any, Any], tmp_path: Path
) -> None:
    model, x = dense(), windows()
    model.save(tmp_path / "m.keras")
    (tmp_path / "x.json").write_text(scaler_json(standard[0]))
    (tmp_path / "y.json").write_text(f'{{"y": {scaler_json(standard[1])}}}')
    scalers = ["--input-scaler", str(tmp_path / "x.json"), "--output-scaler", str(tmp_path / "y.json")]
    files = [str(tmp_path / name) for name in ("m.keras", "raw.onnx", "raw.keras")]
    run = CliRunner().invoke
    done = run(cli.retrofit, [files[0], "-o", files[2], *scalers], catch_exceptions=False)
    assert "on raw numbers" in done.output and "float32 costs" in done.output
    raw = keras.models.load_model(files[2])
    want = reference.samples(raw, [x], ROWS, SAMPLES, SEED)[0]
    assert not run(cli.export, [files[0], "-o", files[1], *scalers], catch_exceptions=False).exit_code
    reference.assert_samples_equal(drawn(tmp_path / "raw.onnx", x), [want])
    assert "verified" in run(cli.verify, [files[0], files[1], *scalers], catch_exceptions=False).output
    assert run(cli.retrofit, [files[0], "-o", files[2]]).exit_code == 2
    with pytest.raises(keepdrop_exporter.VerifyError):
        run(cli.verify, files[:2], catch_exceptions=False)


@pytest.mark.parametrize(
    ("scalers", "message"),
    [
        ({"inputs": {"mean": [1, 2], "scale": [1, 2]}}, "input 'window' has 3 columns and its scaler 2"),
        ({"outputs": {"mean": [1, 2], "scale": [1, 2]}}, "output 'y' has 1 columns and its scaler 2"),
        ({"inputs": {"past": {"mean": 0, "scale": 1}}}, r"for input 'past'; the model's inputs are \['window'\]"),
        ({"inputs": {"window": {"mean": 0}}}, "input 'window': a scaler of 'mean' is not clear"),
        (
            {"inputs": {"columns": ["temp", "unix", "hum"], "mean": [56, 1.7e9, 50], "scale": [7, 3600, 10]}},
            r"column 'unix' has the offset 1.7e\+09 and the scale 3600, and float32 then loses 0.018 of the scale",
        ),
        ({"outputs": {"mean": 1e5, "scale": 1}}, "float32 then loses 0.00[34]. of the scale"),
        ({"inputs": {"mean": 0, "scale": 1e-9}}, "float32 then loses"),  # Keras divides by 1e-7 at least
        ({"inputs": {"mean": 0, "scale": 1e25}}, "with a scale of 1e.25, beyond what float32"),  # its square
    ],
)
def test_what_does_not_fit_or_is_not_exact_is_refused(scalers: dict[str, Any], message: str) -> None:
    with pytest.raises(ScalingError, match=message):
        with_scaling(recurrent(layers.Dense(1, name="y")), **scalers)


def test_random_inputs_of_a_verification_lie_where_the_data_do(standard: tuple[Any, Any]) -> None:
    raw = with_scaling(recurrent(layers.Dense(1, name="y")), standard[0])
    x = random_batch(make_plan(raw), 300, 6, np.random.default_rng(0))["window"]
    np.testing.assert_allclose(x.mean(axis=(0, 1)), standard[0].mean_, atol=0.1 * standard[0].scale_.max())
    np.testing.assert_allclose(x.std(axis=(0, 1)), standard[0].scale_, rtol=0.1)


def test_masks_and_integers_are_not_scaled() -> None:
    x = keras.Input((6, 3), name="window")
    masked = keras.Model(x, layers.Dense(1)(layers.LSTM(2, dropout=0.2)(layers.Masking(0.0)(x))))
    with pytest.raises(
        ScalingError, match="'window' is read by a Masking layer, which looks for 0 among scaled numbers"
    ):
        with_scaling(masked, {"mean": 0, "scale": 2})
    words = keras.Input((6,), dtype="int32", name="words")
    read = keras.Model(words, layers.Dense(1)(layers.GRU(2, dropout=0.2)(layers.Embedding(5, 2)(words))))
    with pytest.raises(ScalingError, match="input 'words' is int32, which are no numbers to scale"):
        with_scaling(read, {"mean": 0, "scale": 2})
