"""``TimeDistributed`` over a time axis of unknown length: time is folded into the batch.

Keras maps such a layer with ``vectorized_map``, which tf2onnx converts to a loop over the wrong axis.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from keepdrop_exporter.plan import keras_hooks

from . import axes


def fold_time(
    original: Any, layer: keras.layers.TimeDistributed, inputs: tf.Tensor, training: Any = None, mask: Any = None
) -> Any:
    """Stand in for ``TimeDistributed.call``: the same arguments, the same result."""
    inner = layer.layer
    if inputs.shape[1] is not None:
        return original(layer, inputs, training=training, mask=mask)
    shape = tf.shape(inputs, out_type=tf.int64)
    kwargs = {"training": training} if keras_hooks.takes(inner, "training") else {}
    if mask is not None and keras_hooks.takes(inner, "mask"):
        kwargs["mask"] = axes.merge(mask)
    outputs = inner.call(axes.merge(inputs), **kwargs)
    unfolded = tf.reshape(outputs, tf.concat([shape[:2], tf.shape(outputs, out_type=tf.int64)[1:]], 0))
    unfolded.set_shape([None, None, *outputs.shape[1:]])
    return unfolded
