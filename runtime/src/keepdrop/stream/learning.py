"""Learning: what the rows of a stream learn from the truths of their answers, a tracker for each calibrated output."""

from __future__ import annotations

import math
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.answer.moments import median
from keepdrop.answer.observation import centre_and_variance
from keepdrop.answer.prediction import Prediction
from keepdrop.artifact.metadata import VALUE
from keepdrop.calibration.feedback import (
    CURRENT,
    GIVEN_UP,
    LEARNED,
    OF_WAITING,
    STEPS,
    WAITING,
    Learned,
    Tracked,
    Tracker,
)
from keepdrop.calibration.record import Calibration, Values
from keepdrop.errors import InputError

from .rows import Arrays, Places, RowStore

Floats = NDArray[np.float64]
# Answers that are noted at once, at most, and the numbers of one above which it is noted alone: samples are held.
MOST_GIVEN = 48
MOST_NUMBERS = 64


class Snapshot:
    """What some rows had learned when they answered, taken when it is asked for or is about to change."""

    __slots__ = ("__weakref__", "_lock", "_take", "_taken")

    def __init__(self, lock: threading.Lock, take: Callable[[], Tracked]) -> None:
        self._lock = lock
        self._take: Optional[Callable[[], Tracked]] = take
        self._taken: Optional[Tracked] = None

    def __call__(self) -> Tracked:
        """What they had learned."""
        with self._lock:
            return self.taken()

    def taken(self) -> Tracked:
        """The same, for who holds the stream's lock."""
        if self._take is not None:
            self._taken, self._take = self._take(), None
        assert self._taken is not None
        return self._taken

    def __reduce__(self) -> Any:
        """Pickled as what gives what it holds."""
        return getattr, (self(), Tracked.itself.__name__)


class _Given(NamedTuple):
    """Answers that were given and are not noted yet."""

    places: Places
    steps: NDArray[np.int64]  # [B]
    predictions: Mapping[str, Prediction]  # by output


