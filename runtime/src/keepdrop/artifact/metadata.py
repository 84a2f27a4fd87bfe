"""The artifact: names, axes, version and metadata of a file that samples.

This module is their one owner; the exporter writes with it what the runtime reads with it.

The graph takes every Keras input under its own name, one example a row, and beside them

    seed          int64 [] or [1]  the seed s
    rows          int64 [batch]    the row ids
    num_samples   int64 [] or [1]  T
    first_sample  int64 [] or [1]  the samples are first_sample ... first_sample + T - 1

and gives every Keras output under its own name, ``[num_samples, batch, ...]``. All of them are required. Files of the
first form had defaults for ``num_samples`` and ``first_sample`` and took scalars as ``[]`` alone; they are read too.

A streaming artifact (``Metadata.stream``) takes a chunk of steps instead of the whole input, ``[batch, steps, ...]``,
and beside the above

    steps_seen    int64 [batch]   how many steps each row has seen before this chunk
    each state    zero at a row's start, and given back as its name + ``NEXT_SUFFIX``
    each mask     with batch 0 the graph makes it; given back as its name + ``MADE_SUFFIX``

An output without a time axis is the answer after the chunk's last step.

An input that ``Metadata.per_sample`` names has a sample axis before its batch, ``[num_samples, batch, ...]``: each
sample has an input of its own, as a forecast has that is fed with its own output.

An artifact is an ONNX file, or a TensorFlow SavedModel with the same signature, whose metadata is an asset.

What a newer export adds must not lock an older runtime out of samples it can draw: a field of the metadata, an output
of the graph or a kind of head that this module does not know is passed over. What must be understood to draw the right
samples is named in ``Metadata.requires``, and an input that is not known is refused by its name.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from dataclasses import dataclass
from typing import Any, Optional, Union, get_args, get_origin, get_type_hints

from keepdrop.errors import ArtifactError

CONTRACT_VERSION = 1
METADATA_KEY = "keepdrop"
# Further properties of the file, JSON texts too; the checksum covers them like everything else.
TABLE_KEY = "keepdrop.table"
CALIBRATION_KEY = "keepdrop.calibration"
CHECKSUM_KEY = "keepdrop.crc32"
OPSET = 18
# What draws numbers that no seed of ours reaches: Dropout too, since it can be told to train.
UNSEEDED_OPERATORS = (
    "Bernoulli",
    "Dropout",
    "Multinomial",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
)

SEED = "seed"
ROWS = "rows"
NUM_SAMPLES = "num_samples"
FIRST_SAMPLE = "first_sample"
RESERVED_NAMES = (SEED, ROWS, NUM_SAMPLES, FIRST_SAMPLE)
# Taken as [] or [1], for there are bindings without tensors of no axis. ONNX wants a rank declared: they are declared
# as [], whose shape onnxruntime (1.16 to 1.32) does not check, and the graph reshapes.
SCALARS = (SEED, NUM_SAMPLES, FIRST_SAMPLE)
# float32 [Q], an input of graphs that give summaries alone.
QUANTILES = "quantiles"
# What the outputs of a calibrated artifact's summary are called, behind the name of an output of values, of classes.
OBSERVATION_QUANTILES = "observation_quantiles"
OBSERVATION_PROBABILITY = "observation_probability"

STEPS_SEEN = "steps_seen"
NEXT_SUFFIX = "_next"
MADE_SUFFIX = "_made"

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
    """How far one output is from Keras': the largest absolute and relative difference.

    ``nan`` numbers are NaN in both. Where the differences are beyond the tolerance, the two others say how far the
    artifact and Keras are from the same samples in float64, relative to a sample; they are 0 otherwise.
    """

    name: str
    max_abs: float
    max_rel: float
    nan: int = 0
    from_float64: float = 0.0
    keras_from_float64: float = 0.0


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
    """Processor seconds on one thread of the machine that verified: for a run, and for each sample of a row in it.

    ``bytes`` is what each sample of a row adds to the peak memory of a run, activations included, measured where every
    dynamic axis was ``length`` long. 0 is unknown, in each field.
    """

    run: float
    sample: float
    bytes: int = 0
    length: int = 0


VALUE = "value"
SOFTMAX = "softmax"
SIGMOID = "sigmoid"
MEAN_LOGVAR = "mean,logvar"
MEAN = "mean"
LOGVAR = "logvar"
HEAD_KINDS = (VALUE, SOFTMAX, SIGMOID, MEAN_LOGVAR, MEAN, LOGVAR)

# What ``Metadata.requires`` may name: that ``per_sample`` is understood.
PER_SAMPLE = "inputs per sample"
KNOWN_REQUIREMENTS = frozenset({PER_SAMPLE})


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
class State:
    """A tensor that a stream carries along.

    ``shape`` is without its leading axes: the tensor is ``[batch, num_samples, *shape]`` if ``per_sample``, else
    ``[batch, *shape]`` (what precedes the first draw is the same for all samples).
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    per_sample: bool


