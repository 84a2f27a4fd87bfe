"""Whatever is given works as NumPy's users expect, or one sentence tells what was given, expected and to be done."""

import decimal
import re
from pathlib import Path

import numpy as np
import pytest

import keepdrop
from keepdrop.run import engine
from keepdrop.run.session import Session

SENTENCE = Path(__file__).parent / "data" / "sentence.onnx"
ROW = np.array([[1, 2, 3], [0, -1, 4]], np.float32)


class Subclass(np.ndarray):
    pass


class Library:
    """Another library's array."""

    def __init__(self, answer) -> None:
        self.answer = answer

    def __array__(self, dtype=None, copy=None):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


WORKS = {
    "list": ROW.tolist(),
    "tuple": tuple(map(tuple, ROW.tolist())),
    "list of arrays": list(ROW),
    "float64": ROW.astype(np.float64),
    "float16": ROW.astype(np.float16),
    "long double": ROW.astype(np.longdouble),
    "big-endian": ROW.astype(">f4"),
    "big-endian float64": ROW.astype(">f8"),
    "int8": ROW.astype(np.int8),
    "int64": ROW.astype(np.int64),
    "big-endian integers": ROW.astype(">i2"),
    "strided": np.repeat(ROW, 2, axis=1)[:, ::2],
    "backwards": ROW[::-1][::-1],
    "Fortran's order": np.asfortranarray(ROW),
    "read-only": np.broadcast_to(ROW, ROW.shape),
    "masked, with no mask": np.ma.masked_array(ROW),
    "matrix": np.matrix(ROW),
    "subclass": ROW.view(Subclass),
    "another library's": Library(ROW),
    "by name": {"x": ROW},
    "list of numpy scalars": [[np.float64(v) for v in row] for row in ROW],
    "list of Python integers": [[1, 2, 3], [0, -1, 4]],
}


@pytest.mark.parametrize("given", WORKS)
def test_what_numbers_can_be_given_as(one, closed, given: str) -> None:
    np.testing.assert_array_equal(keepdrop.load(one, threads=1).sample(WORKS[given]), closed(ROW, 5))


def test_the_memory_of_a_memmap_is_read_as_it_is(one, closed, tmp_path) -> None:
    np.save(tmp_path / "x.npy", ROW)
    x = np.load(tmp_path / "x.npy", mmap_mode="r")
    np.testing.assert_array_equal(keepdrop.load(one, threads=1).sample(x), closed(ROW, 5))


def test_inputs_are_left_as_they_are(one) -> None:
    x = ROW.astype(np.float64)
    before = x.copy()
    keepdrop.load(one, threads=1).predict(x)
    np.testing.assert_array_equal(x, before)


REFUSED = {
    "None": (None, "input 'x' holds a NoneType that does not go into float32 unchanged; give numbers, float32 [batch"),
    "text": ("abc", "input 'x' holds <U3 that does not go into float32"),
    "strings": ([["1", "2", "3"]], 'x.astype("float32") where they are numbers in another guise'),
    "bytes": (b"abc", "holds |S3"),
    "a generator": ((n for n in range(3)), "holds a generator"),
    "a set": ({1, 2}, "holds a set"),
    "objects": (ROW.astype(object), "holds object"),
    "decimals": ([[decimal.Decimal(1)] * 3], "holds object"),
    "None among numbers": ([[1, None, 3]], "holds object"),
    "complex": (ROW + 1j, "holds complex64"),
    "dates": (ROW.astype("M8[s]"), "holds datetime64[s]"),
    "records": (np.zeros(2, "i4, f4"), "holds [('f0', '<i4'), ('f1', '<f4')]"),
    "void": (np.zeros((2, 3), "V4"), "holds |V4"),
    "a number": (1.0, "has shape []; expected float32 [batch, 3]"),
    "numpy's scalar": (np.float32(1), "has shape []; expected float32 [batch, 3]"),
    "0-d": (np.array(1.0), "has shape []; expected float32 [batch, 3]"),
    "one example": (ROW[0], "one example needs a batch axis too: x[np.newaxis]"),
    "an axis too many": (ROW[:, :, None], "has shape [2, 3, 1]; expected float32 [batch, 3]; reshape it"),
    "another length": (ROW[:, :2], "has shape [2, 2]; expected float32 [batch, 3]; reshape it"),
    "nothing": ([], "has shape [0]; expected float32 [batch, 3]"),
    "no rows": (ROW[:0], "the batch is empty; give at least one row"),
    "ragged": ([[1, 2, 3], [1]], "is not an array"),
    "NaN": ([[1, 2, np.nan]], "holds NaN or infinity, first in row 0; fill or drop such rows"),
    "infinity": ([[1, 2, 3], [1, 2, -np.inf]], "holds NaN or infinity, first in row 1"),
    "too large for float32": ([[1, 2, 1e300]], "holds numbers too large for float32, first in row 0; scale it"),
    "integers too large for any": ([[1, 2, 10**400]], "holds object"),
    "masked": (np.ma.masked_equal(ROW, 2), "has 1 masked elements, and a model takes every element; fill them"),
    "a library's that fails": (Library(RuntimeError("on a\n GPU")), "is not an array (on a GPU); give one"),
    "an unknown name": ({"y": ROW}, "the model has no input ['y']; its inputs are ['x']"),
    "a name that is no text": ({1: ROW}, "the model has no input [1]; its inputs are ['x']"),
    "no name": ({}, "no array was given for input ['x']"),
}  # fmt: skip


