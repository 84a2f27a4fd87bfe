"""What a scaler is: scikit-learn's by their attributes, numbers, JSON; what is refused, and how it is said."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import joblib
import numpy as np
import pandas
import pytest
from sklearn import compose, decomposition, pipeline, preprocessing

import keepdrop_exporter
from keepdrop_exporter import ScalingError
from keepdrop_exporter.scalers import read_scaler

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3)) * [7, 0.1, 900] + [56, -2, 101_000]

FITTED = {
    "standard": preprocessing.StandardScaler(),
    "standard, mean only": preprocessing.StandardScaler(with_std=False),
    "standard, spread only": preprocessing.StandardScaler(with_mean=False),
    "minmax": preprocessing.MinMaxScaler(),
    "minmax to -1, 1": preprocessing.MinMaxScaler((-1, 1)),
    "robust": preprocessing.RobustScaler(),
    "robust, uncentred": preprocessing.RobustScaler(with_centering=False, with_scaling=False),
    "maxabs": preprocessing.MaxAbsScaler(),
    "pipeline": pipeline.make_pipeline(
        preprocessing.MinMaxScaler(), "passthrough", preprocessing.StandardScaler(), preprocessing.RobustScaler()
    ),
}


def apply(scaler: object, x: np.ndarray) -> np.ndarray:
    found = read_scaler(scaler)
    return (x - found.offset) / found.scale


@pytest.mark.parametrize("name", FITTED)
def test_fitted_scalers_give_what_their_transform_gives(name: str, tmp_path: Path) -> None:
    scaler = FITTED[name].fit(X)
    np.testing.assert_allclose(apply(scaler, X), scaler.transform(X), rtol=1e-9, atol=1e-9)
    (tmp_path / "scaler.json").write_text(keepdrop_exporter.scaler_json(scaler))
    np.testing.assert_array_equal(apply(tmp_path / "scaler.json", X), apply(scaler, X))


def test_a_constant_column_is_left_undivided_as_scikit_learn_does() -> None:
    flat = np.column_stack([X[:, 0], np.full(len(X), 5.0)])
    for kind in (preprocessing.StandardScaler, preprocessing.MinMaxScaler, preprocessing.RobustScaler):
        scaler = kind().fit(flat)
        np.testing.assert_allclose(apply(scaler, flat), scaler.transform(flat), atol=1e-9)


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ({"mean": [1, 2], "scale": [2, 4]}, [[1, 1]]),
        ({"mean": [1, 2], "std": [2, 4]}, [[1, 1]]),
        ({"mean": [1, 2], "variance": [4, 16]}, [[1, 1]]),
        ({"center": [1, 2], "scale": 2}, [[1, 2]]),
        ({"scale": [3, 6]}, [[1, 1]]),
        ({"min": [1, 2], "max": [3, 6]}, [[1, 1]]),
        ({"min": [1, 2], "max": [3, 6], "range": [-1, 1]}, [[1, 1]]),
    ],
)
def test_numbers(numbers: dict[str, object], expected: list[list[float]]) -> None:
    np.testing.assert_allclose(apply(numbers, np.array([[3.0, 6.0]])), expected)


def test_names_of_columns_are_kept() -> None:
    frame = pandas.DataFrame(X, columns=["temp", "hum", "hPa"])
    scaler = preprocessing.StandardScaler().fit(frame)
    assert read_scaler(scaler).names == ("temp", "hum", "hPa")
    assert json.loads(keepdrop_exporter.scaler_json(scaler))["columns"] == ["temp", "hum", "hPa"]
    chain = pipeline.make_pipeline(preprocessing.MinMaxScaler(), preprocessing.StandardScaler()).fit(frame)
    assert read_scaler(chain).names == ("temp", "hum", "hPa")


@pytest.mark.parametrize(
    ("scaler", "message"),
    [
        (preprocessing.StandardScaler(), "the StandardScaler is not fitted"),
        (preprocessing.MinMaxScaler(clip=True).fit(X), "clips what lies outside its range"),
        (preprocessing.PowerTransformer().fit(X), "a PowerTransformer is no scaler that subtracts a number"),
        (preprocessing.Normalizer().fit(X), "a Normalizer is"),
        (decomposition.PCA().fit(X), "a PCA is no scaler"),
        (pipeline.make_pipeline(preprocessing.StandardScaler(), decomposition.PCA()).fit(X), "a PCA is no scaler"),
        (
            compose.ColumnTransformer([("a", preprocessing.StandardScaler(), [0])]).fit(X),
            "a ColumnTransformer has a scaler for some columns each",
        ),
        (3.0, "a float is no scaler"),
        ({}, "of nothing is not clear"),
        ({"mean": [1]}, "a scaler of 'mean' is not clear"),
        ({"mean": [1], "scale": [1], "std": [1]}, "is not clear"),
        ({"mean": [1], "sigma": [1]}, "a scaler has no 'sigma'"),
        ({"mean": [1], "scale": [0]}, "divides column 0 by 0; a scale is above 0"),
        ({"columns": ["temp"], "mean": [1], "scale": [-1]}, "divides column 'temp' by -1"),
        ({"min": [1], "max": [1]}, "divides column 0 by 0"),
        ({"mean": [1], "scale": [float("nan")]}, "'scale' of the scaler is .nan.; give a finite number"),
        ({"mean": [1, 2], "scale": [1, 2, 3]}, "has 2 offsets and 3 scales"),
        ({"columns": ["temp"], "mean": [1, 2], "scale": [1, 2]}, "names 1 columns and has the numbers of 2"),
        (
            {"columns": "temp", "mean": [1], "scale": [1]},
            '"columns" is .temp.; give the names of the columns as a list',
        ),
    ],
)
def test_what_is_no_scaler_is_refused(scaler: object, message: str) -> None:
    with pytest.raises(ScalingError, match=message):
        read_scaler(scaler)


@pytest.mark.parametrize("library", [pickle, joblib])
def test_pickles_are_refused_with_the_line_that_writes_json(library: object, tmp_path: Path) -> None:
    """The line is run as it is given, but for TensorFlow: what it prints is the scaler."""
    scaler = preprocessing.RobustScaler().fit(X)
    path = tmp_path / ("scaler.pkl" if library is pickle else "scaler.joblib")
    path.write_bytes(pickle.dumps(scaler)) if library is pickle else joblib.dump(scaler, path)
    with pytest.raises(ScalingError) as caught:
        read_scaler(path)
    line = str(caught.value).splitlines()[-1].strip()
    code, target = line.split('"')[1], line.split("> ")[1]
    assert target == str(tmp_path / "scaler.json") and line.startswith("python -c ")
    printed: list[str] = []
    exec(code, {"print": printed.append})
    np.testing.assert_allclose(apply(json.loads(printed[0]), X), scaler.transform(X), atol=1e-9)


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[1]")
    for name, message in [
        ("none.json", "cannot be read"),
        ("broken.json", "is not JSON"),
        ("list.json", "no JSON object"),
    ]:
        with pytest.raises(ScalingError, match=f"{name}: .*{message}"):
            read_scaler(tmp_path / name)
