import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import keepdrop
from keepdrop import cli
from keepdrop.artifact.metadata import TABLE_KEY, Tensor
from keepdrop.artifact.properties import with_properties
from keepdrop.service.messages import MessageColumns, Messages

# The package's attribute of that name is the command.
command = importlib.import_module("keepdrop.cli.stream")

SEED = 7
COMMAND = [sys.executable, "-c", "from keepdrop.cli import main; main()", "stream"]


def call(*arguments, given="", code=0):
    """The exit code is checked; gives the answers and what stood on standard error."""
    result = CliRunner().invoke(cli.main, ["stream", *map(str, arguments)], input=given)
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return [json.loads(line) for line in result.stdout.splitlines()], result.stderr


def refused(*arguments, given="", code=1) -> str:
    answers, error = call(*arguments, given=given, code=code)
    assert error.count("keepdrop: ") == 1 and error.count("\n") == 1, error
    return error


@pytest.fixture
def steps():
    """[20 steps, 2], whole numbers."""
    return np.random.default_rng(1).integers(-4, 5, (20, 2)).astype(np.float32)


def csv_of(steps, ids=None) -> str:
    lines = ["a,b" if ids is None else "a,sensor,b"]
    for n, (a, b) in enumerate(steps):
        lines.append(f"{a},{b}" if ids is None else f"{a},{ids[n]},{b}")
    return "\n".join(lines) + "\n"


def json_of(steps, ids) -> str:
    return "".join(json.dumps({"id": i, "x": step.tolist()}) + "\n" for i, step in zip(ids, steps, strict=True))


def expected(streaming, steps, ids, samples=5, seed=0):
    """Means and standard deviations of y as the library has them, with the steps of each row."""
    s = keepdrop.load(streaming).stream(samples=samples, seed=seed, rows=sorted(set(ids)))
    for i, step in zip(ids, steps, strict=True):
        p = s.push([step], rows=[i])["y"]
        yield {"id": i, "step": s.steps_seen[i], "y_mean": p.mean[0], "y_std": p.std[0]}


def assert_answers(answers, wanted) -> None:
    wanted = list(wanted)
    assert len(answers) == len(wanted)
    for answer, want in zip(answers, wanted, strict=True):
        for key, value in want.items():
            np.testing.assert_array_equal(np.asarray(answer[key], np.asarray(value).dtype), value)


GOOD = '{"id": 3, "x": [1, 2]}\n'
IDS = [3, 3, 8, 3, 8, -1, 3, 8] + [8, 3] * 6


def test_csv_is_answered_line_by_line(streaming, steps) -> None:
    answers, error = call(streaming, "--id", "sensor", "--samples", 9, "--seed", SEED, given=csv_of(steps, IDS))
    assert_answers(answers, expected(streaming, steps, IDS, samples=9, seed=SEED))
    assert error == ""
    assert list(answers[0]) == ["id", "step", "y_mean", "y_std", "z_mean", "z_std", "w_mean", "w_std"]


def test_json_lines_are_answered_line_by_line(streaming, steps) -> None:
    answers, _ = call(streaming, "--samples", 9, "--seed", SEED, given=json_of(steps, IDS))
    assert_answers(answers, expected(streaming, steps, IDS, samples=9, seed=SEED))
    renamed = json_of(steps, IDS).replace('"id"', '"sensor"')
    assert call(streaming, "--samples", 9, "--seed", SEED, "--id", "sensor", given=renamed)[0] == answers
    named = json_of(steps, IDS).replace('"x": [', '"x": {"x": [').replace("]}", "]}}")
    assert call(streaming, "--samples", 9, "--seed", SEED, given=named)[0] == answers
    assert call(streaming, "--samples", 9, given=json_of(steps, IDS))[0] != answers


def test_without_ids_there_is_one_row(streaming, steps) -> None:
    answers, _ = call(streaming, given=csv_of(steps))
    assert_answers(answers, expected(streaming, steps, [0] * 20))
    lines = "".join(json.dumps({"x": step.tolist()}) + "\n" for step in steps)
    assert call(streaming, given=lines)[0] == answers


