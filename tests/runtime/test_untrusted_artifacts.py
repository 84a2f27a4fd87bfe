"""Files that are not what an export wrote are refused at load, before onnxruntime sees them, with what to do."""

import io
import json
import random
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import TensorProto, helper

import keepdrop
from keepdrop.artifact import onnx_file
from keepdrop.artifact.metadata import CHECKSUM_KEY, METADATA_KEY, SCALARS, UNSEEDED_OPERATORS
from keepdrop.run import session

from . import fuzz

DATA = Path(__file__).parent / "data"


@pytest.fixture
def unopened(monkeypatch) -> None:
    """onnxruntime is not to be called."""
    monkeypatch.setattr(session, "_open", lambda *arguments: pytest.fail("onnxruntime opened the file"))


def refusal(content: bytes) -> str:
    with pytest.raises(keepdrop.ArtifactError) as caught:
        keepdrop.load(io.BytesIO(content), threads=1)
    text = str(caught.value)
    assert text.startswith("the file in memory: ")
    assert "\n" not in text and len(text) < 500
    assert caught.value.__suppress_context__
    return text


@pytest.mark.parametrize("artifact", fuzz.ARTIFACTS)
def test_kept_artifacts_are_read_and_sampled(artifact: str) -> None:
    """Written by keepdrop 0.1.0; what later versions write may differ, what they read may not."""
    model = keepdrop.load(DATA / f"{artifact}.onnx", threads=1)
    draws = model.sample(fuzz.inputs(artifact), samples=3)
    for array in draws.values() if isinstance(draws, dict) else [draws]:
        assert array.shape[:2] == (3, 2) and np.ptp(array, axis=0).max() > 0


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("artifact", fuzz.ARTIFACTS)
def test_a_truncated_file_is_refused(artifact: str) -> None:
    data = (DATA / f"{artifact}.onnx").read_bytes()
    bare = fuzz.without(data, CHECKSUM_KEY)
    for length in {*range(0, len(data) - 1, 97), len(data) - 1}:
        refusal(data[:length])
    for length in range(0, len(bare) - 1, 997):  # also without the help of a checksum
        refusal(bare[:length])


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("artifact", fuzz.ARTIFACTS)
def test_any_flipped_bit_is_found(artifact: str) -> None:
    data = (DATA / f"{artifact}.onnx").read_bytes()
    (entry,) = (start for _, start, _, key in fuzz.fields(data) if key == CHECKSUM_KEY)
    rng = random.Random(0)
    for _ in range(400):
        at, bit = rng.randrange(entry), rng.randrange(8)
        text = refusal(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
        assert "its checksum is" in text or "torn" in text or "export the model again" in text


@pytest.mark.usefixtures("unopened")
def test_what_another_tool_rewrote_is_refused() -> None:
    data = (DATA / "forecaster.onnx").read_bytes()
    model = onnx.load_from_string(data)
    model.producer_name = "a quantizer"
    assert "what another tool has rewritten is no longer what was verified" in refusal(model.SerializeToString())
    keepdrop_again = fuzz.signed(model.SerializeToString())
    assert onnx_file.read(keepdrop_again).metadata == onnx_file.read(data).metadata


def test_a_file_without_a_checksum_is_read() -> None:
    data = fuzz.without((DATA / "forecaster.onnx").read_bytes(), CHECKSUM_KEY)
    keepdrop.load(io.BytesIO(data))


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not ONNX", b"PK\3\4", b"ORTM" * 9, b"\x08\x08", b"\xff" * 99])
def test_what_is_not_onnx_is_refused(content: bytes) -> None:
    assert "it does not open as an ONNX file, or is torn" in refusal(content)


# What is done to the model of conftest's toy (or to a kept artifact), and what the error has to say.
def _node(operator: str, domain: str = "") -> onnx.NodeProto:
    return helper.make_node(operator, ["x"], ["unused"], domain=domain)


def _external(tensor: onnx.TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("int64_data")
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)


def _within(node: onnx.NodeProto, depth: int = 1) -> onnx.NodeProto:
    """The node within so many graphs, each an attribute of the next."""
    for _ in range(depth):
        inner = helper.make_graph([node], "inner", [], [helper.make_empty_tensor_value_info("unused")])
        node = helper.make_node("If", ["x"], ["unused"], then_branch=inner, else_branch=inner)
    return node


def _constant(name: str, dims: list[int], raw: bytes = b"", dtype: int = TensorProto.INT64) -> onnx.TensorProto:
    return TensorProto(name=name, dims=dims, raw_data=raw, data_type=dtype)


GRAPHS = {
    "external data outside": (lambda m: _external(m.graph.initializer[0], "../../etc/passwd"), "in other files"),
    "external data beside": (lambda m: _external(m.graph.initializer[0], "weights.bin"), "in other files"),
    "external data in an attribute": (
        lambda m: m.graph.node.append(
            helper.make_node("Constant", [], ["unused"], value=TensorProto(data_type=1, data_location=1))
        ),
        "in other files",
    ),
    "a custom operator": (lambda m: m.graph.node.append(_node("Mine", "mine")), "an operator of domain 'mine'"),
    "onnxruntime's own operator": (
        lambda m: m.graph.node.append(_node("FusedMatMul", "com.microsoft")),
        "an operator of domain 'com.microsoft'",
    ),
    "a custom operator within": (
        lambda m: m.graph.node.append(_within(_node("Mine", "mine"), 3)),
        "an operator of domain 'mine'",
    ),
    **{
        f"the random operator {name}": (
            lambda m, name=name: m.graph.node.append(_within(_node(name))),
            f"the operator {name}, whose random numbers no seed reaches",
        )
        for name in UNSEEDED_OPERATORS
    },
    "graphs without end": (lambda m: m.graph.node.append(_within(_node("Abs"), 17)), "nested more than 16 deep"),
    "a function": (
        lambda m: m.functions.append(
            helper.make_function("", "Abs", ["a"], ["b"], [helper.make_node("Neg", ["a"], ["b"])], m.opset_import)
        ),
        "training steps or functions",
    ),
    "training": (lambda m: m.training_info.add(), "training steps or functions"),
    "a sparse constant": (lambda m: m.graph.sparse_initializer.add(), "sparse tensors"),
    "a sparse attribute": (
        lambda m: m.graph.node.append(
            onnx.NodeProto(op_type="Constant", attribute=[onnx.AttributeProto(sparse_tensor=onnx.SparseTensorProto())])
        ),
        "sparse tensors",
    ),
    "another opset": (lambda m: setattr(m.opset_import[0], "version", 21), "not of opset 18"),
    "two opsets": (lambda m: m.opset_import.add(domain="ai.onnx", version=21), "not of opset 18"),
    "no opset": (lambda m: m.ClearField("opset_import"), "not of opset 18"),
    "a constant of fewer numbers": (
        lambda m: m.graph.initializer.append(_constant("w", [9], b"\0" * 8)),
        "its constant 'w' has the shape [9] and 8 bytes",
    ),
    "a constant whose size wraps to nothing": (
        lambda m: m.graph.initializer.append(_constant("w", [2**62, 4])),
        "its constant 'w' has the shape",
    ),
    "a constant of negative size": (
        lambda m: m.graph.initializer.append(_constant("w", [-1], b"\0" * 8)),
        "its constant 'w' has the shape",
    ),
    "a constant of text": (
        lambda m: m.graph.initializer.append(TensorProto(name="w", data_type=8, dims=[1], string_data=[b"a"])),
        "its constant 'w' is of ONNX dtype 8, not of numbers",
    ),
    "no graph": (lambda m: m.ClearField("graph"), "0 graphs"),
    "metadata twice": (lambda m: m.metadata_props.append(m.metadata_props[0]), "hold 'keepdrop' twice"),
    "no metadata": (lambda m: m.ClearField("metadata_props"), "without 'keepdrop' metadata"),
    "a checksum of another": (lambda m: m.metadata_props.add(key=CHECKSUM_KEY, value="00000000"), "it is damaged"),
    # Where the graph and its metadata disagree.
    "an input of another name": (lambda m: setattr(m.graph.input[0], "name", "z"), "lacks ['x'] that its metadata"),
    "an output of another name": (lambda m: setattr(m.graph.output[0], "name", "z"), "lacks ['y'] that its metadata"),
    "an input more": (
        lambda m: m.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [])),
        "the graph wants the inputs ['more'], which this keepdrop does not know; install the keepdrop",
    ),
    "an input twice": (lambda m: m.graph.input.append(m.graph.input[0]), "the graph has an input twice"),
    "an output twice": (lambda m: m.graph.output.append(m.graph.output[0]), "the graph has an output twice"),
    "no seed": (lambda m: m.graph.input.remove(m.graph.input[1]), "lacks ['seed']"),
    "a seed with an axis": (
        lambda m: m.graph.input[1].CopyFrom(helper.make_tensor_value_info("seed", TensorProto.INT64, [1])),
        "input 'seed' is int64 [1] and its metadata says int64 []",
    ),
    "a seed of another dtype": (
        lambda m: setattr(m.graph.input[1].type.tensor_type, "elem_type", TensorProto.INT32),
        "input 'seed' is int32 [] and its metadata says int64 []",
    ),
    "an input of another dtype": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.DOUBLE),
        "input 'x' is float64 [any, 3] and its metadata says float32 [any, 3]",
    ),
    "an input of another rank": (
        lambda m: m.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 1])),
        "input 'x' is float32 [any, 3, 1]",
    ),
    "an input of another size": (
        lambda m: m.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])),
        "input 'x' is float32 [any, 4]",
    ),
    "a batch of a fixed size": (
        lambda m: m.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3])),
        "input 'x' is float32 [1, 3]",
    ),
    "an output of unknown rank": (
        lambda m: m.graph.output[0].type.tensor_type.ClearField("shape"),
        "output 'y' is float32 and its metadata says float32 [any, any, 3]",
    ),
    "an output that is no tensor": (
        lambda m: m.graph.output[0].type.CopyFrom(
            helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [None, None, 3]))
        ),
        "output 'y' is no tensor",
    ),
    "one default of two": (
        lambda m: m.graph.initializer.append(helper.make_tensor("num_samples", TensorProto.INT64, [], [5])),
        "the graph has a default for ['num_samples'], unlike an export",
    ),
    "rows with a default": (
        lambda m: m.graph.initializer.append(helper.make_tensor("rows", TensorProto.INT64, [1], [0])),
        "the graph has a default for ['rows'], unlike an export",
    ),
    "rows of any rank": (
        lambda m: m.graph.input[2].type.tensor_type.ClearField("shape"),
        "input 'rows' is int64 and its metadata says int64 [any]",
    ),
}


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("change", GRAPHS)
def test_a_graph_that_no_export_writes_is_refused(one, change: str) -> None:
    alter, text = GRAPHS[change]
    model = onnx.load(one)
    alter(model)
    assert text in refusal(model.SerializeToString())


