"""A streaming graph, driven chunk by chunk, against stock Keras on the whole prefix.

onnxruntime alone drives most graphs here, as any language can: what the runtime's streams add is tested with them.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from numpy.typing import NDArray

import keepdrop
import keepdrop_exporter
from keepdrop.artifact.metadata import MADE_SUFFIX, NEXT_SUFFIX
from keepdrop_exporter import VerifyError, pipeline
from keepdrop_exporter.plan import draws
from keepdrop_exporter.trace import philox, stream_frontier, stream_function

from . import models, reference

L = keras.layers
FEATURES = 3
WINDOW = 4
BOTH = {"dropout": 0.25, "recurrent_dropout": 0.25}
ROWS = [2, 9, 2**33 + 5]
SAMPLES, SEED, STEPS = 3, 7, 10
CHUNKS = (1, 1, 4, 3, 1)
CELLS: dict[str, Callable[..., keras.layers.RNN]] = {
    "LSTM": L.LSTM,
    "GRU": L.GRU,
    "GRU reset before": functools.partial(L.GRU, reset_after=False),
    "SimpleRNN": L.SimpleRNN,
}


class InBlocks(keras.Layer):
    """A stock layer that draws on a sequence, called block by block: the rule of the streams, in stock Keras.

    Block e >= 1 is drawn from ``stateless_fold_in(state, e)``, block 0 from the state itself.
    """

    def __init__(self, layer: keras.Layer, block: int) -> None:
        super().__init__()
        self.layer, self.block = layer, block

    def compute_output_spec(self, x: Any) -> Any:
        return self.layer.compute_output_spec(x)

    def call(self, x: Any) -> Any:
        (generator,) = self.layer._seed_generators
        start, blocks = tf.identity(generator.state.value), []
        for e, at in enumerate(range(0, x.shape[1], self.block)):
            if e:
                generator.state.assign(tf.random.experimental.stateless_fold_in(start, np.int64(e)))
            part = x[:, at : at + self.block]
            whole = keras.ops.pad(part, [(0, 0), (0, self.block - part.shape[1]), (0, 0)])
            blocks.append(self.layer(whole, training=True)[:, : part.shape[1]])
        generator.state.assign(start + [0, 1])
        return keras.ops.concatenate(blocks, axis=1)


def recurrent(cell: str) -> keras.Model:
    """Every combination of dropout and recurrent dropout of one cell, half of them giving sequences."""
    x = keras.Input((None, FEATURES), name="x")
    rates = [(0.0, 0.0, True), (0.3, 0.0, False), (0.0, 0.25, True), (0.3, 0.25, False)]
    return keras.Model(x, [CELLS[cell](4, dropout=d, recurrent_dropout=r, return_sequences=s)(x) for d, r, s in rates])


def chain(*stack: keras.Layer, shape: tuple[int | None, ...] = (None, FEATURES)) -> keras.Model:
    return keras.Sequential([keras.Input(shape, name="x"), *stack])


def stacked() -> keras.Model:
    return chain(
        L.TimeDistributed(L.Dense(4)),
        L.Conv1D(4, 3, padding="causal", dilation_rate=2, activation="relu"),  # at row level
        L.BatchNormalization(),
        L.LSTM(4, return_sequences=True),
        L.SpatialDropout1D(0.3),
        L.Conv1D(3, 2, padding="causal"),  # at sample level
        L.GRU(4, return_sequences=True, **BOTH),
        L.LayerNormalization(),
        L.SimpleRNN(4, dropout=0.2),
        L.GaussianNoise(0.2),
        L.Dropout(0.3),
        L.Dense(2, name="y"),
    )


def joined() -> keras.Model:
    """Two inputs, a residual connection, a nested model, the last step taken by hand, a decoder behind it."""
    a, b = keras.Input((None, FEATURES), name="a"), keras.Input((None, 2), name="b")
    h = L.Concatenate()([a, L.Dense(2, activation="tanh")(b)])
    inner = chain(L.LSTM(5, return_sequences=True, **BOTH), shape=(None, 5))
    h = h + inner(h)
    last = h[:, -1, :]
    decoded = L.GRU(3, return_sequences=True, **BOTH)(L.RepeatVector(2)(last))
    return keras.Model([a, b], [L.Dense(2, name="steps")(h), L.Dense(1, name="decoded")(L.Dropout(0.2)(decoded))])


def gaps() -> keras.Model:
    ids, x = keras.Input((None,), dtype="int32", name="ids"), keras.Input((None, FEATURES), name="x")
    words = L.LSTM(4, return_sequences=True, **BOTH)(L.Embedding(7, 4, mask_zero=True)(ids))
    rows = L.GRU(3)(L.Masking()(x))
    last = L.GRU(4, recurrent_dropout=0.3, zero_output_for_mask=True)(words)
    return keras.Model([ids, x], [words, L.Dense(2, name="y")(L.Concatenate()([last, rows]))])


def on_sequences() -> keras.Model:
    """Draws that follow the time, of widths that divide a block of four numbers and of others."""
    return chain(
        L.Dropout(0.3),
        L.LSTM(4, return_sequences=True, **BOTH),
        L.GaussianNoise(0.2),
        L.Dense(6),
        L.AlphaDropout(0.2),
        L.Dropout(0.2, noise_shape=(None, None, 1)),
        L.GRU(4, dropout=0.2),
        L.Dense(2, name="y"),
        shape=(WINDOW, FEATURES),
    )


def small(steps: int | None = WINDOW) -> keras.Model:
    head = L.TimeDistributed(L.Dense(2), name="y")
    model = chain(L.SimpleRNN(4, return_sequences=True), L.Dropout(0.3), head, shape=(steps, FEATURES))
    models.settle(model)
    return model


MODELS: dict[str, Callable[[], keras.Model]] = {
    **{cell: functools.partial(recurrent, cell) for cell in CELLS},
    "stacked layers": stacked,
    "stacked cells": lambda: chain(
        L.RNN([L.LSTMCell(4, **BOTH), L.GRUCell(3, **BOTH)], return_sequences=True), L.Dense(2, name="y")
    ),
    "joined": joined,
    "gaps": gaps,
    "draws on sequences": on_sequences,
    "draws on sequences of any length": functools.partial(small, None),
    "unrolled": lambda: chain(L.LSTM(4, unroll=True, **BOTH), L.Dense(2, name="y"), shape=(WINDOW, FEATURES)),
}


@dataclasses.dataclass(frozen=True)
class Streamed:
    """A streaming artifact, the model it was made from, and inputs [B, STEPS, ...] by name."""

    path: Path
    keras_model: keras.Model
    x: dict[str, NDArray[Any]]

    @functools.cached_property
    def model(self) -> keepdrop.Model:
        return keepdrop.load(self.path, threads=1)

    def push(self, chunks: tuple[int, ...] = CHUNKS, **options: Any) -> Iterator[tuple[int, list[NDArray[Any]]]]:
        """After each chunk how many steps were seen, and the outputs."""
        graph, start = Graph(self.path, **options), 0
        for length in chunks:
            x = {name: a[:, start : start + length] for name, a in self.x.items()}
            start += length
            yield start, graph.push(x)

    def reference(self, steps: int, samples: int = SAMPLES) -> list[NDArray[Any]]:
        """Stock Keras on the first steps, [T, B, ...]."""
        block = self.keras_model.inputs[0].shape[1] or 1
        window = [a[:, :block] for a in self.x.values()]
        return reference.samples(
            self.by_block, [a[:, :steps] for a in self.x.values()], ROWS, samples, SEED, window=window
        )

    @functools.cached_property
    def by_block(self) -> keras.Model:
        """The model's own layers on inputs of any length, those that draw on a sequence called block by block."""
        static = self.keras_model.inputs[0].shape[1]

        def placed(layer: keras.Layer) -> keras.Layer:
            if isinstance(layer, L.RNN):
                layer.unroll = False  # which needs a length, and changes nothing else
            draws = isinstance(layer, (L.Dropout, L.GaussianNoise, L.AlphaDropout)) and len(layer.input.shape) == 3
            spatial = isinstance(layer, L.SpatialDropout1D)
            in_decoder = draws and layer.input.shape[1] == 2
            return InBlocks(layer, static or 1) if draws and not spatial and not in_decoder else layer

        inputs = [keras.Input((None, *x.shape[2:]), dtype=x.dtype, name=x.name) for x in self.keras_model.inputs]
        tensors = inputs if len(inputs) > 1 else inputs[0]
        return keras.models.clone_model(self.keras_model, input_tensors=tensors, clone_function=placed)


