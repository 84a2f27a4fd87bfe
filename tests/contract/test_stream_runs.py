"""Streams of a real artifact as a device runs them: rows that come and go, stops and resumes, the command.

That a push equals stock Keras for every kind of layer is tested where the graph is; here it has to go on being so
whatever is done between the pushes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import keepdrop
import keepdrop_exporter
from keepdrop.stream import recurrent

from . import reference
from .models import settle

SEED, SAMPLES = 7, 12
ROWS = [4, 0, 2**33 + 5]


@pytest.fixture(scope="module")
def keras_model() -> keras.Model:
    """Answers every step and the last one; all its masks are held, so that every prefix has a reference."""
    keras.utils.set_random_seed(1)
    x = keras.Input((None, 3), name="x")
    h = keras.layers.LSTM(6, dropout=0.3, recurrent_dropout=0.3, return_sequences=True)(x)
    h = keras.layers.GRU(5, recurrent_dropout=0.25, return_sequences=True)(h)
    last = keras.layers.Dropout(0.4)(keras.layers.SimpleRNN(7, dropout=0.2)(h))
    model = keras.Model(x, [keras.layers.Dense(2, name="each")(h), keras.layers.Dense(1, name="last")(last)])
    settle(model)
    return model


@pytest.fixture(scope="module")
def artifact(keras_model: keras.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("streaming") / "stream.onnx"
    keepdrop_exporter.export(keras_model, path, streaming=True)
    return path


@pytest.fixture(scope="module")
def steps() -> np.ndarray:
    """[4 rows, 9 steps, 3]"""
    return np.random.default_rng(3).normal(size=(4, 9, 3)).astype(np.float32)


def start(artifact: Path, threads: int = 1, samples: int = SAMPLES, rows: list[int] = ROWS) -> keepdrop.Stream:
    return keepdrop.load(artifact, threads=threads).stream(samples=samples, seed=SEED, rows=rows)


def assert_as_keras(model: keras.Model, given: np.ndarray, row: int, got: dict[str, np.ndarray]) -> None:
    """`got` has each output's samples of one row after the steps `given` [n, 3]; of a time axis the last step alone."""
    each, last = reference.samples(model, [given[np.newaxis]], [row], SAMPLES, SEED)
    np.testing.assert_allclose(got["each"], each[:, 0, -1], rtol=reference.RTOL, atol=reference.ATOL)
    np.testing.assert_allclose(got["last"], last[:, 0], rtol=reference.RTOL, atol=reference.ATOL)


def test_rows_that_come_and_go_equal_keras_on_what_each_was_given(
    artifact: Path, keras_model: keras.Model, steps: np.ndarray
) -> None:
    s = start(artifact)
    given: dict[int, list[np.ndarray]] = {row: [] for row in [*ROWS, -9]}

    def push(*rows: int) -> None:
        x = np.stack([steps[list(given).index(row), len(given[row])] for row in rows])
        p = s.push(x, rows=rows)
        for b, row in enumerate(rows):
            given[row].append(x[b])
            got = {name: prediction.samples[:, b] for name, prediction in p.items()}
            assert_as_keras(keras_model, np.stack(given[row]), row, got)

    push(*ROWS)
    push(0)
    push(2**33 + 5, 4)
    s.add(-9)
    push(*s.rows)
    s.reset(rows=[4])
    given[4] = []
    s.remove(0)
    push(*s.rows)
    push(-9, 4)


def test_the_reference_tells_rows_and_steps_apart(artifact: Path, keras_model: keras.Model, steps: np.ndarray) -> None:
    p = start(artifact).push(steps[:3])
    got = {"each": p["each"].samples[:, 0, -1], "last": p["last"].samples[:, 0]}
    assert_as_keras(keras_model, steps[0], 4, got)
    for other in (
        lambda: assert_as_keras(keras_model, steps[0], 5, got),
        lambda: assert_as_keras(keras_model, steps[0, 1:], 4, got),
    ):
        with pytest.raises(AssertionError, match="Not equal to tolerance"):
            other()


@pytest.mark.parametrize("limit", [recurrent.SAMPLE_ROWS_A_RUN, 7])
def test_a_stop_changes_no_bit_on_any_number_of_threads(
    artifact: Path, steps: np.ndarray, monkeypatch: pytest.MonkeyPatch, limit: int
) -> None:
    monkeypatch.setattr(recurrent, "SAMPLE_ROWS_A_RUN", limit)

    def run(threads: int, stops: tuple[int, ...]) -> list[np.ndarray]:
        s, got = start(artifact, threads), []
        for n in range(8):
            if n in stops:
                s = keepdrop.load(artifact, threads=3 - threads).resume(s.save())
            if n == 2:
                p = s.push(steps[:1, n], rows=[0])
            elif n == 4:
                s.remove(0)
                s.add(0)
                p = s.push(steps[:3, n : n + 2])
            else:
                p = s.push(steps[:3, n])
            got += [prediction.samples for prediction in p.values()]
        return got

    whole = run(1, ())
    for threads, stops in ((2, ()), (1, (1, 2, 3, 4, 5, 6, 7)), (2, (3, 5))):
        for have, want in zip(run(threads, stops), whole, strict=True):
            np.testing.assert_array_equal(have, want)


def test_the_command_answers_as_keras_does(artifact: Path, keras_model: keras.Model, steps: np.ndarray) -> None:
    table = [f"{row},{','.join(map(str, steps[b, n]))}" for n in range(5) for b, row in enumerate(ROWS)]
    lines = "\n".join(["sensor,a,b,c", *table])
    command = [sys.executable, "-c", "from keepdrop.cli import main; main()", "stream", str(artifact), "--id", "sensor"]
    command += ["--samples", str(SAMPLES), "--seed", str(SEED)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, check=True)
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(answer["id"], answer["step"]) for answer in answers] == [(row, n + 1) for n in range(5) for row in ROWS]
    for b, row in enumerate(ROWS):
        each, last = reference.samples(keras_model, [steps[b : b + 1, :5]], [row], SAMPLES, SEED)
        got = answers[-3 + b]
        np.testing.assert_allclose(
            got["each_mean"], each[:, 0, -1].mean(axis=0), rtol=reference.RTOL, atol=reference.ATOL
        )
        np.testing.assert_allclose(got["last_std"], last[:, 0].std(axis=0, ddof=1)[0], rtol=1e-3, atol=reference.ATOL)
