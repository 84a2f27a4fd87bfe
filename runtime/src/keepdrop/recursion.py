"""Recursion: forecasts of many steps, each sample fed with its own output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Callable, Optional

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keepdrop.answer.prediction import paired, summarise
from keepdrop.errors import InputError
from keepdrop.run.request import integer

if TYPE_CHECKING:
    from keepdrop.model import Model

HELD, FRESH = "held", "fresh"

Arrays = dict[str, NDArray[Any]]
Feed = Callable[[Arrays, Arrays, int], Mapping[str, Any]]


def rollout(
    model: Model[Any, Any],
    x: Any,
    steps: int,
    *,
    feed: Optional[Feed] = None,
    masks: str = HELD,
    samples: Optional[int] = None,
    seed: int = 0,
    rows: Optional[ArrayLike] = None,
) -> Any:
    """A forecast of many steps by a model of one: each sample is a path, fed with its own output, in a call a step.

    Parameters
    ----------
    model
        An artifact that was exported with ``per_sample=`` (``--per-sample``) of the inputs that are fed.
    x
        The inputs of the first step, as :meth:`Model.predict` takes them; those that are fed may be [batch, ...], the
        same for all samples, or [samples, batch, ...].
    steps
        How many steps, 1 or more.
    feed
        ``feed(inputs, outputs, step)`` gives the inputs of the next step, as far as they change. It is given those of
        this step by name (those that are fed [samples, batch, ...]), its outputs by name, [samples, batch, ...], and
        its number from 0. By default the output is put at the end of the window, whose oldest step goes: for one input
        [batch, window, features] and one output [batch, features] of the same features.
    masks
        "held": every step of a path has the same masks, as if one network, drawn once, forecast it all. "fresh": each
        step has masks of its own, those of the seed ``keepdrop.recursion.step_seed(seed, step)``.
    samples, seed, rows
        As in :meth:`Model.sample`. Step h of sample t is sample t of a call on that sample's own inputs.

    Returns
    -------
    Prediction
        Of each output, by name in a dict where there are several, as :meth:`Model.predict` gives it: its arrays are
        [batch, steps, ...], its samples [samples, batch, steps, ...].

    Raises
    ------
    InputError
        The artifact has no inputs per sample, `feed` gives what is none, or an argument does not fit.
    """
    steps = integer("steps", steps, least=1)
    if masks not in (HELD, FRESH):
        raise InputError(f"masks is {masks!r}; give {HELD!r} or {FRESH!r}")
    fed = model.metadata.per_sample
    if not fed:
        raise InputError(
            "the artifact takes one input for all samples of a row, so that none can be fed with its own output; "
            f"export the model with per_sample={[t.name for t in model.metadata.inputs]}, or those that are fed"
        )
    names = [tensor.name for tensor in model.metadata.inputs]
    inputs = dict(x) if isinstance(x, Mapping) else {names[0]: x}
    shift = _shifted if feed is None else feed
    if feed is None:
        _check_window(model)
    found: dict[str, list[NDArray[Any]]] = {}
    for step in range(steps):
        of_step = seed if masks == HELD else step_seed(seed, step)
        given = inputs if len(names) > 1 or isinstance(x, Mapping) else inputs[names[0]]
        draws = model.sample(given, samples=samples, seed=of_step, rows=rows)
        outputs = draws if isinstance(draws, dict) else {model.metadata.outputs[0].name: draws}
        for name, array in outputs.items():
            found.setdefault(name, []).append(array)
        if step + 1 < steps:
            samples = len(next(iter(outputs.values())))
            inputs = _next(model, inputs, outputs, shift, step, samples)
    stacked = {name: np.stack(parts, axis=2) for name, parts in found.items()}  # [T, B, steps, ...]
    predictions = paired([summarise(stacked[head.output], head=head) for head in model.heads])
    by_output = isinstance(draws, dict)
    return {p.head.output: p for p in predictions} if by_output else predictions[0]


def step_seed(seed: int, step: int) -> int:
    """The seed of a step whose masks are fresh: that of the path for step 0, from then on numbers mixed from both.

    Not ``seed + step``, which would give step 1 of seed 0 the masks of step 0 of seed 1. numpy's ``SeedSequence`` mixes
    them, whose numbers are the same in every version and on every machine.
    """
    if step == 0:
        return seed
    mixed = np.random.SeedSequence(integer("seed", seed) % 2**64, spawn_key=(step,)).generate_state(1, np.uint64)
    return int(mixed.view(np.int64)[0])


def _next(
    model: Model[Any, Any], inputs: Mapping[str, Any], outputs: Arrays, feed: Feed, step: int, samples: int
) -> Any:
    """The inputs of the next step: what `feed` gives, and the others as they were."""
    whole = {name: _per_sample(model, name, array, samples) for name, array in inputs.items()}
    given = feed(whole, outputs, step)
    unknown = [name for name in given if name not in whole] if isinstance(given, Mapping) else [type(given).__name__]
    if unknown:
        raise InputError(f"feed gave {unknown}; give a dict of inputs by name, some of {list(whole)}")
    for name, array in given.items():
        if np.ndim(array) != np.ndim(whole[name]):
            raise InputError(
                f"feed gave input {name!r} as {list(np.shape(array))}; it has to be like {list(whole[name].shape)}"
                + ("" if name in model.metadata.per_sample else f": export with per_sample=[{name!r}] to feed samples")
            )
    return {**whole, **given}


def _per_sample(model: Model[Any, Any], name: str, value: Any, samples: int) -> NDArray[Any]:
    """An input with its sample axis, if it has one."""
    array: NDArray[Any] = np.asarray(value)
    rank = next(len(tensor.shape) for tensor in model.metadata.inputs if tensor.name == name)
    if name in model.metadata.per_sample and array.ndim == rank:
        array = np.broadcast_to(array, (samples, *array.shape))
    return array


def _check_window(model: Model[Any, Any]) -> None:
    """InputError unless the output of a step is a step of the input."""
    inputs, outputs = model.metadata.inputs, model.metadata.outputs
    fits = (
        len(inputs) == len(outputs) == 1 and len(inputs[0].shape) == 3 and inputs[0].shape[2:] == outputs[0].shape[2:]
    )
    if not fits:
        forms = {t.name: list(t.shape[1:]) for t in inputs}, {t.name: list(t.shape[2:]) for t in outputs}
        raise InputError(
            f"feed has no default for inputs {forms[0]} and outputs {forms[1]}: the next window follows from the last "
            "one only where one output has the features of the one input; give feed(inputs, outputs, step)"
        )


def _shifted(inputs: Arrays, outputs: Arrays, step: int) -> Arrays:
    """The window without its oldest step, and the output after its newest."""
    (name, window), (output,) = next(iter(inputs.items())), outputs.values()
    return {name: np.concatenate([window[:, :, 1:], output[:, :, np.newaxis].astype(window.dtype)], axis=2)}
