"""How models, streams and predictions look in a notebook, and as frames of whatever library is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import polars
import pyarrow
import pytest

import keepdrop

from . import table_toys as toys
from .test_predict_table import TABLE


def test_a_model_says_what_it_takes_and_gives(one: Path, tmp_path: Path) -> None:
    model = keepdrop.load(one)
    assert repr(model) == "Model('one.onnx', x -> y)"
    assert "<td>x</td><td>float32</td>" in model._repr_html_()
    with_table = keepdrop.load(toys.write(tmp_path / "toy.onnx", TABLE))
    assert "temp [°F], 6 steps ahead (6h)" in with_table._repr_html_()


def test_a_stream_says_how_far_it_is(streaming: Path) -> None:
    stream = keepdrop.load(streaming).stream(samples=4, rows=[3, 5])
    stream.push(np.ones((1, 2), np.float32), rows=[5])
    assert repr(stream) == "Stream(y, z, w, 2 rows, 4 samples, 0 to 1 steps seen)"
    assert "<td>5</td><td>1</td>" in stream._repr_html_() and "more" not in stream._repr_html_()
    for row in range(10, 23):
        stream.add(row)
    assert "<p>and 5 rows more</p>" in stream._repr_html_()


def test_a_prediction_as_columns(one: Path, x: np.ndarray) -> None:
    p = keepdrop.load(one).predict(x, samples=5)
    columns = p.to_dict(interval=(0.5, 0.9))
    assert list(columns)[:4] == ["mean_0", "mean_1", "mean_2", "std_0"] and len(columns) == 18
    np.testing.assert_array_equal(columns["high_0.9_1"], p.interval(0.9)[1][:, 1])
    shown = p._repr_html_()
    assert "<th>mean_0</th>" in shown and shown.count("<tr>") == 1 + len(x)
    with pytest.raises(keepdrop.InputError, match="level is 90"):
        p.to_dict(interval=90)


def test_classes_as_columns(three: Path, x: np.ndarray) -> None:
    mood = keepdrop.load(three).predict(x, samples=5)["mood"]
    assert {"top", "top_probability", "predictive_entropy", "mutual_information"} <= set(mood.to_dict())
    assert mood.to_dict()["top"].dtype == np.int64


def test_text_is_escaped() -> None:
    from keepdrop.answer.showing import html_table

    assert "<script>" not in html_table("<script>", ["<b>"], [("<i>",)])


@pytest.mark.parametrize(
    ("library", "kind"), [("pandas", pandas.DataFrame), ("polars", polars.DataFrame), ("pyarrow", pyarrow.Table)]
)
def test_frames(library: str, kind: type, one: Path, x: np.ndarray) -> None:
    frame = keepdrop.load(one).predict(x, samples=5).to_frame(0.9, library)
    assert isinstance(frame, kind) and frame.shape == (len(x), 12)


def test_no_library_is_imported_unasked(one: Path) -> None:
    code = f"""
import keepdrop, numpy
p = keepdrop.load({str(one)!r}).predict(numpy.zeros((2, 3), "float32"))
try:
    p.to_frame()
except keepdrop.InputError as error:
    print(error)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "no library of frames is loaded; import one of pandas, polars, pyarrow first" in said
