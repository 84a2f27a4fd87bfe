"""Tables as devices and spreadsheets write them: dialects, times, ids, gaps, series, several files."""

import csv
import gzip
import hashlib
import io
import json
import math
import os
import stat
import threading
import tracemalloc
import zipfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import onnx.helper
import onnx.parser
import pyarrow
import pyarrow.parquet
import pytest
from click.testing import CliRunner

import keepdrop
from keepdrop import cli
from keepdrop.artifact.metadata import METADATA_KEY, Tensor
from keepdrop.files import arrow, cells, parsed, sources, targets
from keepdrop.files import text as text_module
from keepdrop.files.lines import Dialect
from keepdrop.files.reader import Selection, joined_readings
from keepdrop.files.text import TextReader

NUMBERS = [(64.71, 0.5, -3.125), (1e-3, 2.0, 7.0), (-0.1, 1e22, 123456789.123), (5.0, 6.0, 0.1)]


def call(*arguments, code: int = 0, stdin=None):
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments], input=stdin)
    assert result.exit_code == code, (result.output, result.exception)
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def refused(*arguments, stdin=None) -> str:
    error = call(*arguments, code=1, stdin=stdin).stderr
    assert error.startswith("keepdrop: ") and len(error.splitlines()) == 1
    return error


def answers(*arguments, stdin=None) -> list[dict]:
    return [json.loads(line) for line in call(*arguments, "-o", "-", stdin=stdin).stdout.splitlines()]


def table(sep=",", nl="\n", decimal=".", quote="", head="a{s}b{s}c") -> str:
    lines = [head.format(s=sep)]
    for row in NUMBERS:
        lines.append(sep.join(f"{quote}{repr(v).replace('.', decimal)}{quote}" for v in row))
    return nl.join(lines) + nl


def read(content: bytes, selection: Selection, path: Path, dialect=Dialect(), most=3):  # noqa: B008
    path.write_bytes(content)
    return joined_readings(list(TextReader(str(path), path, dialect).read(selection, most)))


ABC = Selection(numbers=("a", "b", "c"))

DIALECTS = {
    "plain": (table().encode(), Dialect()),
    "CRLF": (table(nl="\r\n").encode(), Dialect()),
    "CR": (table(nl="\r").encode(), Dialect()),
    "BOM": (b"\xef\xbb\xbf" + table().encode(), Dialect()),
    "no last line end": (table().rstrip("\n").encode(), Dialect()),
    "blank lines": (("\n \n" + table().replace("\n", "\n\n")).encode(), Dialect()),
    "quoted": (table(quote='"').encode(), Dialect()),
    "quoted header": (table(head='"a"{s}"b"{s}"c"').encode(), Dialect()),
    "spaces": (table(sep=", ").encode(), Dialect()),
    "semicolon": (table(sep=";").encode(), Dialect()),
    "tab": (table(sep="\t").encode(), Dialect()),
    "bar": (table(sep="|").encode(), Dialect()),
    "decimal comma": (table(sep=";", decimal=",").encode(), Dialect()),
    "decimal comma in quotes": (table(decimal=",", quote='"').encode(), Dialect(decimal=",")),
    "given separator": (b"a;b;c;x,y\n" + b"".join(b"%r;%r;%r;1\n" % row for row in NUMBERS), Dialect(separator=";")),
    "more columns": ((
        "a,b,c,site\n" + "".join(f'{a},{b},{c},"Köln, West"\n' for a, b, c in NUMBERS)).encode(), Dialect()),
}  # fmt: skip


@pytest.mark.parametrize("name", DIALECTS)
def test_every_dialect_gives_the_same_numbers(name, tmp_path) -> None:
    """Python's float() of the decimals is what they mean, and what each way of reading has to give exactly."""
    content, dialect = DIALECTS[name]
    np.testing.assert_array_equal(read(content, ABC, tmp_path / "x.csv", dialect).numbers, NUMBERS)


@pytest.mark.parametrize("way", ["careful", "csv", "numpy", "arrow"])
def test_every_way_of_reading_gives_the_same(way, tmp_path, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.standard_normal((500, 3)) * 10.0 ** rng.integers(-30, 30, (500, 3)), [[0, -0.0, 1]]])
    content = "a,b,c,when\n" + "".join(f"{a!r},{b!r},{c!r},2024-01-01\n" for a, b, c in values.tolist())
    used = []
    for name in ("_by_numpy", "_by_arrow", "_column"):
        original = getattr(text_module, name)
        monkeypatch.setattr(text_module, name, lambda *a, o=original, n=name: used.append(n) or o(*a))
    if way == "careful":
        monkeypatch.setattr(TextReader, "_bulk", lambda *_: None)
    if way == "csv":
        content = content.replace(",2024-", ',"2024-').replace("-01\n", '-01"\n')
    monkeypatch.setattr(text_module, "WORTH_ARROW", 0 if way == "arrow" else 1 << 40)
    monkeypatch.setattr(text_module, "STRETCH", 4096)
    found = read(content.encode(), Selection(("c", "a"), time="when"), tmp_path / "x.csv", most=100)
    np.testing.assert_array_equal(found.numbers, values[:, [2, 0]])
    np.testing.assert_array_equal(found.lines, np.arange(2, 503))
    assert set(used) == {"careful": set(), "csv": {"_column"}, "numpy": {"_by_numpy"}, "arrow": {"_by_arrow"}}[way]


