"""Calibrating an artifact: its answers to labelled rows become the record that it keeps."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepdrop.answer.observation import centre_and_variance
from keepdrop.artifact.metadata import SIGMOID, SOFTMAX, Head
from keepdrop.calibration import classes
from keepdrop.calibration.conformal import LEVEL, SIGNED, Floats, chosen, least_rows, path_knots, score_quantiles
from keepdrop.calibration.metrics import effective_rows
from keepdrop.calibration.record import Calibration, Classes, Scores, Values
from keepdrop.errors import InputError
from keepdrop.run.request import integer

from .rows import SAMPLES, Labelled, Progress, answer_shape, fitted_targets, labelled, predictions

if TYPE_CHECKING:
    from keepdrop.model import Model


def calibrate(
    model: Model[Any, Any],
    x: Any,
    y: Any,
    *,
    samples: Optional[int] = None,
    seed: int = 0,
    rows: Optional[ArrayLike] = None,
    times: Optional[ArrayLike] = None,
    series: Optional[ArrayLike] = None,
    trained_until: Optional[Union[str, np.datetime64]] = None,
    level: float = LEVEL,
    pool: bool = True,
    source: Optional[str] = None,
    progress: Optional[Progress] = None,
) -> Model[Any, Any]:
    """The model with ``Prediction.observation``: where observations fall, as these labelled rows show it.

    The rows must be none that the model was trained on, and best those that came after: in the order of time, or with
    `times`. :meth:`Model.to_bytes` gives the calibrated artifact's file.

    Parameters
    ----------
    model
        What `keepdrop.load` gave; what calibrated it before is left out.
    x, y
        Inputs as :meth:`Model.predict` takes them, and what was observed for them: an array [rows, ...] as the output's
        answers, or a dict by output; NaN where it is not known. Classes are numbers from 0, or one-hot.
    samples, seed, rows
        As in :meth:`Model.predict` (default: 200 samples, or what the artifact says if more).
    times
        Of each row, numpy datetimes or ISO 8601 text; else the rows are in the order of time.
    series
        Which series each row is of, where there are several; their scores are pooled.
    trained_until
        The last time that the model was trained on: rows up to it are refused. Needs `times`.
    level
        The largest level that intervals will be asked for, as far as the number of rows is checked for it.
    pool
        The first axis of a row's answer is a horizon: its steps share their scores. False: each element has its own.
    source
        Where the rows are from, for `inspect`.
    progress
        Called with the number of samples x rows that were just finished.

    Raises
    ------
    InputError
        Too few rows for the level; an error of the median above the spread of the targets; rows that the model was
        trained on; arguments that do not fit. The text has the arithmetic.
    """
    record = measured(
        model.with_calibration(None),
        labelled(model, x, y, rows, times, series),
        samples=max(SAMPLES, model.metadata.default_samples)
        if samples is None
        else integer("samples", samples, least=2),
        seed=seed,
        trained_until=trained_until,
        level=level,
        pool=pool,
        source=source,
        progress=progress,
    )
    for text in record.warnings():
        warnings.warn(text, stacklevel=2)
    return model.with_calibration(record)


def measured(
    model: Model[Any, Any],
    of: Labelled,
    *,
    samples: int,
    seed: int,
    trained_until: Optional[Union[str, np.datetime64]] = None,
    level: float = LEVEL,
    pool: bool = True,
    source: Optional[str] = None,
    progress: Optional[Progress] = None,
) -> Calibration:
    """The record of what labelled rows say; errors as :func:`calibrate`."""
    from keepdrop import __version__

    check_untrained(of.times, trained_until)
    centres, variances = _answers(model, of, samples, seed, progress)
    heads = {head.output: head for head in model.heads}
    values, of_classes = [], []
    for name, targets in of.targets.items():
        answers, head = centres[name], heads[name]
        wanted = fitted_targets(head, targets, answers.shape[1:])
        if head.kind in (SOFTMAX, SIGMOID):
            of_classes.append(_fitted_classes(head, answers[of.order], wanted[of.order], of.series[of.order], level))
        else:
            values.append(_fitted_values(head, answers, variances[name], wanted, of, level, pool))
    known = [np.isfinite(t).reshape(len(of), -1).any(axis=1) for t in of.targets.values()]
    return Calibration(
        samples=samples,
        seed=seed,
        rows=int(np.any(known, axis=0).sum()),
        values=tuple(values),
        classes=tuple(of_classes),
        first=None if of.times is None else _text(of.times.min()),
        last=None if of.times is None else _text(of.times.max()),
        source=source,
        series=int(of.series.max()) + 1 if of.series.any() else None,
        keepdrop_version=__version__,
    )


def check_untrained(
    times: Optional[NDArray[np.datetime64]], trained_until: Optional[Union[str, np.datetime64]]
) -> None:
    """InputError where rows are known to be among those that the model was trained on."""
    if trained_until is None:
        return
    if times is None:
        raise InputError("trained_until needs the times of the rows; give times=, or a table with a column of times")
    try:
        until: np.datetime64 = np.asarray(trained_until, "datetime64[ms]").reshape(1)[0]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"trained_until is {trained_until!r} ({error}); give a time such as 2012-03-01T00:00"
        ) from None
    early = int((times <= until).sum())
    if early:
        raise InputError(
            f"{early:,} of {len(times):,} rows are of times up to {_text(until)}, until which the model was trained: "
            "its errors are smaller there than on new rows, and intervals made of them too narrow; leave them out, and "
            "after them as many as a window and the steps ahead are long"
        )


def _answers(
    model: Model[Any, Any], of: Labelled, samples: int, seed: int, progress: Optional[Progress]
) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Of each output with targets: medians (of classes mean probabilities) and variances, float64 [n, ...]."""
    centres: dict[str, list[Floats]] = {name: [] for name in of.targets}
    variances: dict[str, list[Floats]] = {name: [] for name in of.targets}
    for _, found in predictions(model, of, samples, seed, progress):
        for name in of.targets:
            prediction = found[name]
            if prediction.head.kind in (SOFTMAX, SIGMOID):
                centre = variance = prediction.exact_mean
            else:
                centre, variance = centre_and_variance(prediction)
            centres[name].append(centre)
            variances[name].append(variance)
            assert centre.shape[1:] == answer_shape(prediction)
    return {n: np.concatenate(c) for n, c in centres.items()}, {n: np.concatenate(v) for n, v in variances.items()}


