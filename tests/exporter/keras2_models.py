"""Models of Keras 2, saved by ``tf_keras`` in every form it writes, with inputs and what they give.

Run as a script in a process of its own: ``python keras2_models.py FOLDER FORMS``, where FORMS is a JSON object that has
a list of forms for each function here. A case becomes ``<case>.h5``, ``.keras``, ``.json`` with ``.weights.h5`` and
``.by_layer.h5``, and ``<case>`` (a SavedModel), as its forms say, and ``<case>.npz`` with the inputs by name and the
outputs as ``output_0``, ...; weights are random throughout, so that none can be mistaken for another.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")

import numpy as np
import tensorflow as tf
import tf_keras
from tf_keras import layers
from tf_keras.src.saving import saving_lib


def _of(*stack: object, shape: tuple[int | None, ...] = (7, 3), **options: object) -> tf_keras.Model:
    x = y = tf_keras.Input(shape, name="x", **options)
    for layer in stack:
        y = layer(y)
    return tf_keras.Model(x, y)


def _lstm(**options: object) -> layers.Layer:
    return layers.LSTM(4, **{"recurrent_activation": "hard_sigmoid", "dropout": 0.2, **options})


def encoder_decoder() -> tf_keras.Model:
    x, z = tf_keras.Input((7, 3), name="x"), tf_keras.Input((5, 2), name="z")
    _, h, c = _lstm(return_state=True, name="encoder")(x)
    y = layers.LSTM(4, return_sequences=True, name="decoder")(z, initial_state=[h, c])
    _, s = layers.GRU(3, return_state=True, reset_after=False)(x)
    both = layers.Bidirectional(layers.GRU(3))(z, initial_state=[s, s])
    return tf_keras.Model([x, z], [layers.TimeDistributed(layers.Dense(2))(y), both])


def nested() -> tf_keras.Model:
    inner = _of(layers.LSTM(3, return_sequences=True), layers.BatchNormalization(), layers.Dropout(0.3))
    inner.layers[1].trainable = False
    tail = tf_keras.Sequential([layers.Dense(3, input_shape=(7, 3)), layers.PReLU()], name="tail")
    x, z = tf_keras.Input((7, 3), name="x"), tf_keras.Input((7, 3), name="z")
    shared = layers.Dense(3, activation="elu")
    once, twice = shared(x), shared(z)
    y = layers.Concatenate()([inner(once), inner(twice), tail(inner(x)), tail(z)])
    return tf_keras.Model([x, z], [layers.GlobalAveragePooling1D()(y), inner(z)])


def attention() -> tf_keras.Model:
    x, z = tf_keras.Input((7, 4), name="x"), tf_keras.Input((5, 4), name="z")
    a = layers.MultiHeadAttention(2, 3, dropout=0.1)(x, z, return_attention_scores=False)
    b = layers.Attention(use_scale=True)([x, z])
    c = layers.AdditiveAttention()([x, z, z])
    return tf_keras.Model([x, z], layers.LayerNormalization()(layers.Add()([a, b, c])))


def words() -> tf_keras.Model:
    # No InputLayer: the Embedding says its shape, and has a vocabulary of 11.
    return tf_keras.Sequential([
        layers.Embedding(11, 4, input_length=6, mask_zero=True),
        layers.SpatialDropout1D(0.2),
        layers.Bidirectional(_lstm(return_sequences=True, recurrent_dropout=0.3), merge_mode="ave"),
        layers.GRU(3, reset_after=False, recurrent_activation="hard_sigmoid", go_backwards=True),
        layers.Dense(2, activation="hard_sigmoid"),
    ])  # fmt: skip


def cells() -> tf_keras.Model:
    stack = [layers.LSTMCell(4, recurrent_activation="hard_sigmoid"), layers.GRUCell(3, reset_after=False)]
    return _of(
        layers.Masking(0.0),
        layers.RNN(stack, return_sequences=True),
        layers.RNN(layers.SimpleRNNCell(3, dropout=0.2), return_sequences=True),
        layers.Bidirectional(layers.GRU(3), backward_layer=layers.LSTM(3, go_backwards=True)),
    )


def convolutions() -> tf_keras.Model:
    return _of(
        layers.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="swish"),
        layers.BatchNormalization(),
        layers.LeakyReLU(0.1),
        layers.SeparableConv1D(4, 3, padding="same"),
        layers.ReLU(max_value=1.5, negative_slope=0.2, threshold=0.1),
        layers.DepthwiseConv1D(3),
        layers.Conv1DTranspose(3, 2, strides=2, padding="same"),
        layers.MaxPooling1D(2, padding="same"),
        layers.AveragePooling1D(3, strides=1, padding="same"),
        layers.ELU(0.7),
        layers.ZeroPadding1D((1, 2)),
        layers.Cropping1D(1),
        layers.Softmax(axis=1),
        layers.Permute((2, 1)),
        layers.UpSampling1D(2),
        layers.Flatten(),
        layers.AlphaDropout(0.1),
        layers.GaussianNoise(0.1),
        layers.GaussianDropout(0.1),
        layers.Dense(3, activation="gelu", kernel_regularizer="l2", kernel_initializer="lecun_normal"),
        layers.RepeatVector(2),
        layers.Reshape((3, 2)),
        shape=(12, 3),
    )


def images() -> tf_keras.Model:
    return _of(
        layers.Rescaling(0.5, offset=0.1),
        layers.Conv2D(3, 3, padding="same", activation="selu"),
        layers.DepthwiseConv2D(2, padding="same"),
        layers.Conv2DTranspose(2, 2, strides=2),
        layers.SeparableConv2D(3, 2),
        layers.GroupNormalization(3),
        layers.MaxPooling2D(2),
        layers.SpatialDropout2D(0.2),
        layers.GlobalMaxPooling2D(),
        layers.UnitNormalization(),
        layers.Dense(2, activation="softplus"),
        shape=(8, 8, 2),
    )


def films() -> tf_keras.Model:
    return _of(
        layers.ConvLSTM2D(3, 2, recurrent_activation="hard_sigmoid", return_sequences=True, dropout=0.1),
        layers.TimeDistributed(layers.Flatten()),
        layers.LSTM(4, activation="hard_sigmoid", unroll=True),
        layers.Activation("hard_sigmoid"),
        shape=(4, 5, 5, 2),
    )


def fixed_batch() -> tf_keras.Model:
    x = tf_keras.Input(batch_shape=(5, 7, 3), name="x")
    return tf_keras.Model(x, layers.Dropout(0.5)(layers.GRU(4, name="memory")(x)))


def slashes() -> tf_keras.Model:
    inner = layers.LSTM(3, name="encoder/lstm", dropout=0.1)
    return _of(inner, layers.Dense(2, name="head/out"))


def frozen() -> tf_keras.Model:
    model = _of(_lstm(return_sequences=True), layers.BatchNormalization(), _lstm(), layers.Dense(2))
    model.layers[1].trainable = model.layers[2].trainable = False
    return model


def wrapped_first() -> tf_keras.Model:
    # The input's shape stands in the wrapper, and a model without an InputLayer follows.
    tail = tf_keras.Sequential([layers.TimeDistributed(layers.Dense(3)), layers.LSTM(3)])
    first = layers.Bidirectional(_lstm(return_sequences=True), input_shape=(7, 3))
    return tf_keras.Sequential([first, tail, layers.Dropout(0.2), layers.Dense(2)])


def unbuilt_nested() -> tf_keras.Model:
    inner = tf_keras.Sequential([layers.Dense(3), layers.LSTM(2)], name="inner")
    x, z = tf_keras.Input((7, 3), name="x"), tf_keras.Input((7, 3), name="z")
    return tf_keras.Model([x, z], layers.Concatenate()([inner(x), inner(z)]))


def shared_between() -> tf_keras.Model:
    shared = layers.LSTM(3, return_sequences=True, name="shared")
    first, second = _of(shared), _of(shared, layers.Dense(3))
    x = tf_keras.Input((7, 3), name="x")
    return tf_keras.Model(x, layers.Add()([first(x), second(x), shared(x)]))


def masked() -> tf_keras.Model:
    x = tf_keras.Input((6,), name="x")
    h = layers.Embedding(11, 4, mask_zero=True)(x)
    y, *states = layers.LSTM(3, return_sequences=True, return_state=True)(h)
    both = layers.Bidirectional(layers.GRU(2, return_sequences=True))(h)
    pooled = layers.GlobalAveragePooling1D()(layers.TimeDistributed(layers.Dense(3))(h))
    return tf_keras.Model(x, [y, *states, both, pooled, layers.Attention()([h, h])])


def merged() -> tf_keras.Model:
    x, z = tf_keras.Input((7, 3), name="x"), tf_keras.Input((7, 3), name="z")
    kinds = [layers.Minimum, layers.Maximum, layers.Subtract, layers.Average, layers.Multiply]
    dots = [layers.Dot(2)([x, z]), layers.Dot((1, 1), normalize=True)([x, z])]
    return tf_keras.Model([x, z], [*(kind()([x, z]) for kind in kinds), *dots])


def activated() -> tf_keras.Model:
    x = tf_keras.Input((7, 3), name="x")
    names = ["leaky_relu", "relu6", "mish", "softsign", "exponential", "selu", "tanh", "softplus"]
    objects = [layers.LeakyReLU(0.2), layers.ReLU(max_value=0.3)]
    return tf_keras.Model(x, [layers.Dense(3, activation=a)(x) for a in (*names, *objects)])


def normalised() -> tf_keras.Model:
    adapted = layers.Normalization()
    adapted.adapt(np.random.default_rng(0).normal(2, 3, (100, 3)).astype("float32"))
    return _of(adapted, layers.LayerNormalization(axis=[1, 2]), layers.BatchNormalization(axis=1), layers.Dense(3))


def operators() -> tf_keras.Model:
    """Operators of Python between layers: slices, arithmetic, comparisons, constants on either side."""
    x, z = tf_keras.Input((7, 4), name="x"), tf_keras.Input((7, 4), name="z")
    h = layers.LSTM(4, return_sequences=True, dropout=0.2)(x)
    g = layers.Dense(4)(z)
    outputs = [h[:, -1, :], h[:, -1], h[..., 1:3], h[:, ::2, None], g[:, 1:-1:2, -2:], h + g, h + 1.5, 2.0 - h, 3 * g]
    outputs += [h * g, h / (g + 4.0), 1 / (g + 4.0), -h, abs(h), (h + 3.0) ** 2, 2.0**h, h @ tf.transpose(g, [0, 2, 1])]
    outputs += [tf.cast(h > g, "float32"), tf.where(h >= 0.0, h, g), tf.where(h < g, 0.0, g), h // 0.3, h % 0.3]
    return tf_keras.Model([x, z], [layers.Dropout(0.2)(y) for y in outputs])


def functions() -> tf_keras.Model:
    """TensorFlow's functions between layers, arguments by position and by name."""
    x, z = tf_keras.Input((7, 4), name="x"), tf_keras.Input((7, 4), name="z")
    h, p = layers.GRU(4, return_sequences=True, dropout=0.2)(x), layers.Dense(4, activation="softplus")(z)
    outputs = [
        tf.reduce_mean(h, axis=1), tf.reduce_sum(h, [1, 2], keepdims=True), tf.reduce_max(h, 1), tf.reduce_min(h, -1),
        tf.reduce_prod(p, axis=1, keepdims=True), tf.math.reduce_std(h, axis=1), tf.math.reduce_variance(h, 1),
        tf.reduce_logsumexp(h, axis=-1), tf.concat([h, z], axis=-1), tf.concat([h, p, x], 1), tf.stack([h, p], axis=2),
        tf.expand_dims(h, 1), tf.expand_dims(h, axis=-1), tf.squeeze(tf.expand_dims(h, 1), axis=[1]),
        tf.squeeze(h[:, :1], 1), tf.transpose(h, perm=[0, 2, 1]), tf.reshape(h, [-1, 28]), tf.reshape(h, (-1, 4, 7)),
        tf.add(h, p), tf.subtract(h, 1.0), tf.multiply(h, p), tf.divide(h, p), tf.maximum(h, p), tf.minimum(0.1, h),
        tf.pow(p, 2.0), tf.math.squared_difference(h, p), tf.add_n([h, p, x]), tf.math.divide_no_nan(h, p), tf.exp(h),
        tf.math.log(p), tf.sqrt(p), tf.math.rsqrt(p), tf.square(h), tf.negative(h), tf.abs(h), tf.sign(h), tf.sin(h),
        tf.cos(h), tf.tanh(h), tf.sigmoid(h), tf.round(3 * h), tf.floor(3 * h), tf.math.ceil(3 * h), tf.math.log1p(p),
        tf.math.reciprocal(p), tf.math.erf(h), tf.math.softplus(h), tf.nn.relu(h), tf.nn.relu6(h), tf.nn.elu(h),
        tf.nn.selu(h), tf.nn.leaky_relu(h), tf.nn.leaky_relu(h, alpha=0.3), tf.nn.gelu(h), tf.nn.silu(h), tf.nn.tanh(h),
        tf.nn.gelu(h, approximate=True), tf.nn.softmax(h), tf.nn.softmax(h, axis=1), tf.nn.log_softmax(h),
        tf.nn.sigmoid(h), tf.clip_by_value(h, -0.1, 0.1), tf.matmul(h, p, transpose_b=True), tf.cumsum(h, axis=1),
        tf.math.l2_normalize(h, axis=-1), tf.reverse(h, axis=[1]), tf.tile(h, [1, 2, 1]), tf.repeat(h, 2, axis=1),
        tf.pad(h, [[0, 0], [1, 2], [0, 0]]), tf.gather(h, [0, 2, 2], axis=1), tf.zeros_like(h), tf.ones_like(h),
        tf.norm(h, axis=-1), tf.roll(h, 1, axis=1), *tf.split(h, 2, axis=-1), *tf.split(h, [1, 3], axis=-1),
        *tf.unstack(h[:, :2], axis=1), tf.cast(tf.argmax(h, axis=-1), tf.float32), tf.identity(h), h * [1.0, 2, 3, 4],
        tf.linalg.matmul(p, p, True), tf.reshape(h, [tf.shape(h)[0], -1]), tf.where(h > p, 0.0, p),
        tf.cast(tf.logical_and(h > 0, p > 0.5), "float32"), tf.nn.bias_add(h, [1.0, 2.0, 3.0, 4.0]),
    ]  # fmt: skip
    return tf_keras.Model([x, z], [layers.Dropout(0.2)(y) for y in outputs])