@pytest.mark.parametrize("way", ["numpy", "arrow"])
@pytest.mark.parametrize("cell", ["1_0", "inf", "0x10", "", "1,5", "one", "1e400", "True"])
def test_no_way_of_reading_takes_what_is_no_number(cell, way, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_module, "WORTH_ARROW", 0 if way == "arrow" else 1 << 40)
    content = f"a;b;c\n1;2;3\n4;{cell};6\n"
    with pytest.raises(keepdrop.InputError, match="line 3, column 'b' "):
        read(content.encode(), ABC, tmp_path / "x.csv", Dialect(decimal="."))


@pytest.mark.parametrize("quote", ["", '"'])
def test_a_large_table_is_never_in_memory_as_a_whole(quote, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_module, "STRETCH", 1 << 13)
    monkeypatch.setattr(parsed, "MOST_BYTES", 1 << 16)
    line = ",".join(f"{quote}{v}{quote}" for v in (1.25, -3.5, 7.125)) + "\n"
    (tmp_path / "x.csv").write_text("a,b,c\n" + line * 30_000)
    reader = TextReader("x.csv", tmp_path / "x.csv")
    next(reader.read(ABC, 1024))  # what is imported on the way
    tracemalloc.start()
    try:
        total = sum(len(readings.lines) for readings in reader.read(ABC, 1024))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == 30_000
    # What is kept, and copies of a stretch of text as cells and as numbers; a cell of Python's takes some 60 bytes.
    assert peak < 40 * (1 << 13) < (tmp_path / "x.csv").stat().st_size


@pytest.mark.parametrize("most", [0, 40_000, 1 << 30])
def test_what_was_parsed_is_kept_in_bounded_memory(most, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_module, "STRETCH", 1 << 12)
    monkeypatch.setattr(parsed, "MOST_BYTES", most)
    values = np.random.default_rng(0).integers(0, 99, (3000, 3))
    lines = [",".join(map(str, row)) for row in values.tolist()]
    lines[1500] = "ERR,1,2"  # a stretch that needs care
    (tmp_path / "x.csv").write_text("a,b,c\n" + "\n".join(lines) + "\n")
    calls = []
    original = TextReader._bulk
    monkeypatch.setattr(TextReader, "_bulk", lambda *a: calls.append(a[1].first) or original(*a))
    reader, wanted = TextReader("x.csv", tmp_path / "x.csv"), Selection(("c", "a"), skip=True)
    first = joined_readings(list(reader.read(wanted, 100)))
    stretches = len(calls)
    calls.clear()
    for start, stop in ((0, None), (17, 2950), (0, 3000), (1400, 1600)):
        again = joined_readings(list(reader.read(wanted, 130, start, stop)))
        np.testing.assert_array_equal(again.numbers, first.numbers[start:stop])
        np.testing.assert_array_equal(again.lines, first.lines[start:stop])
        assert list(again.problems) == [1500 - start]
    kept = sum(readings.numbers.nbytes + readings.lines.nbytes for readings in reader._parsed._stretches.values())
    assert kept <= most and (kept > 0) == (most > 0)
    # All are read anew, or the last of them, or that one alone.
    assert len(calls) >= 3 * stretches if most == 0 else len(set(calls)) == 1 if most > 1e6 else calls
    other = joined_readings(
        list(reader.read(Selection(("b",), skip=True), 100))
    )  # other columns are not mistaken for these
    np.testing.assert_array_equal(other.numbers[:1500, 0], values[:1500, 1])


def test_lines_that_balance_each_other_are_seen(tmp_path) -> None:
    """As many separators as there should be, but not on the right lines."""
    with pytest.raises(keepdrop.InputError, match="line 2 has 2 cells and the header 3"):
        read(b"a,b,c\n1,2\n1,2,3,4\n", Selection(("a", "b")), tmp_path / "x.csv")


