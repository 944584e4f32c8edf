"""Why a process may not have answered though it does not hang: nobody ran us, or it works."""

from __future__ import annotations

import os
from pathlib import Path

import anyio


class OwnPace:
    """How late this process's own loop comes: what it did not hear then, nobody may be blamed for.

    Args:
        tick: seconds between two looks at the clock.
    """

    def __init__(self, tick: float) -> None:
        self._tick = tick
        self._looked_at = anyio.current_time()
        self._seconds_lost = 0.0

    @property
    def seconds_lost(self) -> float:
        """By which its looks at the clock came late, in all; the one that is due now included."""
        return self._seconds_lost + self._lateness()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await anyio.sleep(self._tick)
            self._seconds_lost += self._lateness()
            self._looked_at = anyio.current_time()

    def _lateness(self) -> float:
        return max(0.0, anyio.current_time() - self._looked_at - self._tick)


def processor_seconds(pid: int, proc: Path = Path("/proc")) -> float:
    """What a process and those below it have had of the processors; 0 where nobody says.

    Source: proc(5), fields 14 and 15 of /proc/PID/stat, and /proc/PID/task/TID/children.
    """
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        lists = [path.read_text() for path in (proc / str(pid) / "task").glob("*/children")]
        below = [int(child) for text in lists for child in text.split()]
    except (OSError, ValueError, IndexError):
        return 0.0
    return own + sum(processor_seconds(child, proc) for child in below)
