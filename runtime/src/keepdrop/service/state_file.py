"""StateFile: where a stream is kept between runs of a process, always a whole file and one process at a time."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from keepdrop.files.locking import only_process
from keepdrop.files.targets import check, replacing
from keepdrop.stream.stream import Stream


class StateFile:
    """A file that no other process writes while this is open.

    Raises
    ------
    InputError
        It cannot be written, or another process is working on it.
    """

    def __init__(self, path: Path) -> None:
        check(path)
        self.path = path
        # A link stays one: what it leads to is replaced.
        self._target = Path(os.path.realpath(path))
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> StateFile:
        self._stack.enter_context(only_process(self._target))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    @property
    def exists(self) -> bool:
        """Whether there is a state to go on from."""
        return self._target.exists()

    def save(self, stream: Stream) -> None:
        """Whole or not at all, also where the power fails."""
        # One name alone, which a kill may leave behind and the next save replaces: no other process writes it.
        with replacing(self._target, self._target.with_name(f".{self._target.name}.tmp")) as file:
            file.write(stream.save())
        _sync_folder(self._target.parent)


def _sync_folder(folder: Path) -> None:
    """Make a new name last; some systems and file systems know no such thing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