class Learning:
    """Of the outputs whose answers are numbers, each by its name; the arrays are a `RowStore`'s.

    Answers are noted several at once, when what is known of them is next needed: a push then costs little more than it
    does without. `settle` notes what is left, and is called before rows come, go or are saved.

    Parameters
    ----------
    calibration
        What calibrated the artifact.
    outputs
        Those that answer a push once: not those that answer each of its steps.
    ahead
        How many steps after its answer a truth may come: of a row so many answers wait, and WAITING at least.
    """

    def __init__(self, calibration: Calibration, outputs: Sequence[str], ahead: int = 0) -> None:
        self.waiting = max(WAITING, ahead + 1)
        self._numbers = sum(math.prod(values.shape) for values in calibration.values if values.output in outputs)
        self._given: list[_Given] = []
        self._snapshots: list[weakref.ref[Snapshot]] = []
        self.calibration = calibration
        self._of = {v.output: v for v in calibration.values if v.output in outputs}
        self._trackers = {name: _tracker(values, self.waiting) for name, values in self._of.items()}
        self._entries = {
            name: [(array, _entry(name, array)) for array in tracker.shapes()]
            for name, tracker in self._trackers.items()
        }
        self.digest = _digest(self._trackers.values())

    @property
    def outputs(self) -> list[str]:
        """Those that learn."""
        return list(self._trackers)

    def elements(self, output: str) -> int:
        """How many numbers an answer has."""
        return self._trackers[self.checked(output)].elements

    @property
    def bytes_a_row(self) -> int:
        """What a row carries."""
        return sum(tracker.bytes_a_row() for tracker in self._trackers.values())

    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape without the axis of rows, and dtype, of each array by its name."""
        return {
            _entry(output, name): described
            for output, tracker in self._trackers.items()
            for name, described in tracker.shapes().items()
        }

    def stored_shapes(self) -> dict[str, tuple[tuple[Optional[int], ...], str]]:
        """The same of a file, in which any number of answers may wait: None."""
        return {
            _entry(output, name): ((None, *shape[1:]) if name in OF_WAITING else shape, dtype)
            for output, tracker in self._trackers.items()
            for name, (shape, dtype) in tracker.shapes().items()
        }

    def begun(self, rows: int) -> dict[str, NDArray[Any]]:
        """The arrays of so many rows that have learned nothing yet."""
        found: dict[str, NDArray[Any]] = {}
        for output, tracker in self._trackers.items():
            arrays = tracker.empty(rows)
            for place in range(rows):
                tracker.start(arrays, place)
            found.update({_entry(output, name): array for name, array in arrays.items()})
        return found

    def adopted(self, arrays: Arrays) -> Optional[dict[str, NDArray[Any]]]:
        """Arrays of `stored_shapes` that come from a file, as those of some rows; None where they cannot be that.

        As many answers wait from now on as there, if these are more.
        """
        parts = {
            o: {name: arrays[_entry(o, name)] for name in tracker.shapes()} for o, tracker in self._trackers.items()
        }
        if not all(self._trackers[output].fits(part) for output, part in parts.items()):
            return None
        self.waiting = max([self.waiting, *(part[STEPS].shape[1] for part in parts.values())])
        self._trackers = {name: each._replace(waiting=self.waiting) for name, each in self._trackers.items()}
        found: dict[str, NDArray[Any]] = {}
        for output, part in parts.items():
            roomy = self._trackers[output].with_room(part)
            found.update({_entry(output, name): array for name, array in roomy.items()})
        return found

    def start(self, rows: RowStore, place: int) -> None:
        """A row that is new."""
        for output, tracker in self._trackers.items():
            tracker.start(self._arrays(rows, output), place)

    def forget(self, rows: RowStore, places: Sequence[int]) -> None:
        """Rows whose steps begin anew: no answer waits, what they learned stays."""
        for output, tracker in self._trackers.items():
            for place in places:
                tracker.forget(self._arrays(rows, output), place)

    def snapshot(self, output: str, rows: RowStore, where: Places, lock: threading.Lock) -> Optional[Snapshot]:
        """What these rows have learned by now; None of an output that learns nothing."""
        if output not in self._trackers:
            return None
        found = Snapshot(lock, lambda: self._tracked(output, rows, where))
        if len(self._snapshots) >= 2 * MOST_GIVEN:
            self._snapshots = [each for each in self._snapshots if each() is not None]
        self._snapshots.append(weakref.ref(found))
        return found

    def give(
        self, rows: RowStore, where: Places, steps: NDArray[np.int64], predictions: Mapping[str, Prediction]
    ) -> None:
        """Answers that rows gave at these steps, to be noted; those that are no numbers have no truth."""
        self._given.append(_Given(where, steps, predictions))
        if len(self._given) >= MOST_GIVEN or len(steps) * self._numbers > MOST_NUMBERS:
            self._note(rows)

    def settle(self, rows: RowStore) -> None:
        """Note every answer, and let those that were given keep what they rest on: what rows know may change then."""
        self._note(rows)
        for reference in self._snapshots:
            snapshot = reference()
            if snapshot is not None:
                snapshot.taken()
        self._snapshots.clear()

    def _note(self, rows: RowStore) -> None:
        given, self._given = self._given, []
        if not given:
            return
        places = np.concatenate([_listed(each.places) for each in given])
        steps = np.concatenate([each.steps for each in given])
        for output, tracker in self._trackers.items():
            arrays = {name: rows.whole(entry) for name, entry in self._entries[output]}
            medians, variances = _centres([each.predictions[output] for each in given], tracker.elements)
            numbers = np.isfinite(medians + variances).all(axis=1)
            if numbers.any():
                tracker.note(arrays, places[numbers], steps[numbers], medians[numbers], variances[numbers])

    def observe(self, rows: RowStore, output: str, row: int, step: int, truth: Any) -> Learned:
        """Learn the truth of an answer; InputError as `Tracker.observe` has it."""
        return self._trackers[output].observe(self._arrays(rows, output), rows.place(row), row, step, truth)

    def waits(self, rows: RowStore, output: str, row: int, step: int, element: int) -> bool:
        """Whether an answer still waits for the truth of an element."""
        return self._trackers[output].waits(self._arrays(rows, output), rows.place(row), step, element)

    def given_up(self, rows: RowStore) -> int:
        """How many answers were dropped before their truth came."""
        return int(sum(self._arrays(rows, name)[GIVEN_UP][: len(rows.ids)].sum() for name in self._trackers))

    def of_row(self, rows: RowStore, row: int) -> dict[str, NDArray[Any]]:
        """A copy of all that a row has learned, for `put_back`."""
        self.settle(rows)
        place = rows.place(row)
        return {entry: rows.whole(entry)[place].copy() for of in self._entries.values() for _, entry in of}

    def put_back(self, rows: RowStore, row: int, learned: Arrays) -> None:
        """Have a row know what it knew."""
        place = rows.place(row)
        for entry, values in learned.items():
            rows.whole(entry)[place] = values

    def coverage(self, rows: RowStore, output: str, row: int, level: float) -> tuple[float, int]:
        """The share of a row's last truths that were within their intervals of this level, and how many."""
        return self._trackers[output].coverage(self._arrays(rows, output), rows.place(row), level)

    def checked(self, output: Optional[str]) -> str:
        """The output that a truth is of; InputError where it is none, or has to be named."""
        if output is None and len(self._trackers) == 1:
            return next(iter(self._trackers))
        if not self._trackers:
            raise InputError("no output of numbers that answers a push once is calibrated: none learns from truths")
        if output not in self._trackers:
            raise InputError(
                f"a truth is of one of the outputs {self.outputs}, and this one is of {output!r}; name it by output="
            )
        return output

    def _tracked(self, output: str, rows: RowStore, where: Places) -> Tracked:
        current = rows.at(where, _entry(output, CURRENT)).copy()  # [B, E, L]
        truths = rows.at(where, _entry(output, LEARNED)).copy()  # [B, E]
        shape = (len(truths), *self._of[output].shape)
        return Tracked(current.reshape(*shape, -1), truths.reshape(shape))

    def _arrays(self, rows: RowStore, output: str) -> Arrays:
        """All that an output's tracker works on, every answer noted."""
        self.settle(rows)
        return {name: rows.whole(entry) for name, entry in self._entries[output]}


