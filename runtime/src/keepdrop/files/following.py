"""Following: intervals over a file as a stream would have given them, learning from the truths known by each line.

The truth of a row stands so many lines after its last one. A row is answered with what the truths up to its own last
line have taught; nothing of what comes later is used, whatever the file holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepdrop.answer.observation import centre_and_variance
from keepdrop.answer.prediction import Prediction
from keepdrop.calibration.feedback import CURRENT, LEARNED, Arrays, Tracked, Tracker
from keepdrop.calibration.record import Calibration, Values
from keepdrop.errors import InputError


class Observed(NamedTuple):
    """What was observed line by line, [lines], NaN where not known; `run` is another where a line does not follow."""

    values: NDArray[np.float64]
    run: NDArray[np.int64]


class Following:
    """What an output's rows have learned as a file goes on; a state for each run of lines.

    Parameters
    ----------
    calibration
        What calibrated the artifact.
    output
        The output that is forecast.
    readings
        What was observed, by line.
    ahead
        How many lines after a row's last one the truth of each element is.

    Raises
    ------
    InputError
        The output is not calibrated, or has no such number of elements.
    """

    def __init__(self, calibration: Calibration, output: str, readings: Observed, ahead: Sequence[int]) -> None:
        of = calibration.of(output)
        if not isinstance(of, Values):
            raise InputError(
                f"output {output!r} learns from truths where it is calibrated and gives values, not classes"
            )
        if len(of.a) != len(ahead):
            raise InputError(f"output {output!r} has {len(of.a)} numbers a row, and ahead= names {len(ahead)}")
        self.output = output
        self._shape = of.shape
        self._readings = readings
        self._ahead = list(ahead)
        starts = np.array([of.scores[which].knots for which in of.which])
        # As many answers wait as truths are ahead, and the one in work.
        self._tracker = Tracker(output, starts, np.array(of.a), np.array(of.b), max(ahead) + 1)
        self._states: dict[int, Arrays] = {}

    def followed(self, prediction: Prediction, lines: NDArray[np.int64]) -> Prediction:
        """The prediction of rows in the order of their last lines, by position, with what each had learned by then."""
        medians, variances = centre_and_variance(prediction)
        flat = medians.reshape(len(lines), -1), variances.reshape(len(lines), -1)
        quantiles, truths = [], []
        for line, median, variance in zip(lines.tolist(), *flat):
            arrays = self._state(int(self._readings.run[line]))
            self._learn(arrays, line, [h for h in self._ahead if h > 0])
            quantiles.append(arrays[CURRENT][0].copy())
            truths.append(arrays[LEARNED][0].copy())
            if np.isfinite(median).all() and np.isfinite(variance).all():
                self._tracker.issue(arrays, 0, line, median, variance)
            self._learn(arrays, line, [h for h in self._ahead if h == 0])  # known once it was answered
        shape = (len(lines), *self._shape)
        return replace(
            prediction,
            tracked=Tracked(np.array(quantiles).reshape(*shape, -1), np.array(truths).reshape(shape)).itself,
        )

    def _state(self, run: int) -> Arrays:
        if run not in self._states:
            self._states = {run: self._tracker.empty(1)}  # runs come one after the other
            self._tracker.start(self._states[run], 0)
        return self._states[run]

    def _learn(self, arrays: Arrays, line: int, steps: Sequence[int]) -> None:
        """What stands in this line is the truth of an element of each of some rows before."""
        value = self._readings.values[line]
        if np.isnan(value):
            return
        for element, ahead in enumerate(self._ahead):
            if ahead in steps and self._tracker.waits(arrays, 0, line - ahead, element):
                truth = np.full(len(self._ahead), np.nan)
                truth[element] = value
                self._tracker.observe(arrays, 0, 0, line - ahead, truth)
