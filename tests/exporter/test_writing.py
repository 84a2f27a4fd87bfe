"""What is half done never bears the final name, and what was there before keeps its mode and its links."""

import os
import stat

import pytest

from keepdrop_exporter import writing


def test_modes_and_links_of_an_older_file_stay(tmp_path) -> None:
    target, link = tmp_path / "real.onnx", tmp_path / "folder" / "link.onnx"
    link.parent.mkdir()
    target.write_text("older")
    target.chmod(0o600)
    link.symlink_to(target)
    with writing.temporary_beside(link) as partial:
        partial.write_text("newer")
        writing.replace(partial, link)
    assert target.read_text() == "newer" and link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "link.onnx", "real.onnx"]


def test_a_folder_behind_a_link_is_replaced_there(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "old").touch()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with writing.temporary_beside(tmp_path / "link") as partial:
        partial.mkdir()
        (partial / "new").touch()
        writing.replace(partial, tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and os.listdir(tmp_path / "real") == ["new"]
    assert sorted(os.listdir(tmp_path)) == ["link", "real"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_leftovers_of_a_process_of_the_same_number_are_no_obstacle(tmp_path, kind) -> None:
    left = [tmp_path / f".a.{os.getpid()}.partial.onnx", tmp_path / f".a.onnx.{os.getpid()}.older"]
    for path in left:
        path.mkdir()
        (path / "x").touch()
    target = tmp_path / "a.onnx"
    for _ in range(2):
        with writing.temporary_beside(target) as partial:
            partial.mkdir() if kind == "folder" else partial.write_text("x")
            writing.replace(partial, target)
    assert target.is_dir() == (kind == "folder")
    assert sorted(tmp_path.iterdir()) == sorted([*left, target])
