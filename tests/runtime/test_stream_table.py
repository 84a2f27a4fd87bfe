"""A stream of an artifact that knows its table: missing values, steps of time, names and units, as in `predict`."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

import keepdrop
from keepdrop import Table, cli

from . import table_toys

UNIT = "°F"


def table(missing="refuse", ahead=2, **fields):
    return Table(
        ["a", "b", "c"], {"target": "a", "name": "temp", "unit": UNIT, "ahead": ahead}, missing=missing, **fields
    )


@pytest.fixture
def artifact(tmp_path):
    """Windows of 4 lines an hour apart, the temperature two hours ahead."""

    def written(**fields):
        steps = len(table(**fields).outputs[""].ahead)
        return table_toys.write(
            tmp_path / "toy.onnx", table(**{"time": {"column": "when", "step": "1h"}, "id": "site", **fields}), steps
        )

    return written


def lines(hours, gaps=(), site="north"):
    """CSV of readings at these hours; `gaps` are (line, column) without a number."""
    numbers = np.random.default_rng(3).integers(-9, 10, (len(hours), 3))
    cells = [["" if (n, i) in gaps else str(number) for i, number in enumerate(row)] for n, row in enumerate(numbers)]
    times = np.datetime64("2025-03-01T00:00:00") + (60 * np.array(hours)).astype("timedelta64[m]")
    return [f"{site},{time}Z,{','.join(of_line)}" for time, of_line in zip(times, cells, strict=True)]


def text(of_lines):
    return "\n".join(["site,when,a,b,c", *of_lines]) + "\n"


def stream(*arguments, given, code=0):
    result = CliRunner().invoke(cli.main, ["stream", *map(str, arguments)], input=given)
    assert result.exit_code == code, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def predict(*arguments, given, tmp_path):
    """What `predict` writes of the same readings: a row for each window."""
    path = tmp_path / "readings.csv"
    path.write_text(given)
    out = tmp_path / "out.jsonl"
    result = CliRunner().invoke(cli.main, ["predict", *map(str, [*arguments[:1], path, "-o", out, *arguments[1:]])])
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in out.read_text().splitlines()]


FIGURES = ("temp_mean", "temp_std", "temp_low_0.9", "temp_high_0.9", "temp_unit", "time")


def assert_as_predicted(answers, rows):
    """Every reading that ends a window is answered as predict answers that window; those before have no answer."""
    before = len(answers) - len(rows)
    assert before == table_toys.LINES - 1
    assert all(answer["temp_mean"] is None and answer["reason"] for answer in answers[:before])
    for answer, row in zip(answers[before:], rows, strict=True):
        assert {name: answer[name] for name in FIGURES} == {name: row[name] for name in FIGURES}
        assert ("reason" in answer) == (answer["temp_mean"] is None)


def test_answers_bear_the_names_units_and_times_of_predict(artifact, tmp_path) -> None:
    given = text(lines(range(9)))
    answers, error = stream(artifact(), "--interval", 0.9, given=given)
    assert error == ""
    assert_as_predicted(answers, predict(artifact(), "--interval", 0.9, given=given, tmp_path=tmp_path))
    last = answers[-1]
    assert last["time"] == "2025-03-01T10:00:00Z" and last["when"] == "2025-03-01T08:00:00Z"
    assert last["temp_unit"] == UNIT and last["id"] == "north" and "row" not in last


def test_a_horizon_bears_a_time_for_each_step(artifact, tmp_path) -> None:
    given = text(lines(range(6)))
    answers, _ = stream(artifact(ahead=(1, 2, 5)), "--interval", 0.9, given=given)
    rows = predict(artifact(ahead=(1, 2, 5)), "--interval", 0.9, given=given, tmp_path=tmp_path)
    for place, answer in enumerate(answers[3:]):
        of_row = rows[3 * place : 3 * place + 3]
        for name in ("time", "ahead", "temp_mean", "temp_std", "temp_low_0.9"):
            assert answer[name] == [row[name] for row in of_row]
    assert answers[0]["temp_mean"] == [None] * 3 and answers[0]["time"][2] == "2025-03-01T05:00:00Z"
    assert answers[0]["ahead"] == [1, 2, 5]


GAPS = {(6, 1), (7, 1), (13, 0), (14, 0), (15, 0), (20, 2)}


@pytest.mark.parametrize("rule", ("skip", "hold 1", "hold 2", "hold 9"))
def test_missing_values_go_by_the_rule_as_in_predict(artifact, tmp_path, rule) -> None:
    given = text(lines(range(26), GAPS))
    rows = predict(artifact(missing=rule), "--interval", 0.9, given=given, tmp_path=tmp_path)
    answers, error = stream(artifact(missing=rule), "--interval", 0.9, given=given)
    assert error == ""
    assert_as_predicted(answers, rows)
    # The option stands above the table's rule.
    assert stream(artifact(), "--interval", 0.9, "--missing", rule, given=given)[0] == answers
    assert any(answer["temp_mean"] is None for answer in answers[3:]) == (rule != "hold 9")


def test_what_is_missing_is_told(artifact) -> None:
    given = text(lines(range(9), {(5, 1)}))
    _, error = stream(artifact(), given=given, code=1)
    assert "line 7, column 'b' is empty; fill in such cells, or see --missing or --on-error" in error
    answers, _ = stream(artifact(missing="skip"), given=given)
    assert answers[5]["reason"] == "line 7: b is missing" and answers[5]["step"] == 0
    assert [answer["step"] for answer in answers] == [1, 2, 3, 4, 5, 0, 1, 2, 3]
    assert answers[8]["reason"] == "its window is not full: 3 of 4 steps"
    # JSON lines: null, and a key that is not there.
    objects = [{"site": 1, "when": f"2025-03-01T0{n}:00Z", "a": 1, "b": 2, "c": n} for n in range(6)]
    objects[4]["b"] = None
    del objects[5]["a"]
    answers, _ = stream(artifact(missing="hold 1"), given="".join(json.dumps(each) + "\n" for each in objects))
    assert [answer["temp_mean"] is None for answer in answers] == [True] * 3 + [False] * 3


@pytest.mark.parametrize("after", (7, 14, 16, 22))
def test_what_is_held_is_held_over_a_resume(artifact, tmp_path, after) -> None:
    """Within a gap, behind one that was too long, and behind the last one."""
    of_lines, state = lines(range(26), GAPS), tmp_path / "state.npz"
    options = ("--missing", "hold 2", "--interval", 0.9)
    whole, _ = stream(artifact(), *options, given=text(of_lines))
    first, _ = stream(artifact(), *options, "--state", state, given=text(of_lines[:after]))
    second, _ = stream(artifact(), *options, "--state", state, given=text(of_lines))
    assert [{**answer, "reason": ""} for answer in first + second] == [{**answer, "reason": ""} for answer in whole]


def test_a_reset_forgets_what_was_held(artifact) -> None:
    objects = [{"site": 1, "when": f"2025-03-01T0{n}:00Z", "a": 1, "b": 2, "c": n} for n in range(2)]
    objects[1]["a"] = None
    given = [objects[0], {"site": 1, "reset": True}, objects[1]]
    answers, _ = stream(artifact(missing="hold 5"), given="".join(json.dumps(each) + "\n" for each in given))
    assert answers[2]["reason"] == "line 3: a is missing"


def test_steps_of_time_that_are_missing_go_by_the_rule(artifact, tmp_path) -> None:
    of_lines = lines([*range(6), *range(8, 14)])
    _, error = stream(artifact(), given=text(of_lines), code=1)
    assert "line 8, column 'when': 2025-03-01T08:00:00 comes after 2025-03-01T05:00:00, and 2 readings" in error
    assert "in steps of 1h are missing" in error
    rows = predict(artifact(missing="skip"), "--interval", 0.9, given=text(of_lines), tmp_path=tmp_path)
    answers, error = stream(artifact(missing="skip"), "--interval", 0.9, given=text(of_lines))
    assert_as_predicted(answers, rows)
    assert error == "" and [answer["step"] for answer in answers[4:8]] == [5, 6, 1, 2]
    # One series' gap is none of another's, and a resume knows the time.
    state = tmp_path / "state.npz"
    other = [line.replace("north", "south") for line in of_lines]
    stream(artifact(), "--state", state, given=text([*of_lines[:6], *other[:3]]))
    _, error = stream(artifact(), "--state", state, given=text([*of_lines[6:], *other[3:]]), code=1)
    assert "line 2, column 'when'" in error
    assert len(stream(artifact(), "--state", state, given=text(other[3:6]))[0]) == 3


def test_a_gap_that_is_passed_over_costs_one_reading(artifact) -> None:
    given = text(lines([*range(6), *range(8, 14)]))
    answers, error = stream(artifact(), "--on-error", "skip", given=given)
    assert error.count("keepdrop: skipped: ") == 1 and "2 readings in steps of 1h are missing" in error
    assert [answer["step"] for answer in answers] == [1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("rule", ("refuse", "skip"))
def test_a_step_that_is_not_whole_is_refused(artifact, rule) -> None:
    given = text(lines([0, 1, 2.5, 2, 3]))
    _, error = stream(artifact(missing=rule), given=given, code=1)
    assert "line 4, column 'when'" in error and "a step of 90min, and the model was trained on steps of 1h" in error
    answers, error = stream(artifact(missing=rule), "--on-error", "skip", given=given)
    assert "90min" in error and [answer["step"] for answer in answers] == [1, 2, 3, 4]


def test_columns_of_an_artifact_without_a_table_have_a_rule_too(tmp_path) -> None:
    path = table_toys.write(tmp_path / "toy.onnx", None)
    given = "a,b,c\n" + "1,2,3\n" * 4 + "1,,3\n" + "1,2,3\n" * 4
    held, _ = stream(path, "--missing", "hold 1", given=given)
    assert [answer["y_mean"] is None for answer in held] == [True] * 3 + [False] * 6
    assert held[4]["y_mean"] == held[3]["y_mean"]
    skipped, _ = stream(path, "--missing", "skip", given=given)
    assert [answer["y_mean"] is None for answer in skipped] == [True] * 3 + [False] + [True] * 4 + [False]


def test_a_damaged_record_of_what_is_held_is_refused(artifact, tmp_path) -> None:
    state = tmp_path / "state.npz"
    stream(artifact(missing="hold 2"), "--state", state, given=text(lines(range(3))))
    with np.load(state) as file:
        arrays = {name: file[name] for name in file.files}
    assert arrays["held"].shape == (1, 3, 2)
    arrays["held"][0, 0, 1] = -1
    np.savez(state, **arrays)
    with pytest.raises(keepdrop.InputError, match="values are held of readings to come"):
        keepdrop.load(artifact(missing="hold 2")).resume(state)


@pytest.mark.filterwarnings("ignore:.*effective rows")
def test_a_truth_behind_a_gap_is_of_the_answer_of_its_time(artifact, tmp_path) -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(-9, 10, (300, table_toys.LINES, table_toys.WIDTH)).astype(np.float32)
    plain = keepdrop.load(artifact(missing="skip"))
    y = table_toys.means(x) + rng.normal(size=(300, 1))
    calibrated = tmp_path / "calibrated.onnx"
    calibrated.write_bytes(keepdrop.calibrate(plain, x, y, samples=5).to_bytes())
    given = text(lines([*range(8), *range(9, 16)]))
    answers, _ = stream(calibrated, "--truth", "a", "--interval", 0.9, given=given)
    told = {answer["when"][11:13]: answer.get("temp_truth_step") for answer in answers}
    # Two hours ahead: what 9 o'clock says was forecast at 7, the eighth reading; then the row has started anew.
    assert told == dict.fromkeys(("00", "01", "02", "03", "04", "10", "11", "12", "13")) | {
        "05": 4,
        "06": 5,
        "07": 6,
        "09": 8,
        "14": 4,
        "15": 5,
    }
    assert all(("temp_covered_0.9" in answer) == (told[answer["when"][11:13]] is not None) for answer in answers)
