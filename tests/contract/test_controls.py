"""Negative controls: each way an artifact can be wrong is found by ``verify`` and by the comparison of test_exact."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

import keepdrop
import keepdrop_exporter
from keepdrop.artifact import onnx_file
from keepdrop_exporter import VerifyError
from keepdrop_exporter.formats import onnx_export
from keepdrop_exporter.trace import philox

from . import models, reference

# The package's attribute of that name is the function.
export_stages = importlib.import_module("keepdrop_exporter.pipeline")
NAME = "LSTM both"


@contextlib.contextmanager
def _flipped_bit(model: keras.Model) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(philox, "_INCREMENTS", (philox._INCREMENTS[0], philox._INCREMENTS[1] ^ 1 << 7))
        yield


def _draws_changed(change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Any:
    """The trace is given other draws than the plan found; the metadata keep those of the plan."""

    @contextlib.contextmanager
    def changed(model: keras.Model) -> Iterator[None]:
        trace = export_stages.trace

        def wrong(plan: Any, *args: Any, **kwargs: Any) -> Any:
            return trace(dataclasses.replace(plan, draws=change(plan.draws)), *args, **kwargs)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export_stages, "trace", wrong)
            yield

    return changed


def _shifted(draws: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dataclasses.replace(d, offset=(d.offset + 1) % len(draws)) for d in draws)


def _swapped_gates(draws: tuple[Any, ...]) -> tuple[Any, ...]:
    """The recurrent masks of two gates change places."""
    a, b = [d.offset for d in draws if d.argument == "recurrent_dropout"][:2]
    return tuple(dataclasses.replace(d, offset={a: b, b: a}.get(d.offset, d.offset)) for d in draws)


def _rate(draws: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(dataclasses.replace(d, rate=d.rate + 0.05) for d in draws)


@contextlib.contextmanager
def _swapped_kernel(model: keras.Model) -> Iterator[None]:
    """The recurrent kernel has two gates' blocks swapped while it is traced and converted."""
    (kernel,) = [v for v in model.trainable_variables if v.name == "recurrent_kernel"]
    value = kernel.numpy()
    swapped = np.concatenate([np.split(value, 4, axis=1)[gate] for gate in (1, 0, 2, 3)], axis=1)
    trace, to_onnx = export_stages.trace, export_stages.onnx_export.to_onnx

    def swap_and_trace(*args: Any, **kwargs: Any) -> Any:
        kernel.assign(swapped)
        return trace(*args, **kwargs)

    def convert_and_restore(*args: Any, **kwargs: Any) -> Any:
        try:
            return to_onnx(*args, **kwargs)
        finally:
            kernel.assign(value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_stages, "trace", swap_and_trace)
        patch.setattr(export_stages.onnx_export, "to_onnx", convert_and_restore)
        yield


