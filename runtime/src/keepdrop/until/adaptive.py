"""Adaptive: as many samples as the question needs, or as the time allows, block by block.

The samples are those of a plain call: a row that stops after n of them has seen its first n. Rows that are done
are left out of what is drawn next. Without a deadline a row's n depends on nothing but its own samples: not on the
other rows, the threads or the machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Optional

import numpy as np
from numpy.typing import NDArray

from keepdrop.answer import moments
from keepdrop.answer.moments import Tally
from keepdrop.answer.prediction import Prediction, concatenated, summarise
from keepdrop.artifact.metadata import Head
from keepdrop.run.engine import BYTES_SUMMARISED, MAX_BLOCK, Engine, Progress
from keepdrop.run.request import Request

from . import limits, stopping
from .stopping import Look, Rule

# From one look to the next a row takes half as many samples as it has, between these bounds: some fifteen looks to
# 2,000.
GROWTH = 2
LEAST_STEP, MOST_STEP = stopping.LEAST, 256
# The share of the remaining time that a block may take: twice as slow as the last one, it still ends in time.
SHARE = 0.5


class SampledRows(NamedTuple):
    """Rows that have been sampled alike: their positions, and a tally and a look for each output."""

    at: NDArray[np.int64]
    tallies: list[Tally]
    looks: list[Optional[Look]]

    def only(self, index: NDArray[np.bool_]) -> SampledRows:
        """Some of them."""
        looks = [look.rows(index) if look else None for look in self.looks]
        return SampledRows(self.at[index], [tally.rows(index) for tally in self.tallies], looks)


class DrawnBlock(NamedTuple):
    """The samples from number `start` on of the rows at these positions: [k, rows, ...] for each output."""

    start: int
    at: NDArray[np.int64]
    outputs: list[NDArray[Any]]


class Supply:
    """The samples of a request's rows, block by block; `room` is the most samples x rows that a draw may have.

    Without a deadline it draws for several looks at once where the samples that may turn out to be too many cost no
    more than a run of the graph, which each look would take otherwise.
    """

    def __init__(self, engine: Engine, request: Request, room: int, progress: Optional[Progress], ahead: bool) -> None:
        self._engine = engine
        self._request = request
        self._progress = progress
        self._ahead = min(engine.run_in_samples, room) if ahead else 0
        self._last_drawn = DrawnBlock(0, np.empty(0, np.int64), [])

    def block(self, at: NDArray[np.int64], start: int, size: int) -> DrawnBlock:
        """`size` samples from number `start` on; the rows are among those of the block before."""
        drawn = self._last_drawn
        if not drawn.outputs or start + size > drawn.start + len(drawn.outputs[0]):
            rows = self._request if len(at) == self._request.batch else self._request.only(at)
            stop = self._last(start + size, len(at))
            outputs = self._engine.run(rows.cut(slice(0, len(at)), slice(start, stop)), self._progress)
            drawn = self._last_drawn = DrawnBlock(start, at, outputs)
        part = slice(start - drawn.start, start + size - drawn.start)
        if len(at) == len(drawn.at):
            return DrawnBlock(start, at, [output[part] for output in drawn.outputs])
        positions = np.searchsorted(drawn.at, at)
        return DrawnBlock(start, at, [output[part, positions] for output in drawn.outputs])

    def _last(self, stop: int, rows: int) -> int:
        """Where a draw ends that is needed up to sample number `stop`: there, or at a later look."""
        most = min(self._request.samples, stop + self._ahead // rows)
        while stop < self._request.samples:
            after = min(stop + step_after(stop), self._request.samples)
            if after > most:
                break
            stop = after
        return stop


class Pace:
    """How long blocks take, learned as they go by, and how much fits before the clock says `ends`."""

    def __init__(self, ends: float) -> None:
        self._ends = ends
        self._shortest = float("inf")  # of any block: a further one will hardly take less
        self._a_sample = 0.0

    def learn(self, seconds: float, samples: int) -> None:
        """Be told of a block that has just been drawn."""
        self._shortest = min(self._shortest, seconds)
        self._a_sample = seconds / samples

    def fitting(self) -> int:
        """How many samples the next block may have; 0 where it would end too late."""
        share = SHARE * (self._ends - limits.clock())
        return int(share / max(self._a_sample, 1e-9)) if share >= self._shortest else 0


def predict(
    engine: Engine,
    request: Request,
    heads: Sequence[Head],
    until: Optional[Rule],
    ends: Optional[float],
    quantiles: Optional[NDArray[np.float64]],
    progress: Optional[Progress] = None,
) -> list[Prediction]:
    """A Prediction of each output, from ``request.samples`` samples of a row at most.

    Parameters
    ----------
    until
        The rule by which a row stops early.
    ends
        The time on the clock from which no block is begun. One sample of each row is always drawn, and a
        block is as large as half of the remaining time allows, by what the last one took.
    quantiles
        As in ``summarise``: None keeps the samples.

    Raises
    ------
    InputError
        The rule does not fit the outputs.
    TooLarge
        The samples that are to be kept no longer fit in the budget.
    """
    watched = stopping.watched(until, heads) if until else []
    if quantiles is not None:
        engine.demand_summaries(request, 2 + quantiles.size)
    room = engine.block(request, MAX_BLOCK)
    # The rows that go together, so that a block is bounded and yet never cut between two looks.
    step = max(1, room // MOST_STEP) if ends is None else request.batch
    parts = []
    for start in range(0, request.batch, step):
        rows = request.cut(slice(start, min(start + step, request.batch)), slice(0, request.samples))
        # Whose samples are kept together: all rows' where they are kept, none's where they only add up.
        kept = request if quantiles is None else rows if quantiles.size else None
        supply = Supply(engine, rows, room, progress, ahead=ends is None)
        pace = None if ends is None else Pace(ends)
        blocks, stopped = _draw(engine, rows, supply, kept, heads, until, watched, pace, room)
        parts.append([_summary(rows, blocks, stopped, i, head, until, quantiles) for i, head in enumerate(heads)])
    return [concatenated(of_output) for of_output in zip(*parts)]


def _draw(
    engine: Engine,
    request: Request,
    supply: Supply,
    kept: Optional[Request],
    heads: Sequence[Head],
    until: Optional[Rule],
    watched: Sequence[Head],
    pace: Optional[Pace],
    room: int,
) -> tuple[list[DrawnBlock], list[SampledRows]]:
    """Every block drawn (the last alone if none are `kept`), and the rows in the order they stopped in."""
    active = SampledRows(np.arange(request.batch), [], [None] * len(heads))
    blocks: list[DrawnBlock] = []
    stopped: list[SampledRows] = []
    seen, size = 0, 1 if pace else min(step_after(0), request.samples)
    while True:
        began = limits.clock()
        if kept:
            engine.demand(kept.cut(slice(0, kept.batch), slice(0, seen + size)), BYTES_SUMMARISED)
        else:
            blocks.clear()
        count = len(active.at)
        block = supply.block(active.at, seen, size)
        blocks.append(block)
        active = _grown(active, block, heads)
        if until:
            active = _looked(active, block, heads, until, watched)
        seen += size
        if pace:
            pace.learn(limits.clock() - began, size)
        size = _next_size(request, seen, until, pace, room // count)
        stop = _answered(active, heads, until, watched) if size else np.ones(count, np.bool_)
        if stop.any():
            stopped.append(active.only(stop))
            active = active.only(~stop)
        if not len(active.at):
            return blocks, stopped


def step_after(seen: int) -> int:
    """How many samples there are from the look after so many to the next one."""
    return min(max(LEAST_STEP, seen // GROWTH), MOST_STEP)


def _next_size(request: Request, seen: int, until: Optional[Rule], pace: Optional[Pace], room: int) -> int:
    """How many samples the next block has; 0 where there is none, because of the deadline or ``max_samples``."""
    sizes = [request.samples - seen]
    if until:
        sizes.append(step_after(seen))
    if pace:
        sizes += [pace.fitting(), max(1, room)]
    return min(sizes)


def _grown(active: SampledRows, block: DrawnBlock, heads: Sequence[Head]) -> SampledRows:
    tallies = [Tally.of(samples, head.kind) for samples, head in zip(block.outputs, heads)]
    if active.tallies:
        tallies = [old.plus(new) for old, new in zip(active.tallies, tallies)]
    return active._replace(tallies=tallies)


def _looked(
    active: SampledRows, block: DrawnBlock, heads: Sequence[Head], until: Rule, watched: Sequence[Head]
) -> SampledRows:
    elements = sum(_watched_means(active, heads, until, head).shape[1] for head in watched)
    looks = [
        until.look(look, head, samples, tally.moments, elements) if head in watched else None
        for look, head, samples, tally in zip(active.looks, heads, block.outputs, active.tallies)
    ]
    return active._replace(looks=looks)


def _answered(
    active: SampledRows, heads: Sequence[Head], until: Optional[Rule], watched: Sequence[Head]
) -> NDArray[np.bool_]:
    """Which rows need no more samples: [rows]. More would not help where a mean is not finite."""
    if until is None:
        return np.zeros(len(active.at), np.bool_)
    met = np.all([look.met for look in active.looks if look], axis=0)
    lost = [~np.isfinite(_watched_means(active, heads, until, head)).all(axis=1) for head in watched]
    return np.asarray(met | np.any(lost, axis=0))


def _watched_means(active: SampledRows, heads: Sequence[Head], until: Rule, head: Head) -> NDArray[np.float64]:
    mean = active.tallies[list(heads).index(head)].moments.mean
    return stopping.flat(stopping.chosen(mean, head, until.element))


def _summary(
    request: Request,
    blocks: Sequence[DrawnBlock],
    stopped: Sequence[SampledRows],
    i: int,
    head: Head,
    until: Optional[Rule],
    quantiles: Optional[NDArray[np.float64]],
) -> Prediction:
    order = np.argsort(np.concatenate([rows.at for rows in stopped]))
    tally = moments.concatenated_tally([rows.tallies[i] for rows in stopped], each=until is not None).rows(order)
    samples = blocks[0].outputs[i] if len(blocks) == 1 else _assembled(request, blocks, i)
    found = summarise(samples, quantiles, tally, head)
    looks = [look for look in (rows.looks[i] for rows in stopped) if look]
    if not looks:
        return found
    found = replace(found, met=np.concatenate([look.met for look in looks])[order])
    decisions = [look.decision for look in looks if look.decision is not None]
    if until is None or not decisions:
        return found
    shape = stopping.chosen(tally.moments.mean, head, until.element).shape
    return replace(found, decision=stopping.WORDS[np.concatenate(decisions)[order]].reshape(shape))


def _assembled(request: Request, blocks: Sequence[DrawnBlock], i: int) -> NDArray[Any]:
    """[samples, batch, ...], NaN where a row had stopped."""
    count = max(block.start + len(block.outputs[i]) for block in blocks)
    like = blocks[0].outputs[i]
    ragged = any(len(block.at) < request.batch for block in blocks)
    dtype = np.result_type(like.dtype, np.float32) if ragged else like.dtype
    samples = np.full((count, request.batch, *like.shape[2:]), np.nan if ragged else 0, dtype)
    for block in blocks:
        samples[block.start : block.start + len(block.outputs[i]), block.at] = block.outputs[i]
    return samples
