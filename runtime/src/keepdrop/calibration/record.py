"""The record: what an artifact keeps of its calibration, one JSON object in the property ``keepdrop.calibration``.

About 4 kB for an output: its quantiles are kept as they are, in float64.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Optional, Union

import numpy as np

from keepdrop.artifact.metadata import CALIBRATION_KEY, MEAN, MEAN_LOGVAR, SIGMOID, SOFTMAX, VALUE, Tensor, decoded
from keepdrop.errors import ArtifactError

from .conformal import KNOTS, LEVEL, TAUS, TOLERANCE, Floats, Spread, most_level

FORMAT = 1
# Temperatures are found between exp(-4) and exp(4).
LEAST_TEMPERATURE = 0.01
# Below so many effective rows the coverage of 90 % intervals is off by more than 5 points too often.
FEW_ROWS = 100
# Calibrated at T samples, an answer of fewer than this share of them is wider or narrower than was measured.
LEAST_SHARE = 0.25


@dataclass(frozen=True)
class Scores:
    """The scores of elements that are pooled.

    ``way`` is "signed" or "symmetric"; ``knots`` are their quantiles at 0, 0.005, ... 1; ``forward`` is the coverage of
    later rows by what was fitted to earlier ones, at 0.9, None where there were too few rows. ``path`` are quantiles of
    the factor by which the 0.9 band of a horizon is widened for the whole path, empty without a horizon.
    """

    way: str
    rows: int
    effective: float
    forward: Optional[float]
    knots: tuple[float, ...]
    path: tuple[float, ...] = ()

    @property
    def most_level(self) -> float:
        """The largest level that so many rows bear."""
        return most_level(self.way, self.rows)


@dataclass(frozen=True)
class Values:
    """Of an output of values: the scale ``sqrt(a v + b)`` of each element of a row, and to which scores it belongs."""

    output: str
    shape: tuple[int, ...]
    a: tuple[float, ...]
    b: tuple[float, ...]
    which: tuple[int, ...]
    scores: tuple[Scores, ...]

    @cached_property
    def spread(self) -> Spread:
        """How samples become the scale, arrays of `shape`."""
        return Spread(np.reshape(self.a, self.shape), np.reshape(self.b, self.shape))

    @cached_property
    def knots(self) -> Floats:
        """The quantiles of each element's scores, [..., 201]."""
        which = np.array(self.which).reshape(self.shape)
        return np.asarray(np.array([scores.knots for scores in self.scores])[which])

    @cached_property
    def most_level(self) -> float:
        """The largest level that the rows of all scores bear."""
        return min(scores.most_level for scores in self.scores)

    def is_of(self, kind: str) -> bool:
        """Whether it is of an output with such a head."""
        return kind in (VALUE, MEAN, MEAN_LOGVAR)


@dataclass(frozen=True)
class Classes:
    """Of an output of class probabilities.

    softmax: ``softmax(ln(p) / temperature)``, `slope` and `offset` empty. sigmoid: ``sigmoid(slope logit(p) + offset)``
    of each element. ``sets`` are the quantiles of 1 - p of the class that came, at 0, 0.005, ... 1.
    """

    output: str
    kind: str
    shape: tuple[int, ...]
    rows: int
    effective: float
    sets: tuple[float, ...]
    temperature: Optional[float] = None
    slope: tuple[float, ...] = ()
    offset: tuple[float, ...] = ()

    def is_of(self, kind: str) -> bool:
        """Whether it is of an output with such a head."""
        return kind == self.kind


OfOutput = Union[Values, Classes]


