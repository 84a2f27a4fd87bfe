"""Streams of a toy artifact whose states and masks have a closed form (`conftest.STREAMING`)."""

import dataclasses
import hashlib
import io
import json
import subprocess
import sys
import threading
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

import keepdrop
from keepdrop import ArtifactError, InputError
from keepdrop.artifact.metadata import Draw, Tensor
from keepdrop.stream import recurrent

SEED = 7
FORECASTER = Path(__file__).parent / "data" / "forecaster.onnx"


def closed(steps, row, samples, seed=SEED, first_sample=0):
    """y after these steps [n, 2] of one row, and z at each: [T, 2], [T, n, 2]."""
    mask = 1 + np.arange(first_sample, first_sample + samples) + 10 * row + seed  # [T]
    weighted = np.asarray(steps) * np.arange(1, len(steps) + 1)[:, None]  # [n, 2]
    return mask[:, None] * weighted.sum(axis=0), mask[:, None, None] * weighted


@pytest.fixture
def model(streaming):
    return keepdrop.load(streaming, threads=1)


@pytest.fixture
def steps():
    """Whole numbers, so that float32 is exact: [3 rows, 9 steps, 2]."""
    return np.random.default_rng(0).integers(-4, 5, (3, 9, 2)).astype(np.float32)


def samples_of(predictions):
    return {name: prediction.samples for name, prediction in predictions.items()}


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, prediction in got.items():
        np.testing.assert_array_equal(prediction.samples, expected[name].samples)


def test_each_push_goes_on_from_the_one_before(model, steps) -> None:
    s = model.stream(samples=6, seed=SEED, rows=[0, 5, 2])
    assert (s.rows, s.samples, s.seed, s.first_sample) == ((0, 5, 2), 6, SEED, 0)
    for n in range(1, 10):
        p = s.push(steps[:, n - 1])
        assert s.steps_seen == {0: n, 5: n, 2: n}
        for b, row in enumerate(s.rows):
            y, z = closed(steps[b, :n], row, 6)
            np.testing.assert_array_equal(p["y"].samples[:, b], y)
            np.testing.assert_array_equal(p["z"].samples[:, b], z[:, -1])
            np.testing.assert_array_equal(p["w"].samples[:, b], np.tile(steps[b, :n].sum(axis=0), (6, 1)))
    np.testing.assert_allclose(p["y"].mean, p["y"].samples.mean(axis=0), rtol=1e-6)
    assert p["y"].std.shape == (3, 2)


@pytest.mark.parametrize("steps_a_run", [2, 256])
def test_chunks_of_any_lengths_give_what_steps_give(model, steps, monkeypatch, steps_a_run) -> None:
    monkeypatch.setattr(recurrent, "STEPS_A_RUN", steps_a_run)
    s = model.stream(samples=6, seed=SEED, rows=[0, 1, 2])
    s.push(steps[:, :1])
    p = s.push(steps[:, 1:8])
    assert p["z"].samples.shape == (6, 3, 7, 2)
    p = s.push(steps[:, 8:])
    assert p["z"].samples.shape == (6, 3, 1, 2)
    for b in range(3):
        np.testing.assert_array_equal(p["y"].samples[:, b], closed(steps[b], b, 6)[0])
    whole = model.stream(samples=6, seed=SEED, rows=[0, 1, 2]).push(steps)
    np.testing.assert_array_equal(whole["y"].samples, p["y"].samples)
    for b in range(3):
        np.testing.assert_array_equal(whole["z"].samples[:, b], closed(steps[b], b, 6)[1])
    backwards = model.stream(samples=6, seed=SEED, rows=[0, 1, 2]).push(steps[:, ::-1])
    assert not np.array_equal(backwards["y"].samples, p["y"].samples)


def test_rows_that_come_go_and_start_anew_leave_the_others_alone(model, steps) -> None:
    s = model.stream(samples=4, seed=SEED, rows=[3, 1])
    given = {3: [], 1: [], 9: []}

    def push(rows):
        for row in rows:
            given[row].append(steps[rows.index(row), len(given[row])])
        whole = rows == list(s.rows)
        p = s.push(np.array([given[row][-1] for row in rows]), rows=None if whole else rows)
        for b, row in enumerate(rows):
            np.testing.assert_array_equal(p["y"].samples[:, b], closed(given[row], row, 4)[0])

    push([3, 1])
    push([1])
    s.add(row=9)
    assert s.rows == (3, 1, 9)
    push([3, 1, 9])
    push([9, 3])
    s.reset(rows=[1])
    given[1] = []
    push([3, 1, 9])
    s.remove(row=3)
    assert s.rows == (1, 9)
    s.add(row=3)
    given[3] = []
    push([9, 3])
    push([1, 9, 3])
    assert s.steps_seen == {1: 2, 9: 5, 3: 2}
    s.add(row=4)
    s.remove(row=4)
    assert s.rows == (1, 9, 3) and not s._rows.unmasked
    s.reset()
    given = {row: [] for row in given}
    assert set(s.steps_seen.values()) == {0}
    push([1, 9, 3])


