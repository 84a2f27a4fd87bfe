"""keepdrop calibrate and keepdrop evaluate, on files."""

import csv
import json
import math
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner, Result

import keepdrop
from keepdrop.artifact.metadata import TABLE_KEY
from keepdrop.artifact.properties import with_properties
from keepdrop.cli import main


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object, code: int = 0) -> Result:
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        assert result.exit_code == code, result.output + str(result.exception)
        return result

    return run


@pytest.fixture
def readings(observed):
    """Writes lines of level, spread, and what was observed: the step h of line t stands in line t + h, column y."""

    def readings(
        path: str, n: int, seed: int = 0, skip: tuple[int, ...] = (), ids: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        x, y = observed(n, seed)
        truth = np.full(n, 20.0)
        truth[2:] = y[:-2, 1]  # two lines ahead of what step 2 forecasts
        start = np.datetime64("2012-03-01T00:00") + np.timedelta64(400 * seed, "h")
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["time", "station", "level", "spread", "y"])
            for t in range(n):
                if t not in skip:
                    writer.writerow([start + np.timedelta64(t, "h"), f"s{t * ids // n}", *x[t], truth[t]])

    return readings


COLUMNS = ("--columns", "level,spread", "--time", "time")


def test_targets_of_an_array(run, horizon_path, observed) -> None:
    x, y = observed(600)
    np.save("x.npy", x), np.save("y.npy", y)
    told = run("calibrate", horizon_path, "x.npy", "--targets", "y.npy", "-o", "calibrated.onnx").output
    assert "y: calibrated on 600 rows (about 600 effective)" in told and "wrote calibrated.onnx" in told
    expected = keepdrop.calibrate(keepdrop.load(horizon_path), x, y).calibration
    record = keepdrop.load("calibrated.onnx").calibration
    assert (record.values, record.source) == (expected.values, "x.npy")
    assert "signed scores of 600 rows" in run("inspect", "calibrated.onnx").output
    assert json.loads(run("inspect", "calibrated.onnx", "--json").output)["calibration"]["samples"] == 200
    run("calibrate", "calibrated.onnx", "--remove", "-o", "plain.onnx")
    assert keepdrop.load("plain.onnx").calibration is None
    assert "there is nothing to remove" in run("calibrate", "plain.onnx", "--remove", "-o", "again.onnx", code=1).output


def test_targets_of_the_lines_ahead(run, horizon_path, readings, write_step) -> None:
    """One output step whose target is two lines later, with a gap in the times and two series."""
    step = write_step(horizon_path)
    readings("spring.csv", 500, skip=(250,), ids=2)
    ahead = (*COLUMNS, "--target", "y", "--ahead", 2)
    told = json.loads(
        run(
            "calibrate",
            step,
            "spring.csv",
            *COLUMNS,
            "--id",
            "station",
            "--target",
            "y",
            "--ahead",
            2,
            "-o",
            "c.onnx",
            "--json",
        ).output
    )
    # Two series end two lines early each; line 250 is not there, and lines 248 and 249 would meet 251 and 252: they are
    # the last of the first series here.
    assert told["calibration"]["rows"] == 495
    assert told["calibration"]["series"] == 2
    assert told["calibration"]["first"] == "2012-03-01T00:00:00"
    run("calibrate", step, "spring.csv", *ahead, "-o", "one.onnx")
    record = keepdrop.load("one.onnx").calibration
    assert record.rows == 495 and record.series is None  # 497 lines have one two lines ahead, two of them over the gap


