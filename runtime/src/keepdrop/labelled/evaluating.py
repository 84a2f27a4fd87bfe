"""Evaluating: how good an artifact's answers are on labelled rows, the samples' own and the calibrated side by side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepdrop.answer.observation import ClassObservation, Observation, centre_and_variance
from keepdrop.artifact.metadata import MEAN_LOGVAR, SIGMOID, SOFTMAX
from keepdrop.calibration import metrics
from keepdrop.calibration.conformal import LEVEL, Floats
from keepdrop.errors import InputError
from keepdrop.run.request import integer

from .calibrating import effective_of_series
from .rows import Labelled, Progress, fitted_targets, labelled, predictions

if TYPE_CHECKING:
    from keepdrop.answer.prediction import Prediction
    from keepdrop.model import Model

LEVELS = (0.5, 0.8, 0.9, 0.95)
PIT_BINS = 10
SPREADS, TIME_BLOCKS = 5, 5
# Groups beyond this number are not listed one by one.
MOST_GROUPS = 40
RAW, CALIBRATED = "raw", "calibrated"


@dataclass(frozen=True)
class LevelFigures:
    """Of intervals of one level: the share of observations inside, its standard error, and the mean width and score.

    Width and interval score are in the output's unit.
    """

    level: float
    coverage: float
    error: float
    width: float
    interval_score: float


@dataclass(frozen=True)
class ValueFigures:
    """How good one kind of intervals is: the samples' own, or the calibrated ones.

    ``crps`` is fair, in the output's unit; ``pit`` the share of observations in each tenth of what was predicted.
    """

    levels: tuple[LevelFigures, ...]
    crps: float
    pit: tuple[float, ...]

    def at(self, level: float) -> Optional[LevelFigures]:
        """The coverage of this level, if it was taken."""
        return next((c for c in self.levels if math.isclose(c.level, level)), None)


@dataclass(frozen=True)
class ClassFigures:
    """How good probabilities are: log score in nats, Brier score from 0 to 2, expected calibration error.

    ``set_coverage`` and ``set_size`` are of the label sets of level 0.9, None for the samples' own.
    """

    accuracy: float
    log_score: float
    brier: float
    calibration_error: float
    set_coverage: Optional[float] = None
    set_error: Optional[float] = None
    set_size: Optional[float] = None


@dataclass(frozen=True)
class Part:
    """The coverage and the mean width of the main level among some of the rows, by raw and calibrated."""

    of: str
    rows: int
    coverage: Mapping[str, float]
    width: Mapping[str, float]


@dataclass(frozen=True)
class OutputEvaluation:
    """One output: figures by ``"raw"`` and, where it is calibrated, ``"calibrated"``.

    ``parts`` are by ``"spread"`` (fifths of the samples' standard deviation, narrowest first), ``"time"`` (fifths of
    the rows), ``"series"`` and ``"step"`` (of a horizon), as far as there are several. ``correlation`` is Spearman's,
    of spread and size of error: above 0 where the model knows when it is unsure. ``unit`` is that of the artifact's
    table. ``shown`` has what pictures and comparisons are made of, in the order of time: among it ``"raw loss"`` and
    ``"calibrated loss"``, the CRPS or log score of each row's elements, NaN where there is no target.
    """

    output: str
    kind: str
    rows: int
    effective: float
    error: Optional[float]
    correlation: Optional[float]
    values: Mapping[str, ValueFigures]
    classes: Mapping[str, ClassFigures]
    parts: Mapping[str, tuple[Part, ...]]
    unit: Optional[str] = None
    shown: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Evaluation:
    """How good answers are on labelled rows; ``str()`` is a table, ``to_dict()`` plain JSON."""

    rows: int
    samples: int
    seed: int
    level: float
    basis: Optional[str]
    outputs: tuple[OutputEvaluation, ...]

    def coverage(self) -> float:
        """The lowest coverage of an output's intervals, or label sets, of the main level: calibrated ones if any.

        Raises
        ------
        InputError
            There is none: class probabilities that are not calibrated have no sets.
        """
        found = []
        for output in self.outputs:
            if output.values:
                at = output.values.get(CALIBRATED, output.values[RAW]).at(self.level)
                found += [] if at is None else [at.coverage]
            elif (sets := output.classes.get(CALIBRATED)) and sets.set_coverage is not None:
                found.append(sets.set_coverage)
        if not found:
            raise InputError(
                "no coverage to judge: calibrate the artifact first, class probabilities alone have no sets"
            )
        return min(found)

    def to_dict(self) -> dict[str, Any]:
        """All figures as numbers, texts, lists and dicts; None for what is not finite."""
        plain = dataclasses.asdict(dataclasses.replace(self, outputs=tuple(_unshown(o) for o in self.outputs)))
        for output in plain["outputs"]:
            del output["shown"]
        found: dict[str, Any] = _finite(plain)
        return found

    def __str__(self) -> str:
        from .tables import evaluation_text

        return evaluation_text(self)


def evaluate(
    model: Model[Any, Any],
    x: Any,
    y: Any,
    *,
    samples: Optional[int] = None,
    seed: int = 0,
    rows: Optional[ArrayLike] = None,
    times: Optional[ArrayLike] = None,
    series: Optional[ArrayLike] = None,
    level: float = LEVEL,
    progress: Optional[Progress] = None,
) -> Evaluation:
    """How good a model's answers are on labelled rows: coverage, width, CRPS, PIT; raw beside calibrated.

    Parameters
    ----------
    model, x, y, samples, seed, rows, times, series, progress
        As in :func:`keepdrop.calibrate` (`samples` by default what the calibration had, else what the artifact says).
    level
        The level that rows are judged at part by part.

    Raises
    ------
    InputError
        Arguments do not fit.
    """
    record = model.calibration
    count = samples if samples is not None else record.samples if record else model.metadata.default_samples
    given = labelled(model, x, y, rows, times, series)
    return evaluated(model, given, integer("samples", count, least=2), seed, level, progress)


def evaluated(
    model: Model[Any, Any],
    of: Labelled,
    samples: int,
    seed: int,
    level: float = LEVEL,
    progress: Optional[Progress] = None,
) -> Evaluation:
    """The same of rows that were checked."""
    levels = tuple(sorted({*LEVELS, level}))
    taken: dict[str, list[dict[str, Any]]] = {name: [] for name in of.targets}
    for block, found in predictions(model, of, samples, seed, progress):
        for name, targets in of.targets.items():
            taken[name].append(_taken(found[name], targets[block], levels, model.calibration is not None))
    record = model.calibration
    outputs = []
    for name in of.targets:
        whole = {key: _joined([part[key] for part in taken[name]]) for key in taken[name][0]}
        kind = next(head.kind for head in model.heads if head.output == name)
        judge = _of_classes if kind in (SOFTMAX, SIGMOID) else _of_values
        outputs.append(_as_declared(judge(name, kind, whole, of, levels, level), model))
    basis = record.words(outputs[0].output) if record and outputs else None
    return Evaluation(len(of), samples, seed, level, basis, tuple(outputs))


def _as_declared(output: OutputEvaluation, model: Model[Any, Any]) -> OutputEvaluation:
    """With the unit, and the steps of a horizon as the artifact's table has them."""
    declared = None if model.table is None else model.table.outputs.get(output.output)
    if declared is None:
        return output
    parts = dict(output.parts)
    if len(parts.get("step", ())) == len(declared.ahead):
        parts["step"] = tuple(
            dataclasses.replace(part, of=str(ahead)) for part, ahead in zip(parts["step"], declared.ahead)
        )
    return dataclasses.replace(output, unit=declared.unit, parts=parts)


