"""Files in, files out: every format gives what `Model.predict` gives for the same rows."""

import csv
import dataclasses
import io
import json
import sys
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner

import keepdrop
from keepdrop import cli
from keepdrop.artifact.metadata import Tensor
from keepdrop.files import sources, work
from keepdrop.files.fields import Field, N
from keepdrop.files.job import _spread

STEPS = 4


@pytest.fixture
def series(write, metadata, one_text) -> Path:
    """Takes x [batch, 4, 2] and gives y [samples, batch, 2] as the toy does, of the sums over steps."""
    text = one_text.replace("float[batch,3] x", "float[batch,4,2] x").replace(
        "[samples,batch,3] y", "[samples,batch,2] y"
    )
    text = text.replace("Mul(x, t3)", "Mul(total, t3)").replace(
        "xt =", "total = ReduceSum<keepdims = 0>(x, last)\n  xt ="
    )
    x, y = Tensor("x", "float32", (None, STEPS, 2)), Tensor("y", "float32", (None, None, 2))
    return write(text, dataclasses.replace(metadata, inputs=(x,), outputs=(y,)).to_json(), "series.onnx")


def call(*arguments, code: int = 0, stdin: str | None = None):
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments], input=stdin)
    assert result.exit_code == code, (result.output, result.exception)
    return result


def refused(*arguments, stdin: str | None = None) -> str:
    result = call(*arguments, code=1, stdin=stdin)
    assert result.stderr.startswith("keepdrop: ")
    assert len(result.stderr.splitlines()) == 1
    return result.stderr


def write_csv(path: Path, columns: dict) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def read(path: Path) -> dict[str, np.ndarray]:
    """The columns of a file that was written, by name, elements flat."""
    if path.suffix == ".csv":
        with open(path, newline="") as file:
            lines = list(csv.DictReader(file))
        return {name: np.array([float(line[name]) for line in lines], np.float32) for name in lines[0]}
    if path.suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        return {name: table[name].to_numpy() for name in table.column_names}
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        arrays = {name: np.array([row[name] for row in rows], np.float32) for name in rows[0]}
    else:
        loaded = np.load(path)
        arrays = {name if name in ("row", "position") else f"y_{name}": loaded[name] for name in loaded.files}
    flat = {}
    for name, array in arrays.items():
        if array.ndim == 1:
            flat[name] = array
        else:
            flat.update({f"{name}_{i}": array[:, i] for i in range(array.shape[1])})
    return flat


def assert_predicts(columns: dict, prediction, rows) -> None:
    """Exact: the toys' samples are whole numbers, and shortest decimals give the same float32 back."""
    np.testing.assert_array_equal(columns["row"], rows)
    low, high = prediction.interval(0.9)
    for name, values in {"mean": prediction.mean, "std": prediction.std, "low_0.9": low, "high_0.9": high}.items():
        for i in range(values.shape[1]):
            np.testing.assert_array_equal(columns[f"y_{name}_{i}"], values[:, i], err_msg=f"{name}_{i}")


# -- formats


OUTPUTS = [".npz", ".csv", ".jsonl", ".parquet"]


@pytest.mark.parametrize("suffix", OUTPUTS)
def test_every_output_holds_the_same_answers(one, x, tmp_path, suffix) -> None:
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / f"out{suffix}"
    call("predict", one, tmp_path / "x.npy", "-o", out, "--samples", 20, "--seed", 7, "--interval", 0.9, "--batch", 3)
    expected = keepdrop.load(one).predict(x, samples=20, seed=7)
    assert_predicts(read(out), expected, range(7))
    assert sorted(tmp_path.iterdir()) == sorted([one, tmp_path / "x.npy", out])


