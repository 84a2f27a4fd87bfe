"""The table: what is declared, completed by a model, and refused; the calendar's columns against pandas."""

from __future__ import annotations

import json

import numpy as np
import pandas
import pytest

import keepdrop
from keepdrop.artifact.metadata import MEAN_LOGVAR, SIGMOID, SOFTMAX, VALUE, Head, Tensor
from keepdrop.table import Column, Cyclic, Table, Target, fitted
from keepdrop.table.calendar import attribute_values, cyclic_values
from keepdrop.table.steps import parsed_step, step_text

WINDOW = Tensor("window", "float32", (None, 48, 3))
DEGREES = Tensor("temperature", "float32", (None, None, 1))
TEMP = {"column": "temp", "unit": "°F"}
HOUR = {"cyclic": "hour"}


def degrees(**other: object) -> Table:
    fields = {
        "inputs": [TEMP, HOUR],
        "outputs": {"target": "temp", "unit": "°F", "ahead": 6},
        "time": {"column": "date", "step": "1h"},
    }
    return Table(**{**fields, **other})


def test_a_table_gets_names_and_lengths_from_the_model_and_goes_through_json() -> None:
    table = fitted(degrees(), [WINDOW], [DEGREES], [Head("temperature", VALUE)])
    assert table.inputs["window"].window == 48
    assert table.inputs["window"].names == ("temp", "hour_sin", "hour_cos")
    assert table.outputs["temperature"] == Target("temp", "temp", "°F", (6,))
    assert Table.from_json(table.to_json()) == table
    assert fitted(table, [WINDOW], [DEGREES]) == table
    assert table.unit("temp") == "°F" and table.window == 48 and table.needs_time


def test_python_and_json_have_the_same_names() -> None:
    text = json.dumps({"inputs": [TEMP, HOUR], "outputs": {"target": "temp", "ahead": "1..3"}, "time": "date"})
    assert Table.from_json(text) == Table(
        [Column("temp", "°F"), Cyclic("hour")], {"target": "temp", "ahead": (1, 2, 3)}, "date"
    )
    assert keepdrop.Table is Table


def test_two_inputs_are_named() -> None:
    weather, load = Tensor("weather", "float32", (None, 4)), Tensor("load", "float32", (None, None, 1))
    table = Table({"weather": ["t", "h", "w", "p"], "load": {"columns": ["mw"], "window": 24}}, {"target": "mw"})
    found = fitted(table, [load, weather], [DEGREES])
    assert (found.inputs["weather"].window, found.inputs["load"].window) == (None, 24)
    with pytest.raises(keepdrop.InputError, match=r"the model has the inputs \['load', 'weather'\]"):
        fitted(Table(["mw"]), [load, weather], [DEGREES])
    with pytest.raises(keepdrop.InputError, match="says nothing of input 'weather'"):
        fitted(Table({"load": ["mw"]}), [load, weather], [DEGREES])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inputs": []}, "inputs has no column"),
        ({"inputs": "temp"}, "give a list of columns"),
        ({"inputs": ["temp", "temp"]}, "has 'temp' twice"),
        ({"inputs": [{"column": "temp", "units": "K"}]}, "has a field 'units'; there are column, unit, missing"),
        ({"inputs": [{"cyclic": "fortnight"}]}, "a cycle is one of second, minute, hour"),
        ({"inputs": [{"cyclic": "hour", "period": 0}]}, "period is 0; give a number above 0"),
        ({"inputs": [HOUR], "time": None}, "is computed from the time; say which column has it"),
        ({"inputs": ["date", "temp"]}, "'date' is the time and a feature too"),
        ({"inputs": ["temp", "station"], "id": "station"}, "'station' is the id and a feature too"),
        ({"inputs": [{"column": "temp", "unit": "°C"}]}, r"forecasts 'temp' in °F, and that column is in °C"),
        ({"missing": "guess"}, "'guess' is no rule for missing values"),
        ({"missing": "hold 0"}, "'hold 0' is no rule"),
        ({"time": {"column": "date", "step": "an hour"}}, "a step of 'an hour' is none that is known here"),
        ({"outputs": {"target": "temp", "ahead": [2, 1]}}, r"give steps that grow, such as \[1, 2, 3\]"),
        ({"outputs": {"target": "temp", "ahead": -1}}, "give a whole number from 0 to 100,000"),
        ({"outputs": {"target": "temp", "labels": ["a", "a"]}}, "a name twice"),
    ],
)
def test_what_is_declared_wrongly_is_said(fields: dict[str, object], message: str) -> None:
    with pytest.raises(keepdrop.InputError, match=message):
        degrees(**fields)


