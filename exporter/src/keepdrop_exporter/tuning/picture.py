"""Picture: a tuning as an HTML page, loss, coverage and correlation against the rate, a line for each place."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from keepdrop.artifact.metadata import SIGMOID, SOFTMAX
from keepdrop.labelled.drawing import COLORS, HALF, WIDTH, Axes, ideal, line, span, svg, write_page

from .judging import Figures
from .rates import Candidate, Tuning
from .tables import of_output, tuning_text, verdict

Figure = Callable[[Figures], float | None]
Lines = dict[str, list[tuple[float, Figures]]]


def write(target: Path, of: Tuning, title: str) -> None:
    """Write the page; whole or not at all."""
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(verdict(of))}</p>"]
    for figures in of.none.outputs:
        parts += [f"<h2>{html.escape(figures.output)}</h2>", *_pictures(of, figures.output)]
    parts.append(f"<h2>Figures</h2><pre>{html.escape(tuning_text(of))}</pre>")
    write_page(target, title, parts)


def _pictures(of: Tuning, output: str) -> list[str]:
    lines = _lines(of.choices, output)
    none = of_output(of.none, output)
    loss = "log score" if none.kind in (SOFTMAX, SIGMOID) else "CRPS"
    keys = " ".join(
        f'<span><span class="swatch c{i % COLORS}"></span>{html.escape(name)}</span>' for i, name in enumerate(lines)
    )
    if not lines:
        return ["<p>No choice could be judged.</p>"]
    return [
        f"<p>{keys}</p>",
        _against_rate(
            lines, lambda f: f.score, f"{loss} after calibration, dashed: without dropout", WIDTH, [none.score]
        ),
        _against_rate(lines, lambda f: f.raw_coverage, "coverage of the samples' own intervals", HALF, [of.level])
        + _against_rate(lines, lambda f: f.correlation, "correlation of spread and error", HALF, [0.0]),
    ]


def _lines(choices: Sequence[Candidate], output: str) -> Lines:
    """The rates and figures of each set of places, by their names; choices without a rate have no place on it."""
    found: Lines = {}
    for choice in choices:
        if choice.dropout and choice.refused is None:
            rate = next(iter(choice.dropout.values()))
            found.setdefault(", ".join(choice.dropout), []).append((rate, of_output(choice, output)))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in found.items()}


def _against_rate(lines: Lines, figure: Figure, title: str, width: int, wanted: Sequence[float]) -> str:
    points = {
        name: [(rate, value) for rate, of in of_name if (value := figure(of)) is not None]
        for name, of_name in lines.items()
    }
    rates = sorted({rate for of_name in lines.values() for rate, _ in of_name})
    values = [value for of_name in points.values() for _, value in of_name] + list(wanted)
    room = 0.04 * (rates[-1] - rates[0]) or 0.5 * rates[0]
    axes = Axes((rates[0] - room, rates[-1] + room), span(np.array(values)), width, title)
    parts = [ideal(axes, axes.x, [at, at]) for at in wanted if math.isfinite(at)]
    for i, of_name in enumerate(points.values()):
        xs, ys = [x for x, _ in of_name], [y for _, y in of_name]
        parts.append(line(axes, xs, ys, f"c{i % COLORS} line"))
        parts += [f'<circle class="c{i % COLORS}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in axes.at(xs, ys)]
    return svg(axes, parts, f"rate {rates[0]:g}", f"{rates[-1]:g}")
