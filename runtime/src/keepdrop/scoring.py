"""Scoring: an artifact as one callable from Arrow table to Arrow table, for engines that spread tables over machines.

Of which rows a call is made depends on the engine, its partitions and what was killed; what a row is answered does not:
its samples are those of its series' id, its window lies within the table it is in, and lines are sorted first.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import io
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timezone
from decimal import Decimal
from typing import Any, Optional, Union

import numpy as np
from numpy.typing import NDArray

from .answer.heads import Heads
from .errors import ArtifactError, InputError
from .files import windows
from .files.declared import TIME
from .files.fields import MET, REASON, ROW, Fields, N, columns
from .files.following import Following
from .files.frames import FrameReader
from .files.headed import Headed
from .files.job import Job, Question, Span
from .files.ordered import OrderedReader
from .files.reader import Reader, Selection, column_index
from .files.sources import Choice, Source, source_of
from .files.truths import readings_within
from .model import Model, load
from .run import session
from .run.request import integer, number_of_samples
from .table import Table, fitted, otherwise
from .table.parts import HOLD, REFUSE, parsed_rule

# Lines that `batches` answers at once, at least.
AT_ONCE = 1 << 14
# What is written of a row beside its figures, its series and its time.
LABELS = {ROW, N, MET, REASON}
# How many artifacts a process keeps open.
MOST_OPEN = 4


@dataclass(frozen=True)
class ScorerOptions:
    """What is asked of every table; pickled as it is."""

    question: Question
    id: Optional[str]
    columns: Optional[tuple[str, ...]]
    window: Optional[int]
    time: Optional[str]
    time_format: Optional[str]
    missing: Optional[str]
    keep: tuple[str, ...]
    adapt: bool
    wide: bool
    threads: int
    memory: Optional[Union[int, str]]


def scorer(
    artifact: Union[Model, session.Source],
    *,
    id: Optional[str] = None,
    columns: Optional[Sequence[str]] = None,
    window: Optional[int] = None,
    time: Optional[str] = None,
    time_format: Optional[str] = None,
    missing: Optional[str] = None,
    keep: Sequence[str] = (),
    samples: Optional[int] = None,
    seed: int = 0,
    interval: Union[float, Sequence[float]] = (),
    above: Union[float, Sequence[float]] = (),
    below: Union[float, Sequence[float]] = (),
    heads: Optional[Heads] = None,
    adapt: bool = False,
    wide: bool = False,
    threads: int = 1,
    memory: Optional[Union[int, str]] = None,
) -> Scorer:
    """A callable from Arrow table to Arrow table, for Ray, Spark and others: the answers of ``keepdrop predict``.

    >>> scorer = keepdrop.scorer("forecaster.onnx", id="sensor", interval=0.9, keep=["site"])
    >>> ray.data.read_parquet(d).groupby("sensor").map_groups(scorer, batch_format="pyarrow").write_parquet(o)
    >>> df.groupBy("sensor").applyInArrow(scorer, scorer.schema(df.schema)).write.parquet(o)

    Parameters
    ----------
    artifact
        A path, a file open for reading bytes, or a model. The scorer bears its content; its path is not needed again.
    id
        The column of the row ids, integers or text; of windows that of the series. By default the one that the
        artifact's table declares; without either there is no scorer, for a row's place in a batch is no id.
    columns, window, time, time_format, missing
        The features in the model's order, the lines of a window, the column of times and how they are written, the
        rule for empty cells (``"refuse"``, ``"skip"``, ``"hold N"``): as the artifact's table declares them, or as
        given. `columns` or `window` set the table aside.
    keep
        Columns to hand through, of a window those of its last line.
    samples, seed, heads
        As in :meth:`keepdrop.Model.predict`.
    interval
        Levels of central intervals, such as 0.9: columns ``low_90`` and ``high_90``.
    above, below
        Thresholds of which a calibrated artifact tells the probability.
    adapt
        Of a calibrated artifact with a table: a row's interval learns from the truths that are known by its last line.
    wide
        Columns for the steps of a horizon instead of lines.
    threads
        The most threads of a call. One, since engines run as many calls at once as there are processors.
    memory
        As in :func:`keepdrop.load`.

    Raises
    ------
    ArtifactMissing, ArtifactError
        As :func:`keepdrop.load`.
    InputError
        There is no column of ids, or of times where windows need them; an argument does not fit the artifact.
    """
    model = artifact if isinstance(artifact, Model) else load(artifact, threads=1)
    question = Question(
        samples=number_of_samples(model.metadata, samples),
        seed=seed,
        levels=_several(interval),
        heads=heads,
        above=_several(above),
        below=_several(below),
    )
    given = None if columns is None else tuple(columns)
    asked = ScorerOptions(
        question,
        id,
        given,
        window,
        time,
        time_format,
        missing,
        (keep,) if isinstance(keep, str) else tuple(keep),
        adapt,
        wide,
        integer("threads", threads, least=1),
        memory,
    )
    content = model.to_bytes()
    made = Scorer(content, hashlib.sha256(content).hexdigest(), asked)
    made.check()
    return made


class Scorer:
    """What :func:`scorer` gives; pickled as the artifact's content, its digest and what is asked.

    A process that gets it opens the artifact once, whatever the number of its calls.
    """

    def __init__(self, content: bytes, sha256: str, asked: ScorerOptions) -> None:
        self.sha256 = sha256
        self._content = content
        self._asked = asked
        self._empty: dict[tuple[Any, Optional[bool]], Any] = {}
        # What engines call a function by; Ray asks for it (`map_groups` of 2.60).
        self.__name__ = self.__qualname__ = "keepdrop_scorer"
        # Spark counts the arguments of what it is given, `self` too (`applyInArrow` of 4.3), unless told of them.
        self.__signature__ = inspect.Signature([inspect.Parameter("table", inspect.Parameter.POSITIONAL_OR_KEYWORD)])

    def __reduce__(self) -> tuple[Any, ...]:
        return Scorer, (self._content, self.sha256, self._asked)

    def __repr__(self) -> str:
        return f"Scorer({self.sha256[:12]}, id={self.id!r}, {self._asked.question.samples} samples)"

    def __call__(self, table: Any) -> Any:
        """The answers for a pyarrow table or record batch, as a table: whole series, where windows are made of them.

        Columns are the id, those kept, and those that ``keepdrop predict`` writes, without dots in their names.

        Raises
        ------
        InputError
            As ``keepdrop predict``: the text names the series, the row and the column.
        TooLarge
            What a piece holds does not fit in the memory budget.
        """
        from .files import arrow  # for those who have tables

        given = arrow.table_of(table)
        found = self._answered(given) if given.num_rows else self._nothing(given.schema)
        return arrow.as_batch(found) if arrow.is_batch(table) else found

    def batches(self, tables: Iterable[Any]) -> Iterator[Any]:
        """The answers for tables or record batches one after the other, joined to larger ones first.

        Where windows are made of them, the lines of a series have to follow one another, in whatever batches.

        Raises
        ------
        InputError
            As a call; a series comes again after another one.
        """
        from .files import arrow

        ends = _SeriesEnds(self.id) if self.takes_series else None
        waiting: list[Any] = []
        as_batches, lines, enough = False, 0, AT_ONCE
        for given in tables:
            as_batches = arrow.is_batch(given)
            waiting.append(arrow.table_of(given))
            lines += waiting[-1].num_rows
            if lines < enough:
                continue
            whole = arrow.together(waiting)
            end = whole.num_rows if ends is None else ends.last(whole)
            if end:
                found = self(whole.slice(0, end))
                yield arrow.as_batch(found) if as_batches else found
            waiting, lines = [whole.slice(end)], whole.num_rows - end
            enough = max(AT_ONCE, 2 * lines)  # so that a long series is looked through but a few times
        if lines:
            whole = arrow.together(waiting)
            if ends is not None:
                ends.last(whole)
            found = self(whole)
            yield arrow.as_batch(found) if as_batches else found

    def schema(self, of: Any) -> Any:
        """The columns of the answers for tables of a schema.

        Parameters
        ----------
        of
            A pyarrow schema, for which one is given, or Spark's, for which the text is given that Spark takes.

        Raises
        ------
        InputError
            A column is not there, or times are text, which does not tell whether they bear an offset.
        """
        from .files import arrow

        if not hasattr(of, "fieldNames"):
            return self._schema(arrow.plain_schema(of))
        kinds = {field.name: field.dataType.simpleString() for field in of.fields}
        told = arrow.types_of_spark(self._schema(arrow.schema_of_spark(kinds)))
        return ", ".join(f"`{name}` {kinds.get(name) or kind}" for name, kind in told.items())

    @property
    def id(self) -> str:
        """The column of the row ids, or of the series."""
        return str(self._asked.id if self._declared is None else self._declared.id)

    @functools.cached_property
    def takes_series(self) -> bool:
        """Whether a table has to hold whole series, since answers depend on the lines before."""
        declared = self._declared
        if declared is None:
            return self._window > 1 or self._missing[0] == HOLD
        holds = any(declared.rule(column)[0] == HOLD for column in declared.columns)
        steps = declared.time is not None and declared.time.step is not None
        return self._window > 1 or holds or steps or self._asked.adapt

    def check(self) -> None:
        """InputError where what is asked cannot be answered, whatever the tables."""
        asked, declared = self._asked, self._declared
        if declared is None and asked.columns is None:
            raise InputError(
                "the artifact does not say what columns mean, and engines give them in any order; give columns="
            )
        if (asked.id if declared is None else declared.id) is None:
            raise InputError(
                "a row's place in a batch changes with the partitions, so it is no row id; name the column of ids, or "
                "of the series, by id="
            )
        if self.takes_series and self._time is None:
            raise InputError("engines shuffle lines, and windows need their order; name the column of times by time=")
        if asked.adapt and (declared is None or self._model.calibration is None):
            raise InputError("adapt= is for calibrated artifacts with a table, which says where the truth will be")
        if asked.wide and declared is None:
            raise InputError("wide= is for artifacts that say what columns mean; export it with a table")
        self._missing  # noqa: B018  which refuses what is no rule

    @property
    def _model(self) -> Model:
        return _opened(self._content, self.sha256, self._asked.threads, self._asked.memory)

    @functools.cached_property
    def _declared(self) -> Optional[Table]:
        """What the artifact's table says, with what is said otherwise; None where columns are given."""
        asked, model = self._asked, self._model
        if model.table is None or asked.columns is not None or asked.window is not None:
            return None
        table = otherwise(model.table, asked.id, asked.time, asked.time_format, asked.missing)
        return fitted(table, model.metadata.inputs, model.metadata.outputs, model.heads)

    @property
    def _window(self) -> int:
        return (self._asked.window if self._declared is None else self._declared.window) or 1

    @property
    def _missing(self) -> tuple[str, int]:
        return parsed_rule(self._asked.missing or REFUSE)

    @property
    def _time(self) -> Optional[str]:
        if self._declared is None:
            return self._asked.time
        return None if self._declared.time is None else self._declared.time.column

    @property
    def _time_format(self) -> Optional[str]:
        time = None if self._declared is None else self._declared.time
        return self._asked.time_format if time is None else time.format

    def _answered(self, table: Any) -> Any:
        """The answers for a table of at least one row."""
        from .files import arrow

        reader = self._reader(table)
        source = self._source(reader)
        rows = source.count()
        if not rows:
            return self._nothing(table.schema, self._zoned(reader))
        job = Job(self._model, source, self._asked.question, Span(0, rows), None, self._following(source))
        headed = None if self._declared is None else Headed(self._declared, job.heads, self._asked.wide)
        parts = [self._columns(fields, headed) for fields in job.answers()]
        figures = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        lines = windows.last_lines(reader, self.id, self._window)
        lines = np.repeat(lines, len(next(iter(figures.values()))) // len(lines))  # a horizon has a line for each step
        units = {} if headed is None else {dotless(n): headed.unit(n, bool(reader.zoned)) for n in figures}
        named = {dotless(name): values for name, values in figures.items()}
        return arrow.beside(table.select(self._kept(reader.columns)), lines, named, units.get)

    def _columns(self, fields: Fields, headed: Optional[Headed]) -> dict[str, NDArray[Any]]:
        """The columns of a piece but those that are handed through as they stand."""
        labels = LABELS if headed is None else LABELS | {TIME}
        own = {field: values for field, values in fields.items() if field.output or field.statistic in labels}
        return dict(columns(own)) if headed is None else headed.columns(own)

    def _kept(self, columns: Sequence[str]) -> list[str]:
        """The id, the time where the answers do not bear one of their own, and what is to be kept."""
        time = [self._time] if self._time is not None and self._declared is None else []
        kept = list(dict.fromkeys([self.id, *time, *self._asked.keep]))
        for column in kept:
            column_index("the table", columns, column)
        return kept

    def _reader(self, table: Any) -> Reader:
        """The lines of a table, sorted by series and time where there are times."""
        frame = FrameReader(table)
        column_index(frame.name, frame.columns, self.id)
        first, last = (table.column(self.id)[place].as_py() for place in (0, -1))
        if first == last:
            frame.name = f"the table of {self.id} {first!r}"
        return frame if self._time is None else OrderedReader([frame], self.id, self._time, self._time_format)

    def _source(self, reader: Reader) -> Source:
        asked = self._asked
        rule, held = self._missing
        missing = held if rule == HOLD else rule
        choice = Choice(asked.columns, self.id, asked.window, asked.time, asked.time_format, missing)
        if self._declared is not None:
            choice = Choice(table=self._declared)
        return source_of(reader, self._model.metadata, choice)

    def _following(self, source: Source) -> Optional[Following]:
        calibration, declared = self._model.calibration, self._declared
        if not self._asked.adapt or calibration is None or declared is None:
            return None
        known = [name for name in declared.outputs if calibration.of(name)]
        if len(known) != 1:
            raise InputError(f"adapt= follows one output, and those that are calibrated are {known}")
        readings = readings_within(source, declared, known[0])
        return Following(calibration, known[0], readings, declared.outputs[known[0]].ahead)

    def _zoned(self, reader: Reader) -> Optional[bool]:
        """Whether the times of a table bear an offset; reads them."""
        if self._time is not None:
            list(reader.read(Selection(id=self.id, time=self._time, time_format=self._time_format), windows.MOST))
        return reader.zoned

    def _schema(self, schema: Any) -> Any:
        from .files import arrow

        read = self._declared is not None and self._time in schema.names and self._time_format is None
        if read and arrow.is_text(schema, str(self._time)):
            raise InputError(
                f"column {self._time!r} holds text, and whether its times bear an offset is not known before it is "
                "read; make timestamps of it first"
            )
        return self._nothing(schema).schema

    def _nothing(self, schema: Any, zoned: Optional[bool] = None) -> Any:
        """The answers for no row: what one row of zeros is answered, cut to nothing."""
        from .files import arrow

        key = (schema, zoned)
        if key not in self._empty:
            step = None if self._declared is None or self._declared.time is None else self._declared.time.delta
            moments = np.datetime64("2000-01-01", "us") + np.arange(self._window) * (step or np.timedelta64(1, "D"))
            texts = _written(moments, self._time_format, bool(zoned))
            example = arrow.example(schema, self.id, self._time, moments, texts)
            self._empty[key] = self._answered(example).slice(0, 0)
        return self._empty[key]


class _SeriesEnds:
    """Where series end in tables that follow one another."""

    def __init__(self, id: str) -> None:
        self._id = id
        self._seen: set[Any] = set()
        self._open: Any = None

    def last(self, table: Any) -> int:
        """Where the last series of a table begins, which the next table may go on with; all before are whole."""
        ids = table.column(self._id).to_pylist()
        starts = [0, *(i for i in range(1, len(ids)) if ids[i] != ids[i - 1])]
        for start in starts:
            if start == 0 and ids[0] == self._open:
                continue
            if ids[start] in self._seen:
                raise InputError(
                    f"{self._id} {ids[start]!r} comes again after another one, and windows need its lines together; "
                    f"partition the data by {self._id!r} and sort it by that and time within partitions"
                )
            self._seen.add(ids[start])
        self._open = ids[-1]
        return starts[-1]


def dotless(column: str) -> str:
    """A column's name without dots, which Spark takes for fields of structures: ``low_90`` for ``low_0.9``."""
    in_percent = re.sub(
        r"(?<=_)(low|high|set)_(0\.\d+)(?=_|$)",
        lambda match: f"{match[1]}_{(Decimal(match[2]) * 100).normalize():f}",
        column,
    )
    return in_percent.replace(".", "_")


_MODELS: dict[tuple[int, str, int, Any], Model] = {}
_OPENING = threading.Lock()


def _opened(content: bytes, sha256: str, threads: int, memory: Optional[Union[int, str]]) -> Model:
    """The model of an artifact, opened once a process."""
    key = (os.getpid(), sha256, threads, memory)  # a fork opens its own
    with _OPENING:
        if key not in _MODELS:
            if hashlib.sha256(content).hexdigest() != sha256:
                raise ArtifactError("the artifact of a scorer is damaged; make the scorer anew")
            while len(_MODELS) >= MOST_OPEN:
                del _MODELS[next(iter(_MODELS))]
            file = io.BytesIO(content)
            file.name = f"the artifact {sha256[:12]}"
            _MODELS[key] = load(file, threads, memory)
        return _MODELS[key]


def _several(numbers: Union[float, Sequence[float]]) -> tuple[float, ...]:
    return (float(numbers),) if isinstance(numbers, (int, float)) else tuple(float(number) for number in numbers)


def _written(moments: NDArray[np.datetime64], written: Optional[str], zoned: bool) -> list[str]:
    """Times as a table of this format has them."""
    if written is None:
        return np.datetime_as_string(moments, unit="s", timezone="UTC" if zoned else "naive").tolist()  # type: ignore[no-any-return]
    if written in ("s", "ms"):
        return [str(count) for count in moments.astype(f"datetime64[{written}]").astype(np.int64).tolist()]
    return [moment.replace(tzinfo=timezone.utc).strftime(written) for moment in moments.tolist()]
