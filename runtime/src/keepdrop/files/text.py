"""Text: CSV and JSON lines as a :class:`~keepdrop.files.reader.Reader`, in bulk where a line needs no care.

A file is read in stretches that end with a line. A stretch of CSV without quotes, whose lines all have their cells, is
read by Arrow or by numpy, others by the csv module; what none of them reads as finite numbers goes line by line through
:mod:`keepdrop.files.lines`, which knows missing values and names line and column. All read a decimal as the float64
nearest to it.
"""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, Optional, Union

import numpy as np
from numpy.typing import NDArray

from keepdrop.errors import InputError

from . import cells, opening
from .lines import Cells, Dialect, Header, Line, Picked
from .parsed import Parsed
from .reader import Readings, Selection

STRETCH = 1 << 19
# A line, or a cell in quotes, is not longer than this.
LONGEST = 64 << 20
# From this size on, importing Arrow (a tenth of a second) pays.
WORTH_ARROW = 8 << 20
QUOTE = '"'
NOT_UTF8 = re.compile("[\udc80-\udcff]")
BLANK = re.compile(r"\n[ \t]*\n")
NOT_TEXT = "give CSV with a header, or one JSON object a line"


class Stretch(NamedTuple):
    """Whole lines of a text, each with its end, and the number of the first of them."""

    first: int
    text: str


