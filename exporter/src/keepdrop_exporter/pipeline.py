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

import keepdrop
from keepdrop import __version__
from keepdrop.artifact import DEFAULT_SAMPLES, FIRST_SAMPLE, NUM_SAMPLES, Head, Metadata, Verification
from keepdrop.heads import Heads

from . import convert
from .errors import ExportError
from .heads import find_heads
from .loading import Loaded, load, read
from .plan import Plan, make_plan
from .stream_verification import measure_push, verify_stream
from .trace import trace, trace_stream
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
    streaming: bool = False,
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
    streaming
        Whether the artifact takes one step after another and carries its states along, for ``keepdrop.Model.stream``.
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
    traced, described = trace_stream(plan) if streaming else (trace(plan), plan)
    progress("convert")
    proto = convert.to_onnx(
        traced, described.inputs, described.outputs, {NUM_SAMPLES: default_samples, FIRST_SAMPLE: 0}
    )
    metadata = replace(_metadata(described, known_heads, default_samples, loaded), stream=traced.stream)
    with convert.temporary_beside(target) as partial:
        partial.write_bytes(convert.with_metadata(proto, metadata).SerializeToString())
        progress("verify")
        check = verify_stream if streaming else verify_plan
        verified = check(plan, partial, rows=rows, samples=samples, seed=seed, data=data, atol=atol, rtol=rtol)
        cost = measure_push(plan, partial) if streaming else measure_cost(plan, partial, data)
        metadata = replace(metadata, verified=verified, cost=cost)
        partial.write_bytes(convert.with_metadata(proto, metadata).SerializeToString())
        os.replace(partial, target)
    return Report(target, target.stat().st_size, metadata, (*loaded.changes, *described.notes, *head_notes))


def verify(
    model: keras.Model | str | Path,
    artifact: str | Path,
    *,
    rows: int = 4,
    samples: int = 16,
    seed: int = 0,
    data: NDArray[np.generic] | Mapping[str, NDArray[np.generic]] | None = None,
    atol: float = ATOL,
    rtol: float = RTOL,
    custom_objects: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    trust_code: bool = False,
) -> Verification:
    """Draw samples from an artifact and compare them with those stock Keras computes.

    Parameters
    ----------
    model
        The Keras model the artifact was made from, or its file.
    artifact
        The ONNX file.
    rows, samples
        How many examples, and how many samples of each, are compared.
    seed
        The seed of the samples (and of the random inputs).
    data
        Inputs to use, [n, ...] (a dict by input name where there are several); the first ``rows`` of them are
        taken. By default standard normal numbers, valid ids where an Embedding reads them, at two lengths
        where the length is dynamic. A streaming artifact is pushed all steps of them.
    atol, rtol
        A sample a may differ from Keras' sample r by ``atol + rtol * |r|``.
    custom_objects, weights, trust_code
        How a file is loaded; see ``load``.

    Raises
    ------
    VerifyError
        Samples differ from Keras'; or nothing varies over samples; or another seed gives the same samples, the
        same seed others; or samples depend on how a call is cut into chunks.
    """
    if isinstance(model, (str, Path)):
        model = load(model, custom_objects, weights, trust_code=trust_code)
    streaming = keepdrop.load(artifact, threads=1).metadata.stream is not None
    check = verify_stream if streaming else verify_plan
    return check(make_plan(model), artifact, rows=rows, samples=samples, seed=seed, data=data, atol=atol, rtol=rtol)


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
