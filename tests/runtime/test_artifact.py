import json

import pytest

from keepdrop import ArtifactError
from keepdrop.artifact import CONTRACT_VERSION, Metadata


def test_metadata_survives_its_json(metadata: Metadata) -> None:
    assert Metadata.from_json(metadata.to_json()) == metadata


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda fields: fields | {"contract": CONTRACT_VERSION + 1}, "contract version 2 and this keepdrop knows"),
        (lambda fields: {k: v for k, v in fields.items() if k != "contract"}, "not the JSON object"),
        (lambda fields: {k: v for k, v in fields.items() if k != "draws"}, "lacks or adds fields"),
        (lambda fields: fields | {"extra": 1}, "lacks or adds fields"),
        (lambda fields: [1], "not the JSON object"),
    ],
)
def test_metadata_that_is_not_ours_is_refused(metadata: Metadata, change, text: str) -> None:
    changed = json.dumps(change(json.loads(metadata.to_json())))
    with pytest.raises(ArtifactError, match=text):
        Metadata.from_json(changed)
