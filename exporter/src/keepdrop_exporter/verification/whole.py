"""Stage 5, verify: the artifact's samples, drawn by keepdrop itself, against stock Keras by the contract's rule."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import keepdrop
from keepdrop.artifact.metadata import Cost, OutputCheck, Tensor, Verification
from keepdrop.run.request import check
from keepdrop_exporter.errors import VerifyError
from keepdrop_exporter.formats.savedmodel import open_artifact
from keepdrop_exporter.plan import keras_hooks
from keepdrop_exporter.plan.draws import LENGTHS, Plan, call_model

from . import ATOL, RTOL

Arrays = dict[str, NDArray[np.generic]]
Samples = dict[str, NDArray[np.float32]]
Data = NDArray[np.generic] | Mapping[str, NDArray[np.generic]] | None

_TIMED_RUNS = 7
_TIMED_SAMPLES = 101

# Apart far enough to stay so behind strides and pooling.
_LENGTH_STEP = 3

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
    batches = [given(plan, data, rows)] if data is not None else random_batches(plan, rows, seed)
    worst: dict[str, OutputCheck] = {}
    for x in batches:
        ids = row_ids(x)
        expected = reference(plan, x, ids, samples, seed)

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
        for name, found in compare(got, expected, atol, rtol, "differs from Keras").items():
            worst[name] = worse(worst.get(name), found)
        behaves(draw, x, ids, got, samples, seed, atol, rtol)
    source = "given" if data is not None else "random"
    return Verification(len(ids), samples, seed, atol, rtol, source, tuple(worst.values()))


def measure_cost(plan: Plan, artifact: str | Path, data: Data = None) -> Cost:
    """What a run and a sample cost on one thread: the quickest of some runs with one and with many samples of a row."""
    session = open_artifact(artifact)
    x = given(plan, data, 1) if data is not None else random_batches(plan, 1, 0)[0]

    def run(samples: int) -> Callable[[], object]:
        request = check(session.metadata, x, samples=samples, seed=0, rows=None, first_sample=0)
        return lambda: session.run(request)

    return cost(run, _TIMED_RUNS)


def cost(run: Callable[[int], Callable[[], object]], times: int) -> Cost:
    """What a run and a sample in it cost: ``run(samples)()`` with one and with many samples, the quickest of some."""

    def quickest(samples: int) -> float:
        action = run(samples)
        action()
        return min(_seconds(action) for _ in range(times))

    one, many = quickest(1), quickest(_TIMED_SAMPLES)
    sample = max(0.0, (many - one) / (_TIMED_SAMPLES - 1))
    return Cost(run=max(0.0, one - sample), sample=sample)


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def check_counts(rows: int, samples: int) -> None:
    """VerifyError where so few are no comparison."""
    if rows < 1 or samples < 2:
        raise VerifyError(f"rows={rows}, samples={samples}: a comparison needs at least 1 row and 2 samples of it")


def row_ids(x: Arrays) -> NDArray[np.int64]:
    """Ids for the rows of ``x``, the last one beyond 32 bits: int64 [B]."""
    ids = np.arange(len(next(iter(x.values()))), dtype=np.int64)
    ids[-1] = _FAR_ROW
    return ids


def reference(plan: Plan, x: Arrays, rows: NDArray[np.int64], samples: int, seed: int) -> Samples:
    """The samples as the contract defines them, row after row by the untouched Keras model: [T, B, ...] each.

    Raises
    ------
    VerifyError
        The Keras model does not run on these inputs.
    """
    per_row = []
    try:
        with keras_hooks.sampling_state(plan.model), keras_hooks.plain_errors():
            for b, row in enumerate(rows):
                _start_generators(plan, seed, int(row))
                inputs = [np.repeat(x[t.name][b : b + 1], samples, axis=0) for t in plan.inputs]
                per_row.append([np.asarray(y) for y in call_model(plan.model, inputs)])
    except Exception as error:  # Keras' own kinds, for ids that an Embedding lacks among others
        shapes = {name: a.shape for name, a in x.items()}
        reason = " ".join(str(error).split())[:300]
        raise VerifyError(
            f"the Keras model does not run on inputs of shape {shapes}; check their values: {reason}"
        ) from error
    return {t.name: np.stack([row[i] for row in per_row], axis=1) for i, t in enumerate(plan.outputs)}


def _start_generators(plan: Plan, seed: int, row: int) -> None:
    """Give each generator of the model the state from which it draws for a row."""
    for i, generator in enumerate(plan.generators):
        offset = min(d.offset for d in plan.draws if d.generator == i)
        generator.state.assign([seed, _int64(row * plan.draws_per_row + offset)])


def _int64(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def behaves(
    draw: Callable[..., Samples],
    x: Arrays,
    ids: NDArray[np.int64],
    got: Samples,
    samples: int,
    seed: int,
    atol: float,
    rtol: float,
) -> None:
    """Raise VerifyError unless samples vary, follow the seed and nothing else, and do not depend on how they are cut.

    ``draw(x, ids, seed=, samples=, first=)`` gives samples; ``got`` is what it gave by default.
    """
    if all(np.array_equal(y, np.broadcast_to(y[:1], y.shape), equal_nan=True) for y in got.values()):
        raise VerifyError(f"no output varies over {samples} samples: dropout is not active in the artifact")
    again, other = draw(), draw(seed=seed + 1)
    for name, y in got.items():
        if not np.array_equal(again[name], y, equal_nan=True):
            raise VerifyError(f"output {name!r}: the same seed ({seed}) gave other samples the second time")
    if all(np.array_equal(other[name], y, equal_nan=True) for name, y in got.items()):
        raise VerifyError(f"seeds {seed} and {seed + 1} give the same samples: the seed does not reach the graph")
    # An odd cut also meets draws that begin within a block of the generator.
    cut = samples // 2 | 1 if samples > 3 else 1
    parts = draw(samples=cut), draw(samples=samples - cut, first=cut)
    joined = {name: np.concatenate([part[name] for part in parts], axis=0) for name in got}
    compare(joined, got, atol, rtol, "changes when samples are drawn in chunks")
    singles = [draw({name: a[b : b + 1] for name, a in x.items()}, ids[b : b + 1]) for b in range(len(ids))]
    joined = {name: np.concatenate([single[name] for single in singles], axis=1) for name in got}
    compare(joined, got, atol, rtol, "changes when rows are drawn one by one")


def compare(got: Samples, expected: Samples, atol: float, rtol: float, fault: str) -> dict[str, OutputCheck]:
    """How far samples are from those expected, by output; VerifyError where it is farther than the tolerance."""
    checks = {}
    for name, want in expected.items():
        have = got[name]
        if have.shape != want.shape:
            raise VerifyError(f"output {name!r} {fault}: its shape is {have.shape} and should be {want.shape}")
        same_nan = np.isnan(have) == np.isnan(want)
        difference = np.where(
            np.isnan(want) | (have == want), 0.0, np.abs(have.astype(np.float64) - want.astype(np.float64))
        )
        excess = np.where(same_nan, difference - (atol + rtol * np.abs(np.nan_to_num(want))), np.inf)
        checks[name] = OutputCheck(
            name,
            float(difference.max()),
            float((difference / np.maximum(np.abs(np.nan_to_num(want)), ATOL / RTOL)).max()),
        )
        if excess.max() > 0:
            sample, row = np.unravel_index(int(excess.argmax()), excess.shape)[:2]
            raise VerifyError(
                f"output {name!r} {fault}: by up to {checks[name].max_abs:.3g} (sample {sample}, row {row} of those "
                f"compared); allowed are {atol:g} + {rtol:g} * |expected|"
            )
    return checks


def worse(a: OutputCheck | None, b: OutputCheck) -> OutputCheck:
    """The larger differences of both."""
    return b if a is None else OutputCheck(b.name, max(a.max_abs, b.max_abs), max(a.max_rel, b.max_rel))


def given(plan: Plan, data: NDArray[np.generic] | Mapping[str, NDArray[np.generic]], rows: int) -> Arrays:
    """The first ``rows`` of the data by input name; VerifyError where they do not fit the model's inputs."""
    named = {plan.inputs[0].name: data} if isinstance(data, np.ndarray) else dict(data)
    missing = [t.name for t in plan.inputs if t.name not in named]
    if missing or (isinstance(data, np.ndarray) and len(plan.inputs) > 1):
        raise VerifyError(
            f"the data lack input {(missing or [plan.inputs[1].name])[0]!r}; "
            f"the model's inputs are {[t.name for t in plan.inputs]}"
        )
    taken = {t.name: np.asarray(named[t.name][:rows]).astype(t.dtype, copy=False) for t in plan.inputs}
    lengths = {name: len(array) for name, array in taken.items()}
    if 0 in lengths.values() or len(set(lengths.values())) > 1:
        raise VerifyError(f"the data have {lengths} rows; give each input the same number of them, and at least one")
    return taken


