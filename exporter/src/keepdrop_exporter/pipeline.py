"""The way through the house: Keras file -> plan -> traced function -> SavedModel | ONNX -> verified artifact."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import keras

from keepdrop import __version__, replay
from keepdrop.answer.heads import Heads
from keepdrop.artifact.metadata import (
    DEFAULT_SAMPLES,
    LOGVAR,
    MEAN,
    MEAN_LOGVAR,
    PER_SAMPLE,
    TABLE_KEY,
    Head,
    Metadata,
    Verification,
)
from keepdrop.artifact.properties import with_properties
from keepdrop.artifact.savedmodel import METADATA_ASSET, write_savedmodel_properties
from keepdrop.errors import InputError
from keepdrop.run.session import Session
from keepdrop.table import Table, fitted
from keepdrop_exporter.formats.onnx_summary import known_summary
from keepdrop_exporter.formats.savedmodel import open_artifact
from keepdrop_exporter.loading.fitting import Shape
from keepdrop_exporter.loading.live import taken
from keepdrop_exporter.loading.reading import Loaded
from keepdrop_exporter.plan import ATOL, RTOL, keras_hooks
from keepdrop_exporter.plan.draws import Plan, make_plan, tensors
from keepdrop_exporter.plan.heads import find_heads
from keepdrop_exporter.plan.inputs import Data, given, random_batches
from keepdrop_exporter.trace.function import Traced, trace
from keepdrop_exporter.trace.stream_function import trace_stream
from keepdrop_exporter.verification.cost import measure_cost
from keepdrop_exporter.verification.streams import measure_push, verify_stream
from keepdrop_exporter.verification.summaries import verify_summary
from keepdrop_exporter.verification.whole import verify_plan

from . import writing
from .errors import ExportError, VerifyError
from .formats import onnx_export, savedmodel
from .retrofit import retrofitted
from .scaling import absolute_tolerance, scaled


@dataclass(frozen=True)
class Report:
    """What an export made: the file or directory, its size in bytes, its metadata, and lines its user should read."""

    path: Path
    size: int
    metadata: Metadata
    notes: tuple[str, ...]

    @property
    def verified(self) -> Verification:
        """What was compared with Keras, and how far apart the samples were."""
        assert self.metadata.verified is not None
        return self.metadata.verified


def export(
    model: keras.Model | str | Path,
    path: str | Path,
    *,
    streaming: bool = False,
    format: str | None = None,
    dropout: Mapping[str, float] | None = None,
    input_scaler: Any = None,
    output_scaler: Any = None,
    table: Table | Mapping[str, Any] | str | Path | None = None,
    default_samples: int = DEFAULT_SAMPLES,
    summary: bool = False,
    per_sample: Sequence[str] = (),
    vectors: str | Path | None = None,
    heads: Heads | None = None,
    rows: int = 4,
    samples: int = 16,
    seed: int = 0,
    data: Data = None,
    atol: float = ATOL,
    rtol: float = RTOL,
    custom_objects: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    trust_code: bool = False,
    input_shapes: Mapping[str, Shape] | Shape | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> Report:
    """Export a Keras model with its dropout active to a file whose seed is an input, verified against Keras.

    The file gets its name only once its samples are found equal to Keras'; a failed export leaves what was there.
    Keras' random functions are replaced meanwhile: no other thread of the process should run Keras models.

    Parameters
    ----------
    model
        A Keras model, or what ``load`` takes: a ``.keras``, ``.h5`` or ``.json`` file, a SavedModel's folder.
    path
        The ONNX file or the directory to write.
    streaming
        Whether the artifact takes one step after another and carries its states along, for ``keepdrop.Model.stream``.
        What stateful layers carry from call to call is then among them.
    format
        ``"onnx"``, or ``"savedmodel"`` for a TensorFlow SavedModel with the same signature. By default ONNX where
        the path ends in ``.onnx``, and a SavedModel where it has no suffix.
    dropout
        Rates to set first, by layer; see ``with_dropout``. The artifact is then verified against that model.
    input_scaler, output_scaler
        What the inputs and the targets were scaled with, for an artifact that takes and gives raw numbers; see
        ``with_scaling``. It comes after ``dropout``, and the artifact is verified against that model.
    table
        What columns of readings mean to the model, and its outputs to the user: a ``keepdrop.Table``, a dict of its
        parameters or a JSON file. It goes into the artifact, with the names and lengths that the model has.
    default_samples
        How many samples ``keepdrop`` draws where none are asked for.
    summary
        Whether the ONNX file also gives each output's mean, standard deviation and quantiles, and by its head entropies
        or kinds of variance, for programs that should not compute them: see ``docs/devices.md``.
    per_sample
        Names of inputs that each sample has of its own, ``[num_samples, batch, ...]``: for forecasts that are fed with
        their own output, see :func:`keepdrop.rollout`.
    vectors
        A folder to make, with calls of the ONNX file and what they have to give: ``keepdrop check`` replays them on a
        device, a program of any language can.
    heads
        What the outputs are, where it is not what the model ends in: "value", "softmax", "sigmoid" or "mean,logvar", or
        a dict of these by output; two outputs are ``{"level,spread": "mean,logvar"}``. See ``keepdrop_exporter.heads``.
    rows, samples, seed, data, atol, rtol
        How the artifact is verified; see ``verify``.
    custom_objects, weights, trust_code, input_shapes
        How a file is loaded, or a model without inputs is called; see ``load``.
    progress
        Told each stage's name as it begins.

    Raises
    ------
    InputError
        What would be written is a file that is read.
    LoadError, RetrofitError, ScalingError, Refusal, ConvertError, VerifyError
        The stage that failed, each with what to do.
    """
    target = Path(path)
    if not target.parent.is_dir():
        raise ExportError(f"{target}: there is no folder {target.parent}; make it first")
    form = _form(target, format)
    if streaming and not form.streams:
        raise ExportError(f"{target}: a streaming artifact is an ONNX file; let its name end in .onnx")
    if summary and not form.summaries:
        raise ExportError(f"{target}: summaries are outputs of an ONNX file; let the artifact's name end in .onnx")
    if vectors is not None:
        if not form.vectors:
            raise ExportError(f"{vectors}: vectors are of an ONNX file; let the artifact's name end in .onnx")
        replay.refuse_folder(Path(vectors))
    writing.refuse_overwriting(
        {"the artifact": target, "the folder of vectors": vectors},
        {
            "the model": model,
            "the weights": weights,
            "the scaler of the inputs": input_scaler,
            "the scaler of the outputs": output_scaler,
            "the table": table,
        },
    )
    if per_sample and (streaming or summary or vectors is not None):
        other = "streaming=True" if streaming else "summary=True" if summary else f"vectors={vectors}"
        raise ExportError(f"per_sample={list(per_sample)} does not go with {other}; leave one out")
    if default_samples < 1:
        raise ExportError(f"default_samples={default_samples}: at least 1 sample must be drawn")
    progress("load")
    loaded = taken(
        model,
        custom_objects,
        weights,
        trust_code=trust_code,
        most_bytes=form.most_bytes,
        input_shapes=input_shapes,
        streaming=streaming,
    )
    form.refuse_size(loaded.model)
    retrofit_model, changes = retrofitted(loaded.model, dropout or {})
    declared = None if table is None else declared_table(table)
    columns = None if declared is None else columns_of(declared, retrofit_model)
    raw_model, lines = scaled(retrofit_model, input_scaler, output_scaler, heads, columns)
    loaded = replace(loaded, model=raw_model, changes=(*loaded.changes, *changes, *lines))
    atol = absolute_tolerance(atol, raw_model, output_scaler)
    progress("plan")
    plan = make_plan(loaded.model)
    known_heads, head_notes = find_heads(plan.model, plan.outputs, heads)
    text = None if declared is None else fitted_table(declared, plan, known_heads).to_json()
    own = _own_inputs(plan, per_sample)
    progress("trace")
    traced, described = (
        trace_stream(plan, whole=form.whole) if streaming else (trace(plan, whole=form.whole, per_sample=own), plan)
    )
    progress("convert")
    metadata = replace(
        _metadata(described, known_heads, default_samples, loaded),
        stream=traced.stream,
        per_sample=own,
        requires=(PER_SAMPLE,) if own else (),
    )
    if summary:
        metadata = replace(metadata, summary=known_summary(metadata))
    with writing.temporary_beside(target) as partial:
        update = form.write(traced, partial, metadata)
        progress("verify")
        check = verify_stream if streaming else verify_plan
        verified = _checked(
            check, plan, partial, rows=rows, samples=samples, seed=seed, data=data, atol=atol, rtol=rtol
        )
        if summary:
            verify_summary(partial, random_batches(plan, 3, seed)[0] if data is None else given(plan, data, 3))
        progress("cost")
        cost = measure_push(plan, partial) if streaming else measure_cost(plan, partial, data)
        metadata = replace(metadata, verified=verified, cost=cost)
        update(metadata)
        if text is not None:
            _write_property(partial, TABLE_KEY, text)
        writing.replace(partial, target)
    if vectors is not None:
        x = random_batches(plan, 3, seed)[0] if data is None else given(plan, data, 3)
        replay.write_vectors(Session(target), vectors, x)
    return Report(target, writing.size(target), metadata, (*loaded.changes, *described.notes, *head_notes))


def verify(
    model: keras.Model | str | Path,
    artifact: str | Path,
    *,
    dropout: Mapping[str, float] | None = None,
    input_scaler: Any = None,
    output_scaler: Any = None,
    rows: int = 4,
    samples: int = 16,
    seed: int = 0,
    data: Data = None,
    atol: float = ATOL,
    rtol: float = RTOL,
    custom_objects: Mapping[str, Any] | None = None,
    weights: str | Path | None = None,
    trust_code: bool = False,
    input_shapes: Mapping[str, Shape] | Shape | None = None,
) -> Verification:
    """Draw samples from an artifact and compare them with those stock Keras computes.

    Parameters
    ----------
    model
        The Keras model the artifact was made from, or its file.
    artifact
        The ONNX file, or the directory of a SavedModel.
    dropout
        The rates that were set on the way to the artifact, by layer; see ``with_dropout``.
    input_scaler, output_scaler
        The scalers that were built into the artifact; see ``with_scaling``.
    rows, samples
        How many examples, and how many samples of each, are compared.
    seed
        The seed of the samples (and of the random inputs).
    data
        Inputs to use, [n, ...] (a dict by input name where there are several); the first ``rows`` of them are
        taken. By default normal numbers of the scale that a normalisation at the input was made for, else of standard
        deviation 0.5, valid ids where an Embedding reads them, at two lengths where the length is dynamic. A streaming
        artifact is pushed all steps of them.
    atol, rtol
        A sample a may differ from Keras' sample r by ``atol + rtol * |r|``; where it differs by more, and the default
        or a larger tolerance is given, both are compared with float64: see ``verification.comparison``.
    custom_objects, weights, trust_code, input_shapes
        How a file is loaded, or a model without inputs is called; see ``load``.

    Raises
    ------
    VerifyError
        Samples differ from Keras'; or nothing varies over samples; or another seed gives the same samples, the
        same seed others; or samples depend on how a call is cut into chunks.
    """
    metadata = open_artifact(artifact).metadata
    streams = metadata.stream is not None
    loaded = taken(model, custom_objects, weights, trust_code=trust_code, input_shapes=input_shapes, streaming=streams)
    another = ""
    if None not in (loaded.sha256, metadata.source_sha256) and loaded.sha256 != metadata.source_sha256:
        another = f"{artifact} was made from another file than {model} (their SHA-256 differ): "
    check = verify_stream if streams else verify_plan
    keras_model, _ = retrofitted(loaded.model, dropout or {})
    keras_model, _ = scaled(keras_model, input_scaler, output_scaler, _declared(metadata.heads))
    atol = absolute_tolerance(atol, keras_model, output_scaler)
    plan = make_plan(keras_model)
    try:
        return _checked(check, plan, artifact, rows=rows, samples=samples, seed=seed, data=data, atol=atol, rtol=rtol)
    except VerifyError as error:
        raise VerifyError(f"{another}{error}") from error


def declared_table(table: Table | Mapping[str, Any] | str | Path) -> Table:
    """What columns mean, as ``export`` takes it; ExportError where it is none."""
    try:
        if isinstance(table, Table):
            return table
        return Table.from_json(json.dumps(dict(table))) if isinstance(table, Mapping) else Table.read(table)
    except InputError as error:
        raise ExportError(f"table: {error}") from error


def columns_of(table: Table, model: keras.Model) -> dict[str, tuple[str, ...]]:
    """The names of each input's columns; of a table that does not name the only input, those of the first."""
    first = tensors(model)[0][0].name
    return {name or first: of.names for name, of in table.inputs.items()}


