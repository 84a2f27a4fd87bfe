"""Locking: one process at a time writes a file, on every platform."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from keepdrop.errors import InputError

# Windows locks bytes against reading too: this one no file of ours has.
_BYTE = 2**31 - 2
# What a platform says of a file that another process holds.
_HELD = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}


def hold(file: IO[bytes], path: Path) -> None:
    """Hold an open file against other processes until it is closed; `path` is what the error speaks of.

    Raises
    ------
    InputError
        Another process holds it, or its file system knows no locks.
    """
    try:
        _hold(file)
    except OSError as error:
        if error.errno in _HELD:
            raise InputError(f"another process is working on {path}; let it end, or give another file") from error
        raise InputError(
            f"cannot lock {path} against other processes ({error.strerror}); keep it on a file system that has locks"
        ) from error


@contextlib.contextmanager
def only_process(path: Path) -> Iterator[None]:
    """Be the only process that writes `path`, a file that is replaced whole: what is held is a file beside it.

    Raises
    ------
    InputError
        Another process is working on it, or nothing can be written beside it.
    """
    beside = path.with_name(f".{path.name}.lock")
    while True:
        with _opened(beside, path) as file:
            hold(file, path)
            if not _is(file, beside):
                continue  # that one was removed by its holder between opening and holding
            try:
                yield
            finally:
                _remove(beside)
            return


def _opened(beside: Path, path: Path) -> IO[bytes]:
    try:
        return os.fdopen(os.open(beside, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666), "r+b")
    except OSError as error:
        raise InputError(
            f"cannot write beside {path} ({error.strerror}); give a file in a folder that can be written"
        ) from error


def _is(file: IO[bytes], beside: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), os.stat(beside))
    except OSError:
        return False


def _remove(beside: Path) -> None:
    with contextlib.suppress(OSError):  # Windows removes no open file: an empty one stays, and does no harm
        beside.unlink()


if sys.platform == "win32":
    import msvcrt

    def _hold(file: IO[bytes]) -> None:
        os.lseek(file.fileno(), _BYTE, os.SEEK_SET)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(file.fileno(), 0, os.SEEK_SET)

else:
    import fcntl

    def _hold(file: IO[bytes]) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