@pytest.mark.parametrize(
    ("table", "output", "kind", "message"),
    [
        (degrees(inputs=[TEMP]), DEGREES, VALUE, r"takes 3 columns and the table gives 1 \(temp\)"),
        (
            degrees(inputs={"columns": [TEMP, HOUR], "window": 24}),
            DEGREES,
            VALUE,
            "takes 48 lines and the table says 24",
        ),
        (
            degrees(inputs={"past": [TEMP, HOUR]}),
            DEGREES,
            VALUE,
            r"an input 'past'; the model's inputs are \['window'\]",
        ),
        (degrees(outputs={"load": {"ahead": 1}}), DEGREES, VALUE, "an output 'load'; the model's outputs are"),
        (
            degrees(outputs={"target": "temp", "ahead": "1..24"}),
            DEGREES,
            VALUE,
            r"\[1\] a row and the table says 24 steps",
        ),
        (degrees(outputs={"labels": ["a", "b"]}), DEGREES, VALUE, "has no classes and the table names 2"),
        (degrees(time="date"), DEGREES, VALUE, "say how long a step is"),
        (
            degrees(outputs={"target": "mood", "labels": ["a", "b"]}),
            Tensor("temperature", "float32", (None, None, 3)),
            SOFTMAX,
            "has 3 classes and the table names 2",
        ),
        (degrees(outputs={"target": "mood", "unit": "%"}), DEGREES, SIGMOID, "probabilities, which have no unit"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(table: Table, output: Tensor, kind: str, message: str) -> None:
    with pytest.raises(keepdrop.InputError, match=message):
        fitted(table, [WINDOW], [output], [Head(output.name, kind)])


def test_a_horizon_is_the_first_axis_and_may_have_its_log_variances_beside_it() -> None:
    table = degrees(outputs={"target": "temp", "ahead": "1..24"})
    for shape, kind in [((None, None, 24), VALUE), ((None, None, 24, 2), MEAN_LOGVAR), ((None, None, 48), MEAN_LOGVAR)]:
        output = Tensor("temperature", "float32", shape)
        assert fitted(table, [WINDOW], [output], [Head("temperature", kind)]).outputs["temperature"].is_horizon


def test_a_window_of_one_column_needs_no_axis_of_features() -> None:
    flat = Tensor("window", "float32", (None, 48))
    assert fitted(Table(["temp"]), [flat], [DEGREES]).inputs["window"].window == 48


def test_a_file_that_holds_no_table_is_named(tmp_path) -> None:
    (tmp_path / "table.json").write_text("[1]")
    with pytest.raises(keepdrop.InputError, match=r"table.json: a table is a JSON object, and this is \[1\]"):
        Table.read(tmp_path / "table.json")
    with pytest.raises(keepdrop.InputError, match="cannot read the table"):
        Table.read(tmp_path / "other.json")


def test_attributes_are_those_of_pandas() -> None:
    index = pandas.date_range("1967-12-28", periods=5000, freq="7h13min11s")
    expected = {
        "second": index.second,
        "minute": index.minute,
        "hour": index.hour,
        "day_of_week": index.weekday,
        "day": index.day - 1,
        "day_of_year": index.day_of_year - 1,
        "month": index.month - 1,
        "quarter": index.quarter - 1,
    }
    times = index.to_numpy().astype("datetime64[us]")
    for attribute, values in expected.items():
        np.testing.assert_array_equal(attribute_values(attribute, times), values, attribute)


def test_cycles_are_those_of_darts() -> None:
    """Sine first; the period of a year is 366 days, as in `datetime_attribute_timeseries(..., cyclic=True)`."""
    times = np.array(["2024-03-01T06:30", "2024-12-31T18:00"], "datetime64[us]")
    hour, day = cyclic_values(Cyclic("hour"), times), cyclic_values(Cyclic("day_of_year"), times)
    np.testing.assert_allclose(hour, [[1, 0], [-1, 0]], atol=1e-15)
    angles = 2 * np.pi * np.array([60, 365]) / 366
    np.testing.assert_allclose(day, np.stack([np.sin(angles), np.cos(angles)], axis=-1))
    half = cyclic_values(Cyclic("hour", 12.0), times)
    np.testing.assert_allclose(half, [[0, -1], [0, -1]], atol=1e-14)
    assert not np.allclose(half, hour)


@pytest.mark.parametrize(
    ("text", "seconds", "back"),
    [
        ("1h", 3600, "1h"),
        ("15 min", 900, "15min"),
        ("1.5h", 5400, "90min"),
        ("D", 86400, "1d"),
        ("100ms", 0.1, "100ms"),
    ],
)
def test_steps(text: str, seconds: float, back: str) -> None:
    step = parsed_step(text)
    assert step == np.timedelta64(round(seconds * 1e6), "us")
    assert step_text(step) == back