def test_intervals_are_those_of_the_samples(streaming, steps) -> None:
    answers, _ = call(streaming, "--interval", 0.9, "--interval", 0.5, "--samples", 40, given=csv_of(steps[:1]))
    p = keepdrop.load(streaming).stream(samples=40).push(steps[:1])["y"]
    for level in (0.9, 0.5):
        np.testing.assert_array_equal(
            np.float32([answers[0][f"y_low_{level}"], answers[0][f"y_high_{level}"]]), np.stack(p.interval(level))[:, 0]
        )


def test_a_chunk_in_json_counts_its_steps(streaming, steps) -> None:
    given = json.dumps({"x": steps[:3].tolist()}) + "\n" + json.dumps({"x": steps[3].tolist()}) + "\n"
    answers, _ = call(streaming, given=given)
    assert [answer["step"] for answer in answers] == [3, 4]
    assert np.shape(answers[0]["z_mean"]) == (3, 2)
    assert_answers(answers[1:], list(expected(streaming, steps[:4], [0] * 4))[3:])


def test_what_is_no_number_is_null(streaming, steps) -> None:
    answers, _ = call(streaming, "--samples", 1, given=csv_of(steps[:1]))
    assert answers[0]["y_std"] == [None, None]


def test_several_inputs_come_by_name(write, streaming_text, streaming_metadata, steps) -> None:
    text = streaming_text.replace(
        "toy (float[batch,steps,2] x,", "toy (float[batch,steps,2] x, float[batch,steps,1] e,"
    )
    text = text.replace("weighted = Mul(x, n3)", "xe = Mul(x, e)\n  weighted = Mul(xe, n3)")
    inputs = (*streaming_metadata.inputs, Tensor("e", "float32", (None, None, 1)))
    metadata = type(streaming_metadata)(**{**vars(streaming_metadata), "inputs": inputs})
    path = write(text, metadata.to_json(), "several.onnx")
    answers, _ = call(path, given='{"x": {"x": [1, 2], "e": [3]}}\n')
    assert answers[0]["y_mean"] == [9, 18]
    assert "CSV has no place for the model's 2 inputs" in refused(path, given="a,b,c\n1,2,3\n")
    assert "line 1: no array was given for input ['e']" in refused(path, given='{"x": [1, 2]}\n')


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (GOOD + "nonsense", "line 2 is not JSON (Expecting value at character 1); give one object a line"),
        (GOOD + "[1, 2]\n", "line 2 is not a JSON object; give one a line"),
        (GOOD + '{"id": 3, "y": [1, 2]}\n', "line 2 has no 'x'"),
        (
            GOOD + '\n{"id": 3.5, "x": [1, 2]}\n',
            "line 3, column 'id' holds 3.5, not an id; row ids are integers or text",
        ),
        (GOOD + '{"id": true, "x": [1, 2]}\n', "line 2, column 'id' holds True"),
        (GOOD + '{"id": "", "x": [1, 2]}\n', "line 2, column 'id' is empty"),
        (GOOD + '{"id": 3, "reset": 1}\n', 'line 2, "reset" is 1; give true'),
        (GOOD + '{"id": 4, "x": [1, NaN]}\n', "line 2: input 'x' holds NaN or infinity, first in row 4"),
        (GOOD + '{"id": 4, "x": [1]}\n', "line 2: input 'x' has shape [1, 1]; expected float32 [1, 2]"),
        (GOOD + '{"id": 4, "x": [1, null]}\n', "line 2: input 'x' holds object"),
        (GOOD + '{"id": 4, "x": ' + "[" * 100_000 + "\n", "line 2 is not JSON"),
        (b'{"id": 3, "x": [1, 2]}\n\xff\n', "line 2 is not text in UTF-8"),
        ("id,a,b\n3,1,2\n3,1\n", "line 3 has 2 cells and the header 3"),
        ("id,a,b\n3,1,2\n3,1,\n", "line 3, column 'b' is empty; fill in such cells, or see --missing or --on-error"),
        ("id,a,b\n3,1,2\n3.5,1,2\n", "line 3, column 'id' holds '3.5', not an id"),
        ("id,a,b\n3,1,2\n3,1,inf\n", "line 3, column 'b' holds 'inf', not a finite number"),
        ('id,a,b\n3,1,2\n3,1,"2\n', "line 3 is not CSV"),
        ("id,a,b\n3,1,2\n3,1_0,2\n", "line 3, column 'a' holds '1_0'"),
    ],
)
def test_a_bad_line_is_told_and_what_came_before_is_kept(streaming, tmp_path, given, text) -> None:
    state = tmp_path / "state.npz"
    id_name = ["--id", "id"] if "a,b" in str(given) else []
    answers, error = call(streaming, "--state", state, *id_name, given=given, code=1)
    assert [answer["id"] for answer in answers] == [3]
    assert text in error and error.startswith("keepdrop: ") and error.count("\n") == 1
    assert keepdrop.load(streaming).resume(state).steps_seen == {3: 1}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("1,2\n3,4\n", "line 1 is not a header, all its cells are numbers"),
        (
            "a,b,c\n1,2,3\n",
            "has 3 columns of numbers, ['a', 'b', 'c']; a step of input 'x' takes 2: choose them by --columns",
        ),
        ("a,id\n1,2\n", "has 1 columns of numbers besides 'id'"),
        ("a,b\n", "line 1 has no column 'id'; its columns are ['a', 'b']"),
    ],
)
def test_a_header_that_does_not_fit_is_told(streaming, given, text) -> None:
    assert text in refused(streaming, *(["--id", "id"] if "'id'" in text else []), given=given)


