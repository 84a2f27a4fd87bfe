"""Plot: a job's answers as a picture, bands over time or bars over classes. The only module that imports matplotlib."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import numpy as np
from numpy.typing import NDArray

from keepdrop.artifact.metadata import LOGVAR, MEAN_LOGVAR, SOFTMAX, Head
from keepdrop.errors import InputError

from . import targets
from .fields import ROW, Field
from .headed import Headed
from .sources import POSITION
from .time_panels import BANDS, DARK_THEME, LIGHT_THEME, MEAN, Band, Readings, time_panels
from .work import Work

try:
    import matplotlib.dates
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter
except ImportError as error:
    raise InputError(
        "plot= needs matplotlib, which is not installed here; "
        "install keepdrop's extra `plot` (keepdrop[plot]), or leave it out"
    ) from error

SUFFIXES = (".png", ".svg", ".pdf")

MOST_PANELS = 6
# Rows of class probabilities that have a panel each; more are counted.
MOST_CLASS_ROWS = 8
# Classes that have a bar each in a row's panel: the likeliest.
MOST_CLASSES = 10
# Points along a line; more than that are averaged, since a picture has not many more pixels.
MOST_POINTS = 1500
# Up to so many points are marked one by one.
MARKED = 40
# Bounds of the top class' probability between the shades of the bars.
SURE, UNSURE = 0.9, 0.6

# Of the bars of classes, the surest first, and of what stands around a bar's end.
BARS = {LIGHT_THEME: ("#08519c", "#4292c6", "#c6dbef"), DARK_THEME: ("#c6dbef", "#4292c6", "#08519c")}
OTHER_BARS = {LIGHT_THEME: "#9ecae1", DARK_THEME: "#2171b5"}
AROUND = {LIGHT_THEME: "#555555", DARK_THEME: "#dddddd"}
GRID = "#dddddd"


@dataclass(frozen=True)
class _Band:
    label: str
    low: NDArray[Any]  # [points, ...]
    high: NDArray[Any]  # [points, ...]


@dataclass(frozen=True)
class _SeriesPanel:
    """A mean and the bands around it, widest first, over rows or steps."""

    title: str
    x_label: str
    x: NDArray[Any]  # [points]
    mean: NDArray[Any]  # [points]
    bands: list[_Band]
    theme: str = LIGHT_THEME
    wide = True
    height = 3.2

    def draw(self, ax: Any) -> None:
        shades = BANDS[self.theme][min(len(self.bands), 3) - 1]
        if len(self.x) == 1:
            for band, shade in zip(self.bands, shades):
                around = [self.mean - band.low, band.high - self.mean]
                ax.errorbar(self.x, self.mean, around, color=shade, linewidth=8, label=band.label)
        else:
            for band, shade in zip(self.bands, shades):
                ax.fill_between(self.x, band.low, band.high, color=shade, alpha=0.85, linewidth=0, label=band.label)
        marker = "o" if len(self.x) <= MARKED else None
        ax.plot(self.x, self.mean, color=MEAN[self.theme], linewidth=1.6, marker=marker, markersize=4, label="mean")
        ax.set_title(self.title, loc="left")
        ax.set_xlabel(self.x_label)
        if len(self.x) == 1:
            ax.set_xticks(self.x)
        else:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.margins(x=0.01)
        ax.grid(linewidth=0.6)


@dataclass(frozen=True)
class _ClassesPanel:
    """The probabilities of one row's likeliest classes."""

    title: str
    names: list[str]
    mean: NDArray[Any]  # [classes]
    band: _Band
    theme: str = LIGHT_THEME
    wide = False

    @property
    def height(self) -> float:
        return 1.2 + 0.24 * len(self.names)

    def draw(self, ax: Any) -> None:
        colors = [BARS[self.theme][0], *[OTHER_BARS[self.theme]] * (len(self.names) - 1)]
        around = np.maximum(0, [self.mean - self.band.low, self.band.high - self.mean])
        ax.barh(self.names, self.mean, color=colors, height=0.7)
        color = AROUND[self.theme]
        ax.errorbar(
            self.mean, self.names, xerr=around, fmt="none", color=color, linewidth=1.2, capsize=3, label=self.band.label
        )
        ax.invert_yaxis()
        ax.set_xlim(0, 1)
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
        ax.set_title(self.title, loc="left")
        ax.grid(axis="x", linewidth=0.6)
        ax.set_axisbelow(True)


