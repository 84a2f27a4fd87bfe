"""A SavedModel holds the same samples as the ONNX file, and needs nothing of ours or of Keras' to be served."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as L

import keepdrop
import keepdrop_exporter
from keepdrop_exporter import Report, load_savedmodel

from . import models, reference

ROWS = [0, 3, 2**33 + 5]


def _any_length() -> keras.Model:
    """Masked steps of any number, a recurrence of both dropouts, one of its own input mask, two outputs."""
    ids, now = keras.Input((None,), dtype="int32", name="ids"), keras.Input((2,), name="now")
    steps = L.LSTM(5, dropout=0.25, recurrent_dropout=0.25, return_sequences=True)(
        L.Embedding(7, 4, mask_zero=True)(ids)
    )
    state = L.Bidirectional(L.GRU(4, dropout=0.3))(steps)
    joined = L.Concatenate()([state, L.GaussianNoise(0.3)(now)])
    return keras.Model([ids, now], [L.Dense(2, name="level")(joined), L.Dense(1, name="spread")(steps)])


@dataclasses.dataclass(frozen=True)
class Both:
    """One model in both formats."""

    model: keras.Model
    report: Report
    served: keepdrop.Model
    onnx: keepdrop.Model

    def inputs(self, length: int) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
        arrays = models.inputs(self.model, batch=3, length=length)
        return arrays, {t.name: a for t, a in zip(self.report.metadata.inputs, arrays, strict=True)}


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Both:
    keras.utils.set_random_seed(4)
    model = _any_length()
    models.settle(model)
    folder = tmp_path_factory.mktemp("both")
    report = keepdrop_exporter.export(model, folder / "served", default_samples=12, samples=5)
    keepdrop_exporter.export(model, folder / "m.onnx", samples=2)
    return Both(model, report, load_savedmodel(folder / "served"), keepdrop.load(folder / "m.onnx", threads=1))


@pytest.mark.parametrize(("length", "seed"), [(1, 7), (9, -3), (17, 2**40)])
def test_samples_are_those_of_stock_keras_and_of_the_onnx_file(both: Both, length: int, seed: int) -> None:
    arrays, x = both.inputs(length)
    expected = reference.samples(both.model, arrays, ROWS, 7, seed)
    got = both.served.sample(x, samples=7, seed=seed, rows=ROWS)
    reference.assert_samples_equal(got, expected)
    reference.assert_samples_equal(both.onnx.sample(x, samples=7, seed=seed, rows=ROWS), list(got.values()))
    with pytest.raises(AssertionError):
        reference.assert_samples_equal(both.served.sample(x, samples=7, seed=seed + 1, rows=ROWS), expected)


@pytest.mark.parametrize("shape", [(7, 3), (5,)])
def test_masks_are_bit_identical(shape: tuple[int, ...], tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input(shape, name="x"), L.Dropout(0.3)])
    keepdrop_exporter.export(model, tmp_path / "served", samples=2)
    x = np.random.default_rng(0).uniform(1, 2, (3, *shape)).astype(np.float32)
    (expected,) = reference.samples(model, [x], ROWS, 7, seed=7)
    got = load_savedmodel(tmp_path / "served").sample(x, samples=7, seed=7, rows=ROWS)
    np.testing.assert_array_equal(got, expected)


def test_a_sample_does_not_depend_on_the_rest_of_the_call(both: Both) -> None:
    _, x = both.inputs(9)
    whole = both.served.sample(x, samples=9, seed=1, rows=ROWS)
    alone = both.served.sample({k: a[1:2] for k, a in x.items()}, samples=4, seed=1, rows=ROWS[1:2], first_sample=5)
    for name, y in whole.items():
        np.testing.assert_allclose(alone[name], y[5:, 1:2], rtol=reference.RTOL, atol=reference.ATOL)
    summary = both.served.predict(x, samples=9, seed=1, rows=ROWS, quantiles=(0.5,))["level"]
    np.testing.assert_allclose(summary.mean, whole["level"].mean(axis=0), rtol=1e-4, atol=1e-5)


SERVED = """
import importlib.machinery, json, sys

class Blocked:
    # TensorFlow looks for Keras when it is imported, and goes on without.
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("keras", "tf_keras", "keepdrop", "keepdrop_exporter"):
            return importlib.machinery.ModuleSpec(name, self)

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        raise ImportError(f"{module.__name__} is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np
import tensorflow as tf

try:
    import keras
except ImportError:
    pass
else:
    raise AssertionError("Keras was not blocked")
serve = tf.saved_model.load(sys.argv[1]).signatures["serving_default"]
x = {name: tf.constant(value) for name, value in np.load(sys.argv[2]).items()}
whole = [tf.constant(n, tf.int64) for n in (7, 12, 0)]
y = serve(**x, **dict(zip(("seed", "num_samples", "first_sample"), whole)))
np.savez(sys.argv[3], **{name: value.numpy() for name, value in y.items()})
assert not [name for name in sys.modules if name.partition(".")[0] in ("keras", "keepdrop", "keepdrop_exporter")]
"""


def test_served_without_keras_and_without_keepdrop(both: Both, tmp_path: Path) -> None:
    arrays, x = both.inputs(9)
    np.savez(tmp_path / "x.npz", **x, rows=np.array(ROWS))
    command = [sys.executable, "-c", SERVED, both.report.path, tmp_path / "x.npz", tmp_path / "y.npz"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "y.npz") as y:
        reference.assert_samples_equal(
            {name: y[name] for name in ("level", "spread")}, reference.samples(both.model, arrays, ROWS, 12, seed=7)
        )


def test_ids_that_the_model_does_not_have(both: Both) -> None:
    _, x = both.inputs(9)
    with pytest.raises(keepdrop.InputError, match="failed on these inputs; check their values. TensorFlow: "):
        both.served.sample({**x, "ids": x["ids"] + 100})


def test_pickled_by_its_directory(both: Both) -> None:
    _, x = both.inputs(9)
    again = pickle.loads(pickle.dumps(both.served))
    for name, y in again.sample(x, samples=3, seed=1).items():
        np.testing.assert_array_equal(y, both.served.sample(x, samples=3, seed=1)[name])
