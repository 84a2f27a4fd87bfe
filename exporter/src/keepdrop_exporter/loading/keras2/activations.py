"""Activation functions that Keras 3 lacks; registered, so that a model that uses them saves and loads."""

from __future__ import annotations

from typing import Any

import keras


def keras2_hard_sigmoid(x: Any) -> Any:
    """clip(0.2 x + 0.5, 0, 1): what ``hard_sigmoid`` means in Keras 2; in Keras 3 it is relu6(x + 3) / 6."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


keras.saving.register_keras_serializable(package="keepdrop")(keras2_hard_sigmoid)
