"""Targets: files that a verb writes. Each is whole or not there, and none is what the call reads or writes besides.

Verbs of both packages call :func:`check` and :func:`refuse_overwriting` before they begin, and write by way of
:func:`replacing`.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Optional

from keepdrop.errors import InputError


def check(target: Path, suffixes: Sequence[str] = ()) -> None:
    """InputError unless `target` can become a file, with one of these suffixes where there are any."""
    if target.is_dir():
        raise InputError(f"{target} is a directory; give the name of the file to write")
    if not target.absolute().parent.is_dir():
        raise InputError(f"cannot write {target}: the directory {target.parent} does not exist; make it first")
    if suffixes and target.suffix.lower() not in suffixes:
        raise InputError(f"cannot write {target}: its suffix is none of {', '.join(suffixes)}; give it one of them")
    with contextlib.suppress(OSError):
        if not stat.S_ISREG(os.stat(target).st_mode):
            raise InputError(f"{target} is a pipe or a device, which no whole file can replace; write a file")


# Where the shell has led the standard streams, on systems that have such names.
STANDARD_INPUT, STANDARD_OUTPUT = Path("/dev/stdin"), Path("/dev/stdout")


def inputs(files: Sequence[Path]) -> dict[str, Path]:
    """Files of rows by what they are, as :func:`refuse_overwriting` takes them."""
    return {("the input" if len(files) == 1 else f"the input {path}"): path for path in files}


def refuse_overwriting(written: Mapping[str, Optional[Path]], read: Mapping[str, Optional[Path]]) -> None:
    """InputError where a file that is written is one that is read, or another that is written, under whatever name.

    Both are paths by what they are, such as ``{"the output": Path("out.csv")}``; None is no file. Symbolic and hard
    links are the file that they lead to. A folder that is written anew may hold none of the others.
    """
    others = [(role, path) for role, path in read.items() if path is not None]
    for role, path in written.items():
        if path is None:
            continue
        for other, known in others:
            if _same(path, known):
                named = "" if path == known else f" ({known})"
                raise InputError(f"{role}, {path}, is {other} itself{named}, which would be lost; give another name")
            if path.is_dir() and Path(os.path.realpath(path)) in Path(os.path.realpath(known)).parents:
                raise InputError(f"{role}, {path}, holds {other} ({known}), which would be lost; give another name")
        others.append((role, path))


def _same(one: Path, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # one of them is not there yet
        return os.path.normcase(os.path.realpath(one)) == os.path.normcase(os.path.realpath(other))


@contextlib.contextmanager
def replacing(target: Path, temporary: Optional[Path] = None) -> Iterator[IO[bytes]]:
    """A file that gets the name `target` at the end, and only if all went well.

    A link is followed, and an older file's mode is kept. Until then it bears a name of its own in the same folder, or
    that of `temporary`, which a run that was killed may have left behind.

    Raises
    ------
    InputError
        It cannot be written; an older file is as it was.
    """
    real = Path(os.path.realpath(target))
    beside = temporary or real.with_name(f".{real.name[:80]}.{secrets.token_hex(4)}.tmp")
    try:
        made = _made(beside, real, exclusive=temporary is None)
        try:
            with made as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(beside, real)
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()
    except OSError as error:
        raise InputError(f"cannot write {target} ({error}); an older file there is as it was") from error


def _made(path: Path, like: Path, exclusive: bool) -> IO[bytes]:
    """A new file, with the mode of the one that is there already; no one else may read it even at first."""
    flags = os.O_WRONLY | os.O_CREAT | (os.O_EXCL if exclusive else os.O_TRUNC) | getattr(os, "O_BINARY", 0)
    try:
        mode = stat.S_IMODE(os.stat(like).st_mode)
    except OSError:
        return os.fdopen(os.open(path, flags, 0o666), "wb")
    descriptor = os.open(path, flags, mode)
    with contextlib.suppress(OSError):
        os.chmod(path, mode)  # which the umask may have narrowed
    return os.fdopen(descriptor, "wb")