def test_a_cell_in_quotes_may_span_stretches(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_module, "STRETCH", 16)
    content = 'a,note\n1,"x\n\n1,2\ny"\n2,\n3,"z"\n'
    found = read(content.encode(), Selection(("a",), texts=("note",)), tmp_path / "x.csv")
    np.testing.assert_array_equal(found.numbers[:, 0], [1, 2, 3])
    assert found.texts["note"].tolist() == ["x\n\n1,2\ny", "", "z"]
    assert found.lines.tolist() == [5, 6, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a;b,c;d\n1;2;3\n", "line 1 holds ',' and ';', and either may stand between cells; say which by --separator"),
        ("1,2,3\n4,5,6\n", "line 1 is not a header, all its cells are numbers or times"),
        ("2024-01-01,2,3\n4,5,6\n", "line 1 is not a header"),
        ("# sensor 7\na,b,c\n", "line 1 is a comment"),
        ("a,b,c\n1,2\n", "line 2 has 2 cells and the header 3, with ',' between them"),
        ('a,b,c\n"60,1",2,3\n', "holds '60,1', not a finite number with decimals behind '.' (see --decimal)"),
        ("a;b;c\n1,5;2;3\n1.5;2;3\n", "line 3, column 'a' holds '1.5', not a finite number with decimals behind ','"),
        ("a,b,c\n1,2,true\n", "holds 'true', not a finite number (give 1 and 0 for true and false)"),
        ("[\n{}]\n", "line 1 begins a JSON array"),
        ('{"a": 1, "b": 2, "c": true}\n', "column 'c' holds True, not a finite number"),
        ('{"a": 1, "b": 2, "c": 3}\n{"a": 1, "b": 2, "c": ' + "[" * 100_000 + "\n", "line 2 is not JSON"),
        ("a,b,c\n1,2,3\n\xff".encode("latin-1"), "line 3 is not text in UTF-8"),
        (table().encode("utf-16"), "line 1 is not text in UTF-8"),
        ('a,b,c\n1,2,"3\n', "is not CSV (unexpected end of data)"),
    ],
)
def test_what_cannot_be_understood_is_told_by_line(one, tmp_path, text, message) -> None:
    (tmp_path / "bad.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert message in refused("predict", one, tmp_path / "bad.csv", "-o", tmp_path / "out.csv")


# -- columns


def test_no_column_is_taken_for_another(one, tmp_path) -> None:
    """An empty or unreadable first cell does not make the next column a feature."""
    for cell in ("", "45%", "n/a"):
        (tmp_path / "x.csv").write_text(f"t,h,v,battery\n64,{cell},3,3.7\n64,2,3,3.7\n")
        told = refused("predict", one, tmp_path / "x.csv", "-o", tmp_path / "out.csv")
        assert "has 4 (t, h, v, battery); choose by --columns" in told
    told = refused("predict", one, tmp_path / "x.csv", "-o", tmp_path / "out.csv", "--columns", "t,h,v")
    assert "line 2, column 'h' holds 'n/a'" in told


def test_dates_and_columns_without_a_name_are_no_features_and_the_report_says_what_is(one, tmp_path) -> None:
    (tmp_path / "x.csv").write_text(",when,a,b,c\n0,2024-01-01T00:00Z,1,2,3\n")
    result = call("predict", one, tmp_path / "x.csv", "-o", tmp_path / "out.csv")
    assert "columns: a, b, c" in result.stdout
    (tmp_path / "x.csv").write_text("a;c;b\n1;3,5;2\n")
    report = json.loads(call("predict", one, tmp_path / "x.csv", "-o", tmp_path / "out.csv", "--json").stdout)
    assert (report["columns"], report["read_with"]) == (["a", "c", "b"], "';' between cells, decimals behind ','")
    frame = pyarrow.table(
        {"a": [1.0], "b": [2.0], "c": [3.0], "when": [datetime(2024, 1, 1)], "__index_level_0__": [0]}
    )
    pyarrow.parquet.write_table(frame, tmp_path / "x.parquet")
    assert "columns: a, b, c" in call("predict", one, tmp_path / "x.parquet", "-o", tmp_path / "out.csv").stdout


@pytest.fixture
def whole(tmp_path, metadata) -> Path:
    """Takes ids int64 [batch, 1] and says whether each is odd, which no float64 beyond 2^53 could."""
    md = metadata.__class__(**{
        **metadata.__dict__,
        "inputs": (Tensor("ids", "int64", (None, 1)),),
        "outputs": (Tensor("odd", "float32", (None, None, 1)),),
        "draws": (), "draws_per_row": 0, "verified": None,
    })  # fmt: skip
    model = onnx.parser.parse_model("""
    <ir_version: 8, opset_import: ["" : 18]>
    toy (int64[batch,1] ids, int64 seed, int64[batch] rows, int64 num_samples = {5}, int64 first_sample = {0})
      => (float[samples,batch,1] odd)
      <int64 one = {1}, int64 two = {2}, int64[2] after = {1, 2}>
    {
      m = Mod(ids, two)
      f = Cast<to = 1>(m)
      stop = Add(first_sample, num_samples)
      t = Range(first_sample, stop, one)
      tf = Cast<to = 1>(t)
      t3 = Unsqueeze(tf, after)
      nothing = Sub(t3, t3)
      odd = Add(f, nothing)
    }
    """)
    onnx.helper.set_model_props(model, {METADATA_KEY: md.to_json()})
    onnx.save(model, tmp_path / "whole.onnx")
    return tmp_path / "whole.onnx"


def test_integers_beyond_a_float64_stay_themselves(whole, tmp_path) -> None:
    big = 2**53 + 1
    files = {
        "x.csv": f"k\n{big}\n{big + 1}\n",
        "x.jsonl": f'{{"k": {big}}}\n{{"k": {big + 1}}}\n',
        "whole.jsonl": f'{{"ids": [{big}]}}\n{{"ids": [{big + 1}]}}\n',
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
        assert [row["odd_mean"] for row in answers("predict", whole, tmp_path / name)] == [1.0, 0.0], name
    pyarrow.parquet.write_table(pyarrow.table({"k": [big, big + 1]}), tmp_path / "x.parquet")
    assert [row["odd_mean"] for row in answers("predict", whole, tmp_path / "x.parquet")] == [1.0, 0.0]
    assert answers("predict", whole, "-", stdin="k\n3.0\n")[0]["odd_mean"] == 1.0
    assert cells.integer(f"{2**53}.0") == 2**53
    for cell in ("2.5", "9007199254740994.0e3", str(2**63), ""):
        told = refused("predict", whole, "-", "--columns", "k", stdin=f"k,x\n{cell},1\n")
        assert "line 2, column 'k' " in told and ("is empty" in told or "a whole number that fits int64" in told)


# -- ids and times


def test_text_ids_have_numbers_of_their_own(one, tmp_path) -> None:
    assert [cells.row_id(t) for t in ("0", "-7", str(2**63 - 1))] == [0, -7, 2**63 - 1]
    for text in ("north", "007", str(2**63), "Köln"):
        digest = int(hashlib.sha256(text.encode()).hexdigest()[:14], 16) >> 3
        assert cells.row_id(text) == digest < 2**53
    for text in ("", " ", "1.5", "nan", "1e5", "+1"):
        with pytest.raises(ValueError):
            cells.row_id(text)
    (tmp_path / "x.csv").write_text("s,a,b,c\nnorth,1,2,3\n12,1,2,3\n")
    (tmp_path / "x.jsonl").write_text('{"s": "north", "a": 1, "b": 2, "c": 3}\n{"s": 12, "a": 1, "b": 2, "c": 3}\n')
    pyarrow.parquet.write_table(
        pyarrow.table({"s": ["north", "12"], "a": [1.0, 1], "b": [2.0, 2], "c": [3.0, 3]}), tmp_path / "x.parquet"
    )
    expected = [(cells.row_id("north"), "north"), (12, "12")]
    for name in ("x.csv", "x.jsonl", "x.parquet"):
        found = answers("predict", one, tmp_path / name, "--id", "s")
        assert [(row["row"], row["s"]) for row in found] == expected
    call("predict", one, tmp_path / "x.csv", "--id", "s", "-o", tmp_path / "out.npz", "--batch", 1)
    written = np.load(tmp_path / "out.npz")
    assert written["s"].tolist() == ["north", "12"]
    model = keepdrop.load(one)
    np.testing.assert_array_equal(written["mean"], model.predict([[1, 2, 3]] * 2, rows=[r for r, _ in expected]).mean)
    assert "row ids are integers or text" in refused("predict", one, "-", "--id", "s", stdin="s,a,b,c\n,1,2,3\n")


MOMENT = datetime(2024, 3, 31, 14, 30, 5, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("written", "form", "zoned"),
    [
        (MOMENT.isoformat(), None, True),
        (MOMENT.strftime("%Y-%m-%d %H:%M:%SZ"), None, True),
        (MOMENT.astimezone(timezone(timedelta(hours=-5, minutes=-30))).isoformat(), None, True),
        (MOMENT.strftime("%Y-%m-%dT%H:%M:%S.000"), None, False),
        (MOMENT.strftime("%Y-%m-%dT%H:%M:%S.000000000Z"), None, True),
        (str(int(MOMENT.timestamp())), "s", True),
        (f"{MOMENT.timestamp():.1f}", "s", True),
        (str(int(MOMENT.timestamp()) * 1000), "ms", True),
        (MOMENT.strftime("%d.%m.%y %H.%M.%S"), "%d.%m.%y %H.%M.%S", False),
        (
            MOMENT.astimezone(timezone(timedelta(hours=2))).strftime("%m/%d/%Y %H:%M:%S %z"),
            "%m/%d/%Y %H:%M:%S %z",
            True,
        ),
    ],
)
def test_a_time_is_the_same_however_it_is_written(one, tmp_path, written, form, zoned) -> None:
    times = cells.Times(form)
    assert times.read([written])[0] == np.datetime64(MOMENT.replace(tzinfo=None))
    assert times.zoned is zoned
    (tmp_path / "x.csv").write_text(f"when,a,b,c\n{written},1,2,3\n")
    options = ["--time", "when", *(["--time-format", form] if form else [])]
    assert answers("predict", one, tmp_path / "x.csv", *options)[0]["when"] == "2024-03-31T14:30:05" + "Z" * zoned


def test_days_and_hours_alone_are_times_too() -> None:
    found = cells.Times().read(["2024-03-31", "2024-03-31T14", "2024-03-31 14:30"])
    assert found.tolist() == [datetime(2024, 3, 31), datetime(2024, 3, 31, 14), datetime(2024, 3, 31, 14, 30)]
    assert cells.looks_dated("2024-03-31T14") and not cells.looks_dated("2024") and not cells.looks_dated("14:30")


@pytest.mark.parametrize(
    "cell", ["", "noon", "2024-02-30", "2024-01-01T25:00", "2024-01-01T10:00+24:00", "1711895405", "2024-01-01T10:00"]
)
def test_a_bad_time_is_told_by_line_and_column(one, cell) -> None:
    text = f"when,a,b,c\n2024-01-01T00:00Z,1,2,3\n{cell},1,2,3\n"
    assert "standard input, line 3, column 'when' " in refused("predict", one, "-", "--time", "when", stdin=text)


# -- what is missing or wrong


GAPPY = "s,a,b,c\nx,1,2,3\nx,,2,3\nx,,2,3\nx,4,2,3\ny,,2,3\ny,6,ERR,3\ny,7,2\ny,8,2,NA\n"


def test_rows_with_gaps_have_no_answer_and_a_reason(one, tmp_path) -> None:
    (tmp_path / "x.csv").write_text(GAPPY)
    assert "line 3, column 'a' is empty" in refused("predict", one, tmp_path / "x.csv", "--id", "s", "-o", "-")
    told = refused("predict", one, tmp_path / "x.csv", "--id", "s", "-o", "-", "--missing", "skip")
    assert "line 7, column 'b' holds 'ERR'" in told
    both = ("--id", "s", "--missing", "skip", "--on-error", "skip")
    for batch in (1, 3, 100):
        found = answers("predict", one, tmp_path / "x.csv", *both, "--batch", batch)
        assert [row["reason"] for row in found] == [
            "", "line 3: a is missing", "line 4: a is missing", "", "line 6: a is missing",
            "line 7, column 'b' holds 'ERR', not a finite number",
            "line 8 has 3 cells and the header 4, with ',' between them", "line 9: c is missing",
        ]  # fmt: skip
        assert [row["y_mean"][0] is None for row in found] == [bool(row["reason"]) for row in found]
        assert [row["s"] for row in found] == ["x"] * 4 + ["y"] * 2 + [""] + ["y"]
    x, y = cells.row_id("x"), cells.row_id("y")
    expected = keepdrop.load(one).predict([[1, 2, 3], [4, 2, 3]], rows=[x, x])
    np.testing.assert_array_equal(np.float32([found[0]["y_mean"], found[3]["y_mean"]]), expected.mean)
    held = answers("predict", one, tmp_path / "x.csv", "--id", "s", "--missing", "hold 1", "--on-error", "skip")
    assert [not row["reason"] for row in held] == [True, True, False, True, False, False, False, False]
    np.testing.assert_array_equal(
        np.float32(held[1]["y_mean"]), keepdrop.load(one).predict([[1, 2, 3]], rows=[x]).mean[0]
    )
    assert y != x


def test_lines_that_are_skipped_are_counted_and_named_once(one, windows, tmp_path) -> None:
    path, options = tmp_path / "x.csv", ("--on-error", "skip", "-o", "-")
    path.write_text("t,a,b,c\n" + "".join(f"2024-01-0{d},1,2,{'ERR' if d in (3, 6) else d}\n" for d in range(1, 9)))
    lines = [f"keepdrop: skipped: {path}, line {n}, column 'c' holds 'ERR', not a finite number" for n in (4, 7)]
    shuffled = ("--id", "a", "--order", "t")
    for arguments in (("predict", one, path), ("predict", windows, path, "--window", 2),
                      ("predict", windows, path, "--window", 2, "--id", "a", "--columns", "a,b,c"),
                      ("predict", windows, path, "--window", 2, *shuffled, "--columns", "a,b,c")):  # fmt: skip
        told = call(*arguments, *options).stderr.splitlines()
        assert told[:3] == [*lines, "keepdrop: 2 lines were skipped"], told
        assert sum("skipped" in line for line in told) == 3
        assert call(*arguments, "--missing", "hold 1", "--batch", 1, *options).stderr.splitlines()[:3] == told[:3]
    report = call("predict", one, path, "--on-error", "skip", "-o", tmp_path / "out.csv", "--json")
    assert json.loads(report.stdout)["skipped_lines"] == 2
    piped = call("predict", one, "-", *options, stdin=path.read_text()).stderr
    assert piped.splitlines()[:3] == [line.replace(str(path), "standard input") for line in lines] + [told[2]]
    other = tmp_path / "y.csv"
    other.write_text("t,a,b,c\n2024-02-01,1,1,1\nnever,1,1,1\n2024-02-02,1,1,1,1\n")
    told = call("predict", one, path, other, *options).stderr.splitlines()
    assert told[:4] == [*lines, told[2], "keepdrop: 3 lines were skipped"] and f"{other}, line 4 has 5" in told[2]
    told = call("predict", one, other, *shuffled, "--columns", "a,b,c", *options).stderr
    assert "line 3, column 't' holds 'never'" in told and "line 4 has 5 cells" in told and "2 lines were" in told
    path.write_text("a,b,c\n" + "1,2,ERR\n" * 50 + "1,2,3\n")
    told = call("predict", one, path, *options).stderr.splitlines()
    assert told[19].endswith("line 21, column 'c' holds 'ERR', not a finite number")
    assert told[20] == "keepdrop: 50 lines were skipped, of which the first 20 are named"


def test_values_are_held_the_same_in_every_cut(one, tmp_path) -> None:
    rng = np.random.default_rng(3)
    values = rng.integers(0, 9, (60, 3)).astype(float)
    values[rng.random((60, 3)) < 0.4] = np.nan
    lines = [",".join("" if math.isnan(v) else str(v) for v in row) for row in values]
    (tmp_path / "x.csv").write_text("a,b,c\n" + "\n".join(lines) + "\n")
    # By hand, as pandas' ffill(limit=2) does it.
    expected = values.copy()
    for i in range(1, 60):
        for j in range(3):
            recent = [values[k, j] for k in (i, i - 1, i - 2) if k >= 0 and not math.isnan(values[k, j])]
            expected[i, j] = recent[0] if recent else math.nan
    answered = ~np.isnan(expected).any(axis=1)
    mean = keepdrop.load(one).predict(expected[answered], rows=np.flatnonzero(answered)).mean
    for batch in (1, 7, 100):
        found = answers("predict", one, tmp_path / "x.csv", "--missing", "hold 2", "--batch", batch)
        np.testing.assert_array_equal([not row["reason"] for row in found], answered)
        np.testing.assert_array_equal(np.float32([row["y_mean"] for row in found if not row["reason"]]), mean)
    part = answers("predict", one, tmp_path / "x.csv", "--missing", "hold 2", "--rows", "20:40")
    assert part == found[20:40]


def test_a_line_of_another_encoding_is_a_bad_line_like_others(one, tmp_path) -> None:
    (tmp_path / "x.csv").write_bytes("a,b,c,site\n1,2,3,Köln\n4,5,6,".encode() + b"K\xf6ln\n7,8,9,Bonn\n")
    options = ("predict", one, tmp_path / "x.csv", "--columns", "a,b,c")
    assert "line 3 is not text in UTF-8; convert it" in refused(*options, "-o", "-")
    found = answers(*options, "--on-error", "skip")
    assert [row["reason"] for row in found] == ["", "line 3 is not text in UTF-8", ""]


def test_a_file_without_an_answer_is_written_all_the_same(one, tmp_path) -> None:
    (tmp_path / "x.csv").write_text("a,b,c\n,1,2\n")
    for suffix in (".csv", ".npz", ".jsonl", ".parquet"):
        out = tmp_path / f"out{suffix}"
        result = call("predict", one, tmp_path / "x.csv", "-o", out, "--missing", "skip", "--interval", 0.9, "--plot",
                      tmp_path / "out.png")  # fmt: skip
        assert "1 rows have no answer, and the reason why" in result.stdout
    with open(tmp_path / "out.csv", newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["reason"], row["y_mean_0"]) == ("line 2: a is missing", "nan")


# -- series and several files


@pytest.fixture
def windows(write, metadata, one_text) -> Path:
    """Takes x [batch, 2, 3] and answers for the sum over its steps."""
    text = one_text.replace("float[batch,3] x", "float[batch,2,3] x").replace("Mul(x, t3)", "Mul(total, t3)")
    text = text.replace("xt =", "total = ReduceSum<keepdims = 0>(x, last)\n  xt =")
    x = Tensor("x", "float32", (None, 2, 3))
    return write(text, metadata.__class__(**{**metadata.__dict__, "inputs": (x,)}).to_json(), "windows.onnx")


def interleaved(folder: Path, order) -> list[Path]:
    """Three files by time slice, each with both series, whose lines stand in `order`."""
    files = []
    for day in range(3):
        lines = [
            (f"2024-01-0{day + 1}T{hour:02}:00:00Z", s, day, hour, len(s)) for hour in range(4) for s in ("b", "aa")
        ]
        files.append(folder / f"day{day}.csv")
        files[-1].write_text("t,s,a,b,c\n" + "".join(",".join(map(str, lines[i])) + "\n" for i in order))
    return files


def test_lines_are_sorted_by_series_and_time(windows, tmp_path) -> None:
    folder = tmp_path / "days"
    folder.mkdir()
    rng = np.random.default_rng(5)
    interleaved(folder, rng.permutation(8))
    options = ("--window", 2, "--id", "s", "--order", "t")
    found = answers("predict", windows, folder, *options)
    # 12 lines a series, across the files: 11 windows each, the series by name.
    assert [row["s"] for row in found] == ["aa"] * 11 + ["b"] * 11
    assert [row["t"] for row in found[:11]] == sorted(row["t"] for row in found[:11])
    series = np.array([[[d, h, n] for d in range(3) for h in range(4)] for n in (2, 1)], np.float32)
    x = np.concatenate([np.lib.stride_tricks.sliding_window_view(s, 2, axis=0).transpose(0, 2, 1) for s in series])
    rows = np.repeat([cells.row_id("aa"), cells.row_id("b")], 11)
    expected = keepdrop.load(windows).predict(x, rows=rows).mean
    np.testing.assert_array_equal(np.float32([row["y_mean"] for row in found]), expected)
    assert answers("predict", windows, folder, *options, "--part", "2/2", "--batch", 3) == found[11:]
    files = interleaved(folder, range(8))
    assert answers("predict", windows, *files[::-1], *options) == found
    told = refused("predict", windows, folder, "--window", 2, "--id", "s", "-o", "-")
    assert "since its series are interleaved; sort it by 's' and time, or let --order do so" in told
    told = refused("predict", windows, folder, "--window", 2, "--columns", "a,b,c", "--order", "t", "-o", "-")
    assert "are both of 2024-01-01T00:00:00; name the column of their series by --id" in told


def test_a_line_without_a_time_has_no_place_in_the_order(windows, tmp_path) -> None:
    (tmp_path / "x.csv").write_text("t,a,b,c\n2024-01-02,1,1,1\nnever,9,9,9\n2024-01-01,0,0,0\n")
    options = ("predict", windows, tmp_path / "x.csv", "--window", 2, "--order", "t")
    assert "line 3, column 't' holds 'never'" in refused(*options, "-o", "-")
    assert len(answers(*options, "--on-error", "skip")) == 1


def test_several_files_are_one_input_and_windows_keep_to_a_file(one, windows, tmp_path) -> None:
    files = []
    for i in range(3):
        files.append(tmp_path / f"{i}.csv")
        files[-1].write_text("a,b,c\n" + "".join(f"{i},{j},0\n" for j in range(3)))
    found = answers("predict", one, *files)
    x = np.float32([[i, j, 0] for i in range(3) for j in range(3)])
    np.testing.assert_array_equal(np.float32([row["y_mean"] for row in found]), keepdrop.load(one).predict(x).mean)
    assert [(row["row"], row["file"]) for row in found] == [(k, f"{k // 3}.csv") for k in range(9)]
    assert answers("predict", one, *files, "--rows", "2:7", "--batch", 2) == found[2:7]
    assert len(answers("predict", windows, *files, "--window", 2)) == 6
    files[2].write_text("a,c,b\n2,0,0\n")  # by name, whatever the order
    assert answers("predict", one, *files)[6]["y_mean"] == found[6]["y_mean"]
    files[2].write_text("a,b,d\n2,0,0\n")
    assert f"{files[2]} has no column 'c'" in refused("predict", one, *files, "-o", tmp_path / "out.csv")
    assert "Usage:" in call("predict", one, files[0], "-", "-o", tmp_path / "out.csv", code=2).stderr


def test_a_folder_is_its_files_and_shards_of_arrays_too(one, x, tmp_path) -> None:
    folder = tmp_path / "shards"
    folder.mkdir()
    np.save(folder / "1.npy", x[3:])
    np.save(folder / "0.npy", x[:3])
    (folder / ".hidden.csv").write_text("")
    (folder / "README").write_text("")
    call("predict", one, folder, "-o", tmp_path / "out.npz", "--resume", "--batch", 2)
    np.testing.assert_array_equal(np.load(tmp_path / "out.npz")["mean"], keepdrop.load(one).predict(x).mean)
    (folder / "x.csv").write_text("a,b,c\n1,2,3\n")
    assert "holds files of .csv and .npy" in refused("predict", one, folder, "-o", tmp_path / "out.npz")
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "holds no file of" in refused("predict", one, empty, "-o", tmp_path / "out.npz")


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_packed_text_is_unpacked(one, tmp_path, suffix) -> None:
    content = b"a,b,c\n1,2,3\n"
    packed = gzip.compress(content) if suffix == ".gz" else pyarrow.compress(content, "zstd", asbytes=True)
    (tmp_path / f"x.csv{suffix}").write_bytes(packed)
    assert answers("predict", one, tmp_path / f"x.csv{suffix}") == answers("predict", one, "-", stdin=content.decode())
    (tmp_path / f"x.csv{suffix}").write_bytes(packed[:-4])
    assert "cannot read" in refused("predict", one, tmp_path / f"x.csv{suffix}", "-o", tmp_path / "out.csv")


def test_a_fifo_is_read_once(one, tmp_path) -> None:
    fifo = tmp_path / "x.csv"
    os.mkfifo(fifo)

    def feed() -> None:
        fifo.write_text("a,b,c\n1,2,3\n")

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert len(answers("predict", one, fifo)) == 1
    feeder.join()
    told = refused("predict", one, fifo, "-o", tmp_path / "out.csv", "--resume")
    assert "a pipe can be read but once, and --part, --resume and --order need more" in told
    assert "no whole file can replace" in refused("predict", one, "-", "-o", fifo, stdin="a,b,c\n1,2,3\n")


# -- what is written


def test_nothing_that_is_read_or_written_is_overwritten(one, tmp_path) -> None:
    data = tmp_path / "x.csv"
    data.write_text("a,b,c\n1,2,3\n")
    (tmp_path / "link.csv").symlink_to(data)
    (tmp_path / "hard.csv").hardlink_to(data)
    (tmp_path / "one.npz").symlink_to(one)
    arguments = ("predict", one, data, "-o")
    for name in ("x.csv", "link.csv", "hard.csv", "./x.csv"):
        told = refused(*arguments, tmp_path / name)
        assert "is the input itself" in told
        assert data.read_text() == "a,b,c\n1,2,3\n"
    assert "is the artifact itself" in refused(*arguments, tmp_path / "one.npz")
    (tmp_path / "p.png").symlink_to(tmp_path / "later.csv")  # two names of a file that is not there yet
    told = refused(*arguments, tmp_path / "later.csv", "--plot", tmp_path / "p.png")
    assert "the picture" in told and "is the output itself" in told
    with pytest.raises(keepdrop.InputError, match="the report, .*, is the model itself"):
        targets.refuse_overwriting({"the report": data}, {"the model": tmp_path / "hard.csv"})
    targets.refuse_overwriting({"the report": tmp_path / "new.txt", "no": None}, {"the model": data})


def test_modes_and_links_of_an_older_file_stay(tmp_path) -> None:
    target = tmp_path / "out.csv"
    target.write_text("older")
    target.chmod(0o600)
    (tmp_path / "link.csv").symlink_to(target)
    with targets.replacing(tmp_path / "link.csv") as file:
        file.write(b"newer")
        (beside,) = tmp_path.glob(".out.csv.*.tmp")
        assert stat.S_IMODE(beside.stat().st_mode) == 0o600
    assert target.read_text() == "newer" and (tmp_path / "link.csv").is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    umask = os.umask(0o027)
    try:
        with targets.replacing(tmp_path / "fresh.csv") as file:
            file.write(b"x")
    finally:
        os.umask(umask)
    assert stat.S_IMODE((tmp_path / "fresh.csv").stat().st_mode) == 0o640
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fresh.csv", "link.csv", "out.csv"]


def test_leftovers_of_a_process_of_the_same_number_are_no_obstacle(tmp_path) -> None:
    for name in (f".out.csv.{os.getpid()}.tmp", ".out.csv.tmp"):
        (tmp_path / name).write_text("left over")
        (tmp_path / name).chmod(0o400)
    with targets.replacing(tmp_path / "out.csv") as file:
        file.write(b"x")
    assert (tmp_path / "out.csv").read_text() == "x"


def test_a_part_of_a_damaged_archive_is_refused(one, tmp_path) -> None:
    """Every bit that is flipped in the numbers is seen, whichever rows are asked for."""
    x = np.random.default_rng(0).standard_normal((400, 3)).astype(np.float32)
    for save in (np.savez, np.savez_compressed):
        buffer = io.BytesIO()
        save(buffer, x=x)
        with zipfile.ZipFile(buffer) as archive:
            start = archive.infolist()[0].header_offset + 60
        for place in np.random.default_rng(1).integers(start, len(buffer.getvalue()) - 150, 12):
            content = bytearray(buffer.getvalue())
            content[place] ^= 1
            (tmp_path / "x.npz").write_bytes(content)
            assert "cannot read" in refused(
                "predict", one, tmp_path / "x.npz", "-o", tmp_path / "out.npz", "--part", "1/9"
            )


def test_what_a_header_says_is_not_allocated(one, tmp_path) -> None:
    for shape in ((1, 2**45), (1, 2**62), (4, 3)):
        with open(tmp_path / "x.npy", "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        assert "its header says" in refused("predict", one, tmp_path / "x.npy", "-o", tmp_path / "out.npz")
    np.save(tmp_path / "x.npy", np.array([[1, None, 2]], object))
    told = refused("predict", one, tmp_path / "x.npy", "-o", tmp_path / "out.npz")
    assert "it holds pickled objects, which are not opened" in told and "allow_pickle" not in told


def test_parquet_pages_are_proven(tmp_path) -> None:
    """What this package writes bears checksums, and a reader of it sees a flipped bit."""
    with open(tmp_path / "x.parquet", "wb") as file:
        arrow.write(file, iter([{"a": np.random.default_rng(0).standard_normal(2000)}]))
    content = bytearray((tmp_path / "x.parquet").read_bytes())
    content[8000] ^= 1
    (tmp_path / "x.parquet").write_bytes(content)
    with sources.reader_of(tmp_path / "x.parquet") as reader, pytest.raises(keepdrop.InputError, match="cannot read"):
        list(reader.read(Selection(("a",)), 100))
