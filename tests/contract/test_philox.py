"""TensorFlow's random numbers, rebuilt: bit for bit in TensorFlow and through ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from keepdrop.artifact.metadata import Tensor
from keepdrop_exporter.formats.onnx_export import to_onnx
from keepdrop_exporter.trace import philox
from keepdrop_exporter.trace.function import Traced

SEEDS = [(0, 0), (0, 1), (7, 0), (7, 123_456_789), (2**31 - 3, 0), (2**31 - 3, 2**31 - 3), (1_234_567, 2**31 - 4)]
SIZES = [1, 4, 7, 130, 1025]
# What the contract calls Keras' floormod turns into another state.
WRAPPED = [(-1, 0), (-3, -(2**40)), (2**31 - 2, 5), (2**40, 2**33 + 5), (-(2**63), 2**63 - 1)]


def _flat(draw: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    """draw's numbers of a state ``[seed, counter]`` in the order of the elements, from block ``first`` on."""

    def numbers(seed: tf.Tensor, counter: tf.Tensor, first: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        state = philox.mix(seed, counter[tf.newaxis])[tf.newaxis, ..., tf.newaxis]  # [1, 2, 1, 1]
        index = first + tf.range((count + 3) // 4)  # [n]
        words = philox.blocks(state, index[tf.newaxis, tf.newaxis, tf.newaxis], False)  # [4, 1, n]
        return tf.reshape(tf.transpose(draw(words)[:, 0]), [-1])[:count]

    return numbers


def _eager(draw: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    function = _flat(draw)
    return lambda *numbers: function(*(tf.constant(n, tf.int64) for n in numbers)).numpy()


def _through_onnx(draw: Callable[[tf.Tensor], tf.Tensor]) -> Any:
    """The same as the one output of an artifact: of one row, whose id is the counter, and ``count`` samples."""
    function = _flat(draw)

    def sample(x: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        numbers = function(x["seed"], x["rows"][0], x["first_sample"], x["num_samples"])
        return {"numbers": numbers[:, tf.newaxis]}

    axes = {"seed": [], "rows": [None], "first_sample": [], "num_samples": []}
    signature = {name: tf.TensorSpec(shape, tf.int64, name=name) for name, shape in axes.items()}
    traced = Traced(tf.function(sample, autograph=False).get_concrete_function(signature), ())
    model = to_onnx(traced, (), (Tensor("numbers", "float32", (None, None)),))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(seed: int, counter: int, first: int, count: int) -> NDArray[np.float32]:
        values = {"seed": seed, "rows": [counter], "first_sample": first, "num_samples": count}
        return session.run(None, {name: np.array(value, np.int64) for name, value in values.items()})[0][:, 0]

    return run


@pytest.fixture(scope="module", params=[_eager, _through_onnx], ids=["tensorflow", "onnx"])
def way(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(scope="module")
def uniform(way: Any) -> Any:
    return way(philox.uniform)


@pytest.fixture(scope="module")
def normal(way: Any) -> Any:
    return way(philox.normal)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("state", SEEDS)
def test_uniform_bit_for_bit(uniform: Any, state: tuple[int, int], size: int) -> None:
    assert np.array_equal(uniform(*state, 0, size), tf.random.stateless_uniform([size], state).numpy())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("state", SEEDS)
def test_normal(normal: Any, state: tuple[int, int], size: int) -> None:
    # The bits below are equal; logarithm, sine and cosine are of two libraries, on numbers up to 5.7.
    expected = tf.random.stateless_normal([size], state).numpy()
    np.testing.assert_allclose(normal(*state, 0, size), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("state", [*SEEDS, *WRAPPED])
def test_state_is_reduced_as_keras_does(uniform: Any, state: tuple[int, int]) -> None:
    generator = keras.random.SeedGenerator(0)
    generator.state.assign(state)
    assert np.array_equal(uniform(*state, 0, 21), np.asarray(keras.random.uniform((21,), seed=generator)))


@pytest.mark.parametrize("first", [1, 3, 255])
def test_blocks_are_addressed_by_position(uniform: Any, first: int) -> None:
    whole = tf.random.stateless_uniform([4 * first + 50], (7, 8)).numpy()
    assert np.array_equal(uniform(7, 8, first, 50), whole[4 * first :])


@pytest.mark.parametrize("first", [0, 2**32 - 1, 2**32 + 3, 2**45])
def test_far_blocks(uniform: Any, first: int) -> None:
    """Where no tensor reaches: against Philox as its authors publish it, in Python's integers."""
    a, b, c, d = _philox([7, 0, 8, 0], [0x3EC8F720, 0x02461E29])
    words = [w for j in (first, first + 1) for w in _philox([j % 2**32, j >> 32, c, d], [a, b])]
    assert np.array_equal(uniform(7, 8, first, 8), np.array([(w & 0x7FFFFF) / 2**23 for w in words], np.float32))


@pytest.mark.parametrize(
    "counter, key, expected",
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_known_answers(counter: str, key: str, expected: str) -> None:
    """Random123's own test vectors, so that the yardstick of the far blocks is one."""
    words = [[int(w, 16) for w in text.split()] for text in (counter, key, expected)]
    assert _philox(words[0], words[1]) == words[2]


def _philox(c: list[int], k: list[int]) -> list[int]:
    for _ in range(10):
        p, q = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [q >> 32 ^ c[1] ^ k[0], q % 2**32, p >> 32 ^ c[3] ^ k[1], p % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


@pytest.mark.parametrize("rate", [0.1, 0.25, 1 / 3, 0.5, 0.9, 0.9999999])
def test_threshold_keeps_what_keras_keeps(rate: float) -> None:
    """On the uniforms around the rate, where a rounding the wrong way would show: words just above and just below."""
    nearest = round(float(np.float32(rate)) * 2**23)
    mantissas = np.clip(np.arange(nearest - 3, nearest + 4), 0, 2**23 - 1)
    flipped = ((mantissas ^ (1 << 22)) << 41).astype(np.uint64).view(np.int64)
    kept_by_keras = (mantissas * np.float32(2**-23)).astype(np.float32) >= np.float32(rate)
    assert np.array_equal(flipped >= philox.threshold(rate), kept_by_keras)


@pytest.mark.parametrize("apart", [False, True])
def test_words_are_kept_as_the_uniforms_are(apart: bool) -> None:
    """Both forms of a block, on numbers of two draws with rates of their own."""
    states, rates, size = [(7, 3), (2**31 - 3, 0)], [0.25, 0.6], 132
    seeds, counters = (tf.constant(numbers, tf.int64) for numbers in zip(*states, strict=True))
    state = philox.mix(seeds, counters)[tf.newaxis, ..., tf.newaxis]  # [1, 2, 2, 1]
    index = tf.range(size // 4, dtype=tf.int64)[tf.newaxis, tf.newaxis, tf.newaxis]
    thresholds = np.array([[philox.threshold(rate)] for rate in rates])
    kept = philox.kept(state, index, thresholds, apart)  # [4, 2, n]
    words = philox.blocks(state, index, False, apart)
    for i, (of_state, rate) in enumerate(zip(states, rates, strict=True)):
        expected = tf.random.stateless_uniform([size], of_state).numpy()
        assert np.array_equal(np.ravel(tf.transpose(philox.uniform(words)[:, i])), expected)
        assert np.array_equal(np.ravel(tf.transpose(kept[:, i])), expected >= np.float32(rate))
        assert not np.array_equal(np.ravel(tf.transpose(kept[:, 1 - i])), expected >= np.float32(rate))


@pytest.mark.parametrize("constant", ["_MULTIPLIERS", "_INCREMENTS", "_SEEDING_KEY"])
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("bit", [0, 13, 31])
def test_one_flipped_bit_is_noticed(monkeypatch: pytest.MonkeyPatch, constant: str, position: int, bit: int) -> None:
    values = list(getattr(philox, constant))
    values[position] ^= 1 << bit
    monkeypatch.setattr(philox, constant, tuple(values))
    with pytest.raises(AssertionError):
        test_uniform_bit_for_bit(_eager(philox.uniform), (7, 123_456_789), 130)
