"""A sample is a function of model, seed, row and sample number: whatever else a call is, it changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import keepdrop
import keepdrop_exporter

# Masks are the same bits; kernels may sum in another order for another batch size.
CLOSE = {"rtol": 0, "atol": 1e-6}
SEED = 7
COVERING = ["LSTM both", "stacked", "noise layers", "any length", "Embedding with gaps", "two inputs, two outputs"]


@pytest.fixture(params=COVERING)
def artifact(request: pytest.FixtureRequest, exported: Any) -> Any:
    return exported(request.param)


def _arrays(samples: Any) -> list[np.ndarray]:
    return list(samples.values()) if isinstance(samples, dict) else [samples]


def _assert_same(parts: list[Any], whole: Any, axis: int) -> None:
    for i, want in enumerate(_arrays(whole)):
        np.testing.assert_allclose(np.concatenate([_arrays(p)[i] for p in parts], axis=axis), want, **CLOSE)


def test_composition_of_the_batch(artifact: Any) -> None:
    ids = [4, 0, 2**33 + 5]
    whole = artifact.sample(samples=5, seed=SEED, rows=ids)
    alone = [
        artifact.sample([x[b : b + 1] for x in artifact.inputs], samples=5, seed=SEED, rows=[ids[b]]) for b in (0, 1, 2)
    ]
    _assert_same(alone, whole, axis=1)
    back = artifact.sample([x[::-1] for x in artifact.inputs], samples=5, seed=SEED, rows=ids[::-1])
    for y, z in zip(_arrays(back), _arrays(whole), strict=True):
        np.testing.assert_allclose(y[:, ::-1], z, **CLOSE)


@pytest.mark.parametrize("cuts", [(1, 1, 11), (4, 9), (6, 7)])
def test_chunks_of_samples(artifact: Any, cuts: tuple[int, ...]) -> None:
    starts = np.cumsum([0, *cuts[:-1]])
    parts = [artifact.sample(samples=n, seed=SEED, first_sample=int(s)) for n, s in zip(cuts, starts, strict=True)]
    _assert_same(parts, artifact.sample(samples=sum(cuts), seed=SEED), axis=0)


def test_how_many_samples_are_asked_for(artifact: Any) -> None:
    for short, long in zip(
        _arrays(artifact.sample(samples=3, seed=SEED)), _arrays(artifact.sample(samples=50, seed=SEED)), strict=True
    ):
        np.testing.assert_allclose(short, long[:3], **CLOSE)


def test_a_sample_far_out(exported: Any) -> None:
    """Numbers are addressed by position: the 3,000,000,000th sample costs what the first does, and is its own."""
    artifact = exported("LSTM both")
    far = artifact.sample(samples=4, seed=SEED, first_sample=3 * 10**9)
    np.testing.assert_allclose(far[2:], artifact.sample(samples=2, seed=SEED, first_sample=3 * 10**9 + 2), **CLOSE)
    assert np.abs(far - artifact.sample(samples=4, seed=SEED)).max() > 1e-3


def test_threads(artifact: Any) -> None:
    x = {t.name: np.repeat(a, 8, axis=0) for t, a in zip(artifact.model.metadata.inputs, artifact.inputs, strict=True)}
    one, two = (keepdrop.load(artifact.path, threads=n).sample(x, samples=40, seed=SEED) for n in (1, 2))
    for y, z in zip(_arrays(one), _arrays(two), strict=True):
        np.testing.assert_allclose(y, z, **CLOSE)


@pytest.fixture(scope="module")
def mask(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model whose output on ones is its mask: gives [T, B, 64] of True where an element is kept."""
    path = tmp_path_factory.mktemp("mask") / "mask.onnx"
    keepdrop_exporter.export(keras.Sequential([keras.Input((64,), name="x"), keras.layers.Dropout(0.5)]), path)
    model = keepdrop.load(path)

    def mask(rows: list[int], seed: int = SEED) -> np.ndarray:
        return model.sample(np.ones((len(rows), 64), np.float32), samples=6, seed=seed, rows=rows) != 0

    return mask


def test_equal_ids_see_equal_masks(mask: Any) -> None:
    kept = mask([5, 9, 5, 5])
    assert np.array_equal(kept[:, 0], kept[:, 2]) and np.array_equal(kept[:, 0], kept[:, 3])


@pytest.mark.parametrize(
    "one, other",
    [
        ({"rows": [5]}, {"rows": [9]}),
        ({"rows": [0]}, {"rows": [2**33]}),
        ({"rows": [0]}, {"rows": [-1]}),
        ({"rows": [5]}, {"rows": [5], "seed": SEED + 1}),
        ({"rows": [5], "seed": 1}, {"rows": [5], "seed": 2**32 + 1}),
        ({"rows": [5], "seed": 3}, {"rows": [5], "seed": -3}),
    ],
)
def test_other_rows_and_seeds_see_independent_masks(mask: Any, one: dict[str, Any], other: dict[str, Any]) -> None:
    # 384 fair coins agree in 192 +- 10 of them: 6 standard deviations.
    assert abs((mask(**one) == mask(**other)).mean() - 0.5) < 0.16


def test_samples_and_layers_are_independent(mask: Any, tmp_path: Path) -> None:
    kept = mask([5])[:, 0]
    for t in range(1, len(kept)):
        assert abs((kept[t] == kept[0]).mean() - 0.5) < 0.4
    x = keras.Input((200,), name="x")
    both = keras.Model(x, [keras.layers.Dropout(0.5, name="a")(x), keras.layers.Dropout(0.5, name="b")(x)])
    keepdrop_exporter.export(both, tmp_path / "both.onnx")
    drawn = keepdrop.load(tmp_path / "both.onnx").sample(np.ones((1, 200), np.float32), samples=2)
    assert abs(((drawn["a"] == 0) == (drawn["b"] == 0)).mean() - 0.5) < 0.15


@pytest.mark.parametrize(
    "name, suffix",
    [
        ("LSTM both", ".keras"),
        ("LSTM both", ".h5"),
        ("Bidirectional", ".keras"),
        ("two inputs, two outputs", ".h5"),
    ],
)
def test_saving_and_loading(exported: Any, tmp_path: Path, name: str, suffix: str) -> None:
    artifact = exported(name)
    artifact.keras_model.save(tmp_path / f"model{suffix}")
    report = keepdrop_exporter.export(tmp_path / f"model{suffix}", tmp_path / "model.onnx")
    loaded = keepdrop.load(report.path, threads=1)
    assert [t.name for t in loaded.metadata.inputs] == [t.name for t in artifact.model.metadata.inputs]
    x = {t.name: a for t, a in zip(loaded.metadata.inputs, artifact.inputs, strict=True)}
    for y, z in zip(
        _arrays(loaded.sample(x, samples=5, seed=SEED)), _arrays(artifact.sample(samples=5, seed=SEED)), strict=True
    ):
        np.testing.assert_array_equal(y, z)
