"""Tables: calibrations and evaluations as text."""

from __future__ import annotations

from collections.abc import Sequence

from keepdrop.calibration.record import Calibration, Values

from .evaluating import CALIBRATED, RAW, Evaluation, OutputEvaluation

PARTS = {"spread": "spread of the samples", "time": "time", "series": "series", "step": "step of the horizon"}


def evaluation_text(of: Evaluation) -> str:
    """An evaluation as tables, the samples' own intervals beside the calibrated ones."""
    lines = [f"{of.rows:,} rows x {of.samples} samples, seed {of.seed}; {of.basis or 'not calibrated'}"]
    for output in of.outputs:
        name = output.output if output.unit is None else f"{output.output} [{output.unit}]"
        lines += ["", f"{name}: {output.rows:,} rows with a target, worth about {output.effective:,.0f}"]
        lines += _values(output, of.level) if output.values else _classes(output)
    return "\n".join(lines)


def _values(output: OutputEvaluation, level: float) -> list[str]:
    raw, calibrated = output.values[RAW], output.values.get(CALIBRATED)
    ways = [RAW, *([CALIBRATED] if calibrated else [])]
    table = [("level", *(f"{way} {what}" for way in ways for what in ("coverage", "width", "score")))]
    for at in raw.levels:
        cells = [f"{at.level:.0%}"]
        for way in ways:
            found = output.values[way].at(at.level)
            cells += (
                ["too few rows", "", ""]
                if found is None
                else [f"{found.coverage:.1%} +- {found.error:.1%}", f"{found.width:.4g}", f"{found.interval_score:.4g}"]
            )
        table.append(tuple(cells))
    lines = [f"  {line}" for line in aligned(table)]
    lines.append(f"  CRPS {_both(output, lambda way: output.values[way].crps)}; error of the median {output.error:.4g}")
    lines += [f"  PIT by tenths, {way}: {' '.join(f'{p:.2f}' for p in of.pit)}" for way, of in output.values.items()]
    if output.correlation is not None:
        lines.append(f"  rank correlation of spread and error: {output.correlation:.2f}")
    for name, parts in output.parts.items():
        rows = [(f"by {PARTS[name]}", "rows", *(f"{way} {w}" for way in ways for w in (f"{level:.0%}", "width")))]
        for part in parts:
            figures = [(f"{part.coverage[w]:.1%}", f"{part.width[w]:.4g}") for w in ways if w in part.coverage]
            rows.append((part.of, f"{part.rows:,}", *(cell for pair in figures for cell in pair)))
        lines += ["", *(f"  {line}" for line in aligned(rows))]
    return lines


def _classes(output: OutputEvaluation) -> list[str]:
    table = [("", "accuracy", "log score", "Brier", "ECE", "90 % sets hold", "labels a set")]
    for way, found in output.classes.items():
        sets = ("", "")
        if found.set_coverage is not None and found.set_error is not None and found.set_size is not None:
            sets = (f"{found.set_coverage:.1%} +- {found.set_error:.1%}", f"{found.set_size:.2f}")
        figures = (f"{found.log_score:.4g}", f"{found.brier:.4g}", f"{found.calibration_error:.3f}")
        table.append((way, f"{found.accuracy:.1%}", *figures, *sets))
    return [f"  {line}" for line in aligned(table)]


def described(record: Calibration) -> list[str]:
    """What an artifact says of its calibration, a line each."""
    lines = []
    for of in record.outputs:
        lines.append(f"{of.output}: {record.words(of.output)}")
        if isinstance(of, Values):
            for scores in of.scores:
                forward = "" if scores.forward is None else f", forward coverage {scores.forward:.1%} at 90 %"
                lines.append(
                    f"  {scores.way} scores of {scores.rows:,} rows{forward}, for levels up to {scores.most_level:.4g}"
                )
        elif of.temperature is not None:
            lines.append(f"  temperature {of.temperature:.3g}, label sets")
        else:
            lines.append(f"  slope {_span(of.slope)}, offset {_span(of.offset)} on the logit, label sets")
    source = f" from {record.source}" if record.source else ""
    series = f", {record.series} series pooled" if record.series else ""
    return [*lines, f"{record.rows:,} rows{source} x {record.samples} samples, seed {record.seed}{series}"]


def _span(numbers: Sequence[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:.3g}" if low == high else f"{low:.3g} to {high:.3g}"


def _both(output: OutputEvaluation, figure: object) -> str:
    assert callable(figure)
    return ", ".join(f"{way} {figure(way):.4g}" for way in output.values)


def aligned(lines: Sequence[tuple[str, ...]]) -> list[str]:
    """Rows of cells as text, numbers to the right of their first column."""
    widths = [max(len(line[i]) for line in lines if i < len(line)) for i in range(len(lines[0]))]
    return [
        "  ".join(c.ljust(w) if not i else c.rjust(w) for i, (c, w) in enumerate(zip(line, widths))) for line in lines
    ]
