"""Model: what `keepdrop.load` gives."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, Literal, Optional, Union, overload

from numpy.typing import ArrayLike, NDArray

from keepdrop.answer.heads import Heads, resolved
from keepdrop.answer.moments import Tally
from keepdrop.answer.prediction import Prediction, checked_quantiles, concatenated, paired, summarise
from keepdrop.answer.results import Answers, Samples, of_outputs
from keepdrop.answer.showing import artifact_table
from keepdrop.artifact.metadata import CALIBRATION_KEY, Head, Metadata
from keepdrop.artifact.properties import with_properties
from keepdrop.calibration.record import Calibration
from keepdrop.run.device import available_threads
from keepdrop.run.engine import BYTES_SUMMARISED, MAX_BLOCK, Engine, Progress
from keepdrop.run.memory import Budget, parsed
from keepdrop.run.request import Asked, Request, check, integer, number_of_samples
from keepdrop.run.session import AnySession, Session, Source
from keepdrop.run.stored import refuse_other_calibration, stored_calibration, stored_table
from keepdrop.table import Table, fitted

from .errors import ArtifactError, InputError
from .until import limits

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from keepdrop.stream.saved_stream import OnNewArtifact, Saved
    from keepdrop.stream.starting import Starting
    from keepdrop.stream.stream import Stream

    from .until import stopping


@overload
def load(
    path: Source,
    threads: Optional[int] = ...,
    memory: Optional[Union[int, str]] = ...,
    *,
    by_output: Literal[False] = ...,
) -> Model: ...
@overload
def load(
    path: Source,
    threads: Optional[int] = ...,
    memory: Optional[Union[int, str]] = ...,
    *,
    by_output: Literal[True],
) -> Model[dict[str, NDArray[Any]], dict[str, Prediction]]: ...
def load(
    path: Source,
    threads: Optional[int] = None,
    memory: Optional[Union[int, str]] = None,
    *,
    by_output: bool = False,
) -> Any:
    """Open an artifact.

    Parameters
    ----------
    path
        The file's path, or a file open for reading bytes: ``io.BytesIO(content)`` for what is in memory.
    threads
        The most threads that a call runs on (default: what this process may use, by its affinity, the CPU quota of
        its control groups and ``OMP_NUM_THREADS``). Each beyond the first opens the file once more when it is first
        needed: memory for the weights grows with it.
    memory
        The most bytes that the arrays of a call may take, also as text such as ``"500MB"`` (default: half of what
        the device has free at the call). A call is cut to stay within it, or refused before it starts.
    by_output
        Give a dict by output name also where there is one output, for code that takes any artifact. By default only
        artifacts with several outputs do so; type checkers expect one output then.

    Raises
    ------
    ArtifactMissing
        There is no such file.
    ArtifactError
        It is not an artifact, is damaged or contradicts itself, or bears an unknown contract version.
    InputError
        `threads` is not an integer of 1 or more, or `memory` no size.
    """
    if threads is not None:
        threads = integer("threads", threads, least=1)
    budget = Budget(None if memory is None else parsed(memory))
    return Model(Session(path), threads, budget, by_output)


class Model(Generic[Samples, Answers]):
    """An artifact that samples; made by :func:`keepdrop.load`, safe to call from several threads.

    The calling thread works too: `threads` is the most that one call keeps busy (None: what this process may use).
    """

    def __init__(
        self,
        session: AnySession,
        threads: Optional[int] = None,
        budget: Optional[Budget] = None,
        by_output: bool = False,
    ) -> None:
        self._session = session
        self._calibration = stored_calibration(session)
        self._table = stored_table(session)
        self._threads = threads
        self._budget = budget or Budget()
        self._named = by_output
        self._engine = Engine(session, available_threads() if threads is None else threads, self._budget)
        self._heads = resolved(session.metadata.outputs, session.metadata.heads)
        self._outputs = [tensor.name for tensor in session.metadata.outputs]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as the artifact's content, so that it opens on any machine, with the threads that this has."""
        name = os.path.basename(self._session.path)
        opened_by = type(self._session), *self._session.source, name
        return _unpickled, (*opened_by, self._threads, self._budget.memory, self._named, self._calibration)

    def __repr__(self) -> str:
        inputs, outputs = (
            ", ".join(t.name for t in tensors) for tensors in (self.metadata.inputs, self.metadata.outputs)
        )
        kinds = ["streaming" if self.metadata.stream else "", "calibrated" if self.calibration else ""]
        said = "".join(f", {kind}" for kind in kinds if kind)
        return f"Model({os.path.basename(self._session.path)!r}, {inputs} -> {outputs}{said})"

    def _repr_html_(self) -> str:
        """What it takes and gives, as a notebook shows it."""
        return artifact_table(repr(self), self.metadata, self._heads, self._table)

    @property
    def metadata(self) -> Metadata:
        """What the artifact says of itself: inputs, outputs, draws, versions, what was verified."""
        return self._session.metadata

    @property
    def heads(self) -> tuple[Head, ...]:
        """What the numbers of each output are, as the artifact says it."""
        return self._heads

    @property
    def calibration(self) -> Optional[Calibration]:
        """What calibrated the artifact; None where nothing did."""
        return self._calibration

    @property
    def table(self) -> Optional[Table]:
        """What columns of readings mean to it, and its outputs to the user; None where the artifact does not say."""
        return self._table

    def with_calibration(self, calibration: Optional[Calibration]) -> Model[Samples, Answers]:
        """The same artifact with another calibration, or with none: shares all but that with this one."""
        other = type(self).__new__(type(self))  # not copy.copy, which opens the artifact once more
        other.__dict__.update(self.__dict__)
        other._calibration = calibration
        return other

    def to_bytes(self) -> bytes:
        """The artifact's file with this calibration: the same graph, so the same samples.

        ``Path("calibrated.onnx").write_bytes(model.to_bytes())`` writes it.

        Raises
        ------
        ArtifactError
            The file that was loaded is no longer the same, or is a SavedModel; or its graph's own outputs hold another
            calibration.
        """
        text = None if self._calibration is None else self._calibration.to_json()
        refuse_other_calibration(self._session.path, self.metadata, text)
        return with_properties(self._session.content(), {CALIBRATION_KEY: text})

    @property
    def sha256(self) -> str:
        """The digest of the artifact, in hexadecimal; ArtifactError where its file is no longer the one loaded."""
        return self._session.sha256()

    def sample(
        self,
        x: Any,
        *,
        samples: Optional[int] = None,
        seed: int = 0,
        rows: Optional[ArrayLike] = None,
        first_sample: int = 0,
    ) -> Samples:
        """Stochastic forward passes: [samples, batch, ...], by output name in a dict where there are several outputs.

        The same arguments give the same numbers, whatever the threads, the machine and the rest of the batch.

        Parameters
        ----------
        x
            An array [batch, ...] for a model with one input, or a dict of such arrays by input name.
        samples
            Passes of every row, 1 or more (default: ``metadata.default_samples``).
        seed
            Any int64.
        rows
            The row ids, int64 [batch] (default: 0 ... batch - 1); rows of the same id see the same masks.
        first_sample
            The number of the first sample, to go on where an earlier call ended.

        Raises
        ------
        InputError
            An argument does not fit the artifact.
        TooLarge
            What would be held at once does not fit in the memory budget; the text has the arithmetic.
        """
        request = self._checked(x, samples=samples, seed=seed, rows=rows, first_sample=first_sample)
        draws: Samples = of_outputs(self._outputs, self._engine.run(request), self._named)
        return draws

    def predict(
        self,
        x: Any,
        *,
        samples: Optional[int] = None,
        seed: int = 0,
        rows: Optional[ArrayLike] = None,
        first_sample: int = 0,
        quantiles: Optional[ArrayLike] = None,
        until: Optional[stopping.Rule] = None,
        max_samples: Optional[int] = None,
        deadline: Optional[float] = None,
        heads: Optional[Heads] = None,
        progress: Optional[Progress] = None,
    ) -> Answers:
        """The same samples summarised: a :class:`Prediction`, by output name in a dict where there are several outputs.

        Parameters
        ----------
        x, samples, seed, rows, first_sample
            As in :meth:`sample`.
        quantiles
            By default the samples are kept, and every quantile can be asked for afterwards. Given a sequence such as
            ``(0.05, 0.95)``, just these are computed, exactly, and the samples dropped block by block: memory for
            samples then does not grow with the batch. Given ``()``, for the other figures alone, it does not
            grow with the number of samples either.
        until
            Draw as many samples as this question needs, row by row: :func:`keepdrop.standard_error` or
            :func:`keepdrop.decided`. A row's samples are those of a call for as many; ``Prediction.n`` says how
            many, ``Prediction.met`` whether they were enough. It looks after 16 samples and then after half as
            many more each time (16 at least, 256 at most), so that a row's own samples alone decide where it stops.
        max_samples
            The most samples of a row, with `until` or `deadline` (default: 10,000).
        deadline
            Seconds from the call on: draw what can be had in that time, and no block of samples that is likely to
            end later. How many a block may have is learned as the call goes on; it ends late by one block at most. The
            first is one sample of each row, drawn however short the time is. With `quantiles`, samples are held for
            all rows until the end.
        heads
            What the outputs are, where the artifact does not say it or says it otherwise: "value", "softmax",
            "sigmoid" or "mean,logvar", or a dict of these by output. Two outputs are
            ``{"level,spread": "mean,logvar"}``.
        progress
            Called with the number of samples x rows that were just finished, from one thread at a time.

        Raises
        ------
        InputError
            An argument does not fit the artifact, or another argument.
        TooLarge
            What would be held at once does not fit in the memory budget; the text has the arithmetic.
        """
        began = limits.clock()
        adapts = until is not None or deadline is not None
        most = limits.most_samples(samples, max_samples, adapts)
        request = self._checked(x, samples=most, seed=seed, rows=rows, first_sample=first_sample)
        of_each = self._heads if heads is None else resolved(self.metadata.outputs, self._heads, heads)
        numbers = None if quantiles is None else checked_quantiles(quantiles).reshape(-1)
        if adapts:
            from .until import adaptive  # for those who do not say how many

            ends = None if deadline is None else began + limits.seconds_of(deadline)
            found = adaptive.predict(self._engine, request, of_each, until, ends, numbers, progress)
        elif numbers is None:
            self._engine.demand(request, BYTES_SUMMARISED)
            outputs = self._engine.run(request, progress)
            found = [summarise(d, head=head, calibration=self._calibration) for d, head in zip(outputs, of_each)]
        else:
            self._engine.demand_summaries(request, 2 + numbers.size)
            summary = self._quantiles if numbers.size else self._moments
            size = self._engine.block(request, MAX_BLOCK)
            blocks = [summary(block, of_each, numbers, progress) for block in request.row_blocks(size)]
            found = [concatenated(parts) for parts in zip(*blocks)]
        if self._calibration is not None and found[0].calibration is None:
            found = [replace(prediction, calibration=self._calibration) for prediction in found]
        answers: Answers = of_outputs(self._outputs, paired(found), self._named)
        return answers

    def predict_table(
        self,
        frame: Any,
        *,
        interval: Union[float, Sequence[float]] = (),
        samples: Optional[int] = None,
        seed: int = 0,
        last: bool = False,
        wide: bool = False,
        table: Optional[Table] = None,
    ) -> dict[str, NDArray[Any]]:
        """Forecasts from raw readings, as columns by name: ``pandas.DataFrame(model.predict_table(frame))``.

        A line for each window of consecutive rows of a series, and for each step ahead of a horizon: the time it is
        for (UTC where the readings' times have a zone), the series, the steps ahead, and mean, std and intervals of
        each output, in the units of :attr:`table`.

        Parameters
        ----------
        frame
            A pandas or polars frame, a pyarrow table or a dict of arrays, with the columns that :attr:`table` names, in
            any order, among others. An index of times will do as the column of times. Rows of a series are in the
            order of their times; those of several series may be mixed.
        interval
            Levels of central intervals, such as 0.9: columns ``low_0.9`` and ``high_0.9``.
        samples, seed
            As in :meth:`sample`; a row's id is its position among the windows, or that of its series.
        last
            Only the newest window of each series: the forecast from now on.
        wide
            Columns for the steps of a horizon instead of lines.
        table
            What the columns mean, where the artifact does not say it or says it otherwise.

        Raises
        ------
        InputError
            The artifact has no table, a column is missing or in another unit, a cell is no number or empty where the
            table refuses that, times run back or skip; the text names row and column.
        TooLarge
            What a piece holds does not fit in the memory budget.
        """
        from keepdrop.files.in_memory import answered  # for those who have tables

        declared = (
            self._table if table is None else fitted(table, self.metadata.inputs, self.metadata.outputs, self._heads)
        )
        if declared is None:
            raise InputError(
                "the artifact does not say what columns mean; give table=keepdrop.Table(...), or export it with one"
            )
        levels = (interval,) if isinstance(interval, (int, float)) else tuple(interval)
        count = number_of_samples(self.metadata, samples)
        return answered(self, self._heads, declared, frame, levels, count, integer("seed", seed), last, wide)

    def stream(
        self,
        *,
        samples: Optional[int] = None,
        seed: int = 0,
        rows: ArrayLike = (0,),
        first_sample: int = 0,
        window: Optional[int] = None,
        ahead: Optional[int] = None,
    ) -> Stream[Answers]:
        """A stream that starts with these rows.

        An artifact that was exported with ``streaming=True`` carries its recurrent states from step to step. Any other
        one is asked for each row's last steps as a window, as :meth:`predict` would be with the row's id: NaN until
        there are so many.

        Parameters
        ----------
        samples, seed, first_sample
            As in :meth:`sample`.
        rows
            The ids of its rows (sensors), each once; () for none yet.
        window
            The steps of the windows that the model was trained on, where the artifact takes any number.
        ahead
            The most steps after its answer that a truth may come (default: as far as :attr:`table` looks ahead): so
            many answers of a row wait for theirs, and 64 at least.

        Raises
        ------
        InputError
            An argument does not fit the artifact, or an input has no axis of time.
        TooLarge
            What the rows carry does not fit in the memory budget; the text has the arithmetic.
        ArtifactError
            The file is no longer the one that was loaded.
        """
        return self._starting().fresh(samples, seed, rows, first_sample, window, ahead)

    def resume(
        self, data: Saved, on_new_artifact: OnNewArtifact = "refuse", ahead: Optional[int] = None
    ) -> Stream[Answers]:
        """The stream that :meth:`Stream.save` saved, to go on as if it had never stopped.

        Parameters
        ----------
        data
            What `save` gave, or the path of a file that holds it.
        on_new_artifact
            What becomes of a stream of an artifact that gives other numbers (another model, or this one trained
            further): "refuse" it; "keep" its states, if they have the shapes of this artifact's, though its weights
            are others; or "reset" its rows to start anew, with the seed and the samples that they had.
        ahead
            As in :meth:`stream`; at least as many answers wait as did before.

        Raises
        ------
        InputError
            It was saved with another artifact, is damaged, or is of another version.
        TooLarge
            What it holds does not fit in the memory budget.
        ArtifactError
            The artifact's file is no longer the one that was loaded.
        """
        return self._starting().resumed(data, on_new_artifact, ahead)

    def reload(self) -> Model[Samples, Answers]:
        """The model of what is at its path now, opened as this one was; this one itself where it is the same artifact.

        For a service whose artifact is replaced while it runs: this model and its streams stay as they are, and are
        there still where the new file is refused.

        Raises
        ------
        InputError
            It was loaded from memory.
        ArtifactError
            As :func:`load` says.
        """
        if self._session.in_memory:
            raise InputError(
                f"{self._session.path} was loaded from memory, where nothing replaces it; load the new one"
            )
        session = type(self._session)(self._session.path)
        if session.checksum == self._session.checksum:
            return self
        return type(self)(session, self._threads, self._budget, self._named)

    def _starting(self) -> Starting[Answers]:
        from keepdrop.stream.starting import Starting  # for those who stream: it takes as long as all of the above

        return Starting(self._session, self._engine, self._budget, self._calibration, self._table, self._named)

    def _checked(self, x: Any, **asked: Unpack[Asked]) -> Request:
        return check(self.metadata, x, budget=self._budget, **asked)

    def _quantiles(
        self, request: Request, heads: Sequence[Head], numbers: Any, progress: Optional[Progress]
    ) -> list[Prediction]:
        self._engine.demand(request, BYTES_SUMMARISED)
        outputs = self._engine.run(request, progress)
        return [summarise(draws, numbers, head=head) for draws, head in zip(outputs, heads)]

    def _moments(
        self, request: Request, heads: Sequence[Head], numbers: Any, progress: Optional[Progress]
    ) -> list[Prediction]:
        """Without quantiles, blocks of samples add up: none of them need be held with another."""
        tallies: list[Tally] = []
        for block in request.sample_blocks(self._engine.block(request, MAX_BLOCK)):
            outputs = self._engine.run(block, progress)
            found = [Tally.of(draws, head.kind) for draws, head in zip(outputs, heads)]
            tallies = [a.plus(b) for a, b in zip(tallies, found)] if tallies else found
        return [summarise(draws, numbers, tally, head) for draws, tally, head in zip(outputs, tallies, heads)]


def _unpickled(
    kind: type[AnySession],
    source: Union[str, bytes],
    checksum: str,
    name: str,
    threads: Optional[int],
    memory: Optional[int],
    by_output: bool,
    calibration: Optional[Calibration],
) -> Model[Any, Any]:
    if isinstance(source, bytes):
        content = io.BytesIO(source)
        content.name = name
        session = kind(content)
    else:
        session = kind(source)
    if session.checksum != checksum:
        raise ArtifactError(f"{session.path} is another file than that of the model that was pickled; load it instead")
    return Model(session, threads, Budget(memory), by_output).with_calibration(calibration)
