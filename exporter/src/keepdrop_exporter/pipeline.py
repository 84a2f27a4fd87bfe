"""The way through the house: Keras file -> plan -> traced function -> ONNX -> verified artifact."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keepdrop import __version__
from keepdrop.artifact import DEFAULT_SAMPLES, FIRST_SAMPLE, NUM_SAMPLES, Head, Metadata, Verification
from keepdrop.heads import Heads

from . import convert
from .errors import ExportError
from .heads import find_heads
from .loading import Loaded, read
from .plan import Plan, make_plan
from .trace import trace
from .verification import ATOL, RTOL, measure_cost, verify_plan


@dataclass(frozen=True)
class Report:
    """What an export made: the file, its size in bytes, its metadata, and lines its user should read."""

    path: Path
    size: int
    metadata: Metadata
    notes: tuple[str, ...]

    @property
    def verified(self) -> Verification:
        """What was compared with Keras, and how far apart the samples were."""
        assert self.metadata.verified is not None
        return self.metadata.verified


def export(
    model: keras.Model | str | Path,
    path: str | Path,
    *,
    default_samples: int = DEFAULT_SAMPLES,
    heads: Heads | None = None,
    rows: int = 4,
    samples: int = 16,
    seed: int = 0,
    data: NDArray[np.generic] | Mapping[str, NDArray[np.generic]] | None = None,
    atol: float = ATOL,
    rtol: float = RTOL,
    custom_objects: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    trust_code: bool = False,
    progress: Callable[[str], None] = lambda stage: None,
) -> Report:
    """Export a Keras model with its dropout active to an ONNX file whose seed is an input, verified against Keras.

    The file gets its name only once its samples are found equal to Keras'; a failed export leaves what was there.
    Keras' random functions are replaced meanwhile: no other thread of the process should run Keras models.

    Parameters
    ----------
    model
        A Keras model, or what ``load`` takes: a ``.keras``, ``.h5`` or ``.json`` file, a SavedModel's folder.
    path
        The ONNX file to write.
    default_samples
        How many samples the graph draws where ``num_samples`` is not given.
    heads
        What the outputs are, where it is not what the model ends in: "value", "softmax", "sigmoid" or "mean,logvar", or
        a dict of these by output; two outputs are ``{"level,spread": "mean,logvar"}``. See ``keepdrop_exporter.heads``.
    rows, samples, seed, data, atol, rtol
        How the artifact is verified; see ``verify``.
    custom_objects, weights, trust_code
        How a file is loaded; see ``load``.
    progress
        Told each stage's name as it begins.

    Raises
    ------
    LoadError, Refusal, ConvertError, VerifyError
        The stage that failed, each with what to do.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise ExportError(f"{target}: there is no folder {target.parent}; make it first")
    if target.suffix != ".onnx":
        raise ExportError(f"{target}: the artifact is an ONNX file; let its name end in .onnx")
    if default_samples < 1:
        raise ExportError(f"default_samples={default_samples}: at least 1 sample must be drawn")
    progress("load")
    loaded = Loaded(model, (), None)
    if isinstance(model, (str, Path)):
        loaded = read(model, custom_objects, weights, trust_code=trust_code, most_bytes=convert.MOST_BYTES)
    convert.refuse_size(loaded.model)
    progress("plan")
    plan = make_plan(loaded.model)
    known_heads, head_notes = find_heads(plan.model, plan.outputs, heads)
    progress("trace")
    traced = trace(plan)
    progress("convert")
    proto = convert.to_onnx(traced, plan.inputs, plan.outputs, {NUM_SAMPLES: default_samples, FIRST_SAMPLE: 0})
    metadata = _metadata(plan, known_heads, default_samples, loaded)
    with convert.temporary_beside(target) as partial:
        partial.write_bytes(convert.with_metadata(proto, metadata).SerializeToString())
        progress("verify")
        verified = verify_plan(plan, partial, rows=rows, samples=samples, seed=seed, data=data, atol=atol, rtol=rtol)
        metadata = replace(metadata, verified=verified, cost=measure_cost(plan, partial, data))
        partial.write_bytes(convert.with_metadata(proto, metadata).SerializeToString())
        os.replace(partial, target)
    return Report(target, target.stat().st_size, metadata, (*loaded.changes, *plan.notes, *head_notes))


def _metadata(plan: Plan, heads: tuple[Head, ...], default_samples: int, loaded: Loaded) -> Metadata:
    return Metadata(
        keepdrop_version=__version__,
        keras_version=keras.__version__,
        inputs=plan.inputs,
        outputs=plan.outputs,
        draws=plan.draws,
        draws_per_row=plan.draws_per_row,
        default_samples=default_samples,
        source_sha256=loaded.sha256,
        verified=None,
        heads=heads,
        changes=loaded.changes,
    )