def refusal(call) -> str:
    """The text of the InputError, found to be one sentence of a decent length, with no error of others shown above."""
    with pytest.raises(keepdrop.InputError) as caught:
        call()
    text = str(caught.value)
    assert "\n" not in text and len(text) < 500
    assert "onnxruntime" not in text.replace("onnxruntime's recurrent operators", "").lower()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert isinstance(caught.value, ValueError)
    return text


@pytest.mark.parametrize("method", ["sample", "predict"])
@pytest.mark.parametrize("given", REFUSED)
def test_what_cannot_be_an_input_is_refused_in_a_sentence(one, given: str, method: str) -> None:
    x, text = REFUSED[given]
    model = keepdrop.load(one, threads=1)
    assert text in refusal(lambda: getattr(model, method)(x))


BAD_INTEGERS = [
    (True, "is True; expected an integer"),
    (np.True_, "expected an integer"),
    (2.0, "is 2.0; expected an integer"),
    (np.float32(2), "expected an integer"),
    (float("nan"), "is nan; expected an integer"),
    ("3", "is '3'; expected an integer"),
    (np.array([2]), "is array([2]); expected an integer"),
    ([1], "is [1]; expected an integer"),
    (1j, "is 1j; expected an integer"),
    (2**63, f"is {2**63}; give {2**63 - 1} or less"),
    pytest.param(10**9000, "is an integer of more than 256 bits; give", id="of 9001 digits"),
]


@pytest.mark.parametrize("name", ["samples", "seed", "first_sample", "threads"])
@pytest.mark.parametrize(("value", "text"), BAD_INTEGERS)
def test_what_is_no_integer_is_refused_in_a_sentence(one, name: str, value, text: str) -> None:
    model = keepdrop.load(one, threads=1)
    call = (
        (lambda: keepdrop.load(one, threads=value)) if name == "threads" else lambda: model.sample(ROW, **{name: value})
    )
    found = refusal(call)
    assert found.startswith(name)
    assert text in found


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (dict(samples=0), "samples is 0; give 1 or more"),
        (dict(samples=-3), "samples is -3; give 1 or more"),
        (dict(first_sample=-1), "first_sample is -1; give 0 or more"),
        (dict(seed=-(2**63) - 1), "give the least int64 or more"),
        (dict(samples=2**62), f"samples is {2**62}; give {(2**63 - 1) // 6} or less"),
        (dict(rows=["a", "b"]), "rows holds <U1; expected integers"),
        (dict(rows=[None, 1]), "rows holds object; expected integers"),
        (dict(rows=[0.0, 1.0]), "rows holds float64; expected integers"),
        (dict(rows=[[0, 1]]), "rows has shape [1, 2]; expected [2]"),
        (dict(rows=[2**64, 1]), "rows holds object; expected integers"),
        (dict(rows=np.ma.masked_equal([0, 1], 1)), "rows has 1 masked ids; give each row an id of its own"),
        (dict(rows=[[0], [1, 2]]), "rows is not an array"),
        (dict(rows=Library(RuntimeError("no"))), "rows is not an array (no); give 2 integers"),
    ],
)
def test_other_arguments_are_refused_in_a_sentence(one, arguments: dict, text: str) -> None:
    model = keepdrop.load(one, threads=1)
    assert text in refusal(lambda: model.sample(ROW, **arguments))