def _fitted_values(
    head: Head, centres: Floats, variances: Floats, targets: Floats, of: Labelled, level: float, pool: bool
) -> Values:
    shape = centres.shape[1:]
    flat = [array[of.order].reshape(len(of), -1) for array in (targets - centres, variances, targets)]
    errors, spreads, wanted = flat  # [n, E] each
    which = groups(shape, pool)
    a, b = np.empty(errors.shape[1]), np.empty(errors.shape[1])
    found = []
    for group in range(int(which.max()) + 1):
        elements = np.flatnonzero(which == group)
        where = head.output if which.max() == 0 else f"{head.output}, element {int(elements[0])}"
        of_group = errors[:, elements], spreads[:, elements]
        _check_rows(where, int(np.isfinite(of_group[0]).any(axis=1).sum()), least_rows(SIGNED, level), level)
        _check_errors(where, of_group[0], wanted[:, elements])
        scores, a[elements], b[elements] = _scores(*of_group, of.series[of.order])
        found.append(scores)
    return Values(head.output, shape, tuple(a.tolist()), tuple(b.tolist()), tuple(which.tolist()), tuple(found))


def groups(shape: tuple[int, ...], pool: bool) -> NDArray[np.int64]:
    """To which scores each element of a row belongs: one for all steps of a horizon, or one each."""
    elements = math.prod(shape)
    if not pool:
        return np.arange(elements)
    return np.arange(elements) % math.prod(shape[1:])


def _scores(errors: Floats, variances: Floats, series: NDArray[np.int64]) -> tuple[Scores, Floats, Floats]:
    fitted = chosen(errors, variances)
    scores = errors / fitted.spread.scale(variances)
    known = np.isfinite(scores).any(axis=1)
    low, high = score_quantiles([(1 - LEVEL) / 2, (1 + LEVEL) / 2], fitted.knots)
    inside = np.where(np.isfinite(scores), (low <= scores) & (scores <= high), np.nan)[known]
    complete = np.isfinite(scores).all(axis=1).sum()
    path = path_knots(scores, fitted.knots) if scores.shape[1] > 1 and complete >= least_rows(SIGNED, LEVEL) else None
    told = Scores(
        way=fitted.way,
        rows=int(known.sum()),
        effective=effective_of_series(np.nanmean(inside, axis=1), series[known]),
        forward=None if math.isnan(fitted.forward) else fitted.forward,
        knots=tuple(fitted.knots.tolist()),
        path=() if path is None else tuple(path.tolist()),
    )
    return told, fitted.spread.a, fitted.spread.b


