"""What is written lasts: its bytes have reached the disk before it counts, so that a power failure costs nothing."""

import os
import stat
import sys

import numpy as np
import pytest

from keepdrop.files.fields import Field
from keepdrop.files.targets import replacing
from keepdrop.files.work import kept
from keepdrop.service.state_file import StateFile

CONTENT = b"content " * 10_000


@pytest.fixture
def events(monkeypatch) -> list[tuple]:
    """What the system is asked to do, in order: syncing a file of some size, and giving a file another name."""
    seen: list[tuple] = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        fsync(descriptor)
        status = os.fstat(descriptor)
        seen.append(("sync folder",) if stat.S_ISDIR(status.st_mode) else ("sync", status.st_size))

    def renamed(source, target):
        seen.append(("rename", os.path.getsize(source)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    return seen


def test_an_output_is_on_the_disk_before_it_has_its_name(tmp_path, events) -> None:
    with replacing(tmp_path / "out", tmp_path / ".out.tmp") as file:
        file.write(CONTENT)
        assert events == []
    assert events[:2] == [("sync", len(CONTENT)), ("rename", len(CONTENT))]
    assert (tmp_path / "out").read_bytes() == CONTENT


@pytest.mark.skipif(sys.platform == "win32", reason="a folder cannot be opened there")
def test_a_streams_state_keeps_its_name_too(tmp_path, events) -> None:
    class Stream:
        def save(self) -> bytes:
            return CONTENT

    with StateFile(tmp_path / "state.npz") as state:
        state.save(Stream())
    assert [event for event in events if event != ("sync", 0)] == [
        ("sync", len(CONTENT)),
        ("rename", len(CONTENT)),
        ("sync folder",),
    ]
    assert (tmp_path / "state.npz").read_bytes() == CONTENT


def test_a_finished_piece_is_on_the_disk_before_it_counts(tmp_path, events) -> None:
    path = tmp_path / "out.work"
    with kept(path, {"job": 1}) as work:
        for piece in range(3):
            before = len(events)
            work.append({Field(None, "row"): np.arange(1000) + piece})
            assert ("sync", path.stat().st_size) in events[before:]
    assert work.rows == 3000
