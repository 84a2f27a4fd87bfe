"""Feedback: how the truths that come after answers move the next intervals of a stream.

Each row, such as a sensor, keeps for each element of an output its last 250 scores, begun with those of the
calibration, and one correction for each tracked level tau. A truth of score z enters the window, and

    correction += eta * unit * (tau - [z <= what was issued for that level]),    unit = IQR of the scores / 1.349

The quantile issued next is the window's at its conformal rank plus the correction. A level follows its own unsorted
value (sorted ones run away); only what is shown is sorted. The window adapts to how scores are distributed now, the
correction makes the long-run share below each level tau whatever comes: Gibbs and Candes: Adaptive Conformal Inference
Under Distribution Shift (2021); Angelopoulos, Candes, Tibshirani: Conformal PID Control for Time Series Prediction
(2023), whose quantile tracker this is.

The state is plain arrays with an axis of rows before all others, so that a stream keeps and saves it as it does its
recurrent states. Functions change them in place, at the places of the rows they are given. Everything that is compared
or shown is float32, as it is saved: a stream that is resumed goes on with the same numbers.

An answer waits for its truth among the last of its row, WAITING or more, by step. A truth may come late, out of order,
for some elements before others, or never: the oldest answers are given up then, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepdrop.errors import InputError

from .conformal import Floats, score_quantiles, upper_ranks

WINDOW = 250
ETA = 0.05
WAITING = 64
# The levels that are followed, the ends of the usual intervals (0.5 to 0.99) among them.
# Sorted without numpy.unique, which imports numpy.ma (numpy 2.4): ten milliseconds of every start.
TRACKED: Floats = np.array(sorted({*range(10, 1000, 20), 5, 25, 50, 100, 900, 950, 975, 995})) / 1000
MOST_LEVEL = 0.99
# Interquartile ranges of a standard normal.
IQR_OF_NORMAL = 1.349
# Scores enter the first window in an order in which every stretch of them is spread over all: by the golden section.
STRIDE = 153
NO_STEP = -1

_UPPER = np.clip(upper_ranks(TRACKED, WINDOW, WINDOW), 1, WINDOW) - 1
_LOWER = WINDOW - 1 - (np.clip(upper_ranks(1 - TRACKED, WINDOW, WINDOW), 1, WINDOW) - 1)
_PLACES = np.where(TRACKED < 0.5, _LOWER, _UPPER)  # of the sorted window

Arrays = Mapping[str, NDArray[Any]]

RING, NEXT, CORRECTIONS, CURRENT = "ring", "ring_next", "corrections", "current"
STEPS, MEDIANS, SCALES, ISSUED, KNOWN, TURN = "steps", "medians", "scales", "issued", "known", "turn"
PITS, LEARNED, GIVEN_UP = "pits", "learned", "given_up"
# What there is of each answer that waits.
OF_WAITING = (STEPS, MEDIANS, SCALES, ISSUED, KNOWN)


class Learned(NamedTuple):
    """What a truth was beside its answer; NaN for elements whose truth was not given.

    `score` is (y - median) / scale, and `pit` where it fell in the distribution that was issued: 0 below all tracked
    levels, 1 above. Both [E].
    """

    score: Floats
    pit: Floats

    def covered(self, level: float) -> NDArray[np.bool_]:
        """Whether each element was within the interval of this level, [E]."""
        return within(self.pit, level)


class Tracked(NamedTuple):
    """What rows have learned when they are asked: the quantiles of scores at TRACKED, and how many truths are behind.

    `quantiles` are each level's own, not sorted, [batch, ..., L]; `truths` [batch, ...].
    """

    quantiles: NDArray[np.float32]
    truths: NDArray[np.int64]

    def itself(self) -> Tracked:
        """For a prediction, which holds what gives this when it is asked for."""
        return self


class Tracker(NamedTuple):
    """How the rows of one output learn; stateless, the rows' arrays are their owner's.

    `starts` are the quantiles at the calibration's TAUS of each element's scores, [E, 201]; `a` and `b` [E] make the
    scale of a variance v, ``sqrt(a v + b)``.
    """

    name: str
    starts: Floats
    a: Floats
    b: Floats
    waiting: int = WAITING

    @property
    def elements(self) -> int:
        """How many numbers an answer has."""
        return len(self.starts)

    def shapes(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Shape without the axis of rows, and dtype, of each array of the state."""
        e, w, levels = self.elements, self.waiting, len(TRACKED)
        return {
            RING: ((e, WINDOW), "float32"),
            NEXT: ((e,), "int64"),
            CORRECTIONS: ((e, levels), "float64"),
            CURRENT: ((e, levels), "float32"),
            STEPS: ((w,), "int64"),
            MEDIANS: ((w, e), "float32"),
            SCALES: ((w, e), "float32"),
            ISSUED: ((w, e, levels), "float32"),
            KNOWN: ((w, e), "bool"),
            TURN: ((), "int64"),
            PITS: ((e, WINDOW), "float32"),
            LEARNED: ((e,), "int64"),
            GIVEN_UP: ((), "int64"),
        }

    def fits(self, arrays: Arrays) -> bool:
        """Whether arrays from elsewhere, of the right shapes but for how many answers wait, can be a state."""
        waiting = {arrays[name].shape[1] for name in OF_WAITING}
        if len(waiting) > 1 or 0 in waiting:
            return False
        counts = [arrays[name] for name in (NEXT, TURN, LEARNED, GIVEN_UP)]
        numbers = [arrays[name] for name in (RING, CORRECTIONS, CURRENT, ISSUED, MEDIANS, SCALES)]
        whole = all((array >= 0).all() for array in counts) and (arrays[NEXT] < WINDOW).all()
        return bool(whole and all(np.isfinite(array).all() for array in numbers))

    def with_room(self, arrays: Arrays) -> Arrays:
        """The state of rows of which fewer answers waited, with room for as many as wait here."""
        before = arrays[STEPS].shape[1]
        if before == self.waiting:
            return arrays
        rows = len(arrays[TURN])
        turns = arrays[TURN][:, np.newaxis] - np.arange(1, before + 1)  # [rows, before], the newest first
        found = {**arrays, **{name: array for name, array in self.empty(rows).items() if name in OF_WAITING}}
        found[STEPS][:], found[KNOWN][:] = NO_STEP, True
        row = np.arange(rows)[:, np.newaxis]
        for name in OF_WAITING:
            found[name][row, turns % self.waiting] = arrays[name][row, turns % before]
        return found

    def empty(self, rows: int) -> dict[str, NDArray[Any]]:
        """The arrays of so many rows, each still to be started."""
        return {name: np.zeros((rows, *shape), dtype) for name, (shape, dtype) in self.shapes().items()}

    def bytes_a_row(self) -> int:
        """What a row's state takes."""
        return sum(int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in self.shapes().values())

    def start(self, arrays: Arrays, place: int) -> None:
        """Begin a row with the calibration's scores, and nothing waiting."""
        spread = (np.arange(WINDOW) * STRIDE % WINDOW + 0.5) / WINDOW
        for array in arrays.values():
            array[place] = 0
        for e, knots in enumerate(self.starts):
            arrays[RING][place, e] = score_quantiles(spread, knots)
        arrays[PITS][place] = np.nan
        self.forget(arrays, place)
        arrays[CURRENT][place] = _current(arrays[RING][place], arrays[CORRECTIONS][place])

    def forget(self, arrays: Arrays, place: int) -> None:
        """Drop the answers that wait, for a row whose steps begin anew; what it has learned stays."""
        arrays[STEPS][place] = NO_STEP
        arrays[KNOWN][place] = True

    def issue(self, arrays: Arrays, place: int, step: int, median: Any, variance: Any) -> tuple[Floats, Floats]:
        """Note an answer of a row, by its step; its scale [E] and its quantiles at TRACKED, sorted, in scores [E, L].

        `median` and `variance` are those of its samples, [E].
        """
        scale = self.note(arrays, np.array([place]), np.array([step]), np.array([median]), np.array([variance]))[0]
        return scale, np.sort(arrays[CURRENT][place])

    def note(
        self, arrays: Arrays, places: NDArray[np.int64], steps: NDArray[np.int64], medians: Any, variances: Any
    ) -> Floats:
        """Note answers in their order, at most `waiting` of a row: places and steps [N], the others [N, E].

        Gives their scales, [N, E].
        """
        scales = np.broadcast_to(np.sqrt(np.maximum(self.a * variances + self.b, 1e-300)), (len(places), self.elements))
        slots = (arrays[TURN][places] + _occurrence(places)) % self.waiting
        np.add.at(arrays[TURN], places, 1)
        dropped = (arrays[STEPS][places, slots] != NO_STEP) & ~arrays[KNOWN][places, slots].all(axis=1)
        np.add.at(arrays[GIVEN_UP], places, dropped)
        arrays[STEPS][places, slots] = steps
        arrays[MEDIANS][places, slots] = medians
        arrays[SCALES][places, slots] = scales
        arrays[ISSUED][places, slots] = arrays[CURRENT][places]
        arrays[KNOWN][places, slots] = False
        return scales

    def waits(self, arrays: Arrays, place: int, step: int, element: int = 0) -> bool:
        """Whether the answer of this step still waits for the truth of that element."""
        slots = np.flatnonzero(arrays[STEPS][place] == step)
        return bool(slots.size) and not arrays[KNOWN][place, slots[-1], element]

    def observe(self, arrays: Arrays, place: int, row: int, step: int, truth: Any) -> Learned:
        """Learn from the truth of an answer, [E], NaN for elements that are not known yet.

        Raises
        ------
        InputError
            No answer of this step waits; the truth of an element came before; none is a finite number, or one is
            infinite.
        """
        values = np.asarray(truth, np.float64).reshape(-1)
        slot = self._slot(arrays, place, row, step)
        given = self._given(values, arrays[KNOWN][place, slot], row, step)
        median, scale = arrays[MEDIANS][place, slot].astype(np.float64), arrays[SCALES][place, slot].astype(np.float64)
        scores = np.where(given, (values - median) / scale, np.nan).astype(np.float32)
        pits = np.full(self.elements, np.nan)
        for e in np.flatnonzero(given):
            pits[e] = self._learn(arrays, place, int(e), scores[e], arrays[ISSUED][place, slot, e])
        arrays[KNOWN][place, slot] |= given
        return Learned(scores.astype(np.float64), pits)

    def coverage(self, arrays: Arrays, place: int, level: float) -> tuple[float, int]:
        """The share of a row's last truths (250 of each element) within their intervals of this level; how many."""
        pits = arrays[PITS][place]
        known = ~np.isnan(pits)
        count = int(known.sum())
        return (float(within(pits[known], level).mean()) if count else float("nan")), count

    def _slot(self, arrays: Arrays, place: int, row: int, step: int) -> int:
        slots = np.flatnonzero(arrays[STEPS][place] == step)
        if slots.size and step != NO_STEP:
            return int(slots[-1])
        steps = arrays[STEPS][place]
        kept = np.sort(steps[steps != NO_STEP])
        which = f"those of steps {kept[0]} to {kept[-1]} are at hand" if kept.size else "it has none yet"
        raise InputError(
            f"row {row} has no answer of step {step} that a truth of {self.name!r} could be of: {which}, the last "
            f"{self.waiting} of a row at most; give a truth once, and sooner"
        )

    def _given(self, values: Floats, known: NDArray[np.bool_], row: int, step: int) -> NDArray[np.bool_]:
        if values.shape != (self.elements,):
            raise InputError(
                f"the truth of {self.name!r} has {values.size} numbers and its answer {self.elements}; give one for "
                "each, null for those not known yet"
            )
        given = ~np.isnan(values)
        if not given.any() or np.isinf(values).any():
            raise InputError(
                f"the truth of row {row}, step {step} is {values.tolist()}; give what was observed, a finite number"
            )
        twice = np.flatnonzero(given & known)
        if twice.size:
            element = f", element {twice[0]}," if self.elements > 1 else ""
            raise InputError(f"the truth of row {row}, step {step}{element} came before; give each once")
        return given

    def _learn(self, arrays: Arrays, place: int, e: int, score: Any, issued: NDArray[np.float32]) -> float:
        ring, corrections = arrays[RING][place, e], arrays[CORRECTIONS][place, e]
        turn = int(arrays[NEXT][place, e])
        ring[turn] = score
        arrays[NEXT][place, e] = (turn + 1) % WINDOW
        corrections += ETA * self._unit(e) * (TRACKED - (score <= issued))
        arrays[CURRENT][place, e] = _current(ring, corrections)
        pit = float(np.interp(score, np.sort(issued), TRACKED, 0.0, 1.0))
        count = int(arrays[LEARNED][place, e])
        arrays[PITS][place, e, count % WINDOW] = pit
        arrays[LEARNED][place, e] = count + 1
        return pit

    def _unit(self, e: int) -> float:
        knots = self.starts[e]
        middle = len(knots) // 2
        return float(knots[middle + middle // 2] - knots[middle // 2]) / IQR_OF_NORMAL


def _occurrence(places: NDArray[np.int64]) -> NDArray[np.int64]:
    """How often each place stands before where it stands: [N]."""
    count = len(places)
    if count == 1:
        return np.zeros(1, np.int64)
    order = np.argsort(places, kind="stable")
    ordered, positions = places[order], np.arange(count)
    begins = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    found = np.empty(count, np.int64)
    found[order] = positions - np.maximum.accumulate(np.where(begins, positions, 0))
    return found


def _current(ring: NDArray[np.float32], corrections: Floats) -> Floats:
    """The quantiles to be issued, each level's own: [..., L] from scores [..., 250]."""
    return np.asarray(np.sort(ring, axis=-1)[..., _PLACES] + corrections)


def within(pits: NDArray[Any], level: float) -> NDArray[np.bool_]:
    """Whether what fell there is inside the central interval of this level; NaN is not."""
    with np.errstate(invalid="ignore"):
        # float32 has rounded them: an end belongs to its interval.
        return np.asarray(np.abs(2 * pits - 1) <= level + 1e-6)