def test_many_rows_come_and_go_within_bounded_memory(model) -> None:
    s = model.stream(samples=2, seed=SEED, rows=())
    for row in range(300):
        s.add(row)
        s.push(np.ones((1, 2)), rows=[row])
    p = s.push(np.ones((300, 2)))
    for row in (0, 150, 299):
        np.testing.assert_array_equal(p["y"].samples[:, row], closed(np.ones((2, 2)), row, 2)[0])
    for row in range(299):
        s.remove(row)
    assert len(s._rows._arrays["total"]) <= 4
    np.testing.assert_array_equal(s.push(np.ones((1, 2)))["y"].samples[:, 0], closed(np.ones((3, 2)), 299, 2)[0])


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("limit", [2, 7, 24])
def test_how_a_push_is_cut_changes_nothing(streaming, steps, monkeypatch, threads, limit) -> None:
    monkeypatch.setattr(recurrent, "SAMPLE_ROWS_A_RUN", limit)
    s = keepdrop.load(streaming, threads=threads).stream(samples=8, seed=SEED, rows=[0, 1, 2], first_sample=5)
    sizes = []
    call = s._steps._session.call
    monkeypatch.setattr(
        s._steps._session, "call", lambda n, f: sizes.append(f["num_samples"] * len(f["rows"])) or call(n, f)
    )
    s.push(steps[:, 0])
    p = s.push(steps[:, 1:])
    for b in range(3):
        y, z = closed(steps[b], b, 8, first_sample=5)
        np.testing.assert_array_equal(p["y"].samples[:, b], y)
        np.testing.assert_array_equal(p["z"].samples[:, b], z[:, 1:])
        np.testing.assert_array_equal(p["w"].samples[:, b], np.tile(steps[b].sum(axis=0), (8, 1)))
    assert threads > 1 or (max(sizes) <= limit and sum(sizes) == 3 * 24)  # the masks, and two pushes


def test_samples_of_two_streams_are_those_of_one(model, steps) -> None:
    whole = model.stream(samples=10, seed=SEED, rows=[0, 1, 2]).push(steps)
    first = model.stream(samples=6, seed=SEED, rows=[0, 1, 2]).push(steps)
    rest = model.stream(samples=4, seed=SEED, rows=[0, 1, 2], first_sample=6).push(steps)
    np.testing.assert_array_equal(whole["y"].samples, np.concatenate([first["y"].samples, rest["y"].samples]))


def test_masks_are_made_once_a_row(model, steps, monkeypatch) -> None:
    s = model.stream(samples=4, seed=SEED, rows=[0, 1])
    asked = []
    call = s._steps._session.call
    monkeypatch.setattr(
        s._steps._session, "call", lambda n, f: asked.append((tuple(n), f["rows"].tolist())) or call(n, f)
    )
    s.push(steps[:2, :3])
    s.push(steps[:2, 1])
    s.add(2)
    s.push(steps[:, 2])
    s.reset()
    s.push(steps[:, 3])
    made = [rows for names, rows in asked if names == ("mask_made",)]
    assert made == [[0, 1], [2]]
    assert len(asked) == 4 + 2
    assert all("mask_made" not in names for names, _ in asked if len(names) > 1)


def test_a_long_push_is_run_in_parts(model, monkeypatch) -> None:
    """A push of days of readings takes no more memory at once than one of some hundred steps."""
    s = model.stream(samples=2, seed=SEED, rows=[0])
    call, lengths = s._steps._session.call, []

    def watched(names, feeds):
        lengths.append(feeds["x"].shape[1])
        return call(names, feeds)

    monkeypatch.setattr(s._steps._session, "call", watched)
    s.push(np.ones((1, 1000, 2), np.float32))
    assert s.steps_seen == {0: 1000}
    assert max(lengths) <= 300 and sum(lengths) >= 1000


def test_an_error_leaves_the_stream_as_it_was(model, steps, monkeypatch) -> None:
    s = model.stream(samples=4, seed=SEED, rows=[0, 1, 2])
    s.push(steps[:, 0])
    before = s.save()
    bad = steps[:, 1].copy()
    bad[1, 0] = np.nan
    with pytest.raises(InputError, match="input 'x' holds NaN or infinity, first in row 1"):
        s.push(bad)
    monkeypatch.setattr(recurrent, "STEPS_A_RUN", 2)
    call = s._steps._session.call
    calls = []

    def failing(names, feeds):
        calls.append(names)
        if len(calls) == 3:
            raise InputError("failed")
        return call(names, feeds)

    monkeypatch.setattr(s._steps._session, "call", failing)
    with pytest.raises(InputError, match="failed"):
        s.push(steps[:, 1:])
    assert len(calls) == 3
    assert s.save() == before