def test_an_artifact_that_knows_its_table_asks_nothing(run, horizon_path, readings, write_step) -> None:
    table = keepdrop.Table(
        {"x": {"columns": ["level", "spread"]}},
        {"y": {"target": "y", "ahead": 2, "unit": "K"}},
        time={"column": "time", "step": "1h"},
        id="station",
    )
    step = write_step(horizon_path)
    known = with_properties(step.read_bytes(), {TABLE_KEY: table.to_json()})
    Path("known.onnx").write_bytes(known)
    readings("spring.csv", 500, ids=2)
    run("calibrate", "known.onnx", "spring.csv", "-o", "c.onnx")
    run("calibrate", step, "spring.csv", *COLUMNS, "--id=station", "--target=y", "--ahead=2", "-o", "told.onnx")
    found, told = (keepdrop.load(name).calibration for name in ("c.onnx", "told.onnx"))
    assert found == told and found.series == 2 and found.rows == 496
    assert keepdrop.load("c.onnx").table is not None
    judged = json.loads(run("evaluate", "c.onnx", "spring.csv", "--json").output)
    assert [part["of"] for part in judged["outputs"][0]["parts"]["series"]] == ["s0", "s1"]
    assert "y [K]: 496 rows with a target" in run("evaluate", "c.onnx", "spring.csv").output
    run("predict", "c.onnx", "spring.csv", "--adapt", "--interval", "0.9", "-o", "table.csv")
    options = (*COLUMNS, "--id=station", "--adapt", "--target=y", "--ahead=2", "--interval=0.9")
    run("predict", "told.onnx", "spring.csv", *options, "-o", "told.csv")
    with open("table.csv") as table_file, open("told.csv") as told_file:
        of_table, of_told = list(csv.DictReader(table_file)), list(csv.DictReader(told_file))
    low = next(name for name in of_table[0] if "low_0.9" in name)
    assert [row[low] for row in of_table] == [row["y_low_0.9"] for row in of_told]


def test_evaluation_and_the_gate(run, horizon_path, readings, write_step) -> None:
    step = write_step(horizon_path)
    readings("spring.csv", 600), readings("summer.csv", 500, 1)
    ahead = (*COLUMNS, "--target", "y", "--ahead", 2)
    run("calibrate", step, "spring.csv", *ahead, "-o", "c.onnx", "--report", "spring.html")
    told = run("evaluate", "c.onnx", "summer.csv", *ahead, "--require", "0.85", "--report", "summer.html").output
    assert "raw coverage" in told and "calibrated coverage" in told and "by spread of the samples" in told
    figures = json.loads(run("evaluate", "c.onnx", "summer.csv", *ahead, "--json").output)["outputs"][0]["values"]
    assert figures["raw"]["levels"][2]["coverage"] < 0.8 < 0.86 < figures["calibrated"]["levels"][2]["coverage"]
    refused = run("evaluate", step, "summer.csv", *ahead, "--require", "0.85", code=1)
    assert re.search(
        r"90% intervals hold [345]\d\.\d% of what was observed, and --require asks for 85.0%", refused.output
    )
    for name in ("spring.html", "summer.html"):
        page = Path(name).read_text()
        assert page.count("<svg") == 5 and "<script" not in page and "http" not in page
        for picture in re.findall("<svg.*?</svg>", page, re.S):
            drawn = ElementTree.fromstring(picture)
            assert all(
                math.isfinite(float(n)) for p in drawn.iter("polyline") for n in re.split("[ ,]", p.get("points"))
            )


def test_predictions_are_for_an_observation(run, horizon_path, observed) -> None:
    x, y = observed(600)
    np.save("x.npy", x), np.save("y.npy", y)
    run("calibrate", horizon_path, "x.npy", "--targets", "y.npy", "-o", "c.onnx")
    new, _ = observed(40, 9)
    np.save("new.npy", new)
    told = run("predict", "c.onnx", "new.npy", "-o", "out.npz", "--interval", "0.9", "--above", "25", "--below", "3.5")
    assert "y: intervals are for an observation, calibrated on 600 rows (about 600 effective)" in told.output
    o = keepdrop.load("c.onnx").predict(new).observation
    found = np.load("out.npz")
    np.testing.assert_allclose(found["low_0.9"], o.interval(0.9)[0], rtol=1e-6)
    # The median that the command keeps is rounded to float32.
    np.testing.assert_allclose(found["above_25"], o.probability(above=25), rtol=0, atol=1e-5)
    np.testing.assert_allclose(found["below_3.5"], o.probability(below=3.5), rtol=0, atol=1e-5)
    few = run("predict", "c.onnx", "new.npy", "-o", "few.csv", "--interval", "0.9", "--samples", "20", "--json")
    report = json.loads(few.stdout)
    assert report["intervals"]["y"].startswith("for an observation")
    assert "keepdrop: 20 samples where the calibration had 200" in few.stderr and "UserWarning" not in few.stderr
    raw = run("predict", horizon_path, "new.npy", "-o", "raw.csv", "--interval", "0.9").output
    assert "y: intervals are of the samples; where observations fall is measured by keepdrop calibrate" in raw
    refused = run("predict", horizon_path, "new.npy", "-o", "no.csv", "--above", "25", code=1)
    assert "is not calibrated" in refused.output and not Path("no.csv").exists()


