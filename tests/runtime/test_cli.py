import importlib
import importlib.metadata
import json
import signal
import subprocess
import sys
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

import keepdrop
from keepdrop import cli
from keepdrop.artifact.metadata import OutputCheck
from keepdrop.cli import progress, spelling
from keepdrop.files import outputs


def call(*arguments, code: int = 0):
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture
def data(tmp_path, x):
    np.save(tmp_path / "x.npy", x)
    return tmp_path / "x.npy"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out.npz"


def refused(*arguments) -> str:
    result = call(*arguments, code=1)
    assert result.stdout == ""
    assert result.stderr.startswith("keepdrop: ")
    assert "Traceback" not in result.stderr
    return result.stderr


def test_predict_writes_what_the_model_predicts(one, data, out, x) -> None:
    result = call("predict", one, data, "-o", out, "--samples", 20, "--seed", 7, "--interval", 0.9, "--interval", 0.5)
    expected = keepdrop.load(one).predict(x, samples=20, seed=7)
    with np.load(out) as written:
        assert sorted(written) == ["high_0.5", "high_0.9", "low_0.5", "low_0.9", "mean", "row", "std"]
        np.testing.assert_array_equal(written["mean"], expected.mean)
        np.testing.assert_array_equal(written["std"], expected.std)
        np.testing.assert_array_equal([written["low_0.9"], written["high_0.9"]], expected.interval(0.9))
    assert "7 rows x 20 samples, seed 7" in result.stdout
    assert f"wrote {out}" in result.stdout
    assert result.stderr == ""


def test_first_row_numbers_the_rows(one, data, out, x) -> None:
    call("predict", one, data, "-o", out, "--first-row", 40)
    with np.load(out) as written:
        np.testing.assert_array_equal(written["mean"], keepdrop.load(one).predict(x, rows=np.arange(40, 47)).mean)
        assert not np.array_equal(written["mean"], keepdrop.load(one).predict(x).mean)


def test_keep_samples(one, data, out, closed, x) -> None:
    call("predict", one, data, "-o", out, "--keep-samples", "--interval", 0.9, "--threads", 2)
    with np.load(out) as written:
        np.testing.assert_array_equal(written["samples"], closed(x, 5))
        assert "low_0.9" in written


def test_several_outputs_are_written_by_name(two, tmp_path, out, x) -> None:
    np.savez(tmp_path / "in.npz", x=x, ids=np.ones((7, 4), np.int32))
    call("predict", two, tmp_path / "in.npz", "-o", out, "--interval", 0.9)
    with np.load(out) as written:
        named = [f"{o}/{k}" for o in "ny" for k in ("high_0.9", "low_0.9", "mean", "std")]
        assert sorted(written) == sorted([*named, "row"])


def test_json_is_one_object(one, data, out) -> None:
    report = json.loads(call("predict", one, data, "-o", out, "--json", "--interval", 0.9).stdout)
    assert (report["rows"], report["samples"], report["seed"], report["output"]) == (7, 5, 0, str(out))
    assert set(report["outputs"]["y"]) == {"mean", "std", "low_0.9", "high_0.9"}
    lone = json.loads(call("predict", one, data, "-o", out, "--json", "--samples", 1).stdout)
    assert lone["outputs"]["y"]["std"] is None  # NaN is not JSON


def test_inspect_tells_what_is_random_and_what_was_verified(one, metadata) -> None:
    text = call("inspect", one).stdout
    for part in (
        "x  float32 [batch, 3]",
        "y  float32 [samples, batch, 3]",
        "keepdrop 0.1.0, Keras 3.15.1, contract 1",
        metadata.source_sha256,
        "changes           the batch size was lifted\n                  a layer was renamed",
        "4 rows x 16 samples, seed 0, random inputs; tolerance 1e-05 + 0.0001 relative",
        "y: largest difference 1.5e-07, relative 3e-07",
    ):
        assert part in text
    lines = [line.split() for line in text.splitlines()]
    assert ["layer", "argument", "kind", "rate", "shape", "draws"] in lines
    assert ["lstm/cell", "dropout", "dropout", "0.25", "[3]", "2"] in lines
    assert ["noise", "call", "normal", "[any,", "2]", "1"] in lines


def test_inspect_tells_what_was_held_against_float64_and_what_is_nan() -> None:
    compared = importlib.import_module("keepdrop.cli.inspect")._compared
    lines = compared(OutputCheck("y", 0.5, 0.25, nan=3, from_float64=1e-6, keras_from_float64=2e-6))
    assert lines[1:] == [
        "  beyond the tolerance, and as near to float64 as Keras is: 1e-06 of a sample away, Keras 2e-06",
        "  3 numbers are NaN in both: the model overflows on the inputs that were compared",
    ]
    assert compared(OutputCheck("y", 0.5, 0.25)) == lines[:1]


def test_inspect_json_is_the_metadata(one, metadata) -> None:
    fields = json.loads(call("inspect", one, "--json").stdout)
    assert fields.pop("file") == str(one)
    assert fields.pop("opset") == 18 and "Add" in fields.pop("operators")
    assert fields == json.loads(metadata.to_json())