def test_no_readings_are_no_error(streaming, tmp_path) -> None:
    for given in ("", "\n\n", "a,b\n"):
        assert call(streaming, "--state", tmp_path / "s.npz", given=given) == ([], "")
    assert list(tmp_path.glob("s.npz")) == []
    assert len(call(streaming, given="\ufeffa,b\r\n1,2\r\n\r\n3,4")[0]) == 2


def test_a_state_is_gone_on_from(streaming, steps, tmp_path) -> None:
    state = tmp_path / "state.npz"
    options = [streaming, "--id", "sensor", "--state", state]
    first, error = call(*options, "--samples", 9, "--seed", SEED, given=csv_of(steps[:11], IDS[:11]))
    assert error == ""
    second, error = call(*options, given=csv_of(steps[11:], IDS[11:]))
    assert error == f"keepdrop: goes on from {state}: 3 rows, 1 to 5 steps each\n"
    assert_answers(first + second, expected(streaming, steps, IDS, samples=9, seed=SEED))
    assert [path.name for path in tmp_path.iterdir() if "state" in path.name] == ["state.npz"]
    assert call(*options, "--samples", 9, "--seed", SEED, given=csv_of(steps[:1], IDS[:1]))[0][0]["step"] == 11


def test_a_state_of_something_else_is_refused_and_left(streaming, steps, tmp_path) -> None:
    state = tmp_path / "state.npz"
    call(streaming, "--state", state, "--seed", SEED, given=csv_of(steps))
    content = state.read_bytes()
    for option, kept in (("--samples", 5), ("--seed", SEED)):
        error = refused(streaming, "--state", state, option, 6, given=csv_of(steps)).splitlines()[-1]
        assert f"goes on with {option[2:]} {kept} and {option} is 6; leave {option} out" in error
    assert state.read_bytes() == content
    state.write_bytes(content[:-1])
    assert "state.npz is damaged" in refused(streaming, "--state", state, given=csv_of(steps))
    assert state.read_bytes() == content[:-1]


def test_the_state_is_no_file_of_another_part(streaming, tmp_path) -> None:
    model, other = tmp_path / "model.onnx", tmp_path / "readings.csv"
    model.write_bytes(streaming.read_bytes())
    (tmp_path / "hard.npz").hardlink_to(model)
    assert "is the artifact itself" in refused(model, "--state", tmp_path / "hard.npz", given=GOOD)
    assert model.read_bytes() == streaming.read_bytes()
    other.write_text(GOOD)
    (tmp_path / "link.npz").symlink_to(other)
    for stream, name in (("stdin", "standard input"), ("stdout", "standard output")):
        with (
            open(other, "r+") as file,
            running(streaming, "--state", tmp_path / "link.npz", **{stream: file}) as process,
        ):
            assert process.wait(20) == 1
            assert f"the state, {tmp_path / 'link.npz'}, is {name} itself" in process.stderr.read()
        assert other.read_text() == GOOD


