"""Device: what this process may use of the machine it is on, as its system and its control groups tell."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Optional

# Where a platform does not say what memory it has.
UNKNOWN = 1 << 30
# Where Linux shows the control groups, and which of them this process is in.
GROUPS, OWN_GROUPS = "/sys/fs/cgroup", "/proc/self/cgroup"


def available_threads() -> int:
    """How many threads can run at once here: 1 or more.

    The least of the processors this process may run on, of what its control groups leave it (a quota of 2.5 processors
    is 2 threads) and of ``OMP_NUM_THREADS``, by which schedulers such as Ray's and Slurm's say what a task may use.
    """
    return max(1, min([_processors(), *(int(quota) for quota in _quotas()), *_told_by_scheduler()]))


def available_memory() -> int:
    """Bytes this process can still get, as the system tells: the least of the machine's and of its control groups'."""
    found = [*_machine_memory(), *_group_memory()]
    return max(0, min(found)) if found else UNKNOWN


def _processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _told_by_scheduler() -> Iterator[int]:
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a number for each nested level
    if first.isdecimal() and int(first):
        yield int(first)


def _quotas(root: str = GROUPS, own: str = OWN_GROUPS) -> Iterator[float]:
    """The processors that each group this process is in, and those around it, may use, where they are bounded."""
    for folder, version in _group_folders("cpu", root, own):
        if version == 2:
            quota, _, period = _read(os.path.join(folder, "cpu.max")).strip().partition(" ")
        else:
            quota, period = (_read(os.path.join(folder, f"cpu.cfs_{name}_us")).strip() for name in ("quota", "period"))
        if quota.isdecimal() and period.isdecimal() and int(period):  # "max" and -1 are no bound
            yield int(quota) / int(period)


def _machine_memory() -> Iterator[int]:
    match = re.search(r"MemAvailable:\s*(\d+) kB", _read("/proc/meminfo"))
    if match:
        yield int(match[1]) << 10
        return
    try:
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # no such name, or no such function on Windows
        return


def _group_memory(root: str = GROUPS, own: str = OWN_GROUPS) -> Iterator[int]:
    """What each group this process is in, and those around it, leave of their limits."""
    for folder, version in _group_folders("memory", root, own):
        names = ("memory.max", "memory.current") if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        limit, usage = (_read(os.path.join(folder, name)).strip() for name in names)
        if limit.isdecimal() and usage.isdecimal():
            # The page cache in it is given back when asked for.
            statistics = _read(os.path.join(folder, "memory.stat"))
            cached: Optional[re.Match[str]] = re.search(r"^(?:total_)?inactive_file (\d+)$", statistics, re.MULTILINE)
            yield int(limit) - int(usage) + (int(cached[1]) if cached else 0)


def _group_folders(controller: str, root: str, own: str) -> Iterator[tuple[str, int]]:
    """The folders of the groups this process is in, the outermost first, each with the version of its hierarchy."""
    for line in _read(own).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        base = os.path.join(root, controller) if controllers else root
        parts = [part for part in path.split("/") if part]
        # In a container the path can be the host's, and only the root is there.
        for depth in range(len(parts) + 1):
            yield os.path.join(base, *parts[:depth]), 1 if controllers else 2


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