def test_a_reading_that_is_not_finite_is_refused_with_its_row(model) -> None:
    s = model.stream(rows=[30, 31, 32])
    with pytest.raises(InputError, match="first in row 32"):
        s.push([[1, 2], [3, np.inf]], rows=[30, 32])
    with pytest.raises(InputError, match="first in row 30"):
        s.push([[1e300, 2]], rows=[30])


@pytest.mark.parametrize(
    ("x", "shape"),
    [
        (np.ones((2, 3)), r"\[2, 3\]"),
        (np.ones((1, 2)), r"\[1, 2\]"),
        (np.ones(2), r"\[2\]"),
        (1, r"\[\]"),
        (np.ones((2, 0, 2)), r"\[2, 0, 2\]"),
        (np.ones((2, 1, 1, 2)), r"\[2, 1, 1, 2\]"),
        ([], r"\[0\]"),
    ],
)
def test_what_does_not_fit_is_told_with_both_forms(model, x, shape) -> None:
    s = model.stream(rows=[4, 8])
    expected = rf"input 'x' has shape {shape}; expected float32 \[2, 2\] or \[2, steps, 2\].*rows \[4, 8\]"
    with pytest.raises(InputError, match=expected):
        s.push(x)
    assert s.steps_seen == {4: 0, 8: 0}


@pytest.mark.parametrize("x", [[["a", "b"]], [[1, 2], [3]], [[None, 1]], {"x": [[1, 2]], "z": 1}, {}])
def test_what_is_no_reading_is_refused(model, x) -> None:
    with pytest.raises(InputError, match="input"):
        model.stream().push(x)


@pytest.mark.parametrize("form", [list, np.float64, np.int32, ">f4", "strided", dict])
def test_readings_of_any_form_are_taken(model, steps, form) -> None:
    x = {
        list: lambda: steps[:, 0].tolist(),
        "strided": lambda: np.repeat(steps[:, 0], 2, axis=1)[:, ::2],
        dict: lambda: {"x": steps[:, 0]},
    }.get(form, lambda: steps[:, 0].astype(form))()
    p = model.stream(samples=3, seed=SEED, rows=[0, 1, 2]).push(x)
    np.testing.assert_array_equal(p["y"].samples[:, 1], closed(steps[1, :1], 1, 3)[0])


def test_rows_that_do_not_fit_are_told(model) -> None:
    s = model.stream(rows=[0, 1])
    x = np.ones((1, 2))
    with pytest.raises(InputError, match=r"no row 9; add it first, as in stream.add\(row=9\)"):
        s.push(x, rows=[9])
    with pytest.raises(InputError, match="names a row twice; give its steps as one chunk"):
        s.push(np.ones((2, 2)), rows=[1, 1])
    with pytest.raises(InputError, match="rows is empty"):
        s.push(x, rows=[])
    with pytest.raises(InputError, match="expected a sequence of integers"):
        s.push(x, rows=0)
    with pytest.raises(InputError, match="expected integers that fit int64"):
        s.push(x, rows=[0.5])
    with pytest.raises(InputError, match="no row 9"):
        s.reset(rows=[9])
    with pytest.raises(InputError, match="no row 9"):
        s.remove(9)
    with pytest.raises(InputError, match="has row 1 already; reset it"):
        s.add(1)
    with pytest.raises(InputError, match="row is 'a'; expected an integer"):
        s.add("a")
    with pytest.raises(InputError, match="row is 9223372036854775808"):
        s.add(2**63)
    with pytest.raises(InputError, match=r"\[5, 5\] and names a row twice; give each an id of its own"):
        model.stream(rows=[5, 5])
    s.remove(0)
    s.remove(1)
    assert s.rows == ()
    with pytest.raises(InputError, match="the stream has no rows; add one first"):
        s.push(x)
    s.reset()
    assert model.resume(s.save()).rows == ()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"samples": 0}, "samples is 0; give 1 or more"),
        ({"samples": 2.5}, "samples is 2.5; expected an integer"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"first_sample": -1}, "first_sample is -1; give 0 or more"),
        ({"first_sample": 2**63 - 2}, "first_sample is 9223372036854775806; give"),
        ({"rows": "ab"}, "rows is 'ab'"),
    ],
)
def test_a_stream_that_cannot_be_is_told(model, arguments, text) -> None:
    with pytest.raises(InputError, match=text):
        model.stream(**arguments)


