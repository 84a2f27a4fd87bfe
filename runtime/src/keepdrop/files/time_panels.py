"""Time panels: what a picture of a declared table shows: forecasts and readings over time, a panel for each series.

A horizon is a fan from the last reading; a single step ahead is a line with its bands. What is drawn is data alone:
:mod:`keepdrop.files.plot` has the axes, and imports matplotlib.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import SIGMOID, SOFTMAX, Head
from keepdrop.table import Target

from .declared import BEFORE, READING, TIME
from .fields import REASON, Field
from .headed import Headed
from .work import Work

MOST_SERIES = 6
MOST_CLASSES = 6
MOST_POINTS = 1500
# Up to so many points are marked one by one.
MARKED = 40

# Blue and orange are told apart by every eye; shades of one go from wide to narrow.
LIGHT_THEME, DARK_THEME = "light", "dark"
READINGS = {LIGHT_THEME: "#d95f02", DARK_THEME: "#fd8d3c"}
MEAN = {LIGHT_THEME: "#08519c", DARK_THEME: "#c6dbef"}
BANDS = {
    LIGHT_THEME: (("#9ecae1",), ("#c6dbef", "#6baed6"), ("#deebf7", "#9ecae1", "#4292c6")),
    DARK_THEME: (("#2171b5",), ("#08519c", "#4292c6"), ("#08306b", "#2171b5", "#6baed6")),
}
# Okabe and Ito (2008): colours of classes, for every eye.
CLASSES = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")

Times = NDArray[np.datetime64]
Readings = Mapping[str, Mapping[str, tuple[Times, NDArray[np.float64]]]]
"""By target and series: times and values of the last readings."""


class Band(NamedTuple):
    """An interval over time."""

    label: str
    low: NDArray[Any]  # [points]
    high: NDArray[Any]  # [points]


@dataclass(frozen=True)
class TimePanel:
    """A forecast over time, with its bands, widest first, and the readings."""

    title: str
    y_label: str
    times: Times  # [points]
    mean: NDArray[Any]  # [points]
    bands: list[Band]
    readings: Optional[tuple[Times, NDArray[np.float64]]]
    zoned: bool
    theme: str = LIGHT_THEME
    wide = True
    timed = True
    height = 3.4

    def draw(self, ax: Any) -> None:
        """Onto matplotlib's axes."""
        shades = BANDS[self.theme][min(len(self.bands), 3) - 1]
        for band, shade in zip(self.bands, shades):
            ax.fill_between(self.times, band.low, band.high, color=shade, alpha=0.85, linewidth=0, label=band.label)
        few = "o" if len(self.times) <= MARKED else None
        ax.plot(
            self.times,
            self.mean,
            color=MEAN[self.theme],
            linewidth=1.8,
            marker=few,
            markersize=4,
            label="forecast (mean)",
        )
        if self.readings is not None:
            ax.plot(
                *self.readings, color=READINGS[self.theme], linewidth=1.3, linestyle=(0, (5, 1.5)), label="readings"
            )
        decorate(ax, self.title, self.y_label, self.zoned)


@dataclass(frozen=True)
class ClassesOverTime:
    """The probabilities of classes over time."""

    title: str
    times: Times  # [points]
    probabilities: list[tuple[str, NDArray[Any]]]  # [points] by label
    zoned: bool
    wide = True
    timed = True
    height = 3.4

    def draw(self, ax: Any) -> None:
        """Onto matplotlib's axes."""
        few = "o" if len(self.times) <= MARKED else None
        for (label, values), color in zip(self.probabilities, CLASSES):
            ax.plot(self.times, values, color=color, linewidth=1.6, marker=few, markersize=4, label=label)
        ax.set_ylim(0, 1)
        decorate(ax, self.title, "probability", self.zoned)


def decorate(ax: Any, title: str, y_label: str, zoned: bool) -> None:
    """Title, names of the axes and grid."""
    ax.set_title(title, loc="left")
    ax.set_ylabel(y_label)
    ax.set_xlabel("time, UTC" if zoned else "time")
    ax.margins(x=0.01)
    ax.grid(linewidth=0.6)