def backend_functions() -> tf_keras.Model:
    """Those of ``keras.backend``, and operators within a nested model."""
    k = tf_keras.backend
    x, z = tf_keras.Input((7, 4), name="x"), tf_keras.Input((7, 4), name="z")
    inner_x = tf_keras.Input((7, 4))
    inner = tf_keras.Model(inner_x, layers.Dense(3)(k.mean(inner_x, axis=1) * 2.0 - inner_x[:, 0]))
    h = layers.LSTM(4, return_sequences=True, dropout=0.2)(x)
    outputs = [
        inner(x), inner(h), k.mean(h, axis=1), k.sum(h, axis=[1, 2]), k.max(h, 1, keepdims=True), k.std(h, axis=1),
        k.expand_dims(h, 1), k.squeeze(h[:, :1], 1), k.concatenate([h, z]), k.stack([h, z], axis=1),
        k.permute_dimensions(h, (0, 2, 1)), k.reshape(h, (-1, 28)), k.flatten(h), k.batch_flatten(h), k.exp(h),
        k.softmax(h), k.sigmoid(h), k.tanh(h), k.relu(h, alpha=0.1), k.square(h), k.abs(h), k.clip(h, -0.1, 0.1),
        k.l2_normalize(h, axis=-1), k.batch_dot(h, z, axes=2), k.repeat(h[:, 0], 3), k.cast(h, "float32"),
        k.reverse(h, 1), k.sqrt(k.abs(h)), k.maximum(h, z), k.hard_sigmoid(h), k.elu(h), k.softplus(h),
    ]  # fmt: skip
    outputs = [y for y in outputs if y.shape.rank > 1]
    return tf_keras.Model([x, z], [layers.Dropout(0.2)(y) for y in outputs])


