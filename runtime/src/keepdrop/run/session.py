"""Session: an artifact opened with onnxruntime. The only module that imports onnxruntime."""

from __future__ import annotations

import copy
import os
import re
import stat
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Optional, Protocol, Union

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from keepdrop.artifact.check import checked
from keepdrop.artifact.metadata import NUM_SAMPLES, QUANTILES, Metadata, Tensor
from keepdrop.artifact.onnx_file import checksum, read
from keepdrop.artifact.properties import numbers_digest
from keepdrop.artifact.savedmodel import is_savedmodel
from keepdrop.errors import ArtifactError, ArtifactMissing, InputError, KeepdropError, TooLarge

from .request import Request, fits

ONNXRUNTIME_VERSION: str = onnxruntime.__version__
# onnxruntime's own lines on stderr: none, what it has to say is told in an error of ours.
FATAL = 4
# Protocol Buffers, and with them ONNX files, end here.
MOST_BYTES = 2**31 - 1

Source = Union[str, bytes, "os.PathLike[str]", "os.PathLike[bytes]", BinaryIO]


class AnySession(Protocol):
    """What the engine needs of an open artifact, whichever program runs it."""

    path: str
    metadata: Metadata
    checksum: str
    properties: Mapping[str, str]

    def __init__(self, source: Any) -> None:
        """Open it."""

    @property
    def source(self) -> tuple[Union[str, bytes], str]:
        """What to open it with again, and its checksum."""

    @property
    def in_memory(self) -> bool:
        """Whether it was opened from a file in memory, not from a path."""

    def sha256(self) -> str:
        """Of the artifact, in hexadecimal."""

    def numbers_digest(self) -> str:
        """Of what the artifact's numbers depend on; see ``artifact.properties.numbers_digest``."""

    def content(self) -> bytes:
        """The artifact's file."""

    def another(self) -> AnySession:
        """The same artifact for a thread of its own, or this session."""

    def call(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these names, from inputs by name."""

    def run(self, request: Request) -> list[NDArray[Any]]:
        """One run in the calling thread: each output as [samples, batch, ...]."""


class Session:
    """An open artifact; `run` may be called from several threads at once.

    `source` is a path, or a file open for reading bytes (``io.BytesIO(content)`` for what is in memory).

    Raises
    ------
    ArtifactMissing
        There is no such file.
    ArtifactError
        It is not ONNX, is damaged or contradicts itself, or is not an artifact of this contract version; the text
        names the file.
    InputError
        `source` is neither a path nor a file.
    """

    def __init__(self, source: Source) -> None:
        self.path, self._content = _named(source)
        self._stamp = self._stamped()
        self._sha256: Optional[str] = None
        self._numbers_digest: Optional[str] = None
        content = _read(self.path) if self._content is None else self._content
        try:
            contents = read(content)
            self.metadata, self.checksum = checked(contents), contents.checksum
            self.properties = contents.properties
        except ArtifactError as error:
            raise ArtifactError(f"{self.path}: {error}") from None
        del content  # before onnxruntime takes as much
        self._open()

    @property
    def source(self) -> tuple[Union[str, bytes], str]:
        """The content that opens it again, on any machine, and the checksum by which it is known to be the same.

        Raises
        ------
        ArtifactError
            The file is no longer the one that was opened.
        """
        return self.content(), self.checksum

    @property
    def in_memory(self) -> bool:
        """Whether it was opened from a file in memory, not from a path."""
        return self._content is not None

    def another(self) -> Session:
        """The same artifact opened once more, for a thread of its own; this session if its file is no longer there."""
        other = copy.copy(self)
        try:
            other._open()
        except ArtifactError:
            return self
        return other

    def run(self, request: Request) -> list[NDArray[Any]]:
        """One run of the graph in the calling thread: each output as [samples, batch, ...].

        Raises
        ------
        InputError, TooLarge
            As `call`; ids that an Embedding does not have are such inputs.
        ArtifactError
            An output is not what the metadata say.
        """
        outputs = self.call(self._output_names, request.feeds())
        check_outputs(self.path, self.metadata.outputs, outputs, request)
        return outputs

    def call(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The outputs of these names, from inputs by name, which are fed as they are.

        Raises
        ------
        InputError
            onnxruntime failed on these inputs.
        TooLarge
            There was not the memory to run.
        """
        if self.metadata.summary:
            feeds = {QUANTILES: np.zeros(0, np.float32), **feeds}
        try:
            outputs: list[NDArray[Any]] = self._session.run(names, feeds)
        except Exception as error:  # onnxruntime's exceptions have no root of their own
            raise self._failure(feeds, str(error)) from None
        return outputs

    def sha256(self) -> str:
        """The digest of the file, in hexadecimal; computed once.

        Raises
        ------
        ArtifactError
            The file is no longer the one that was opened.
        """
        if self._sha256 is None:
            import hashlib  # brings OpenSSL, which streams alone need

            self._sha256 = hashlib.sha256(self.content()).hexdigest()
        return self._sha256

    def numbers_digest(self) -> str:
        """The digest of graph, weights and contract, which a calibrated copy and a rebuild share; computed once.

        Raises
        ------
        ArtifactError
            The file is no longer the one that was opened.
        """
        if self._numbers_digest is None:
            self._numbers_digest = numbers_digest(self.content())
        return self._numbers_digest

    def content(self) -> bytes:
        """The file's bytes; ArtifactError where it is no longer the one that was opened."""
        try:
            content = _read(self.path) if self._content is None else self._content
            unchanged = checksum(content) == self.checksum
        except ArtifactError:
            unchanged = False
        if not unchanged:
            raise ArtifactError(f"{self.path} is no longer the file that was opened; load it again")
        return content

    def _stamped(self) -> Optional[tuple[int, int, int]]:
        return _stamp(self.path) if self._content is None else None

    def _open(self) -> None:
        """Have onnxruntime open what was read and checked."""
        self._session = _open(self.path, self._content)
        self._output_names = [tensor.name for tensor in self.metadata.outputs]
        if self._stamped() != self._stamp:
            raise ArtifactError(f"{self.path} was replaced while it was being opened; load it again")

    def _failure(self, feeds: Mapping[str, NDArray[Any]], text: str) -> KeepdropError:
        """What to tell of an exception of onnxruntime's in a run."""
        given = {tensor.name: feeds[tensor.name] for tensor in self.metadata.inputs}
        outside = re.search(r"idx=(-?\d+) must be within the inclusive range \[-?\d+,(\d+)\]", text)
        names = [name for name, array in given.items() if array.dtype.kind in "iu"]
        if outside and names:
            return InputError(
                f"{self.path} looks the number {outside[1]} up in a table of {int(outside[2]) + 1} entries; give ids "
                f"from 0 to {outside[2]} in {names}"
            )
        forms = ", ".join(f"{name} {array.dtype} {list(array.shape)}" for name, array in given.items())
        if re.search(r"alloc|out of memory|SafeInt|overflow", text, re.IGNORECASE):
            return TooLarge(
                f"{self.path} did not get the memory to run {feeds[NUM_SAMPLES]} samples of {forms}; give fewer rows "
                "or shorter ones, or keepdrop.load(..., threads=1)"
            )
        return InputError(
            f"{self.path} failed on inputs {forms} ({_reason(text)}); check their values, and whether the model takes "
            "that length"
        )


def _named(source: Source) -> tuple[str, Optional[bytes]]:
    """The name of a source, and its content where that is not to be read from a file of this name."""
    if hasattr(source, "read"):
        content = source.read()
        if not isinstance(content, bytes):
            raise InputError(f"the file to load gives {type(content).__name__}; open it for reading bytes ('rb')")
        return str(getattr(source, "name", "the file in memory")), content
    try:
        path = os.fsdecode(source)
    except TypeError:
        raise InputError(
            f"a {type(source).__name__} cannot be loaded; give a path, or a file open for reading bytes (io.BytesIO "
            "for what is in memory)"
        ) from None
    try:
        path.encode()
    except UnicodeEncodeError:  # a name that is not UTF-8, which onnxruntime does not take
        _stamp(path)
        return ascii(path), _read(path)
    return path, None


def check_outputs(path: str, tensors: Sequence[Tensor], outputs: list[NDArray[Any]], request: Request) -> None:
    """Raise ArtifactError unless every output is what the metadata say, for the samples and rows asked for."""
    for tensor, output in zip(tensors, outputs):
        expected = (request.samples, request.batch, *tensor.shape[2:])
        if not fits(output.shape, expected) or output.dtype != tensor.dtype:
            raise ArtifactError(
                f"{path} gave output {tensor.name!r} as {output.dtype} {list(output.shape)} for {request.samples} "
                f"samples of {request.batch} rows; it is not what an export writes: export the model again"
            )


def _stamp(path: str) -> tuple[int, int, int]:
    cure = "give the .onnx file that `keepdrop export` wrote"
    if is_savedmodel(path):
        raise ArtifactError(
            f"{path} is a SavedModel, which TensorFlow runs: sample it with keepdrop_exporter.load_savedmodel, or "
            "export the Keras model to a name that ends in .onnx"
        )
    try:
        status = os.stat(path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last for a name that no file can have
        raise ArtifactMissing(f"{path if path.isprintable() else ascii(path)} does not exist; {cure}") from None
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); {cure}") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "is a directory" if stat.S_ISDIR(status.st_mode) else "is not a regular file"
        raise ArtifactError(f"{path} {kind}; {cure}")
    if status.st_size > MOST_BYTES:
        raise ArtifactError(f"{path} has {status.st_size} bytes, and an ONNX file at most {MOST_BYTES}; {cure}")
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            # No more than it has, for which so much is set aside at once.
            return file.read(min(os.fstat(file.fileno()).st_size, MOST_BYTES))
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error.strerror}); check its permissions") from None


