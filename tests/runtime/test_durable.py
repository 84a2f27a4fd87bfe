"""What is written lasts: its bytes have reached the disk before it counts, so that a power failure costs nothing."""

import os
import stat
import sys

import numpy as np
import pytest

from keepdrop import InputError
from keepdrop.files import targets
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


def test_what_a_killed_run_left_is_written_over(tmp_path) -> None:
    left = tmp_path / ".out.tmp"
    left.write_bytes(CONTENT)
    with replacing(tmp_path / "out", left) as file:
        file.write(b"short")
    assert (tmp_path / "out").read_bytes() == b"short" and not left.exists()


def test_a_name_that_someone_else_writes_under_is_theirs(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(targets.secrets, "token_hex", lambda size: "0" * 2 * size)
    theirs = tmp_path / ".out.00000000.tmp"
    theirs.write_bytes(CONTENT)
    with pytest.raises(InputError, match="cannot write .*File exists"), replacing(tmp_path / "out"):
        pass
    assert theirs.read_bytes() == CONTENT and list(tmp_path.iterdir()) == [theirs]


def test_one_file_of_rows_is_the_input_and_several_have_their_names(tmp_path) -> None:
    one, other = tmp_path / "a.csv", tmp_path / "b.csv"
    assert targets.inputs([one]) == {"the input": one}
    assert targets.inputs([one, other]) == {f"the input {one}": one, f"the input {other}": other}


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