def test_the_toy_is_otherwise_right(one) -> None:
    keepdrop.load(io.BytesIO(onnx.load(one).SerializeToString()))


def test_a_newer_exports_output_and_property_cost_no_sample(one, closed, x) -> None:
    model = onnx.load(one)
    model.graph.output.append(helper.make_tensor_value_info("t", TensorProto.INT64, ["samples"]))
    model.metadata_props.add(key="keepdrop.later", value="anything")
    newer = fuzz.signed(model.SerializeToString())
    np.testing.assert_array_equal(keepdrop.load(io.BytesIO(newer)).sample(x, samples=5), closed(x, 5))


@pytest.mark.parametrize("artifact", fuzz.ARTIFACTS)
def test_the_kept_artifacts_have_the_first_form(artifact: str) -> None:
    """Two inputs with defaults; that they are read and sampled is the test at the top."""
    graph = onnx.load(DATA / f"{artifact}.onnx").graph
    assert {"num_samples", "first_sample"} <= {tensor.name for tensor in graph.initializer}


def _as_first_form(model: onnx.ModelProto) -> None:
    for name, value in (("num_samples", 5), ("first_sample", 0)):
        model.graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [], [value]))


def _as_exported(model: onnx.ModelProto) -> None:
    """No defaults, and each scalar reshaped."""
    for node in model.graph.node:
        node.input[:] = [f"{name}/scalar" if name in SCALARS else name for name in node.input]
    model.graph.initializer.append(helper.make_tensor("none", TensorProto.INT64, [0], []))
    for name in SCALARS:
        model.graph.node.insert(0, helper.make_node("Reshape", [name, "none"], [f"{name}/scalar"]))