def time_panels(
    work: Work,
    headed: Headed,
    heads: Sequence[Head],
    bands: Mapping[str, list[Band]],
    readings: Readings,
    zoned: bool,
) -> Iterator[Any]:
    """The panels of every output; `bands` by output are [rows, ...]."""
    series = _series(work)
    for head in heads:
        if head.output not in bands:
            continue
        target = headed.target(head.output)
        mean = work.array(Field(head.output, "mean"))
        mean = mean.reshape(len(mean), -1)  # [rows, elements]
        shown = [Band(b.label, _flat(b.low), _flat(b.high)) for b in bands[head.output]]
        for name, places in list(series.items())[:MOST_SERIES]:
            title = target.name if len(series) == 1 else f"{target.name}, {name}"
            if len(series) > MOST_SERIES and name == next(iter(series)):
                title += f" (the first {MOST_SERIES} of {len(series):,} series)"
            times = work.array(Field(None, TIME))[places]
            if head.kind in (SOFTMAX, SIGMOID):
                yield _classes(title, target, times, mean[places], zoned)
                continue
            of_series = readings.get(target.target, {}).get(name)
            parts = [Band(b.label, b.low[places], b.high[places]) for b in shown]
            labels = Field(None, READING + target.target)
            own = work.array(labels)[places] if labels in work.fields else None
            if target.is_horizon:
                yield _fan(title, target, headed, times[-1], mean[places][-1], parts, of_series, zoned)
            else:
                yield _line(title, target, headed, times, mean[places][:, 0], parts, own, zoned)


def _series(work: Work) -> dict[str, NDArray[np.int64]]:
    """The rows of each series that have an answer, by its name."""
    labels = [f for f in work.fields if f.output is None and work.described(f)[0].kind == "U" and f.statistic != REASON]
    names = [work.array(field) for field in labels]
    count = work.rows
    keys = [" ".join(parts) for parts in zip(*names)] if names else [""] * count
    answered = np.ones(count, bool)
    if Field(None, REASON) in work.fields:
        answered = work.array(Field(None, REASON)) == ""
    found: dict[str, list[int]] = {}
    for place in np.flatnonzero(answered).tolist():
        found.setdefault(keys[place], []).append(place)
    return {name: np.array(places, np.int64) for name, places in found.items()}


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(len(values), -1)


def _label(target: Target) -> str:
    return target.name if target.unit is None else f"{target.name}, {target.unit}"


def _fan(
    title: str,
    target: Target,
    headed: Headed,
    origin: np.datetime64,
    mean: NDArray[Any],
    bands: list[Band],
    readings: Optional[tuple[Times, NDArray[np.float64]]],
    zoned: bool,
) -> TimePanel:
    """The newest row: from the last reading, where there is one, over the steps of the horizon."""
    steps = np.array(target.ahead)
    times = origin + steps * headed.delta
    mean, low_high = mean[: len(steps)], [(b.label, b.low[-1][: len(steps)], b.high[-1][: len(steps)]) for b in bands]
    if readings is not None:
        before = BEFORE * len(steps)
        readings = readings[0][-before:], readings[1][-before:]
        if len(readings[0]) and readings[0][-1] == origin and np.isfinite(readings[1][-1]):
            last = readings[1][-1]
            times, mean = np.concatenate([[origin], times]), np.concatenate([[last], mean])
            low_high = [(n, np.concatenate([[last], a]), np.concatenate([[last], b])) for n, a, b in low_high]
    shown = [Band(*parts) for parts in low_high]
    when = np.datetime_as_string(origin, unit="m").replace("T", " ")
    return TimePanel(f"{title}, forecast of {when}", _label(target), times, mean, shown, readings, zoned)


def _line(
    title: str,
    target: Target,
    headed: Headed,
    times: Times,
    mean: NDArray[Any],
    bands: list[Band],
    readings: Optional[NDArray[np.float64]],
    zoned: bool,
) -> TimePanel:
    average = -(-len(times) // MOST_POINTS)
    after = times if headed.delta is None else times + target.ahead[0] * headed.delta
    if average > 1:
        title += f" (a point averages {average:,} rows)"
    if target.ahead[0] and headed.delta is not None:
        title += f", {headed.ahead_text(target)} ahead"
    return TimePanel(
        title,
        _label(target),
        after[::average],
        _averaged(mean, average),
        [Band(b.label, _averaged(b.low[:, 0], average), _averaged(b.high[:, 0], average)) for b in bands],
        None if readings is None else (times[::average], _averaged(readings, average)),
        zoned,
    )


def _classes(title: str, target: Target, times: Times, mean: NDArray[Any], zoned: bool) -> ClassesOverTime:
    count = mean.shape[1]
    labels = target.labels if target.labels is not None else [f"class {k}" for k in range(count)]
    if count == 1 and len(labels) == 2:  # an event and its contrary: the probability is the event's
        labels = labels[1:]
    order = np.argsort(-mean.mean(axis=0), kind="stable")[:MOST_CLASSES]
    average = -(-len(times) // MOST_POINTS)
    shown = [(labels[k] if k < len(labels) else "", _averaged(mean[:, k], average)) for k in order]
    return ClassesOverTime(title, times[::average], shown, zoned)


def _averaged(values: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Means of so many neighbours; what is not a number is left out."""
    found = values.astype(np.float64)
    if count == 1:
        return found
    starts = np.arange(0, len(found), count)
    known = np.isfinite(found)
    sums = np.add.reduceat(np.where(known, found, 0.0), starts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums / np.add.reduceat(known.astype(np.int64), starts))
