"""Scalers: what a model's numbers were scaled with, as ``scaled = (x - offset) / scale`` of each column.

A scaler is a fitted one of scikit-learn (StandardScaler, MinMaxScaler, RobustScaler, MaxAbsScaler, or a Pipeline of
them; known by their attributes, scikit-learn is not imported), a dict of numbers, or a JSON file that holds one:

    {"mean": [56.1, 0.7], "scale": [7.2, 0.1]}      also "std" or "variance" in place of "scale"
    {"min": [30, 0], "max": [100, 1]}               onto 0 ... 1, or onto "range": [-1, 1]
    {"center": [...], "scale": [...]}               RobustScaler
    {"columns": ["temp", "hum"], ...}               the columns' names, in the scaler's order
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ScalingError

_PICKLES = {".pkl": "pickle", ".pickle": "pickle", ".joblib": "joblib"}
_NUMBERS = ("mean", "center", "offset", "scale", "std", "variance", "var", "min", "max", "range", "columns")
# A Normalization layer takes the square of a scale.
_LARGEST = float(np.sqrt(np.finfo(np.float32).max))
_FORMS = '{"mean": [...], "scale": [...]} or {"min": [...], "max": [...]}'


@dataclass(frozen=True, eq=False)
class Scaler:
    """``scaled = (x - offset) / scale``: float64 [columns] each; ``names`` of the columns where they are known."""

    offset: NDArray[np.float64]
    scale: NDArray[np.float64]
    names: tuple[str, ...] | None = None

    @property
    def width(self) -> int:
        """The number of columns."""
        return len(self.scale)

    def after(self, first: Scaler) -> Scaler:
        """Both as one, ``first`` applied before this one."""
        return Scaler(first.offset + first.scale * self.offset, first.scale * self.scale, first.names)


def read_scaler(scaler: Any) -> Scaler:
    """The numbers of a scaler.

    Parameters
    ----------
    scaler
        A fitted scaler, a dict of numbers, the path of a JSON file, or a ``Scaler``.

    Raises
    ------
    ScalingError
        It is none of these, is not fitted, does more than subtract and divide, or has a scale of 0.
    """
    if isinstance(scaler, Scaler):
        return scaler
    if isinstance(scaler, str | os.PathLike):
        return _of_file(Path(scaler))
    found = _of_numbers(scaler) if isinstance(scaler, Mapping) else _of_fitted(scaler)
    return _checked(found)


def read_json(path: Path) -> Any:
    """What a JSON file of a scaler, or of scalers by name, holds.

    Raises
    ------
    ScalingError
        It is a pickle, which would run code, or no JSON.
    """
    library = _PICKLES.get(path.suffix.lower())
    if library is not None:
        read = f"joblib.load('{path}')" if library == "joblib" else f"pickle.load(open('{path}', 'rb'))"
        raise ScalingError(
            f"{path}: opening a {library} file runs what it holds, so that is left to you; write the numbers as JSON:\n"
            f'  python -c "import {library}, keepdrop_exporter; print(keepdrop_exporter.scaler_json({read}))" > '
            f"{path.with_suffix('.json')}"
        )
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ScalingError(f"{path}: cannot be read ({error.strerror}); give a JSON file: {_FORMS}") from error
    except ValueError as error:
        raise ScalingError(f"{path}: is not JSON ({error}); give {_FORMS}") from error


def scaler_json(scaler: Any) -> str:
    """The JSON of a scaler, for the options of ``keepdrop export`` and for :func:`with_scaling`.

    Parameters
    ----------
    scaler
        Whatever ``read_scaler`` takes.
    """
    found = read_scaler(scaler)
    names = {} if found.names is None else {"columns": list(found.names)}
    return json.dumps({**names, "mean": found.offset.tolist(), "scale": found.scale.tolist()}, ensure_ascii=False)


def _of_file(path: Path) -> Scaler:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ScalingError(f"{path}: holds no JSON object; give {_FORMS}")
    try:
        return _checked(_of_numbers(content))
    except ScalingError as error:
        raise ScalingError(f"{path}: {error}") from error


def is_numbers(scaler: Any) -> bool:
    """Whether a dict is a scaler, not scalers by name."""
    return isinstance(scaler, Mapping) and bool(scaler) and set(scaler) <= set(_NUMBERS)


def _of_numbers(numbers: Mapping[str, Any]) -> Scaler:
    given = {name: value for name, value in numbers.items() if value is not None}
    unknown = [name for name in given if name not in _NUMBERS]
    if unknown:
        raise ScalingError(f"a scaler has no {unknown[0]!r}; give {_FORMS}")
    names = given.pop("columns", None)
    if names is not None and (isinstance(names, str) or not all(isinstance(name, str) for name in names)):
        raise ScalingError(f'"columns" is {names!r}; give the names of the columns as a list')
    low, high = given.pop("range", (0, 1))
    arrays = {name: _array(name, value) for name, value in given.items()}
    offsets = [arrays[name] for name in ("mean", "center", "offset") if name in arrays]
    if set(arrays) == {"min", "max"}:
        scale = (arrays["max"] - arrays["min"]) / (float(high) - float(low))
        return _scaler(arrays["min"] - float(low) * scale, scale, names)
    spreads = [arrays[name] for name in ("scale", "std") if name in arrays]
    spreads += [np.sqrt(arrays[name]) for name in ("variance", "var") if name in arrays]
    if len(spreads) != 1 or len(offsets) > 1 or len(arrays) != len(offsets) + 1 or "range" in numbers:
        raise ScalingError(f"a scaler of {', '.join(map(repr, numbers)) or 'nothing'} is not clear; give {_FORMS}")
    return _scaler(offsets[0] if offsets else np.zeros_like(spreads[0]), spreads[0], names)


def _scaler(offset: NDArray[np.float64], scale: NDArray[np.float64], names: Sequence[str] | None) -> Scaler:
    try:
        offset, scale = np.broadcast_arrays(offset, scale)
    except ValueError:
        raise ScalingError(f"the scaler has {len(offset)} offsets and {len(scale)} scales; give as many") from None
    return Scaler(offset.copy(), scale.copy(), None if names is None else tuple(names))


def _array(name: str, value: Any) -> NDArray[np.float64]:
    try:
        array = np.atleast_1d(np.asarray(value, np.float64))
    except (TypeError, ValueError):
        array = np.empty((0, 0))
    if array.ndim != 1 or not array.size or not np.isfinite(array).all():
        raise ScalingError(f"{name!r} of the scaler is {_shown(value)}; give a finite number for each column")
    return array


def _of_fitted(scaler: Any) -> Scaler:
    """The numbers of a fitted scaler of scikit-learn's kinds, by its attributes."""
    kind = type(scaler).__name__
    if hasattr(scaler, "steps"):
        steps = [step for _, step in scaler.steps if step is not None and not isinstance(step, str)]
        if not steps:
            raise ScalingError(f"the {kind} has no scaler in it; leave it out")
        found = _of_fitted(steps[0])
        for step in steps[1:]:
            found = _of_fitted(step).after(found)
        return found
    names = getattr(scaler, "feature_names_in_", None)
    if getattr(scaler, "clip", False):
        raise ScalingError(
            f"the {kind} clips what lies outside its range, which no layer undoes; fit it with clip=False"
        )
    known = {name: getattr(scaler, name) for name in ("mean_", "center_", "scale_", "min_") if hasattr(scaler, name)}
    if hasattr(scaler, "data_min_"):
        scale = 1 / np.asarray(known["scale_"], np.float64)
        return _scaler(-np.asarray(known["min_"], np.float64) * scale, scale, names)
    if hasattr(scaler, "max_abs_"):
        scale = np.asarray(known["scale_"], np.float64)
        return _scaler(np.zeros_like(scale), scale, names)
    for offset, switch in (("mean_", "with_mean"), ("center_", "with_centering")):
        # PCA and the like have a mean_ too, but no switch for it beside a scale_.
        if offset in known and "scale_" in known and hasattr(scaler, switch):
            width = scaler.n_features_in_
            centre = known[offset] if getattr(scaler, switch) else None
            spread = known["scale_"]
            return _scaler(
                np.zeros(width) if centre is None else np.asarray(centre, np.float64),
                np.ones(width) if spread is None else np.asarray(spread, np.float64),
                names,
            )
    raise ScalingError(_not_known(scaler, kind))