def test_intervals_adapt_to_the_truths_known_by_each_line(run, horizon_path, readings, write_step) -> None:
    """Errors grow sixfold half way; the answers to the first rows do not know of it, whatever the file holds."""
    step, ahead = write_step(horizon_path), (*COLUMNS, "--target", "y", "--ahead", 2)
    readings("spring.csv", 400)
    run("calibrate", step, "spring.csv", *ahead, "-o", "c.onnx")
    readings("year.csv", 1200, 1)
    with open("year.csv") as file:
        lines = list(csv.DictReader(file))
    for i, line in enumerate(lines[600:], 600):
        line["y"] = float(lines[i - 2]["level"]) + 6 * (float(line["y"]) - float(lines[i - 2]["level"]))
    for name, kept in (("year.csv", lines), ("half.csv", lines[:700])):
        with open(name, "w", newline="") as file:
            writer = csv.DictWriter(file, lines[0])
            writer.writeheader(), writer.writerows(kept)
    covered = {}
    truth = np.array([float(line["y"]) for line in lines])
    for way, options in (("static", COLUMNS), ("adapting", (*ahead, "--adapt"))):
        run("predict", "c.onnx", "year.csv", *options, "-o", f"{way}.npz", "--interval", "0.9")
        out = np.load(f"{way}.npz")
        covered[way] = ((out["low_0.9"][:-2, 0] <= truth[2:]) & (truth[2:] <= out["high_0.9"][:-2, 0]))[700:].mean()
    assert covered["static"] < 0.5 and covered["adapting"] > 0.84
    told = run("predict", "c.onnx", "half.csv", *ahead, "--adapt", "-o", "half.npz", "--interval", "0.9", "--batch", 37)
    assert "learning from the truths known by each line" in told.output
    np.testing.assert_array_equal(np.load("half.npz")["low_0.9"], np.load("adapting.npz")["low_0.9"][:700])
    assert "has none" in run("predict", step, "half.csv", *ahead, "--adapt", "-o", "x.npz", code=1).output
    assert (
        "learns from --target COLUMN"
        in run("predict", "c.onnx", "half.csv", *COLUMNS, "--adapt", "-o", "x.npz", code=2).output
    )


def test_classes(run, classifier, classified) -> None:
    x, y = classified(500)
    Path("classes.onnx").write_bytes(classifier.to_bytes())
    np.save("x.npy", x), np.savez("y.npz", **y)
    told = run("calibrate", "classes.onnx", "x.npy", "--targets", "y.npz", "-o", "c.onnx", "--report", "r.html").output
    assert "temperature 0." in told and "slope" in told
    told = run("evaluate", "c.onnx", "x.npy", "--targets", "y.npz").output
    assert "labels a set" in told and "ECE" in told
    run("predict", "c.onnx", "x.npy", "-o", "out.npz", "--interval", "0.9")
    found = np.load("out.npz")
    assert found["mood/probability"].shape == found["mood/set_0.9"].shape == (500, 3)
    assert found["alarm/set_0.9"].shape == (500, 3, 2)
    run("predict", "c.onnx", "x.npy", "-o", "out.csv", "--interval", "0.9")