def fitted() -> tf_keras.Model:
    """What training leaves in a file: the optimizer's variables, and those of loss and metrics."""
    model = _of(layers.LSTM(4, dropout=0.2), layers.BatchNormalization(), layers.Dense(2))
    model.compile("adam", "mse", metrics=["mae", tf_keras.metrics.RootMeanSquaredError()])
    stop = tf_keras.callbacks.EarlyStopping()
    model.fit(np.zeros((4, 7, 3)), np.zeros((4, 2)), validation_split=0.5, callbacks=[stop], verbose=0)
    return model


def save_as_keras_2_13(model: tf_keras.Model, path: Path, version: str) -> None:
    """``model.save`` as 2.13 and 2.14 laid the weights out (their saving_lib.py): by another walk over attributes.

    2.13 also counted a layer that it had visited.
    """
    skipped = saving_lib.ATTR_SKIPLIST - {"_layer_checkpoint_dependencies"}

    def walk(trackable: object) -> Iterator[tuple[str, object]]:
        for name in dir(trackable):
            if not name.startswith("__") and name not in skipped:
                with contextlib.suppress(Exception):
                    yield name, getattr(trackable, name)

    def save_container(
        container: object, weights_store: object, assets_store: object, inner_path: str, visited_trackables: set[int]
    ) -> None:
        used: dict[str, int] = {}
        for layer in container.values() if isinstance(container, dict) else container:
            if saving_lib._is_keras_trackable(layer) and (version == "2.13.1" or id(layer) not in visited_trackables):
                name = saving_lib.generic_utils.to_snake_case(type(layer).__name__)
                used[name] = used.get(name, -1) + 1
                path = f"{inner_path}/{name}_{used[name]}" if used[name] else f"{inner_path}/{name}"
                saving_lib._save_state(layer, weights_store, assets_store, path, visited_trackables)

    with (
        mock.patch.object(saving_lib, "_walk_trackable", walk),
        mock.patch.object(saving_lib, "_save_container_state", save_container),
    ):
        model.save(path)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["metadata.json"] = json.dumps({"keras_version": version}).encode()
    parts["config.json"] = parts["config.json"].replace(b"tf_keras.src", b"keras.src")
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def main(folder: Path, forms: dict[str, list[str]]) -> None:
    for number, (name, written) in enumerate(forms.items()):
        rng = np.random.default_rng(number)
        model = globals()[name]()
        # Positive throughout, for the variances among them.
        model.set_weights([rng.uniform(0.05, 0.6, w.shape).astype(w.dtype) - 0.3 * ("variance" not in v.name)
                           for w, v in zip(model.get_weights(), model.weights, strict=True)])  # fmt: skip
        inputs = {}
        for x in model.inputs:
            ids = len(x.shape) == 2
            values = rng.integers(0, 11, (5, x.shape[1])) if ids else rng.standard_normal((5, *x.shape[1:]))
            inputs[x.name.partition(":")[0]] = values.astype("float32")
        if name == "cells":
            inputs["x"][0, 4:] = inputs["x"][1, 2:4] = 0
        outputs = model(list(inputs.values()) if len(inputs) > 1 else inputs["x" if "x" in inputs else list(inputs)[0]])
        outputs = outputs if isinstance(outputs, list) else [outputs]
        np.savez(folder / f"{name}.npz", **inputs, **{f"output_{i}": y for i, y in enumerate(outputs)})
        if "h5" in written:
            model.save(folder / f"{name}.h5")
        if "keras" in written:
            model.save(folder / f"{name}.keras")
        for version in ("2.13.1", "2.14.0"):
            if version in written:
                save_as_keras_2_13(model, folder / f"{name}.{version}.keras", version)
        if "weights" in written or "by_layer" in written:
            (folder / f"{name}.json").write_text(model.to_json())
            model.save_weights(folder / f"{name}.weights.h5")
            model.save_weights(folder / f"{name}.by_layer.h5")
        if "savedmodel" in written:
            model.save(folder / name, save_format="tf")


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
