"""What Keras 2 gives for model files: ``python keras2_outputs.py FOLDER``, in a process of its own.

For each ``<name>.npz`` in the folder with ``path`` and the input ``x``, writes ``<name>.npy``: the deterministic output
of that file in ``tf_keras``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1")

import numpy as np
import tf_keras

for case in Path(sys.argv[1]).glob("*.npz"):
    given = np.load(case)
    model = tf_keras.models.load_model(str(given["path"]), compile=False)
    np.save(case.with_suffix(".npy"), np.asarray(model(given["x"], training=False)))