def fitted_table(table: Table, plan: Plan, heads: tuple[Head, ...]) -> Table:
    """The table with the names and lengths that the model has; ExportError where it is not that model's."""
    try:
        return fitted(table, plan.inputs, plan.outputs, heads)
    except InputError as error:
        raise ExportError(f"table: {error}") from error


def _checked(check: Callable[..., Verification], plan: Plan, artifact: str | Path, **options: Any) -> Verification:
    """What ``check`` finds; where it fails on a quantised model, it says that too."""
    try:
        return check(plan, artifact, **options)
    except VerifyError as error:
        layers = keras_hooks.all_layers(plan.model)
        names = [layer.name for layer in layers if getattr(layer, "quantization_mode", None) is not None]
        if not names:
            raise
        raise VerifyError(
            f"{error}. Layer {names[0]!r} is quantised: it rounds what it is given to whole steps, one of which may be "
            "the next one where the last digit differs; export the model as it was before quantize()"
        ) from error


def _own_inputs(plan: Plan, names: Sequence[str]) -> tuple[str, ...]:
    """The inputs that are named, in the model's order; ExportError where one is none."""
    known = [t.name for t in plan.inputs]
    if unknown := [name for name in names if name not in known]:
        raise ExportError(f"per_sample={list(names)}: the model has no input {unknown}; its inputs are {known}")
    return tuple(name for name in known if name in names)


