"""Scaling inside the model: raw numbers in, raw numbers out, in stock Keras layers.

``Normalization`` in front of each scaled input and ``Rescaling`` behind each scaled output, around the model as it is:
the contract, the verification and every format hold as they are.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keepdrop.answer.heads import Heads
from keepdrop.artifact.metadata import LOGVAR, MEAN_LOGVAR, SIGMOID, SOFTMAX, Head, Tensor
from keepdrop_exporter.plan import keras_graphs, keras_hooks
from keepdrop_exporter.plan.draws import tensors
from keepdrop_exporter.plan.heads import find_heads

from .errors import ScalingError
from .scalers import Scaler, is_numbers, read_json, read_scaler

TOLERANCE = 1e-3
"""The most that float32 may cost, in scales of a column: a thousandth, which no forecast resolves."""

# Where the cost is measured, in scales from the offset: where scaled numbers lie, off the grid of round ones.
_MEASURED = np.linspace(-4, 4, 1601) + 1e-3 / 3


def with_scaling(
    model: keras.Model, inputs: Any = None, outputs: Any = None, heads: Heads | None = None
) -> keras.Model:
    """The same model on raw numbers: its inputs are scaled within, and its outputs scaled back.

    Parameters
    ----------
    model
        A functional or sequential model, trained on scaled numbers.
    inputs
        What its inputs were scaled with: a fitted scaler, a dict of numbers or the path of a JSON file (see
        ``keepdrop_exporter.scalers``), or a dict of these by input name. Its columns are the input's last axis; a
        scaler of one column serves all of them.
    outputs
        What its targets were scaled with, likewise by output.
    heads
        As in ``export``: of ``"mean,logvar"`` the means are scaled back, and ``2 ln scale`` is added to the
        log-variances.

    Returns
    -------
    keras.Model
        A stock Keras model, not compiled, with the same names of inputs and outputs. It shares the layers of ``model``.

    Raises
    ------
    ScalingError
        A scaler does not fit its input or output, float32 would lose more than a thousandth of a scale, or an output
        holds probabilities.

    Examples
    --------
    >>> raw = with_scaling(model, inputs=scaler_x, outputs=scaler_y)
    """
    return scaled(model, inputs, outputs, heads)[0]


def scaled(
    model: keras.Model,
    inputs: Any,
    outputs: Any,
    heads: Heads | None = None,
    columns: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[keras.Model, tuple[str, ...]]:
    """``with_scaling`` and a line for each input and output that is scaled; the model itself where none is.

    ``columns`` are the names of each input's columns, in the model's order, where they are known: a scaler that knows
    its own has to agree, and leaves those it does not name as they are.
    """
    if inputs is None and outputs is None:
        return model, ()
    if keras_graphs.layer_graph(model) is None:
        raise ScalingError(
            f"model {model.name!r} is of the class {type(model).__name__}, whose own code calls its layers: scale in "
            "that code, or build the network as a functional model"
        )
    taken, given = tensors(model)
    of_inputs = _by_name(inputs, taken, "input")
    for name, names in (columns or {}).items():
        if name in of_inputs:
            of_inputs[name] = _placed(of_inputs[name], names, f"input {name!r}")
    of_outputs = _by_name(outputs, given, "output")
    _refuse_masked(model, taken, of_inputs)
    found, _ = find_heads(model, given, heads)
    lines: list[str] = []
    raw = [_raw_input(x) for x in model.inputs]
    normalised = [
        _normalised(x, tensor, of_inputs[tensor.name], lines) if tensor.name in of_inputs else x
        for tensor, x in zip(taken, raw, strict=True)
    ]
    of_model = keras_graphs.structures(model)
    answers = keras.tree.flatten(_core(model, taken, given)(keras.tree.pack_sequence_as(of_model[0], normalised)))
    made = [
        _rescaled(y, tensor, head, of_outputs, lines) for y, tensor, head in zip(answers, given, found, strict=True)
    ]
    packed = (keras.tree.pack_sequence_as(*pair) for pair in zip(of_model, (raw, made), strict=True))
    return keras.Model(*packed, name=model.name), tuple(lines)


def absolute_tolerance(atol: float, model: keras.Model, output_scaler: Any) -> float:
    """The tolerance in units of the scaled outputs where these are small: 1e-5 of a scale, not of 1e-6 whole ones."""
    if output_scaler is None:
        return atol
    layers = [layer for layer in model.layers if isinstance(layer, keras.layers.Rescaling)]
    return atol * min([1.0, *(float(np.min(np.abs(layer.scale))) for layer in layers)])


def _by_name(scalers: Any, tensors: Sequence[Tensor], kind: str) -> dict[str, Scaler]:
    names = [tensor.name for tensor in tensors]
    if scalers is None:
        return {}
    if isinstance(scalers, str | os.PathLike) and not is_numbers(content := read_json(Path(scalers))):
        scalers = content  # scalers by name, or what the errors below say
    if isinstance(scalers, Mapping) and not is_numbers(scalers):
        if unknown := next((name for name in scalers if name not in names), None):
            raise ScalingError(f"a scaler is given for {kind} {unknown!r}; the model's {kind}s are {names}")
        return {name: _read(scaler, f"{kind} {name!r}") for name, scaler in scalers.items()}
    if len(names) > 1:
        raise ScalingError(f"the model has the {kind}s {names}; give a dict of scalers by {kind}")
    return {names[0]: _read(scalers, f"{kind} {names[0]!r}")}


def _placed(scaler: Scaler, columns: tuple[str, ...], where: str) -> Scaler:
    """The scaler's columns among those of the input, by name."""
    if scaler.names is None or scaler.names == columns:
        return scaler
    places = [columns.index(name) for name in scaler.names if name in columns]
    if len(places) < scaler.width or places != sorted(places):
        raise ScalingError(
            f"{where}: its scaler was fitted on ({', '.join(scaler.names)}), and the table has ({', '.join(columns)}); "
            "give the table's columns in the order the model was trained with, which is the scaler's"
        )
    offset, scale = np.zeros(len(columns)), np.ones(len(columns))
    offset[places], scale[places] = scaler.offset, scaler.scale
    return Scaler(offset, scale, columns)


