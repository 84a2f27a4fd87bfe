"""Stage 5, verify: the artifact's samples, drawn by keepdrop itself, against stock Keras by the contract's rule."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import keras
import numpy as np
from numpy.typing import NDArray

import keepdrop
from keepdrop.artifact.metadata import OutputCheck, Verification
from keepdrop_exporter.errors import VerifyError
from keepdrop_exporter.formats.savedmodel import open_artifact
from keepdrop_exporter.plan import ATOL, RTOL, keras_hooks
from keepdrop_exporter.plan.draws import Plan, size
from keepdrop_exporter.plan.inputs import Data, given, random_batches
from keepdrop_exporter.plan.reference import Arrays, Samples, exact_reference, reference

from .comparison import REAL_INPUTS, Bound, Unclear, compare, worse

# Of random inputs on which nothing can be told.
_SMALLER = 0.1

# Dropped numbers; of fewer, none may be.
_FEW = 10

# Rows have ids of their own, and one beyond 32 bits.
_FAR_ROW = 2**33 + 5


def verify_plan(
    plan: Plan,
    artifact: str | Path,
    *,
    rows: int,
    samples: int,
    seed: int,
    data: Data,
    atol: float,
    rtol: float,
) -> Verification:
    """``pipeline.verify`` for a model that is planned already, and an artifact of whole inputs."""
    check_counts(rows, samples)
    session = keepdrop.Model(open_artifact(artifact), threads=1)
    if session.metadata.draws != plan.draws:
        changes = session.metadata.changes
        raise VerifyError(
            f"{artifact}: it was made from another model than {plan.model.name!r}: their draws differ"
            + (f"; on the way to it was set: {'; '.join(changes)}" if changes else "")
        )
    compared = functools.partial(_compared, plan, session, samples=samples, seed=seed, atol=atol, rtol=rtol)
    if data is not None:
        return compared([given(plan, data, rows)], source="given")
    try:
        return compared(random_batches(plan, rows, seed), source="random")
    except Unclear:
        # Large weights magnify rounding where functions are steep; on these numbers they are flatter.
        return compared(random_batches(plan, rows, seed, _SMALLER), source="random")


def _compared(
    plan: Plan,
    session: keepdrop.Model,
    batches: Sequence[Arrays],
    *,
    samples: int,
    seed: int,
    atol: float,
    rtol: float,
    source: str,
) -> Verification:
    per_sample = session.metadata.per_sample
    worst: dict[str, OutputCheck] = {}
    for x in (with_samples(batch, per_sample, samples, seed) for batch in batches):
        ids = row_ids({name: array[0] if name in per_sample else array for name, array in x.items()})
        expected = reference(plan, x, ids, samples, seed, per_sample=per_sample)
        bound = Bound(
            expected,
            atol,
            rtol,
            lambda x=x, ids=ids: exact_reference(plan, x, ids, samples, seed, per_sample=per_sample),  # type: ignore[misc]
        )

        def draw(
            x: Arrays = x, ids: NDArray[np.int64] = ids, *, seed: int = seed, samples: int = samples, first: int = 0
        ) -> Samples:
            try:
                drawn = session.sample(x, samples=samples, seed=seed, rows=ids, first_sample=first)
            except keepdrop.KeepdropError as error:
                shapes = {name: a.shape for name, a in x.items()}
                raise VerifyError(f"the artifact does not run on inputs of shape {shapes}: {error}") from error
            return drawn if isinstance(drawn, dict) else {plan.outputs[0].name: drawn}

        got = draw()
        for name, found in compare(got, expected, bound, "differs from Keras").items():
            worst[name] = worse(worst.get(name), found)
        behaves(draw, x, ids, got, samples, seed, bound, _idle(plan, x, samples), per_sample)
    return Verification(len(ids), samples, seed, atol, rtol, source, tuple(worst.values()))


def check_counts(rows: int, samples: int) -> None:
    """VerifyError where so few are no comparison."""
    if rows < 1 or samples < 2:
        raise VerifyError(f"rows={rows}, samples={samples}: a comparison needs at least 1 row and 2 samples of it")


def row_ids(x: Arrays) -> NDArray[np.int64]:
    """Ids for the rows of ``x``, the last one beyond 32 bits: int64 [B]."""
    ids = np.arange(len(next(iter(x.values()))), dtype=np.int64)
    ids[-1] = _FAR_ROW
    return ids


def behaves(
    draw: Callable[..., Samples],
    x: Arrays,
    ids: NDArray[np.int64],
    got: Samples,
    samples: int,
    seed: int,
    bound: Bound,
    idle: str = "",
    per_sample: Collection[str] = (),
) -> None:
    """Raise VerifyError unless samples vary, follow the seed and nothing else, and do not depend on how they are cut.

    ``draw(x, ids, seed=, samples=, first=)`` gives samples; ``got`` is what it gave by default. ``idle`` is why the
    model's draws may be without effect.
    """
    if all(np.array_equal(y, np.broadcast_to(y[:1], y.shape), equal_nan=True) for y in got.values()):
        raise VerifyError(f"no output varies over {samples} samples{_why_nothing_varies(got, bound.keras, idle)}")
    again, other = draw(), draw(seed=seed + 1)
    for name, y in got.items():
        if not np.array_equal(again[name], y, equal_nan=True):
            raise VerifyError(f"output {name!r}: the same seed ({seed}) gave other samples the second time")
    if all(np.array_equal(other[name], y, equal_nan=True) for name, y in got.items()):
        raise VerifyError(f"seeds {seed} and {seed + 1} give the same samples: the seed does not reach the graph")
    # An odd cut also meets draws that begin within a block of the generator.
    cut = samples // 2 | 1 if samples > 3 else 1
    every = slice(None)
    parts = (
        draw(rows_of(x, every, per_sample, slice(0, cut)), samples=cut),
        draw(rows_of(x, every, per_sample, slice(cut, samples)), samples=samples - cut, first=cut),
    )
    joined = {name: np.concatenate([part[name] for part in parts], axis=0) for name in got}
    compare(joined, got, bound, "changes when samples are drawn in chunks")
    singles = [draw(rows_of(x, slice(b, b + 1), per_sample), ids[b : b + 1]) for b in range(len(ids))]
    joined = {name: np.concatenate([single[name] for single in singles], axis=1) for name in got}
    compare(joined, got, bound, "changes when rows are drawn one by one")


def with_samples(x: Arrays, per_sample: Collection[str], samples: int, seed: int) -> Arrays:
    """Inputs of their own for each sample, [T, B, ...], where an input has a sample axis: other rows', shuffled."""
    rng = np.random.default_rng(seed % 2**64)
    return {
        name: np.stack([array[rng.permutation(len(array))] for _ in range(samples)]) if name in per_sample else array
        for name, array in x.items()
    }


