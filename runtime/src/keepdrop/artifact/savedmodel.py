"""The directory of a SavedModel: its metadata and properties, read and written without TensorFlow.

Each is a file where TensorFlow puts assets: the property `keepdrop.table` is `assets/keepdrop.table.json`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Optional, Union

from keepdrop.errors import ArtifactError

from .metadata import METADATA_KEY, Metadata

ASSETS = "assets"
_SUFFIX = ".json"
METADATA_ASSET = os.path.join(ASSETS, METADATA_KEY + _SUFFIX)


def is_savedmodel(path: Union[str, os.PathLike[str]]) -> bool:
    """Whether the path is a directory that TensorFlow would load."""
    return os.path.isfile(os.path.join(path, "saved_model.pb"))


def savedmodel_metadata(directory: Union[str, os.PathLike[str]]) -> Metadata:
    """The metadata of a SavedModel that `keepdrop export` wrote, read without TensorFlow.

    Raises
    ------
    ArtifactError
        The directory is no such SavedModel, or bears an unknown contract version.
    """
    path = os.fsdecode(directory)
    if not is_savedmodel(path):
        found = "is a directory that holds no saved_model.pb" if os.path.isdir(path) else "is no directory"
        raise ArtifactError(f"{path} {found}; give the .onnx file or the SavedModel that `keepdrop export` wrote")
    try:
        with open(os.path.join(path, METADATA_ASSET), encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(
            f"{path} is a SavedModel without a readable {METADATA_ASSET} ({error}); export the Keras model with "
            "format='savedmodel': SavedModels of Keras' own draw no samples"
        ) from error
    try:
        return Metadata.from_json(text)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def savedmodel_properties(directory: Union[str, os.PathLike[str]]) -> dict[str, str]:
    """The properties of a SavedModel by key, the metadata among them.

    Raises
    ------
    ArtifactError
        One of them cannot be read.
    """
    folder = os.path.join(os.fsdecode(directory), ASSETS)
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = [name for name in names if name.startswith(METADATA_KEY) and name.endswith(_SUFFIX)]
    return {name[: -len(_SUFFIX)]: _text(os.path.join(folder, name)) for name in found}


def write_savedmodel_properties(directory: Union[str, os.PathLike[str]], changes: Mapping[str, Optional[str]]) -> None:
    """Give a SavedModel these properties, text by key, in place of what it had of them; None takes one away.

    Each file is replaced as a whole. What TensorFlow loads, and its fingerprint, stay as they are.
    """
    for key, value in changes.items():
        path = os.path.join(os.fsdecode(directory), ASSETS, key + _SUFFIX)
        if value is not None:
            partial = f"{path}.{os.getpid()}.tmp"
            with open(partial, "w", encoding="utf-8") as file:
                file.write(value)
            os.replace(partial, path)
        elif os.path.exists(path):
            os.remove(path)


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}); export the model again") from error