DEFECTS = {
    "flipped bit": _flipped_bit,
    "shifted offset": _draws_changed(_shifted),
    "swapped masks of two gates": _draws_changed(_swapped_gates),
    "swapped gates of the kernel": _swapped_kernel,
    "another rate": _draws_changed(_rate),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_fails_the_export_and_the_comparison(defect: str, tmp_path: Path, monkeypatch: Any) -> None:
    model = models.build(NAME)
    verify_plan = export_stages.verify_plan

    def keep_and_verify(plan: Any, artifact: Path, **options: Any) -> Any:
        shutil.copy(artifact, tmp_path / "kept.onnx")
        return verify_plan(plan, artifact, **options)

    monkeypatch.setattr(export_stages, "verify_plan", keep_and_verify)
    with DEFECTS[defect](model), pytest.raises(VerifyError, match="'y' differs from Keras"):
        keepdrop_exporter.export(model, tmp_path / "model.onnx")
    assert not (tmp_path / "model.onnx").exists()
    x = models.inputs(model, batch=3)
    got = keepdrop.load(tmp_path / "kept.onnx").sample(x[0], samples=7, seed=7)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        reference.assert_samples_equal(got, reference.samples(model, x, [0, 1, 2], 7, 7))


def _constant(name: str, value: int) -> Any:
    """Every use of a control of the graph reads a constant instead."""

    def edit(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.input[:] = ["constant_control" if x == name else x for x in node.input]
        graph.initializer.append(onnx.numpy_helper.from_array(np.int64(value), "constant_control"))

    return edit


def _own_noise(graph: onnx.GraphProto) -> None:
    """Noise far below the tolerance that no seed reaches."""
    for node in graph.node:
        node.output[:] = ["clean" if y == "y" else y for y in node.output]
    noise = onnx.helper.make_node("RandomNormalLike", ["clean"], ["noise"], scale=1e-7)
    graph.node.extend([noise, onnx.helper.make_node("Add", ["clean", "noise"], ["y"])])


@pytest.mark.parametrize(
    "edit, fault",
    [
        (_constant("seed", 0), "seeds 0 and 1 give the same samples"),
        (_constant("first_sample", 0), "changes when samples are drawn in chunks"),
        (_own_noise, "the same seed .0. gave other samples the second time"),
    ],
    ids=["seed ignored", "first_sample ignored", "numbers of its own"],
)
def test_verify_notices_an_edited_graph(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edit: Any, fault: str
) -> None:
    # The runtime refuses such operators; this shows what verify would find where it did not.
    monkeypatch.setattr(onnx_file, "_UNSEEDED", frozenset())
    artifact = exported(NAME)
    proto = onnx.load(artifact.path)
    edit(proto.graph)
    edited = onnx_export.with_metadata(proto.SerializeToString(), artifact.model.metadata)
    (tmp_path / "edited.onnx").write_bytes(edited)
    with pytest.raises(VerifyError, match=fault):
        keepdrop_exporter.verify(artifact.keras_model, tmp_path / "edited.onnx", seed=0)
    keepdrop_exporter.verify(artifact.keras_model, artifact.path, seed=0)


def test_verify_notices_that_nothing_varies(tmp_path: Path) -> None:
    """The dropout is there, and what it makes random does not reach the output."""
    x = keras.Input((5,), name="x")
    dead = keras.layers.Dense(2, kernel_initializer="zeros", name="y")(keras.layers.Dropout(0.5)(x))
    with pytest.raises(VerifyError, match="no output varies.*in Keras either: these inputs leave nothing.*--data"):
        keepdrop_exporter.export(keras.Model(x, dead), tmp_path / "dead.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "forgetting",
    [keras.layers.LayerNormalization(name="last"), keras.layers.Dense(1, "softmax", name="last")],
    ids=["normalised alone", "softmax of one"],
)
def test_verify_names_the_layer_that_forgets_what_it_is_given(forgetting: keras.layers.Layer, tmp_path: Path) -> None:
    """As published models have it; Keras' own samples do not vary either."""
    stack = [keras.Input((5,)), keras.layers.Dropout(0.5), keras.layers.Dense(1), forgetting]
    with pytest.raises(VerifyError, match="no output varies.*in Keras either: layer 'last' .*whatever"):
        keepdrop_exporter.export(keras.Sequential(stack), tmp_path / "constant.onnx")


def test_more_samples_are_asked_for_where_a_rate_drops_nothing_of_a_few(tmp_path: Path) -> None:
    """As a search over rates may leave it."""
    stack = [keras.Input((5,)), keras.layers.Dense(32), keras.layers.Dropout(1e-3), keras.layers.Dense(1)]
    model = keras.Sequential(stack)
    with pytest.raises(VerifyError, match=r"in Keras either: rates of at most 0.001 drop 0\.51 numbers.*--samples"):
        keepdrop_exporter.export(model, tmp_path / "rare.onnx", rows=1)
    assert keepdrop_exporter.export(model, tmp_path / "rare.onnx", samples=300).verified.samples == 300


def test_verify_notices_dropout_that_is_switched_off(
    exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a converter leaves that traces the model as model.predict runs it, under an artifact's metadata."""
    artifact = exported(NAME)
    off = keras.Sequential(
        [
            keras.Input((models.STEPS, models.FEATURES), name="x"),
            keras.layers.Dropout(1e-30),  # nothing is ever dropped, but a model that draws nothing is refused
            keras.layers.LSTM(5),
            keras.layers.Dense(2, name="y"),
        ]
    )
    off.set_weights(artifact.keras_model.get_weights())
    with monkeypatch.context() as unverified:
        unverified.setattr(export_stages, "verify_plan", lambda *args, **kwargs: None)
        keepdrop_exporter.export(off, tmp_path / "off.onnx")
    off_file = tmp_path / "off.onnx"
    off_file.write_bytes(onnx_export.with_metadata(off_file.read_bytes(), artifact.model.metadata))
    drawn = keepdrop.load(tmp_path / "off.onnx").sample(artifact.inputs[0], samples=5)
    np.testing.assert_allclose(drawn[0], artifact.keras_model(artifact.inputs[0]), atol=1e-6)
    assert np.ptp(drawn, axis=0).max() == 0
    with pytest.raises(VerifyError, match="'y' differs from Keras"):
        keepdrop_exporter.verify(artifact.keras_model, tmp_path / "off.onnx")


def _magnifying() -> keras.Model:
    """Two LSTMs of relu whose samples reach 30,000: float32 rounding alone moves them beyond the default tolerance."""
    keras.utils.set_random_seed(0)
    lstm = functools.partial(keras.layers.LSTM, 32, activation="relu", dropout=0.1, recurrent_dropout=0.2)
    head = keras.layers.Dense(2, name="y")
    model = keras.Sequential([keras.Input((24, 3), name="x"), lstm(return_sequences=True), lstm(), head])
    for variable in model.variables:
        if "kernel" in variable.name:
            variable.assign(variable * 2.6)
    return model


def _large() -> NDArray[np.float32]:
    """Inputs of the scale that it magnifies: those drawn where nothing is known are half as large."""
    return np.random.default_rng(0).standard_normal((4, 24, 3)).astype(np.float32)


def test_what_rounds_no_worse_than_keras_is_exported_and_said_to(tmp_path: Path) -> None:
    (check,) = keepdrop_exporter.export(_magnifying(), tmp_path / "m.onnx", data=_large()).verified.outputs
    assert check.max_rel > reference.RTOL  # the default alone would refuse it
    assert 0 < check.from_float64 < 1e-2 and 0 < check.keras_from_float64 < 1e-2


# The slightest of them; the others are the same kind, and far greater.
@pytest.mark.parametrize(
    "change", [_rate, *(pytest.param(change, marks=pytest.mark.nightly) for change in (_shifted, _swapped_gates))]
)
def test_float64_excuses_no_wrong_mask(tmp_path: Path, change: Any) -> None:
    model = _magnifying()
    with _draws_changed(change)(model), pytest.raises(VerifyError, match="From float64 .* the artifact is .* Keras"):
        keepdrop_exporter.export(model, tmp_path / "m.onnx", data=_large())
    assert list(tmp_path.iterdir()) == []