def test_defaults_are_one_row_and_the_files_samples(model) -> None:
    s = model.stream()
    assert (s.rows, s.samples, s.seed, s.first_sample, s.steps_seen) == ((0,), 5, 0, 0, {0: 0})


def test_a_streaming_artifact_takes_no_whole_inputs(model) -> None:
    for call in (model.sample, model.predict):
        with pytest.raises(
            InputError, match=r"this artifact streams and takes no whole inputs; push steps to model.stream\(\)"
        ):
            call(np.ones((1, 4, 2)))


# An ordinary artifact, asked for a window that rolls


@pytest.fixture(scope="module")
def forecaster():
    return keepdrop.load(FORECASTER, threads=1)  # [batch, 5, 2] -> [batch, 2]


@pytest.fixture
def readings():
    """[2 rows, 12 steps, 2]"""
    return np.random.default_rng(3).normal(size=(2, 12, 2)).astype(np.float32)


def test_a_window_that_rolls_is_predicted_as_any_other(forecaster, readings) -> None:
    s = forecaster.stream(samples=7, seed=SEED, rows=[4, 9], first_sample=2)
    assert s.window == 5
    for n in range(1, 13):
        p = s.push(readings[:, n - 1])
        assert s.warm == {4: n >= 5, 9: n >= 5}
        if n < 5:
            assert np.isnan(p.samples).all() and p.samples.shape == (7, 2, 1)
        else:
            window = readings[:, n - 5 : n]
            wanted = forecaster.sample(window, samples=7, seed=SEED, rows=[4, 9], first_sample=2)
            np.testing.assert_array_equal(p.samples, wanted)


def test_windows_roll_by_chunks_row_by_row_and_after_a_resume(forecaster, readings) -> None:
    s = forecaster.stream(samples=3, rows=[4, 9])
    s.push(readings[:, :7])
    s.push(readings[:1, 7], rows=[4])
    s = forecaster.resume(s.save())
    p = s.push(readings[::-1, 7:9], rows=[9, 4])
    assert s.steps_seen == {4: 10, 9: 9}
    wanted = np.concatenate([readings[:, 6:8], readings[:, 7:9]], axis=1)[0]
    window = np.stack([readings[1, 4:9], np.concatenate([readings[0, 5:8], readings[0, 7:9]])])
    assert len(wanted) == 4
    np.testing.assert_array_equal(p.samples, forecaster.sample(window, samples=3, rows=[9, 4]))
    s.reset([4])
    assert s.warm == {4: False, 9: True}
    assert np.isnan(s.push(readings[:1, 0], rows=[4]).mean).all()


# n[t, b] = t + the sum of ids[b]
ANY_LENGTH = """
<ir_version: 8, opset_import: ["" : 18]>
toy (int32[batch,time] ids, int64 seed, int64[batch] rows, int64 num_samples = {5}, int64 first_sample = {0})
  => (float[samples,batch] n)
  <int64 one = {1}, int64[1] last = {1}>
{
  stop = Add(first_sample, num_samples)
  t = Range(first_sample, stop, one)
  tf = Cast<to = 1>(t)
  t2 = Unsqueeze(tf, last)
  total = ReduceSum<keepdims = 0>(ids, last)
  totalf = Cast<to = 1>(total)
  n = Add(t2, totalf)
}
"""


def test_windows_of_any_length_have_to_be_told(write, metadata) -> None:
    inputs, outputs = (Tensor("ids", "int32", (None, None)),), (Tensor("n", "float32", (None, None)),)
    told = dataclasses.replace(metadata, inputs=inputs, outputs=outputs, verified=None)
    toy = keepdrop.load(write(ANY_LENGTH, told.to_json(), "any.onnx"))
    with pytest.raises(InputError, match="takes windows of any length; say how many steps those had"):
        toy.stream()
    s = toy.stream(samples=2, rows=[3], window=3)
    for n, word in enumerate((1, 2, 3, 4, 5)):
        p = s.push([word])
        assert np.isnan(p.mean).all() == (n < 2)
    np.testing.assert_array_equal(p.samples, [[12], [13]])
    np.testing.assert_array_equal(toy.resume(s.save()).push([6]).samples, [[15], [16]])


def test_another_window_than_the_artifacts_is_refused(forecaster, model) -> None:
    with pytest.raises(InputError, match="window is 4 and this artifact takes windows of 5 steps"):
        forecaster.stream(window=4)
    with pytest.raises(InputError, match="window is 0; give 1 or more"):
        model.stream(window=0)


def test_a_stream_is_warm_once_it_has_seen_a_window(model, steps) -> None:
    s = model.stream(rows=[0, 1], window=3)
    s.push(steps[:2, :2])
    assert s.warm == {0: False, 1: False}
    s.push(steps[1:2, 2], rows=[1])
    assert s.warm == {0: False, 1: True}
    assert model.resume(s.save()).warm == s.warm
    assert model.stream().warm == {0: True}  # of a model that takes any length


