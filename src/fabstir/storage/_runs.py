"""Which part of a blob is fetched from whom.

No part is fetched from two, until nothing else is left to do: then everybody joins in what others
have begun, so that the slowest of them, or one that drips on purpose, holds up nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import anyio

from fabstir.primitives.cid import BlobId
from fabstir.storage._part import RUN_GROUPS
from fabstir.storage.verified import group_extent, num_groups


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
        self._holders: dict[int, dict[str, anyio.CancelScope]] = {}
        self._changed = anyio.Event()

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
            for scope in self._holders.get(run, {}).values():
                scope.cancel()
            self._wake()
        return size

    async def take(self, source: str, scope: anyio.CancelScope) -> int | None:
        """Get the next run; waits while there is none, None: the blob is complete.

        Args:
            scope: cancelled when somebody else completes the run first.
        """
        while not self.is_complete:
            run = self._choose(source)
            if run is not None:
                self._holders.setdefault(run, {})[source] = scope
                return run
            await self._changed.wait()
        return None

    def release(self, run: int, source: str) -> None:
        """Give a run back, complete or not."""
        holders = self._holders.get(run, {})
        holders.pop(source, None)
        if not holders:
            self._holders.pop(run, None)
            if self.missing(run) is not None:
                self._pending.appendleft(run)
        self._wake()

    def _choose(self, source: str) -> int | None:
        if self._pending:
            return self._pending.popleft()
        shared = [
            (len(holders), run)
            for run, holders in self._holders.items()
            if source not in holders and self.missing(run) is not None
        ]
        return min(shared)[1] if shared else None

    def _size(self, group: int) -> int:
        start, end = group_extent(self._blob.size, group)
        return end - start

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
