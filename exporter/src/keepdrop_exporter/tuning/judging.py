"""Judging: how good one model's calibrated answers are on rows that came after those that calibrated them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepdrop import Model
from keepdrop.errors import InputError
from keepdrop.labelled.calibrating import measured
from keepdrop.labelled.evaluating import CALIBRATED, RAW, OutputEvaluation, evaluated
from keepdrop.labelled.rows import Labelled

Positions = NDArray[np.int64]


class Split(NamedTuple):
    """Positions of rows: those that calibrate, and the later ones that are judged."""

    early: Positions
    late: Positions


class JudgingOptions(NamedTuple):
    """How every model is judged."""

    samples: int
    seed: int
    level: float
    pool: bool


@dataclass(frozen=True)
class Figures:
    """How good the answers of one output are on the judged rows of all splits.

    ``score`` is the CRPS after calibration, in the output's unit, or of classes the log score in nats; ``raw_score``
    that of the samples as they are. ``coverage`` and ``width`` are of the calibrated intervals of the level (of
    classes the share of label sets that hold, and their size), ``raw_coverage`` is of the samples' own.
    ``correlation`` is Spearman's, of spread and size of error. None is what there is not, or what varies nowhere.
    """

    output: str
    kind: str
    rows: int
    score: float
    raw_score: float
    coverage: float | None
    raw_coverage: float | None
    width: float | None
    correlation: float | None
    unit: str | None = None


@dataclass(frozen=True, eq=False)
class Judged:
    """The figures of each output, and the losses of the judged rows, [n] by output, NaN where there is no target."""

    outputs: tuple[Figures, ...]
    losses: dict[str, NDArray[np.float64]]


def time_splits(of: Labelled, splits: int, gap: int) -> list[Split]:
    """The rows in the order of time, cut into splits + 1 parts: each but the first is judged by those before it.

    `gap` rows of each series are left out before a part, since windows and steps ahead overlap.

    Raises
    ------
    InputError
        There are too few rows; the text has the arithmetic.
    """
    series = len(np.unique(of.series))
    edges = np.linspace(0, len(of), splits + 1 + 1).astype(int)
    found = [
        Split(np.sort(of.order[:start]), np.sort(of.order[start + gap * series : stop]))
        for start, stop in zip(edges[1:-1], edges[2:], strict=True)
    ]
    if any(not len(split.late) for split in found):
        left_out = f"{gap} rows" if series == 1 else f"{gap} rows of each of {series} series"
        raise InputError(
            f"{len(of):,} labelled rows make {splits + 1} parts of {len(of) // (splits + 1)}, and {left_out} are left "
            "out between them, which overlap: nothing is left to judge; give more rows, or fewer splits="
        )
    return found


def judged(
    model: Model[Any, Any],
    of: Labelled,
    splits: Sequence[Split],
    asked: JudgingOptions,
    progress: Callable[[int], None] | None,
) -> Judged:
    """Calibrate on the early rows of each split and judge on its late ones.

    Raises
    ------
    InputError
        The early rows do not calibrate it: too few, or the model is worse than a constant there.
    """
    parts: dict[str, list[OutputEvaluation]] = {}
    for split in splits:
        record = measured(
            model,
            of.part(split.early),
            samples=asked.samples,
            seed=asked.seed,
            level=asked.level,
            pool=asked.pool,
            progress=progress,
        )
        calibrated = model.with_calibration(record)
        found = evaluated(calibrated, of.part(split.late), asked.samples, asked.seed, asked.level, progress)
        for output in found.outputs:
            parts.setdefault(output.output, []).append(output)
    losses = {name: np.concatenate([_losses(part, CALIBRATED) for part in of_name]) for name, of_name in parts.items()}
    return Judged(tuple(_figures(of_name, asked.level) for of_name in parts.values()), losses)


def _losses(part: OutputEvaluation, way: str) -> NDArray[np.float64]:
    """The mean loss of each row's elements, [n] in the order of time."""
    loss = part.shown[f"{way} loss"]
    flat = loss.reshape(len(loss), -1)
    known = np.isfinite(flat)
    with np.errstate(invalid="ignore"):  # rows without any target
        return np.asarray(np.where(known, flat, 0).sum(axis=1) / known.sum(axis=1))


def _figures(parts: Sequence[OutputEvaluation], level: float) -> Figures:
    weights = [part.rows for part in parts]

    def mean(values: Sequence[float | None]) -> float | None:
        """Over the splits, by their rows; None where one of them has no such figure."""
        if any(value is None or not math.isfinite(value) for value in values):
            return None
        return float(np.average(np.array(values, float), weights=weights))

    coverage, width = zip(*(_intervals(part, CALIBRATED, level) for part in parts), strict=True)
    raw_coverage, _ = zip(*(_intervals(part, RAW, level) for part in parts), strict=True)
    scores = {way: np.concatenate([_losses(part, way) for part in parts]) for way in (CALIBRATED, RAW)}
    return Figures(
        output=parts[0].output,
        kind=parts[0].kind,
        rows=sum(weights),
        score=float(np.nanmean(scores[CALIBRATED])),
        raw_score=float(np.nanmean(scores[RAW])),
        coverage=mean(coverage),
        raw_coverage=mean(raw_coverage),
        width=mean(width),
        correlation=mean([part.correlation for part in parts]),
        unit=parts[0].unit,
    )


def _intervals(part: OutputEvaluation, way: str, level: float) -> tuple[float | None, float | None]:
    """Coverage and width of the level's intervals, of classes those of label sets; None where there are none."""
    if part.classes:
        return part.classes[way].set_coverage, part.classes[way].set_size
    at = part.values[way].at(level)
    return (None, None) if at is None else (at.coverage, at.width)
