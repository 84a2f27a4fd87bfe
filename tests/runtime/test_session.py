import dataclasses

import numpy as np
import pytest

import keepdrop
from keepdrop import ArtifactError, InputError
from keepdrop.run import session


def refusal(path) -> str:
    with pytest.raises(ArtifactError) as caught:
        keepdrop.load(path, threads=1)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_metadata_is_read_from_the_file(one, metadata) -> None:
    assert keepdrop.load(one, threads=1).metadata == metadata
    assert keepdrop.load(str(one), threads=1).metadata == metadata


def test_the_cpu_provider_alone_is_asked_for(one, monkeypatch) -> None:
    # Others are tried first where they are installed, and give other samples.
    asked = []
    opened = session.onnxruntime.InferenceSession
    monkeypatch.setattr(
        session.onnxruntime,
        "InferenceSession",
        lambda *given, providers=None: (asked.append(providers), opened(*given, providers=providers))[1],
    )
    keepdrop.load(one, threads=1)
    assert asked and all(providers == ["CPUExecutionProvider"] for providers in asked)


def test_a_missing_file_is_refused(tmp_path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.onnx")


def test_a_directory_is_refused(tmp_path) -> None:
    assert "is a directory" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not ONNX at all", b"\x08\x08"])
def test_what_is_not_onnx_is_refused(tmp_path, content: bytes) -> None:
    (tmp_path / "text.onnx").write_bytes(content)
    assert "keepdrop export" in refusal(tmp_path / "text.onnx")


def test_a_plain_onnx_file_is_refused(write, one_text) -> None:
    assert "without 'keepdrop' metadata" in refusal(write(one_text, None))


def test_an_unknown_contract_version_is_refused(write, one_text, metadata) -> None:
    text = dataclasses.replace(metadata, contract=2).to_json()
    assert "contract version 2 and this keepdrop knows version 1" in refusal(write(one_text, text))


def test_a_graph_without_the_contracts_inputs_is_refused(write, one_text, metadata) -> None:
    renamed = one_text.replace("num_samples", "number")
    assert "the graph lacks ['num_samples']" in refusal(write(renamed, metadata.to_json()))


def test_an_output_without_the_batch_axis_is_refused(write, one_text, metadata, x) -> None:
    wrong = one_text.replace("[samples,batch,3] y", "[a,b,3] y").replace(
        "y = Add(xtr, s)", "y = Transpose<perm = [1, 0, 2]>(xtr)"
    )
    with pytest.raises(ArtifactError, match="it is not what an export writes"):
        keepdrop.load(write(wrong, metadata.to_json()), threads=1).sample(x)


def test_a_failing_run_is_an_error_of_ours(write, one_text, metadata, x) -> None:
    picky = one_text.replace("y = Add(xtr, s)", "all = Add(xtr, s)\n  y = Gather<axis = 1>(all, rows)")
    model = keepdrop.load(write(picky, metadata.to_json()), threads=1)
    assert model.sample(x).shape == (5, 7, 3)
    with pytest.raises(InputError, match=r"failed on inputs x float32 \[7, 3\] \(Gather .*; check their values"):
        model.sample(x, rows=np.arange(7) + 1)