def write_input(path: Path, x: np.ndarray) -> Path:
    names = {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2]}
    if path.suffix == ".npy":
        np.save(path, np.asfortranarray(x) if path.name == "columns_first.npy" else x)
    elif path.suffix.lower() == ".csv":
        write_csv(path, {"when": [f"2024-01-{i + 1:02}" for i in range(len(x))], **names})
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({k: float(v[i]) for k, v in names.items()}) + "\n" for i in range(len(x))))
    elif path.suffix == ".parquet":
        table = pyarrow.table({"when": ["x"] * len(x), **names, "d": pyarrow.array([None] * len(x), pyarrow.string())})
        pyarrow.parquet.write_table(table, path, row_group_size=2)
    elif path.name == "compressed.npz":
        np.savez_compressed(path, x=x)
    elif path.name == "columns_first.npz":
        np.savez(path, x=np.asfortranarray(x))
    elif path.name == "big_endian.npz":
        np.savez(path, x=x.astype(">f8"))
    else:
        np.savez(path, x=x)
    return path


INPUTS = [
    "x.npy",
    "columns_first.npy",
    "x.npz",
    "compressed.npz",
    "columns_first.npz",
    "big_endian.npz",
    "x.csv",
    "X.CSV",
    "x.jsonl",
    "x.parquet",
]


@pytest.mark.parametrize("name", INPUTS)
def test_every_input_and_every_part_of_it_gives_the_same_numbers(one, x, tmp_path, name) -> None:
    data = write_input(tmp_path / name, x)
    expected = keepdrop.load(one).predict(x, samples=9, seed=3)
    options = ["--samples", 9, "--seed", 3, "--interval", 0.9]
    options += ["--columns", "a,b,c"] if name == "x.parquet" else []
    for batch in (1, 3, 100):
        call("predict", one, data, "-o", tmp_path / "out.npz", *options, "--batch", batch)
        assert_predicts(read(tmp_path / "out.npz"), expected, range(7))
    parts = []
    for part in ("1/3", "2/3", "3/3"):
        call("predict", one, data, "-o", tmp_path / "part.npz", *options, "--part", part, "--batch", 2)
        parts.append(read(tmp_path / "part.npz"))
    assert_predicts({k: np.concatenate([part[k] for part in parts]) for k in parts[0]}, expected, range(7))
    call("predict", one, data, "-o", tmp_path / "some.npz", *options, "--rows", "2:5")
    np.testing.assert_array_equal(read(tmp_path / "some.npz")["row"], [2, 3, 4])
    np.testing.assert_array_equal(read(tmp_path / "some.npz")["y_mean_0"], expected.mean[2:5, 0])


def test_without_the_row_ids_parts_would_differ(one, x) -> None:
    """The control of the test above: other ids, other numbers."""
    model = keepdrop.load(one)
    assert not np.array_equal(model.predict(x[2:5]).mean, model.predict(x).mean[2:5])


def test_npz_is_what_numpy_writes(one, x, tmp_path) -> None:
    np.save(tmp_path / "x.npy", x)
    call("predict", one, tmp_path / "x.npy", "-o", tmp_path / "out.npz", "--keep-samples", "--batch", 2, "--seed", 4)
    expected = keepdrop.load(one).predict(x, seed=4)
    buffer = io.BytesIO()
    np.savez(buffer, row=np.arange(7), mean=expected.mean, std=expected.std, samples=expected.samples)
    with zipfile.ZipFile(tmp_path / "out.npz") as ours, zipfile.ZipFile(buffer) as numpys:
        assert ours.namelist() == numpys.namelist()
        assert all(ours.read(name) == numpys.read(name) for name in ours.namelist())


def test_json_has_null_where_a_number_is_none(one, x, tmp_path) -> None:
    np.save(tmp_path / "x.npy", x)
    call("predict", one, tmp_path / "x.npy", "-o", tmp_path / "out.jsonl", "--samples", 1)
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["y_std"] == [None] * 3