@dataclass(frozen=True)
class _CountsPanel:
    """How many rows have each class as their likeliest, by its probability."""

    title: str
    names: list[str]
    counts: list[tuple[str, NDArray[np.int64]]]  # [classes] by label
    theme: str = LIGHT_THEME
    wide = True
    height = 3.4

    def draw(self, ax: Any) -> None:
        bottom = np.zeros(len(self.names), np.int64)
        for (label, counts), shade in zip(self.counts, BARS[self.theme]):
            ax.bar(self.names, counts, bottom=bottom, color=shade, width=0.75, label=label)
            bottom += counts
        ax.set_title(self.title, loc="left")
        ax.set_xlabel("class")
        ax.set_ylabel("rows")
        ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        if len(self.names) > 2 * MOST_CLASSES:
            ax.xaxis.set_major_locator(MaxNLocator(nbins=2 * MOST_CLASSES, integer=True))
        ax.grid(axis="y", linewidth=0.6)
        ax.set_axisbelow(True)


# Text of 11 points is 12 pixels where a picture is shown at half of its size.
STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.labelsize": 11,
    "legend.fontsize": 11,
    "svg.fonttype": "none",
}
THEMES: dict[str, dict[Any, Any]] = {
    LIGHT_THEME: {"text.color": "#333333", "axes.labelcolor": "#333333", "grid.color": GRID},
    DARK_THEME: {
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), "#dddddd"),
        **dict.fromkeys(("figure.facecolor", "savefig.facecolor", "axes.facecolor"), "#16191d"),
        "axes.edgecolor": "#888888",
        "grid.color": "#3a3f46",
    },
}


_Panel = Union[_SeriesPanel, _ClassesPanel, _CountsPanel]


def check_target(target: Path) -> None:
    """InputError unless `target` can become a picture."""
    targets.check(target, SUFFIXES)


