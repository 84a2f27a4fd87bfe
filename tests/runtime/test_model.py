import inspect
import re

import numpy as np
import pytest

import keepdrop
from keepdrop import InputError, model


def test_samples_have_samples_first_then_the_batch(one, closed, x) -> None:
    draws = keepdrop.load(one).sample(x, samples=4, seed=7)
    assert draws.shape == (4, 7, 3)
    assert draws.dtype == np.float32
    np.testing.assert_array_equal(draws, closed(x, 4, seed=7))


def test_defaults(one, closed, x) -> None:
    np.testing.assert_array_equal(keepdrop.load(one).sample(x), closed(x, 5, seed=0))
    for method in (keepdrop.Model.sample, keepdrop.Model.predict):
        parameters = inspect.signature(method).parameters
        assert [parameters[name].default for name in ("samples", "seed", "rows", "first_sample")] == [None, 0, None, 0]


def test_rows_and_first_sample(one, closed, x) -> None:
    model = keepdrop.load(one)
    rows = [5, 5, -1, 2**40, 0, 3, 9]
    np.testing.assert_array_equal(
        model.sample(x, samples=3, rows=rows, first_sample=2), closed(x, 3, rows=rows, first_sample=2)
    )
    assert not np.array_equal(model.sample(x, samples=3, rows=rows), model.sample(x, samples=3))
    assert not np.array_equal(model.sample(x, samples=3, first_sample=1), model.sample(x, samples=3))


def test_samples_can_be_taken_in_parts(one, x) -> None:
    model = keepdrop.load(one)
    parts = [model.sample(x, samples=3), model.sample(x, samples=8, first_sample=3)]
    np.testing.assert_array_equal(np.concatenate(parts), model.sample(x, samples=11))


@pytest.mark.parametrize("seed", [-(2**63), -1, 0, 2**63 - 1, np.int64(7)])
def test_any_int64_is_a_seed(one, closed, x, seed) -> None:
    np.testing.assert_array_equal(
        keepdrop.load(one).sample(x, samples=1, seed=seed), closed(x, 1, seed=np.float32(seed))
    )


def test_several_inputs_and_outputs_go_by_name(two, closed, x) -> None:
    model = keepdrop.load(two)
    ids = np.arange(28).reshape(7, 4)  # int64 into int32: whole numbers in range
    draws = model.sample({"ids": ids, "x": x}, samples=6)
    assert list(draws) == ["y", "n"]
    np.testing.assert_array_equal(draws["y"], closed(x, 6))
    np.testing.assert_array_equal(draws["n"], np.arange(6)[:, None] + ids.sum(axis=1))
    predictions = model.predict({"ids": ids.astype(float), "x": x}, samples=6)
    assert list(predictions) == ["y", "n"]
    np.testing.assert_array_equal(predictions["n"].mean, draws["n"].mean(axis=0))


@pytest.mark.parametrize(
    "given", [lambda x: x.tolist(), lambda x: x.astype(np.float64), lambda x: x.astype(int), lambda x: {"x": x}]
)
def test_what_goes_into_float32_is_cast(one, closed, x, given) -> None:
    np.testing.assert_array_equal(keepdrop.load(one).sample(given(x)), closed(x, 5))


def test_arrays_need_not_be_contiguous(one, closed, x) -> None:
    wide = np.repeat(x, 2, axis=1)[::-1, ::2]
    np.testing.assert_array_equal(keepdrop.load(one).sample(wide), closed(x[::-1], 5))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(one, x, value: float) -> None:
    x[2, 1] = value
    with pytest.raises(keepdrop.InputError, match="'x' holds NaN or infinity, first in row 2; fill or drop such rows"):
        keepdrop.load(one).predict(x)


ROW = np.zeros((1, 3), np.float32)