def _not_known(scaler: Any, kind: str) -> str:
    if hasattr(scaler, "transformers"):
        return f"a {kind} has a scaler for some columns each; give the numbers of all, in the model's order: {_FORMS}"
    if hasattr(scaler, "fit") and not any(name.endswith("_") and not name.startswith("_") for name in vars(scaler)):
        return f"the {kind} is not fitted; give the one that the training data were scaled with"
    return (
        f"a {kind} is no scaler that subtracts a number from each column and divides by another; give a "
        f"StandardScaler, MinMaxScaler, RobustScaler, MaxAbsScaler, a Pipeline of them, or numbers: {_FORMS}"
    )


def _checked(scaler: Scaler) -> Scaler:
    if scaler.names is not None and len(scaler.names) != scaler.width:
        raise ScalingError(f"the scaler names {len(scaler.names)} columns and has the numbers of {scaler.width}")
    wrong = np.flatnonzero(~(scaler.scale > 0) | ~np.isfinite(scaler.scale) | ~np.isfinite(scaler.offset))
    if wrong.size:
        column = scaler.names[wrong[0]] if scaler.names else int(wrong[0])
        raise ScalingError(
            f"the scaler divides column {column!r} by {scaler.scale[wrong[0]]:g}; a scale is above 0 (1 leaves a "
            "column as it is)"
        )
    if (large := np.flatnonzero((scaler.scale > _LARGEST) | (np.abs(scaler.offset) > _LARGEST))).size:
        raise ScalingError(
            f"the scaler has an offset of {scaler.offset[large[0]]:g} with a scale of {scaler.scale[large[0]]:g}, "
            f"beyond what float32 can square ({_LARGEST:.2g}); give the column in another unit"
        )
    return scaler


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