def test_another_artifact_takes_a_state_over_if_asked(
    streaming, write, streaming_text, streaming_metadata, tmp_path
) -> None:
    state = tmp_path / "state.npz"
    call(streaming, "--state", state, given=GOOD)
    other = write(streaming_text.replace("ten = {10}", "ten = {11}"), streaming_metadata.to_json(), "other.onnx")
    assert "by --on-new-artifact that its states are to be kept" in refused(other, "--state", state, given=GOOD)
    content = state.read_bytes()
    for choice, step in (("keep", 2), ("reset", 1)):
        state.write_bytes(content)
        assert call(other, "--state", state, "--on-new-artifact", choice, given=GOOD)[0][0]["step"] == step


def test_a_state_is_not_the_artifact(streaming, tmp_path) -> None:
    content = streaming.read_bytes()
    (tmp_path / "link.npz").hardlink_to(streaming)
    for path in (streaming, tmp_path / "link.npz"):
        assert "the artifact" in refused(streaming, "--state", path, given=GOOD)
    assert streaming.read_bytes() == content


def test_options_that_do_not_fit_are_told(streaming, tmp_path) -> None:
    assert "is a directory" in refused(streaming, "--state", tmp_path)
    assert "does not exist; make it first" in refused(streaming, "--state", tmp_path / "none" / "state.npz")
    assert "--save-every needs --state" in call(streaming, "--save-every", 3, code=2)[1]
    call(streaming, "--save-every", 0, "--state", tmp_path / "s", code=2)
    call(streaming, "--interval", 1, code=2)