def _read(scaler: Any, where: str) -> Scaler:
    try:
        return read_scaler(scaler)
    except ScalingError as error:
        raise ScalingError(f"{where}: {error}") from error


def _refuse_masked(model: keras.Model, inputs: Sequence[Tensor], scalers: Mapping[str, Scaler]) -> None:
    for i, value in keras_hooks.mask_values(model).items():
        if inputs[i].name in scalers:
            raise ScalingError(
                f"input {inputs[i].name!r} is read by a Masking layer, which looks for {value:g} among scaled numbers: "
                "no raw number is sure to become that; scale the windows before the model, or train it without Masking"
            )


def _raw_input(x: Any) -> Any:
    return keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name)


def _core(model: keras.Model, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> keras.Model:
    """The model under a name that none of its inputs and outputs has: layers of a model differ in names."""
    taken = {tensor.name for tensor in (*inputs, *outputs)}
    if model.name not in taken:
        return model
    name = next(n for n in (f"{model.name}_{i}" for i in itertools.count(1)) if n not in taken)
    return keras.Model(*keras_graphs.structures(model), name=name)


def _normalised(x: Any, tensor: Tensor, scaler: Scaler, lines: list[str]) -> Any:
    where = f"input {tensor.name!r}"
    if "float" not in tensor.dtype:
        raise ScalingError(f"{where} is {tensor.dtype}, which are no numbers to scale; leave its scaler out")
    _check_width(scaler, tensor.shape[1:], where)
    mean, variance = scaler.offset, scaler.scale**2  # the layer takes its root again
    layer = keras.layers.Normalization(
        axis=None if scaler.width == 1 else -1,
        mean=_one_or_all(mean),
        variance=_one_or_all(variance),
        name=f"{tensor.name}_scaled",
    )
    numbers = scaler.offset + scaler.scale * _MEASURED[:, np.newaxis]  # [points, columns]
    cost = np.abs(_computed(layer, numbers) - _MEASURED[:, np.newaxis]).max(axis=0)
    lines.append(_line(f"{where}: (x - offset) / scale", scaler, cost))
    return layer(x)


def _rescaled(y: Any, tensor: Tensor, head: Head, scalers: Mapping[str, Scaler], lines: list[str]) -> Any:
    """The output under its own name, scaled back where it, or the mean beside its log-variance, has a scaler."""
    scaler = scalers.get(head.partner or "" if head.kind == LOGVAR else tensor.name)
    if head.kind == LOGVAR and tensor.name in scalers:
        raise ScalingError(
            f"output {tensor.name!r} is the log-variance of {head.partner!r}; give that one's scaler, which serves both"
        )
    if scaler is None:
        return keras.layers.Identity(name=tensor.name)(y)
    where = f"output {tensor.name!r}"
    if head.kind in (SOFTMAX, SIGMOID):
        raise ScalingError(f"{where} holds probabilities, which nothing scales; leave its scaler out")
    scale, offset = _of_head(scaler, head, tensor.shape[2:], where)
    if len(scale) > 1 and keras.config.image_data_format() == "channels_first":
        # Rescaling takes a list of scales for one of channels, and moves it there (Keras 3.8 to 3.15).
        raise ScalingError(f"{where} has a scale for each element; keras.config.set_image_data_format('channels_last')")
    layer = keras.layers.Rescaling(_one_or_all(scale), _one_or_all(offset), name=tensor.name)
    points = np.repeat(_MEASURED.astype(np.float32)[:, np.newaxis], len(scale), axis=1)  # [points, elements]
    cost = np.abs(_computed(layer, points) - (points * scale + offset)).max(axis=0) / scale
    added = " (log-variance: + 2 ln scale)" if head.kind in (LOGVAR, MEAN_LOGVAR) else ""
    lines.append(_line(f"{where}: y * scale + offset{added}", scaler, cost))
    return layer(y)


def _of_head(
    scaler: Scaler, head: Head, axes: Sequence[int | None], where: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What an output is multiplied with, and what is added: [1] or [elements of its last axis] each."""
    logarithm = 2 * np.log(scaler.scale)
    if head.kind == LOGVAR:
        _check_width(scaler, axes, where)
        return np.ones_like(logarithm), logarithm
    if head.kind != MEAN_LOGVAR:
        _check_width(scaler, axes, where)
        return scaler.scale, scaler.offset
    means = int(axes[-1] or 0) // 2
    _check_width(scaler, (*axes[:-1], means), where)
    parts = [(scaler.scale, np.ones_like(logarithm)), (scaler.offset, logarithm)]
    scale, offset = (np.concatenate([np.broadcast_to(part, means) for part in both]) for both in parts)
    return scale, offset


def _check_width(scaler: Scaler, axes: Sequence[int | None], where: str) -> None:
    width = axes[-1] if axes else 1
    if scaler.width not in (1, width):
        raise ScalingError(
            f"{where} has {'any number of' if width is None else width} columns and its scaler {scaler.width}; give "
            "numbers for each, in the model's order, or one for all"
        )


def _one_or_all(numbers: NDArray[np.float64]) -> float | list[float]:
    return float(numbers[0]) if len(numbers) == 1 else [float(number) for number in numbers]


def _computed(layer: keras.Layer, numbers: NDArray[Any]) -> NDArray[np.float64]:
    """What a layer makes of numbers [points, columns] in float32."""
    with np.errstate(over="ignore"):
        given = numbers.astype(np.float32)
    return np.asarray(type(layer).from_config(layer.get_config())(given), np.float64)


def _line(what: str, scaler: Scaler, cost: NDArray[np.float64]) -> str:
    """What was scaled, with the measured cost of float32; ScalingError where that is above ``TOLERANCE``."""
    worst = int(np.argmax(np.where(np.isfinite(cost), cost, np.inf)))
    if not cost[worst] <= TOLERANCE:
        column = min(worst, scaler.width - 1)
        name = repr(scaler.names[column]) if scaler.names else str(column)
        raise ScalingError(
            f"{what}: column {name} has the offset {scaler.offset[column]:g} and the scale {scaler.scale[column]:g}, "
            f"and float32 then loses {cost[worst]:.2g} of the scale (allowed: {TOLERANCE:g}); subtract a constant from "
            "the column, or give it in another unit, before training"
        )
    return (
        f"{what}, {scaler.width} column{'s' * (scaler.width > 1)}; float32 costs up to {cost[worst]:.1g} of the scale"
    )