def test_classes_may_be_told_by_the_labels_of_the_table(run, classifier, classified) -> None:
    """The same as by their numbers; a column of them that holds another name is told by its line."""
    x, y = classified(300)
    labels = np.array(["calm", "glad", "sad"])
    table = keepdrop.Table(["a", "b", "c"], {"mood": {"target": "felt", "labels": labels.tolist()}})
    Path("classes.onnx").write_bytes(with_properties(classifier.to_bytes(), {TABLE_KEY: table.to_json()}))
    with open("felt.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["felt", "a", "b", "c"])
        writer.writerows([labels[m] if i else "", *x[i]] for i, m in enumerate(y["mood"].astype(int)))
    run("calibrate", "classes.onnx", "felt.csv", "-o", "c.onnx")
    model = keepdrop.load("classes.onnx")
    by_number = keepdrop.calibrate(model, x, {"mood": np.where(np.arange(300) > 0, y["mood"], np.nan)}, level=0.9)
    assert keepdrop.load("c.onnx").calibration.classes == by_number.calibration.classes
    named = [None, *labels[y["mood"].astype(int)][1:]]
    assert keepdrop.calibrate(model, x, {"mood": named}).calibration.classes == by_number.calibration.classes
    told = run("predict", "c.onnx", "felt.csv", "-o", "out.csv", "--interval", 0.9).output
    assert "mood: intervals are of the samples, and label sets for an observation, calibrated on 299 rows" in told
    Path("felt.csv").write_text(Path("felt.csv").read_text().replace("sad,", "angry,", 1))
    line = next(i for i, text in enumerate(Path("felt.csv").read_text().splitlines(), 1) if "angry" in text)
    told = run("evaluate", "c.onnx", "felt.csv", code=1).output
    assert f"felt.csv, line {line}, column 'felt' holds 'angry', none of the classes ['calm', 'glad', 'sad']" in told
    with pytest.raises(keepdrop.InputError, match="'angry', none of the classes"):
        keepdrop.calibrate(model, x, {"mood": ["angry"] * 300})


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("x.csv", "-o", "c.onnx"), "Say what was observed"),
        (("x.csv", "--target", "y", "-o", "c.onnx"), "--target needs --ahead"),
        (("-o", "c.onnx"), "Missing argument 'LABELLED...'"),
        (("x.csv", "--target", "y", "--ahead", "soon", "-o", "c.onnx"), "'soon' is not a number of lines"),
        (("x.csv", "--target", "z=y", "--ahead", "1..4", "-o", "c.onnx"), "there is no output 'z'"),
        (("x.csv", "--target", "y", "--ahead", "1..3", "-o", "c.onnx"), "has 4 steps, and --ahead names 3"),
        (("x.csv", "--target", "q", "--ahead", "1..4", "-o", "c.onnx"), "has no column 'q'"),
        (("x.csv", "--target", "y", "--ahead", "1..4", "-o", "c.txt"), "its suffix is none of .onnx"),
        (("x.csv", "--target", "y", "--ahead", "1..4", "-o", "horizon.onnx"), "which would be lost"),
        (
            ("x.csv", "--target", "y", "--ahead", "1..4", "--trained-until", "2012-03-02", "-o", "c.onnx"),
            "the model was trained",
        ),
    ],
)
def test_what_does_not_fit_is_told(run, horizon_path, readings, arguments, text) -> None:
    Path("horizon.onnx").write_bytes(horizon_path.read_bytes())
    readings("x.csv", 100)
    result = CliRunner().invoke(main, ["calibrate", "horizon.onnx", *arguments, *COLUMNS])
    assert result.exit_code != 0 and text in " ".join(result.output.split())
    assert not Path("c.onnx").exists()


def test_nothing_that_is_read_or_written_is_overwritten(run, horizon_path, readings, observed) -> None:
    Path("horizon.onnx").write_bytes(horizon_path.read_bytes())
    readings("x.csv", 100)
    np.save("y.npy", observed(10)[1])
    Path("folder").mkdir()
    Path("folder/x.csv").hardlink_to("x.csv")
    ahead = (*COLUMNS, "--target", "y", "--ahead", "1..4")
    for data, target in (("x.csv", "x.csv"), ("folder", "folder/x.csv"), ("folder", "x.csv")):
        Path("report.html").unlink(missing_ok=True)
        Path("report.html").symlink_to(target)
        Path("c.onnx").unlink(missing_ok=True)
        Path("c.onnx").symlink_to(target)
        before = Path("x.csv").read_bytes()
        for arguments in (
            ("calibrate", "horizon.onnx", data, *ahead, "-o", "c.onnx"),
            ("calibrate", "horizon.onnx", data, *ahead, "-o", "new.onnx", "--report", "report.html"),
            ("evaluate", "horizon.onnx", data, *ahead, "--report", "report.html"),
        ):
            assert "is the input itself" in run(*arguments, code=1).output
        assert Path("x.csv").read_bytes() == before and not Path("new.onnx").exists()
    for verb in (("calibrate", "-o", "new.onnx"), ("evaluate",)):
        given = (*verb, "horizon.onnx", "x.csv", "--targets", "y.npy", "--report")
        assert "is the file of targets itself" in run(*given, "y.npy", code=1).output
        assert "is the artifact itself" in run(*given, "horizon.onnx", code=1).output
    one_name = ("calibrate", "horizon.onnx", "x.csv", *ahead, "-o", "a.html", "--report", "a.html")
    assert "is the calibrated artifact itself" in run(*one_name, code=1).output
