"""TensorFlow's CPU random numbers, Philox4x32-10, in integer operators that ONNX has too.

Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011); the seeding is that of
``tf.random.stateless_uniform``.

A block's four 32-bit words are held as two int64, ``w[0] = c0 << 32 | c1 ^ k0`` and ``w[1] = c2 << 32 | c3 ^ k1``,
with the key of the coming round in the low halves already. A round is then

    w[0]' = M1 * high(w[1])  ^  (w[0] << 32) + k0'
    w[1]' = M0 * high(w[0])  ^  (w[1] << 32) + k1'

for the products' low halves fall into place by themselves, and what a key is combined with has a low half of
zeros, where an addition is an exclusive or. This counts: onnxruntime's bitwise operators cost about twice an addition
or a multiplication (hence ``<< 32`` is one, too). int64 products wrap as uint64 ones do; onnxruntime multiplies uint64
only from 1.20 on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from . import axes

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_SEEDING_KEY = (0x3EC8F720, 0x02461E29)

_MODULUS = 2**31 - 2  # of Keras' _cast_seed
_HIGH = np.int64(-(1 << 32))
_TWO32 = np.int64(1 << 32)
# The uppermost of the 23 bits that count: inverted, a word compares as a signed number once shifted to the top.
_TOP_BIT = 1 << 22
# A word's low 23 bits, shifted to the top of an int64: from the high and from the low half of a pair.
_TO_TOP = (np.int64(1 << 9), np.int64(1 << 41))


def _wrap(value: int) -> np.int64:
    return np.uint64(value % 2**64).astype(np.int64)


def _column(values: Iterable[int], rank: int) -> NDArray[np.int64]:
    """Numbers mod 2^64 as int64 along the first of ``rank`` axes."""
    column = np.array([_wrap(value) for value in values])
    return column.reshape([-1] + [1] * (rank - 1))


def _high(w: tf.Tensor, width: tf.Tensor | None = None) -> tf.Tensor:
    """The upper 32 bits, as a number from 0 to 2^32 - 1; ``width`` is 32 as uint64, where a caller has it already."""
    return tf.cast(tf.bitwise.right_shift(tf.cast(w, tf.uint64), _width() if width is None else width), tf.int64)


def _width() -> tf.Tensor:
    return tf.constant(32, tf.uint64)


def _keys(keys: tuple[int, int], i: int) -> list[int]:
    """Constant keys as they are in round i."""
    return [(key + i * increment) % 2**32 for key, increment in zip(keys, _INCREMENTS, strict=True)]


def mix(seed: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
    """Turn states ``[seed, counter]`` into what a draw's blocks start from.

    Parameters
    ----------
    seed
        int64 [] or [n], the first number of each state, before Keras' floormod.
    counters
        int64 [n], the second number.

    Returns
    -------
    tf.Tensor
        int64 [2, n]: the draw's key ``mix0 << 32 | mix1``, and the upper counter words ``mix2 << 32 | mix3``.
    """
    states = tf.math.floormod(_states(seed, counters), _MODULUS)
    return _mixed(states * _TWO32 + _column(_keys(_SEEDING_KEY, 0), 2))


def fold_in(seed: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
    """The first number of ``tf.random.experimental.stateless_fold_in([seed, counter], e)``, the same for all e.

    The second is e. The states are TensorFlow's here, which takes all 64 bits of each number.

    Parameters
    ----------
    seed
        int64 [].
    counters
        int64 [n].

    Returns
    -------
    tf.Tensor
        int64 [n].
    """
    states = _states(seed, counters)
    high_keys = tf.bitwise.bitwise_xor(_high(states), _column(_keys(_SEEDING_KEY, 0), 2))
    state = axes.reshape(_mixed(states * _TWO32 + high_keys), [1, 2, -1, 1])
    (pairs,) = _rounds(state, np.zeros((1, 1, 1, 1), np.int64), flip=False, apart=False)
    first = pairs[0, 0, :, 0]  # c0 << 32 | c1
    return _high(first) + first * _TWO32


def _states(seed: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
    """[2, n]"""
    return seed * _column([1, 0], 2) + counters * _column([0, 1], 2)


def _mixed(w: tf.Tensor) -> tf.Tensor:
    """One block under the key of the seeding: [2, n]."""
    # On so few numbers a product of matrices costs less than a product and a swap.
    swapped = tf.constant(np.array([[0, _MULTIPLIERS[1]], [_MULTIPLIERS[0], 0]], np.int64))
    # A constant is a node of the graph each time it is given as a number: those of every round are made once.
    two32, width = tf.constant(_TWO32), _width()
    for i in range(1, _ROUNDS + 1):
        key = _keys(_SEEDING_KEY, i) if i < _ROUNDS else [0, 0]
        w = tf.bitwise.bitwise_xor(tf.matmul(swapped, _high(w, width)), w * two32 + _column(key, 2))
    return w


def blocks(state: tf.Tensor, index: tf.Tensor, flip: bool, apart: bool = False) -> tf.Tensor:
    """The words of blocks, each as a number at the top of an int64.

    Parameters
    ----------
    state
        int64 [1, 2, ..., 1], with what ``mix`` gives along the second axis.
    index
        int64 [1, 1, ..., n], the blocks' numbers, from 0 to 2^62; broadcast against ``state``.
    flip
        Invert the uppermost of the 23 bits, so that results compare as the uniforms do.
    apart
        Hold the pairs of a block in tensors of their own: twice the operators, on half as much each, and the pairs
        need not change places in memory. It is faster where an operator takes far longer to run than to start.

    Returns
    -------
    tf.Tensor
        int64 [4, ..., n]: word e of each block times 2^41, whose upper 23 bits are the word's low 23 bits;
        what stands below those bits is of no meaning.
    """
    return _in_order([_halves(pairs) for pairs in _rounds(state, index, flip, apart)])


def kept(state: tf.Tensor, index: tf.Tensor, thresholds: NDArray[np.int64], apart: bool = False) -> tf.Tensor:
    """Which words of blocks dropouts keep: bool [4, ..., n].

    The words are compared before they stand side by side: that would be the largest tensor of the graph, beyond what
    an allocator keeps from one run to the next, and its pages would be fetched anew each time.

    Parameters
    ----------
    state, index, apart
        As ``blocks`` takes them.
    thresholds
        What ``threshold`` gives, broadcast against [2, ..., n].
    """
    held = _rounds(state, index, True, apart)
    return _in_order([[half >= thresholds for half in _halves(pairs)] for pairs in held])


def _halves(pairs: tf.Tensor) -> list[tf.Tensor]:
    """The words in the high and those in the low halves of some pairs: [1, p, ..., n] -> [p, ..., n] each."""
    return [pairs[0] * factor for factor in _TO_TOP]


def _in_order(halves: list[list[tf.Tensor]]) -> tf.Tensor:
    """What was made of the words in the high and in the low halves of some pairs, [p, ..., n] each: [4, ..., n]."""
    words = [axes.merge(tf.stack(of_pairs, 1)) for of_pairs in halves]
    return words[0] if len(words) == 1 else tf.concat(words, 0)


def _rounds(state: tf.Tensor, index: tf.Tensor, flip: bool, apart: bool) -> list[tf.Tensor]:
    """Blocks as they are after the last round: their pairs in one int64 [1, 2, ..., n], or in two [1, 1, ..., n]."""
    rank = state.shape.rank
    xor = tf.bitwise.bitwise_xor

    def parted(pairs: tf.Tensor) -> list[tf.Tensor]:
        return tf.split(pairs, 2, axis=1) if apart else [pairs]

    mixed, counter = tf.split(state, 2, axis=1)  # [1, 1, ..., 1] each
    key = tf.concat([tf.bitwise.bitwise_and(mixed, _HIGH), mixed * _TWO32], 1)  # k0 << 32, k1 << 32
    # The keys of all rounds, first in the high halves, where they wrap: [10, 2, ..., 1].
    low_keys = _high(key + np.stack([_column([i * c << 32 for c in _INCREMENTS], rank - 1) for i in range(_ROUNDS)]))
    last = np.int64(0)
    if flip:
        # What stands in the low halves before round 9 inverts the high halves after it.
        low_keys = xor(low_keys, _column([0] * (_ROUNDS - 1) + [_TOP_BIT], rank))
        last = np.int64(_TOP_BIT)
    _, *coming = tf.split(low_keys, _ROUNDS)  # [1, 2, ..., 1] each
    # The first round by hand: half of its work is the same for all blocks, the other half for all keys.
    index_high = tf.bitwise.bitwise_and(index, _HIGH)
    of_blocks = [index_high, (index - index_high) * np.int64(_MULTIPLIERS[0])]
    of_keys = xor(tf.concat([_high(counter) * np.int64(_MULTIPLIERS[1]), counter * _TWO32], 1), key + coming[0])
    of_blocks = of_blocks if apart else [tf.concat(of_blocks, 1)]
    pairs = [xor(b, k) for b, k in zip(of_blocks, parted(of_keys), strict=True)]
    multipliers = [tf.constant(m) for m in (map(_wrap, _MULTIPLIERS) if apart else [_column(_MULTIPLIERS, rank - 1)])]
    exchange, two32, width = tf.constant([1, 0]), tf.constant(_TWO32), _width()
    low_keys_to_come = [parted(low_key) for low_key in coming[1:]] + [[last] * len(pairs)]
    for keys in low_keys_to_come:
        products = [_high(w, width) * m for w, m in zip(pairs, multipliers, strict=True)]
        exchanged = products[::-1] if apart else [tf.gather(products[0], exchange, axis=1)]
        pairs = [xor(p, w * two32 + k) for p, w, k in zip(exchanged, pairs, keys, strict=True)]
    return pairs


def threshold(rate: float) -> np.int64:
    """The least flipped word of ``blocks`` that a dropout of this rate keeps.

    A word is kept where ``(word & 0x7fffff) * 2^-23 >= float32(rate)``.
    """
    kept_from = math.ceil(float(np.float32(rate)) * 2**23)
    return np.int64((kept_from << 41) - 2**63)


def uniform(words: tf.Tensor) -> tf.Tensor:
    """Words of ``blocks`` (unflipped) as float32 in [0, 1)."""
    bits = tf.bitwise.right_shift(tf.cast(words, tf.uint64), tf.constant(41, tf.uint64))
    return tf.cast(tf.cast(bits, tf.int64), tf.float32) * np.float32(2**-23)


def normal(words: tf.Tensor) -> tf.Tensor:
    """Words of ``blocks`` (unflipped), [4, ...], as standard normals by Box and Muller, two of each pair of words."""
    u = uniform(words)
    radius = tf.sqrt(np.float32(-2) * tf.math.log(tf.maximum(u[0::2], np.float32(1e-7))))  # [2, ...]
    angle = np.float32(2 * math.pi) * u[1::2]
    pairs = tf.stack([radius * tf.sin(angle), radius * tf.cos(angle)], axis=1)  # [2, 2, ...]
    return tf.reshape(pairs, tf.shape(words))
