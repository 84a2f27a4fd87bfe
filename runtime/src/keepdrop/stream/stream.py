"""Stream: samples that go on from push to push, for rows that come and go.

A row carries its recurrent states and its masks for every sample, so a push costs its own steps and not those before.
As everywhere a sample is a pure function of seed, row, sample number and what its row was given: which rows are pushed
together changes nothing, nor does how many threads do it.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Generic, NamedTuple, Optional

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepdrop.answer.heads import resolved
from keepdrop.answer.prediction import Prediction, interval_quantiles, paired, summarise
from keepdrop.answer.results import Answers, of_outputs
from keepdrop.answer.showing import MOST_ROWS, html_table
from keepdrop.artifact.metadata import STEPS_SEEN, Tensor
from keepdrop.calibration.feedback import Learned
from keepdrop.errors import InputError
from keepdrop.run.engine import Engine
from keepdrop.run.memory import Budget
from keepdrop.run.request import check_far, check_readings, integer
from keepdrop.run.session import AnySession

from .beginning import demand
from .learning import Learning
from .rolling import Rolling
from .rows import Arrays, Places, RowStore
from .saved_stream import AT_START, DIVERGED, TIME, SavedStream, state_shape, to_bytes
from .steps import Steps, blanked, number_of_steps


class Coverage(NamedTuple):
    """A share of truths, NaN of none, and how many there were."""

    share: float
    truths: int


class Answer(NamedTuple):
    """What :meth:`Stream.answer` gives: a push that the stream has not gone on by yet."""

    predictions: dict[str, Prediction]  # by output
    rows: NDArray[np.int64]  # [B]
    before: NDArray[np.int64]  # [B] steps that each row had seen
    carried: Arrays  # each [B, ...]: what the rows carry afterwards
    places: Places


class Stream(Generic[Answers]):
    """Rows, such as sensors, whose samples go on; made by :meth:`Model.stream` and :meth:`Model.resume`.

    Many streams may share one model and be pushed from several threads at once; the calls of one stream take turns.
    Memory grows with rows x samples, and not with steps. After an error a stream is as it was before the call.

    Attributes
    ----------
    seed, samples, first_sample
        The samples are those of this seed, from first_sample to first_sample + samples - 1.
    window
        The steps of the windows that the model was trained on; None where that is not known.
    """

    def __init__(
        self,
        session: AnySession,
        engine: Engine,
        budget: Budget,
        saved: SavedStream,
        steps: Steps,
        learning: Optional[Learning] = None,
        by_output: bool = False,
    ) -> None:
        metadata = session.metadata
        demand(budget, steps, learning, len(saved.rows), saved.samples)
        check_far(metadata, saved.first_sample, saved.samples, steps.longest)
        self.seed, self.samples, self.first_sample = saved.seed, saved.samples, saved.first_sample
        self.window = steps.window
        self._outputs = [tensor.name for tensor in metadata.outputs]
        self._heads = resolved(metadata.outputs, metadata.heads)
        self._named = by_output
        self._budget = budget
        self._identity = saved.identity
        self._steps = steps
        masks = {m.name: np.zeros(state_shape(m, len(saved.rows), saved.samples), m.dtype) for m in steps.masks}
        self._learning = learning
        self._rows = RowStore(saved.rows.tolist(), {**saved.counts, **saved.states}, masks, AT_START, saved.learned)
        self._lock = threading.Lock()
        self._states = [state.name for state in steps.kept]
        self._held = {} if saved.held is None else dict(zip(self._rows.ids, saved.held))

    def __repr__(self) -> str:
        seen = self.steps_seen.values()
        steps = "" if not seen else f", {min(seen)} to {max(seen)} steps seen"
        return f"Stream({', '.join(self._outputs)}, {len(self.rows)} rows, {self.samples} samples{steps})"

    def _repr_html_(self) -> str:
        """Its first rows and how far each is, as a notebook shows them."""
        seen, warm = self.steps_seen, self.warm
        rows = [(row, seen[row], "yes" if warm[row] else "no") for row in list(seen)[:MOST_ROWS]]
        return html_table(repr(self), ("row", "steps seen", "warm"), rows, max(0, len(seen) - MOST_ROWS))

    @property
    def rows(self) -> tuple[int, ...]:
        """The row ids, in the order in which :meth:`push` takes them."""
        return tuple(self._rows.ids)

    def __contains__(self, row: object) -> bool:
        """Whether there is a row of this id."""
        return row in self._rows

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What :meth:`push` takes, [rows, steps, ...] each."""
        return self._steps.inputs

    @property
    def steps_seen(self) -> dict[int, int]:
        """How many steps each row has seen, by row id."""
        return self._counted(STEPS_SEEN)

    def steps_of(self, row: int) -> int:
        """How many steps a row has seen."""
        with self._lock:
            return int(self._rows.at(slice(None), STEPS_SEEN)[self._rows.place(row)])

    def elements(self, output: str) -> int:
        """How many numbers an answer of an output that learns has."""
        return self._learning.elements(output) if self._learning else 0

    def time_of(self, row: int) -> float:
        """The time of a row's last reading, as :meth:`go_on` was told; minus infinity where there is none."""
        with self._lock:
            return float(self._rows.at(slice(None), TIME)[self._rows.place(row)])

    @property
    def diverged(self) -> dict[int, int]:
        """The rows whose state is no longer finite, and the step at which it ceased to be.

        Their answers are NaN until :meth:`reset`; the other rows go on.
        """
        return {row: step for row, step in self._counted(DIVERGED).items() if step}

    @property
    def warm(self) -> dict[int, bool]:
        """Whether each row has seen as many steps as the windows had that the model was trained on, by row id.

        Before that its samples say less than they seem to. All are warm where the length of the windows is not known.
        """
        return {row: seen >= (self.window or 0) for row, seen in self.steps_seen.items()}

    def push(self, x: Any, rows: Optional[ArrayLike] = None) -> Answers:
        """Go on by a step or a chunk of steps: a :class:`Prediction`, by output name in a dict where there are several.

        An output without an axis of time is the answer after the last step: [rows, ...], samples [samples, rows, ...].
        One with that axis answers each step, [rows, steps, ...], and is without it where `x` is one step without it.
        How the same steps are cut into chunks changes the numbers by float32 rounding alone. An artifact that takes
        windows answers for the last step alone, and NaN until a row has seen a window of steps.

        A row whose state became infinite is answered with NaN from that push on (`diverged`).

        Parameters
        ----------
        x
            One step, [rows, ...], or a chunk, [rows, steps, ...]; a dict of such arrays by input name where there are
            several inputs.
        rows
            The row ids of `x`, where only some of the stream's rows go on (default: all of them, as `rows` has them).

        Raises
        ------
        InputError
            `x` does not fit or is not finite; a row is unknown or named twice; the stream has no rows.
        """
        with self._lock:
            answer = self._answered(x, rows)
            self._go_on(answer, answer.places)
        answers: Answers = of_outputs(self._outputs, list(answer.predictions.values()), self._named)
        return answers

    def answer(self, x: Any, rows: Optional[ArrayLike] = None) -> Answer:
        """What :meth:`push` would give, without going on: for who has to deliver it first, and then calls `go_on`.

        Parameters and errors are those of `push`; predictions stand by output name, also where there is one.
        """
        with self._lock:
            return self._answered(x, rows)

    def go_on(self, answer: Answer, time: Optional[float] = None, held: Optional[NDArray[np.float64]] = None) -> None:
        """Go on by what was answered; InputError where its rows have gone on since, or are gone.

        `time`, any number that grows from reading to reading, is kept as that of the rows' last one, and `held` for
        `held_of`.
        """
        with self._lock:
            where, ids = self._rows.places(answer.rows)
            if not np.array_equal(self._rows.at(where, STEPS_SEEN), answer.before):
                raise InputError(f"rows {ids.tolist()} have gone on since they were answered; answer them again")
            self._go_on(answer, where)
            self._remember(where, ids, time, held)

    def begin_anew(self, row: int, time: Optional[float] = None, held: Optional[NDArray[np.float64]] = None) -> None:
        """Start a row at step 0 after a gap: as `reset`, but with the time and the held values of its last reading."""
        with self._lock:
            where, ids = self._rows.places([row])
            before = float(self._rows.at(where, TIME)[0])
            self._start(where)
            self._remember(where, ids, before if time is None else time, held)

    def held_of(self, row: int) -> Optional[NDArray[np.float64]]:
        """What the last call of `go_on` or `begin_anew` had to be held of a row: [columns, 2]; None where nothing."""
        with self._lock:
            return self._held.get(row)

    def reason(self, answer: Answer, place: int = 0) -> Optional[str]:
        """Why a row's answer is no number, in a sentence; None where it is one. `place` is that in `answer.rows`."""
        seen = int(answer.carried[STEPS_SEEN][place])
        diverged = int(answer.carried[DIVERGED][place]) if DIVERGED in answer.carried else 0
        if diverged:
            return f"the state is not finite since step {diverged}; reset this row"
        if isinstance(self._steps, Rolling) and seen < (self.window or 0):
            return f"its window is not full: {seen} of {self.window} steps"
        if not all(np.isfinite(p.mean[place]).all() for p in answer.predictions.values()):
            return "the model's answer is not finite"
        return None

    def observe(
        self, value: ArrayLike, *, step: Optional[int] = None, row: Optional[int] = None, output: Optional[str] = None
    ) -> Learned:
        """Learn what was observed where an answer had forecast it: the row's next intervals know.

        Truths may come late, in any order, or never: the last answers of a row wait for theirs (`waiting`).

        Parameters
        ----------
        value
            What was observed: a number, or an array of the answer's shape without its rows, NaN for what is not known
            yet (the later steps of a horizon).
        step
            The row's step whose answer forecast it, as `steps_seen` had it then (default: the last one).
        row
            The row id (default: the only row).
        output
            Which output forecast it (default: the only one that is calibrated).

        Returns
        -------
        Learned
            How it lay in what had been forecast: ``.covered(0.9)``, ``.pit``.

        Raises
        ------
        InputError
            No such answer waits, as where its truth came before or too late; the artifact is not calibrated; a row or
            an output has to be named.
        """
        with self._lock:
            learning, name, row = self._learner(output, row)
            seen = int(self._rows.at(slice(None), STEPS_SEEN)[self._rows.place(row)])
            return learning.observe(self._rows, name, row, seen if step is None else integer("step", step), value)

    def coverage(self, level: float = 0.9, *, row: Optional[int] = None, output: Optional[str] = None) -> Coverage:
        """The share of a row's last truths (250 of each number) that were within their intervals of this level.

        Raises
        ------
        InputError
            As :meth:`observe`.
        """
        interval_quantiles(level)
        with self._lock:
            learning, name, row = self._learner(output, row)
            return Coverage(*learning.coverage(self._rows, name, row, level))

    def waits(self, step: int, *, row: Optional[int] = None, output: Optional[str] = None, element: int = 0) -> bool:
        """Whether the answer of a step still waits for the truth of one of its numbers."""
        with self._lock:
            learning, name, row = self._learner(output, row)
            return learning.waits(self._rows, name, row, step, element)

    @contextmanager
    def tentative(self, row: int) -> Iterator[None]:
        """What a row learns in this block it forgets if that ends with an error."""
        learning = self._learning
        if learning is None or row not in self._rows:
            yield
            return
        with self._lock:
            before = learning.of_row(self._rows, row)
        try:
            yield
        except BaseException:
            with self._lock:
                learning.put_back(self._rows, row, before)
            raise

    @property
    def given_up(self) -> int:
        """How many answers were dropped before their truth came: a row keeps its last ones for that (`waiting`)."""
        with self._lock:
            return self._learning.given_up(self._rows) if self._learning else 0

    @property
    def waiting(self) -> int:
        """How many of a row's last answers wait for their truth: 64, or as many as truths come later."""
        return self._learning.waiting if self._learning else 0

    @property
    def learns(self) -> tuple[str, ...]:
        """The outputs that truths may be given of: those of numbers that are calibrated."""
        return tuple(self._learning.outputs) if self._learning else ()

    def reset(self, rows: Optional[ArrayLike] = None) -> None:
        """Start rows anew (default: all of them) at step 0, with the same masks; InputError for an unknown row.

        What they learned from truths stays; the answers that wait for theirs are dropped.
        """
        with self._lock:
            where = slice(0, len(self._rows.ids)) if rows is None else self._rows.places(rows)[0]
            self._start(where)
            for place in _listed(where):
                self._held.pop(self._rows.ids[place], None)

    def add(self, row: int) -> None:
        """Take up one more row at step 0, behind those there are.

        Raises
        ------
        InputError
            It is one of them.
        TooLarge
            What all of them carry does not fit in the memory budget.
        """
        with self._lock:
            demand(self._budget, self._steps, self._learning, len(self._rows.ids) + 1, self.samples)
            self._settle()
            self._rows.add(integer("row", row))
            if self._learning:
                self._learning.start(self._rows, len(self._rows.ids) - 1)

    def remove(self, row: int) -> None:
        """Drop a row and what it carries; those behind it move up. InputError for an unknown row."""
        with self._lock:
            self._settle()
            self._rows.remove(integer("row", row))
            self._held.pop(row, None)

    def save(self) -> bytes:
        """The stream as a .npz file, from which :meth:`Model.resume` goes on with the very numbers to come.

        `saved_stream` tells its entries.
        """
        with self._lock:
            self._settle()
            everyone = slice(None)
            return to_bytes(
                SavedStream(
                    identity=self._identity,
                    seed=self.seed,
                    first_sample=self.first_sample,
                    samples=self.samples,
                    window=self.window,
                    rows=np.array(self._rows.ids, np.int64),
                    counts={name: self._rows.at(everyone, name) for name in AT_START},
                    states={name: self._rows.at(everyone, name) for name in self._states},
                    calibration=self._learning.digest if self._learning else "",
                    learned={
                        name: self._rows.at(everyone, name)
                        for name in (self._learning.shapes() if self._learning else ())
                    },
                    held=self._all_held(),
                )
            )

    def _counted(self, name: str) -> dict[int, Any]:
        with self._lock:
            return dict(zip(self._rows.ids, self._rows.at(slice(None), name).tolist()))

    def _answered(self, x: Any, rows: Optional[ArrayLike]) -> Answer:
        """What a push gives; the stream is as it was until `_rows.put`, when nothing can fail any more."""
        where, ids = self._rows.places(rows)
        inputs, one_step = check_readings(self._steps.inputs, x, ids)
        samples, carried = self._advance(inputs, where, ids)
        learning = self._learning
        found = [
            summarise(
                values[:, :, 0] if timed and one_step else values,
                head=head,
                calibration=learning.calibration if learning else None,
                tracked=learning.snapshot(head.output, self._rows, where, self._lock) if learning else None,
            )
            for values, timed, head in zip(samples, self._steps.timed, self._heads)
        ]
        predictions = dict(zip(self._outputs, paired(found)))
        return Answer(predictions, ids, self._rows.at(where, STEPS_SEEN), carried, where)

    def _go_on(self, answer: Answer, where: Places) -> None:
        self._rows.put(where, answer.carried)
        if self._learning:
            self._learning.give(self._rows, where, answer.carried[STEPS_SEEN], answer.predictions)

    def _start(self, where: Places) -> None:
        self._rows.start(where)
        if self._learning:
            self._learning.forget(self._rows, _listed(where))

    def _remember(
        self, where: Places, ids: NDArray[np.int64], time: Optional[float], held: Optional[NDArray[np.float64]]
    ) -> None:
        if time is not None:
            self._rows.put(where, {TIME: np.full(len(ids), time)})
        if held is not None:
            self._held.update(dict.fromkeys(ids.tolist(), held))

    def _all_held(self) -> Optional[NDArray[np.float64]]:
        """Of all rows, [B, columns, 2]; None where nothing is held."""
        widest = max((len(held) for held in self._held.values()), default=0)
        if not widest:
            return None
        found = np.tile([np.nan, 0.0], (len(self._rows.ids), widest, 1))  # [B, columns, 2]
        for place, row in enumerate(self._rows.ids):
            held = self._held.get(row)
            if held is not None:
                found[place, : len(held)] = held
        return found

    def _settle(self) -> None:
        if self._learning:
            self._learning.settle(self._rows)

    def _learner(self, output: Optional[str], row: Optional[int]) -> tuple[Learning, str, int]:
        """Who learns, of which output and row; InputError where that is open."""
        if self._learning is None:
            raise InputError(
                "this artifact is not calibrated, so that a truth has no interval to be within; calibrate it first "
                "(keepdrop.calibrate, or `keepdrop calibrate`)"
            )
        if row is None and len(self._rows.ids) != 1:
            raise InputError(f"the stream has {len(self._rows.ids)} rows; say by row= which one it is")
        return self._learning, self._learning.checked(output), self._rows.ids[0] if row is None else integer("row", row)

    def _advance(
        self, inputs: Arrays, where: Places, ids: NDArray[np.int64]
    ) -> tuple[list[NDArray[Any]], dict[str, NDArray[Any]]]:
        """The samples of each output, and what these rows carry then."""
        self._make_masks(inputs, ids)
        names = (STEPS_SEEN, *self._states, *(mask.name for mask in self._steps.masks))
        seen = self._rows.at(where, STEPS_SEEN)
        samples, states = self._steps.run(inputs, ids, {name: self._rows.at(where, name) for name in names})
        carried = {STEPS_SEEN: seen + number_of_steps(inputs), **states}
        diverged = self._rows.at(where, DIVERGED)
        bad = _not_finite(states)
        if bad is None and not diverged.any():
            return samples, carried
        lost = (diverged > 0) if bad is None else (diverged > 0) | bad
        carried[DIVERGED] = np.where(lost & (diverged == 0), carried[STEPS_SEEN], diverged)
        for name in states:  # nothing follows from them, and zeros can be saved
            carried[name] = states[name].copy()
            carried[name][lost] = 0
        return [blanked(values, lost) for values in samples], carried

    def _make_masks(self, inputs: Arrays, ids: NDArray[np.int64]) -> None:
        if not self._rows.unmasked:
            return
        new = [i for i, row in enumerate(ids.tolist()) if row in self._rows.unmasked]
        if new:
            of_new = {name: array[new] for name, array in inputs.items()}
            self._rows.give_masks(ids[new], self._steps.make_masks(of_new, ids[new]))


def _listed(where: Places) -> list[int]:
    return list(range(where.start, where.stop)) if isinstance(where, slice) else where.tolist()


def _not_finite(states: Mapping[str, NDArray[Any]]) -> Optional[NDArray[np.bool_]]:
    """Which rows have a number that is not finite, [B]; None where none has."""
    found: Optional[NDArray[np.bool_]] = None
    for array in states.values():
        if array.dtype.kind != "f" or _surely_finite(array):
            continue
        bad = ~np.isfinite(array).reshape(len(array), -1).all(axis=1)
        found = bad if found is None else found | bad
    return found if found is not None and found.any() else None


def _surely_finite(array: NDArray[Any]) -> bool:
    """Whether its sum is, for which all of it has to be: one pass, and nothing set aside."""
    with np.errstate(over="ignore", invalid="ignore"):
        return math.isfinite(np.add.reduce(array, axis=None))