def test_several_outputs_are_columns_by_name(two, x, tmp_path) -> None:
    np.savez(tmp_path / "in.npz", x=x, ids=np.ones((7, 4), np.int32))
    call("predict", two, tmp_path / "in.npz", "-o", tmp_path / "out.csv")
    header = (tmp_path / "out.csv").read_text().splitlines()[0]
    assert header == "row,y_mean_0,y_mean_1,y_mean_2,y_std_0,y_std_1,y_std_2,n_mean,n_std"


def test_a_large_file_is_never_in_memory_as_a_whole(one, tmp_path, monkeypatch) -> None:
    x = np.random.default_rng(0).standard_normal((200_000, 3)).astype(np.float32)
    np.savez_compressed(tmp_path / "x.npz", x=x)
    size = x.nbytes
    del x
    monkeypatch.setattr(work, "IN_MEMORY", 1 << 16)
    call("predict", one, tmp_path / "x.npz", "-o", tmp_path / "warm.npz", "--rows", ":10")
    peaks = []
    for _ in range(2):  # what threads of other tests do meanwhile is traced too
        tracemalloc.start()
        try:
            call("predict", one, tmp_path / "x.npz", "-o", tmp_path / "out.npz", "--samples", 2, "--batch", 4096)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert (tmp_path / "out.npz").stat().st_size > size
    # The archive's buffers are about 1 MiB, a piece of 4096 rows is 49 KiB of inputs.
    assert min(peaks) < 1.75e6 < size


# -- rows and windows of tables


@pytest.fixture
def readings(tmp_path) -> tuple[Path, np.ndarray]:
    """Ten lines of two features beside an hour, and the windows of four of them: [7, 4, 2]."""
    values = np.random.default_rng(1).integers(-4, 5, (10, 2)).astype(np.float32)
    columns = {"hour": range(100, 110), "a": values[:, 0], "b": values[:, 1]}
    windows = np.stack([values[i : i + STEPS] for i in range(7)])
    return write_csv(tmp_path / "readings.csv", columns), windows


@pytest.mark.parametrize("batch", [1, 2, 100])
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_window_is_a_row(series, readings, tmp_path, batch, suffix) -> None:
    data, windows = readings
    if suffix == ".parquet":
        data = tmp_path / "readings.parquet"
        pyarrow.parquet.write_table(
            pyarrow.table(
                {"b": np.r_[windows[:, 0, 1], windows[-1, 1:, 1]], "a": np.r_[windows[:, 0, 0], windows[-1, 1:, 0]]}
            ),
            data,
            row_group_size=3,
        )
    arguments = ("--window", STEPS, "--columns", "a,b", "--samples", 9, "--interval", 0.9, "--batch", batch)
    call("predict", series, data, "-o", tmp_path / "out.csv", *arguments)
    expected = keepdrop.load(series).predict(windows, samples=9)
    written = read(tmp_path / "out.csv")
    assert_predicts(written, expected, range(7))
    np.testing.assert_array_equal(written["position"], np.arange(7) + STEPS - 1)
    call("predict", series, data, "-o", tmp_path / "part.csv", *arguments, "--part", "2/2")
    for name, values in read(tmp_path / "part.csv").items():
        np.testing.assert_array_equal(values, written[name][3:])


def test_the_order_of_columns_counts(series, readings, tmp_path) -> None:
    data, windows = readings
    call("predict", series, data, "-o", tmp_path / "out.npz", "--window", STEPS, "--columns", "b,a")
    expected = keepdrop.load(series).predict(windows[..., ::-1])
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["mean"], expected.mean)