def effective_of_series(values: Floats, series: NDArray[np.int64]) -> float:
    """The effective rows of all series, each of which has its own order."""
    return float(sum(effective_rows(values[series == which]) for which in np.unique(series)))


def _fitted_classes(head: Head, p: Floats, targets: Floats, series: NDArray[np.int64], level: float) -> Classes:
    known = np.isfinite(targets) & np.isfinite(p if head.kind == SIGMOID else p[..., 0])  # [n, ...]
    rows = int(known.reshape(len(known), -1).any(axis=1).sum())
    _check_rows(head.output, rows, classes.least_labelled(level), level)
    labels = np.where(known, targets, 0).astype(np.int64)
    if head.kind == SOFTMAX:
        given, came = p[known], labels[known]
        temperature = classes.fit_temperature(given, came)
        right = classes.tempered(given, temperature).argmax(axis=-1) == came
        sets = classes.label_knots(classes.tempered(given, temperature), came)
        effective = _effective(right, known, series)
        return Classes(head.output, SOFTMAX, p.shape[1:], rows, effective, tuple(sets.tolist()), temperature)
    flat, of_flat, known_flat = p.reshape(len(p), -1), labels.reshape(len(p), -1), known.reshape(len(p), -1)
    fitted = [classes.fit_logit(flat[k, e], of_flat[k, e]) for e, k in enumerate(known_flat.T)]
    slope, offset = np.array([s for s, _ in fitted]), np.array([o for _, o in fitted])
    moved = classes.moved(flat, slope, offset)[known_flat]
    sets = classes.label_knots(np.stack([1 - moved, moved], axis=-1), of_flat[known_flat])
    effective = _effective((moved > 0.5) == (of_flat[known_flat] == 1), known, series)
    return Classes(
        head.output,
        SIGMOID,
        p.shape[1:],
        rows,
        effective,
        tuple(sets.tolist()),
        slope=tuple(slope.tolist()),
        offset=tuple(offset.tolist()),
    )


def _effective(right: NDArray[np.bool_], known: NDArray[np.bool_], series: NDArray[np.int64]) -> float:
    """The effective rows of answers that were right or not, given one after another where `known`."""
    of_row = np.full(known.shape, np.nan)
    of_row[known] = right
    flat = of_row.reshape(len(known), -1)
    some = np.isfinite(flat).any(axis=1)
    return effective_of_series(np.nanmean(flat[some], axis=1), series[some])


def _check_rows(where: str, rows: int, least: int, level: float) -> None:
    if rows < least:
        raise InputError(
            f"{where}: {rows} labelled rows, and intervals of level {level:g} take {least} at the very least "
            f"(2 / (1 - {level:g}) - 1 for values, {level:g} / (1 - {level:g}) for classes); give more rows, best some "
            f"hundreds, or ask for a lower level"
        )


def _check_errors(where: str, errors: Floats, targets: Floats) -> None:
    """Refuse a model that is worse than a constant: its units or its target are others."""
    known = np.isfinite(errors)
    if not known.any():
        raise InputError(f"{where}: no row has both an answer and a target; check the targets")
    error = float(np.mean(np.abs(errors[known])))
    constants = np.nanmedian(np.where(known, targets, np.nan), axis=0)
    spread = float(np.mean(np.abs(targets - constants)[known]))
    if error > spread:
        middle = float(np.median(targets[known]))
        raise InputError(
            f"{where}: the median of the samples is off by {error:.4g} on average, and the targets are off their own "
            f"median ({middle:.4g}) by {spread:.4g}: the model knows less than a constant; check that targets and "
            f"answers are of one unit, of the same column, and as many steps ahead as the model forecasts"
        )


def _text(time: np.datetime64) -> str:
    return str(np.datetime_as_string(time, "s"))