# what is given, and what the error has to say
MISTAKES = [
    (dict(x=np.zeros(3)), "input 'x' has shape [3]; expected float32 [batch, 3]; one example needs a batch axis"),
    (dict(x=np.zeros((2, 4))), "input 'x' has shape [2, 4]; expected float32 [batch, 3]; reshape it"),
    (dict(x=np.zeros((2, 3, 1))), "input 'x' has shape [2, 3, 1]; expected float32 [batch, 3]"),
    (dict(x=[[1, 2, 3], [1]]), "input 'x' is not an array"),
    (dict(x=np.zeros((0, 3))), "the batch is empty; give at least one row"),
    (dict(x={"z": ROW}), "the model has no input ['z']; its inputs are ['x']"),
    (dict(x={}), "no array was given for input ['x']; the inputs are ['x']"),
    (dict(x=[["a", "b", "c"]]), "input 'x' holds <U1 that does not go into float32 unchanged"),
    (dict(x=ROW * 1j), "input 'x' holds complex64 that does not go into float32 unchanged"),
    (dict(samples=0), "samples is 0; give 1 or more"),
    (dict(samples=2.5), "samples is 2.5; expected an integer"),
    (dict(first_sample=-1), "first_sample is -1; give 0 or more"),
    (dict(first_sample=2**63 - 1, samples=2), f"first_sample is {2**63 - 1}; give {(2**63 - 1) // 6 - 2} or less"),
    (dict(seed=2**63), f"seed is {2**63}; give {2**63 - 1} or less (it has to fit int64)"),
    (dict(seed=-(2**63) - 1), "give the least int64 or more"),
    (dict(seed=None), "seed is None; expected an integer"),
    (dict(seed=0.5), "seed is 0.5; expected an integer"),
    (dict(rows=[1, 2]), "rows has shape [2]; expected [1], one integer a row of the input"),
    (dict(rows=3), "rows has shape []; expected [1]"),
    (dict(rows=[1.0]), "rows holds float64; expected integers that fit int64"),
    (dict(rows=[2**63]), "rows holds uint64; expected integers that fit int64"),
    (dict(rows=[True]), "rows holds bool; expected integers"),
]


@pytest.mark.parametrize("method", ["sample", "predict"])
@pytest.mark.parametrize(("arguments", "text"), MISTAKES)
def test_a_mistake_is_told(one, method: str, arguments: dict, text: str) -> None:
    model = keepdrop.load(one, threads=1)
    with pytest.raises(InputError, match=re.escape(text)):
        getattr(model, method)(**{"x": ROW, **arguments})


IDS = np.ones((1, 2), np.int32)

MISTAKES_OF_TWO = [
    (ROW, "the model has 2 inputs and one array was given; give a dict with keys ['x', 'ids']"),
    ({"x": ROW}, "no array was given for input ['ids']"),
    ({"x": ROW, "ids": np.ones((2, 2))}, "different numbers of rows, {'x': 1, 'ids': 2}; give each the same"),
    ({"x": ROW, "ids": IDS * 0.5}, "input 'ids' holds float64 that does not go into int32 unchanged; give whole"),
    ({"x": ROW, "ids": IDS * np.nan}, "input 'ids' holds float64 that does not go into int32 unchanged"),
    ({"x": ROW, "ids": IDS.astype(np.int64) << 40}, "input 'ids' holds int64 that does not go into int32 unchanged"),
    ({"x": ROW, "ids": IDS[0]}, "input 'ids' has shape [2]; expected int32 [batch, any]"),
]


@pytest.mark.parametrize(("given", "text"), MISTAKES_OF_TWO)
def test_a_mistake_with_several_inputs_is_told(two, given, text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        keepdrop.load(two, threads=1).sample(given)


def test_the_inputs_of_those_tables_are_otherwise_right(one, two) -> None:
    keepdrop.load(one).sample(ROW, rows=[3])
    keepdrop.load(two).sample({"x": ROW, "ids": IDS})


@pytest.mark.parametrize(("threads", "text"), [(0, "threads is 0; give 1 or more"), (1.5, "threads is 1.5")])
def test_threads_below_one_are_refused(one, threads, text: str) -> None:
    with pytest.raises(InputError, match=re.escape(text)):
        keepdrop.load(one, threads=threads)


@pytest.mark.parametrize("block", [1, 5, 10_000])
def test_mean_and_std_add_up_over_blocks_of_samples(one, closed, x, monkeypatch, block: int) -> None:
    monkeypatch.setattr(model, "MAX_BLOCK", block)
    p = keepdrop.load(one).predict(x, samples=23, seed=7, quantiles=())
    draws = closed(x, 23, seed=7).astype(np.float64)
    np.testing.assert_allclose(p.mean, draws.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(p.std, draws.std(axis=0, ddof=1), rtol=1e-6, atol=1e-6)
    assert p.samples is None


def test_a_block_left_out_of_the_sum_would_be_seen(one, closed, x, monkeypatch) -> None:
    monkeypatch.setattr(model, "MAX_BLOCK", 21)
    monkeypatch.setattr(model.Tally, "plus", lambda self, other: self)
    p = keepdrop.load(one).predict(x, samples=23, quantiles=())
    assert not np.allclose(p.mean, closed(x, 23).mean(axis=0))


def test_samples_so_far_that_their_numbers_would_wrap_are_refused(one, x) -> None:
    """The toy's largest draw takes 6 numbers a sample."""
    loaded = keepdrop.load(one)
    last = (2**63 - 1) // 6 - 1
    assert loaded.sample(x, samples=1, first_sample=last).shape == (1, 7, 3)
    with pytest.raises(keepdrop.InputError, match=f"give {last} or less"):
        loaded.sample(x, samples=1, first_sample=last + 1)