def test_windows_keep_to_one_id(series, tmp_path) -> None:
    values = np.random.default_rng(2).integers(-4, 5, (14, 2)).astype(np.float32)
    sensor = [5] * 6 + [9] * 3 + [2] * 5  # three windows, none, two
    data = write_csv(tmp_path / "sensors.csv", {"a": values[:, 0], "sensor": sensor, "b": values[:, 1]})
    starts, ids = [0, 1, 2, 9, 10], [5, 5, 5, 2, 2]
    windows = np.stack([values[i : i + STEPS] for i in starts])
    expected = keepdrop.load(series).predict(windows, samples=9, rows=ids)
    options = ("--window", STEPS, "--id", "sensor", "--samples", 9, "--interval", 0.9)
    for batch in (1, 2, 100):
        call("predict", series, data, "-o", tmp_path / "out.csv", *options, "--batch", batch)
        assert_predicts(read(tmp_path / "out.csv"), expected, ids)
        np.testing.assert_array_equal(read(tmp_path / "out.csv")["position"], np.array(starts) + STEPS - 1)
    call("predict", series, data, "-o", tmp_path / "part.csv", *options, "--rows", "2:4", "--batch", 1)
    np.testing.assert_array_equal(read(tmp_path / "part.csv")["y_mean_0"], expected.mean[2:4, 0])
    every = write_csv(tmp_path / "every.csv", {"a": values[:, 0], "sensor": range(14), "b": values[:, 1]})
    assert "no window of that many lines in a row" in refused(
        "predict", series, every, "-o", tmp_path / "no.csv", "--window", STEPS, "--id", "sensor"
    )


def test_ids_come_from_a_column(one, x, tmp_path) -> None:
    ids = [2**62 + 1, -3, 7, 7, 0, 1, 2]
    expected = keepdrop.load(one).predict(x, rows=ids)
    data = write_csv(tmp_path / "x.csv", {"id": ids, "a": x[:, 0], "b": x[:, 1], "c": x[:, 2]})
    np.savez(tmp_path / "x.npz", x=x, id=ids)
    pyarrow.parquet.write_table(
        pyarrow.table({"id": ids, "a": x[:, 0], "b": x[:, 1], "c": x[:, 2]}), tmp_path / "x.parquet"
    )
    for source in (data, tmp_path / "x.npz", tmp_path / "x.parquet"):
        call("predict", one, source, "-o", tmp_path / "out.npz", "--id", "id", "--batch", 2)
        written = np.load(tmp_path / "out.npz")
        np.testing.assert_array_equal(written["row"], ids)
        np.testing.assert_array_equal(written["mean"], expected.mean)


def test_a_line_is_reshaped_where_the_count_fits(series, tmp_path) -> None:
    values = np.random.default_rng(3).integers(-4, 5, (5, 8)).astype(np.float32)
    data = write_csv(tmp_path / "flat.csv", {f"c{i}": values[:, i] for i in range(8)})
    call("predict", series, data, "-o", tmp_path / "out.npz")
    expected = keepdrop.load(series).predict(values.reshape(5, STEPS, 2))
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["mean"], expected.mean)


def test_windows_of_any_length_fit_an_input_of_any_length(write, metadata, one_text, readings, tmp_path) -> None:
    text = one_text.replace("float[batch,3] x", "float[batch,steps,2] x").replace(
        "samples,batch,3] y", "samples,batch,2] y"
    )
    text = text.replace("Mul(x, t3)", "Mul(total, t3)").replace(
        "xt =", "total = ReduceSum<keepdims = 0>(x, last)\n  xt ="
    )
    x, y = Tensor("x", "float32", (None, None, 2)), Tensor("y", "float32", (None, None, 2))
    free = write(text, dataclasses.replace(metadata, inputs=(x,), outputs=(y,)).to_json(), "free.onnx")
    data, windows = readings
    call("predict", free, data, "-o", tmp_path / "out.npz", "--window", STEPS, "--columns", "a,b")
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["mean"], keepdrop.load(free).predict(windows).mean)
    # A line is not taken for a window of one without being told.
    told = refused("predict", free, data, "-o", tmp_path / "no.npz", "--columns", "a,b")
    assert "input 'x' takes [any, 2] an example" in told
    assert "--window N makes examples of consecutive lines" in told


# -- pipes


