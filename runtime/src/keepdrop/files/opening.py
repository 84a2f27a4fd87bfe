"""Opening: the one place that opens what holds readings or arrays, and says what is wrong with it in one sentence.

Libraries meet damage with whatever comes first (zlib.error, struct.error, TokenError of a header, MemoryError of a
size, OSError of Arrow): :func:`readable` is the one list of what that may be.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Union

from keepdrop.errors import InputError, KeepdropError

GZIP, ZSTD = ".gz", ".zst"


@contextlib.contextmanager
def readable(name: str, cure: str) -> Iterator[None]:
    """Whatever is wrong with a file's content becomes an InputError that names it; errors of ours pass."""
    try:
        yield
    except KeepdropError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"cannot read {name} ({error.strerror}); give an existing file") from error
    except PermissionError as error:
        raise InputError(f"cannot read {name} ({error.strerror}); give a file that may be read") from error
    except MemoryError as error:
        raise InputError(f"cannot read {name} (it asks for more memory than there is); {cure}") from error
    except Exception as error:  # whatever damage leads to, in zipfile, zlib, struct, tokenize, numpy, Arrow
        raise InputError(f"cannot read {name} ({_reason(error)}); {cure}") from error


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    if "allow_pickle" in text or "pickle" in text:  # numpy's advice would run what the file says
        return "it holds pickled objects, which are not opened"
    return text[:200]


def is_stream(path: Path) -> bool:
    """Whether it can be read but once: a FIFO, a terminal, a socket."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def binary(path: Path) -> IO[bytes]:
    """A file for reading bytes, unpacked where its name ends in .gz or .zst (the latter by Arrow)."""
    suffix = path.suffix.lower()
    if suffix == GZIP:
        return gzip.open(path, "rb")  # type: ignore[return-value]
    if suffix == ZSTD:
        from . import arrow

        return arrow.unpacked(path)
    return open(path, "rb")


def standard_input() -> IO[bytes]:
    """Standard input; InputError where it is closed."""
    if sys.stdin is None or sys.stdin.closed:
        raise InputError("standard input is closed; give a file, or pipe readings into the command")
    return sys.stdin.buffer


def unpacked_suffix(path: Path) -> str:
    """The suffix of what a file holds, in lower case: .csv of data.csv.gz."""
    return Path(path.stem).suffix.lower() if path.suffix.lower() in (GZIP, ZSTD) else path.suffix.lower()


PathOrFile = Union[Path, io.BufferedIOBase]
