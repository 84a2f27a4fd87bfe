"""Toy artifacts whose samples have a closed form, so that every cut of a call can be compared with it."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from keepdrop.artifact import METADATA_KEY, Draw, Head, Metadata, OutputCheck, Tensor, Verification

# y[t, b] = x[b] * t + 100 rows[b] + seed, t from first_sample on
ONE = """
<ir_version: 8, opset_import: ["" : 18]>
toy (float[batch,3] x, int64 seed, int64[batch] rows, int64 num_samples = {5}, int64 first_sample = {0})
  => (float[samples,batch,3] y)
  <int64 one = {1}, int64[2] after = {1, 2}, int64[1] last = {1}, float hundred = {100}>
{
  stop = Add(first_sample, num_samples)
  t = Range(first_sample, stop, one)
  tf = Cast<to = 1>(t)
  t3 = Unsqueeze(tf, after)
  r = Cast<to = 1>(rows)
  r2 = Unsqueeze(r, last)
  r100 = Mul(r2, hundred)
  s = Cast<to = 1>(seed)
  xt = Mul(x, t3)
  xtr = Add(xt, r100)
  y = Add(xtr, s)
}
"""

# y as above; n[t, b] = t + the sum of ids[b], which has a dynamic time axis
TWO = """
<ir_version: 8, opset_import: ["" : 18]>
toy (float[batch,3] x, int32[batch,time] ids, int64 seed, int64[batch] rows, int64 num_samples = {5},
     int64 first_sample = {0}) => (float[samples,batch,3] y, float[samples,batch] n)
  <int64 one = {1}, int64[2] after = {1, 2}, int64[1] last = {1}, float hundred = {100}>
{
  stop = Add(first_sample, num_samples)
  t = Range(first_sample, stop, one)
  tf = Cast<to = 1>(t)
  t3 = Unsqueeze(tf, after)
  t2 = Unsqueeze(tf, last)
  r = Cast<to = 1>(rows)
  r2 = Unsqueeze(r, last)
  r100 = Mul(r2, hundred)
  s = Cast<to = 1>(seed)
  xt = Mul(x, t3)
  xtr = Add(xt, r100)
  y = Add(xtr, s)
  total = ReduceSum<keepdims = 0>(ids, last)
  totalf = Cast<to = 1>(total)
  n = Add(t2, totalf)
}
"""

# level[t, b] = x[b] sin(t + 1); mood[t, b] = softmax of the same; spread[t, b] = its thrice
THREE = """
<ir_version: 8, opset_import: ["" : 18]>
toy (float[batch,3] x, int64 seed, int64[batch] rows, int64 num_samples = {5}, int64 first_sample = {0})
  => (float[samples,batch,3] mood, float[samples,batch,3] level, float[samples,batch,3] spread)
  <int64 one = {1}, int64[2] after = {1, 2}, float three = {3}>
{
  begin = Add(first_sample, one)
  stop = Add(begin, num_samples)
  t = Range(begin, stop, one)
  tf = Cast<to = 1>(t)
  wave = Sin(tf)
  t3 = Unsqueeze(wave, after)
  level = Mul(x, t3)
  mood = Softmax<axis = -1>(level)
  spread = Mul(level, three)
}
"""

X = Tensor("x", "float32", (None, 3))
IDS = Tensor("ids", "int32", (None, None))
Y = Tensor("y", "float32", (None, None, 3))
N = Tensor("n", "float32", (None, None))


@pytest.fixture
def metadata() -> Metadata:
    return Metadata(
        keepdrop_version="0.1.0",
        keras_version="3.15.1",
        inputs=(X,),
        outputs=(Y,),
        draws=(
            Draw("lstm/cell", "dropout", "dropout", 0.25, (3,), generator=0, offset=0),
            Draw("lstm/cell", "dropout", "dropout", 0.25, (3,), generator=0, offset=1),
            Draw("noise", "call", "normal", None, (None, 2), generator=1, offset=2),
        ),
        draws_per_row=3,
        default_samples=5,
        changes=("the batch size was lifted", "a layer was renamed"),
        source_sha256="ab" * 32,
        verified=Verification(4, 16, 0, 1e-5, 1e-4, "random", (OutputCheck("y", 1.5e-7, 3e-7),)),
    )


@pytest.fixture
def write(tmp_path: Path):
    """Writes ONNX text with a metadata string (or none) and gives the path."""

    def write(text: str, metadata: str | None, name: str = "toy.onnx") -> Path:
        model = onnx.parser.parse_model(text)
        onnx.checker.check_model(model)
        if metadata is not None:
            onnx.helper.set_model_props(model, {METADATA_KEY: metadata})
        onnx.save(model, tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def one_text() -> str:
    return ONE


@pytest.fixture
def one(write, metadata) -> Path:
    """One input x [batch, 3], one output y."""
    return write(ONE, metadata.to_json(), "one.onnx")


@pytest.fixture
def two(write, metadata) -> Path:
    """Inputs x [batch, 3] and ids [batch, time], outputs y and n."""
    return write(TWO, dataclasses.replace(metadata, inputs=(X, IDS), outputs=(Y, N)).to_json(), "two.onnx")


@pytest.fixture
def three(write, metadata) -> Path:
    """One input x [batch, 3]; outputs mood, a softmax, and level and spread, a mean and its log-variance."""
    outputs = tuple(Tensor(name, "float32", (None, None, 3)) for name in ("mood", "level", "spread"))
    heads = (Head("mood", "softmax"), Head("level", "mean", "spread"), Head("spread", "logvar", "level"))
    told = dataclasses.replace(metadata, outputs=outputs, heads=heads, verified=None)
    return write(THREE, told.to_json(), "three.onnx")


@pytest.fixture
def closed():
    """The closed form of y."""

    def closed(x, samples, seed=0, rows=None, first_sample=0) -> np.ndarray:
        rows = np.arange(len(x)) if rows is None else np.asarray(rows)
        t = np.arange(first_sample, first_sample + samples)[:, None, None]  # [T, 1, 1]
        return (x * t + 100 * rows[:, None] + seed).astype(np.float32)  # [T, B, 3]

    return closed


@pytest.fixture
def x() -> np.ndarray:
    """Whole numbers, so that float32 is exact: [7, 3]."""
    return np.random.default_rng(0).integers(-4, 5, (7, 3)).astype(np.float32)