def _taken(prediction: Prediction, targets: Floats, levels: Sequence[float], calibrated: bool) -> dict[str, Any]:
    """What is kept of a block of rows, [rows, ...] each, without its samples."""
    calibrated = calibrated and prediction.calibration is not None
    calibrated = calibrated and prediction.calibration.of(prediction.head.output) is not None  # type: ignore[union-attr]
    kind = prediction.head.kind
    if kind in (SOFTMAX, SIGMOID):
        p = prediction.exact_mean
        y = fitted_targets(prediction.head, targets, p.shape[1:])
        return {"y": y, RAW: p, **(_class_answers(prediction.observation) if calibrated else {})}
    centre, variance = centre_and_variance(prediction)
    y = fitted_targets(prediction.head, targets, centre.shape[1:])
    assert prediction.samples is not None
    draws = prediction.samples.astype(np.float64)  # [T, rows, ...]
    if kind == MEAN_LOGVAR:
        draws = draws[..., : centre.shape[-1]]
    ends = np.quantile(draws, [end for level in levels for end in _ends(level)], axis=0)
    found = {
        "y": y,
        "centre": centre,
        "spread": np.sqrt(variance),
        f"{RAW} ends": np.moveaxis(ends, 0, -1),  # [rows, ..., 2 levels]
        f"{RAW} crps": metrics.crps_samples(draws, y),
        f"{RAW} pit": metrics.pit_samples(draws, y),
    }
    return {**found, **(_value_answers(prediction.observation, y, levels) if calibrated else {})}