class Graph:
    """The streaming graph in onnxruntime, with ways to drive it wrongly."""

    def __init__(
        self,
        path: Path,
        *,
        rows: list[int] = ROWS,
        samples: int = SAMPLES,
        first: int = 0,
        carry: bool = True,
        count: bool = True,
        mask_seed: int = SEED,
    ) -> None:
        self._session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        metadata = keepdrop.load(path, threads=1).metadata
        assert metadata.stream is not None
        self._stream, self._outputs = metadata.stream, [t.name for t in metadata.outputs]
        self._carry, self._count = carry, count
        controls = {"seed": mask_seed, "num_samples": samples, "first_sample": first, "rows": rows}
        self._feeds = {name: np.array(value, np.int64) for name, value in controls.items()}
        self._feeds["steps_seen"] = np.zeros(len(rows), np.int64)
        for state in (*self._stream.states, *self._stream.masks):
            batch = len(rows) if state in self._stream.states else 0
            shape = (batch, *([samples] if state.per_sample else []), *state.shape)
            self._feeds[state.name] = np.zeros(shape, state.dtype)

    def push(self, x: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        names = [s.name for s in self._stream.states], [m.name for m in self._stream.masks]
        asked = [*(name + NEXT_SUFFIX for name in names[0]), *(name + MADE_SUFFIX for name in names[1])]
        results = self._session.run([*self._outputs, *asked], {**self._feeds, **x})
        outputs, carried = results[: len(self._outputs)], results[len(self._outputs) :]
        given = dict(zip([*names[0], *names[1]], carried, strict=True))
        self._feeds |= given if self._carry else {name: given[name] for name in names[1]}
        if self._count:
            self._feeds["steps_seen"] = self._feeds["steps_seen"] + next(iter(x.values())).shape[1]
        return outputs


@pytest.fixture(scope="module")
def streamed(made_once: Callable[..., Path]) -> Callable[[str], Streamed]:
    """Gives the streaming artifact of a model, not verified by the export: these tests compare themselves."""

    def export(model: keras.Model, path: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pipeline, "verify_stream", lambda *args, **options: None)
            patch.setattr(pipeline, "measure_push", lambda *args: None)
            keepdrop_exporter.export(model, path, streaming=True)

    @functools.cache
    def streamed(name: str) -> Streamed:
        keras.utils.set_random_seed(5)
        model = MODELS[name]()
        models.settle(model)
        file = f"streamed-{list(MODELS).index(name)}.onnx"
        path = made_once(file, functools.partial(export, model))
        arrays = models.inputs(model, batch=len(ROWS), length=STEPS)
        if model.inputs[0].shape[1] is not None:
            arrays = [np.random.default_rng(1).standard_normal((len(ROWS), STEPS, FEATURES)).astype(np.float32)]
        return Streamed(path, model, {x.name: a for x, a in zip(model.inputs, arrays, strict=True)})

    return streamed


def assert_equal_after(steps: int, chunk: int, got: list[NDArray[Any]], want: list[NDArray[Any]]) -> None:
    """An output with a time axis has the chunk's steps of it."""
    expected = [y[:, :, steps - chunk :] if y.ndim == 4 and y.shape[2] == steps else y for y in want]
    reference.assert_samples_equal(dict(enumerate(got)), expected)


@pytest.mark.parametrize("name", MODELS)
def test_every_chunk_equals_stock_keras_on_the_prefix(streamed: Callable[[str], Streamed], name: str) -> None:
    stream = streamed(name)
    for chunk, (steps, got) in zip(CHUNKS, stream.push(), strict=True):
        if name != "joined" or steps != 2:  # its decoder's two steps are no time of the stream
            assert_equal_after(steps, chunk, got, stream.reference(steps))


def test_the_chunks_do_not_matter(streamed: Callable[[str], Streamed]) -> None:
    stream = streamed("draws on sequences")
    *_, (_, by_step) = stream.push((1,) * STEPS)
    *_, (_, at_once) = stream.push((STEPS,))
    np.testing.assert_allclose(by_step[0], at_once[0], rtol=reference.RTOL, atol=reference.ATOL)


def test_a_window_of_steps_equals_the_ordinary_artifact(streamed: Callable[[str], Streamed], tmp_path: Path) -> None:
    stream = streamed("draws on sequences")
    keepdrop_exporter.export(stream.keras_model, tmp_path / "window.onnx")
    window = stream.x["x"][:, :WINDOW]
    want = keepdrop.load(tmp_path / "window.onnx", threads=1).sample(window, samples=SAMPLES, seed=SEED, rows=ROWS)
    *_, (_, got) = stream.push((1,) * WINDOW)
    np.testing.assert_allclose(got[0], want, rtol=reference.RTOL, atol=reference.ATOL)


@pytest.mark.parametrize("first", [1, 2])
def test_samples_are_addressed_by_their_number(streamed: Callable[[str], Streamed], first: int) -> None:
    stream = streamed("draws on sequences")
    *_, (_, later) = stream.push(first=first, samples=2)
    want = stream.reference(STEPS, samples=first + 2)[0][first:]
    np.testing.assert_allclose(later[0], want, rtol=reference.RTOL, atol=reference.ATOL)


@pytest.mark.parametrize("name", ["draws on sequences", "stacked layers"])
def test_the_runtime_streams_rows_at_different_steps(streamed: Callable[[str], Streamed], name: str) -> None:
    stream = streamed(name)
    x, want = stream.x["x"], stream.reference(STEPS)[0]
    pushed = stream.model.stream(samples=SAMPLES, seed=SEED, rows=ROWS[:1])
    pushed.push(x[:1, :3])
    pushed.add(ROWS[1])
    pushed.push(np.stack([x[0, 3:6], x[1, :3]]))
    pushed.add(ROWS[2])
    last = pushed.push(np.stack([x[0, 6:10], x[1, 3:7], x[2, :4]]))
    np.testing.assert_allclose(last.samples[:, 0], want[:, 0], rtol=reference.RTOL, atol=reference.ATOL)
    last = pushed.push(np.stack([x[1, 7:10], x[2, 4:7]]), rows=ROWS[1:])
    np.testing.assert_allclose(last.samples[:, 0], want[:, 1], rtol=reference.RTOL, atol=reference.ATOL)


@pytest.mark.parametrize(
    ("name", "wrongly"),
    [
        ("LSTM", {"carry": False}),
        ("stacked layers", {"carry": False}),
        ("draws on sequences", {"count": False}),
        ("LSTM", {"mask_seed": SEED + 1}),
        ("draws on sequences", {"rows": [2, 9, 5]}),
    ],
)
def test_a_stream_driven_wrongly_would_be_noticed(
    streamed: Callable[[str], Streamed], name: str, wrongly: dict[str, Any]
) -> None:
    stream = streamed(name)
    *_, (_, got) = stream.push(**wrongly)
    with pytest.raises(AssertionError):
        assert_equal_after(STEPS, CHUNKS[-1], got, stream.reference(STEPS))


def test_masks_are_made_once(streamed: Callable[[str], Streamed]) -> None:
    """With masks given, the seed is of no account any more: nothing is drawn."""
    stream = streamed("LSTM")
    graph = Graph(stream.path)
    graph.push({"x": stream.x["x"][:, :1]})
    graph._feeds["seed"] = np.array(SEED + 1)
    got = graph.push({"x": stream.x["x"][:, 1:]})
    assert_equal_after(STEPS, STEPS - 1, got, stream.reference(STEPS))


@pytest.mark.parametrize("cell", ["LSTM", "GRU"])
def test_the_traced_function_computes_the_same(streamed: Callable[[str], Streamed], cell: str) -> None:
    """TensorFlow runs Keras' own loops where the artifact has operators of its own, and takes the same tensors."""
    stream = streamed(cell)
    traced, described = stream_function.trace_stream(draws.make_plan(stream.keras_model))
    assert traced.stream is not None and traced.stream == stream.model.metadata.stream
    controls = {"seed": SEED, "num_samples": SAMPLES, "first_sample": 0, "rows": ROWS, "steps_seen": [0] * len(ROWS)}
    feeds = {name: tf.constant(value, tf.int64) for name, value in controls.items()}
    for state in (*traced.stream.states, *traced.stream.masks):
        sizes = [len(ROWS), *([SAMPLES] if state.per_sample else []), *state.shape]
        feeds[state.name] = tf.zeros(sizes, state.dtype)
    feeds["x"] = tf.constant(stream.x["x"])
    made = traced.function(feeds)
    feeds |= {mask.name: made[mask.name + MADE_SUFFIX] for mask in traced.stream.masks}
    got = traced.function(feeds)
    assert_equal_after(STEPS, STEPS, [got[t.name].numpy() for t in described.outputs], stream.reference(STEPS))


def test_the_export_verifies_over_a_block_and_says_so(tmp_path: Path) -> None:
    report = keepdrop_exporter.export(small(), tmp_path / "s.onnx", streaming=True)
    assert report.metadata.stream is not None and report.metadata.stream.block == WINDOW
    assert report.verified.outputs[0].max_abs < reference.ATOL
    assert sum(None in draw.shape for draw in report.metadata.draws) == 1


@pytest.mark.parametrize("broken", ["states", "blocks", "rules"])
def test_the_export_notices_a_broken_graph(broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    if broken == "rules":
        monkeypatch.setattr(stream_frontier.StreamFrontier, "_check_per_step", lambda *args: None)
        model = chain(L.MaxPooling1D(2, 1, padding="same"), L.LSTM(4, **BOTH), shape=(WINDOW, FEATURES))
    elif broken == "states":
        give = stream_frontier.Carried.give
        monkeypatch.setattr(stream_frontier.Carried, "give", lambda self, state, value: give(self, state, value * 0))
    else:
        monkeypatch.setattr(philox, "fold_in", lambda seed, counters: counters)
    with pytest.raises(VerifyError, match="differs from Keras after"):
        keepdrop_exporter.export(model, tmp_path / "s.onnx", streaming=True)
    assert list(tmp_path.iterdir()) == []
