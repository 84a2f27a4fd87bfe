"""Several: the rows of several files, one after the other."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np

from keepdrop.errors import InputError

from . import opening
from .rows import Rows

FILE = "file"


def expanded(paths: Sequence[Path], suffixes: Sequence[str]) -> list[Path]:
    """The files that are meant: a folder stands for those in it that can be read, by name.

    Raises
    ------
    InputError
        A folder holds none, or files of several formats.
    """
    found: list[Path] = []
    for path in paths:
        found += _of_folder(path, suffixes) if path.is_dir() else [path]
    return found


def _of_folder(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    inside = sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith("."))
    files = [path for path in inside if opening.unpacked_suffix(path) in suffixes]
    kinds = sorted({opening.unpacked_suffix(path) for path in files})
    if not files:
        raise InputError(f"{folder} holds no file of {', '.join(suffixes)}; give another folder, or files")
    if len(kinds) > 1:
        raise InputError(
            f"{folder} holds files of {' and '.join(kinds)}; give those that are meant, as {folder}/*{kinds[0]}"
        )
    return files


class SeveralSource:
    """Files as one :class:`~keepdrop.files.sources.Source`: positions go on from file to file, windows do not.

    `opened` opens the source of one of them; they are open one at a time.
    """

    def __init__(self, paths: Sequence[Path], opened: Callable[[Path], contextlib.AbstractContextManager[Any]]) -> None:
        self.name = f"{paths[0]} and {len(paths) - 1} others"
        self._paths = paths
        self._opened = opened
        self._counts: Optional[list[int]] = None
        with opened(paths[0]) as first:
            self.features: tuple[str, ...] = first.features
            self.manner: str = first.manner
            self._example = first.example()
            self.table = getattr(first, "table", None)
        self.zoned = False

    def count(self) -> Optional[int]:
        """The number of rows."""
        return sum(self._numbers())

    def no_rows(self) -> str:
        """Why there is no row."""
        with self._opened(self._paths[0]) as first:
            first.count()
            reason: str = first.no_rows()
        return f"{reason} (so are the {len(self._paths) - 1} other files)"

    def example(self) -> Any:
        """Those of the first file."""
        return self._example

    def read(self, start: int, stop: Optional[int], size: int) -> Iterator[Rows]:
        """As :class:`~keepdrop.files.sources.Source` says; every row is labelled with the name of its file."""
        end = 0
        for path, count in zip(self._paths, self._numbers()):
            begin, end = end, end + count
            if end <= start or (stop is not None and begin >= stop):
                continue
            last = count if stop is None else min(count, stop - begin)
            with self._opened(path) as source:
                for rows in source.read(max(0, start - begin), last, size):
                    labels = {FILE: np.full(len(rows), path.name), **rows.labels}
                    self.zoned |= getattr(source, "zoned", False)
                    yield dataclasses.replace(rows, labels=labels)

    def _numbers(self) -> list[int]:
        if self._counts is None:
            self._counts = []
            for path in self._paths:
                with self._opened(path) as source:
                    count = source.count()
                    if count is None:
                        raise InputError(f"{path} can be read but once, and several inputs need more; give files")
                    self._counts.append(count)
        return self._counts