@pytest.mark.parametrize("form", [_as_first_form, _as_exported])
def test_both_forms_draw_the_same(form, one, closed, x) -> None:
    model = onnx.load(one)
    form(model)
    loaded = keepdrop.load(io.BytesIO(model.SerializeToString()), threads=1)
    np.testing.assert_array_equal(loaded.sample(x, samples=4, seed=3, first_sample=2), closed(x, 4, 3, first_sample=2))
    np.testing.assert_array_equal(loaded.sample(x), closed(x, 5))


@pytest.mark.usefixtures("unopened")
def test_a_file_that_is_onnxruntimes_own_format_too_is_read_as_onnx_alone(one) -> None:
    """A producer's name puts that format's mark where onnxruntime looks for it."""
    polyglot = b"\x08\x08\x12\x04ORTM" + one.read_bytes()
    assert polyglot[4:8] == b"ORTM"
    with pytest.raises(pytest.fail.Exception, match="onnxruntime opened the file"):
        keepdrop.load(io.BytesIO(polyglot))


def test_a_polyglot_is_opened_as_onnx(one, closed, x) -> None:
    polyglot = b"\x08\x08\x12\x04ORTM" + one.read_bytes()
    np.testing.assert_array_equal(keepdrop.load(io.BytesIO(polyglot)).sample(x), closed(x, 5))