def test_refusals_are_one_message_and_exit_code_1(one, two, data, out, tmp_path) -> None:
    assert "does not exist" in refused("inspect", tmp_path / "none.onnx")
    assert "does not open as an ONNX file" in refused("inspect", data)
    assert "cannot read" in refused("predict", one, tmp_path / "none.npy", "-o", out)
    assert "the model has 2 inputs" in refused("predict", two, data, "-o", out)
    for option, value in (("--samples", 0), ("--threads", 0), ("--seed", 2**64)):
        assert (
            f"'{option}': {value} is not in the range"
            in call("predict", one, data, "-o", out, option, value, code=2).stderr
        )
    assert "--first-row is" in refused("predict", one, data, "-o", out, "--first-row", 2**63 - 3)
    assert "is a directory" in refused("predict", one, data, "-o", tmp_path)
    assert "make it first" in refused("predict", one, data, "-o", tmp_path / "none" / "out.npz")
    assert not out.exists()


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 torn"])
def test_data_that_is_no_array_is_refused(one, out, tmp_path, content: bytes) -> None:
    (tmp_path / "bad.npy").write_bytes(content)
    assert "give a .npy file of numbers" in refused("predict", one, tmp_path / "bad.npy", "-o", out)


@pytest.mark.parametrize("name", ["pickled.npy", "pickled.npz"])
def test_pickles_are_not_opened(one, out, tmp_path, name: str) -> None:
    objects = np.array([{"a": 1}], object)
    if name.endswith("npy"):
        np.save(tmp_path / name, objects)
    else:
        np.savez(tmp_path / name, x=objects)
    assert "give a .npy file of numbers" in refused("predict", one, tmp_path / name, "-o", out)


@pytest.mark.parametrize("shape", [(), (0, 3), (3,)])
def test_data_of_another_shape_is_refused(one, out, tmp_path, shape) -> None:
    np.save(tmp_path / "odd.npy", np.zeros(shape, np.float32))
    refused("predict", one, tmp_path / "odd.npy", "-o", out)


def test_usage_is_exit_code_2(one, data, out) -> None:
    for arguments in (["nonsense"], ["predict", one, data], ["predict", one, data, "-o", out, "--interval", "1.5"]):
        assert "Usage:" in call(*arguments, code=2).stderr


def test_what_was_meant_is_proposed(one, data, out, tmp_path) -> None:
    for value, meant in (("90", "give 0.9"), ("90%", "give 0.9"), ("1.5", "give 0.015")):
        told = call("predict", one, data, "-o", out, "--interval", value, code=2).stderr
        assert f"{value} is not between 0 and 1" in told and meant in told
    assert "give 0.95" in call("predict", one, data, "-o", out, "--decide", 1, "--confidence", 95, code=2).stderr
    for verb in (["predict", data, one, "-o", out], ["stream", data], ["bench", data]):
        assert "the artifact, which comes first, is an .onnx file" in refused(*verb)
    for verb in (["predict", "m.keras", data, "-o", out], ["inspect", "m.h5"], ["stream", "m.keras"]):
        assert f"keepdrop export {verb[1]} -o m.onnx" in refused(*verb)


def test_messages_speak_of_the_options_of_the_verb_at_hand() -> None:
    @click.command()
    @click.option("--memory")
    @click.option("--id", "id_column")
    @click.option("--interval", "levels")
    def verb() -> None: ...

    for message, read in {
        "give memory= more": "give --memory more",
        "see id_column= or id=": "see --id or --id",
        "levels= was 1; window= stays": "--interval was 1; window= stays",
        "memory=5 or memory='5 MB'": "--memory 5 or --memory 5 MB",
        "predict(memory=5) and f(x, memory=(1, 2))": "predict(memory=5) and f(x, memory=(1, 2))",
    }.items():
        assert spelling.spelled(message, verb) == read


def test_how_long_it_will_take_is_said_before(out, monkeypatch) -> None:
    artifact = Path(__file__).parent / "data" / "forecaster.onnx"  # which knows what a sample costs
    np.save(out.with_name("x.npy"), np.zeros((9, 5, 2), np.float32))
    monkeypatch.setattr(keepdrop.Model, "predict", lambda *arguments, **options: signal.raise_signal(signal.SIGINT))
    arguments = ("predict", artifact, out.with_name("x.npy"), "-o", out, "--samples")
    told = call(*arguments, 99_999_999_999, code=130).stderr
    seconds = 9 * 99_999_999_999 * keepdrop.load(artifact).metadata.cost.sample
    assert f"this will take about {seconds / 86400:.1f} days of one thread" in told
    assert "this will take" not in call(*arguments, 100, code=130).stderr


def test_one_sample_in_its_time_has_no_spread(one, data, out) -> None:
    said = call("predict", one, data, "-o", out, "--deadline-ms", 1e-6).stdout
    assert "7 rows got one sample in their time, so that their standard deviation is unknown" in said
    assert "one sample" not in call("predict", one, data, "-o", out, "--deadline-ms", 1e4, "--max-samples", 9).stdout


