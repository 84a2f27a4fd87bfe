"""keepdrop bench: what is measured and recommended; no timing is asserted."""

import dataclasses
import json
import math

import numpy as np
import pytest
from click.testing import CliRunner

import keepdrop
from keepdrop import cli
from keepdrop.artifact.metadata import Tensor
from keepdrop.cli import measure
from keepdrop.cli.measure import Timing


def call(*arguments, code: int = 0):
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    return result


@pytest.fixture(autouse=True)
def brief(monkeypatch) -> None:
    monkeypatch.setattr(measure, "SECONDS", 0.0)


@pytest.fixture
def data(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy"


def largest_std(x) -> float:
    """That of x * t for t from 0 to PILOT - 1."""
    return float(np.abs(x).max() * np.std(np.arange(measure.PILOT), ddof=1))


def test_the_spread_is_measured_on_real_data(one, data, x) -> None:
    report = json.loads(call("bench", one, "--data", data, "--json", "--rows", 3, "--precision", 20).stdout)
    assert report["spread"]["y"] == pytest.approx(largest_std(x), rel=1e-6)  # float32
    assert (report["inputs"], report["rows"]) == (str(data), 3)
    assert [one["samples"] for one in report["timings"]] == [1, 10, 30, 100, 300, 1000]
    for timing in report["timings"]:
        assert timing["standard_error"]["y"] == report["spread"]["y"] / math.sqrt(timing["samples"])
        assert 0 < timing["low"] <= timing["milliseconds"] <= timing["high"]
    wanted = report["recommended"]
    assert wanted["samples"] == math.ceil((report["spread"]["y"] / 20) ** 2)
    assert wanted["milliseconds"] >= 0


def test_the_recommended_number_reaches_the_precision_and_one_less_does_not() -> None:
    for spread, precision in [(0.21, 0.01), (1.0, 0.1), (3.0, 0.7), (1e-9, 1.0), (0.3, 0.1)]:
        n = measure.samples_for(spread, precision)
        assert measure.standard_error(spread, n) <= precision * (1 + 1e-9)
        assert n == 1 or measure.standard_error(spread, n - 1) > precision
    assert measure.samples_for(1.0, 0.1) == 100


def test_the_recommended_number_holds_for_samples_of_a_known_spread() -> None:
    rng = np.random.default_rng(0)
    n = measure.samples_for(2.0, 0.1)
    means = rng.normal(0, 2, (4000, n)).mean(axis=1)
    assert means.std() == pytest.approx(0.1, rel=0.05)  # 4000 of them know it within 1.1 percent
    assert rng.normal(0, 2, (4000, n // 4)).mean(axis=1).std() > 0.18


def test_time_is_taken_from_the_line_through_the_timings_around() -> None:
    timings = [Timing(n, ms, ms, ms) for n, ms in [(1, 1.0), (100, 2.0), (200, 4.0)]]
    for samples, milliseconds in [(1, 1.0), (100, 2.0), (150, 3.0), (200, 4.0), (1000, 20.0)]:
        assert measure.expected_milliseconds(timings, samples) == pytest.approx(milliseconds)
    assert measure.expected_milliseconds(timings[1:2], 50) == pytest.approx(1.0)


def test_the_table_shows_samples_time_and_error(one, data) -> None:
    lines = call("bench", one, "--data", data, "--samples", 4, "--samples", 100, "--threads", 1).stdout.splitlines()
    assert lines[0] == f"{one}: calls of 1 row, at most 1 thread, inputs of {data}"
    assert lines[2].split("  ")[0] == "samples"
    assert [line.split()[0] for line in lines[3:5]] == ["4", "100"]
    assert lines[3].split()[-1] == "578"  # 4 * 288.8 / 2
    assert lines[-1].startswith("standard deviation of one sample, at its largest: y 1155")


def test_random_inputs_have_the_artifacts_shapes(two, metadata) -> None:
    model = keepdrop.load(two)
    inputs = measure.random_inputs(model.metadata, rows=5, length=9)
    assert {name: (array.shape, array.dtype.name) for name, array in inputs.items()} == {
        "x": ((5, 3), "float32"),
        "ids": ((5, 9), "int32"),
    }
    assert set(np.unique(inputs["ids"])) == {0, 1}
    report = json.loads(call("bench", two, "--json", "--length", 4, "--samples", 5, "--precision", 1e9).stdout)
    assert set(report["spread"]) == {"n", "y"}
    assert report["recommended"]["samples"] == 1
    words = dataclasses.replace(metadata, inputs=(Tensor("x", "str", (None,)),))
    with pytest.raises(keepdrop.InputError, match="give --data"):
        measure.random_inputs(words, rows=1, length=1)


def test_refusals(one, tmp_path) -> None:
    assert "'--precision': 0.0 is not in the range x>0" in call("bench", one, "--precision", "0", code=2).stderr
    assert "give it with --data" in call("bench", one, "--window", "3", code=2).stderr
    np.save(tmp_path / "none.npy", np.zeros((0, 3), np.float32))
    assert "has no row" in call("bench", one, "--data", tmp_path / "none.npy", code=1).stderr
