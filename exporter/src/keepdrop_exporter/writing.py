"""Writing under a temporary name: what is half done never bears the final one."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

from keepdrop.files import targets


def refuse_overwriting(written: Mapping[str, Any], read: Mapping[str, Any]) -> None:
    """InputError where what is written is, or holds, what is read; what is no path, such as a live model, is neither.

    Both are by what they are, as in ``keepdrop.files.targets.refuse_overwriting``.
    """
    targets.refuse_overwriting(_paths(written), _paths(read))


def _paths(given: Mapping[str, Any]) -> dict[str, Path]:
    return {role: Path(value) for role, value in given.items() if isinstance(value, (str, os.PathLike))}


@contextlib.contextmanager
def temporary_beside(target: Path) -> Iterator[Path]:
    """A temporary name in the target's folder; what bears it is gone when the context ends, unless renamed.

    A link is followed. The name is random: in a container the next process has the number of the one that was killed.
    """
    # Made by hand, because what tempfile makes nobody else may read, also under its final name.
    real = Path(os.path.realpath(target))
    partial = real.with_name(f".{real.stem[:80]}.{secrets.token_hex(4)}.partial{target.suffix}")
    try:
        yield partial
    finally:
        _remove(partial)


def replace(partial: Path, target: Path) -> None:
    """Give a finished file or directory its name; a link is followed, and an older file's mode kept.

    An older directory is put aside first, and back should that fail.
    """
    real = Path(os.path.realpath(target))
    if not real.is_dir():
        with contextlib.suppress(OSError):
            partial.chmod(stat.S_IMODE(real.stat().st_mode))
        os.replace(partial, real)
        return
    older = real.with_name(f".{real.name[:80]}.{secrets.token_hex(4)}.older")
    os.rename(real, older)
    try:
        os.rename(partial, real)
    except BaseException:
        os.rename(older, real)
        raise
    _remove(older)


def size(path: Path) -> int:
    """The bytes of a file, or of all files in a directory."""
    return (
        sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) if path.is_dir() else path.stat().st_size
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """TensorFlow and tf2onnx talk about themselves while they write; what matters comes as an error."""
    loggers = [logging.getLogger(name) for name in ("tf2onnx", "absl", tf.get_logger().name)]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
