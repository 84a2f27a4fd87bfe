"""The default number of threads is what this process may use: affinity, control groups, what a scheduler says."""

import os
import subprocess
import sys

import pytest

import keepdrop
from keepdrop.run import device


@pytest.fixture
def eight(monkeypatch) -> None:
    monkeypatch.setattr(device, "_processors", lambda: 8)
    monkeypatch.setattr(device, "_quotas", lambda: iter([]))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize(
    ("told", "threads"), [("", 8), ("3", 3), ("16", 8), ("2,4", 2), (" 5 ", 5), ("0", 8), ("-1", 8), ("many", 8)]
)
def test_what_a_scheduler_says_bounds_the_threads(eight, monkeypatch, told: str, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", told)
    assert device.available_threads() == threads


@pytest.mark.parametrize(("quotas", "threads"), [([], 8), ([0.5], 1), ([2.5, 6.0], 2), ([64.0], 8)])
def test_the_quota_of_the_control_groups_bounds_the_threads(eight, monkeypatch, quotas, threads: int) -> None:
    monkeypatch.setattr(device, "_quotas", lambda: iter(quotas))
    assert device.available_threads() == threads


def test_quotas_of_version_2(tmp_path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "own").write_text("0::/outer/inner\n")
    (inner / "cpu.max").write_text("max 100000\n")
    (inner.parent / "cpu.max").write_text("150000 100000\n")
    assert list(device._quotas(str(tmp_path), str(tmp_path / "own"))) == [1.5]


def test_quotas_of_version_1(tmp_path) -> None:
    group = tmp_path / "cpu" / "docker"
    group.mkdir(parents=True)
    (tmp_path / "own").write_text("4:memory:/elsewhere\n3:cpu,cpuacct:/docker\n")
    for folder, quota in ((tmp_path / "cpu", "-1"), (group, "50000")):
        (folder / "cpu.cfs_quota_us").write_text(quota)
        (folder / "cpu.cfs_period_us").write_text("100000")
    assert list(device._quotas(str(tmp_path), str(tmp_path / "own"))) == [0.5]


def test_a_model_takes_them_by_default(one, monkeypatch) -> None:
    monkeypatch.setattr("keepdrop.model.available_threads", lambda: 5)
    assert keepdrop.load(one)._engine._threads == 5
    assert keepdrop.load(one, threads=2)._engine._threads == 2


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_affinity_bounds_the_threads() -> None:
    script = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from keepdrop.run import device; "
    script += "print(device.available_threads())"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "1\n"
