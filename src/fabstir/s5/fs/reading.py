"""Limits on how much of others' data one request reads, and where it is decoded.

A node of a HAMT has up to 4 MiB, whose decoding takes seconds in Python. Long ones are decoded in a
thread, few at a time, and one request reads only so many bytes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

from anyio import CapacityLimiter, to_thread

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.formats.limits import MAX_HAMT_NODE_BYTES

T = TypeVar("T")

LOOKUP_BYTES: Final = 3 * MAX_HAMT_NODE_BYTES
"""Of nodes that one look-up of a name reads. The longest ones that are written, at a million
entries with leaves of 1,000, have 3.8 MiB; at most two of a path are that long, and those above and
below them have a few KiB."""

PAGE_BYTES: Final = 4 * MAX_HAMT_NODE_BYTES
"""Of nodes that one page of a list reads before it ends early. 10,000 entries of the longest ones
that are written take 2 MiB."""

LONG_BYTES: Final = 32 * 1024
"""What is longer is decoded in a thread: 5 ms and more, against 0.2 ms for the way there."""

_AT_ONCE: Final = 2
"""Threads that decode: they share one interpreter lock, and others wait for threads, too."""


class Allowance:
    """What one request may still read of a HAMT's nodes, in bytes."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self.num_bytes = 0
        """Of it, so many are spent."""

    def spend(self, num_bytes: int, path: str) -> None:
        """Take it for one node.

        Raises:
            RemoteProtocolError: there was nothing left.
        """
        if self.num_bytes >= self._max_bytes:
            raise RemoteProtocolError(
                f"the large directory {path or '/'!a} cannot be read: its nodes are longer than "
                f"any that S5 writes, {self.num_bytes} bytes for one look"
            )
        self.num_bytes += num_bytes


class Decoding:
    """Decodes what is long beside the event loop."""

    def __init__(self) -> None:
        self._limiter: CapacityLimiter | None = None

    async def run(self, num_bytes: int, decode: Callable[[], T]) -> T:
        """What `decode` makes of so many bytes."""
        if num_bytes <= LONG_BYTES:
            return decode()
        if self._limiter is None:
            self._limiter = CapacityLimiter(_AT_ONCE)
        return await to_thread.run_sync(decode, limiter=self._limiter)
