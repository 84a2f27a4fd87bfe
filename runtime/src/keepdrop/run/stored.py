"""Stored: what an artifact holds beside its metadata, a calibration and what it says of tables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Optional, Union

from keepdrop.artifact.metadata import (
    CALIBRATION_KEY,
    OBSERVATION_PROBABILITY,
    OBSERVATION_QUANTILES,
    TABLE_KEY,
    Metadata,
    calibration_digest,
)
from keepdrop.artifact.savedmodel import savedmodel_metadata, savedmodel_properties
from keepdrop.calibration.record import Calibration
from keepdrop.errors import ArtifactError, InputError
from keepdrop.table import Table, fitted

from .session import AnySession


def stored_calibration(session: AnySession) -> Optional[Calibration]:
    """What calibrated the artifact, as it says itself."""
    text = session.properties.get(CALIBRATION_KEY)
    refuse_other_calibration(session.path, session.metadata, text)
    if text is None:
        return None
    try:
        return Calibration.from_json(text, session.metadata.outputs)
    except ArtifactError as error:
        raise ArtifactError(f"{session.path}: {error}") from error


def refuse_other_calibration(path: str, metadata: Metadata, text: Optional[str]) -> None:
    """Raise ArtifactError where the graph's own outputs hold a calibration that is not this record, or none."""
    held = metadata.summary_calibration
    if held is None or (text is not None and calibration_digest(text) == held):
        return
    kinds = (f"_{OBSERVATION_QUANTILES}", f"_{OBSERVATION_PROBABILITY}")
    names = [tensor.name for tensor in metadata.summary if tensor.name.endswith(kinds)]
    raise ArtifactError(
        f"{path}: the graph's own outputs {names} hold the calibration that they were made of, and no other goes with "
        "them; take them out on the workstation (keepdrop_exporter.summarise(FILE, PLAIN, remove=True)), calibrate "
        "PLAIN, and summarise that"
    )


def savedmodel_table(directory: Union[str, os.PathLike[str]]) -> Optional[Table]:
    """The table of a SavedModel, read without TensorFlow; ArtifactError where it has none that fits."""
    metadata = savedmodel_metadata(directory)
    return _table_of(os.fsdecode(directory), metadata, savedmodel_properties(directory))


def stored_table(session: AnySession) -> Optional[Table]:
    """What the artifact says of tables, completed by what it says of itself."""
    return _table_of(session.path, session.metadata, session.properties)


def _table_of(path: str, metadata: Metadata, properties: Mapping[str, str]) -> Optional[Table]:
    text = properties.get(TABLE_KEY)
    if text is None:
        return None
    try:
        return fitted(Table.from_json(text), metadata.inputs, metadata.outputs, metadata.heads)
    except InputError as error:
        raise ArtifactError(f"{path}: its {TABLE_KEY!r} does not fit it: {error}; export it again") from error
