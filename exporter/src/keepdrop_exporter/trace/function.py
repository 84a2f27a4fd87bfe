"""Stage 3, trace: the plan becomes one TensorFlow function with the contract's signature.

It is the single source of every format. Nothing outside this module and those it calls knows how a model is lowered.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import tensorflow as tf

from keepdrop.artifact.check import taken
from keepdrop.artifact.metadata import FIRST_SAMPLE, NUM_SAMPLES, ROWS, SCALARS, SEED, Streaming
from keepdrop_exporter.errors import ConvertError, Refusal
from keepdrop_exporter.plan import keras_hooks
from keepdrop_exporter.plan.draws import Plan

from .call import Call
from .frontier import Frontier
from .loops import Masks, Recurrences
from .numbers import Numbers
from .recurrence import Recurrence
from .replay import Replay
from .time_distributed import fold_time


class Traced(NamedTuple):
    """The traced function, and the time loops it holds in a form that the conversion knows.

    ``function`` takes a dict of tensors under the contract's names and gives a dict of the outputs
    ``[num_samples, batch, ...]``.
    """

    function: Any
    recurrences: tuple[Recurrence, ...]
    stream: Streaming | None = None


def trace(plan: Plan, *, lower: bool = True, whole: bool = True, per_sample: Collection[str] = ()) -> Traced:
    """Trace a model as a function of its inputs, ``seed``, ``rows``, ``num_samples`` and ``first_sample``.

    Parameters
    ----------
    plan
        What is random in the model.
    lower
        Run what precedes the first draw once a row, and time loops in their fast form. Without it the model
        is traced just as Keras runs it; the samples are the same.
    whole
        Whether TensorFlow can run the function; otherwise its lowered loops are empty, for the conversion to fill in.
    per_sample
        The inputs that come with a sample axis, ``[num_samples, batch, ...]``.

    Raises
    ------
    ConvertError
        The model cannot be traced with its draws replaced.
    """
    specs = specs_of({t.name: t for t in taken(plan.inputs, per_sample)})
    lowered: list[Recurrence] = []

    def sample(tensors: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        call = call_of(tensors)
        inputs = [call.rows_first(tensors[t.name]) if t.name in per_sample else tensors[t.name] for t in plan.inputs]
        replay = Replay(plan, Numbers(plan.draws, call), call)
        with keras_hooks.intercept(replay):
            if lower:
                outputs = _lowered(plan, call, replay, inputs, per_sample, whole, lowered)
            else:
                inputs = [
                    x if t.name in per_sample else call.repeat(x) for t, x in zip(plan.inputs, inputs, strict=True)
                ]
                outputs = plan.call(inputs)
        return {
            t.name: tf.identity(call.samples_first(y), name=t.name) for t, y in zip(plan.outputs, outputs, strict=True)
        }

    return Traced(concrete(plan, sample, specs), tuple(lowered))


def specs_of(inputs: dict[str, Any]) -> dict[str, tf.TensorSpec]:
    """The signature of a traced function: these inputs and the contract's own."""
    specs = {name: tf.TensorSpec(t.shape, t.dtype, name=name) for name, t in inputs.items()}
    specs |= {name: tf.TensorSpec(None, tf.int64, name=name) for name in SCALARS}
    specs[ROWS] = tf.TensorSpec([None], tf.int64, name=ROWS)
    return specs


def call_of(tensors: dict[str, tf.Tensor]) -> Call:
    """What the contract's own inputs ask for; a scalar may have come with an axis."""
    seed, samples, first = (tf.reshape(tensors[name], []) for name in (SEED, NUM_SAMPLES, FIRST_SAMPLE))
    return Call(seed, tensors[ROWS], samples, first)


def concrete(plan: Plan, function: Callable[..., Any], specs: dict[str, tf.TensorSpec]) -> Any:
    """Trace a function of the model with that signature; ConvertError where that fails, Refusals as they are."""
    try:
        with keras_hooks.sampling_state(plan.model), keras_hooks.convertible(), keras_hooks.plain_errors():
            return tf.function(function, autograph=False).get_concrete_function(specs)
    except Refusal:
        raise
    except Exception as error:  # of any kind: the model's own code runs here
        reason = " ".join(str(error).split())[:300]
        raise ConvertError(
            f"the model does not trace with its draws replaced ({type(error).__name__}: {reason})"
        ) from error


def _lowered(
    plan: Plan,
    call: Call,
    replay: Replay,
    inputs: list[tf.Tensor],
    per_sample: Collection[str],
    whole: bool,
    lowered: list[Recurrence],
) -> list[tf.Tensor]:
    frontier = Frontier(plan, call, per_sample)
    recurrences = Recurrences(Masks(replay.kept, frontier.row_origin), call.num_samples, whole=whole)
    replay.row_origin = frontier.row_origin
    with keras_hooks.replaced_loops(recurrences.inner_loop, fold_time):
        outputs = frontier.run(inputs)
    lowered[:] = recurrences.lowered
    return outputs