def random_batches(plan: Plan, rows: int, seed: int) -> list[Arrays]:
    """Inputs at two lengths where the length is dynamic; axes that need not be alike have lengths of their own."""
    rng = np.random.default_rng(seed % 2**64)
    dynamic = sum(n is None for t in plan.inputs for n in t.shape[1:])
    step = 0
    if dynamic > 1 and _runs(plan, random_batch(plan, 1, LENGTHS[0], np.random.default_rng(0), _LENGTH_STEP)):
        step = _LENGTH_STEP
    return [random_batch(plan, rows, length, rng, step) for length in (LENGTHS if dynamic else LENGTHS[:1])]


def _runs(plan: Plan, x: Arrays) -> bool:
    try:
        reference(plan, x, np.zeros(1, np.int64), 1, 0)
    except VerifyError:
        return False
    return True


def random_batch(plan: Plan, rows: int, length: int, rng: np.random.Generator, step: int = 0) -> Arrays:
    """Inputs that the model accepts, [rows, ...] each, where dynamic axis i has the length ``length + i * step``."""
    limits = keras_hooks.vocabulary_sizes(plan.model)
    masked = keras_hooks.mask_values(plan.model)
    lengths = itertools.count(length, step)
    batch = {}
    for i, t in enumerate(plan.inputs):
        shape = (rows, *(next(lengths) if n is None else n for n in t.shape[1:]))
        batch[t.name] = _random_input(t, shape, limits.get(i), rng)
        if i in masked:
            # One row ends early, another has a gap.
            batch[t.name][0, -(shape[1] // 3) :] = masked[i]
            batch[t.name][-1, 1 : 1 + shape[1] // 4] = masked[i]
    return batch


def _random_input(
    tensor: Tensor, shape: Sequence[int], limit: int | None, rng: np.random.Generator
) -> NDArray[np.generic]:
    if tensor.dtype == "bool":
        return rng.random(shape) < 0.5
    if limit is not None or "int" in tensor.dtype:
        return rng.integers(0, limit or 2, shape).astype(tensor.dtype)
    return rng.standard_normal(shape).astype(tensor.dtype)