@pytest.mark.skipif(sys.platform != "linux", reason="/dev/full is Linux'")
def test_a_full_disk_behind_standard_output_is_one_message(one, data, out) -> None:
    for target in (out, "-"):
        command = [sys.executable, "-c", "from keepdrop.cli import main; main()", "predict", one, data, "-o", target]
        with open("/dev/full", "w") as full:
            ended = subprocess.run([str(part) for part in command], stdout=full, stderr=subprocess.PIPE, text=True)
        if target == out:
            assert (
                ended.stderr
                == "keepdrop: cannot write to standard output (No space left on device); make room for it\n"
            )
        assert (ended.returncode, "Traceback" in ended.stderr) == (1, False)


def test_a_closed_standard_input_is_told(one) -> None:
    code = "import os; os.close(0); import sys; sys.stdin = None; from keepdrop.cli import main; main()"
    command = [sys.executable, "-c", code, "predict", str(one), "-"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr.split(";")[0]) == (1, "keepdrop: standard input is closed")


def test_a_failed_write_leaves_the_older_file(one, data, out, tmp_path, monkeypatch) -> None:
    def torn(file, work) -> None:
        file.write(b"half")
        raise OSError("disk full")

    out.write_bytes(b"older")
    before = sorted(tmp_path.iterdir())
    monkeypatch.setitem(outputs.WRITERS, ".npz", torn)
    assert "disk full" in refused("predict", one, data, "-o", out)
    assert out.read_bytes() == b"older"
    assert sorted(tmp_path.iterdir()) == before
    monkeypatch.undo()
    call("predict", one, data, "-o", out)
    assert out.read_bytes() != b"older"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(("interrupt", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_is_one_line_and_a_shells_exit_code(one, data, monkeypatch, interrupt, code) -> None:
    monkeypatch.setattr(keepdrop.Model, "predict", lambda *arguments, **options: signal.raise_signal(interrupt))
    before = signal.getsignal(signal.SIGTERM)
    result = call("bench", one, "--data", data, code=code)
    assert result.stderr == "keepdrop: interrupted; nothing was written\n"
    assert signal.getsignal(signal.SIGTERM) == before


def test_version() -> None:
    assert call("--version").stdout == f"keepdrop, version {keepdrop.__version__}\n"


@pytest.mark.parametrize("command", [[], ["inspect"], ["predict"], ["bench"]])
def test_help_ends_in_an_example(command) -> None:
    text = call(*command, "--help").stdout
    assert "Example:\n    keepdrop " in text


def no_exporter(monkeypatch, found=()) -> None:
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda **query: found)


@pytest.mark.parametrize("arguments", [["export"], ["export", "a.keras", "-o", "b"], ["verify", "--help"]])
def test_without_the_exporter_its_verbs_say_what_to_install(monkeypatch, arguments) -> None:
    no_exporter(monkeypatch)
    assert "install keepdrop-exporter 0.1.0 on a workstation" in refused(*arguments)


def test_the_exporters_verbs_are_loaded_only_when_called(monkeypatch) -> None:
    loads = []

    @click.command()
    @click.argument("file")
    def export(file: str) -> None:
        """The real help."""
        if file == "bad":
            raise keepdrop.KeepdropError("no good")
        click.echo(f"exported {file}")

    class Point:
        def load(self):
            loads.append(self)
            return export

    no_exporter(monkeypatch, [Point()])
    text = call("--help").stdout
    assert "export" in text
    assert "verify" in text
    assert loads == []
    assert call("export", "a.keras").stdout == "exported a.keras\n"
    assert len(loads) == 1
    assert "The real help." in call("export", "--help").stdout
    assert refused("export", "bad") == "keepdrop: no good\n"
    call("export", code=2)


def test_an_exporter_that_does_not_import_is_told(monkeypatch) -> None:
    class Point:
        def load(self):
            raise ImportError("no tensorflow here")

    no_exporter(monkeypatch, [Point()])
    assert "does not import (no tensorflow here)" in refused("export", "a.keras")


def test_progress_goes_to_a_terminal_alone(monkeypatch, capsys) -> None:
    assert progress.bar(10, samples=5) is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(progress, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(progress, "REDRAW_SECONDS", 0.0)
    shown = progress.bar(10, samples=5)
    shown.done(25)
    shown.clear()
    captured = capsys.readouterr()
    assert captured.err.startswith("\r 50% [###############---------------] 5 of 10 rows, ")
    assert captured.err.endswith(" \r")
    assert captured.out == ""


def test_progress_tells_rate_and_time_left() -> None:
    shown = progress.Bar(10_000, samples=100, before=4_000)
    shown.done(100 * 2_000)
    assert shown.text(100.0) == f" 60% [{'#' * 18}{'-' * 12}] 6,000 of 10,000 rows, 20 rows/s, 0:03:20 left"
    endless = progress.Bar(None, samples=100)
    endless.done(100 * 3)
    assert endless.text(2.0) == "3 rows, 1.5 rows/s"
