"""What this process's control groups allow: processor time in whole cores, memory in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_MOUNT = "sys/fs/cgroup"
_CPU, _MEMORY = "cpu", "memory"
_V1_NAMES = {_CPU: ("cpu,cpuacct", "cpu", "cpuacct,cpu"), _MEMORY: ("memory",)}


def cpu_quotas(root: Path) -> Iterator[int]:
    """The quota of every group from this process's own up to the top: each of them holds.

    In a container the group's own path may be hidden and its folder be the mount itself, so the
    mount is always looked at. A part of a core counts as one.

    Args:
        root: of the file system that has /proc and /sys.
    """
    for folder in _folders(root, _CPU):
        yield from _quota_v2(folder)
        yield from _quota_v1(folder)


def memory_quotas(root: Path) -> Iterator[int]:
    """The same for memory, in bytes."""
    for folder in _folders(root, _MEMORY):
        for name in ("memory.max", "memory.limit_in_bytes"):
            try:
                yield int((folder / name).read_text())
            except (OSError, ValueError):  # there is none, or it is "max"
                continue


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """Where the groups that this process is in may have the limits of a controller."""
    for is_v1, path in _groups(root, controller):
        for folder in (path, *path.parents):
            relative = str(folder).lstrip("/")
            mount = root / _MOUNT
            if not is_v1:
                yield mount / relative
            for name in _V1_NAMES[controller] if is_v1 else ():
                yield mount / name / relative


def _groups(root: Path, wanted: str) -> Iterator[tuple[bool, PurePosixPath]]:
    """Whether it is of version 1, and the path, of each group that may limit the controller."""
    top = PurePosixPath("/")
    yield False, top
    yield True, top
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except (OSError, ValueError):
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not path.startswith("/") or ".." in path.split("/"):
            continue
        if not controllers:
            yield False, PurePosixPath(path)
        elif wanted in controllers.split(","):
            yield True, PurePosixPath(path)


def _quota_v2(folder: Path) -> Iterator[int]:
    try:
        allowed, period = (int(part) for part in (folder / "cpu.max").read_text().split())
    except (OSError, ValueError):  # there is none, or it is "max"
        return
    yield from _cores(allowed, period)


def _quota_v1(folder: Path) -> Iterator[int]:
    try:
        allowed = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        return
    yield from _cores(allowed, period)


def _cores(allowed: int, period: int) -> Iterator[int]:
    if allowed > 0 and period > 0:  # -1: no limit
        yield max(1, allowed // period)