@pytest.mark.parametrize("call_that_fails", ["fsync", "replace"])
def test_a_save_that_fails_leaves_the_older_file(streaming, steps, tmp_path, monkeypatch, call_that_fails) -> None:
    state = tmp_path / "state.npz"
    call(streaming, "--state", state, given=csv_of(steps))
    content = state.read_bytes()
    monkeypatch.setattr(os, call_that_fails, lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    error = call(streaming, "--state", state, given=csv_of(steps), code=1)[1]
    assert (
        "cannot write" in error and "No space left on device" in error and "an older file there is as it was" in error
    )
    assert state.read_bytes() == content
    assert [path.name for path in tmp_path.glob("*state*")] == ["state.npz"]


# What a reading may look like


def test_columns_are_chosen_by_name_and_others_passed_over(streaming, steps) -> None:
    plain, _ = call(streaming, given=csv_of(steps))
    lines = ["note,b,when,a", *(f"n/a,{b},2025-01-0{n % 9 + 1}T00:00:00Z,{a}" for n, (a, b) in enumerate(steps))]
    assert call(streaming, "--columns", "a,b", given="\n".join(lines))[0] == plain
    swapped, _ = call(streaming, "--columns", "b,a", given="\n".join(lines))
    assert swapped != plain
    dated = ["time,a,b", *(f"2025-01-01 00:{n:02},{a},{b}" for n, (a, b) in enumerate(steps))]
    assert call(streaming, given="\n".join(dated))[0] == plain
    objects = "".join(json.dumps({"b": float(b), "a": float(a)}) + "\n" for a, b in steps)
    assert call(streaming, "--columns", "a,b", given=objects)[0] == plain
    assert "has no 'b'" in refused(streaming, "--columns", "a,b", given='{"a": 1}\n')
    assert "has no column 'c'" in refused(streaming, "--columns", "a,c", given="a,b\n1,2\n")


def test_ids_may_be_text_and_further_fields_come_back(streaming) -> None:
    given = '{"id": "north", "x": [1, 2], "site": {"lat": 1}, "step": "first"}\n{"id": 7, "x": [1, 2]}\n'
    answers, _ = call(streaming, given=given)
    assert [answer["id"] for answer in answers] == ["north", 7]
    assert (answers[0]["site"], answers[0]["step"], answers[0]["step_"]) == ({"lat": 1}, 1, "first")
    csv, _ = call(streaming, "--id", "id", given="id,a,b\nnorth,1,2\n7,1,2\n")
    assert [answer["y_mean"] for answer in csv] == [answer["y_mean"] for answer in answers]
    other, _ = call(streaming, given='{"id": "south", "x": [1, 2]}\n')
    assert other[0]["y_mean"] != answers[0]["y_mean"]


def test_a_header_that_comes_again_is_no_reading(streaming, steps) -> None:
    """As `tail -F` gives it when the file begins anew."""
    given = csv_of(steps[:3]) + csv_of(steps[3:5])
    assert [answer["step"] for answer in call(streaming, given=given)[0]] == [1, 2, 3, 4, 5]


def test_readings_that_are_no_newer_are_passed_over(streaming, tmp_path) -> None:
    state = tmp_path / "state.npz"
    lines = ["t,id,a,b", "1,3,1,2", "1,4,1,2", "2,3,1,2", "2,3,1,2", "1.5,3,1,2", "3,3,1,2"]
    options = [streaming, "--id", "id", "--time", "t", "--state", state]
    answers, error = call(*options, given="\n".join(lines))
    assert [(answer["id"], answer["step"], answer["t"]) for answer in answers] == [
        (3, 1, "1"),
        (4, 1, "1"),
        (3, 2, "2"),
        (3, 3, "3"),
    ]
    assert error == "keepdrop: 2 readings were no newer than their row's last\n"
    again, error = call(*options, given="\n".join([*lines, "4,3,1,2"]))
    assert [(answer["id"], answer["step"]) for answer in again] == [(3, 4)]
    assert "6 readings were no newer" in error
    dated = (
        '{"id": 9, "x": [1, 2], "t": "2025-01-01T00:00:00+01:00"}\n{"id": 9, "x": [1, 2], "t": "2024-12-31T23:00Z"}\n'
    )
    assert len(call(*options[:3], *options[3:5], "--id", "id", given=dated)[0]) == 1
    assert "column 't' is empty" in refused(streaming, "--time", "t", given='{"x": [1, 2]}\n')


def test_a_line_that_is_no_reading_is_skipped_if_asked(streaming) -> None:
    lines = ["id,a,b", "3,1,2", "ERR", "3,nan,2", "3,1,2", '3,"1', "3,1,2"]
    answers, error = call(streaming, "--id", "id", "--on-error", "skip", given="\n".join(lines))
    assert [answer["step"] for answer in answers] == [1, 2, 3]
    assert [error.count(f"skipped: standard input, line {n}") for n in (3, 4, 6)] == [1, 1, 1]
    assert error.endswith("keepdrop: 3 lines were skipped\n")
    lines = [GOOD, '{"id": 3, "x": [1\n', '{"id": 4, "x": [1]}\n', GOOD]
    answers, error = call(streaming, "--on-error", "skip", given="".join(lines))
    assert [answer["step"] for answer in answers] == [1, 2] and "2 lines were skipped" in error
    error = call(streaming, "--on-error", "skip", given=GOOD + "ERR\n" * 50)[1]
    assert error.count("skipped: standard input") == 20
    assert error.endswith("keepdrop: 50 lines were skipped, of which the first 20 are named\n")
    refused(streaming, "--on-error", "skip", given="a,b,c\n1,2,3\n1,2,3\n")  # no line below such a header can do better


HUGE = '{"id": 2, "x": [3e38, 3e38]}\n'


def test_a_sensor_that_diverges_does_not_stop_the_others(streaming, tmp_path) -> None:
    state = tmp_path / "state.npz"
    answers, error = call(streaming, "--samples", 2, "--state", state, given=GOOD + HUGE + HUGE + GOOD)
    assert error == ""
    assert answers[2]["reason"] == "the state is not finite since step 1; reset this row"
    assert answers[2]["y_mean"] == [None, None] == answers[2]["z_std"]
    assert "reason" not in answers[3] and answers[3]["step"] == 2
    given = HUGE + '{"id": 2, "reset": true}\n{"id": 2, "x": [1, 2]}\n{"id": 5, "reset": true}\n'
    again, _ = call(streaming, "--state", state, given=given)
    assert again[0]["step"] == 3 and again[0]["reason"] == answers[2]["reason"]
    assert again[1] == {"id": 2, "step": 0, "reset": True}
    fresh, _ = call(streaming, "--samples", 2, given='{"id": 2, "x": [1, 2]}\n')
    assert again[2] == fresh[0]
    assert again[3] == {"id": 5, "step": 0, "reset": True}


def test_an_ordinary_artifact_is_given_the_last_steps_as_its_window(tmp_path) -> None:
    forecaster = Path(__file__).parent / "data" / "forecaster.onnx"  # windows of 5 steps of 2 features
    readings = np.random.default_rng(5).normal(size=(8, 2)).astype(np.float32)
    state = tmp_path / "state.npz"
    answers, _ = call(forecaster, "--samples", 6, "--state", state, given=csv_of(readings[:6]))
    answers += call(forecaster, "--state", state, given=csv_of(readings[6:]))[0]
    assert [answer["warm"] for answer in answers] == [False] * 4 + [True] * 4
    assert answers[3]["reason"] == "its window is not full: 4 of 5 steps" and answers[3]["forecast_mean"] is None
    windows = np.stack([readings[n : n + 5] for n in range(4)])
    wanted = keepdrop.load(forecaster).predict(windows, samples=6, rows=[0] * 4).mean[:, 0]
    np.testing.assert_array_equal(np.float32([answer["forecast_mean"] for answer in answers[4:]]), wanted)


def test_answers_say_whether_the_row_is_warm(streaming) -> None:
    answers, _ = call(streaming, "--window", 2, given=GOOD * 3)
    assert [answer["warm"] for answer in answers] == [False, True, True]


# As processes


@contextlib.contextmanager
def running(*arguments, **options):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([*COMMAND, *map(str, arguments)], text=True, **{**pipes, **options}) as process:
        try:
            yield process
        finally:
            process.kill()


def ask(process, line: str):
    process.stdin.write(line)
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def test_an_answer_comes_before_the_next_reading_is_sent(streaming, steps) -> None:
    with running(streaming) as process:
        process.stdin.write("a,b\n")
        answers = [ask(process, f"{a},{b}\n") for a, b in steps]
        assert process.poll() is None
        process.stdin.close()
        assert process.stdout.read() == ""
        assert process.wait(10) == 0
    assert_answers(answers, expected(streaming, steps, [0] * 20))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)])