def _entry(output: str, name: str) -> str:
    return f"{output}/{name}"


def _tracker(values: Values, waiting: int) -> Tracker:
    starts = np.array([values.scores[which].knots for which in values.which])
    return Tracker(values.output, starts, np.array(values.a), np.array(values.b), waiting)


def _digest(trackers: Any) -> str:
    import hashlib  # brings OpenSSL, which few calls need

    found = hashlib.sha256()
    for tracker in trackers:
        found.update(repr((tracker.name, tracker.starts.tolist(), tracker.a.tolist(), tracker.b.tolist())).encode())
    return found.hexdigest()


def _listed(where: Places) -> NDArray[np.int64]:
    return np.arange(where.start, where.stop) if isinstance(where, slice) else where


def _centres(predictions: Sequence[Prediction], elements: int) -> tuple[Floats, Floats]:
    """Of several answers' samples the medians and the variances, [rows of all, elements]."""
    flat = [p.samples.reshape(len(p.samples), -1) for p in predictions if p.samples is not None]  # [T, B E]
    if len(flat) == len(predictions) and predictions[0].head.kind == VALUE:
        side_by_side = flat[0] if len(flat) == 1 else np.concatenate(flat, axis=1)
        return median(side_by_side).reshape(-1, elements), _variance(side_by_side).reshape(-1, elements)
    found = [centre_and_variance(prediction) for prediction in predictions]
    medians, variances = (np.concatenate([part.reshape(-1, elements) for part in parts]) for parts in zip(*found))
    return medians, variances


def _variance(samples: NDArray[Any]) -> Floats:
    """Of [T, N] over T with the divisor n - 1; 0 for a single sample, NaN where one is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.asarray(np.var(samples, axis=0, dtype=np.float64) * (len(samples) / max(1, len(samples) - 1)))