def _class_answers(observation: ClassObservation) -> dict[str, Any]:
    found: dict[str, NDArray[Any]] = {CALIBRATED: np.asarray(observation.probability, np.float64)}
    if observation.calibration.rows / (observation.calibration.rows + 1) >= LEVEL:
        found["sets"] = observation.label_set(LEVEL)
    return found


def _value_answers(observation: Observation, y: Floats, levels: Sequence[float]) -> dict[str, Any]:
    exact = dataclasses.replace(observation, dtype=np.dtype(np.float64))
    ends = [exact.interval(level) if level <= exact.most else (np.nan * exact.centre,) * 2 for level in levels]
    quantiles = np.array([exact.limited(tau) for tau in metrics.MIDPOINTS])
    return {
        f"{CALIBRATED} ends": np.stack([end for pair in ends for end in pair], axis=-1),
        f"{CALIBRATED} crps": metrics.crps_quantiles(quantiles, y),
        f"{CALIBRATED} pit": exact.probability_below(y),
    }


def _of_values(
    name: str, kind: str, whole: dict[str, Any], of: Labelled, levels: Sequence[float], level: float
) -> OutputEvaluation:
    y = whole["y"][of.order].reshape(len(of), -1)  # [n, E], in the order of time
    arrays = {key: _flat(whole[key][of.order], y.shape, "ends" in key) for key in whole if key != "y"}
    series = of.series[of.order]
    known = np.isfinite(y) & np.isfinite(arrays["centre"])
    some = known.any(axis=1)
    ways = [way for way in (RAW, CALIBRATED) if f"{way} ends" in arrays]
    figures = {way: _value_figures(arrays, way, y, known, levels, series) for way in ways}
    at = list(levels).index(level)
    insides = {way: inside for way in ways if np.isfinite(inside := _inside(arrays, way, y, known, at)).any()}
    widths = {way: arrays[f"{way} ends"][..., 2 * at + 1] - arrays[f"{way} ends"][..., 2 * at] for way in insides}
    errors = np.abs(y - arrays["centre"])
    main = insides.get(CALIBRATED, insides.get(RAW))
    assert main is not None
    return OutputEvaluation(
        output=name,
        kind=kind,
        rows=int(some.sum()),
        effective=effective_of_series(np.nanmean(main[some], axis=1), series[some]),
        error=float(np.mean(errors[known])),
        correlation=metrics.rank_correlation(arrays["spread"][known], errors[known]),
        values=figures,
        classes={},
        parts=_parts(arrays["spread"], insides, widths, of, whole["y"].shape[1:]),
        shown={
            "times": None if of.times is None else of.times[of.order],
            "y": y,
            "centre": arrays["centre"],
            **{f"{way} low": arrays[f"{way} ends"][..., 2 * at] for way in ways},
            **{f"{way} high": arrays[f"{way} ends"][..., 2 * at + 1] for way in ways},
            **{f"{way} inside": insides[way] for way in ways if way in insides},
            **{f"{way} loss": np.where(known, arrays[f"{way} crps"], np.nan) for way in ways},
        },
    )


