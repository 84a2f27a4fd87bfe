"""Stage 5: what verify reports, and which files and data it does not accept."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import Report, VerifyError
from keepdrop_exporter.plan import inputs
from keepdrop_exporter.plan.draws import make_plan
from keepdrop_exporter.plan.reference import reference
from keepdrop_exporter.verification import comparison


def test_report(forecaster: Report, forecaster_file: Path) -> None:
    report = keepdrop_exporter.verify(forecaster_file, forecaster.path, rows=3, samples=5, seed=11)
    assert dataclasses.replace(report, outputs=()) == keepdrop.artifact.Verification(
        rows=3, samples=5, seed=11, atol=1e-5, rtol=1e-4, data="random", outputs=()
    )
    (check,) = report.outputs
    assert check.name == "forecast" and 0 <= check.max_abs < 1e-5 and 0 <= check.max_rel < 1e-3


def test_every_output_is_reported(sentence: Any) -> None:
    report = keepdrop_exporter.verify(sentence.model, sentence.report.path)
    assert [check.name for check in report.outputs] == ["mood", "length"]


def test_given_data(sentence: Any) -> None:
    report = keepdrop_exporter.verify(sentence.model, sentence.report.path, data=sentence.data)
    assert report.data == "given"


def test_fewer_data_than_rows(sentence: Any) -> None:
    data = {name: array[:2] for name, array in sentence.data.items()}
    assert keepdrop_exporter.verify(sentence.model, sentence.report.path, data=data, rows=4).rows == 2


def test_a_single_array_of_data(forecaster: Report, forecaster_file: Path) -> None:
    data = np.random.default_rng(0).standard_normal((20, 9, 3))  # float64, as np.loadtxt gives it
    assert keepdrop_exporter.verify(forecaster_file, forecaster.path, data=data, rows=6).data == "given"


def test_data_are_what_is_compared(forecaster: Report, forecaster_file: Path) -> None:
    """Inputs that are not numbers show that these very inputs were used."""
    data = np.full((4, 9, 3), np.inf, np.float32)
    with pytest.raises(VerifyError):
        keepdrop_exporter.verify(forecaster_file, forecaster.path, data=data)


@pytest.mark.parametrize(
    "data, text",
    [
        (lambda data: {"words": data["words"]}, "extra"),
        (lambda data: data["extra"], "words"),
        (lambda data: {**data, "extra": data["extra"][:, :3]}, "extra"),
        (lambda data: {**data, "words": data["words"] + 11}, "words"),
        (lambda data: {name: array[:0] for name, array in data.items()}, "at least one"),
        (lambda data: {**data, "words": data["words"][:2]}, "the same number"),
    ],
    ids=[
        "an input missing",
        "one array for two inputs",
        "another shape",
        "ids that the Embedding lacks",
        "no rows",
        "unequal numbers of rows",
    ],
)
def test_wrong_data(sentence: Any, data: Any, text: str) -> None:
    with pytest.raises(VerifyError, match=text) as caught:
        keepdrop_exporter.verify(sentence.model, sentence.report.path, data=data(sentence.data))
    assert "\n" not in str(caught.value) and "\x1b" not in str(caught.value)


@pytest.mark.parametrize("options", [{"rows": 0}, {"samples": 1}, {"samples": 0}])
def test_too_little_to_compare(forecaster: Report, forecaster_file: Path, options: dict[str, int]) -> None:
    with pytest.raises(VerifyError, match="at least 1 row and 2 samples"):
        keepdrop_exporter.verify(forecaster_file, forecaster.path, **options)


def test_no_tolerance_at_all(forecaster: Report, forecaster_file: Path) -> None:
    with pytest.raises(VerifyError, match="allowed are 0 [+] 0"):
        keepdrop_exporter.verify(forecaster_file, forecaster.path, atol=0, rtol=0)


def test_one_row_is_enough(forecaster: Report, forecaster_file: Path) -> None:
    assert keepdrop_exporter.verify(forecaster_file, forecaster.path, rows=1, samples=2).rows == 1


@pytest.mark.parametrize("rates", [(0.25, 0.4), (0.3, 0.5)])
def test_the_file_of_a_model_with_other_draws(forecaster: Report, rates: tuple[float, float]) -> None:
    other = _lstm(*rates)
    with pytest.raises(VerifyError, match="made from another model.*their draws differ"):
        keepdrop_exporter.verify(other, forecaster.path)


def test_the_file_of_a_model_with_other_weights(forecaster: Report) -> None:
    with pytest.raises(VerifyError, match="'forecast' differs from Keras.*by up to"):
        keepdrop_exporter.verify(_lstm(0.25, 0.5), forecaster.path)


def test_another_file_than_the_artifact_was_made_from(forecaster: Report, tmp_path: Path) -> None:
    _lstm(0.25, 0.5).save(tmp_path / "other.keras")
    with pytest.raises(VerifyError, match="made from another file than .*other.keras .*SHA-256 differ.*differs from"):
        keepdrop_exporter.verify(tmp_path / "other.keras", forecaster.path)


@pytest.mark.parametrize("length", [1, 2, 3, 5])
def test_masks_leave_steps_however_few_there_are(length: int) -> None:
    h = layers.Masking()(x := keras.Input((length, 3), name="x"))
    plan = make_plan(keras.Model(x, layers.LSTM(2, dropout=0.5)(h)))
    (batch,) = inputs.random_batches(plan, rows=1, seed=0)
    assert (batch["x"] != 0).any()
    assert (batch["x"] == 0).any() == (length > 2)


def test_random_inputs_are_of_the_scale_that_was_normalised() -> None:
    normal = layers.BatchNormalization()
    model = keras.Sequential([keras.Input((50, 2), name="x"), normal, layers.Dropout(0.5)])
    normal.moving_mean.assign([1000.0, -5.0])
    normal.moving_variance.assign([100.0, 0.01])
    (batch,) = inputs.random_batches(make_plan(model), rows=4, seed=0)
    np.testing.assert_allclose(batch["x"].mean(axis=(0, 1)), [1000, -5], rtol=0.01)
    np.testing.assert_allclose(batch["x"].std(axis=(0, 1)), [10, 0.1], rtol=0.2)


def test_random_inputs_are_small_where_nothing_is_known_of_them() -> None:
    x, ids = keras.Input((50, 2), name="x"), keras.Input((50,), name="ids")
    h = layers.Concatenate()([x, layers.Embedding(9, 2)(ids)])
    (batch,) = inputs.random_batches(make_plan(keras.Model([x, ids], layers.Dropout(0.5)(h))), rows=4, seed=0)
    assert batch["x"].std() == pytest.approx(0.5, rel=0.1)
    assert set(np.unique(batch["ids"])) == set(range(9))


def test_random_inputs_of_a_rescaling() -> None:
    model = keras.Sequential(
        [keras.Input((50, 2), name="x"), layers.Rescaling([0.01, 5], [-1, 0]), layers.Dropout(0.5)]
    )
    (batch,) = inputs.random_batches(make_plan(model), rows=4, seed=0)
    np.testing.assert_allclose(batch["x"].mean(axis=(0, 1)), [100, 0], atol=20)
    np.testing.assert_allclose(batch["x"].std(axis=(0, 1)), [100, 0.2], rtol=0.2)


def _magnifying() -> keras.Model:
    """On standard normal inputs its samples reach thousands, and differ from float64 by a thousandth."""
    keras.utils.set_random_seed(1)
    relu = {"activation": "relu", "recurrent_dropout": 0.2}
    lstms = [layers.LSTM(16, return_sequences=True, **relu), layers.LSTM(16, **relu)]
    model = keras.Sequential([keras.Input((24, 3), name="x"), *lstms, layers.Dense(1)])
    for lstm in lstms:
        lstm.cell.recurrent_kernel.assign(5 * lstm.cell.recurrent_kernel)
    return model


def test_recurrences_that_magnify_are_exported_by_default(tmp_path: Path) -> None:
    keepdrop_exporter.export(_magnifying(), tmp_path / "m.onnx")


def test_smaller_inputs_are_tried_where_nothing_can_be_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _magnifying()
    monkeypatch.setattr(comparison, "_MOST", 1e-6)  # of a sample, beyond which Keras' own rounding shows nothing
    found = keepdrop_exporter.export(model, tmp_path / "m.onnx").verified.outputs[0]
    assert found.max_abs > 0 and found.from_float64 == 0
    (usual,) = inputs.random_batches(make_plan(model), rows=4, seed=0)
    with pytest.raises(VerifyError, match="where nothing can be told: give real ones"):
        keepdrop_exporter.verify(model, tmp_path / "m.onnx", data=usual)


def test_recurrent_dropout_of_a_single_step(tmp_path: Path) -> None:
    memory = layers.LSTM(3, recurrent_dropout=0.2, name="memory")
    model = keras.Sequential([keras.Input((1, 2), name="x"), memory])
    with pytest.raises(VerifyError, match="layer 'memory' takes one step, at which its state is zero.*memory.input"):
        keepdrop_exporter.export(model, tmp_path / "m.onnx")


def test_a_single_weight_that_differs(forecaster: Report, forecaster_file: Path) -> None:
    model = keras.models.load_model(forecaster_file)
    bias = model.get_layer("forecast").bias
    bias.assign(bias + np.float32([0.0, 1e-3]))
    with pytest.raises(VerifyError, match="differs from Keras"):
        keepdrop_exporter.verify(model, forecaster.path)
    keepdrop_exporter.verify(model, forecaster.path, atol=2e-3)


def _lstm(dropout: float, recurrent: float) -> keras.Model:
    keras.utils.set_random_seed(99)
    lstm = layers.LSTM(5, dropout=dropout, recurrent_dropout=recurrent, name="lstm")
    return keras.Sequential([keras.Input((9, 3), name="window"), lstm, layers.Dense(2, name="forecast")])


def test_a_file_of_another_converter(tmp_path: Path, forecaster: Report, forecaster_file: Path) -> None:
    proto = onnx.load(forecaster.path)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "bare.onnx")
    with pytest.raises(keepdrop.ArtifactError, match="bare.onnx.*keepdrop export"):
        keepdrop_exporter.verify(forecaster_file, tmp_path / "bare.onnx")


@pytest.mark.parametrize("seed", [0, 7, -3, 2**40, -(2**63)])
def test_any_seed(forecaster: Report, forecaster_file: Path, seed: int) -> None:
    assert keepdrop_exporter.verify(forecaster_file, forecaster.path, seed=seed, rows=2, samples=3).seed == seed


def test_the_model_is_left_untouched(sentence: Any) -> None:
    before = [variable.numpy() for variable in sentence.model.variables]
    keepdrop_exporter.verify(sentence.model, sentence.report.path)
    assert all(np.array_equal(v.numpy(), b) for v, b in zip(sentence.model.variables, before, strict=True))


def _lengths(model: keras.Model) -> list[list[int]]:
    batches = inputs.random_batches(make_plan(model), rows=2, seed=0)
    return [[n for t in model.inputs for n in batch[t.name].shape[1:-1]] for batch in batches]


def test_dynamic_axes_have_lengths_of_their_own() -> None:
    """A graph that takes one length for the other would go unnoticed otherwise."""
    a, b = keras.Input((None, 3), name="a"), keras.Input((None, 3), name="b")
    model = keras.Model([a, b], layers.MultiHeadAttention(1, 2, dropout=0.5)(a, b))
    lengths = _lengths(model)
    assert len(lengths) == 2 and len({n for pair in lengths for n in pair}) == 4


def test_dynamic_axes_are_alike_where_the_model_needs_it() -> None:
    a, b = keras.Input((None, 3), name="a"), keras.Input((None, 3), name="b")
    lengths = _lengths(keras.Model([a, b], layers.Dropout(0.5)(layers.Concatenate()([a, b]))))
    assert lengths[0][0] == lengths[0][1] != lengths[1][0] == lengths[1][1]


def test_models_one_after_another_are_none_of_tensorflows_warnings(caplog: pytest.LogCaptureFixture) -> None:
    model = keras.Sequential([keras.Input((40,), name="x"), layers.Dropout(0.5)])
    x = {"x": np.ones((2, 40), np.float32)}

    def called(*, traced: bool) -> None:
        for _ in range(6):
            plan = make_plan(model)
            if traced:
                reference(plan, x, np.arange(2), 3, 0)
            else:
                tf.function(plan.call, autograph=False)([x["x"]])

    tf.get_logger().addHandler(caplog.handler)
    try:
        called(traced=True)
        assert not caplog.records
        called(traced=False)
        assert "retracing" in caplog.text
    finally:
        tf.get_logger().removeHandler(caplog.handler)
