"""Toy artifacts whose samples spread by a part of what observations do."""

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from keepdrop import Model, load
from keepdrop.artifact.metadata import METADATA_KEY, Head, Metadata, Tensor

# y[t, b, h] = x[b, 0] + (h + 1) / 4 x[b, 1] wave[t], h = 0 ... 3; wave[t] = 2 sin(37 (t + 1)) is all over [-2, 2]
HORIZON = """
<ir_version: 8, opset_import: ["" : 18]>
toy (float[batch,2] x, int64 seed, int64[batch] rows, int64 num_samples = {5}, int64 first_sample = {0})
  => (float[samples,batch,4] y)
  <int64 one = {1}, int64[2] after = {1, 2}, float often = {37}, float two = {2}, int64[1] zeroth = {0},
   int64[1] first = {1}, float[4] grows = {0.25, 0.5, 0.75, 1.0}>
{
  begin = Add(first_sample, one)
  stop = Add(begin, num_samples)
  t = Range(begin, stop, one)
  tf = Cast<to = 1>(t)
  t37 = Mul(tf, often)
  sine = Sin(t37)
  wave1 = Mul(sine, two)
  wave = Unsqueeze(wave1, after)
  level = Gather<axis = 1>(x, zeroth)
  spread = Gather<axis = 1>(x, first)
  spreads = Mul(spread, grows)
  varied = Mul(spreads, wave)
  y = Add(varied, level)
}
"""
# mood[t, b] = softmax(x[b] (1 + sin(37 (t + 1)) / 2)); alarm[t, b] = sigmoid of the same first two
CLASSES = """
<ir_version: 8, opset_import: ["" : 18]>
toy (float[batch,3] x, int64 seed, int64[batch] rows, int64 num_samples = {5}, int64 first_sample = {0})
  => (float[samples,batch,3] mood, float[samples,batch,3] alarm)
  <int64 one = {1}, int64[2] after = {1, 2}, float often = {37}, float half = {0.5}, float onef = {1}>
{
  begin = Add(first_sample, one)
  stop = Add(begin, num_samples)
  t = Range(begin, stop, one)
  tf = Cast<to = 1>(t)
  t37 = Mul(tf, often)
  sine = Sin(t37)
  smaller = Mul(sine, half)
  around = Add(smaller, onef)
  factor = Unsqueeze(around, after)
  logits = Mul(x, factor)
  mood = Softmax<axis = -1>(logits)
  alarm = Sigmoid(logits)
}
"""
# level[t, b] = x[b, 0] + x[b, 1] wave[t]; noise[t, b] = x[b, 1], its log-variance
NOISY = """
<ir_version: 8, opset_import: ["" : 18]>
toy (float[batch,2] x, int64 seed, int64[batch] rows, int64 num_samples = {5}, int64 first_sample = {0})
  => (float[samples,batch,2] y)
  <int64 one = {1}, int64[2] after = {1, 2}, float often = {37}, float zero = {0}, float[2] only = {1, 0}>
{
  begin = Add(first_sample, one)
  stop = Add(begin, num_samples)
  t = Range(begin, stop, one)
  tf = Cast<to = 1>(t)
  t37 = Mul(tf, often)
  sine = Sin(t37)
  wave = Unsqueeze(sine, after)
  varied = Mul(wave, only)
  y = Add(varied, x)
}
"""


def _metadata(width: int, outputs: tuple[Tensor, ...], heads: tuple[Head, ...] = ()) -> Metadata:
    return Metadata(
        "0.1.0", "3.15.1", (Tensor("x", "float32", (None, width)),), outputs, (), 0, 50, None, None, heads=heads
    )


def _written(folder: Path, name: str, text: str, metadata: Metadata) -> Path:
    model = onnx.parser.parse_model(text)
    onnx.helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    onnx.save(model, folder / name)
    return folder / name


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("toys")


@pytest.fixture(scope="session")
def horizon_path(folder: Path) -> Path:
    """x [batch, 2] -> y [batch, 4]: level and spread, spread growing with the step."""
    return _written(folder, "horizon.onnx", HORIZON, _metadata(2, (Tensor("y", "float32", (None, None, 4)),)))


@pytest.fixture(scope="session")
def horizon(horizon_path: Path) -> Model:
    return load(horizon_path, threads=1)


@pytest.fixture(scope="session")
def classifier(folder: Path) -> Model:
    """x [batch, 3] -> mood, a softmax, and alarm, three sigmoids."""
    outputs = tuple(Tensor(name, "float32", (None, None, 3)) for name in ("mood", "alarm"))
    heads = (Head("mood", "softmax"), Head("alarm", "sigmoid"))
    return load(_written(folder, "classes.onnx", CLASSES, _metadata(3, outputs, heads)), threads=1)


@pytest.fixture(scope="session")
def noisy(folder: Path) -> Model:
    """x [batch, 2] -> y [batch, 2], a mean and its log-variance."""
    told = _metadata(2, (Tensor("y", "float32", (None, None, 2)),), (Head("y", "mean,logvar"),))
    return load(_written(folder, "noisy.onnx", NOISY, told), threads=1)


@pytest.fixture(scope="session")
def observed():
    """Inputs [n, 2] and what was observed, [n, 4]: 2.5 times as noisy as the samples vary, skewed, and some more."""

    def observed(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        x = np.stack([rng.normal(20, 10, n), rng.gamma(3, 0.5, n)], axis=1).astype(np.float32)
        steps = np.arange(1, 5) / 4
        noise = 2.5 * x[:, 1:] * steps * (rng.gamma(2, 1, (n, 4)) - 2) + 0.3 * rng.normal(0, 1, (n, 4))
        return x, x[:, :1] + noise

    return observed


@pytest.fixture(scope="session")
def classified():
    """Inputs [n, 3], classes that are surer than the model says, and events likewise."""

    def classified(n: int, seed: int = 0) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        rng = np.random.default_rng(seed)
        x = rng.normal(0, 1.5, (n, 3)).astype(np.float32)
        p = np.exp(2.5 * x)
        mood = np.array([rng.choice(3, p=row / row.sum()) for row in p])
        alarm = rng.uniform(size=(n, 3)) < 1 / (1 + np.exp(-2 * x - 1))
        return x, {"mood": mood, "alarm": alarm.astype(float)}

    return classified


@pytest.fixture
def write_step(tmp_path: Path):
    """Writes an artifact of the second step of the horizon alone: y [batch, 1]."""

    def write_step(horizon_path: Path) -> Path:
        text = HORIZON.replace("float[samples,batch,4] y", "float[samples,batch,1] y")
        text = text.replace("float[4] grows = {0.25, 0.5, 0.75, 1.0}", "float[1] grows = {0.5}")
        return _written(tmp_path, "step.onnx", text, _metadata(2, (Tensor("y", "float32", (None, None, 1)),)))

    return write_step