def test_an_output_of_another_size_than_promised_is_refused(write, one_text, metadata, x) -> None:
    """What a graph declares need not be what it computes."""
    wrong = one_text.replace("y = Add(xtr, s)", "wide = Add(xtr, s)\n  y = Concat<axis = 2>(wide, wide)")
    model = onnx.parser.parse_model(wrong)
    helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    with pytest.raises(keepdrop.ArtifactError, match="it is not what an export writes|does not open in onnxruntime"):
        keepdrop.load(io.BytesIO(model.SerializeToString()), threads=1).sample(x)


NAN = float("nan")
METADATA = {
    "an input's size negative": ("inputs.0.shape", [None, -3], "sizes of 1 or more"),
    "an input's size zero": ("inputs.0.shape", [None, 0], "sizes of 1 or more"),
    "an input's size huge": ("inputs.0.shape", [None, 2**40], "together at most"),
    "sizes huge together": ("inputs.0.shape", [None, *[2**20] * 4], "together at most"),
    "a size beyond int64": ("inputs.0.shape", [None, 2**63], "where int belongs"),
    "a size that is no integer": ("inputs.0.shape", [None, 3.0], "has 3.0 as inputs[0].shape[1], where int belongs"),
    "a size that is a boolean": ("inputs.0.shape", [None, True], "has True as inputs[0].shape[1]"),
    "a size that is text": ("inputs.0.shape", [None, "3"], "has '3' as inputs[0].shape[1]"),
    "a shape that is a number": ("inputs.0.shape", 3, "has 3 as inputs[0].shape, where a list belongs"),
    "a batch of fixed size": ("inputs.0.shape", [7, 3], "null for 1 axes"),
    "no batch": ("inputs.0.shape", [], "null for 1 axes"),
    "no sample axis": ("outputs.0.shape", [None], "null for 2 axes"),
    "another dtype": ("inputs.0.dtype", "float99", "gives the dtype of input 'x' as float99"),
    "no dtype": ("outputs.0.dtype", None, "where str belongs"),
    "a name twice": ("outputs.0.name", "x", "names that differ"),
    "a reserved name": ("inputs.0.name", "seed", "names of the model's own"),
    "an empty name": ("inputs.0.name", "", "names of the model's own"),
    "no inputs": ("inputs", [], "one of each or more"),
    "no outputs": ("outputs", [], "one of each or more"),
    "more draws than there are": ("draws_per_row", 4, "gives draws_per_row as 4; expected 3"),
    "negative draws": ("draws_per_row", -3, "expected 3, the number of draws"),
    "draws that are true": ("draws_per_row", True, "where int belongs"),
    "an offset that is another's": ("draws.1.offset", 0, "the offset of draw 1 as 0; expected 1"),
    "a negative offset": ("draws.0.offset", -1, "the offset of draw 0"),
    "a generator that comes before its turn": ("draws.0.generator", 1, "the generator of draw 0 as 1; expected 0"),
    "a negative generator": ("draws.2.generator", -1, "the generator of draw 2 as -1; expected 0 or 1"),
    "a generator that skips one": ("draws.1.generator", 2, "the generator of draw 1 as 2; expected 0 or 1"),
    "a rate that is NaN": ("draws.0.rate", NAN, "as draws[0].rate, where float belongs"),
    "a rate that is infinite": ("draws.0.rate", float("inf"), "as draws[0].rate, where float belongs"),
    "a rate beyond 1": ("draws.0.rate", 1.5, "the rate of draw 0 as 1.5; expected between 0 and 1"),
    "a rate of 1": ("draws.0.rate", 1, "the rate of draw 0"),
    "a negative rate": ("draws.0.rate", -0.25, "the rate of draw 0"),
    "a dropout without a rate": ("draws.0.rate", None, "the rate of draw 0"),
    "a rate that is text": ("draws.0.rate", "0.25", "where float belongs"),
    "a draw of size zero": ("draws.0.shape", [0], "the shape of draw 0"),
    "no samples by default": ("default_samples", 0, "gives default_samples as 0; expected 1 or more"),
    "samples beyond int64": ("default_samples", 10**30, "where int belongs"),
    "a digest of another kind": ("source_sha256", "abc", "gives source_sha256 as abc"),
    "a cost below zero": ("cost", {"run": -1.0, "sample": 0.0}, "gives cost"),
    "a cost that is NaN": ("cost", {"run": 0.0, "sample": NAN}, "as cost.sample, where float belongs"),
    "a cost too large for a float": ("cost", {"run": 0.0, "sample": 10**400}, "as cost.sample, where float belongs"),
    "a cost that lacks a part": ("cost", {"run": 0.0}, "lacks fields (cost: ['sample'])"),
    "verified without rows": ("verified.rows", 0, "gives verified"),
    "verified what is not there": ("verified.outputs.0.name", "z", "gives verified.outputs"),
    "a tolerance below zero": ("verified.atol", -1.0, "gives verified"),
    "inputs as an object": ("inputs", {}, "has {} as inputs, where a list belongs"),
    "a tensor as a list": ("inputs.0", [], "has [] as inputs[0], where an object belongs"),
    "a contract of true": ("contract", True, "contract version True"),
    "a later contract": ("contract", 2, "contract version 2 and this keepdrop knows version 1"),
    "a contract that is text": ("contract", "1", "contract version '1'"),
    "a version that is a number": ("keepdrop_version", 1, "where str belongs"),
    "a requirement that is not known": (
        "requires",
        ["wings"],
        "its samples need ['wings'], which this keepdrop does not",
    ),
    "a requirement that is no name": ("requires", [1], "has 1 as requires[0], where str belongs"),
}


