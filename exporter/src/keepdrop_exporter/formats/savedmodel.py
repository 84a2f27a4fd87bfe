"""Stage 4, the other format: the traced function as a TensorFlow SavedModel, and such a directory opened again.

The directory holds the function, its weights and, as an asset, the metadata; no Python object and nothing of Keras.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from numpy.typing import NDArray

from keepdrop import ArtifactError, InputError, Model
from keepdrop.artifact.metadata import METADATA_KEY, RESERVED_NAMES, Metadata
from keepdrop.artifact.savedmodel import (
    METADATA_ASSET,
    savedmodel_metadata,
    savedmodel_properties,
    write_savedmodel_properties,
)
from keepdrop.run.request import Request
from keepdrop.run.session import AnySession, Session, check_outputs
from keepdrop_exporter.errors import ConvertError
from keepdrop_exporter.trace.function import Traced
from keepdrop_exporter.writing import quiet

SIGNATURE = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY


def load_savedmodel(path: str | os.PathLike[str]) -> Model:
    """Open a SavedModel that ``export`` wrote, to sample it with TensorFlow as ``keepdrop.load`` does an ONNX file.

    The samples are the same; TensorFlow decides on the threads.

    Raises
    ------
    ArtifactError
        The path is no such directory, or bears an unknown contract version.
    """
    return Model(SavedModelSession(path), threads=1)


def open_artifact(path: str | os.PathLike[str]) -> AnySession:
    """An artifact of either format, opened by what runs it: TensorFlow a directory, onnxruntime a file."""
    return SavedModelSession(path) if Path(path).is_dir() else Session(path)


class SavedModelSession:
    """An open SavedModel; ``run`` may be called from several threads at once.

    Raises
    ------
    ArtifactError
        The path is not a SavedModel that ``export`` wrote.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fsdecode(path)
        self.metadata = savedmodel_metadata(path)
        self.properties: Mapping[str, str] = savedmodel_properties(path)
        self.checksum = _checksum(Path(self.path), self.properties)
        try:
            self._loaded = tf.saved_model.load(self.path)
            self._signature = self._loaded.signatures[SIGNATURE]
        except Exception as error:  # of any kind where files are damaged
            reason = " ".join(str(error).split())[:300]
            raise ArtifactError(
                f"{self.path} does not load as a SavedModel in TensorFlow {tf.__version__} ({reason}); export the "
                "model again"
            ) from error
        # TensorFlow calls an input by a name that Python could have, and keeps its own name in the spec.
        arguments = self._signature.structured_input_signature[1]
        self._arguments = {spec.name: argument for argument, spec in arguments.items()}
        self._output_names = [tensor.name for tensor in self.metadata.outputs]
        wanted = {*(t.name for t in self.metadata.inputs), *RESERVED_NAMES}
        given = {*self._arguments, *self._signature.structured_outputs}
        if missing := sorted({*wanted, *self._output_names} - given):
            raise ArtifactError(
                f"{self.path}: its signature {SIGNATURE!r} lacks {missing} that its metadata tells of; export the "
                "model again"
            )

    @property
    def source(self) -> tuple[str, str]:
        """The directory, and its checksum."""
        return self.path, self.checksum

    @property
    def in_memory(self) -> bool:
        """Never: TensorFlow loads directories alone."""
        return False

    def sha256(self) -> str:
        """The checksum."""
        return self.checksum

    def numbers_digest(self) -> str:
        """The digest of the program, the signature, the weights and the contract, as TensorFlow fingerprints them.

        A copy with other properties has the same. A rebuild has not, unlike an ONNX file's: TensorFlow (2.21) numbers
        the functions of a process, and fingerprints the names.
        """
        found = tf.saved_model.experimental.read_fingerprint(self.path)
        parts = [found.graph_def_program_hash, found.signature_def_hash, found.checkpoint_hash]
        text = " ".join(map(str, ["keepdrop", self.metadata.contract, *parts]))
        return hashlib.sha256(text.encode()).hexdigest()

    def content(self) -> bytes:
        """ArtifactError: a directory is no file; ``artifact.savedmodel`` writes what it keeps beside its graph."""
        raise ArtifactError(f"{self.path} is a SavedModel, a directory; calibrate the ONNX file of the same model")

    def another(self) -> SavedModelSession:
        """This session: TensorFlow's functions run in any thread."""
        return self

    def run(self, request: Request) -> list[NDArray[Any]]:
        """One run in the calling thread: each output as [samples, batch, ...].

        Raises
        ------
        InputError
            TensorFlow failed on these inputs, as it does on ids an Embedding does not have.
        ArtifactError
            An output does not start with samples and batch.
        """
        outputs = self.call(self._output_names, request.feeds())
        check_outputs(self.path, self.metadata.outputs, outputs, request)
        return outputs

    def call(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these names, from inputs by name.

        Raises
        ------
        InputError
            TensorFlow failed on these inputs.
        """
        try:
            results = self._signature(**{self._arguments[name]: tf.constant(value) for name, value in feeds.items()})
        except tf.errors.OpError as error:
            reason = " ".join(error.message.split())[:300]
            raise InputError(f"{self.path} failed on these inputs; check their values. TensorFlow: {reason}") from error
        return [results[name].numpy() for name in names]


def write(traced: Traced, path: Path, metadata: Metadata) -> None:
    """Save a traced function as a SavedModel with one signature, ``serving_default``.

    Parameters
    ----------
    traced
        The function of ``trace.trace``.
    path
        The directory to make.
    metadata
        Goes into the asset.

    Raises
    ------
    ConvertError
        TensorFlow cannot save the function, or would mix up names.
    """
    _refuse_names(spec.name for spec in traced.function.structured_input_signature[0][0].values())
    module = tf.Module()
    module.weights = list(traced.function.graph.variables)
    path.mkdir()
    asset = path / Path(METADATA_ASSET).name
    asset.write_text(metadata.to_json(), encoding="utf-8")
    module.metadata = tf.saved_model.Asset(str(asset))
    try:
        with quiet():
            tf.saved_model.save(module, str(path), signatures={SIGNATURE: traced.function})
    except Exception as error:  # of any kind that TensorFlow has
        reason = " ".join(str(error).split())[:300]
        raise ConvertError(f"TensorFlow cannot save the traced model ({type(error).__name__}: {reason})") from error
    asset.unlink()


def write_metadata(path: Path, metadata: Metadata) -> None:
    """Give a SavedModel this metadata in place of what it had."""
    write_savedmodel_properties(path, {METADATA_KEY: metadata.to_json()})


def _checksum(path: Path, properties: Mapping[str, str]) -> str:
    """Of what TensorFlow's fingerprint covers (the graph and the weights) and of the properties."""
    fingerprint = path / "fingerprint.pb"
    parts = [fingerprint.read_bytes() if fingerprint.is_file() else b""]
    parts += [f"{key}\0{text}\0".encode() for key, text in sorted(properties.items())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _refuse_names(names: Iterable[str]) -> None:
    """TensorFlow pairs a signature's names with its arguments by their order, after making Python names of them."""
    ordered = sorted(names)
    swapped = ["".join(c if c.isalnum() else "_" for c in name) for name in ordered]
    arguments = [name if name[0].isalpha() else f"arg_{name}" for name in swapped]
    if arguments != sorted(set(arguments)):
        raise ConvertError(
            f"TensorFlow would mix up the inputs {ordered} in a SavedModel, where it makes Python names of them; give "
            "the layers names of letters, digits and underscores, or export to ONNX"
        )
