"""Tables: a tuning as text, a table for each output and a verdict."""

from __future__ import annotations

import shlex

from keepdrop.artifact.metadata import SIGMOID, SOFTMAX
from keepdrop.labelled.tables import aligned

from .judging import Figures
from .rates import Candidate, Tuning


def tuning_text(of: Tuning) -> str:
    """A table for each output, the choices that were refused, and what is best."""
    lines = [
        f"{of.rows:,} rows in the order of time, {of.splits} parts judged by those before them, {of.gap} rows left out "
        f"between; {of.samples} samples, seed {of.seed}"
    ]
    for figures in of.none.outputs:
        name = figures.output if figures.unit is None else f"{figures.output} [{figures.unit}]"
        lines += ["", f"{name}: {figures.rows:,} rows judged", *_table(of, figures.output)]
    refused = [f"{choice.name}: {choice.refused}" for choice in of.choices if choice.refused is not None]
    return "\n".join([*lines, "", *refused, verdict(of)])


def _table(of: Tuning, output: str) -> list[str]:
    judged = [choice for choice in (of.none, *of.choices) if choice.refused is None]
    classes = of_output(of.none, output).kind in (SOFTMAX, SIGMOID)
    score, width = ("log score", "labels a set") if classes else ("CRPS", "width")
    held = "90 % sets hold" if classes else f"{of.level:.0%} coverage"
    head = ("dropout", score, "against none", held, width, f"raw {score}", "raw coverage", "spread-error correlation")
    cells = [head, *(_cells(choice, of_output(choice, output)) for choice in judged)]
    return [f"  {line.rstrip()}" for line in aligned(cells)]


def _cells(choice: Candidate, figures: Figures) -> tuple[str, ...]:
    return (
        choice.name,
        f"{figures.score:.4g}",
        f"{-choice.gain:+.1%} +- {choice.error:.1%}" if choice.outputs and choice.error else "",
        _percent(figures.coverage),
        "" if figures.width is None else f"{figures.width:.4g}",
        f"{figures.raw_score:.4g}",
        _percent(figures.raw_coverage),
        "" if figures.correlation is None else f"{figures.correlation:.2f}",
    )


def verdict(of: Tuning) -> str:
    """One sentence: the best choice, and whether it is better than none."""
    best = of.best
    if best is None:
        return "no choice could be judged"
    figures = f"{best.gain:.1%} +- {best.error:.1%} smaller than without dropout"
    if best.gain <= 0:
        figures = f"{-best.gain:.1%} +- {best.error:.1%} larger than without dropout"
    loss = "log score" if best.outputs[0].kind in (SOFTMAX, SIGMOID) else "CRPS"
    if of.helps:
        return f"best: {best.name}, whose {loss} after calibration is {figures}"
    chance = f"; the best of {len(of.choices)} is better beyond chance from {of.bound:.1f} times its error on"
    return (
        f"no dropout helps here: after calibration the {loss} of {best.name}, the best, is {figures}"
        f"{chance if best.gain > 0 else ''}"
    )


def options_of(choice: Candidate) -> list[str]:
    """The options of ``keepdrop export`` that make this choice."""
    return [text for place, rate in choice.dropout.items() for text in ("--dropout", f"{place}={rate:g}")]


def command_of(model: str, choice: Candidate, others: list[str]) -> str:
    """The command line that exports it, as a shell takes it; `others` are further options."""
    return shlex.join(["keepdrop", "export", model, *options_of(choice), *others])


def of_output(choice: Candidate, output: str) -> Figures:
    """The figures of an output."""
    return next(figures for figures in choice.outputs if figures.output == output)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
