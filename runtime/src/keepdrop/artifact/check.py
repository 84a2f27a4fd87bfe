"""Whether an artifact is consistent: its metadata in themselves, and with the graph it comes with.

Both are untrusted. Everything here is decided before onnxruntime opens the file, from what `onnx_file` read of it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Optional

from keepdrop.errors import ArtifactError

from .metadata import (
    FIRST_SAMPLE,
    MADE_SUFFIX,
    METADATA_KEY,
    NEXT_SUFFIX,
    NUM_SAMPLES,
    PER_SAMPLE,
    QUANTILES,
    RESERVED_NAMES,
    ROWS,
    SCALARS,
    STEPS_SEEN,
    Draw,
    Metadata,
    State,
    Streaming,
    Tensor,
)
from .onnx_file import NUMBERS, Contents, Declared

# The most numbers that one example, one sample or one draw of it can have: 16 GiB of float32.
MOST_ELEMENTS = 2**32
# The most bytes that one sample of one row can take while it runs.
MOST_BYTES = 2**50
Axes = tuple[Optional[int], ...]


def checked(contents: Contents) -> Metadata:
    """The metadata of a file, found consistent and in agreement with its graph.

    Raises
    ------
    ArtifactError
        There are none, or they are not; the text names the field or the tensor.
    """
    if contents.metadata is None:
        raise ArtifactError(
            f"it is an ONNX file without {METADATA_KEY!r} metadata; "
            "export the Keras model with `keepdrop export`: other converters drop the randomness"
        )
    metadata = Metadata.from_json(contents.metadata)
    check_metadata(metadata)
    _check_graph(metadata, contents)
    return metadata


def check_metadata(metadata: Metadata) -> None:
    """Raise ArtifactError where metadata say what no export does."""
    _check_tensors(metadata)
    _check_draws(metadata.draws, metadata.draws_per_row)
    _demand(metadata.default_samples >= 1, "default_samples", metadata.default_samples, "1 or more")
    if metadata.stream:
        _check_stream(metadata, metadata.stream)
    _check_per_sample(metadata)
    for name in ("source_sha256", "summary_calibration"):
        sha256 = getattr(metadata, name)
        is_digest = sha256 is None or (len(sha256) == 64 and set(sha256) <= set("0123456789abcdef"))
        _demand(is_digest, name, sha256, "64 hexadecimal digits")
    if cost := metadata.cost:
        _demand(min(cost.run, cost.sample) >= 0, "cost", cost, "seconds, 0 or more")
        sized = 0 <= cost.bytes <= MOST_BYTES and 0 <= cost.length <= MOST_ELEMENTS
        _demand(sized, "cost", cost, "bytes and a length, 0 or more")
    if verified := metadata.verified:
        _demand(min(verified.rows, verified.samples) >= 1, "verified", verified, "1 row and sample or more")
        _demand(min(verified.atol, verified.rtol) >= 0, "verified", verified, "tolerances of 0 or more")
        names = [output.name for output in verified.outputs]
        unknown = set(names) - {output.name for output in metadata.outputs}
        _demand(not unknown and len(set(names)) == len(names), "verified.outputs", names, "the outputs' names")


def _check_tensors(metadata: Metadata) -> None:
    _demand(bool(metadata.inputs and metadata.outputs), "inputs and outputs", [], "one of each or more")
    tensors = [*metadata.inputs, *metadata.outputs]
    names = [tensor.name for tensor in tensors]
    for name in names:
        _demand(names.count(name) == 1, "inputs and outputs", name, "names that differ")
        _demand(bool(name) and name not in RESERVED_NAMES, "inputs and outputs", name, "names of the model's own")
    for kind, leading, group in (("input", 1, metadata.inputs), ("output", 2, metadata.outputs)):
        for tensor in group:
            where = f"{kind} {tensor.name!r}"
            _demand(tensor.dtype in NUMBERS, f"the dtype of {where}", tensor.dtype, "a number's")
            first = tensor.shape[:leading]
            _demand(first == (None,) * leading, f"the shape of {where}", tensor.shape, f"null for {leading} axes")
            _check_sizes(f"the shape of {where}", tensor.shape)


def _check_per_sample(metadata: Metadata) -> None:
    found = metadata.per_sample
    known = set(found) <= {tensor.name for tensor in metadata.inputs} and len(set(found)) == len(found)
    _demand(known and not (found and metadata.stream), "per_sample", found, "names of inputs, of no stream")
    _demand((PER_SAMPLE in metadata.requires) == bool(found), "requires", metadata.requires, "what per_sample says")


def _check_stream(metadata: Metadata, stream: Streaming) -> None:
    _demand(stream.block >= 1, "the stream's block", stream.block, "1 step or more")
    inputs, outputs = _carried(stream)
    names = [tensor.name for tensor in (*metadata.inputs, *metadata.outputs, *inputs, *outputs)]
    for tensor in (*inputs, *outputs):
        distinct = names.count(tensor.name) == 1 and tensor.name not in RESERVED_NAMES
        _demand(distinct, "the stream's states and masks", tensor.name, "names of their own")
        _demand(tensor.dtype in NUMBERS, f"the dtype of {tensor.name!r}", tensor.dtype, "a number's")
        _check_sizes(f"the shape of {tensor.name!r}", tensor.shape)
    for tensor in metadata.inputs:
        timed = tensor.shape[:2] == (None, None)
        _demand(timed, f"the shape of input {tensor.name!r} of a stream", tensor.shape, "null for batch and steps")


def _carried(stream: Streaming) -> tuple[list[Tensor], list[Tensor]]:
    """What a streaming graph takes and gives beside what every graph does."""

    def tensor(state: State, suffix: str = "") -> Tensor:
        leading = (None, None) if state.per_sample else (None,)
        return Tensor(state.name + suffix, state.dtype, (*leading, *state.shape))

    inputs = [Tensor(STEPS_SEEN, "int64", (None,)), *(tensor(state) for state in (*stream.states, *stream.masks))]
    outputs = [tensor(state, NEXT_SUFFIX) for state in stream.states]
    return inputs, [*outputs, *(tensor(mask, MADE_SUFFIX) for mask in stream.masks)]


def _check_sizes(where: str, shape: Axes) -> None:
    sizes = [size for size in shape if size is not None]
    fits = all(size >= 1 for size in sizes) and math.prod(sizes) <= MOST_ELEMENTS
    _demand(fits, where, shape, f"sizes of 1 or more, together at most {MOST_ELEMENTS}")


def _check_draws(draws: Sequence[Draw], per_row: int) -> None:
    """Draws are numbered through, those of a generator in a row and generators in the order of their first draw."""
    _demand(per_row == len(draws), "draws_per_row", per_row, f"{len(draws)}, the number of draws")
    generator = -1
    for number, draw in enumerate(draws):
        where = f"draw {number}"
        _demand(draw.offset == number, f"the offset of {where}", draw.offset, str(number))
        follows = draw.generator in (generator, generator + 1) and draw.generator >= 0
        _demand(follows, f"the generator of {where}", draw.generator, f"{max(0, generator)} or {generator + 1}")
        generator = draw.generator
        _check_sizes(f"the shape of {where}", draw.shape)
        has_rate = draw.rate is not None or draw.kind != "dropout"
        in_range = draw.rate is None or 0 < draw.rate < 1
        _demand(has_rate and in_range, f"the rate of {where}", draw.rate, "between 0 and 1")


def _check_graph(metadata: Metadata, contents: Contents) -> None:
    controls = [Tensor(ROWS, "int64", (None,)), *(Tensor(name, "int64", ()) for name in SCALARS)]
    inputs, outputs = _carried(metadata.stream) if metadata.stream else ([], [])
    wanted = [*taken(metadata.inputs, metadata.per_sample), *controls, *inputs]
    wanted += [Tensor(QUANTILES, "float32", (None,))] if metadata.summary else []
    _check_declared("input", wanted, contents.inputs)
    _check_declared("output", [*metadata.outputs, *outputs, *metadata.summary], contents.outputs)
    given = {tensor.name for tensor in contents.inputs}
    # Outputs that nobody asks for change no sample; an input has to be given.
    if more := sorted(given - {tensor.name for tensor in wanted}):
        raise ArtifactError(
            f"the graph wants the inputs {more}, which this keepdrop does not know; install the keepdrop it was "
            f"exported with ({metadata.keepdrop_version}) or a newer one"
        )
    defaults = given & contents.initializers
    if defaults not in (set(), {NUM_SAMPLES, FIRST_SAMPLE}):  # the form of today, and the first
        raise ArtifactError(f"the graph has a default for {sorted(defaults)}, unlike an export; export the model again")


def taken(inputs: Sequence[Tensor], per_sample: Collection[str]) -> list[Tensor]:
    """The inputs as the graph declares them: those that are named have a sample axis."""
    return [replace(t, shape=(None, *t.shape)) if t.name in per_sample else t for t in inputs]


def _check_declared(kind: str, expected: Iterable[Tensor], found: Sequence[Declared]) -> None:
    """Names, dtypes and axes, in any order; there may be more."""
    given = {declared.name: declared for declared in found}
    wanted = {tensor.name: tensor for tensor in expected}
    if missing := [name for name in wanted if name not in given]:
        raise ArtifactError(f"the graph lacks {missing} that its metadata tells of; export the model again")
    if len(given) != len(found):
        raise ArtifactError(f"the graph has an {kind} twice; export the model again")
    for name, tensor in wanted.items():
        if (given[name].dtype, given[name].shape) != (tensor.dtype, tensor.shape):
            raise ArtifactError(
                f"the graph's {kind} {name!r} is {_form(given[name].dtype, given[name].shape)} and its metadata says "
                f"{_form(tensor.dtype, tensor.shape)}; export the model again"
            )


def _form(dtype: str, shape: Optional[Axes]) -> str:
    return dtype if shape is None else f"{dtype} [{', '.join('any' if n is None else str(n) for n in shape)}]"


def _demand(holds: bool, what: str, found: object, expected: str) -> None:
    if not holds:
        text = str(found)
        shown = text if len(text) <= 80 else f"{text[:77]}..."
        raise ArtifactError(
            f"its {METADATA_KEY!r} metadata gives {what} as {shown}; expected {expected}: export the model again"
        )