def _value_figures(
    arrays: Mapping[str, Floats],
    way: str,
    y: Floats,
    known: NDArray[np.bool_],
    levels: Sequence[float],
    series: NDArray[np.int64],
) -> ValueFigures:
    """How good one kind of intervals is, of levels that its rows bear."""
    covered = []
    for i, level in enumerate(levels):
        inside = _inside(arrays, way, y, known, i)
        if np.isfinite(inside).any():
            low, high = arrays[f"{way} ends"][..., 2 * i], arrays[f"{way} ends"][..., 2 * i + 1]
            covered.append(_coverage(level, inside, low, high, y, known, series))
    counts, _ = np.histogram(arrays[f"{way} pit"][known], PIT_BINS, (0, 1))
    crps = float(np.nanmean(arrays[f"{way} crps"][known]))
    return ValueFigures(tuple(covered), crps, tuple((counts / known.sum()).tolist()))


def _inside(
    arrays: Mapping[str, Floats], way: str, y: Floats, known: NDArray[np.bool_], number: int
) -> NDArray[np.float64]:
    """1 where an observation is within the interval of a level, by its number, 0 outside, NaN if unknown: [n, E]."""
    low, high = arrays[f"{way} ends"][..., 2 * number], arrays[f"{way} ends"][..., 2 * number + 1]
    return np.where(known & np.isfinite(low), (low <= y) & (y <= high), np.nan)


def _coverage(
    level: float, inside: Floats, low: Floats, high: Floats, y: Floats, known: NDArray[np.bool_], series: NDArray[Any]
) -> LevelFigures:
    rows = np.isfinite(inside).any(axis=1)
    effective = effective_of_series(np.nanmean(inside[rows], axis=1), series[rows])
    share = float(np.nanmean(inside))
    score = metrics.interval_score(low, high, y, level)
    return LevelFigures(
        level=level,
        coverage=share,
        error=metrics.coverage_error(share, effective),
        width=float(np.mean((high - low)[known])),
        interval_score=float(np.mean(score[known])),
    )


def _parts(
    spread: Floats, insides: Mapping[str, Floats], widths: Mapping[str, Floats], of: Labelled, shape: tuple[int, ...]
) -> dict[str, tuple[Part, ...]]:
    n, elements = spread.shape
    rank = np.argsort(np.argsort(spread, axis=0, kind="stable"), axis=0, kind="stable") * SPREADS // n
    where: dict[str, list[tuple[str, NDArray[np.bool_]]]] = {
        "spread": [(f"{i + 1} of {SPREADS}", rank == i) for i in range(SPREADS)]
    }
    blocks = np.arange(n) * TIME_BLOCKS // n
    where["time"] = [
        (_block_name(of, blocks == i, i), np.tile((blocks == i)[:, None], elements)) for i in range(TIME_BLOCKS)
    ]
    series = of.series[of.order]
    if series.any():
        where["series"] = [
            (of.names[which], np.tile((series == which)[:, None], elements)) for which in np.unique(series)
        ]
    if elements > 1:
        each = np.arange(elements) // math.prod(shape[1:])
        where["step"] = [(str(step + 1), np.tile(each == step, (n, 1))) for step in range(shape[0])]
    return {
        name: tuple(part for at, mask in of_name[:MOST_GROUPS] if (part := _part(at, mask, insides, widths)))
        for name, of_name in where.items()
    }


