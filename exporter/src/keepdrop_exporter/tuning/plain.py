"""Plain: a model's prediction without dropout as an artifact would give it, so that it is judged the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keepdrop import Model, __version__
from keepdrop.answer.heads import Heads
from keepdrop.artifact.metadata import NUM_SAMPLES, TABLE_KEY, Metadata
from keepdrop.run.request import Request
from keepdrop.run.session import check_outputs
from keepdrop_exporter.errors import ExportError
from keepdrop_exporter.pipeline import columns_of, declared_table, fitted_table
from keepdrop_exporter.plan.draws import Plan, tensors
from keepdrop_exporter.plan.heads import find_heads
from keepdrop_exporter.retrofit import without_dropout
from keepdrop_exporter.scaling import scaled

# The fewest that a fair CRPS takes; they are all the same.
SAMPLES = 2


def plain_model(
    model: keras.Model,
    *,
    input_scaler: Any = None,
    output_scaler: Any = None,
    heads: Heads | None = None,
    table: Any = None,
) -> Model[Any, Any]:
    """What ``export`` would make of the model with the same options, each of its samples the output without dropout.

    Raises
    ------
    ScalingError, ExportError
        As for ``export``.
    """
    declared = None if table is None else declared_table(table)
    columns = None if declared is None else columns_of(declared, model)
    raw, _ = scaled(model, input_scaler, output_scaler, heads, columns)
    plan = Plan(raw, *tensors(raw), (), ())
    known, _ = find_heads(raw, plan.outputs, heads)
    metadata = Metadata(
        __version__, keras.__version__, plan.inputs, plan.outputs, (), 0, SAMPLES, None, None, heads=known
    )
    text = {} if declared is None else {TABLE_KEY: fitted_table(declared, plan, known).to_json()}
    return Model(_PlainSession(raw, metadata, text), threads=1, by_output=True)


class _PlainSession:
    """A Keras model in the place of an open artifact; it stays in this process."""

    checksum = ""
    in_memory = True

    def __init__(self, model: keras.Model, metadata: Metadata, properties: Mapping[str, str]) -> None:
        self.path = model.name
        self.metadata = metadata
        self.properties = properties
        self._model = model

    def run(self, request: Request) -> list[NDArray[Any]]:
        """Each output as [samples, batch, ...], alike over samples."""
        outputs = self.call([tensor.name for tensor in self.metadata.outputs], request.feeds())
        check_outputs(self.path, self.metadata.outputs, outputs, request)
        return outputs

    def call(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these names, from inputs by name."""
        given = [feeds[tensor.name] for tensor in self.metadata.inputs]
        of_all = zip(self.metadata.outputs, without_dropout(self._model, given), strict=True)
        found = {tensor.name: y for tensor, y in of_all}
        count = int(feeds[NUM_SAMPLES].reshape(()))
        return [np.repeat(found[name][np.newaxis], count, axis=0) for name in names]

    def another(self) -> _PlainSession:
        """This session."""
        return self

    @property
    def source(self) -> tuple[bytes, str]:
        """ExportError: there is no file."""
        raise ExportError(f"{self.path} is a model without dropout, of which there is no artifact")

    def content(self) -> bytes:
        """ExportError: there is no file."""
        return self.source[0]

    def sha256(self) -> str:
        """ExportError: there is no file."""
        return self.source[1]

    def numbers_digest(self) -> str:
        """ExportError: there is no file."""
        return self.source[1]
