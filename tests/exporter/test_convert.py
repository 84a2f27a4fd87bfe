"""Stage 4: the file is the contract's graph, in operators that every onnxruntime from 1.16 on has."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import tf2onnx.optimizer

import keepdrop
import keepdrop_exporter
from keepdrop.artifact import onnx_file
from keepdrop_exporter import Report
from keepdrop_exporter.plan.draws import make_plan

BATCH, SAMPLES = "batch", "num_samples"
FLOAT, INT32, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT32, onnx.TensorProto.INT64
CONTROLS = {"seed": (INT64, []), "rows": (INT64, [BATCH]), "num_samples": (INT64, []), "first_sample": (INT64, [])}


@pytest.fixture(params=["forecaster", "sentence"])
def report(request: pytest.FixtureRequest) -> Report:
    made = request.getfixturevalue(request.param)
    return made if isinstance(made, Report) else made.report


@pytest.fixture
def proto(report: Report) -> onnx.ModelProto:
    return onnx.load(report.path, load_external_data=False)


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _declared(values: Any) -> dict[str, tuple[int, list[str | int]]]:
    return {
        v.name: (v.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim])
        for v in values
    }


def test_versions(proto: onnx.ModelProto) -> None:
    assert [(o.domain, o.version) for o in proto.opset_import if o.domain in ("", "ai.onnx")] == [("", 18)]
    assert proto.ir_version <= 8


def test_operators(proto: onnx.ModelProto) -> None:
    nodes = list(_nodes(proto.graph))
    assert {n.domain for n in nodes} <= {"", "ai.onnx"}
    for node in nodes:
        onnx.defs.get_schema(node.op_type, 18)
    forbidden = ("Random", "Multinomial", "Bernoulli", "Dropout")
    assert [n.op_type for n in nodes if n.op_type.startswith(forbidden)] == []
    assert list(proto.functions) == []


def test_self_contained(proto: onnx.ModelProto) -> None:
    assert [t.name for t in proto.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL] == []
    onnx.checker.check_model(proto, full_check=True)


def test_no_multiplication_of_uint64(proto: onnx.ModelProto) -> None:
    """onnxruntime has had it since 1.20 only."""
    inferred = onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)
    types = {t.name: t.data_type for t in inferred.graph.initializer}
    types.update({v.name: v.type.tensor_type.elem_type for v in (*inferred.graph.value_info, *inferred.graph.input)})
    products = [n for n in inferred.graph.node if n.op_type == "Mul"]
    assert INT64 in {types[n.output[0]] for n in products if n.output[0] in types}
    assert [n.name for n in products if onnx.TensorProto.UINT64 in [types.get(x) for x in (*n.input, *n.output)]] == []


def test_tensors_of_the_forecaster(forecaster: Report) -> None:
    graph = onnx.load(forecaster.path).graph
    assert _declared(graph.input) == {"window": (FLOAT, [BATCH, 9, 3]), **CONTROLS}
    assert _declared(graph.output) == {"forecast": (FLOAT, [SAMPLES, BATCH, 2])}


def test_tensors_of_the_sentence(sentence: Any) -> None:
    graph = onnx.load(sentence.report.path).graph
    inputs = _declared(graph.input)
    kind, axes = inputs.pop("words")
    assert kind == INT32 and axes[0] == BATCH and isinstance(axes[1], str) and axes[1] not in (BATCH, SAMPLES, "")
    assert inputs == {"extra": (FLOAT, [BATCH, 4]), **CONTROLS}
    assert _declared(graph.output) == {"mood": (FLOAT, [SAMPLES, BATCH, 2]), "length": (FLOAT, [SAMPLES, BATCH, 1])}


def test_metadata_is_one_complete_json_object(forecaster: Report, forecaster_file: Any) -> None:
    entry, checksum = onnx.load(forecaster.path).metadata_props
    assert (entry.key, checksum.key) == ("keepdrop", "keepdrop.crc32")
    assert checksum.value == onnx_file.checksum(forecaster.path.read_bytes())
    fields = json.loads(entry.value)
    assert (
        fields.pop("source_sha256") == forecaster.metadata.source_sha256
        and len(forecaster.metadata.source_sha256) == 64
    )
    verified, draws, cost = fields.pop("verified"), fields.pop("draws"), fields.pop("cost")
    assert cost["run"] > 0 and cost["sample"] > 0 and set(cost) == {"run", "sample", "bytes", "length"}
    assert fields == {
        "contract": 1,
        "keepdrop_version": keepdrop.__version__,
        "keras_version": keras.__version__,
        "inputs": [{"name": "window", "dtype": "float32", "shape": [None, 9, 3]}],
        "outputs": [{"name": "forecast", "dtype": "float32", "shape": [None, None, 2]}],
        "draws_per_row": 8,
        "default_samples": 12,
        "heads": [{"output": "forecast", "kind": "value", "partner": None}],
        "stream": None,
        "changes": [],
        "requires": [],
        "summary": [],
        "summary_calibration": None,
        "per_sample": [],
    }
    assert draws[0] == {
        "layer": "lstm",
        "argument": "dropout",
        "kind": "dropout",
        "rate": 0.25,
        "shape": [3],
        "generator": 0,
        "offset": 0,
    }
    assert [d["offset"] for d in draws] == list(range(8))
    assert verified["rows"] == 4 and verified["samples"] == 16 and verified["data"] == "random"
    assert [o["name"] for o in verified["outputs"]] == ["forecast"]
    assert 0 <= verified["outputs"][0]["max_abs"] < verified["atol"] == 1e-5


def test_metadata_is_what_was_planned(sentence: Any) -> None:
    plan = make_plan(sentence.model)
    metadata = keepdrop.load(sentence.report.path).metadata
    assert metadata == sentence.report.metadata
    assert (metadata.draws, metadata.inputs, metadata.outputs) == (plan.draws, plan.inputs, plan.outputs)
    assert metadata.source_sha256 is None


@pytest.fixture(scope="module")
def bare(forecaster: Report) -> onnxruntime.InferenceSession:
    """Bare onnxruntime, as another language would call the graph."""
    return onnxruntime.InferenceSession(forecaster.path.read_bytes(), providers=["CPUExecutionProvider"])


def test_every_input_is_required(bare: onnxruntime.InferenceSession) -> None:
    """Bindings differ on inputs that have a default: onnxruntime-node (1.30) ignores what it is given for them."""
    assert [i.name for i in bare.get_inputs()] == ["window", "seed", "rows", "num_samples", "first_sample"]
    assert bare.get_overridable_initializers() == []
    with pytest.raises(ValueError, match="num_samples"):
        bare.run(None, {"window": np.zeros((1, 9, 3), np.float32), "seed": np.array(7), "rows": np.arange(1)})


def test_scalars_are_taken_with_one_axis_too(bare: onnxruntime.InferenceSession, forecaster: Report) -> None:
    x = np.random.default_rng(0).standard_normal((3, 9, 3)).astype(np.float32)
    expected = keepdrop.load(forecaster.path, threads=1).sample(x, samples=4, seed=7, first_sample=8)
    scalars = {"seed": 7, "num_samples": 4, "first_sample": 8}
    for shape in ([], [1]):
        feeds = {name: np.full(shape, value, np.int64) for name, value in scalars.items()}
        (drawn,) = bare.run(None, {"window": x, "rows": np.arange(3), **feeds})
        np.testing.assert_array_equal(drawn, expected)
    with pytest.raises(Exception, match="Reshape"):
        bare.run(None, {"window": x, "rows": np.arange(3), **feeds, "seed": np.array([7, 8])})


def test_onnxruntime_has_nothing_to_warn_of(forecaster: Report) -> None:
    load = f"import onnxruntime; onnxruntime.InferenceSession({str(forecaster.path)!r})"
    done = subprocess.run([sys.executable, "-c", load], capture_output=True, text=True, check=True)
    # On a machine of few cores onnxruntime may have a word on those.
    assert [line for line in done.stderr.splitlines() if "nitializer" in line] == []


def test_a_pass_of_tf2onnx_that_fails_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def fail(self: Any, graph: Any, iteration: int) -> Any:
        calls.append(iteration)
        raise ValueError("not on this graph")

    monkeypatch.setattr(tf2onnx.optimizer.ReshapeOptimizer, "optimize", fail)
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dropout(0.5)])
    keepdrop_exporter.export(model, tmp_path / "m.onnx")
    assert len(calls) >= 2  # at first without, then with tf2onnx' own copies to go back to


def test_an_einsum_is_not_taken_apart(tmp_path: Path) -> None:
    """To try the orders of its axes took half a minute."""
    x = keras.Input((3, 2, 4), name="x")
    mixed = keras.layers.MultiHeadAttention(2, 3, dropout=0.3)(x, x)
    keepdrop_exporter.export(keras.Model(x, mixed), tmp_path / "m.onnx")
    assert "Einsum" in {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}


def test_argmax_of_floats(tmp_path: Path) -> None:
    """Keras takes -0.0 for less than 0.0, which it finds by a float's bits."""
    x = keras.Input((4,), name="x")
    outputs = [keras.layers.Dropout(0.5)(x), keras.ops.argmax(x, -1), keras.ops.argmin(x, -1), keras.ops.signbit(x)]
    zeros = np.float32([[-0.0, 0.0, -1.0, -0.0], [0.0, -0.0, 3.0, 0.0], [-0.0, -0.0, 0.0, -2.0]])
    keepdrop_exporter.export(keras.Model(x, outputs), tmp_path / "m.onnx", data=zeros)