def _open(path: str, content: Optional[bytes]) -> Any:
    options = onnxruntime.SessionOptions()
    # The engine's workers are the parallelism: threads of onnxruntime's own would compete with them.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    # An arena keeps what its largest run took; malloc is as fast.
    options.enable_cpu_mem_arena = False
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Not onnxruntime's own format, which a file can be beside being ONNX.
    options.add_session_config_entry("session.load_model_format", "ONNX")
    options.log_severity_level = FATAL
    try:
        return onnxruntime.InferenceSession(
            path if content is None else content, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions have no root of their own
        raise ArtifactError(
            f"{path} does not open in onnxruntime {onnxruntime.__version__} ({_reason(str(error))}); "
            "give the .onnx file that `keepdrop export` wrote"
        ) from None


def _reason(text: str) -> str:
    """What onnxruntime says, without its status codes, source files and line breaks."""
    nodes = re.findall(r"while running (\w+) node\. Name:'([^']*)'", text)
    text = re.sub(r"^.*Status Message: |^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(text.split()))
    text = re.sub(r"\S*/\S+\.(cc|h):\d+ (.*\) )?", "", text)
    operator = f"{nodes[-1][0]} {nodes[-1][1]!r}: " if nodes else ""
    return operator + (text if len(text) <= 160 else f"{text[:157]}...")
