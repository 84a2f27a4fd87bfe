"""The samples as the contract defines them, computed by stock Keras."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keepdrop_exporter.errors import VerifyError

from . import keras_hooks
from .draws import Plan, call_model

Arrays = dict[str, NDArray[np.generic]]
Samples = dict[str, NDArray[np.float32]]


def reference(plan: Plan, x: Arrays, rows: NDArray[np.int64], samples: int, seed: int) -> Samples:
    """The samples as the contract defines them, row after row by the untouched Keras model: [T, B, ...] each.

    Raises
    ------
    VerifyError
        The Keras model does not run on these inputs.
    """
    per_row = []
    try:
        with keras_hooks.sampling_state(plan.model), keras_hooks.plain_errors():
            for b, row in enumerate(rows):
                _start_generators(plan, seed, int(row))
                inputs = [np.repeat(x[t.name][b : b + 1], samples, axis=0) for t in plan.inputs]
                per_row.append([np.asarray(y) for y in call_model(plan.model, inputs)])
    except Exception as error:  # Keras' own kinds, for ids that an Embedding lacks among others
        shapes = {name: a.shape for name, a in x.items()}
        reason = " ".join(str(error).split())[:300]
        raise VerifyError(
            f"the Keras model does not run on inputs of shape {shapes}; check their values: {reason}"
        ) from error
    return {t.name: np.stack([row[i] for row in per_row], axis=1) for i, t in enumerate(plan.outputs)}


def _start_generators(plan: Plan, seed: int, row: int) -> None:
    """Give each generator of the model the state from which it draws for a row."""
    for i, generator in enumerate(plan.generators):
        offset = min(d.offset for d in plan.draws if d.generator == i)
        generator.state.assign([seed, _int64(row * plan.draws_per_row + offset)])


def _int64(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63
