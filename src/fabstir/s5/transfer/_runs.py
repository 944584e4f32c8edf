"""Which part of a blob is fetched from which source.

No part is fetched from two, until nothing else is left to do: then everybody joins in what others
are slow with, so that the slowest of them, or one that drips on purpose, holds up nobody.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

import anyio

from fabstir.primitives.cid import BlobId
from fabstir.s5.transfer._part import RUN_GROUPS
from fabstir.s5.verified.tree import group_extent, num_groups
from fabstir.telemetry.waiting import Changes

SLOW_SECONDS: Final = 0.5
"""How long one source may be at a run before an idle one fetches it too: 4 MiB in this time are
67 Mbit/s. Joining in at once would fetch the end of every blob twice."""


@dataclass(slots=True)
class _Held:
    """A run that sources are at.

    Attributes:
        since: when the last of them began, in seconds of the event loop.
        scopes: by source.
    """

    since: float
    scopes: dict[str, anyio.CancelScope] = field(default_factory=dict[str, anyio.CancelScope])


class Runs:
    """What is missing of a blob, in runs of RUN_GROUPS groups, and who is at which."""

    def __init__(self, blob: BlobId, done: Iterable[int]) -> None:
        self._blob = blob
        self._done = bytearray(num_groups(blob.size))
        for group in done:
            self._done[group] = 1
        self.num_done = sum(self._done)
        self.bytes_done = sum(self._size(group) for group, done in enumerate(self._done) if done)
        runs = range(-(-len(self._done) // RUN_GROUPS))
        self._pending = deque(run for run in runs if self.missing(run) is not None)
        self._held: dict[int, _Held] = {}
        self._changes = Changes()

    @property
    def is_complete(self) -> bool:
        """Whether nothing is missing."""
        return self.num_done == len(self._done)

    def missing(self, run: int) -> tuple[int, int] | None:
        """First group and number of groups from the first that a run lacks to the last one."""
        first = run * RUN_GROUPS
        part = self._done[first : first + RUN_GROUPS]
        start, end = part.find(0), part.rfind(0)
        return None if start < 0 else (first + start, end - start + 1)

    def mark(self, group: int) -> int:
        """Note that a group is there.

        Returns:
            Bytes that are new by it.
        """
        if self._done[group]:
            return 0
        self._done[group] = 1
        self.num_done += 1
        size = self._size(group)
        self.bytes_done += size
        run = group // RUN_GROUPS
        if self.missing(run) is None:
            if held := self._held.get(run):
                for scope in held.scopes.values():
                    scope.cancel()
            self._changes.tell()
        return size

    async def take(self, source: str, scope: anyio.CancelScope) -> int | None:
        """Get the next run; waits while there is none, None: the blob is complete.

        Args:
            scope: cancelled when somebody else completes the run first.
        """
        while not self.is_complete:
            run, at = self._choose(source)
            now = anyio.current_time()
            if run is not None and at <= now:
                held = self._held.setdefault(run, _Held(now))
                held.since = now
                held.scopes[source] = scope
                return run
            # Looked up before waiting: the event is replaced whenever something changes.
            changed = self._changes.next
            with anyio.CancelScope(deadline=at):
                await changed.wait()
        return None

    def release(self, run: int, source: str) -> None:
        """Give a run back, complete or not."""
        held = self._held[run]
        held.scopes.pop(source)
        if not held.scopes:
            del self._held[run]
            if self.missing(run) is not None:
                self._pending.appendleft(run)
        self._changes.tell()

    def _choose(self, source: str) -> tuple[int | None, float]:
        """A run, and from when on it may be taken."""
        if self._pending:
            return self._pending.popleft(), -math.inf
        slow = [
            (held.since + SLOW_SECONDS, run)
            for run, held in self._held.items()
            if source not in held.scopes and self.missing(run) is not None
        ]
        if not slow:
            return None, math.inf
        at, run = min(slow)
        return run, at

    def _size(self, group: int) -> int:
        start, end = group_extent(self._blob.size, group)
        return end - start