def rows_of(x: Arrays, rows: slice, per_sample: Collection[str], samples: slice = slice(None)) -> Arrays:
    """The inputs of some rows, and of some samples where they have inputs of their own."""
    return {name: array[samples, rows] if name in per_sample else array[rows] for name, array in x.items()}


def _why_nothing_varies(got: Samples, expected: Samples, idle: str) -> str:
    if all(np.isnan(y).all() for y in got.values()):
        return f": all of them are NaN; the model overflows on these inputs: {REAL_INPUTS}"
    if not all(np.allclose(y, y[:1], RTOL, ATOL, equal_nan=True) for y in expected.values()):
        return ": dropout is not active in the artifact"
    return f", in Keras either: {idle or f'these inputs leave nothing of what the dropout drops; {REAL_INPUTS}'}"


def _idle(plan: Plan, x: Arrays, samples: int) -> str:
    """Why the draws may have no effect: too little is dropped, it is forgotten later, or a state that is zero still."""
    rows = len(next(iter(x.values())))
    dropped = sum((1.0 if d.rate is None else d.rate) * (size(d) or _FEW) for d in plan.draws) * samples * rows
    if dropped < _FEW:
        rate = max(draw.rate or 0 for draw in plan.draws)
        return (
            f"rates of at most {rate:.2g} drop {dropped:.2g} numbers in {samples} samples of {rows} rows, on average; "
            "compare more samples (--samples, samples=)"
        )
    for layer in keras_hooks.all_layers(plan.model):
        weights = layer.weights if isinstance(layer, keras.layers.LayerNormalization) else []
        if weights and math.prod(weights[0].shape) == 1:
            return f"layer {layer.name!r} normalises single numbers, which leaves its offset whatever they are"
        if getattr(layer, "activation", None) is keras.activations.softmax and getattr(layer, "units", 0) == 1:
            return f"layer {layer.name!r} is a softmax over one unit, which is 1 whatever it is given"
    steps = {a.shape[1] for a in x.values() if a.ndim > 2}
    if steps != {1} or any(draw.argument != "recurrent_dropout" for draw in plan.draws):
        return ""
    drawing = plan.draws[0].layer
    return (
        f"layer {drawing!r} takes one step, at which its state is zero still, and recurrent dropout drops nothing of "
        f"it; give its input a rate instead, as {drawing}.input"
    )