def test_an_interruption_saves_the_state(streaming, steps, tmp_path, number, code) -> None:
    state = tmp_path / "state.npz"
    lines = json_of(steps, IDS).splitlines(keepends=True)
    with running(streaming, "--state", state) as process:
        first = [ask(process, line) for line in lines[:7]]
        process.send_signal(number)
        assert process.wait(10) == code
        assert process.stderr.read() == f"keepdrop: interrupted; the state is saved in {state}\n"
    second, _ = call(streaming, "--state", state, given="".join(lines[7:]))
    assert_answers(first + second, expected(streaming, steps, IDS))


def test_a_signal_that_was_ignored_stays_so(streaming) -> None:
    """As nohup asks for it."""
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); main()"
    nohup = [sys.executable, "-c", COMMAND[2].replace("main()", ignoring)]
    with subprocess.Popen(
        [*nohup, "stream", str(streaming)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert ask(process, GOOD)["step"] == 1
        process.send_signal(signal.SIGHUP)
        assert ask(process, GOOD)["step"] == 2
        process.stdin.close()
        assert process.wait(10) == 0


def test_one_process_at_a_time_writes_a_state(streaming, tmp_path) -> None:
    state, link = tmp_path / "state.npz", tmp_path / "link.npz"
    link.symlink_to(state)
    with running(streaming, "--state", state, "--save-every", 1) as process:
        ask(process, GOOD)
        for path in (state, link):
            assert f"another process is working on {state}" in refused(streaming, "--state", path, given=GOOD)
        assert ask(process, GOOD)["step"] == 2
        process.stdin.close()
        assert process.wait(10) == 0
    assert call(streaming, "--state", link, given=GOOD)[0][0]["step"] == 3
    assert link.is_symlink() and sorted(path.name for path in tmp_path.glob("*state*")) == ["state.npz"]


def test_a_full_disk_ends_it_with_what_was_delivered(streaming, tmp_path) -> None:
    state = tmp_path / "state.npz"
    call(streaming, "--state", state, given=GOOD)
    with open("/dev/full", "w") as full, running(streaming, "--state", state, stdout=full) as process:
        process.stdin.write(GOOD + '{"id": 5, "x": [1, 2]}\n')
        process.stdin.close()
        assert process.wait(10) == 1
        error = process.stderr.read().splitlines()
    assert error[1:] == [
        "keepdrop: cannot write an answer to standard output (No space left on device); make room for it"
    ]
    assert keepdrop.load(streaming).resume(state).steps_seen == {3: 1}


def test_a_reader_that_leaves_early_leaves_a_state_to_go_on_from(streaming, tmp_path) -> None:
    state = tmp_path / "state.npz"
    with running(streaming, "--state", state) as process:
        answers = [ask(process, GOOD), ask(process, GOOD)]
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(GOOD * 3 + '{"id": 5, "x": [1, 2]}\n')
            process.stdin.flush()
        process.wait(10)
    answers += call(streaming, "--state", state, given=GOOD)[0]
    assert_answers(answers, expected(streaming, np.float32([[1, 2]] * 3), [3] * 3))


def test_an_interruption_without_a_state_says_so(streaming, steps) -> None:
    with running(streaming) as process:
        ask(process, GOOD)
        time.sleep(0.3)  # by now it waits for the next line; elsewhere the signal mostly comes before it does
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 143
        assert process.stderr.read() == "keepdrop: interrupted; no state is kept without --state\n"


def test_a_kill_loses_the_steps_since_the_last_save_and_no_more(streaming, steps, tmp_path) -> None:
    state = tmp_path / "state.npz"
    options = [streaming, "--state", state, "--save-every", 3]
    lines = json_of(steps, IDS).splitlines(keepends=True)
    with running(*options) as process:
        first = [ask(process, line) for line in lines[:8]]
        process.kill()
        process.wait(10)
    (tmp_path / ".state.npz.tmp").write_bytes(b"half a file, as a kill amid a save leaves it")
    (tmp_path / ".state.npz.old.tmp").write_bytes(b"another's")
    assert sum(keepdrop.load(streaming).resume(state).steps_seen.values()) == 6
    second, error = call(*options, given="".join(lines[6:]))
    assert "goes on from" in error
    assert_answers(first[:6] + second, expected(streaming, steps, IDS))
    assert first[6:] == second[:2]
    assert sorted(path.name for path in tmp_path.glob("*state*")) == [".state.npz.old.tmp", "state.npz"]


def test_a_kill_at_any_moment_leaves_a_whole_file(streaming, tmp_path) -> None:
    state = tmp_path / "state.npz"
    answered = 0
    for answers in (2, 5, 17, 40):
        with running(streaming, "--state", state, "--save-every", 1, "--samples", 300, stderr=None) as process:
            process.stdin.write("a,b\n" + "1,1\n" * 400)
            process.stdin.flush()
            for _ in range(answers):
                answered = json.loads(process.stdout.readline())["step"]
            process.kill()  # whatever it is at by now
            process.wait(10)
        (kept,) = keepdrop.load(streaming).resume(state).steps_seen.values()
        assert kept >= answered - 1


def test_a_reader_that_leaves_ends_it_quietly(streaming, tmp_path) -> None:
    state = tmp_path / "state.npz"
    with running(streaming, "--state", state) as process:
        ask(process, GOOD)
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(GOOD * 3)
            process.stdin.flush()
        process.wait(10)
        assert process.stderr.read() == ""
        assert process.returncode == 1
    # The second answer was not delivered: it is given again.
    assert keepdrop.load(streaming).resume(state).steps_seen == {3: 1}


# An artifact that knows its table

TABLE = {
    "inputs": {"window": {"columns": ["temp", "wind"]}},
    "outputs": {"forecast": {"target": "temp", "unit": "°C", "ahead": 1}},
    "time": {"column": "when", "step": "1h"},
    "id": "site",
}


@pytest.fixture
def with_table(tmp_path):
    """The forecaster, [batch, 5, 2], with a table."""

    def written(**changes) -> Path:
        data = (Path(__file__).parent / "data" / "forecaster.onnx").read_bytes()
        path = tmp_path / "tabled.onnx"
        path.write_bytes(with_properties(data, {TABLE_KEY: json.dumps({**TABLE, **changes})}))
        return path

    return written


def test_an_artifact_that_knows_its_table_needs_no_options(with_table) -> None:
    readings = np.random.default_rng(2).normal(size=(7, 2)).astype(np.float32)
    plain, _ = call(with_table(), "--columns", "a,b", "--samples", 4, given=csv_of(readings))
    lines = ["wind [m/s],site,note,when,temp [°C]"]
    lines += [f"{wind},north,-,2025-01-01T0{n}:00Z,{temp}" for n, (temp, wind) in enumerate(readings)]
    answers, error = call(with_table(), "--samples", 4, given="\n".join([*lines, lines[-1]]))
    assert error == "keepdrop: 1 readings were no newer than their row's last\n"
    assert [answer["id"] for answer in answers] == ["north"] * 7 and answers[-1]["when"] == "2025-01-01T06:00Z"
    objects = [
        {"site": 0, "when": f"2025-01-01T0{n}:00Z", "temp": float(temp), "wind": float(wind), "by": 1}
        for n, (temp, wind) in enumerate(readings)
    ]
    of_json, _ = call(with_table(), "--samples", 4, given="".join(json.dumps(each) + "\n" for each in objects))
    assert [each["forecast_mean"] for each in of_json] == [each["forecast_mean"] for each in plain]
    assert of_json[0]["by"] == 1 and "temp" not in of_json[0]
    assert "has no column 'temp'" in refused(with_table(), given="wind,site,when\n1,a,2025-01-01T00:00Z\n")
    assert "is in °F" in refused(with_table(), given="temp [°F],wind,site,when\n1,1,a,2025-01-01T00:00Z\n")


def test_a_pipe_is_read_as_a_file_is(with_table) -> None:
    """Separators, decimal commas, and columns and formats of times that the table does not have."""
    table = {"time": {"column": "when", "step": "1d"}}
    lines = ["temp;wind;site;clock", *(f"{n},5;1;a;0{n + 1}.02.2025" for n in range(5))]
    options = ("--samples", 4, "--time", "clock", "--time-format", "%d.%m.%Y")
    found, _ = call(with_table(**table), *options, given="\n".join(lines))
    points = [line.replace(",", ".").replace(";", ",").replace("clock", "when") for line in lines]
    wanted, _ = call(with_table(**table), "--samples", 4, "--time-format", "%d.%m.%Y", given="\n".join(points))
    assert [each["forecast_mean"] for each in found] == [each["forecast_mean"] for each in wanted]
    assert found[0]["clock"] == "01.02.2025" and found[-1]["forecast_mean"] is not None
    whole = ["temp;wind;site;clock", "1;1;a;01.02.2025", "1,5;1;a;02.02.2025"]
    assert len(call(with_table(**table), *options, "--decimal", ",", given="\n".join(whole))[0]) == 2
    assert "--time-format is of --time" in call(with_table(), "--columns", "a,b", "--time-format", "s", code=2)[1]


def test_truths_have_the_decimals_of_the_readings() -> None:
    reader = Messages((Tensor("x", "float32", (None, None, 2)),), MessageColumns(columns=("a", "b"), truths=("y",)))
    assert reader.read(1, b"a;b;y\n") is None
    assert reader.read(2, b"1,5;2;3,25\n").truths == {"y": 3.25}


def test_what_a_table_computes_from_the_time_is_computed(with_table) -> None:
    table = {"inputs": {"window": {"columns": [{"cyclic": "hour"}]}}, "id": None}
    lines = ["temp,when", *(f"{n},2025-01-01T{n:02}:00Z" for n in range(7))]
    answers, _ = call(with_table(**table), "--samples", 4, given="\n".join(lines))
    angle = 2 * np.pi * np.arange(7) / 24
    wanted, _ = call(
        with_table(), "--columns", "a,b", "--samples", 4, given=csv_of(np.stack([np.sin(angle), np.cos(angle)], axis=1))
    )
    assert [each["forecast_mean"] for each in answers] == [each["forecast_mean"] for each in wanted]