def changed(metadata, place: str, value) -> str:
    fields = json.loads(metadata.to_json())
    holder = fields
    *path, last = [int(key) if key.isdigit() else key for key in place.split(".")]
    for key in path:
        holder = holder[key]
    holder[last] = value
    return json.dumps(fields)


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize("case", METADATA)
def test_metadata_that_cannot_be_are_refused(one, metadata, case: str) -> None:
    place, value, text = METADATA[case]
    model = onnx.load(one)
    model.metadata_props[0].value = changed(metadata, place, value)
    assert text in refusal(model.SerializeToString())


@pytest.mark.usefixtures("unopened")
@pytest.mark.parametrize(
    "text",
    ["", "null", "[]", "1", '"x"', "{", "[" * 100_000, '{"contract": 1, "contract": 1}', '{"contract": ' + "9" * 5000],
)
def test_metadata_that_are_no_object_are_refused(one, text: str) -> None:
    model = onnx.load(one)
    model.metadata_props[0].value = text
    assert "metadata is not the JSON object an export writes" in refusal(model.SerializeToString())


def test_metadata_that_are_changed_within_reason_are_read(one, metadata) -> None:
    """Or else the tables above might fail for another reason than the one they name."""
    model = onnx.load(one)
    for place, value in [("default_samples", 7), ("draws.0.rate", 0.5), ("cost", {"run": 0, "sample": 1e-6})]:
        model.metadata_props[0].value = changed(metadata, place, value)
        keepdrop.load(io.BytesIO(model.SerializeToString()))


