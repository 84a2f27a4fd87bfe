"""The verbs `export` and `verify`; how the command shows errors of ours is tested with the runtime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import keepdrop
from keepdrop.artifact.savedmodel import METADATA_ASSET
from keepdrop_exporter import LoadError, Report, VerifyError, cli


def _run(verb: Any, *arguments: object) -> Result:
    return CliRunner().invoke(verb, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "windows.npy"
    np.save(path, np.random.default_rng(0).standard_normal((6, 9, 3)))
    return path


def test_export(forecaster_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    result = _run(cli.export, forecaster_file, "-o", out, "--default-samples", 20, "--seed", 3, "--samples", 4)
    assert result.exit_code == 0, result.output
    metadata = keepdrop.load(out).metadata
    assert metadata.default_samples == 20
    assert (metadata.verified.seed, metadata.verified.samples) == (3, 4)
    for said in (
        str(out),
        "8 draws a row in lstm",
        "verified: 4 samples of 4 rows",
        "forecast: largest difference",
        "note:",
    ):
        assert said in result.stdout
    for stage in ("load", "plan", "trace", "convert", "verify", "cost"):
        assert f"] {stage}: " in result.stderr


def test_export_beside_the_model(forecaster_file: Path, tmp_path: Path) -> None:
    model = tmp_path / "copy.keras"
    model.write_bytes(forecaster_file.read_bytes())
    assert _run(cli.export, model).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"copy.keras", "copy.onnx"}


def test_export_json_is_one_object(forecaster_file: Path, tmp_path: Path, data: Path) -> None:
    result = _run(cli.export, forecaster_file, "-o", tmp_path / "out.onnx", "--json", "--data", data)
    assert result.exit_code == 0, result.output
    fields = json.loads(result.stdout)
    assert fields["path"] == str(tmp_path / "out.onnx") and fields["size"] == (tmp_path / "out.onnx").stat().st_size
    assert fields["draws_per_row"] == 8 and fields["verified"]["data"] == "given" and fields["notes"]


def test_verify(forecaster: Report, forecaster_file: Path) -> None:
    result = _run(cli.verify, forecaster_file, forecaster.path, "--rows", 2, "--samples", 3, "--seed", 5)
    assert result.exit_code == 0, result.output
    assert "verified: 3 samples of 2 rows (random inputs, seed 5)" in result.stdout
    assert "forecast: largest difference" in result.stdout


def test_verify_json_is_one_object(forecaster: Report, forecaster_file: Path, data: Path) -> None:
    result = _run(cli.verify, forecaster_file, forecaster.path, "--json", "--data", data)
    fields = json.loads(result.stdout)
    assert fields["data"] == "given" and [o["name"] for o in fields["outputs"]] == ["forecast"]


def test_data_by_input_name(sentence: Any, tmp_path: Path) -> None:
    sentence.model.save(tmp_path / "sentence.keras")
    np.savez(tmp_path / "data.npz", **sentence.data)
    arguments = [tmp_path / "sentence.keras", sentence.report.path, "--data", tmp_path / "data.npz"]
    result = _run(cli.verify, *arguments)
    assert result.exit_code == 0, result.output
    assert "given inputs" in result.stdout


def test_refusals_are_errors_of_ours(forecaster: Report, forecaster_file: Path, tmp_path: Path) -> None:
    """The command turns these into one message and exit code 1."""
    missing = _run(cli.export, tmp_path / "none.keras")
    assert missing.exit_code == 1 and isinstance(missing.exception, LoadError)
    exact = _run(cli.verify, forecaster_file, forecaster.path, "--atol", 0, "--rtol", 0)
    assert exact.exit_code == 1 and isinstance(exact.exception, VerifyError)
    assert exact.stdout == ""


@pytest.mark.parametrize(
    "verb, arguments",
    [
        (cli.export, []),
        (cli.export, ["model.keras", "--samples", "many"]),
        (cli.export, ["model.keras", "--data", "none.npy"]),
        (cli.verify, ["model.keras"]),
        (cli.verify, ["model.keras", "model.onnx", "--unknown"]),
    ],
)
def test_usage_errors(verb: Any, arguments: list[str]) -> None:
    result = _run(verb, *arguments)
    assert result.exit_code == 2 and "Usage:" in result.stderr and result.stdout == ""


def test_data_that_are_no_arrays(forecaster: Report, forecaster_file: Path, tmp_path: Path) -> None:
    (tmp_path / "data.npy").write_text("1,2,3")
    result = _run(cli.verify, forecaster_file, forecaster.path, "--data", tmp_path / "data.npy")
    assert result.exit_code == 2 and "data.npy: not an .npy or .npz file" in result.stderr


@pytest.mark.parametrize(
    "role, option",
    [
        ("the model", ()),
        ("the weights", ("--weights",)),
        ("the scaler of the inputs", ("--input-scaler",)),
        ("the scaler of the outputs", ("--output-scaler",)),
        ("the table", ("--table",)),
        ("the data", ("--data",)),
        ("the custom code", ("--custom",)),
    ],
)
@pytest.mark.parametrize("verb", [cli.export, cli.retrofit], ids=["export", "retrofit"])
def test_nothing_that_is_read_is_overwritten(verb: Any, role: str, option: tuple[str], tmp_path: Path) -> None:
    if verb is cli.retrofit and option in (("--table",), ("--data",)):
        return  # it takes none
    given = tmp_path / "given"
    given.write_text("{}")
    for link in (tmp_path / "out.onnx", tmp_path / "out.keras"):
        link.hardlink_to(given) if role == "the model" else link.symlink_to(given)
    source = [given] if role == "the model" else [tmp_path / "other.keras", *option, given]
    rates = ("--dropout", "a=0.1") if verb is cli.retrofit else ()
    result = _run(verb, *source, *rates, "-o", tmp_path / ("out.keras" if verb is cli.retrofit else "out.onnx"))
    assert result.exit_code == 1 and isinstance(result.exception, keepdrop.InputError)
    assert f", is {role} itself ({given}), which would be lost" in str(result.exception)
    assert given.read_text() == "{}"


def test_a_folder_that_holds_what_is_read_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "saved" / "assets").mkdir(parents=True)
    (tmp_path / "saved" / METADATA_ASSET).touch()
    inside = tmp_path / "saved" / "model.keras"
    inside.touch()
    result = _run(cli.export, inside, "-o", tmp_path / "saved")
    assert f"the artifact, {tmp_path / 'saved'}, holds the model ({inside}), which would be lost" in str(
        result.exception
    )


def test_one_name_for_two_outputs_is_refused(forecaster_file: Path, tmp_path: Path) -> None:
    (tmp_path / "vectors").symlink_to(tmp_path / "out.onnx")  # which is not there yet
    result = _run(cli.export, forecaster_file, "-o", tmp_path / "out.onnx", "--vectors", tmp_path / "vectors")
    assert "the folder of vectors" in str(result.exception) and "is the artifact itself" in str(result.exception)
    assert not (tmp_path / "out.onnx").exists()


@pytest.mark.parametrize("verb", [cli.export, cli.verify], ids=["export", "verify"])
def test_help_shows_an_example(verb: Any) -> None:
    result = _run(verb, "--help")
    assert result.exit_code == 0
    example = result.stdout.partition("Example")[2]
    assert f"keepdrop {verb.name} forecaster.keras" in " ".join(example.split())
    for option in verb.params:
        if option.opts[0].startswith("--"):
            assert option.opts[0] in result.stdout and option.help
