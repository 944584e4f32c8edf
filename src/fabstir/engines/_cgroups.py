"""The processor time that this process's control groups allow, in whole cores."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_MOUNT = "sys/fs/cgroup"
_V1_NAMES = ("cpu,cpuacct", "cpu", "cpuacct,cpu")


def cpu_quotas(root: Path) -> Iterator[int]:
    """The quota of every group from this process's own up to the top: each of them holds.

    In a container the group's own path may be hidden and its folder be the mount itself, so the
    mount is always looked at. A part of a core counts as one.

    Args:
        root: of the file system that has /proc and /sys.
    """
    for name, path in _groups(root):
        for folder in (path, *path.parents):
            relative = str(folder).lstrip("/")
            mount = root / _MOUNT
            if not name:
                yield from _quota_v2(mount / relative)
            for v1 in _V1_NAMES if name else ():
                yield from _quota_v1(mount / v1 / relative)


def _groups(root: Path) -> Iterator[tuple[str, PurePosixPath]]:
    """Controller ("": version 2) and path of each group that may limit processor time."""
    top = PurePosixPath("/")
    yield "", top
    yield "cpu", top
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
            yield "", PurePosixPath(path)
        elif "cpu" in controllers.split(","):
            yield "cpu", PurePosixPath(path)


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
