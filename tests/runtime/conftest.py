"""Toy artifacts whose samples have a closed form, so that every cut of a call can be compared with it."""

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from keepdrop.artifact.metadata import (
    METADATA_KEY,
    Draw,
    Head,
    Metadata,
    OutputCheck,
    State,
    Streaming,
    Tensor,
    Verification,
)

# y[t, b] = x[b] * t + 100 rows[b] + seed, t from first_sample on
ONE = """
<ir_version: 8, opset_import: ["" : 18]>
toy (float[batch,3] x, int64 seed, int64[batch] rows, int64 num_samples, int64 first_sample)
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
toy (float[batch,3] x, int32[batch,time] ids, int64 seed, int64[batch] rows, int64 num_samples,
     int64 first_sample) => (float[samples,batch,3] y, float[samples,batch] n)
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
toy (float[batch,3] x, int64 seed, int64[batch] rows, int64 num_samples, int64 first_sample)
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

# A stream. Its mask is m[b, t] = 1 + t + 10 rows[b] + seed; step n of a row counts n times (from 1), so that order and
# steps_seen matter: total[b, t] = m[b, t] sum_n n x[b, n], y = total after the chunk, z = n x[b, n] m[b, t] each step,
# plain[b] = sum_n x[b, n], which no sample changes, and w = plain.
STREAMING = """
<ir_version: 8, opset_import: ["" : 18]>
toy (float[batch,steps,2] x, int64 seed, int64[batch] rows, int64 num_samples, int64 first_sample,
     int64[batch] steps_seen, float[batch,samples,2] total, float[batch,2] plain, float[given,samples,1] mask)
  => (float[samples,batch,2] y, float[samples,batch,steps,2] z, float[samples,batch,2] w,
      float[batch,samples,2] total_next, float[batch,2] plain_next, float[batch,samples,1] mask_made)
  <int64 zero = {0}, int64 one = {1}, int64[1] first = {0}, int64[1] last = {1}, int64[1] second = {2},
   int64[2] around = {0, 2}, float ten = {10}>
{
  mask_shape = Shape(mask)
  given = Gather(mask_shape, zero)
  missing = Equal(given, zero)
  mask_made = If (missing) <
    then_branch = make () => (float[b,t,1] made) {
      stop = Add(first_sample, num_samples)
      t = Range(first_sample, stop, one)
      tf = Cast<to = 1>(t)
      s = Cast<to = 1>(seed)
      ts = Add(tf, s)
      onef = Cast<to = 1>(one)
      ts1 = Add(ts, onef)
      t3 = Unsqueeze(ts1, around)
      r = Cast<to = 1>(rows)
      r10 = Mul(r, ten)
      after = Constant<value_ints = [1, 2]>()
      r3 = Unsqueeze(r10, after)
      made = Add(t3, r3)
    },
    else_branch = keep () => (float[b,t,1] kept) { kept = Identity(mask) }
  >
  x_shape = Shape(x)
  steps = Gather(x_shape, one)
  from_here = Range(zero, steps, one)
  here = Unsqueeze(from_here, first)
  seen = Unsqueeze(steps_seen, last)
  n0 = Add(seen, here)
  n1 = Add(n0, one)
  n = Cast<to = 1>(n1)
  n3 = Unsqueeze(n, second)
  weighted = Mul(x, n3)
  change = ReduceSum<keepdims = 1>(weighted, last)
  masked = Mul(change, mask_made)
  total_next = Add(total, masked)
  y = Transpose<perm = [1, 0, 2]>(total_next)
  each = Unsqueeze(weighted, first)
  m1 = Unsqueeze(mask_made, first)
  m = Transpose<perm = [2, 1, 0, 3]>(m1)
  z = Mul(each, m)
  plain_change = ReduceSum<keepdims = 0>(x, last)
  plain_next = Add(plain, plain_change)
  plain1 = Unsqueeze(plain_next, first)
  ones = Sub(y, y)
  w = Add(plain1, ones)
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


@pytest.fixture
def streaming_text() -> str:
    return STREAMING


@pytest.fixture
def streaming_metadata(metadata) -> Metadata:
    return dataclasses.replace(
        metadata,
        inputs=(Tensor("x", "float32", (None, None, 2)),),
        outputs=(
            Tensor("y", "float32", (None, None, 2)),
            Tensor("z", "float32", (None, None, None, 2)),
            Tensor("w", "float32", (None, None, 2)),
        ),
        stream=Streaming(
            states=(
                State("total", "float32", (2,), per_sample=True),
                State("plain", "float32", (2,), per_sample=False),
            ),
            masks=(State("mask", "float32", (1,), per_sample=True),),
            block=1,
        ),
    )


@pytest.fixture
def streaming(write, streaming_metadata) -> Path:
    """One input x [batch, steps, 2]; outputs y and w after the chunk, z at each of its steps."""
    return write(STREAMING, streaming_metadata.to_json(), "streaming.onnx")
