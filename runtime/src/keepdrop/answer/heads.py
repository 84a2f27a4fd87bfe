"""Heads: what the numbers of each output are, as the artifact says it or as its user declares it.

A declaration is one kind for all there is, ``"softmax"``, or kinds by output, ``{"mood": "softmax"}``. The kind
``"mean,logvar"`` is of one output whose last axis holds both halves, or of two outputs: ``{"level,spread":
"mean,logvar"}``, or ``"mean,logvar"`` alone where the model has just these two, in that order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

from keepdrop.artifact.metadata import LOGVAR, MEAN, MEAN_LOGVAR, SIGMOID, SOFTMAX, VALUE, Head, Tensor
from keepdrop.errors import InputError

Heads = Union[str, Mapping[str, str]]

DECLARABLE = (VALUE, SOFTMAX, SIGMOID, MEAN_LOGVAR)


def resolved(outputs: Sequence[Tensor], known: Sequence[Head], declared: Optional[Heads] = None) -> tuple[Head, ...]:
    """The head of each output: what is declared, else what is known of it, else a plain value.

    Raises
    ------
    InputError
        The declaration names an unknown kind or output, leaves open which output it is of, or does not fit its shape.
    """
    heads = {tensor.name: Head(tensor.name) for tensor in outputs}
    heads.update((head.output, head) for head in known)
    for names, kind in _by_output(outputs, declared).items():
        for head in _declared(outputs, names, kind):
            former = heads[head.output].partner
            if former in heads and heads[former].partner == head.output:
                heads[former] = Head(former)
            heads[head.output] = head
    return tuple(heads[tensor.name] for tensor in outputs)


def _by_output(outputs: Sequence[Tensor], declared: Optional[Heads]) -> dict[tuple[str, ...], str]:
    """Kinds by the names they are of: one name, or mean and log-variance."""
    if declared is None:
        return {}
    names = [tensor.name for tensor in outputs]
    if isinstance(declared, str):
        kind = _kind(declared)
        if len(names) == 1 or (len(names) == 2 and kind == MEAN_LOGVAR):
            return {tuple(names): kind}
        raise InputError(
            f"head {kind!r} does not say of which output, and the model has {names}; "
            f"declare it as {{{names[0]!r}: {kind!r}}}"
        )
    if not isinstance(declared, Mapping):
        raise InputError(f"heads is {declared!r}; give one of {list(DECLARABLE)}, or a dict of them by output")
    by_output = {tuple(str(key).replace(" ", "").split(",")): _kind(kind) for key, kind in declared.items()}
    for key, kind in by_output.items():
        unknown = [name for name in key if name not in names]
        if unknown:
            raise InputError(f"a head is declared for output {unknown[0]!r}; the model's outputs are {names}")
        if len(key) != 1 and (len(set(key)) != 2 or kind != MEAN_LOGVAR):
            raise InputError(
                f"head {kind!r} is declared for outputs {list(key)}; only two outputs can be {MEAN_LOGVAR!r}"
            )
    every = [name for key in by_output for name in key]
    twice = [name for name in every if every.count(name) > 1]
    if twice:
        raise InputError(f"output {twice[0]!r} has two heads declared; give it one")
    return by_output


def _kind(kind: Any) -> str:
    text = kind.replace(" ", "") if isinstance(kind, str) else kind
    if text not in DECLARABLE:
        raise InputError(f"there is no head {kind!r}; give one of {list(DECLARABLE)}")
    return str(text)


def _declared(outputs: Sequence[Tensor], names: tuple[str, ...], kind: str) -> list[Head]:
    tensors = [next(tensor for tensor in outputs if tensor.name == name) for name in names]
    shapes = [tensor.shape[2:] for tensor in tensors]
    if len(names) == 2:
        if shapes[0] != shapes[1]:
            raise InputError(
                f"outputs {list(names)} cannot be mean and log-variance: their rows have the shapes {list(shapes[0])} "
                f"and {list(shapes[1])}; declare two of the same shape"
            )
        return [Head(names[0], MEAN, names[1]), Head(names[1], LOGVAR, names[0])]
    shape = shapes[0]
    if kind == SOFTMAX and not shape:
        raise InputError(f"output {names[0]!r} has one number a row, no axis of classes; declare it as {SIGMOID!r}")
    if kind == MEAN_LOGVAR and (not shape or shape[-1] is None or shape[-1] % 2):
        raise InputError(
            f"output {names[0]!r} has the shape {list(shape)} a row; its last axis has to be means and as many "
            f"log-variances: an even number, or declare two outputs as 'MEAN,LOGVAR={MEAN_LOGVAR}'"
        )
    return [Head(names[0], kind)]
