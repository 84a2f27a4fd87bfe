"""Report: an evaluation as one HTML file with its pictures in it, which a device writes without matplotlib."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.files import targets

from .drawing import HALF, WIDTH, Axes, area, ideal, line, span, svg, write_page
from .evaluating import CALIBRATED, RAW, ClassFigures, Evaluation, OutputEvaluation, ValueFigures
from .tables import evaluation_text

SUFFIXES = (".html", ".htm")
# The last rows that are drawn one by one, and the points of a running coverage.
LAST_ROWS, POINTS = 300, 400
NAMES = {RAW: "the samples' own", CALIBRATED: "for an observation, calibrated"}


def check_target(target: Path) -> None:
    """InputError unless `target` can become a report."""
    targets.check(target, SUFFIXES)


def write(target: Path, of: Evaluation, title: str, words: Sequence[str] = ()) -> None:
    """Write the report: `words` first, then pictures and tables of every output; whole or not at all."""
    parts = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{html.escape(text)}</p>" for text in words)]
    for output in of.outputs:
        unit = "" if output.unit is None else f", {output.unit}"
        parts.append(f"<h2>{html.escape(output.output + unit)}</h2>")
        parts += _value_pictures(output, of.level) if output.values else _class_pictures(output)
    parts.append(f"<h2>Figures</h2><pre>{html.escape(evaluation_text(of))}</pre>")
    write_page(target, title, parts)


def _value_pictures(output: OutputEvaluation, level: float) -> list[str]:
    keys = " ".join(f'<span class="key {way}">&#9632; {html.escape(NAMES[way])}</span>' for way in output.values)
    pictures = [f"<p>{keys}</p>", *(_bands(output, way, level) for way in output.values)]
    pictures.append(_running(output, level))
    pictures.append(_levels(output.values) + _pits(output.values))
    return pictures


def _bands(output: OutputEvaluation, way: str, level: float) -> str:
    """The last rows: intervals, medians and what was observed, of the first element."""
    shown = output.shown
    last = slice(max(0, len(shown["y"]) - LAST_ROWS), None)
    y, centre = shown["y"][last, 0], shown["centre"][last, 0]
    low, high = shown[f"{way} low"][last, 0], shown[f"{way} high"][last, 0]
    every = np.concatenate([shown[f"{w} {end}"][last, 0] for w in output.values for end in ("low", "high")] + [y])
    every = every[np.isfinite(every)]
    x = np.arange(len(y))
    axes = Axes(
        (0, max(1, len(y) - 1)), span(every), WIDTH, f"{level:.0%} intervals, {NAMES[way]}: the last {len(y)} rows"
    )
    first, end = _ends(shown["times"], last)
    return svg(
        axes,
        [
            area(axes, x, low, high, way),
            line(axes, x, centre, f"{way} line"),
            *(
                f'<circle class="dot" cx="{px:.1f}" cy="{py:.1f}" r="1.5"/>'
                for px, py in axes.at(x, y)
                if math.isfinite(py)
            ),
        ],
        first,
        end,
    )


def _ends(times: Optional[NDArray[np.datetime64]], part: slice) -> tuple[str, str]:
    if times is None:
        return "", "rows in the order of time"
    shown = times[part]
    return str(np.datetime_as_string(shown[0], "m")), str(np.datetime_as_string(shown[-1], "m"))


def _running(output: OutputEvaluation, level: float) -> str:
    """The coverage of the rows around each: drift and blocks that no mean shows."""
    shown = output.shown
    inside = {way: shown[f"{way} inside"] for way in output.values if f"{way} inside" in shown}
    n = len(shown["y"])
    window = max(20, n // 20)
    axes = Axes((0, n), (0, 1), WIDTH, f"running coverage of {level:.0%} intervals, {window} rows each")
    parts = [ideal(axes, [0, n], [level, level])]
    for way, of_way in inside.items():
        known = np.flatnonzero(np.isfinite(of_way).any(axis=1))
        if len(known) < window:
            continue
        means = np.convolve(np.nanmean(of_way[known], axis=1), np.ones(window) / window, "valid")
        at = known[window - 1 :]
        step = max(1, len(at) // POINTS)
        parts.append(line(axes, at[::step], means[::step], f"{way} line"))
    first, end = _ends(shown["times"], slice(None))
    return svg(axes, parts, first, end, percent=True)


def _levels(values: Any) -> str:
    axes = Axes((0, 1), (0, 1), HALF, "coverage against level")
    parts = [ideal(axes, [0, 1], [0, 1])]
    for way, figures in values.items():
        at: ValueFigures = figures
        levels, covered = [0.0, *(c.level for c in at.levels), 1.0], [0.0, *(c.coverage for c in at.levels), 1.0]
        parts.append(line(axes, levels, covered, f"{way} line"))
    return svg(axes, parts, "0 %", "level 100 %", percent=True)


def _pits(values: Any) -> str:
    most = max(max(figures.pit) for figures in values.values())
    axes = Axes((0, 1), (0, max(most, 0.2) * 1.05), HALF, "where observations fell (PIT): flat is right")
    parts = [ideal(axes, [0, 1], [0.1, 0.1])]
    for way, figures in values.items():
        edges = np.repeat(np.linspace(0, 1, len(figures.pit) + 1), 2)[1:-1]
        parts.append(line(axes, edges, np.repeat(figures.pit, 2), f"{way} line"))
    return svg(axes, parts, "below", "above", percent=True)


def _class_pictures(output: OutputEvaluation) -> list[str]:
    """Reliability: the share right against confidence, in tenths."""
    axes = Axes((0, 1), (0, 1), HALF, "share right against confidence")
    parts = [ideal(axes, [0, 1], [0, 1])]
    labels = output.shown["labels"]
    figures: dict[str, ClassFigures] = dict(output.classes)
    for way in figures:
        p = output.shown[way]
        confidence, right = p.max(axis=-1), p.argmax(axis=-1) == labels
        bins = np.minimum((confidence * 10).astype(int), 9)
        known = [b for b in range(10) if (bins == b).any()]
        points = [(confidence[bins == b].mean(), right[bins == b].mean()) for b in known]
        parts.append(line(axes, [x for x, _ in points], [y for _, y in points], f"{way} line"))
    keys = " ".join(f'<span class="key {way}">&#9632; {way}</span>' for way in figures)
    return [f"<p>{keys}</p>", svg(axes, parts, "0 %", "confidence 100 %", percent=True)]