def _write_property(path: Path, key: str, text: str) -> None:
    if path.is_dir():
        write_savedmodel_properties(path, {key: text})
    else:
        path.write_bytes(with_properties(path.read_bytes(), {key: text}))


def _declared(heads: tuple[Head, ...]) -> dict[str, str]:
    """The declaration that makes these heads."""
    kinds = {h.output: (h.output, h.kind) for h in heads if h.kind not in (MEAN, LOGVAR)}
    kinds |= {h.output: (f"{h.output},{h.partner}", MEAN_LOGVAR) for h in heads if h.kind == MEAN}
    return dict(kinds.values())


Update = Callable[[Metadata], None]


class _Form(NamedTuple):
    """A format: what writes it and gives a function that replaces its metadata; what it holds, and refuses to hold.

    ``whole``: TensorFlow will run the traced function.
    """

    write: Callable[[Traced, Path, Metadata], Update]
    whole: bool
    streams: bool
    vectors: bool
    summaries: bool
    most_bytes: int | None
    refuse_size: Callable[[keras.Model], None]


def _form(target: Path, form: str | None) -> _Form:
    """The format of that name, or that the path's suffix means."""
    if form not in (None, "onnx", "savedmodel"):
        raise ExportError(f"format={form!r}: give 'onnx' or 'savedmodel'")
    if form == "savedmodel" or (form is None and not target.suffix):
        if target.suffix == ".onnx":
            raise ExportError(f"{target}: a SavedModel is a directory; give it a name without .onnx")
        older = (target / METADATA_ASSET).is_file() or (target.is_dir() and not any(target.iterdir()))
        if target.exists() and not older:
            raise ExportError(
                f"{target} is there and is no SavedModel of keepdrop's; give another name, or move it away"
            )
        return _Form(_write_savedmodel, True, False, False, False, None, lambda model: None)
    if target.suffix != ".onnx":
        raise ExportError(
            f"{target}: the artifact is an ONNX file; let its name end in .onnx, or say format='savedmodel' "
            "(--format savedmodel)"
        )
    if target.is_dir():
        raise ExportError(f"{target} is a directory; give the ONNX file another name")
    return _Form(_write_onnx, False, True, True, True, onnx_export.MOST_BYTES, onnx_export.refuse_size)


def _write_onnx(traced: Traced, path: Path, metadata: Metadata) -> Update:
    heads = metadata.heads if metadata.summary else None
    artifact = onnx_export.to_onnx(
        traced, metadata.inputs, metadata.outputs, heads, metadata.per_sample
    ).SerializeToString()
    path.write_bytes(onnx_export.with_metadata(artifact, metadata))

    def update(metadata: Metadata) -> None:
        path.write_bytes(onnx_export.with_metadata(path.read_bytes(), metadata))

    return update


def _write_savedmodel(traced: Traced, path: Path, metadata: Metadata) -> Update:
    savedmodel.write(traced, path, metadata)
    return lambda metadata: savedmodel.write_metadata(path, metadata)


def _metadata(plan: Plan, heads: tuple[Head, ...], default_samples: int, loaded: Loaded) -> Metadata:
    return Metadata(
        keepdrop_version=__version__,
        keras_version=keras.__version__,
        inputs=plan.inputs,
        outputs=plan.outputs,
        draws=plan.draws,
        draws_per_row=plan.draws_per_row,
        default_samples=default_samples,
        source_sha256=loaded.sha256,
        verified=None,
        heads=heads,
        changes=loaded.changes,
    )