@pytest.mark.parametrize("kind", ["csv", "json lines"])
def test_a_pipe_answers_in_json_lines(one, x, kind) -> None:
    if kind == "csv":
        text = "\ufeffa,b,c\r\n" + "".join(f"{a},{b},{c}\r\n" for a, b, c in x)
    else:
        text = "".join(json.dumps(dict(zip("abc", map(float, line), strict=True))) + "\n" for line in x)
    result = call("predict", one, "-", "--samples", 9, "--batch", 2, stdin=text)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    assert [row["row"] for row in rows] == list(range(7))
    np.testing.assert_array_equal([row["y_mean"] for row in rows], keepdrop.load(one).predict(x, samples=9).mean)
    assert "7 rows x 9 samples" in result.stderr
    assert "wrote" not in result.stderr


def test_json_lines_can_hold_whole_examples(two, x) -> None:
    ids = np.random.default_rng(0).integers(0, 9, (7, 4))
    text = "".join(
        json.dumps({"ids": i.tolist(), "x": a.tolist(), "key": k}) + "\n"
        for k, (a, i) in enumerate(zip(x, ids, strict=True))
    )
    result = call("predict", two, "-", "--id", "key", stdin=text)
    rows = [json.loads(line) for line in result.stdout.splitlines()]
    expected = keepdrop.load(two).predict({"x": x, "ids": ids})
    np.testing.assert_array_equal([row["n_mean"] for row in rows], expected["n"].mean)
    np.testing.assert_array_equal([row["y_mean"] for row in rows], expected["y"].mean)
    assert "line 2: 'ids' is not [any] finite numbers" in refused(
        "predict", two, "-", stdin='{"x": [1, 2, 3], "ids": [1]}\n{"x": [1, 2, 3], "ids": ["a"]}\n'
    )


def test_a_pipe_answers_what_comes_before_a_bad_line(one) -> None:
    result = call("predict", one, "-", "--batch", 1, code=1, stdin="a,b,c\n1,2,3\n4,5,\n")
    assert len(result.stdout.splitlines()) == 1
    assert "standard input, line 3, column 'c' is empty" in result.stderr


# -- refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\n1,2,3\n4,,6\n", "line 3, column 'b' is empty; fill or drop such lines"),
        ("a,b,c\n1,2,3\n4,nan,6\n", "line 3, column 'b' holds 'nan', not a finite number"),
        ("a,b,c\n1,2,3\n\n4,inf,6\n", "line 4, column 'b' holds 'inf'"),
        ("a,b,c\n1,2,3\n4,1_0,6\n", "line 3, column 'b' holds '1_0'"),
        ('a,b,c\n1,2,"3\n"\n4,five,6\n', "line 4, column 'b' holds 'five'"),
        ("a,b,c\n1,2,3\n4,5\n", "line 3 has 2 cells and the header 3"),
        ("a,b,c\n1,2,1e39\n", "holds 1e+39, which is beyond float32"),
        ("a,b,c\n", "has no line below its header"),
        ("", "is empty"),
        ("a,b,b\n1,2,3\n", "names column 'b' twice"),
        ("a;b,c;d\n1;2;3\n", "line 1 holds ',' and ';', and either may stand between cells; say"),
        ("a,b\n1,2\n", "input 'x' takes [3] an example and a line of"),
        ('a,b,c\n1,"2"x,3\n', "is not CSV"),
        ('{"a": 1, "b": 2, "c": 3}\n{"a": 1, "c": 3}\n', "line 2 has no 'b'"),
        ('{"a": 1, "b": 2, "c": 3}\n{"a": 1, "b": null, "c": 3}\n', "line 2, column 'b' is empty"),
        ('{"a": 1, "b": 2, "c": 3}\nnonsense\n', "line 2 is not JSON"),
    ],
)
def test_a_bad_cell_is_told_by_line_and_column_before_anything_runs(one, tmp_path, monkeypatch, text, message) -> None:
    (tmp_path / "bad.csv").write_text(text)
    monkeypatch.setattr(keepdrop.Model, "predict", None)
    told = refused("predict", one, tmp_path / "bad.csv", "-o", tmp_path / "out.csv")
    assert message in told
    assert str(tmp_path / "bad.csv") in told
    assert not (tmp_path / "out.csv").exists()


