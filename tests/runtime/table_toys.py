"""A toy artifact over windows of 4 lines of 3 columns, whose samples have a closed form that no two columns share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

from keepdrop.artifact.metadata import METADATA_KEY, TABLE_KEY, Draw, Head, Metadata, Tensor
from keepdrop.artifact.properties import with_properties
from keepdrop.table import Table

LINES, WIDTH = 4, 3

# y[t, b, h] = (h + 1) sum_n,f window[b, n, f] (n + 1) 10^f / 100 + t, with t = 0 ... T - 1
TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
toy (float[batch,4,3] window, int64 seed, int64[batch] rows, int64 num_samples, int64 first_sample)
  => (float[samples,batch,STEPS] y)
  <int64 one = {1}, int64[2] after = {1, 2}, int64[2] flat = {0, 12}, int64[1] first = {0},
   float[12,STEPS] weights = {WEIGHTS}>
{
  stop = Add(first_sample, num_samples)
  t = Range(first_sample, stop, one)
  tf = Cast<to = 1>(t)
  t3 = Unsqueeze(tf, after)
  s = Cast<to = 1>(seed)
  r = Cast<to = 1>(rows)
  x = Reshape(window, flat)
  base = MatMul(x, weights)
  baset = Unsqueeze(base, first)
  all = Add(baset, t3)
  rsum = ReduceSum<keepdims = 0>(r)
  nothing = Sub(rsum, rsum)
  more = Add(s, nothing)
  y = Add(all, more)
}
"""


def weights(steps: int) -> NDArray[np.float64]:
    line, column = np.arange(1, LINES + 1)[:, np.newaxis], 10.0 ** np.arange(WIDTH) / 100
    return (line * column).reshape(-1, 1) * np.arange(1, steps + 1)  # [12, steps]


def means(windows: NDArray[np.float64], steps: int = 1, samples: int = 5) -> NDArray[np.float64]:
    """What the mean of the samples is, [B, steps], of windows [B, 4, 3]."""
    return windows.reshape(len(windows), -1) @ weights(steps) + (samples - 1) / 2


def write(path: Path, table: Table | None, steps: int = 1, kind: str = "value") -> Path:
    listed = ", ".join(f"{weight:.9g}" for weight in weights(steps).astype(np.float32).reshape(-1))
    model = onnx.parser.parse_model(TEXT.replace("STEPS", str(steps)).replace("WEIGHTS", listed))
    onnx.checker.check_model(model)
    metadata = Metadata(
        keepdrop_version="0.1.0",
        keras_version="3.15.1",
        inputs=(Tensor("window", "float32", (None, LINES, WIDTH)),),
        outputs=(Tensor("y", "float32", (None, None, steps)),),
        draws=(Draw("memory", "dropout", "dropout", 0.25, (3,), generator=0, offset=0),),
        draws_per_row=1,
        default_samples=5,
        source_sha256=None,
        verified=None,
        heads=(Head("y", kind),),
    )
    onnx.helper.set_model_props(model, {METADATA_KEY: dataclasses.replace(metadata).to_json()})
    text = None if table is None else table.to_json()
    path.write_bytes(with_properties(model.SerializeToString(), {TABLE_KEY: text}))
    return path
