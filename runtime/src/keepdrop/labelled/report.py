"""Report: an evaluation as one HTML file with its pictures in it, which a device writes without matplotlib."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.files import targets

from .evaluating import CALIBRATED, RAW, ClassFigures, Evaluation, OutputEvaluation, ValueFigures
from .tables import told

SUFFIXES = (".html", ".htm")
WIDTH, HEIGHT = 860, 250
HALF = 420
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 26, 34
# The last rows that are drawn one by one, and the points of a running coverage.
LAST_ROWS, POINTS = 300, 400
NAMES = {RAW: "the samples' own", CALIBRATED: "for an observation, calibrated"}
STYLE = """
:root { color-scheme: light dark; --text: #222; --back: #fff; --grid: #ddd; --raw: #d95f02; --calibrated: #08519c; }
@media (prefers-color-scheme: dark) {
  :root { --text: #ddd; --back: #181818; --grid: #444; --raw: #fdae6b; --calibrated: #6baed6; }
}
body { font: 15px/1.45 system-ui, sans-serif; color: var(--text); background: var(--back); max-width: 900px;
       margin: 2em auto; padding: 0 1em; }
pre { font-size: 12.5px; overflow-x: auto; } svg { max-width: 100%; height: auto; }
svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
.grid { stroke: var(--grid); } .axis { stroke: var(--text); }
.raw { stroke: var(--raw); } .calibrated { stroke: var(--calibrated); } .line { fill: none; stroke-width: 1.6; }
.raw.area { fill: var(--raw); stroke: none; opacity: .3; } .calibrated.area { fill: var(--calibrated); stroke: none;
opacity: .3; } .dot { fill: var(--text); } .ideal { stroke: var(--text); stroke-dasharray: 4 4; fill: none; }
.key.raw { color: var(--raw); } .key.calibrated { color: var(--calibrated); }
"""


class Axes(NamedTuple):
    """Where numbers stand in a picture: the ranges of x and y, its size, and a title."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: int
    title: str

    def at(self, x: Any, y: Any) -> NDArray[np.float64]:
        """Points [n, 2] in the picture."""
        across, up = self.width - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        xs = LEFT + (np.asarray(x, float) - self.x[0]) / max(self.x[1] - self.x[0], 1e-300) * across
        ys = HEIGHT - BOTTOM - (np.asarray(y, float) - self.y[0]) / max(self.y[1] - self.y[0], 1e-300) * up
        return np.stack(np.broadcast_arrays(xs, ys), axis=-1)


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
    parts.append(f"<h2>Figures</h2><pre>{html.escape(told(of))}</pre>")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    with targets.replacing(target) as file:
        file.write(page.encode())


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
        (0, max(1, len(y) - 1)), _range(every), WIDTH, f"{level:.0%} intervals, {NAMES[way]}: the last {len(y)} rows"
    )
    first, end = _ends(shown["times"], last)
    return _svg(
        axes,
        [
            _area(axes, x, low, high, way),
            _line(axes, x, centre, f"{way} line"),
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
    parts = [_ideal(axes, [0, n], [level, level])]
    for way, of_way in inside.items():
        known = np.flatnonzero(np.isfinite(of_way).any(axis=1))
        if len(known) < window:
            continue
        means = np.convolve(np.nanmean(of_way[known], axis=1), np.ones(window) / window, "valid")
        at = known[window - 1 :]
        step = max(1, len(at) // POINTS)
        parts.append(_line(axes, at[::step], means[::step], f"{way} line"))
    first, end = _ends(shown["times"], slice(None))
    return _svg(axes, parts, first, end, percent=True)


def _levels(values: Any) -> str:
    axes = Axes((0, 1), (0, 1), HALF, "coverage against level")
    parts = [_ideal(axes, [0, 1], [0, 1])]
    for way, figures in values.items():
        at: ValueFigures = figures
        levels, covered = [0.0, *(c.level for c in at.levels), 1.0], [0.0, *(c.coverage for c in at.levels), 1.0]
        parts.append(_line(axes, levels, covered, f"{way} line"))
    return _svg(axes, parts, "0 %", "level 100 %", percent=True)


def _pits(values: Any) -> str:
    most = max(max(figures.pit) for figures in values.values())
    axes = Axes((0, 1), (0, max(most, 0.2) * 1.05), HALF, "where observations fell (PIT): flat is right")
    parts = [_ideal(axes, [0, 1], [0.1, 0.1])]
    for way, figures in values.items():
        edges = np.repeat(np.linspace(0, 1, len(figures.pit) + 1), 2)[1:-1]
        parts.append(_line(axes, edges, np.repeat(figures.pit, 2), f"{way} line"))
    return _svg(axes, parts, "below", "above", percent=True)


def _class_pictures(output: OutputEvaluation) -> list[str]:
    """Reliability: the share right against confidence, in tenths."""
    axes = Axes((0, 1), (0, 1), HALF, "share right against confidence")
    parts = [_ideal(axes, [0, 1], [0, 1])]
    labels = output.shown["labels"]
    figures: dict[str, ClassFigures] = dict(output.classes)
    for way in figures:
        p = output.shown[way]
        confidence, right = p.max(axis=-1), p.argmax(axis=-1) == labels
        bins = np.minimum((confidence * 10).astype(int), 9)
        known = [b for b in range(10) if (bins == b).any()]
        points = [(confidence[bins == b].mean(), right[bins == b].mean()) for b in known]
        parts.append(_line(axes, [x for x, _ in points], [y for _, y in points], f"{way} line"))
    keys = " ".join(f'<span class="key {way}">&#9632; {way}</span>' for way in figures)
    return [f"<p>{keys}</p>", _svg(axes, parts, "0 %", "confidence 100 %", percent=True)]


def _range(values: NDArray[Any]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


def _line(axes: Axes, x: Any, y: Any, name: str) -> str:
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in axes.at(x, y) if math.isfinite(py))
    return f'<polyline class="{name}" points="{points}"/>'


def _ideal(axes: Axes, x: Any, y: Any) -> str:
    return _line(axes, x, y, "ideal")


def _area(axes: Axes, x: Any, low: NDArray[Any], high: NDArray[Any], way: str) -> str:
    known = np.isfinite(low) & np.isfinite(high)
    there, back = axes.at(x[known], high[known]), axes.at(x[known], low[known])[::-1]
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in np.concatenate([there, back]))
    return f'<polygon class="{way} area" points="{points}"/>'


def _svg(axes: Axes, parts: Sequence[str], first: str, end: str, percent: bool = False) -> str:
    right, floor = axes.width - RIGHT, HEIGHT - BOTTOM
    lines = []
    for tick in _ticks(*axes.y):
        y = float(axes.at(axes.x[0], tick)[1])
        label = f"{100 * tick:.0f} %" if percent else f"{tick:.6g}"
        lines.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    return (
        f'<svg viewBox="0 0 {axes.width} {HEIGHT}" width="{axes.width}" role="img" '
        f'aria-label="{html.escape(axes.title)}">'
        f'<text x="{LEFT}" y="16">{html.escape(axes.title)}</text>{"".join(lines)}{"".join(parts)}'
        f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{floor}" y2="{floor}"/>'
        f'<text x="{LEFT}" y="{HEIGHT - 12}">{html.escape(first)}</text>'
        f'<text x="{right}" y="{HEIGHT - 12}" text-anchor="end">{html.escape(end)}</text></svg>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Four to eight round numbers."""
    step = 10 ** math.floor(math.log10(max(high - low, 1e-300) / 4))
    step = next(step * k for k in (1, 2, 5, 10) if (high - low) / (step * k) <= 8)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]