@dataclass(frozen=True)
class Calibration:
    """What calibrated an artifact: the numbers of each output, and what they were measured on.

    ``first`` and ``last`` are the times of the rows where they have any, ``source`` the name of the file.
    """

    samples: int
    seed: int
    rows: int
    values: tuple[Values, ...] = ()
    classes: tuple[Classes, ...] = ()
    first: Optional[str] = None
    last: Optional[str] = None
    source: Optional[str] = None
    series: Optional[int] = None
    keepdrop_version: str = ""
    format: int = FORMAT

    @property
    def outputs(self) -> tuple[OfOutput, ...]:
        """Those of values, then those of classes."""
        return (*self.values, *self.classes)

    def of(self, output: str) -> Optional[OfOutput]:
        """That of an output; None where it is not calibrated."""
        return next((each for each in self.outputs if each.output == output), None)

    def to_json(self) -> str:
        """This record as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str, outputs: Sequence[Tensor]) -> Calibration:
        """Read the property of an artifact with these outputs.

        Raises
        ------
        ArtifactError
            It is no such object, of another format, or does not go with the outputs.
        """
        try:
            fields = json.loads(text)
            found = fields["format"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ArtifactError(f"its {CALIBRATION_KEY!r} is no such record ({error!r}); {_CURE}") from error
        if found != FORMAT or type(found) is not int:
            raise ArtifactError(f"its {CALIBRATION_KEY!r} has the format {found!r}, this keepdrop {FORMAT}; {_CURE}")
        record: Calibration = decoded(cls, fields, "", CALIBRATION_KEY)
        names = {tensor.name for tensor in outputs}
        unknown = [each.output for each in record.outputs if each.output not in names]
        if unknown or not all(_fits(each) for each in record.outputs) or min(record.samples, record.rows) < 1:
            what = f"names outputs {unknown} that it does not have" if unknown else "contradicts itself"
            raise ArtifactError(f"its {CALIBRATION_KEY!r} {what}; {_CURE}")
        return record

    def words(self, output: str) -> str:
        """What an interval rests on: "calibrated on 1,240 rows (about 310 effective) of 2012-03-01 to 2012-06-30"."""
        return self._words[output]

    @cached_property
    def _words(self) -> dict[str, str]:
        return {of.output: self._basis(of) for of in self.outputs}

    def _basis(self, of: OfOutput) -> str:
        effective = min((s.effective for s in of.scores), default=0.0) if isinstance(of, Values) else 0.0
        effective = of.effective if isinstance(of, Classes) else effective
        when = f" of {_day(self.first)} to {_day(self.last)}" if self.first and self.last else ""
        return f"calibrated on {self.rows:,} rows (about {effective:,.0f} effective){when}"

    def warnings(self) -> list[str]:
        """What to know before trusting it, a sentence each."""
        told = []
        for values in self.values:
            for scores in values.scores:
                told += _scores_warnings(values.output, scores)
        for classes in self.classes:
            if classes.effective < FEW_ROWS:
                told.append(few_rows(classes.output, classes.rows, classes.effective))
        return told


_CURE = "calibrate the artifact again with this keepdrop"


def few_rows(output: str, rows: int, effective: float) -> str:
    """The warning of too few effective rows, with what they are good for."""
    return (
        f"{output}: {rows:,} rows that follow one another are worth about {effective:.0f} independent ones, and fewer "
        f"than {FEW_ROWS} leave the coverage of a 90 % interval uncertain by 5 points and more; add rows of other times"
    )


def _scores_warnings(output: str, scores: Scores) -> list[str]:
    told = [few_rows(output, scores.rows, scores.effective)] if scores.effective < FEW_ROWS else []
    if scores.forward is not None and scores.forward < LEVEL - TOLERANCE:
        told.append(
            f"{output}: fitted to earlier rows, 90 % intervals held {scores.forward:.0%} of the later ones: errors "
            "change over time; calibrate on more and more recent rows, or let `keepdrop stream` learn from truths"
        )
    return told


def _fits(of: OfOutput) -> bool:
    """Whether its numbers belong together."""
    elements = math.prod(of.shape)
    if min(of.shape, default=1) < 1:
        return False
    if isinstance(of, Classes):
        if not _rising(of.sets) or of.kind not in (SOFTMAX, SIGMOID) or of.rows < 1:
            return False
        if of.kind == SOFTMAX:
            return of.temperature is not None and LEAST_TEMPERATURE < of.temperature < 1 / LEAST_TEMPERATURE
        return len(of.slope) == len(of.offset) == elements
    whole = len(of.a) == len(of.b) == len(of.which) == elements >= 1 and min(*of.a, *of.b) >= 0
    known = all(s.way in KNOTS and s.rows >= 1 and _rising(s.knots) for s in of.scores)
    paths = all(not s.path or _rising(s.path) for s in of.scores)
    return whole and known and paths and all(0 <= which < len(of.scores) for which in of.which)


def _rising(knots: Sequence[float]) -> bool:
    return len(knots) == len(TAUS) and all(low <= high for low, high in zip(knots, knots[1:]))


def _day(time: str) -> str:
    return time.split("T")[0]
