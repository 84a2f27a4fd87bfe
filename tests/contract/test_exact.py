"""Every sample of an artifact is the one stock Keras computes, by the contract's reference loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keepdrop
import keepdrop_exporter

from . import models, reference

# Ids next to each other, apart, and beyond 32 bits; seeds that Keras' floormod leaves alone, makes positive and cuts.
ROWS = [0, 3, 2**33 + 5]
SEEDS = [0, 7, -3, 2**40]
# Unlike the batch, the steps, the features and the units, so that no axis can be taken for another.
SAMPLES = 7


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", models.MODELS)
def test_samples_are_those_of_stock_keras(exported: Any, name: str, seed: int) -> None:
    model = exported(name)
    expected = model.reference(rows=ROWS, samples=SAMPLES, seed=seed)
    reference.assert_samples_equal(model.sample(samples=SAMPLES, seed=seed, rows=ROWS), expected)
    assert max(np.ptp(y, axis=0).max() for y in expected) > 1e-2


@pytest.mark.parametrize("name", models.MODELS)
def test_another_seed_or_row_would_be_noticed(exported: Any, name: str) -> None:
    model = exported(name)
    expected = model.reference(rows=ROWS, samples=SAMPLES, seed=7)
    for options in ({"seed": 8, "rows": ROWS}, {"seed": 7, "rows": [1, 4, 2**33 + 6]}):
        with pytest.raises(AssertionError):
            reference.assert_samples_equal(model.sample(samples=SAMPLES, **options), expected)


@pytest.mark.parametrize("length", [1, 4, 17])
def test_at_every_length_where_time_is_dynamic(exported: Any, length: int) -> None:
    model = exported("any length")
    x = models.inputs(model.keras_model, batch=3, length=length)
    expected = model.reference(x, rows=ROWS, samples=SAMPLES, seed=7)
    assert expected[0].shape == (SAMPLES, 3, length, 2)
    reference.assert_samples_equal(model.sample(x, samples=SAMPLES, seed=7, rows=ROWS), expected)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (keras.layers.Dropout(0.3), (7, 3)),
        (keras.layers.Dropout(0.3), (5,)),
        (keras.layers.Dropout(0.5), (4,)),
        (keras.layers.Dropout(0.3, noise_shape=(None, 1, 3)), (7, 3)),
        (keras.layers.SpatialDropout1D(0.1), (7, 3)),
        (keras.layers.SpatialDropout2D(0.9), (3, 2, 5)),
        (keras.layers.Dropout(1 / 3), (40,)),
        (keras.layers.Dropout(0.99), (40,)),
    ],
    ids=lambda value: getattr(value, "rate", value),
)
@pytest.mark.parametrize("seed", SEEDS)
def test_masks_are_bit_identical(mask_artifact: Any, layer: keras.Layer, shape: tuple[int, ...], seed: int) -> None:
    model, artifact = mask_artifact(layer, shape)
    x = np.random.default_rng(0).uniform(1, 2, (3, *shape)).astype(np.float32)
    (expected,) = reference.samples(model, [x], ROWS, SAMPLES, seed)
    got = artifact.sample(x, samples=SAMPLES, seed=seed, rows=ROWS)
    assert np.array_equal(got == 0, expected == 0)
    assert np.array_equal(got, expected)
    assert (expected == 0).any()


@pytest.fixture(scope="module")
def mask_artifact(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Gives a model of that layer alone and its artifact."""
    made: dict[int, tuple[keras.Model, keepdrop.Model]] = {}

    def mask_artifact(layer: keras.Layer, shape: tuple[int, ...]) -> tuple[keras.Model, keepdrop.Model]:
        if id(layer) not in made:
            model = keras.Sequential([keras.Input(shape, name="x"), layer])
            path: Path = tmp_path_factory.mktemp("mask") / "mask.onnx"
            keepdrop_exporter.export(model, path, samples=64)
            made[id(layer)] = model, keepdrop.load(path, threads=1)
        return made[id(layer)]

    return mask_artifact


def test_normals_keep_to_their_own_bound(tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((7,), name="x"), keras.layers.GaussianNoise(1.0)])
    keepdrop_exporter.export(model, tmp_path / "noise.onnx")
    x = np.zeros((3, 7), np.float32)
    (expected,) = reference.samples(model, [x], ROWS, 101, 7)
    got = keepdrop.load(tmp_path / "noise.onnx").sample(x, samples=101, seed=7, rows=ROWS)
    # Logarithm, sine and cosine of two libraries; normals here reach 4.
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-6)
    assert expected.std() > 0.9


def test_baked_training_flags_change_nothing(exported: Any) -> None:
    """Keras 3 passes training=False in predict, which overrides a baked True: the spread of that recipe is zero."""
    baked = exported("training=True baked in")
    repeated = np.repeat(baked.inputs[0][:1], SAMPLES, axis=0)
    assert np.ptp(baked.keras_model.predict(repeated, verbose=0), axis=0).max() == 0
    for name in ("training=True baked in", "training=False baked in"):
        assert np.ptp(exported(name).sample(samples=SAMPLES), axis=0).max() > 0.1


def test_normalization_stays_in_inference(exported: Any) -> None:
    """model(x, training=True) alone would normalise by the batch: other samples than these."""
    model = exported("BatchNormalization")
    norms = [layer for layer in model.keras_model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert all(norm.trainable for norm in norms)
    frozen = model.reference(rows=ROWS, samples=SAMPLES, seed=7)[0]
    moving = [np.array(v) for norm in norms for v in (norm.moving_mean, norm.moving_variance)]
    found = reference.generators(model.keras_model, model.inputs)
    for i, (generator, _) in enumerate(found):
        generator.state.assign([7, sum(count for _, count in found[:i])])
    flipped = model.keras_model(np.repeat(model.inputs[0][:1], SAMPLES, axis=0), training=True)
    for variable, value in zip((v for n in norms for v in (n.moving_mean, n.moving_variance)), moving, strict=True):
        variable.assign(value)
    assert np.abs(np.asarray(flipped) - frozen[:, 0]).max() > 0.1


def test_masks_that_a_failed_call_left_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keras' cells hold their masks until the layer's call ends, and one that raises never does."""
    model = models.build("LSTM both")
    cell, x = model.layers[0].cell, models.inputs(model, batch=5)
    step = type(cell).call

    def failing(*args: Any, **kwargs: Any) -> Any:
        step(*args, **kwargs)
        raise ArithmeticError

    def fail() -> None:
        with monkeypatch.context() as patch, pytest.raises(ArithmeticError):
            patch.setattr(type(cell), "call", failing)
            model(x[0], training=True)

    fail()
    assert cell._dropout_mask is not None
    with pytest.raises(Exception, match="[Ii]ncompatible shapes|required broadcastable"):
        model(x[0][:2], training=True)
    keepdrop_exporter.export(model, tmp_path / "m.onnx")
    fail()
    expected = reference.samples(model, x, [0, 1, 2, 3, 4], SAMPLES, seed=7)
    got = keepdrop.load(tmp_path / "m.onnx").sample(x[0], samples=SAMPLES, seed=7)
    reference.assert_samples_equal(got, expected)
