"""What an artifact keeps beside its graph: changed byte by byte on a device, apart from what its numbers depend on."""

import io
import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import keepdrop
from keepdrop.artifact import (
    CALIBRATION_KEY,
    CHECKSUM_KEY,
    METADATA_KEY,
    TABLE_KEY,
    numbers_digest,
    savedmodel_properties,
    with_properties,
    write_savedmodel_properties,
)
from keepdrop.artifact.onnx_file import read

FORECASTER = Path(__file__).parent / "data" / "forecaster.onnx"


@pytest.fixture
def data() -> bytes:
    return FORECASTER.read_bytes()


def properties(data: bytes) -> dict[str, str]:
    """As the onnx package reads them."""
    return {entry.key: entry.value for entry in onnx.load_from_string(data).metadata_props}


def test_a_property_is_added_replaced_and_taken_away(data: bytes) -> None:
    text = json.dumps({"ü": "x" * 300})
    calibrated = with_properties(data, {CALIBRATION_KEY: text, TABLE_KEY: "{}"})
    assert properties(calibrated)[CALIBRATION_KEY] == text == read(calibrated).properties[CALIBRATION_KEY]
    assert properties(calibrated)[METADATA_KEY] == properties(data)[METADATA_KEY]
    again = with_properties(calibrated, {CALIBRATION_KEY: "other"})
    assert properties(again)[CALIBRATION_KEY] == "other" and properties(again)[TABLE_KEY] == "{}"
    assert with_properties(again, {CALIBRATION_KEY: None, TABLE_KEY: None, "absent": None}) == with_properties(data, {})


def test_all_else_stays_as_it_was(data: bytes) -> None:
    before, after = onnx.load_from_string(data), onnx.load_from_string(with_properties(data, {TABLE_KEY: "{}"}))
    assert before.graph.SerializeToString(deterministic=True) == after.graph.SerializeToString(deterministic=True)
    for model in (before, after):
        del model.metadata_props[:]
    assert before == after
    graph = before.graph.SerializeToString()
    assert graph in data and graph in with_properties(data, {TABLE_KEY: "{}"})  # not written again


def test_the_order_of_changes_leaves_no_trace(data: bytes) -> None:
    one = with_properties(with_properties(data, {TABLE_KEY: "t"}), {CALIBRATION_KEY: "c"})
    assert one == with_properties(data, {CALIBRATION_KEY: "c", TABLE_KEY: "t"})


def test_the_checksum_binds_them(data: bytes) -> None:
    calibrated = with_properties(data, {"keepdrop.later": "half-width 1.5"})
    assert keepdrop.load(io.BytesIO(calibrated), threads=1)._session.properties["keepdrop.later"] == "half-width 1.5"
    with pytest.raises(keepdrop.ArtifactError, match="it is damaged: its checksum is"):
        keepdrop.load(io.BytesIO(calibrated.replace(b"half-width 1.5", b"half-width 9.5")), threads=1)
    assert properties(calibrated)[CHECKSUM_KEY] != properties(data)[CHECKSUM_KEY]


def test_a_torn_file_is_not_edited(data: bytes) -> None:
    with pytest.raises(keepdrop.ArtifactError, match="torn"):
        with_properties(data[:-1], {TABLE_KEY: "{}"})


def test_the_digest_is_that_of_what_the_numbers_depend_on(data: bytes) -> None:
    digest = numbers_digest(data)
    assert len(digest) == 64 and digest == numbers_digest(with_properties(data, {CALIBRATION_KEY: "c"}))
    fields = json.loads(properties(data)[METADATA_KEY])
    measured = json.dumps(fields | {"cost": {"run": 1.0, "sample": 2.0}, "keras_version": "4"})
    assert digest == numbers_digest(with_properties(data, {METADATA_KEY: measured}))
    assert digest == keepdrop.load(FORECASTER, threads=1)._session.numbers_digest()
    model = onnx.load_from_string(data)
    weight = next(tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT)
    weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) * 2).tobytes()
    assert digest != numbers_digest(model.SerializeToString())


def test_the_digest_of_another_graph_is_another(data: bytes) -> None:
    model = onnx.load_from_string(data)
    next(node for node in model.graph.node if node.op_type == "Add").op_type = "Sub"
    assert numbers_digest(data) != numbers_digest(model.SerializeToString())


def test_a_savedmodel_keeps_them_as_assets(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "keepdrop.json").write_text("{}")
    (tmp_path / "assets" / "vocabulary.txt").write_text("a")
    write_savedmodel_properties(tmp_path, {CALIBRATION_KEY: "ü", TABLE_KEY: None})
    assert savedmodel_properties(tmp_path) == {METADATA_KEY: "{}", CALIBRATION_KEY: "ü"}
    write_savedmodel_properties(tmp_path, {CALIBRATION_KEY: None})
    assert sorted(path.name for path in (tmp_path / "assets").iterdir()) == ["keepdrop.json", "vocabulary.txt"]
    (tmp_path / "assets" / "keepdrop.table.json").write_bytes(b"\xff")
    with pytest.raises(keepdrop.ArtifactError, match=r"keepdrop.table.json cannot be read"):
        savedmodel_properties(tmp_path)


def test_packed_numbers_are_counted_in_little_time_and_memory(one: Path) -> None:
    """A million int64 of one byte each; walked one by one they took 0.7 s, and a list of them 40 MB."""
    import tracemalloc

    model = onnx.load(one)
    many = 10**6
    model.graph.initializer.add(name="big", data_type=onnx.TensorProto.INT64, dims=[many], int64_data=[3] * many)
    data = model.SerializeToString()
    tracemalloc.start()
    try:
        read(data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    with pytest.raises(keepdrop.ArtifactError, match=r"'big' has the shape \[1000001\] and 1000000 of numbers"):
        model.graph.initializer[-1].dims[0] += 1
        read(model.SerializeToString())


def test_a_constant_of_very_many_axes_is_refused(one: Path) -> None:
    model = onnx.load(one)
    model.graph.initializer.add(name="deep", data_type=onnx.TensorProto.INT64, dims=[1] * 65, int64_data=[3])
    with pytest.raises(keepdrop.ArtifactError, match="a constant of more than 64 axes"):
        read(model.SerializeToString())
