"""Writes in progress in this process, so that a collection does not take their blobs."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fabstir.primitives.cid import Multihash


@dataclass(eq=False, slots=True)
class Write:
    """One write under way.

    Attributes:
        stored: blobs that it stored and that may not be named yet.
    """

    started_at: float
    stored: set[Multihash] = field(default_factory=set[Multihash])


class OngoingWrites:
    """The writes of one file system object.

    Args:
        clock: Unix seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._writes: set[Write] = set()

    @contextmanager
    def hold(self) -> Generator[Write]:
        """A write that is under way for the length of the block."""
        write = Write(self._clock())
        self._writes.add(write)
        try:
            yield write
        finally:
            self._writes.remove(write)

    def oldest(self, now: float) -> float:
        """When the oldest write began; `now` where there is none."""
        return min((write.started_at for write in self._writes), default=now)

    def stored(self) -> set[Multihash]:
        """What they stored."""
        return set[Multihash]().union(*(write.stored for write in self._writes))
