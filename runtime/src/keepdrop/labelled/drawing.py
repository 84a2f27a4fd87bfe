"""Drawing: lines and areas as SVG in an HTML page, without matplotlib, which a device has not."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from keepdrop.files import targets

WIDTH, HEIGHT = 860, 250
HALF = 420
LEFT, RIGHT, TOP, BOTTOM = 58, 12, 26, 34
# How many lines have a colour of their own, as classes c0 to c5: Okabe and Ito, Color Universal Design (2008).
COLORS = 6
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
.swatch { display: inline-block; width: 1.6em; border-top: 3px solid; vertical-align: middle; margin-right: .3em; }
.c0 { stroke: #0072b2; color: #0072b2; } .c1 { stroke: #d55e00; color: #d55e00; } .c2 { stroke: #009e73;
color: #009e73; } .c3 { stroke: #cc79a7; color: #cc79a7; } .c4 { stroke: #e69f00; color: #e69f00; }
.c5 { stroke: #56b4e9; color: #56b4e9; } circle[class^="c"] { fill: currentColor; }
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


def write_page(target: Path, title: str, parts: Sequence[str]) -> None:
    """Write an HTML page of these parts; whole or not at all."""
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    with targets.replacing(target) as file:
        file.write(page.encode())


def span(values: NDArray[Any]) -> tuple[float, float]:
    """The range of an axis that holds these numbers."""
    low, high = float(values.min()), float(values.max())
    room = 0.05 * (high - low) or 1.0
    return low - room, high + room


def line(axes: Axes, x: Any, y: Any, name: str) -> str:
    """A line through points, of the style `name`; what is not finite is passed over."""
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in axes.at(x, y) if math.isfinite(py))
    return f'<polyline class="{name}" points="{points}"/>'


def ideal(axes: Axes, x: Any, y: Any) -> str:
    """A dashed line: what would be right, or what others are held against."""
    return line(axes, x, y, "ideal")


def area(axes: Axes, x: Any, low: NDArray[Any], high: NDArray[Any], way: str) -> str:
    """What lies between two lines."""
    known = np.isfinite(low) & np.isfinite(high)
    there, back = axes.at(x[known], high[known]), axes.at(x[known], low[known])[::-1]
    points = " ".join(f"{px:.1f},{py:.1f}" for px, py in np.concatenate([there, back]))
    return f'<polygon class="{way} area" points="{points}"/>'


def svg(axes: Axes, parts: Sequence[str], first: str, end: str, percent: bool = False) -> str:
    """A picture of these parts, with a grid, a title, and what stands at both ends of the axis of x."""
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
