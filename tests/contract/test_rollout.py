"""Each sample with an input of its own, and forecasts fed with their own output: the loop in stock Keras."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from keras import layers as L
from numpy.typing import NDArray

import keepdrop
import keepdrop_exporter
from keepdrop import ArtifactError, InputError
from keepdrop.artifact.metadata import METADATA_KEY
from keepdrop.artifact.properties import with_properties
from keepdrop.cli import main
from keepdrop.recursion import step_seed
from keepdrop.replay import write_vectors
from keepdrop.run.session import Session
from keepdrop_exporter import ExportError

from .reference import ATOL, RTOL, generators

T, STEPS, SEED, ROWS = 11, 4, 5, [7, 2**33 + 1]


def _forecaster() -> keras.Model:
    """One step from a window of 6: a recurrence whose dropout has masks of both kinds, and a plain one."""
    keras.utils.set_random_seed(3)
    window = keras.Input((6, 1), name="window")
    hidden = L.LSTM(5, dropout=0.3, recurrent_dropout=0.2, return_sequences=True, name="lstm")(window)
    hidden = L.Dropout(0.2, name="drop")(L.GRU(4, name="gru")(hidden))
    return keras.Model(window, L.Dense(1, name="next")(hidden), name="forecaster")


def _decoder() -> keras.Model:
    """A step of a decoder: what it gave last and its state, and a context that is the same for all samples."""
    keras.utils.set_random_seed(4)
    last, state, context = (keras.Input((n,), name=name) for name, n in (("last", 1), ("state", 4), ("context", 3)))
    joined = L.Concatenate()([L.Dropout(0.3, name="drop")(last), L.Dense(3, activation="tanh", name="seen")(context)])
    new = L.Dense(4, activation="tanh", name="new")(L.Concatenate()([joined, state]))
    new = L.Dropout(0.2, name="forget")(new)
    return keras.Model([last, state, context], {"value": L.Dense(1, name="value")(new), "carried": new}, name="decoder")


def _keras_call(model: keras.Model, x: list[NDArray], row: int, seed: int) -> list[NDArray]:
    """The contract's call for one row: the T rows of x are the samples' own."""
    found = generators(model, [a[:1] for a in x])
    counts = [count for _, count in found]
    for i, (generator, _) in enumerate(found):
        state = row * sum(counts) + sum(counts[:i])
        generator.state.assign([seed, state])
    packed = x[0] if len(x) == 1 else x
    return [np.asarray(y) for y in keras.tree.flatten(model(packed, training=True))]


def _keras_rollout(model: keras.Model, x: NDArray, seeds: list[int]) -> NDArray:
    """Paths [T, B, steps, 1] by the loop that people write."""
    paths = []
    for row, window in zip(ROWS, x, strict=True):
        fed, path = np.repeat(window[np.newaxis], T, axis=0), []
        for seed in seeds:
            (y,) = _keras_call(model, [fed], row, seed)
            path.append(y)
            fed = np.concatenate([fed[:, 1:], y[:, np.newaxis]], axis=1)
        paths.append(np.stack(path, axis=1))
    return np.stack(paths, axis=1)


@pytest.fixture(scope="module")
def forecaster(tmp_path_factory: pytest.TempPathFactory) -> tuple[keras.Model, Path]:
    model, path = _forecaster(), tmp_path_factory.mktemp("rollout") / "forecaster.onnx"
    keepdrop_exporter.export(model, path, per_sample=["window"], rows=3, samples=6)
    return model, path


@pytest.fixture(scope="module")
def x() -> NDArray:
    return np.random.default_rng(0).normal(size=(2, 6, 1)).astype(np.float32)


@pytest.mark.parametrize("masks", ["held", "fresh"])
def test_a_rollout_is_the_loop_in_stock_keras(forecaster: tuple[keras.Model, Path], x: NDArray, masks: str) -> None:
    model, path = forecaster
    found = keepdrop.rollout(keepdrop.load(path), x, STEPS, masks=masks, samples=T, seed=SEED, rows=ROWS)
    seeds = [SEED if masks == "held" else step_seed(SEED, step) for step in range(STEPS)]
    expected = _keras_rollout(model, x, seeds)
    assert found.samples.shape == (T, 2, STEPS, 1)
    np.testing.assert_allclose(found.samples, expected, rtol=RTOL, atol=ATOL)
    assert len(set(seeds)) == (1 if masks == "held" else STEPS)


def test_negative_control_the_mean_fed_back_has_another_spread(
    forecaster: tuple[keras.Model, Path], x: NDArray
) -> None:
    artifact = keepdrop.load(forecaster[1])
    asked = {"samples": 300, "seed": SEED, "rows": ROWS}

    def mean(inputs: dict, outputs: dict, step: int) -> dict:
        fed = outputs["next"].mean(axis=0, keepdims=True).repeat(300, axis=0)
        return {"window": np.concatenate([inputs["window"][:, :, 1:], fed[:, :, np.newaxis]], axis=2)}

    own, of_means = keepdrop.rollout(artifact, x, 8, **asked), keepdrop.rollout(artifact, x, 8, feed=mean, **asked)
    np.testing.assert_array_equal(own.samples[:, :, 0], of_means.samples[:, :, 0])
    assert np.abs(own.samples[:, :, 1:] - of_means.samples[:, :, 1:]).max() > 100 * ATOL
    assert (of_means.std[:, -1] < 0.9 * own.std[:, -1]).all()


def test_a_decoder_carries_its_state_beside_an_input_that_all_samples_share(tmp_path: Path) -> None:
    model, path = _decoder(), tmp_path / "decoder.onnx"
    keepdrop_exporter.export(model, path, per_sample=["last", "state"], rows=3, samples=6)
    rng = np.random.default_rng(1)
    start = {
        name: rng.normal(size=(2, n)).astype(np.float32) for name, n in (("last", 1), ("state", 4), ("context", 3))
    }

    def feed(inputs: dict, outputs: dict, step: int) -> dict:
        return {"last": outputs["value"], "state": outputs["carried"]}

    found = keepdrop.rollout(keepdrop.load(path), start, STEPS, feed=feed, samples=T, seed=SEED, rows=ROWS)
    names = [tensor.name for tensor in keepdrop.load(path).metadata.outputs]
    for b, row in enumerate(ROWS):
        last, state, context = (np.repeat(start[name][b : b + 1], T, axis=0) for name in ("last", "state", "context"))
        for step in range(STEPS):
            given = dict(zip(names, _keras_call(model, [last, state, context], row, SEED), strict=True))
            last, state = given["value"], given["carried"]
            for name, y in given.items():
                np.testing.assert_allclose(found[name].samples[:, b, step], y, rtol=RTOL, atol=ATOL)


def test_samples_do_not_depend_on_how_a_call_is_cut(forecaster: tuple[keras.Model, Path]) -> None:
    own = np.random.default_rng(2).normal(size=(T, 2, 6, 1)).astype(np.float32)
    whole = keepdrop.load(forecaster[1]).sample(own, seed=SEED, rows=ROWS)
    assert len(whole) == T  # as many as the input has
    small = keepdrop.load(forecaster[1], threads=2, memory="60kB").sample(own, seed=SEED, rows=ROWS)
    np.testing.assert_allclose(small, whole, rtol=RTOL, atol=ATOL)
    part = keepdrop.load(forecaster[1]).sample(own[4:, 1:], seed=SEED, rows=ROWS[1:], first_sample=4)
    np.testing.assert_allclose(part, whole[4:, 1:], rtol=RTOL, atol=ATOL)
    shared = keepdrop.load(forecaster[1]).predict(own[0], samples=T, seed=SEED, rows=ROWS)
    repeated = keepdrop.load(forecaster[1]).sample(np.repeat(own[:1], T, axis=0), seed=SEED, rows=ROWS)
    np.testing.assert_allclose(shared.samples, repeated, rtol=RTOL, atol=ATOL)


def test_what_does_not_go_is_told(forecaster: tuple[keras.Model, Path], x: NDArray, tmp_path: Path) -> None:
    model = keepdrop.load(forecaster[1])
    with pytest.raises(InputError, match=r"so many samples, \{'window': 3\}, and samples=5"):
        model.sample(np.repeat(x[np.newaxis], 3, axis=0), samples=5)
    with pytest.raises(InputError, match=r"shape \[3, 2, 5, 1\]; expected float32 \[samples, batch, 6, 1\]"):
        model.sample(np.zeros((3, 2, 5, 1)))
    with pytest.raises(InputError, match="NaN or infinity, first in sample 1"):
        model.sample(np.stack([x, np.nan * x, x]))
    with pytest.raises(InputError, match="a stream has one reading for all of them"):
        model.stream()
    with pytest.raises(InputError, match="which vectors do not hold"):
        write_vectors(Session(forecaster[1]), tmp_path / "vectors", {"window": x})
    with pytest.raises(InputError, match="masks is 'new'; give 'held' or 'fresh'"):
        keepdrop.rollout(model, x, 2, masks="new")
    with pytest.raises(
        InputError, match=r"feed gave \['windows'\]; give a dict of inputs by name, some of \['window'\]"
    ):
        keepdrop.rollout(model, x, 2, samples=2, feed=lambda inputs, outputs, step: {"windows": x})
    with pytest.raises(InputError, match=r"feed gave input 'window' as \[2, 6, 1\]; it has to be like \[2, 2, 6, 1\]"):
        keepdrop.rollout(model, x, 2, samples=2, feed=lambda inputs, outputs, step: {"window": x})
    for options in ({"streaming": True}, {"summary": True}, {"vectors": tmp_path / "vectors"}):
        with pytest.raises(ExportError, match="does not go with"):
            keepdrop_exporter.export(forecaster[0], tmp_path / "m.onnx", per_sample=["window"], **options)
    with pytest.raises(ExportError, match=r"the model has no input \['windows'\]; its inputs are \['window'\]"):
        keepdrop_exporter.export(forecaster[0], tmp_path / "m.onnx", per_sample=["windows"])


def test_a_runtime_that_does_not_know_it_refuses_by_name(forecaster: tuple[keras.Model, Path], tmp_path: Path) -> None:
    """As one does that knows no requirement; and metadata that hide it contradict themselves."""
    content, metadata = forecaster[1].read_bytes(), keepdrop.load(forecaster[1]).metadata
    assert metadata.requires == ("inputs per sample",) and metadata.per_sample == ("window",)
    another = dataclasses.replace(metadata, requires=("inputs per planet",))
    for changed, text in (
        (another, r"its samples need \['inputs per planet'\], which this keepdrop does not know"),
        (dataclasses.replace(metadata, requires=()), "gives requires as"),
        (dataclasses.replace(metadata, requires=(), per_sample=()), "the graph's input 'window' is"),
    ):
        path = tmp_path / "changed.onnx"
        path.write_bytes(with_properties(content, {METADATA_KEY: changed.to_json()}))
        with pytest.raises(ArtifactError, match=text):
            keepdrop.load(path)


def test_the_command_says_what_each_sample_has(forecaster: tuple[keras.Model, Path]) -> None:
    told = CliRunner().invoke(main, ["inspect", str(forecaster[1])]).output
    assert "window  float32 [batch, 6, 1], one for each sample" in told
    report = json.loads(CliRunner().invoke(main, ["inspect", str(forecaster[1]), "--json"]).output)
    assert report["per_sample"] == ["window"]
