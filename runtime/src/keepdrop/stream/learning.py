"""Learning: what the rows of a stream learn from the truths of their answers, a tracker for each calibrated output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.answer.moments import median
from keepdrop.answer.observation import centre_and_variance
from keepdrop.answer.prediction import Prediction
from keepdrop.artifact.metadata import VALUE
from keepdrop.calibration.feedback import CURRENT, GIVEN_UP, LEARNED, Learned, Tracked, Tracker
from keepdrop.calibration.record import Calibration, Values
from keepdrop.errors import InputError

from .rows import Arrays, Places, RowStore

Floats = NDArray[np.float64]


class Centres(NamedTuple):
    """What an answer's interval is about: of each row's samples the median and the variance, [B, elements]."""

    medians: Floats
    variances: Floats


class Learning:
    """Of the outputs whose answers are numbers, each by its name; the arrays are a `RowStore`'s.

    Parameters
    ----------
    calibration
        What calibrated the artifact.
    outputs
        Those that answer a push once: not those that answer each of its steps.
    """

    def __init__(self, calibration: Calibration, outputs: Sequence[str]) -> None:
        self.calibration = calibration
        self._of = {v.output: v for v in calibration.values if v.output in outputs}
        self._trackers = {name: _tracker(values) for name, values in self._of.items()}
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

    def begun(self, rows: int) -> dict[str, NDArray[Any]]:
        """The arrays of so many rows that have learned nothing yet."""
        found: dict[str, NDArray[Any]] = {}
        for output, tracker in self._trackers.items():
            arrays = tracker.empty(rows)
            for place in range(rows):
                tracker.start(arrays, place)
            found.update({_entry(output, name): array for name, array in arrays.items()})
        return found

    def fits(self, arrays: Arrays) -> bool:
        """Whether arrays that come from a file, of the right shapes, can be those of some rows."""
        return all(
            tracker.fits({name: arrays[_entry(output, name)] for name in tracker.shapes()})
            for output, tracker in self._trackers.items()
        )

    def start(self, rows: RowStore, place: int) -> None:
        """A row that is new."""
        for output, tracker in self._trackers.items():
            tracker.start(self._arrays(rows, output), place)

    def forget(self, rows: RowStore, places: Sequence[int]) -> None:
        """Rows whose steps begin anew: no answer waits, what they learned stays."""
        for output, tracker in self._trackers.items():
            for place in places:
                tracker.forget(self._arrays(rows, output), place)

    def tracked(self, output: str, rows: RowStore, where: Places) -> Optional[Tracked]:
        """What these rows have learned by now; None of an output that learns nothing."""
        if output not in self._trackers:
            return None
        # Copies: what was issued stays what it was when the rows learn more.
        current = rows.at(where, _entry(output, CURRENT)).copy()  # [B, E, L]
        truths = rows.at(where, _entry(output, LEARNED)).copy()  # [B, E]
        shape = (len(truths), *self._of[output].shape)
        return Tracked(current.reshape(*shape, -1), truths.reshape(shape))

    def centres(self, predictions: Mapping[str, Prediction]) -> dict[str, Centres]:
        """What the answers are about, by output."""
        return {name: _centres(predictions[name]) for name in self._trackers}

    def issue(
        self, rows: RowStore, places: Sequence[int], steps: Sequence[int], centres: Mapping[str, Centres]
    ) -> None:
        """Note answers that were given, by their rows' places and steps; those that are no numbers have no truth."""
        for output, tracker in self._trackers.items():
            arrays, (medians, variances) = self._arrays(rows, output), centres[output]
            numbers = _are_numbers(medians, variances)
            for b, place in enumerate(places):
                if numbers[b]:
                    tracker.issue(arrays, place, steps[b], medians[b], variances[b])

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

    def _arrays(self, rows: RowStore, output: str) -> Arrays:
        return {name: rows.whole(entry) for name, entry in self._entries[output]}


def _entry(output: str, name: str) -> str:
    return f"{output}/{name}"


def _tracker(values: Values) -> Tracker:
    starts = np.array([values.scores[which].knots for which in values.which])
    return Tracker(values.output, starts, np.array(values.a), np.array(values.b))


def _digest(trackers: Any) -> str:
    import hashlib  # brings OpenSSL, which few calls need

    found = hashlib.sha256()
    for tracker in trackers:
        found.update(repr((tracker.name, tracker.starts.tolist(), tracker.a.tolist(), tracker.b.tolist())).encode())
    return found.hexdigest()


def _centres(prediction: Prediction) -> Centres:
    samples = prediction.samples
    if prediction.head.kind == VALUE and samples is not None:
        by_row = samples.shape[1], math.prod(samples.shape[2:])
        flat = samples.reshape(len(samples), -1)  # [T, B E]
        return Centres(median(flat).reshape(by_row), _variance(flat).reshape(by_row))
    medians, variances = centre_and_variance(prediction)
    return Centres(medians.reshape(len(medians), -1), variances.reshape(len(variances), -1))


def _are_numbers(medians: Floats, variances: Floats) -> list[bool]:
    """Of which rows both are."""
    both = medians + variances  # [B, E]
    if math.isfinite(np.add.reduce(both, axis=None)):
        return [True] * len(both)
    return [bool(np.isfinite(row).all()) for row in both]


def _variance(samples: NDArray[Any]) -> Floats:
    """Of [T, N] over T with the divisor n - 1, in a third of `numpy.var`'s time; 0 for a single sample."""
    count = len(samples)
    deviations = samples.astype(np.float64)
    ones = np.ones(count)
    deviations -= ones @ deviations / count
    deviations *= deviations
    return np.asarray(ones @ deviations / max(1, count - 1))