def test_a_graph_that_is_not_what_its_metadata_tells_is_refused(write, streaming_text, streaming_metadata) -> None:
    renamed = streaming_text.replace("plain_next", "plain_after")
    with pytest.raises(ArtifactError, match=r"the graph lacks \['plain_next'\]"):
        keepdrop.load(write(renamed, streaming_metadata.to_json()))
    turned = streaming_text.replace("y = Transpose<perm = [1, 0, 2]>(total_next)", "y = Identity(total_next)")
    turned = turned.replace("ones = Sub(y, y)", "yt = Transpose<perm = [1, 0, 2]>(y)\n  ones = Sub(yt, yt)")
    turned = turned.replace("(float[samples,batch,2] y,", "(float[a,b,2] y,")
    with pytest.raises(ArtifactError, match=r"gave 'y' as \[1, 5, 2\] for 5 samples of 1 rows"):
        keepdrop.load(write(turned, streaming_metadata.to_json())).stream().push(np.ones((1, 2)))


def test_streams_of_one_model_are_pushed_from_several_threads(streaming, steps) -> None:
    model = keepdrop.load(streaming, threads=2)
    found = {}

    def one_stream(row):
        s = model.stream(samples=50, seed=SEED, rows=[row])
        for n in range(9):
            p = s.push(steps[:1, n])
        found[row] = p["y"].samples[:, 0]

    shared = model.stream(samples=50, seed=SEED, rows=range(8))

    def one_row(row):
        for n in range(9):
            p = shared.push(steps[:1, n], rows=[row])
        found[row, "shared"] = p["y"].samples[:, 0]

    threads = [threading.Thread(target=call, args=(row,)) for row in range(8) for call in (one_stream, one_row)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for row in range(8):
        np.testing.assert_array_equal(found[row], closed(steps[0], row, 50)[0])
        np.testing.assert_array_equal(found[row, "shared"], closed(steps[0], row, 50)[0])


# In a process of its own, whose memory is nobody else's.
MANY_STEPS = """
import json, os, sys
import numpy as np
import keepdrop

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

s = keepdrop.load(sys.argv[1], threads=1).stream(samples=200)
step, chunk = np.zeros((1, 2), np.float32), np.zeros((1, 800, 2), np.float32)

def push(steps, chunks):
    for _ in range(steps):
        s.push(step)
    for _ in range(chunks):
        s.push(chunk)

push(1000, 5)
before, blocks = resident(), sys.getallocatedblocks()
push(19_000, 95)
told = {"steps": s.steps_seen[0], "bytes": resident() - before, "objects": sys.getallocatedblocks() - blocks}
kept = [s.push(step) for _ in range(6000)]
print(json.dumps({**told, "kept": resident() - before}))
"""


def test_a_hundred_thousand_steps_take_no_memory(streaming) -> None:
    """A step's states kept by mistake would take 32 MB, its samples 96; what malloc holds moves by 6 (the chunks)."""
    done = subprocess.run([sys.executable, "-c", MANY_STEPS, streaming], capture_output=True, text=True, check=True)
    told = json.loads(done.stdout)
    assert told["steps"] == 100_000
    assert told["bytes"] < 16 << 20
    assert told["objects"] < 2000
    assert told["kept"] > 24 << 20, "the measure does not see what is kept"


def test_what_does_not_fit_in_the_budget_is_refused_with_the_arithmetic(streaming) -> None:
    model = keepdrop.load(streaming, memory="10kB")  # a row carries 8 + 4 bytes a sample, and 8
    s = model.stream(samples=100, rows=range(8))
    text = "9 rows x 1,208 bytes of states and masks for 100 samples = 10.9 kB, and the budget is 10.0 kB"
    with pytest.raises(keepdrop.TooLarge, match=text):
        s.add(8)
    assert s.rows == tuple(range(8))
    with pytest.raises(keepdrop.TooLarge, match=text):
        model.stream(samples=100, rows=range(9))
    s.remove(0)
    s.add(8)
    with pytest.raises(keepdrop.TooLarge, match="the budget is 1.0 kB"):
        keepdrop.load(streaming, memory="1kB").resume(s.save())
    with pytest.raises(keepdrop.TooLarge, match="half of the memory that is free here"):
        keepdrop.load(streaming).stream(samples=10**12)


# Saving and resuming


@pytest.fixture
def started(model, steps):
    s = model.stream(samples=6, seed=SEED, rows=[4, 0, 2], first_sample=3)
    s.push(steps[:, :4])
    s.push(steps[:2, 4], rows=[0, 2])
    return s


@pytest.mark.parametrize("threads", [1, 2])
def test_a_resumed_stream_gives_the_numbers_to_come(started, streaming, steps, tmp_path, threads) -> None:
    data = started.save()
    (tmp_path / "state.npz").write_bytes(data)
    expected = started.push(steps[:, 5:7]), started.push(steps[:1, 7], rows=[2])
    again = keepdrop.load(streaming, threads=threads)
    for source in (data, bytearray(data), memoryview(data), tmp_path / "state.npz", str(tmp_path / "state.npz")):
        resumed = again.resume(source)
        assert (resumed.rows, resumed.samples, resumed.seed, resumed.first_sample) == ((4, 0, 2), 6, SEED, 3)
        assert resumed.steps_seen == {4: 4, 0: 5, 2: 5}
        assert resumed.save() == data
        got = resumed.push(steps[:, 5:7]), resumed.push(steps[:1, 7], rows=[2])
        for have, want in zip(got, expected, strict=True):
            assert_same(have, want)
        assert resumed.save() == started.save()
        resumed.add(11)
        np.testing.assert_array_equal(
            resumed.push(steps[:1, 0], rows=[11])["y"].samples[:, 0], closed(steps[0, :1], 11, 6, first_sample=3)[0]
        )


def test_the_saved_state_is_the_documented_file(started) -> None:
    with np.load(io.BytesIO(started.save()), allow_pickle=False) as file:
        entries = {name: (str(file[name].dtype), file[name].shape) for name in file.files}
        assert file["artifact_sha256"] == started._steps._session.sha256()
        assert file["rows"].tolist() == [4, 0, 2]
    assert entries == {
        "keepdrop_stream": ("int64", ()),
        "contract": ("int64", ()),
        "artifact_sha256": ("<U64", ()),
        "numbers_sha256": ("<U64", ()),
        "seed": ("int64", ()),
        "first_sample": ("int64", ()),
        "samples": ("int64", ()),
        "window": ("int64", ()),
        "rows": ("int64", (3,)),
        "steps_seen": ("int64", (3,)),
        "diverged": ("int64", (3,)),
        "time": ("float64", (3,)),
        "state/total": ("float32", (3, 6, 2)),
        "state/plain": ("float32", (3, 2)),
        "calibration": ("<U1", ()),
    }


def changed(data: bytes, **entries) -> bytes:
    """The saved state with other entries; None drops one."""
    with np.load(io.BytesIO(data)) as file:
        arrays = {**{name: file[name] for name in file.files}, **entries}
    out = io.BytesIO()
    np.savez(out, **{name: array for name, array in arrays.items() if array is not None})
    return out.getvalue()


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ({"keepdrop_stream": np.int64(3)}, "bears keepdrop_stream version 3 and this keepdrop knows 1 to 2"),
        ({"contract": np.int64(2)}, "bears contract version 2"),
        ({"numbers_sha256": np.array("ab" * 32)}, "was saved with another artifact"),
        ({"artifact_sha256": np.int64(1)}, r"its 'artifact_sha256' is int64 \[\], expected text"),
        ({"artifact_sha256": np.array({"a": 1}, object)}, "it holds pickled objects"),
        ({"state/total": None}, "it lacks 'state/total'"),
        ({"state/other": np.zeros(3)}, r"it also holds \['state/other'\]"),
        ({"state/total": np.zeros((3, 6, 3), np.float32)}, r"is float32 \[3, 6, 3\], expected float32 \[3, 6, 2\]"),
        ({"state/total": np.zeros((3, 6, 2))}, "is float64"),
        ({"state/total": np.zeros((2, 6, 2), np.float32)}, r"expected float32 \[3, 6, 2\]"),
        ({"state/plain": np.full((3, 2), np.nan, np.float32)}, "state 'plain' of row 4 holds NaN or infinity"),
        ({"samples": np.int64(0)}, "its 'samples' is 0, expected 1 or more"),
        ({"samples": np.int64(2**62)}, r"expected float32 \[3, 4611686018427387904, 2\]"),
        ({"samples": np.float64(6)}, "its 'samples' is float64"),
        ({"first_sample": np.int64(-1)}, "its 'first_sample' is -1"),
        ({"first_sample": np.int64(2**63 - 2)}, "first_sample is 9223372036854775806"),
        ({"rows": np.array([4, 0, 4])}, "rows are not unique"),
        ({"rows": np.array([[4, 0, 2]])}, "its 'rows' is"),
        ({"steps_seen": np.array([1, 2, -3])}, "less than no step"),
        ({"steps_seen": np.array([1, 2])}, r"expected int64 \[3\]"),
        (
            {"keepdrop_stream": np.int64(1)},
            r"it also holds \['calibration', 'diverged', 'numbers_sha256', 't",
        ),
        ({"diverged": None}, "it lacks 'diverged'"),
        ({"time": np.array([0, np.nan, 0])}, "or at no time"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(started, model, entries, text) -> None:
    data = started.save()
    model.resume(changed(data))
    with pytest.raises(InputError, match=text) as caught:
        model.resume(changed(data, **entries))
    assert str(caught.value).count("\n") == 0


def test_what_is_no_saved_state_is_refused(model, tmp_path) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    other = io.BytesIO()
    np.savez(other, x=np.zeros(3))
    for data in (b"", b"PK", b"text", array.getvalue(), other.getvalue()):
        with pytest.raises(InputError, match="the saved stream is damaged, or is not a saved stream"):
            model.resume(data)
    with pytest.raises(InputError, match=r"cannot read .*none.npz \(No such file"):
        model.resume(tmp_path / "none.npz")
    with pytest.raises(InputError, match=r"cannot read .* \(Is a directory"):
        model.resume(tmp_path)
    (tmp_path / "text").write_text("text")
    with pytest.raises(InputError, match="text is damaged, or is not"):
        model.resume(tmp_path / "text")
    with pytest.raises(InputError, match="data is 3; give"):
        model.resume(3)


def test_a_damaged_file_is_refused_or_holds_the_same(started, model) -> None:
    """Cut anywhere, or with any byte changed: the archive's checksums see what matters."""
    data = started.save()
    refused = 0
    for at in range(len(data)):
        with pytest.raises(InputError):
            model.resume(data[:at])
        bent = bytearray(data)
        bent[at] ^= 0xFF
        try:
            resumed = model.resume(bent)
        except InputError:
            refused += 1
        else:
            assert resumed.save() == data
    assert refused > len(data) / 2


def test_a_rebuild_goes_on_and_another_artifact_is_refused(
    started, model, write, streaming_text, streaming_metadata, other, steps
) -> None:
    told = dataclasses.replace(streaming_metadata, default_samples=9).to_json()
    rebuilt = keepdrop.load(write(streaming_text, told, "rebuilt.onnx"))
    resumed = rebuilt.resume(started.save())
    assert_same(resumed.push(steps[:, 5]), started.push(steps[:, 5]))
    before = changed(started.save(), keepdrop_stream=np.int64(1), **dict.fromkeys(NEW))
    for data, loaded in ((started.save(), other), (before, other), (before, rebuilt)):
        with pytest.raises(InputError, match="was saved with another artifact"):
            loaded.resume(data)


@pytest.fixture
def other(write, streaming_text, streaming_metadata):
    """The same states, other numbers: y is a tenth more."""
    text = streaming_text.replace("float ten = {10}", "float ten = {11}")
    return keepdrop.load(write(text, streaming_metadata.to_json(), "other.onnx"))


def test_a_new_artifact_goes_on_from_the_states_if_asked(started, other, steps) -> None:
    with pytest.raises(InputError, match="say by on_new_artifact= that its states are to be kept or reset"):
        other.resume(started.save())
    kept = other.resume(started.save(), on_new_artifact="keep")
    assert kept.steps_seen == started.steps_seen
    first, second = kept.push(steps[:, 5]), started.push(steps[:, 5])
    assert_same({"w": first["w"]}, {"w": second["w"]})  # the plain sums of all steps, those before included
    assert not np.array_equal(first["y"].samples[:, 0], second["y"].samples[:, 0])
    assert other.resume(kept.save()).steps_seen == kept.steps_seen
    with pytest.raises(InputError, match="on_new_artifact is 'drop'; give one of"):
        other.resume(started.save(), on_new_artifact="drop")


def test_a_new_artifact_starts_the_rows_anew_if_asked(started, other, forecaster, steps) -> None:
    anew = other.resume(started.save(), on_new_artifact="reset")
    assert (anew.rows, anew.seed, anew.samples, anew.first_sample) == ((4, 0, 2), SEED, 6, 3)
    assert set(anew.steps_seen.values()) == {0}
    assert_same(
        anew.push(steps[:, 0]), other.stream(samples=6, seed=SEED, rows=[4, 0, 2], first_sample=3).push(steps[:, 0])
    )
    assert forecaster.resume(started.save(), on_new_artifact="reset").window == 5
    with pytest.raises(InputError, match="it lacks 'state/window'.*can be kept where they have the same shapes"):
        forecaster.resume(started.save(), on_new_artifact="keep")


def test_a_model_is_loaded_anew_where_its_file_was_replaced(write, streaming_text, streaming_metadata, steps) -> None:
    path = write(streaming_text, streaming_metadata.to_json(), "served.onnx")
    model = keepdrop.load(path, threads=1, by_output=True)
    running = model.stream(rows=[0, 1, 2])
    assert model.reload() is model
    text = streaming_text.replace("float ten = {10}", "float ten = {11}")
    path.unlink()
    write(text, streaming_metadata.to_json(), "served.onnx")
    new = model.reload()
    assert new is not model and new.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    fresh = new.stream(rows=[0, 1, 2])
    old, latest = running.push(steps[:, 0]), fresh.push(steps[:, 0])
    assert_same({"w": old["w"]}, {"w": latest["w"]})
    assert not np.array_equal(old["y"].samples[:, 1:], latest["y"].samples[:, 1:])
    path.write_bytes(b"half a file")
    with pytest.raises(ArtifactError):
        model.reload()
    running.push(steps[:, 1])
    with pytest.raises(InputError, match="was loaded from memory"):
        keepdrop.load(io.BytesIO(FORECASTER.read_bytes())).reload()


def test_a_file_replaced_since_it_was_loaded_has_no_digest(write, streaming_text, streaming_metadata) -> None:
    path = write(streaming_text, streaming_metadata.to_json(), "mine.onnx")
    model = keepdrop.load(path)
    path.unlink()
    write(streaming_text, dataclasses.replace(streaming_metadata, default_samples=9).to_json(), "mine.onnx")
    with pytest.raises(ArtifactError, match="is no longer the file that was opened; load it again"):
        model.stream()
    path.unlink()
    with pytest.raises(ArtifactError, match="is no longer the file"):
        model.stream()


def test_a_stream_outlives_its_file(write, streaming_text, streaming_metadata) -> None:
    path = write(streaming_text, streaming_metadata.to_json(), "mine.onnx")
    s = keepdrop.load(path).stream()
    path.unlink()
    s.push(np.ones((1, 2)))
    assert len(s.save()) > 0


NEW = ("numbers_sha256", "window", "diverged", "time", "calibration")  # the entries that version 1 has not


def test_a_state_of_before_is_read(started, model, steps) -> None:
    data = changed(started.save(), keepdrop_stream=np.int64(1), **dict.fromkeys(NEW))
    resumed = model.resume(data)
    assert (resumed.steps_seen, resumed.diverged) == (started.steps_seen, {})
    assert_same(resumed.push(steps[:, 5]), started.push(steps[:, 5]))


def test_a_file_is_given_no_more_memory_than_it_may_have(started, streaming) -> None:
    """A small file one entry of which unpacks to 200 MB."""
    out = io.BytesIO(started.save())
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("junk.npy", "w") as member:
        header = {"descr": "|u1", "fortran_order": False, "shape": (200_000_000,)}
        np.lib.format.write_array_header_1_0(member, header)
        for _ in range(200):
            member.write(bytes(1_000_000))
    assert len(out.getvalue()) < 300_000
    tracemalloc.start()
    with pytest.raises(keepdrop.TooLarge, match="what the saved stream says it holds = 200.0 MB, and the budget is 50"):
        keepdrop.load(streaming, memory="50MB").resume(out.getvalue())
    with pytest.raises(InputError, match=r"it also holds \['junk'\]"):
        keepdrop.load(streaming, memory="500MB").resume(out.getvalue())
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_a_row_that_diverges_is_lost_alone_until_it_is_reset(model, steps) -> None:
    s = model.stream(samples=3, seed=SEED, rows=[0, 6])
    s.push(steps[:2, 0])
    huge = steps[:2, 1].copy()
    huge[1] = 3e38
    p = s.push(huge)
    assert s.diverged == {6: 2}
    for name, prediction in p.items():
        assert np.isfinite(prediction.samples[:, 0]).all() and np.isnan(prediction.samples[:, 1]).all(), name
    s = model.resume(s.save())
    assert s.diverged == {6: 2}
    p = s.push(steps[:2, 2])
    assert s.steps_seen == {0: 3, 6: 3} and s.diverged == {6: 2}
    assert np.isnan(p["y"].samples[:, 1]).all()
    np.testing.assert_array_equal(p["y"].samples[:, 0], closed(steps[0, :3], 0, 3)[0])
    s.reset(rows=[6])
    assert s.diverged == {}
    p = s.push(steps[1:2, 0], rows=[6])
    np.testing.assert_array_equal(p["y"].samples[:, 0], closed(steps[1, :1], 6, 3)[0])


def test_how_far_a_sample_may_be_follows_the_block(write, streaming_text, streaming_metadata) -> None:
    far = dataclasses.replace(
        streaming_metadata,
        draws=(Draw("d", "call", "dropout", 0.5, (None, 2), generator=0, offset=0),),
        draws_per_row=1,
        stream=dataclasses.replace(streaming_metadata.stream, block=1000),
    )
    model = keepdrop.load(write(streaming_text, far.to_json()))
    model.stream(first_sample=2**50)
    with pytest.raises(InputError, match="first_sample is 9007199254740992; give"):
        model.stream(first_sample=2**53)
