"""Summarise: an artifact's answers as outputs of its own graph, those of its calibration too.

A device calibrates without the ``onnx`` package; the graph is completed where the exporter is.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from keepdrop.artifact.metadata import CALIBRATION_KEY, Metadata, calibration_digest
from keepdrop.calibration.record import Calibration
from keepdrop.cli.measure import random_inputs
from keepdrop.run.session import Session
from keepdrop.run.stored import stored_calibration
from keepdrop_exporter.formats.onnx_export import with_metadata
from keepdrop_exporter.formats.onnx_summary import add_summary, known_summary, take_out
from keepdrop_exporter.verification.cost import cost_of
from keepdrop_exporter.verification.summaries import verify_summary

from . import writing
from .errors import ExportError

# Of a dynamic axis, where the artifact does not say which length it was measured at.
_LENGTH = 8


def summarise(artifact: str | Path, path: str | Path, *, remove: bool = False) -> Metadata:
    """Write an artifact again with its answers as outputs of its graph, verified against NumPy and the runtime.

    They are those of ``export(summary=True)``, and of what is calibrated ``NAME_observation_quantiles`` [Q, batch, ...]
    (values) or ``NAME_observation_probability`` [batch, ...] (classes): where an observation will fall, as
    ``Prediction.observation`` says. Samples, calibration and table stay. Outputs of an earlier summary are replaced.

    Parameters
    ----------
    artifact
        The ONNX file, streaming or not; calibrated or not.
    path
        The ONNX file to write.
    remove
        Take the summary out instead: the graph is then that of an export without one, for another calibration.

    Returns
    -------
    Metadata
        What the file that was written says of itself.

    Raises
    ------
    InputError
        `path` is the artifact itself.
    ExportError
        There is no summary to remove; an output was calibrated for rows of another length than it has; the model's own
        tensors bear such names.
    VerifyError
        A figure of the graph's is not the runtime's.
    ArtifactError
        It is no artifact.
    """
    target = Path(path)
    writing.refuse_overwriting({"the summarised artifact": target}, {"the artifact": artifact})
    if target.suffix != ".onnx" or target.is_dir() or not target.parent.is_dir():
        raise ExportError(f"{target}: give an ONNX file in a folder that is there; let its name end in .onnx")
    session = Session(artifact)
    metadata = session.metadata
    if remove and not metadata.summary:
        raise ExportError(f"{artifact} gives no summary; there is nothing to remove")
    model = onnx.load_model_from_string(session.content())
    take_out(model.graph, metadata.summary)
    metadata = replace(metadata, summary=(), summary_calibration=None)
    if not remove:
        calibration = stored_calibration(session)
        metadata = replace(metadata, summary=known_summary(metadata, calibration))
        metadata = replace(metadata, summary_calibration=_digest(session, calibration))
        add_summary(model.graph, metadata.outputs, metadata.heads, calibration)
    with writing.temporary_beside(target) as partial:
        partial.write_bytes(with_metadata(model.SerializeToString(), metadata))
        length = metadata.cost.length if metadata.cost and metadata.cost.length else _LENGTH
        if metadata.summary:
            verify_summary(partial, random_inputs(metadata, rows=3, length=length))
        if metadata.cost and not metadata.stream:
            cost = cost_of(Session(partial), random_inputs(metadata, rows=1, length=length))
            metadata = replace(metadata, cost=cost)
            partial.write_bytes(with_metadata(partial.read_bytes(), metadata))
        writing.replace(partial, target)
    return metadata


def _digest(session: Session, calibration: Calibration | None) -> str | None:
    return None if calibration is None else calibration_digest(session.properties[CALIBRATION_KEY])
