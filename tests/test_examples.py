"""Every example runs as it stands, and says what its text promises."""

import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
FORECASTER = Path(__file__).parent / "runtime" / "data" / "forecaster.onnx"
# What the output has to hold, beside not failing.
SAYS = {
    "forecasting": ["exported; largest difference from Keras", "for a standard error of 0.01"],
    "classification": ["clear        class 0 is above one half", "ambiguous    class 0 is below one half"],
    "scikit_learn": ["power_mean", '"columns": ["temp", "humidity"]'],
    "pandas_frames": ["office", "mean absolute error over"],
    "horizon": ["demand_low_0.9", "24 hours, from 2025-03-02 00:00:00 to 2025-03-02 23:00:00"],
    "rollout": ["exported; largest difference from Keras", " 6 h ahead:"],
    "streaming": ["step 10:", "after 20 readings"],
    "retrofit": ["without dropout", "rates now: memory 0.1"],
    "device": ["draws a row", "row 1: mean"],
    "serving": ["320 requests of 16 clients", "every answer is that of a call of its own"],
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_an_example_runs(path: Path, tmp_path, monkeypatch, capsys) -> None:
    # In this process, which has imported Keras already or does it once.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name, str(FORECASTER)])
    runpy.run_path(str(path), run_name="__main__")
    out = capsys.readouterr().out
    assert out
    for text in SAYS.get(path.stem, []):
        assert text in out


def test_every_example_is_told_of() -> None:
    told = (EXAMPLES / "README.md").read_text()
    examples = [path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.*") if "ort" not in path.parts]
    assert [path for path in examples if path != "README.md" and f"]({path})" not in told] == []
