"""How much memory models may take on this machine."""

from __future__ import annotations

from pathlib import Path

from fabstir.engines._cgroups import memory_quotas


def usable_memory(root: Path = Path("/")) -> int | None:
    """Bytes: what the system could give now, less where a control group allows less; None where
    the system does not say.

    Args:
        root: of the file system that has /proc and /sys.
    """
    known = [*memory_quotas(root), *_available(root)]
    return min(known, default=None)


def _available(root: Path) -> list[int]:
    """The kernel's own estimate: free, and what it would take from caches."""
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return []
    found = [line.split() for line in lines if line.startswith("MemAvailable:")]
    return [int(words[1]) * 1024 for words in found if len(words) > 1 and words[1].isdigit()]
