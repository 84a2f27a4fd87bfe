"""Session: an artifact opened with onnxruntime. The only module that imports onnxruntime."""

from __future__ import annotations

import os
from typing import Any, Union

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from .artifact import FIRST_SAMPLE, METADATA_KEY, NUM_SAMPLES, RESERVED_NAMES, ROWS, SEED, Metadata
from .errors import ArtifactError, InputError
from .request import Request

ERROR = 3
ONNXRUNTIME_VERSION: str = onnxruntime.__version__


class Session:
    """An open artifact; `run` may be called from several threads at once.

    Raises
    ------
    ArtifactError
        The file is missing, is not ONNX, or is not an artifact of this contract version; the text names the file.
    """

    def __init__(self, path: Union[str, os.PathLike[str]]) -> None:
        self.path = os.fsdecode(path)
        self._stamp = _stamp(self.path)
        self._session = _open(self.path)
        self.metadata = _metadata(self.path, self._session)
        self._output_names = [tensor.name for tensor in self.metadata.outputs]
        _check_names(self.path, self._session, self.metadata)

    def another(self) -> Session:
        """The same artifact opened once more, for a thread of its own; this session if its file is no longer there."""
        try:
            session = Session(self.path)
            unchanged = session._stamp == self._stamp == _stamp(self.path)
        except ArtifactError:
            return self
        return session if unchanged else self

    def run(self, request: Request) -> list[NDArray[Any]]:
        """One run of the graph in the calling thread: each output as [samples, batch, ...].

        Raises
        ------
        InputError
            onnxruntime failed on these inputs, as it does on ids an Embedding does not have.
        ArtifactError
            An output does not start with samples and batch.
        """
        feeds = {
            **request.inputs,
            SEED: np.array(request.seed, np.int64),
            ROWS: request.rows,
            NUM_SAMPLES: np.array(request.samples, np.int64),
            FIRST_SAMPLE: np.array(request.first_sample, np.int64),
        }
        try:
            outputs: list[NDArray[Any]] = self._session.run(self._output_names, feeds)
        except Exception as error:  # onnxruntime's exceptions have no root of their own
            raise InputError(f"{self.path} failed on these inputs; check their values. onnxruntime: {error}") from error
        for name, output in zip(self._output_names, outputs):
            if output.shape[:2] != (request.samples, request.batch):
                raise ArtifactError(
                    f"{self.path} gave output {name!r} as {list(output.shape)} for {request.samples} samples of "
                    f"{request.batch} rows; it is not what an export writes: export the model again"
                )
        return outputs


def _stamp(path: str) -> tuple[int, int, int]:
    if os.path.isdir(path):
        raise ArtifactError(f"{path} is a directory; give the .onnx file that `keepdrop export` wrote")
    try:
        status = os.stat(path)
    except OSError as error:
        raise ArtifactError(
            f"{path} does not exist ({error.strerror}); give the .onnx file that `keepdrop export` wrote"
        ) from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def _open(path: str) -> Any:
    options = onnxruntime.SessionOptions()
    # The engine's workers are the parallelism: threads of onnxruntime's own would compete with them.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # An arena keeps what its largest run took; malloc is as fast.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = ERROR
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no root of their own
        raise ArtifactError(
            f"{path} does not open as an ONNX file in onnxruntime {onnxruntime.__version__}; "
            f"give the .onnx file that `keepdrop export` wrote. onnxruntime: {error}"
        ) from error


def _metadata(path: str, session: Any) -> Metadata:
    properties = session.get_modelmeta().custom_metadata_map
    if METADATA_KEY not in properties:
        raise ArtifactError(
            f"{path} is an ONNX file without {METADATA_KEY!r} metadata; "
            "export the Keras model with `keepdrop export`: other converters drop the randomness"
        )
    try:
        return Metadata.from_json(properties[METADATA_KEY])
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def _check_names(path: str, session: Any, metadata: Metadata) -> None:
    taken = {node.name for node in [*session.get_inputs(), *session.get_overridable_initializers()]}
    given = {node.name for node in session.get_outputs()}
    missing = [name for name in [*(tensor.name for tensor in metadata.inputs), *RESERVED_NAMES] if name not in taken]
    missing += [tensor.name for tensor in metadata.outputs if tensor.name not in given]
    if missing:
        raise ArtifactError(f"{path}: the graph lacks {missing} that its metadata tells of; export the model again")