class TextReader:
    """A CSV or JSON-lines file, or a file open for reading bytes that can be read but once (a pipe).

    Raises
    ------
    InputError
        It cannot be read, is empty, or has no header or no line below it.
    """

    def __init__(self, name: str, source: Union[Path, IO[bytes]], dialect: Dialect = Dialect()) -> None:  # noqa: B008
        self.name = name
        self._path = source if isinstance(source, Path) else None
        self._dialect = dialect
        self._large = self._path is not None and _size(self._path) >= WORTH_ARROW
        self._parsed: Optional[Parsed] = None
        self._lengths: list[int] = []  # of the stretches, once they were counted
        self.lines, stretches = self._begun(source)
        first = next(stretches, None)
        if first is None:
            raise InputError(f"{name} has no line below its header; give at least one")
        self._once = None if self._path else itertools.chain([first], stretches)
        self.first = next(self._records(first))
        found = self.first[1]
        self.columns = self.lines.columns
        self.dated = frozenset() if isinstance(found, InputError) else frozenset(self._dated(found))

    @property
    def is_json(self) -> bool:
        """Whether it is JSON lines."""
        return self.lines.is_json

    @property
    def manner(self) -> str:
        """As :class:`~keepdrop.files.reader.Reader` says."""
        return self.lines.manner

    @property
    def zoned(self) -> Optional[bool]:
        """As :class:`~keepdrop.files.reader.Reader` says."""
        return self._parsed.picked.times.zoned if self._parsed else None

    def count(self) -> Optional[int]:
        """The number of lines, which takes going through them; None where they can be read but once."""
        if self._path is None:
            return None
        if not self._lengths:
            self._lengths = [self._length(stretch) for stretch in self._stretches()]
        return sum(self._lengths)

    def read(self, selection: Selection, most: int, start: int = 0, stop: Optional[int] = None) -> Iterator[Readings]:
        """As :class:`~keepdrop.files.reader.Reader` says."""
        parsed, picked = self._begin(selection)
        for place, found, part in self._parts(start, stop, parsed):
            readings = self._bulk(found, picked) if isinstance(found, Stretch) else found
            if readings is not None and self._once is None:
                parsed.keep(place, readings)
            pieces: Iterable[Readings] = [] if readings is None else [readings.cut(part)]
            if readings is None and isinstance(found, Stretch):
                pieces = self._careful(found, picked, part, most)
            for piece in pieces:
                for begin in range(0, len(piece.lines), most):
                    yield piece.cut(slice(begin, begin + most))

    def _begin(self, selection: Selection) -> tuple[Parsed, Picked]:
        """What an earlier reading of the same columns has kept."""
        if self._parsed is None or self._parsed.picked.selection != selection:
            picked = Picked(self.lines, selection)
            if not isinstance(self.first[1], InputError):
                self.lines.settle(self.first[1], picked.numbers)
            self._parsed = Parsed(picked)
        return self._parsed, self._parsed.picked

    def objects(self, start: int, stop: Optional[int]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Of JSON lines, the objects of the lines `start` to `stop` by position, with the numbers of their lines."""
        for _, stretch, part in self._parts(start, stop, Parsed(Picked(self.lines, Selection()))):
            assert isinstance(stretch, Stretch)
            for number, found in itertools.islice(self._records(stretch), part.start, part.stop):
                if isinstance(found, InputError):
                    raise found
                assert isinstance(found, dict)
                yield number, found

    def _parts(
        self, start: int, stop: Optional[int], parsed: Parsed
    ) -> Iterator[tuple[int, Union[Stretch, Readings], slice]]:
        """The stretches that hold lines `start` to `stop`, by place, and which of each stretch's lines these are.

        Those that are kept are given as such; the text is opened again at the first that is not.
        """
        end = 0
        stretches: Optional[Iterator[tuple[int, Stretch]]] = None
        for place in itertools.count():
            if (stop is not None and end >= stop) or place == parsed.stretches:
                return
            found: Union[Stretch, Readings, None] = parsed.get(place)
            if found is None:
                stretches = stretches or enumerate(self._stretches())
                found = next((stretch for i, stretch in stretches if i == place), None)
            if found is None:
                parsed.stretches = place
                return
            if isinstance(found, Readings):
                length = len(found.lines)
            else:
                length = self._lengths[place] if place < len(self._lengths) else self._length(found)
            begin, end = end, end + length
            if end > start:
                last = end if stop is None else min(end, stop)
                yield place, found, slice(max(0, start - begin), last - begin)

    # -- stretches

    def _begun(self, source: Union[Path, IO[bytes]]) -> tuple[Header, Iterator[Stretch]]:
        """The header, and the stretches of what is below it."""
        stretches = self._read(source)
        number, before = 1, ""
        for stretch in stretches:
            text = stretch.text.lstrip()
            if text:
                number, before = stretch.first + stretch.text[: len(stretch.text) - len(text)].count("\n"), text
                break
        else:
            raise InputError(f"{self.name} is empty; {NOT_TEXT}")
        if text.startswith("["):
            raise InputError(
                f"{self.name}, line {number} begins a JSON array; give one object a line, without brackets"
            )
        line, rest = _first_line(before)
        _check_utf8(self.name, number, line)
        header = Header(self.name, number, line, self._dialect)
        if header.is_json:
            return header, self._with_lines(itertools.chain([Stretch(number, before)], stretches))
        return header, self._with_lines(itertools.chain([Stretch(number + line.count("\n"), rest)], stretches))

    def _with_lines(self, stretches: Iterator[Stretch]) -> Iterator[Stretch]:
        return (stretch for stretch in stretches if stretch.text and not stretch.text.isspace())

    def _stretches(self) -> Iterator[Stretch]:
        if self._once is not None:
            return self._once
        assert self._path is not None
        return self._begun(self._path)[1]

    def _read(self, source: Union[Path, IO[bytes]]) -> Iterator[Stretch]:
        """Chunks that end with a line, quotes closed, line ends as ``\\n``."""
        with opening.readable(self.name, NOT_TEXT):
            file = opening.binary(source) if isinstance(source, Path) else source
        try:
            yield from _lines_of(file, self.name)
        finally:
            if isinstance(source, Path):
                file.close()

    # -- lines

    def _length(self, stretch: Stretch) -> int:
        if self._is_plain(stretch.text):
            return stretch.text.count("\n")
        if self.is_json:
            return sum(1 for line in stretch.text.split("\n") if line and not line.isspace())
        return sum(1 for _ in self._records(stretch))

    def _is_plain(self, text: str) -> bool:
        """Whether each line end ends one reading."""
        return (self.is_json or QUOTE not in text) and text[0] > " " and not _has_blank_line(text)

    def _records(self, stretch: Stretch) -> Iterator[tuple[int, Union[Cells, InputError]]]:
        """Each line that is not blank, with its number (the last, where it spans several); an error in its place."""
        if self.is_json:
            for number, line in enumerate(stretch.text.split("\n"), stretch.first):
                if line and not line.isspace():
                    yield number, _or_error(self._object, number, line)
            return
        reader = csv.reader(io.StringIO(stretch.text, newline=""), delimiter=self.lines.separator, strict=True)
        while True:
            try:
                found = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                number = stretch.first + reader.line_num - 1
                yield number, self.lines.no_csv(number, error)
                continue
            if found and not (len(found) == 1 and found[0].isspace()):
                number = stretch.first + reader.line_num - 1
                yield number, _or_error(self._checked, number, found)

    def _object(self, number: int, line: str) -> Cells:
        _check_utf8(self.name, number, line)
        return self.lines.object(number, line)

    def _checked(self, number: int, found: list[str]) -> Cells:
        _check_utf8(self.name, number, "".join(found))
        self.lines.check_width(number, found)
        return found

    def _careful(self, stretch: Stretch, picked: Picked, part: slice, most: int) -> Iterator[Readings]:
        """Line by line; what comes before a line that is refused is given first."""
        numbers: list[int] = []
        read: list[Line] = []
        problems: dict[int, str] = {}
        before: Optional[Line] = None
        for number, found in itertools.islice(self._records(stretch), part.start, part.stop):
            line = found if isinstance(found, InputError) else _or_error(picked.line, number, found)
            if isinstance(line, InputError):
                if not picked.selection.skip or (before is None and picked.selection.id is not None):
                    if read:
                        yield _gathered(numbers, read, problems, picked)
                    raise line
                problems[len(read)] = str(line).rsplit("; ", 1)[0].replace(f"{self.name}, ", "")
                line = picked.unread(number, found, before)
            before = line
            numbers.append(number)
            read.append(line)
            if len(read) == most:
                yield _gathered(numbers, read, problems, picked)
                numbers, read, problems = [], [], {}
        if read:
            yield _gathered(numbers, read, problems, picked)

    # -- in bulk

    def _bulk(self, stretch: Stretch, picked: Picked) -> Optional[Readings]:
        """A stretch at once, or None where it needs care."""
        header = self.lines
        if header.is_json or _is_broken(stretch.text):
            return None
        # That no line is blank is seen by their widths, but where a blank one has the width of others.
        if QUOTE in stretch.text or (header.width == 1 and not self._is_plain(stretch.text)):
            return self._by_csv(stretch, picked)
        data = stretch.text.encode()
        count = _lines_of_width(data, header.separator, header.width)
        if count is None:
            return None
        numbers = self._numbers(data, picked)
        if numbers is None or len(numbers) != count:
            return self._by_csv(stretch, picked)
        rows = [line.split(header.separator) for line in stretch.text.split("\n")[:-1]] if _needs_text(picked) else []
        return self._with_texts(stretch, picked, numbers, rows)

    def _by_csv(self, stretch: Stretch, picked: Picked) -> Optional[Readings]:
        """The same for cells in quotes, gaps and commas as decimal signs: by the csv module, if each line is one."""
        try:
            rows = list(csv.reader(io.StringIO(stretch.text, newline=""), delimiter=self.lines.separator, strict=True))
        except csv.Error:
            return None
        width = self.lines.width
        if len(rows) != stretch.text.count("\n") or any(len(row) != width for row in rows):
            return None
        numbers = np.empty((len(rows), len(picked.numbers)), picked.selection.dtype)
        for i, column in enumerate(picked.numbers):
            found = _column([row[column] for row in rows], picked)
            if found is None:
                return None
            numbers[:, i] = found
        return self._with_texts(stretch, picked, numbers, rows)

    def _with_texts(
        self, stretch: Stretch, picked: Picked, numbers: NDArray[Any], rows: list[list[str]]
    ) -> Optional[Readings]:
        """Readings of these numbers, with what else is selected of the cells; None where that needs care."""
        count = len(numbers)
        try:
            texts = {name: _texts([row[i].strip() for row in rows]) for name, i in picked.texts.items()}
            ids = None if picked.selection.id is None else picked.ids(stretch.first, list(texts[picked.selection.id]))
            times = None if picked.time is None else picked.moments(stretch.first, [row[picked.time] for row in rows])
        except InputError:
            return None
        lines = np.arange(stretch.first, stretch.first + count, dtype=np.int64)
        return Readings(lines, numbers, None if ids is None else np.array(ids, np.int64), times, texts, {})

    def _numbers(self, data: bytes, picked: Picked) -> Optional[NDArray[Any]]:
        """The selected numbers [n, columns], or None where they are not all finite and plain."""
        selection, header = picked.selection, picked.header
        if not picked.numbers:
            return np.empty((data.count(b"\n"), 0), selection.dtype)
        found = None
        if self._large:
            found = _by_arrow(data, picked)
        if found is None and header.decimal != ",":
            every = picked.numbers == [*range(header.width)]  # not to choose is a fifth faster
            found = _by_numpy(data, header.separator, None if every else picked.numbers, selection.dtype)
        return found if found is not None and np.isfinite(found).all() else None

    def _dated(self, found: Cells) -> Iterator[str]:
        for i, column in enumerate(self.columns):
            if cells.looks_dated(found.get(column) if isinstance(found, dict) else found[i]):
                yield column


def _lines_of(file: IO[bytes], name: str) -> Iterator[Stretch]:
    # Bytes that are not UTF-8 are kept as lone surrogates, so that the one line that holds them is told, or skipped.
    utf8 = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
    decoder = io.IncrementalNewlineDecoder(utf8, translate=True)
    number, waiting = 1, ""
    is_json: Optional[bool] = None
    more = True
    while more:
        with opening.readable(name, NOT_TEXT):
            data = file.read1(STRETCH)  # type: ignore[attr-defined]
        more = bool(data)
        waiting += decoder.decode(data, final=not more)
        if is_json is None and waiting.strip():
            is_json = waiting.lstrip()[0] in "{["
        if not more and waiting and not waiting.endswith("\n"):
            waiting += "\n"
        text = waiting[: waiting.rfind("\n") + 1]
        if more and not is_json and text.count(QUOTE) % 2:
            text = ""  # a cell in quotes goes on
        if text:
            yield Stretch(number, text)
            number += text.count("\n")
            waiting = waiting[len(text) :]
        elif len(waiting) > LONGEST:
            raise InputError(f"{name}, line {number} has no end, or a quote that never closes; {NOT_TEXT}")


def _column(found: list[str], picked: Picked) -> Optional[list[Any]]:
    """A column's cells as numbers, NaN where they are empty and may be; None where one needs care."""
    selection, decimal = picked.selection, picked.header.decimal or "."
    together = "".join(found)
    if "_" in together or (decimal == "," and "." in together):
        return None
    if decimal == ",":
        found = [cell.replace(",", ".") for cell in found]
    try:
        if selection.integers:
            return None if "" in found else [cells.integer(cell) for cell in found]
        if selection.missing and "" in found:
            values = [float(cell) if cell else math.nan for cell in found]
            return None if math.inf in values or -math.inf in values else values
        values = [*map(float, found)]
    except (ValueError, OverflowError):
        return None
    return values if math.isfinite(sum(values)) else None


def _has_blank_line(text: str) -> bool:
    if "\n\n" in text:
        return True
    # The expression takes ten times as long as these.
    return ("\n " in text or "\n\t" in text) and BLANK.search(text) is not None


def _is_broken(text: str) -> bool:
    """Whether bytes of it were not UTF-8."""
    return not text.isascii() and NOT_UTF8.search(text) is not None


def _check_utf8(name: str, number: int, line: str) -> None:
    if _is_broken(line):
        raise InputError(f"{name}, line {number} is not text in UTF-8; convert it")


def _first_line(text: str) -> tuple[str, str]:
    """The first line, with its end, and the rest; a cell in quotes may span lines."""
    end = text.find("\n") + 1
    if not text.startswith("{"):
        while text[:end].count(QUOTE) % 2 and text.find("\n", end) >= 0:
            end = text.find("\n", end) + 1
    return text[:end], text[end:]


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _or_error(of: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return of(*arguments)
    except InputError as error:
        return error


def _gathered(numbers: list[int], read: list[Line], problems: dict[int, str], picked: Picked) -> Readings:
    selection = picked.selection
    values = np.array([line.numbers for line in read], selection.dtype)
    return Readings(
        np.array(numbers, np.int64),
        values.reshape(len(read), len(selection.numbers)),
        None if selection.id is None else np.array([line.id for line in read], np.int64),
        None if selection.time is None else np.array([line.time for line in read], "datetime64[us]"),
        {name: _texts([line.texts[name] for line in read]) for name in picked.texts},
        problems,
    )


def _texts(found: list[str]) -> NDArray[np.object_]:
    array = np.empty(len(found), object)
    array[:] = found
    return array


def _needs_text(picked: Picked) -> bool:
    return bool(picked.texts) or picked.time is not None


def _lines_of_width(data: bytes, separator: str, width: int) -> Optional[int]:
    """How many lines there are, or None unless each has `width` cells and none is blank."""
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw == 10)
    between = np.flatnonzero(raw == ord(separator))
    found = np.diff(np.searchsorted(between, ends), prepend=0)
    blank = width == 1 and bool((np.diff(ends, prepend=-1) == 1).any())
    return None if blank or (found != width - 1).any() else len(ends)


def _by_arrow(data: bytes, picked: Picked) -> Optional[NDArray[Any]]:
    try:
        from . import arrow
    except InputError:
        return None
    return arrow.numbers(data, picked.header, picked.numbers, picked.selection.dtype)


def _by_numpy(data: bytes, separator: str, columns: Optional[list[int]], dtype: Any) -> Optional[NDArray[Any]]:
    # Before 1.23 loadtxt was written in Python: slower than the careful way, and it reads hexadecimal.
    if _old_numpy():
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # numpy 1.23 reads 2.0 as an integer by way of a float, with a warning
        try:
            return np.loadtxt(
                io.BytesIO(data), dtype, comments=None, delimiter=separator, usecols=columns, ndmin=2, encoding="utf-8"
            )
        except (ValueError, TypeError, OverflowError, Warning):
            return None


def _old_numpy() -> bool:
    return tuple(map(int, np.__version__.split(".")[:2])) < (1, 23)