@pytest.mark.parametrize("value", [3, np.int8(3), np.uint64(3), np.array(3)])
def test_what_is_an_integer(one, closed, value) -> None:
    model = keepdrop.load(one, threads=1)
    np.testing.assert_array_equal(
        model.sample(ROW, samples=value, seed=value, first_sample=value, rows=np.array([5, 6], ">u2")),
        closed(ROW, 3, seed=3, first_sample=3, rows=[5, 6]),
    )


EXTRA = np.zeros((1, 4), np.float32)


def test_ids_that_an_embedding_lacks_are_told_with_those_it_has() -> None:
    model = keepdrop.load(SENTENCE, threads=1)
    text = refusal(lambda: model.sample({"words": [[1, 2, 11]], "extra": EXTRA}))
    assert "looks the number 11 up in a table of 11 entries; give ids from 0 to 10 in ['words']" in text
    assert model.sample({"words": [[1, 2, 10]], "extra": EXTRA}, samples=2)["mood"].shape == (2, 1, 2)


def test_a_length_of_zero_is_refused() -> None:
    model = keepdrop.load(SENTENCE, threads=1)
    text = refusal(lambda: model.sample({"words": np.zeros((1, 0), int), "extra": EXTRA}))
    assert "input 'words' has shape [1, 0]; expected int32 [batch, any]; give at least one step of every axis" in text


def test_a_shape_that_the_graph_does_not_take_is_told(write, one_text, metadata, x) -> None:
    """An artifact can hold what its inputs' shapes do not tell."""
    picky = one_text.replace("y = Add(xtr, s)", "w = Add(xtr, s)\n  y = Reshape(w, shape)").replace(
        "float hundred = {100}>", "float hundred = {100}, int64[3] shape = {5, 7, 3}>"
    )
    model = keepdrop.load(write(picky, metadata.to_json()), threads=1)
    assert model.sample(x, samples=5).shape == (5, 7, 3)
    text = refusal(lambda: model.sample(x, samples=4))
    assert re.search(r"failed on inputs x float32 \[7, 3\] \(Reshape .*check their values", text)


@pytest.mark.parametrize(
    "said",
    [
        "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running Expand node. "
        "Name:'a' Status Message: /onnxruntime_src/core/framework/bfc_arena.cc:376 void* onnxruntime::BFCArena::"
        "AllocateRawInternal(size_t, bool) Failed to allocate memory for requested buffer of size 137438953472",
        "std::bad_alloc",
        "[ONNXRuntimeError] : 1 : FAIL : bad allocation",
        "Integer overflow: SafeIntOnOverflow",
    ],
)
def test_memory_that_a_run_does_not_get_is_told(one, x, monkeypatch, said: str) -> None:
    model = keepdrop.load(one, threads=1)

    class Failing:
        def run(self, names, feeds):
            raise RuntimeError(said)

    monkeypatch.setattr(model._session, "_session", Failing())
    text = refusal(lambda: model.sample(x))
    assert "did not get the memory to run 5 samples of x float32 [7, 3]; give fewer rows" in text
    with pytest.raises(MemoryError):
        model.sample(x)


def test_nothing_is_printed_beside_an_error(write, one_text, metadata, x, capfd) -> None:
    picky = one_text.replace("y = Add(xtr, s)", "all = Add(xtr, s)\n  y = Gather<axis = 1>(all, rows)")
    path = write(picky, metadata.to_json())
    model = keepdrop.load(path, threads=1)
    refusal(lambda: model.sample(x, rows=np.arange(7) + 1))
    path.write_bytes(path.read_bytes().replace(b"Gather", b"Gathre"))
    with pytest.raises(keepdrop.ArtifactError, match="does not open in onnxruntime"):
        keepdrop.load(path)
    assert capfd.readouterr() == ("", "")


def test_an_error_in_a_worker_is_told_as_well(one, x, monkeypatch) -> None:
    monkeypatch.setattr(engine, "MAX_RUN", 1)
    model = keepdrop.load(one, threads=3)

    def failing(session, names, feeds):
        raise keepdrop.InputError("boom")

    monkeypatch.setattr(Session, "call", failing)
    with pytest.raises(keepdrop.InputError, match="boom"):
        model.sample(x, samples=100)