def test_a_bad_cell_of_parquet_or_arrays_is_told_by_row(one, x, tmp_path) -> None:
    holed = x.copy()
    holed[5, 1] = np.nan
    np.save(tmp_path / "x.npy", holed)
    np.savez(tmp_path / "x.npz", x=holed)
    for suffix in (".npy", ".npz"):
        told = refused("predict", one, tmp_path / f"x{suffix}", "-o", tmp_path / "out.csv", "--batch", 2)
        assert "holds NaN or infinity" in told
        assert "first in row 5 (from 0)" in told
    cells = [None if np.isnan(v) else float(v) for v in holed[:, 1]]
    table = pyarrow.table({"a": x[:, 0], "b": cells, "c": x[:, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    told = refused("predict", one, tmp_path / "x.parquet", "-o", tmp_path / "out.csv", "--batch", 2)
    assert "row 5 (from 0), column 'b' is empty" in told
    # A part that does not hold it is answered.
    call("predict", one, tmp_path / "x.parquet", "-o", tmp_path / "out.csv", "--rows", ":5")


def test_what_does_not_fit_is_one_sentence(one, two, series, readings, x, tmp_path) -> None:
    data, _ = readings
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "out.csv"
    assert "input 'x' takes [4, 2] an example and a line of" in refused(
        "predict", series, data, "-o", out, "--columns", "a,b"
    )
    assert "--window 4 makes examples of" in refused("predict", series, data, "-o", out, "--columns", "a,b")
    assert "a window of 3 lines" in refused("predict", series, data, "-o", out, "--window", 3, "--columns", "a,b")
    assert "no window of that many" in refused(
        "predict", series, data, "-o", out, "--window", 4, "--columns", "a,b", "--id", "hour"
    )
    assert "has no column 'z'" in refused("predict", series, data, "-o", out, "--window", 4, "--columns", "a,z")
    with (
        pytest.raises(keepdrop.InputError, match="window is 0; give 1 or more lines"),
        sources.opened(data, keepdrop.load(series).metadata, sources.Choice(window=0)),
    ):
        pass
    assert "is one table" in refused("predict", two, data, "-o", out)
    assert "leave them out" in refused("predict", one, tmp_path / "x.npy", "-o", out, "--window", 4)
    assert "no array 'id'" in refused("predict", one, tmp_path / "x.npy", "-o", out, "--id", "id")
    assert "its suffix is none of" in refused("predict", one, tmp_path / "x.xlsx", "-o", out)
    assert "its suffix is none of" in refused("predict", one, tmp_path / "x.npy", "-o", tmp_path / "out.xml")
    assert "no column for samples" in refused("predict", one, tmp_path / "x.npy", "-o", out, "--keep-samples")
    assert "part 1 of 8 is empty" in refused("predict", one, tmp_path / "x.npy", "-o", out, "--part", "1/8")
    assert "--rows 7: is empty" in refused("predict", one, tmp_path / "x.npy", "-o", out, "--rows", "7:")
    assert "a pipe can be read but once" in refused("predict", one, "-", "--part", "1/2", stdin="a\n")
    few = "a,b\n1,2\n3,4\n"
    for target in ("-", *(tmp_path / f"none.{suffix}" for suffix in ("npz", "csv", "jsonl", "parquet"))):
        told = refused("predict", series, "-", "-o", target, "--window", 4, stdin=few)
        assert "standard input ended before row 0" in told and not Path(target).exists()
    assert "ended before row 5" in refused("predict", one, "-", "--rows", "5:6", stdin="a,b,c\n1,2,3\n")
    assert "give its name with -o" in refused("predict", one, tmp_path / "x.npy", "-o", "-", "--resume")
    assert "row ids are integers" in refused("predict", one, "-", "--id", "a", stdin="a,b,c,d\n1.5,2,3,4\n")
    for pair in (
        ["--id", "a", "--first-row", 1],
        ["--rows", "1:2", "--part", "1/2"],
        ["--rows", "2:1"],
        ["--part", "3/2"],
    ):
        assert "Usage:" in call("predict", one, data, "-o", out, *pair, code=2).stderr
    assert not out.exists()


def test_parquet_without_pyarrow_says_what_to_install(one, x, tmp_path, monkeypatch) -> None:
    np.save(tmp_path / "x.npy", x)
    monkeypatch.delitem(sys.modules, "keepdrop.files.arrow", raising=False)
    monkeypatch.delattr(keepdrop.files, "arrow", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert "keepdrop[table]" in refused("predict", one, tmp_path / "x.npy", "-o", tmp_path / "out.parquet")
    assert "keepdrop[table]" in refused("predict", one, tmp_path / "x.parquet", "-o", tmp_path / "out.csv")
    call("predict", one, tmp_path / "x.npy", "-o", tmp_path / "out.csv")


# -- what more there is to answer: heads, and as many samples as are needed


@pytest.fixture
def classes(write, metadata, one_text) -> Path:
    """Gives y[t, b] = softmax(x[b] * t)."""
    text = one_text.replace("y = Add(xtr, s)", "y = Softmax<axis = -1>(xt)")
    return write(text, metadata.to_json(), "classes.onnx")


@pytest.mark.parametrize("suffix", [".npz", ".csv", ".jsonl", ".parquet"])
def test_class_heads_have_their_top_class_and_entropies(classes, x, tmp_path, suffix) -> None:
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / f"out{suffix}"
    call("predict", classes, tmp_path / "x.npy", "-o", out, "--head", "softmax", "--samples", 9, "--batch", 2)
    expected = keepdrop.load(classes).predict(x, samples=9, heads="softmax")
    written = read(out)
    np.testing.assert_array_equal(written["y_top"], expected.top.label)
    for name, values in {
        "top_probability": expected.top.probability,
        "predictive_entropy": expected.predictive_entropy,
        "mutual_information": expected.mutual_information,
    }.items():
        # Sums over other batches: float32 rounding of the softmax.
        np.testing.assert_allclose(written[f"y_{name}"], values, rtol=1e-5, atol=1e-6)
    call("predict", classes, tmp_path / "x.npy", "-o", tmp_path / f"plain{suffix}")
    assert "y_top" not in read(tmp_path / f"plain{suffix}")
    assert "output 'z'" in refused("predict", classes, tmp_path / "x.npy", "-o", out, "--head", "z=softmax")


def test_mean_and_log_variance_have_the_parts_of_the_variance(series, tmp_path) -> None:
    x = np.full((1, STEPS, 2), 0.1, np.float32)
    np.save(tmp_path / "x.npy", x)
    call("predict", series, tmp_path / "x.npy", "-o", tmp_path / "out.npz", "--head", "mean,logvar")
    written = np.load(tmp_path / "out.npz")
    y = 0.4 * np.arange(5)
    np.testing.assert_allclose(written["aleatoric"], [[np.exp(y).mean()]], rtol=1e-6)
    np.testing.assert_allclose(written["epistemic"], [[y.var(ddof=1)]], rtol=1e-6)
    np.testing.assert_allclose(written["total"], [[np.exp(y).mean() + y.var(ddof=1)]], rtol=1e-6)


def test_rows_stop_by_themselves(classes, x, tmp_path) -> None:
    np.save(tmp_path / "x.npy", x)
    options = ("--standard-error", 0.02, "--max-samples", 300, "--interval", 0.9)
    result = call("predict", classes, tmp_path / "x.npy", "-o", tmp_path / "out.npz", *options, "--batch", 2, "--json")
    expected = keepdrop.load(classes).predict(
        x, until=keepdrop.standard_error(0.02), max_samples=300, quantiles=(0.05, 0.95)
    )
    assert len(set(expected.n)) > 1
    written = np.load(tmp_path / "out.npz")
    np.testing.assert_array_equal(written["n"], expected.n)
    np.testing.assert_array_equal(written["met"], expected.met)
    np.testing.assert_allclose(written["mean"], expected.mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(written["low_0.9"], expected.interval(0.9)[0], rtol=1e-5, atol=1e-6)
    report = json.loads(result.stdout)
    assert (report["samples"], report["mean_samples"]) == (300, expected.n.mean())


def test_rows_stop_once_decided(classes, x, tmp_path) -> None:
    np.save(tmp_path / "x.npy", x)
    arguments = ("predict", classes, tmp_path / "x.npy", "--head", "softmax", "--max-samples", 300)
    call(*arguments, "-o", tmp_path / "out.csv", "--decide", 0.5, "--confidence", 0.9)
    until = keepdrop.decided(0.5, 0.9)
    expected = keepdrop.load(classes).predict(x, until=until, max_samples=300, heads="softmax")
    with open(tmp_path / "out.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [[line[f"y_decision_{k}"] for k in range(3)] for line in lines] == expected.decision.tolist()
    assert [int(line["n"]) for line in lines] == expected.n.tolist()
    assert [line["met"] for line in lines] == [str(met) for met in expected.met]
    # JSON and Parquet have words for truth.
    call(*arguments, "-o", tmp_path / "out.jsonl", "--decide", 0.5, "--confidence", 0.9)
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["met"] is bool(expected.met[0])
    call(*arguments, "-o", tmp_path / "out.parquet", "--decide", 0.5, "--confidence", 0.9)
    table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
    assert table["y_decision_0"].to_pylist() == expected.decision[:, 0].tolist()


def test_a_deadline_is_of_a_piece(classes, x, tmp_path) -> None:
    np.save(tmp_path / "x.npy", x)
    call("predict", classes, tmp_path / "x.npy", "-o", tmp_path / "out.npz", "--deadline-ms", 1, "--batch", 2)
    n = np.load(tmp_path / "out.npz")["n"]
    assert n.shape == (7,)
    assert n.min() >= 1


def test_options_that_exclude_each_other(classes, x, tmp_path) -> None:
    np.save(tmp_path / "x.npy", x)
    arguments = ("predict", classes, tmp_path / "x.npy", "-o", tmp_path / "out.npz")
    for pair in (
        ("--standard-error", 0.1, "--decide", 0.5),
        ("--standard-error", 0.1, "--samples", 5),
        ("--decide", 0.5, "--keep-samples"),
        ("--max-samples", 5),
    ):
        assert "Usage:" in call(*arguments, *pair, code=2).stderr
    assert "depends on timing" in refused(*arguments, "--deadline-ms", 5, "--resume")
    assert "is not in the range x>0" in call(*arguments, "--standard-error", -1, code=2).stderr
    assert "2 is not between 0 and 1" in call(*arguments, "--decide", 0.5, "--confidence", 2, code=2).stderr


def test_what_stands_for_rows_without_an_answer() -> None:
    """No sample was drawn of them, and no class or text is theirs."""
    answered = np.array([False, True])
    figures = {Field(None, N): np.array([7]), Field("y", "top"): np.array([2]), Field("y", "mean"): np.array([0.5])}
    found = {field.statistic: _spread(values, answered, field).tolist() for field, values in figures.items()}
    assert found["n"] == [0, 7] and found["top"] == [-1, 2]
    assert np.isnan(found["mean"][0]) and found["mean"][1] == 0.5
