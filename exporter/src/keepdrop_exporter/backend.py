"""Keras runs on TensorFlow here: the contract's numbers are those of TensorFlow's generator."""

from __future__ import annotations

import os
import sys

from .errors import ExportError

_FIRST = 'import os; os.environ["KERAS_BACKEND"] = "tensorflow"'


def own_process() -> None:
    """Set Keras up for a process that is ours alone, whatever KERAS_BACKEND and keras.json say.

    To be called before Keras and TensorFlow are imported: TensorFlow 2.21 imports Keras, with the backend it is told.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")
    keras.config.set_epsilon(1e-7)
    keras.config.set_image_data_format("channels_last")


def require_tensorflow() -> None:
    """Refuse a process whose Keras runs, or would, on another backend.

    Raises
    ------
    ExportError
        It does; the text has the line to put first.
    """
    told = os.environ.get("KERAS_BACKEND") or "in keras.json"
    try:
        import keras
    except (ImportError, ValueError) as error:  # the backend's package is missing, or its name unknown
        for name in [name for name in sys.modules if name.partition(".")[0] == "keras"]:
            del sys.modules[name]
        raise ExportError(
            f"Keras does not start on the backend it is told to use, {told} ({' '.join(str(error).split())[:200]}); "
            f"put this line before the first import of keras: {_FIRST}"
        ) from error
    if (backend := keras.config.backend()) != "tensorflow":
        raise ExportError(
            f"Keras runs on {backend} in this process, and the contract's numbers are those of TensorFlow; put this "
            f"line before the first import of keras: {_FIRST} (the .keras file of a model that was trained on "
            f"{backend} is loaded there as it is), or run keepdrop export on that file"
        )