def draw(
    target: Path,
    work: Work,
    levels: Sequence[float],
    caption: str,
    heads: Sequence[Head],
    calibrated: Collection[str] = (),
    over_time: Optional[OverTime] = None,
    theme: str = LIGHT_THEME,
) -> None:
    """Draw every output: softmax heads as bars over classes, others as bands over rows, or over steps.

    The bands are the intervals of `levels`, or two standard deviations to either side where there are none; those of
    the outputs that are `calibrated` are for an observation. With declared times, forecasts and readings are drawn over
    time. Log-variances are left out. `theme` is "light" or "dark"; text of .svg stays text.
    """
    panels: list[Any] = []
    every: dict[str, list[Band]] = {}
    for head in heads:
        if head.kind == LOGVAR:
            continue
        mean = work.array(Field(head.output, "mean"))
        bands = _bands(work, head.output, mean, levels, head.output in calibrated)
        if head.kind == MEAN_LOGVAR:
            means = slice(0, mean.shape[-1] // 2)
            mean = mean[..., means]
            bands = [_Band(band.label, band.low[..., means], band.high[..., means]) for band in bands]
        if over_time is not None:
            every[head.output] = [Band(band.label, band.low, band.high) for band in bands]
        elif head.kind == SOFTMAX and mean.ndim == 2:
            panels += _class_panels(head.output, work.array(Field(None, ROW)), mean, bands[0])
        else:
            panels += _series_panels(head.output, work, mean, bands)
    if over_time is not None:
        headed, readings, zoned = over_time
        panels += time_panels(work, headed, heads, every, readings, zoned)
    with rc_context({**STYLE, **THEMES[theme]}), targets.replacing(target) as file:
        themed = [replace(panel, theme=theme) if hasattr(panel, "theme") else panel for panel in panels]
        _figure(themed, caption).savefig(file, format=target.suffix[1:].lower())


class OverTime(NamedTuple):
    """What pictures over time need: how answers are laid out, the last readings by target, whether times are of UTC."""

    headed: Headed
    readings: Readings
    zoned: bool


def _bands(work: Work, output: str, mean: NDArray[Any], levels: Sequence[float], calibrated: bool) -> list[_Band]:
    if not levels:
        spread = 2 * work.array(Field(output, "std"))
        return [_Band("mean ± 2 standard deviations of the samples", mean - spread, mean + spread)]
    return [
        _Band(
            f"{_percent(level)} {'for an observation' if calibrated else 'of the samples'}",
            work.array(Field(output, f"low_{level}")),
            work.array(Field(output, f"high_{level}")),
        )
        for level in sorted(set(levels), reverse=True)[:3]
    ]


def _series_panels(output: str, work: Work, mean: NDArray[Any], bands: list[_Band]) -> list[_Panel]:
    if mean.ndim > 2:
        return _panels_of_steps(output, work.array(Field(None, ROW)), mean, bands)
    elements = mean.reshape(len(mean), -1).shape[1]
    x, x_label = _positions(work)
    average, breaks = -(-len(mean) // MOST_POINTS), _breaks(work)
    panels: list[_Panel] = []
    for element in range(min(elements, MOST_PANELS)):

        def points(values: NDArray[Any], element: int = element) -> NDArray[Any]:
            return _thinned(values.reshape(len(values), -1)[:, element], average, breaks)

        title = output if elements == 1 else f"{output}, element {element} of {elements}"
        if average > 1:
            title += f" (a point averages {average:,} rows)"
        shown = [_Band(band.label, points(band.low), points(band.high)) for band in bands]
        panels.append(_SeriesPanel(title, x_label, _thinned(x, average, breaks), points(mean), shown))
    return panels


def _panels_of_steps(output: str, ids: NDArray[Any], mean: NDArray[Any], bands: list[_Band]) -> list[_Panel]:
    """Over the steps of an output [rows, steps, ...]: the first rows and elements."""
    steps = np.arange(mean.shape[1])
    elements = mean.reshape(*mean.shape[:2], -1).shape[2]
    panels: list[_Panel] = []
    for row in range(len(mean)):
        for element in range(elements):
            if len(panels) == MOST_PANELS:
                return panels
            title = f"{output}, row {ids[row]}" + ("" if elements == 1 else f", element {element} of {elements}")
            if not panels and len(mean) * elements > MOST_PANELS:
                title += f" (the first {MOST_PANELS} of {len(mean) * elements:,})"

            def points(values: NDArray[Any], row: int = row, element: int = element) -> NDArray[Any]:
                return values.reshape(*values.shape[:2], -1)[row, :, element]

            shown = [_Band(band.label, points(band.low), points(band.high)) for band in bands]
            panels.append(_SeriesPanel(title, "step", steps, points(mean), shown))
    return panels


def _class_panels(output: str, ids: NDArray[Any], mean: NDArray[Any], band: _Band) -> list[_Panel]:
    top = mean.argmax(axis=1)  # [rows]
    likeliest = mean.max(axis=1)  # [rows]
    if len(mean) > MOST_CLASS_ROWS:
        shares = [
            (f"probability {_percent(SURE)} or more", likeliest >= SURE),
            (f"{_percent(UNSURE)} to {_percent(SURE)}", (likeliest >= UNSURE) & (likeliest < SURE)),
            (f"below {_percent(UNSURE)}", likeliest < UNSURE),
        ]
        counts = [(label, np.bincount(top[of], minlength=mean.shape[1])) for label, of in shares]
        title = f"{output}: how many of {len(mean):,} rows have a class as their likeliest"
        return [_CountsPanel(title, [str(k) for k in range(mean.shape[1])], counts)]
    panels: list[_Panel] = []
    for row in range(len(mean)):
        order = np.argsort(-mean[row], kind="stable")[:MOST_CLASSES]
        panels.append(
            _ClassesPanel(
                f"{output}, row {ids[row]}: class {top[row]}, {_percent(likeliest[row])}",
                [str(k) for k in order],
                mean[row, order],
                _Band(band.label, band.low[row, order], band.high[row, order]),
            )
        )
    return panels


def _percent(share: float) -> str:
    return f"{float(f'{100 * share:.3g}'):g} %"


def _positions(work: Work) -> tuple[NDArray[Any], str]:
    """Where rows stand along the axis, and what that is called."""
    if Field(None, POSITION) in work.fields:
        return work.array(Field(None, POSITION)), "position of the window's last line"
    ids = work.array(Field(None, ROW))
    if np.all(np.diff(ids) > 0):
        return ids, "row"
    return np.arange(len(ids)), "row, counted from 0"


def _breaks(work: Work) -> Optional[NDArray[np.int64]]:
    """The first windows of further series, which a line shall not join to the last one of the series before."""
    ids = work.array(Field(None, ROW))
    if Field(None, POSITION) not in work.fields or not np.any(ids[1:] == ids[:-1]):
        return None
    return np.flatnonzero(ids[1:] != ids[:-1]) + 1


def _thinned(values: NDArray[Any], average: int, breaks: Optional[NDArray[np.int64]]) -> NDArray[Any]:
    if average > 1:
        starts = np.arange(0, len(values), average)
        return np.asarray(np.add.reduceat(values.astype(np.float64), starts) / np.diff([*starts, len(values)]))
    if breaks is None:
        return values
    return np.insert(values.astype(np.float64), breaks, np.nan)


def _figure(panels: Sequence[_Panel], caption: str) -> Any:
    rows = len(panels) if any(panel.wide for panel in panels) else -(-len(panels) // 4)
    columns = -(-len(panels) // rows)
    height = max(panel.height for panel in panels)
    figure = Figure(figsize=(11, 0.9 + height * rows), dpi=150, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    legend: dict[str, Any] = {}
    for panel, ax in zip(panels, axes):
        panel.draw(ax)
        ax.spines[["top", "right"]].set_visible(False)
        if getattr(panel, "timed", False):
            dates: Any = matplotlib.dates  # which has no types (3.11)
            locator = dates.AutoDateLocator(maxticks=12)
            ax.xaxis.set_major_locator(locator)
            ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
        handles, labels = ax.get_legend_handles_labels()
        legend.update(zip(labels, handles))
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.suptitle(caption, x=0.01, ha="left", fontsize=11)
    figure.legend(list(legend.values()), list(legend), loc="outside lower center", ncols=len(legend), frameon=False)
    return figure
