"""The artifact: names, axes, version and metadata of a file that samples.

This module is their one owner; the exporter writes with it what the runtime reads with it.

The graph takes every Keras input under its own name, one example a row, and beside them

    seed          int64 []        the seed s
    rows          int64 [batch]   the row ids
    num_samples   int64 []        T; optional, its default is stored in the graph
    first_sample  int64 []        the samples are first_sample ... first_sample + T - 1; optional, default 0

and gives every Keras output under its own name, ``[num_samples, batch, ...]``.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any, Optional

from .errors import ArtifactError

CONTRACT_VERSION = 1
METADATA_KEY = "keepdrop"

SEED = "seed"
ROWS = "rows"
NUM_SAMPLES = "num_samples"
FIRST_SAMPLE = "first_sample"
RESERVED_NAMES = (SEED, ROWS, NUM_SAMPLES, FIRST_SAMPLE)

SAMPLE_AXIS = 0
BATCH_AXIS = 1

DEFAULT_SAMPLES = 100


@dataclass(frozen=True)
class Tensor:
    """An input or output of the graph; ``None`` in ``shape`` is a dynamic axis.

    The shape of an input starts with the batch, that of an output with samples and batch.
    """

    name: str
    dtype: str
    shape: tuple[Optional[int], ...]


@dataclass(frozen=True)
class Draw:
    """One call for random numbers in a forward pass.

    ``shape`` is what one sample takes of it, without the sample axis; ``None`` is an axis that
    follows the input's length. ``offset`` is the draw's number within a row, 0 ... D - 1, and
    ``generator`` that of the seed generator it belongs to. ``rate`` is None where the kind has none.
    """

    layer: str
    argument: str
    kind: str
    rate: Optional[float]
    shape: tuple[Optional[int], ...]
    generator: int
    offset: int


@dataclass(frozen=True)
class OutputCheck:
    """How far one output is from Keras': the largest absolute and relative difference."""

    name: str
    max_abs: float
    max_rel: float


@dataclass(frozen=True)
class Verification:
    """What ``verify`` compared, at which tolerance, and what it measured."""

    rows: int
    samples: int
    seed: int
    atol: float
    rtol: float
    data: str
    outputs: tuple[OutputCheck, ...]


@dataclass(frozen=True)
class Cost:
    """Seconds on one thread of the machine that verified: for a run, and for each sample of a row in it."""

    run: float
    sample: float


VALUE = "value"
SOFTMAX = "softmax"
SIGMOID = "sigmoid"
MEAN_LOGVAR = "mean,logvar"
MEAN = "mean"
LOGVAR = "logvar"
HEAD_KINDS = (VALUE, SOFTMAX, SIGMOID, MEAN_LOGVAR, MEAN, LOGVAR)


@dataclass(frozen=True)
class Head:
    """What the numbers of one output are.

    ``kind`` is "value" (anything), "softmax" (probabilities of classes along the last axis), "sigmoid" (each
    element the probability of an event of its own), or "mean,logvar" (of 2K along the last axis the first K are means,
    the others the natural logarithms of variances). Where two outputs share that work their kinds are "mean" and
    "logvar", and ``partner`` is the other's name.
    """

    output: str
    kind: str = VALUE
    partner: Optional[str] = None


@dataclass(frozen=True)
class Metadata:
    """What an artifact says of itself: the JSON object under ``metadata_props["keepdrop"]``."""

    keepdrop_version: str
    keras_version: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    draws: tuple[Draw, ...]
    draws_per_row: int
    default_samples: int
    source_sha256: Optional[str]
    verified: Optional[Verification]
    cost: Optional[Cost] = None
    heads: tuple[Head, ...] = ()
    contract: int = CONTRACT_VERSION

    def to_json(self) -> str:
        """This metadata as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """Read the JSON object of an artifact.

        Raises
        ------
        ArtifactError
            The text is not such an object, or its contract version is not ``CONTRACT_VERSION``.
        """
        try:
            fields = json.loads(text)
            contract = fields["contract"]
        except (ValueError, TypeError, KeyError) as error:
            raise ArtifactError(
                f"its {METADATA_KEY!r} metadata is not the JSON object an export writes ({error!r}); "
                "export the model again"
            ) from error
        if contract != CONTRACT_VERSION:
            raise ArtifactError(
                f"it bears contract version {contract!r} and this keepdrop knows version {CONTRACT_VERSION}; "
                "install the keepdrop it was exported with, or export the model again"
            )
        try:
            metadata = cls(**{**fields, **_nested(fields)})
        except (TypeError, KeyError) as error:
            raise ArtifactError(
                f"its {METADATA_KEY!r} metadata lacks or adds fields ({error}); export the model again"
            ) from error
        metadata._check_heads()
        return metadata

    def _check_heads(self) -> None:
        names = sorted(tensor.name for tensor in self.outputs)
        if self.heads and sorted(head.output for head in self.heads) != names or not all(map(self._fits, self.heads)):
            raise ArtifactError(
                f"its heads {[(head.output, head.kind) for head in self.heads]} do not go with its outputs {names}, or "
                f"are none of {list(HEAD_KINDS)}; export the model again, or install the keepdrop it was exported with"
            )

    def _fits(self, head: Head) -> bool:
        """Whether a head can be that of its output, by its shape and its partner."""
        shapes = {tensor.name: tensor.shape[2:] for tensor in self.outputs}
        shape = shapes[head.output]
        if head.kind in (MEAN, LOGVAR):
            other = Head(head.partner or "", LOGVAR if head.kind == MEAN else MEAN, head.output)
            return other in self.heads and shapes[other.output] == shape
        if head.kind == MEAN_LOGVAR:
            return bool(shape) and shape[-1] is not None and shape[-1] % 2 == 0
        return head.kind in (VALUE, SIGMOID) or head.kind == SOFTMAX and bool(shape)


def _nested(fields: dict[str, Any]) -> dict[str, Any]:
    verified, cost = fields["verified"], fields.get("cost")
    return {
        "inputs": tuple(_tensor(t) for t in fields["inputs"]),
        "outputs": tuple(_tensor(t) for t in fields["outputs"]),
        "draws": tuple(Draw(**{**d, "shape": tuple(d["shape"])}) for d in fields["draws"]),
        "cost": cost and Cost(**cost),
        "heads": tuple(Head(**h) for h in fields.get("heads", ())),
        "verified": verified
        and Verification(**{**verified, "outputs": tuple(OutputCheck(**o) for o in verified["outputs"])}),
    }


def _tensor(fields: dict[str, Any]) -> Tensor:
    return Tensor(**{**fields, "shape": tuple(fields["shape"])})
