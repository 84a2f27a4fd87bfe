"""Layers whose dropout is active in ``predict`` too: classes to train with.

The contract samples ``model(x, training=True)``, so a model needs none of these to be exported. They are for those
who want Keras itself to sample: Keras 3's ``predict`` passes ``training=False`` to every layer.
"""

from __future__ import annotations

from typing import Any

import keras

_registered = keras.saving.register_keras_serializable("keepdrop")


class _Always:
    """Comes before a recurrent layer's class and calls it with ``training=True``, whatever it is given."""

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: Any = None) -> Any:
        return super().call(sequences, initial_state=initial_state, mask=mask, training=True)  # type: ignore[misc]


@_registered
class MonteCarloLSTM(_Always, keras.layers.LSTM):  # type: ignore[misc]
    """``keras.layers.LSTM`` whose ``dropout`` and ``recurrent_dropout`` are active in ``predict`` too."""


@_registered
class MonteCarloGRU(_Always, keras.layers.GRU):  # type: ignore[misc]
    """``keras.layers.GRU`` whose ``dropout`` and ``recurrent_dropout`` are active in ``predict`` too."""


@_registered
class MonteCarloSimpleRNN(_Always, keras.layers.SimpleRNN):  # type: ignore[misc]
    """``keras.layers.SimpleRNN`` whose ``dropout`` and ``recurrent_dropout`` are active in ``predict`` too."""


@_registered
class MonteCarloDropout(keras.layers.Dropout):  # type: ignore[misc]
    """``keras.layers.Dropout`` that is active in ``predict`` too."""

    def call(self, inputs: Any, training: Any = None) -> Any:
        """Drop elements of ``inputs``, whatever ``training`` is."""
        return super().call(inputs, training=True)
