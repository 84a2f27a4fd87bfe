import dataclasses
import json

import pytest

from keepdrop import ArtifactError
from keepdrop.artifact.metadata import CONTRACT_VERSION, Head, Metadata


def test_metadata_survives_its_json(metadata: Metadata) -> None:
    assert Metadata.from_json(metadata.to_json()) == metadata


def test_changes_are_kept_and_older_files_have_none(metadata: Metadata) -> None:
    changed = dataclasses.replace(metadata, changes=("the batch size was lifted",))
    assert Metadata.from_json(changed.to_json()) == changed
    fields = json.loads(changed.to_json())
    del fields["changes"]
    assert Metadata.from_json(json.dumps(fields)).changes == ()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda fields: fields | {"contract": CONTRACT_VERSION + 1}, "contract version 2 and this keepdrop knows"),
        (lambda fields: {k: v for k, v in fields.items() if k != "contract"}, "not the JSON object"),
        (lambda fields: {k: v for k, v in fields.items() if k != "draws"}, "lacks fields"),
        (
            lambda fields: fields | {"requires": ["later"], "keepdrop_version": "9.1.0"},
            r"its samples need \['later'\], which this keepdrop does not know; install .* \(9.1.0\) or a newer one",
        ),
        (lambda fields: [1], "not the JSON object"),
    ],
)
def test_metadata_that_is_not_ours_is_refused(metadata: Metadata, change, text: str) -> None:
    changed = json.dumps(change(json.loads(metadata.to_json())))
    with pytest.raises(ArtifactError, match=text):
        Metadata.from_json(changed)


def test_what_a_newer_export_adds_is_passed_over(metadata: Metadata) -> None:
    fields = json.loads(metadata.to_json())
    newer = fields | {"extra": {"a": [1]}, "heads": [{"output": "y", "kind": "quantiles", "levels": [0.1]}]}
    newer["draws"] = [draw | {"more": 1} for draw in fields["draws"]]
    assert Metadata.from_json(json.dumps(newer)) == dataclasses.replace(metadata, heads=(Head("y", "value"),))


def test_older_artifacts_say_nothing_of_heads(metadata: Metadata) -> None:
    fields = json.loads(metadata.to_json())
    del fields["heads"]
    assert Metadata.from_json(json.dumps(fields)).heads == ()


def test_heads_survive_too(metadata: Metadata) -> None:
    with_heads = dataclasses.replace(metadata, heads=(Head("y", "softmax"),))
    assert Metadata.from_json(with_heads.to_json()) == with_heads


@pytest.mark.parametrize(
    "heads",
    [
        (Head("z", "softmax"),),
        (Head("y", "value"), Head("y", "value")),
        (Head("y", "mean"),),
        (Head("y", "mean", "z"),),
        (Head("y", "mean", "y"),),
        (Head("y", "mean,logvar"),),  # of 3 numbers
    ],
)
def test_heads_that_do_not_go_with_the_outputs_are_refused(metadata: Metadata, heads: tuple[Head, ...]) -> None:
    with pytest.raises(ArtifactError, match=r"its heads \[.*\] do not go with its outputs \['y'\]"):
        Metadata.from_json(dataclasses.replace(metadata, heads=heads).to_json())