@dataclass(frozen=True)
class Streaming:
    """What a streaming artifact carries from push to push.

    ``states`` are zero at a row's start. ``masks`` are made once for a row, a pure function of the seed, the row and
    the sample numbers: given with batch 0, ``[0, num_samples, ...]``, they are made by the graph; from then on the
    runtime feeds them. ``block`` is the number of steps after which the draws on a sequence start anew: the model's
    own input length, 1 where that is dynamic.
    """

    states: tuple[State, ...]
    masks: tuple[State, ...]
    block: int


@dataclass(frozen=True)
class Metadata:
    """What an artifact says of itself: the JSON object under ``metadata_props["keepdrop"]``.

    ``changes`` has a line for each change that was made to the model's description before it was exported.
    ``summary`` are outputs beside the samples, figures of these, if the graph gives them: [batch, ...], and quantiles
    [Q, batch, ...]. ``summary_calibration`` is the digest of the calibration that those of an observation hold; they
    are there where it is not None.
    ``requires`` names what a runtime must know to draw these samples; all else that is new to it, it may pass over.
    ``per_sample`` are the names of the inputs with a sample axis, which their ``shape`` leaves out.
    """

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
    stream: Optional[Streaming] = None
    contract: int = CONTRACT_VERSION
    changes: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    summary: tuple[Tensor, ...] = ()
    summary_calibration: Optional[str] = None
    per_sample: tuple[str, ...] = ()

    def to_json(self) -> str:
        """This metadata as one line of JSON."""
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Metadata:
        """Read the JSON object of an artifact.

        Raises
        ------
        ArtifactError
            The text is not such an object, its contract version is not ``CONTRACT_VERSION``, or it requires what this
            version does not know.
        """
        try:
            fields = json.loads(text, object_pairs_hook=_distinct)
            contract = fields["contract"]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise ArtifactError(
                f"its {METADATA_KEY!r} metadata is not the JSON object an export writes ({error!r}); "
                "export the model again"
            ) from error
        if contract != CONTRACT_VERSION or type(contract) is not int:
            raise ArtifactError(
                f"it bears contract version {contract!r} and this keepdrop knows version {CONTRACT_VERSION}; "
                "install the keepdrop it was exported with, or export the model again"
            )
        metadata: Metadata = decoded(cls, fields, "")
        if unknown := sorted(set(metadata.requires) - KNOWN_REQUIREMENTS):
            raise ArtifactError(
                f"its samples need {unknown}, which this keepdrop does not know; install the keepdrop it was "
                f"exported with ({metadata.keepdrop_version}) or a newer one"
            )
        metadata = dataclasses.replace(metadata, heads=tuple(map(_known, metadata.heads)))
        metadata._check_heads()
        return metadata

    def _check_heads(self) -> None:
        names = sorted(tensor.name for tensor in self.outputs)
        if self.heads and sorted(head.output for head in self.heads) != names or not all(map(self._fits, self.heads)):
            raise ArtifactError(
                f"its heads {[(head.output, head.kind) for head in self.heads]} do not go with its outputs {names}; "
                "export the model again"
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


def calibration_digest(text: str) -> str:
    """The sha256, in hexadecimal, of a calibration's property: ``Metadata.summary_calibration`` of a graph with it."""
    import hashlib  # brings OpenSSL, which few calls need

    return hashlib.sha256(text.encode()).hexdigest()


def _known(head: Head) -> Head:
    """The head, or that of any numbers where its kind is one of a newer keepdrop's."""
    return head if head.kind in HEAD_KINDS else Head(head.output)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is there twice")
    return fields


def decoded(kind: Any, value: Any, where: str, key: str = METADATA_KEY) -> Any:
    """JSON as what a field's annotation says; `where` is its place in the property `key`, for the error."""
    if get_origin(kind) is Union:  # Optional
        return None if value is None else decoded(get_args(kind)[0], value, where, key)
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(decoded(get_args(kind)[0], part, f"{where}[{i}]", key) for i, part in enumerate(value))
    if dataclasses.is_dataclass(kind) and isinstance(value, dict):
        return _decoded_object(kind, value, where, key)
    if kind is float and type(value) in (int, float) and abs(value) <= sys.float_info.max:
        return float(value)
    if kind is int and type(value) is int and abs(value) < 2**63 or kind in (str, bool) and type(value) is kind:
        return value
    expected = (
        "an object" if dataclasses.is_dataclass(kind) else "a list" if get_origin(kind) is tuple else kind.__name__
    )
    raise ArtifactError(
        f"its {key!r} metadata has {_short(value)} as {where or 'a whole'}, where {expected} belongs; "
        "export the model again"
    )


def _decoded_object(kind: Any, value: dict[str, Any], where: str, key: str) -> Any:
    needed = {field.name for field in dataclasses.fields(kind) if field.default is dataclasses.MISSING}
    if missing := sorted(needed - set(value)):
        raise ArtifactError(
            f"its {key!r} metadata lacks fields ({where or 'at its root'}: {_short(missing)}); export the model again"
        )
    known = {name: part for name, part in get_type_hints(kind).items() if name in value}
    return kind(
        **{name: decoded(part, value[name], f"{where}.{name}".lstrip("."), key) for name, part in known.items()}
    )


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
