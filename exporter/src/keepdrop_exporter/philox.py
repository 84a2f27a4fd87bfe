"""TensorFlow's CPU random numbers, Philox4x32-10, in integer operators that ONNX has too.

Salmon, Moraes, Dror, Shaw: Parallel Random Numbers: As Easy as 1, 2, 3 (SC 2011); the seeding is that of
``tf.random.stateless_uniform``.

A block's four 32-bit words are held as two int64: ``w[0] = c0 << 32 | c1`` and ``w[1] = c2 << 32 | c3``. A
round is then one multiplication of each high half, whose low half falls into place by itself:

    w[0]' = M1 * high(w[1])  ^  w[0] << 32  ^  k0 << 32
    w[1]' = M0 * high(w[0])  ^  w[1] << 32  ^  k1 << 32

Bitwise operators cost onnxruntime about twice a multiplication, so a left shift is a multiplication by 2^32.
int64 products wrap as uint64 ones do; onnxruntime multiplies uint64 only from 1.20 on.
"""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_INCREMENTS = (0x9E3779B9, 0xBB67AE85)
_SEEDING_KEY = (0x3EC8F720, 0x02461E29)

_MODULUS = 2**31 - 2  # of Keras' _cast_seed
_HIGH = np.int64(-(1 << 32))
_TWO32 = np.int64(1 << 32)
# Flips bit 22 of each word of a pair: it then compares as a signed number once shifted to the top.
_FLIP = np.int64(1 << 54 | 1 << 22)
# A word's low 23 bits, shifted to the top of an int64: from the high and from the low half of a pair.
_TO_TOP = np.array([1 << 9, 1 << 41], np.int64)


def _wrap(value: int) -> np.int64:
    return np.uint64(value % 2**64).astype(np.int64)


def _high(w: tf.Tensor) -> tf.Tensor:
    """The upper 32 bits, as a number from 0 to 2^32 - 1."""
    return tf.cast(tf.bitwise.right_shift(tf.cast(w, tf.uint64), tf.constant(32, tf.uint64)), tf.int64)


def _round_keys(key: tf.Tensor) -> list[tf.Tensor]:
    """The keys of the ten rounds; ``key`` and each result: [2, ...] int64, ``k << 32``."""
    shape = [2] + [1] * (key.shape.rank - 1)
    steps = [np.array([_wrap(i * c << 32) for c in _INCREMENTS]).reshape(shape) for i in range(_ROUNDS)]
    return [key + step for step in steps]


def _rounds(w: tf.Tensor, keys: list[tf.Tensor]) -> tf.Tensor:
    multipliers = np.array(_MULTIPLIERS, np.int64).reshape([2] + [1] * (w.shape.rank - 1))
    for key in keys:
        product = tf.gather(_high(w) * multipliers, [1, 0], axis=0)
        w = tf.bitwise.bitwise_xor(tf.bitwise.bitwise_xor(product, w * _TWO32), key)
    return w


def mix(seed: tf.Tensor, counters: tf.Tensor) -> tf.Tensor:
    """Turn states ``[seed, counter]`` into what a draw's blocks start from.

    Parameters
    ----------
    seed
        int64 [].
    counters
        int64 [...], the second number of each state, before Keras' floormod.

    Returns
    -------
    tf.Tensor
        int64 [2, ...]: the draw's key ``mix0 << 32 | mix1``, and the upper counter words ``mix2 << 32 | mix3``.
    """
    low = tf.math.floormod(counters, _MODULUS) * _TWO32
    high = tf.math.floormod(seed, _MODULUS) * _TWO32
    w = tf.stack([tf.broadcast_to(high, tf.shape(low)), low])
    key = np.array([_wrap(k << 32) for k in _SEEDING_KEY]).reshape([2] + [1] * (w.shape.rank - 1))
    steps = [np.array([_wrap(k + i * c << 32) for k, c in zip(_SEEDING_KEY, _INCREMENTS, strict=True)]) for i in range(_ROUNDS)]
    return _rounds(w, [tf.constant(step.reshape(key.shape)) for step in steps])


def blocks(state: tf.Tensor, index: tf.Tensor, flip: bool) -> tf.Tensor:
    """The words of blocks, each as a number at the top of an int64.

    Parameters
    ----------
    state
        int64 [2, ..., 1] as ``mix`` gives it.
    index
        int64 [..., n], the blocks' numbers, from 0 to 2^62; broadcast against ``state``.
    flip
        Invert the uppermost of the 23 bits, so that results compare as the uniforms do.

    Returns
    -------
    tf.Tensor
        int64 [4, ..., n]: word e of each block times 2^41, whose upper 23 bits are the word's low 23 bits;
        what stands below those bits is of no meaning.
    """
    first, *keys = _round_keys(tf.stack([tf.bitwise.bitwise_and(state[0], _HIGH), state[0] * _TWO32]))
    if flip:
        keys[-1] = tf.bitwise.bitwise_xor(keys[-1], _FLIP)
    # The first round by hand: half of its work is the same for all blocks, the other half for all keys.
    index_high = tf.bitwise.bitwise_and(index, _HIGH)
    xor = tf.bitwise.bitwise_xor
    w = tf.stack(
        [
            xor(index_high, xor(_high(state[1]) * np.int64(_MULTIPLIERS[1]), first[0])),
            xor((index - index_high) * np.int64(_MULTIPLIERS[0]), xor(state[1] * _TWO32, first[1])),
        ]
    )
    w = _rounds(w, keys)  # [2, ..., n]
    words = w[:, tf.newaxis] * _TO_TOP.reshape([2] + [1] * (w.shape.rank - 1))  # [2, 2, ..., n]
    return tf.reshape(words, tf.concat([[4], tf.shape(w)[1:]], axis=0))


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
