"""What type checkers and editors are told: a Prediction where there is one output, dicts where they are asked for."""

import re

import numpy as np
import pytest

import keepdrop

SNIPPET = """
import keepdrop

model = keepdrop.load("forecaster.onnx")
reveal_type(model.sample([]))
reveal_type(model.predict([]))
reveal_type(model.stream().push([]))
reveal_type(model.resume(b"").push([]))
named = keepdrop.load("forecaster.onnx", by_output=True)
reveal_type(named.sample([]))
reveal_type(named.predict([]))
reveal_type(named.stream().push([]))

def mean_of(any_model: keepdrop.Model) -> object:
    return any_model.predict([]).mean

model.predict([]).no_such_figure  # there is none: the checker does look
"""


def test_type_checkers_know_what_a_call_gives(tmp_path) -> None:
    api = pytest.importorskip("mypy.api")
    (tmp_path / "snippet.py").write_text(SNIPPET)
    out, _, _ = api.run(["--strict", "--no-error-summary", str(tmp_path / "snippet.py")])
    found = [text.replace("builtins.", "") for text in re.findall(r'Revealed type is "(.*)"', out)]
    assert [re.sub(r"numpy\.ndarray\[.*?dtype\[Any\]\]", "array", text) for text in found] == [
        "array",
        *["keepdrop.answer.prediction.Prediction"] * 3,
        "dict[str, array]",
        *["dict[str, keepdrop.answer.prediction.Prediction]"] * 2,
    ]
    assert re.findall(r"error: (.*)", out) == ['"Prediction" has no attribute "no_such_figure"  [attr-defined]']


def test_results_by_output_name_where_they_are_asked_for(one, two, streaming, x, closed) -> None:
    named = keepdrop.load(one, by_output=True)
    np.testing.assert_array_equal(named.sample(x)["y"], closed(x, 5))
    np.testing.assert_array_equal(named.predict(x)["y"].samples, closed(x, 5))
    for by_output in (False, True):  # several outputs are always by name
        both = keepdrop.load(two, by_output=by_output)
        assert list(both.predict({"x": x, "ids": np.zeros((7, 2), np.int32)})) == ["y", "n"]
    stream = keepdrop.load(streaming, by_output=True).stream(samples=2)
    assert list(stream.push(np.zeros((1, 2), np.float32))) == ["y", "z", "w"]