def test_the_reader_reads_what_onnx_reads() -> None:
    for artifact in fuzz.ARTIFACTS:
        path = DATA / f"{artifact}.onnx"
        model, contents = onnx.load(path), onnx_file.read(path.read_bytes())
        assert contents.metadata == model.metadata_props[0].value
        assert contents.initializers == {tensor.name for tensor in model.graph.initializer}
        for declared, values in ((contents.inputs, model.graph.input), (contents.outputs, model.graph.output)):
            assert [tensor.name for tensor in declared] == [value.name for value in values]
            for tensor, value in zip(declared, values, strict=True):
                dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
                assert tensor.dtype == dtype.name
                axes = value.type.tensor_type.shape.dim
                assert tensor.shape == tuple(a.dim_value if a.HasField("dim_value") else None for a in axes)


def test_no_more_memory_is_set_aside_than_the_file_has(one) -> None:
    tracemalloc.start()
    try:
        session._read(str(one))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_file_that_is_too_large_is_not_read(one, monkeypatch) -> None:
    monkeypatch.setattr(session, "MOST_BYTES", 100)
    with pytest.raises(keepdrop.ArtifactError, match="an ONNX file at most 100"):
        keepdrop.load(one)


@pytest.mark.parametrize("given", [None, 3, [1], 1.5, np.zeros(3), io.StringIO("text")])
def test_what_is_neither_path_nor_file_is_refused(given) -> None:
    with pytest.raises(keepdrop.InputError, match="give a path, or a file open for reading bytes|open it for reading"):
        keepdrop.load(given)


@pytest.mark.parametrize("path", ["none.onnx", b"none.onnx", "nul\0.onnx", "", Path("no/such/folder/x.onnx")])
def test_a_missing_file_is_a_missing_file(path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        keepdrop.load(path)
    assert isinstance(caught.value, keepdrop.ArtifactMissing)
    assert "\0" not in str(caught.value)


def test_what_is_no_file_is_not_read(tmp_path) -> None:
    import os

    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(keepdrop.ArtifactError, match="is not a regular file"):
            keepdrop.load(tmp_path / "pipe")
    with pytest.raises(keepdrop.ArtifactError, match="is a directory"):
        keepdrop.load(tmp_path)