def _part(
    at: str, mask: NDArray[np.bool_], insides: Mapping[str, Floats], widths: Mapping[str, Floats]
) -> Optional[Part]:
    known = {way: mask & np.isfinite(inside) for way, inside in insides.items()}
    rows = min(int(k.any(axis=1).sum()) for k in known.values())
    if not rows:
        return None
    return Part(
        at,
        rows,
        {way: float(np.mean(inside[known[way]])) for way, inside in insides.items()},
        {way: float(np.mean(width[known[way]])) for way, width in widths.items()},
    )


def _block_name(of: Labelled, mask: NDArray[np.bool_], number: int) -> str:
    if of.times is None or not mask.any():
        return f"{number + 1} of {TIME_BLOCKS}"
    times = of.times[of.order][mask]
    return f"{np.datetime_as_string(times.min(), 'm')} to {np.datetime_as_string(times.max(), 'm')}"


def _of_classes(
    name: str, kind: str, whole: dict[str, Any], of: Labelled, levels: Sequence[float], level: float
) -> OutputEvaluation:
    targets = whole["y"][of.order]
    known = np.isfinite(targets)
    labels = targets[known].astype(np.int64)
    series = of.series[of.order]
    figures = {}
    losses = {}
    for way in (RAW, CALIBRATED):
        if way in whole:
            p = _two_classes(whole[way][of.order], kind)[known]
            losses[f"{way} loss"] = np.full(known.shape, np.nan)
            losses[f"{way} loss"][known] = metrics.log_score(p, labels)
            figures[way] = ClassFigures(
                accuracy=float(np.mean(p.argmax(axis=-1) == labels)),
                log_score=float(np.mean(losses[f"{way} loss"][known])),
                brier=float(np.mean(metrics.brier(p, labels))),
                calibration_error=metrics.calibration_error(p, labels),
            )
    some = known.reshape(len(known), -1).any(axis=1)

    def effective(right: NDArray[Any]) -> float:
        of_row = np.full(known.shape, np.nan)
        of_row[known] = right
        return effective_of_series(np.nanmean(of_row.reshape(len(known), -1)[some], axis=1), series[some])

    p = _two_classes(whole[RAW][of.order], kind)[known]
    if "sets" in whole:
        sets = whole["sets"][of.order][known]
        held = np.take_along_axis(sets, labels[:, np.newaxis], -1)[:, 0]
        share = float(np.mean(held))
        figures[CALIBRATED] = dataclasses.replace(
            figures[CALIBRATED],
            set_coverage=share,
            set_error=metrics.coverage_error(share, effective(held)),
            set_size=float(np.mean(sets.sum(axis=-1))),
        )
    return OutputEvaluation(
        output=name,
        kind=kind,
        rows=int(some.sum()),
        effective=effective(p.argmax(axis=-1) == labels),
        error=None,
        correlation=None,
        values={},
        classes=figures,
        parts={},
        shown={"labels": labels, **{way: _two_classes(whole[way][of.order], kind)[known] for way in figures}, **losses},
    )


def _two_classes(p: Floats, kind: str) -> Floats:
    """Of a sigmoid the contrary and the event; probabilities [..., classes]."""
    return np.stack([1 - p, p], axis=-1) if kind == SIGMOID else p


def _flat(array: NDArray[Any], shape: tuple[int, ...], ends: bool) -> NDArray[Any]:
    return array.reshape(*shape, -1) if ends else array.reshape(shape)


def _joined(parts: Sequence[Any]) -> NDArray[Any]:
    return np.concatenate(parts)


def _ends(level: float) -> tuple[float, float]:
    return (1 - level) / 2, (1 + level) / 2


def _unshown(output: OutputEvaluation) -> OutputEvaluation:
    return dataclasses.replace(output, shown={})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
