"""A transport that a peer cannot hold open by reading nothing.

What is written has to leave: where the peer takes too little of it for too long, the connection is
aborted, also after it was closed, which else would wait for minutes in the kernel. While the peer
does not take what was written, nothing more is read from it: pings would be answered into a buffer
without a bound.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Final

from fabstir.web.inbound.connections import OpenConnection

WRITE_STALL: Final = 10.0
"""Seconds in which what was to be sent must leave, or MIN_SENT_BYTES of it."""

MIN_SENT_BYTES: Final = 16 * 1024
"""A reader that takes fewer in WRITE_STALL is none: 1.6 KB a second, less than any modem."""


class GuardedTransport(asyncio.Transport):
    """Wraps the event loop's own transport of an accepted connection.

    Reading stops while anybody holds it: the protocol by `pause_reading`, others by a name.
    """

    def __init__(
        self,
        inner: asyncio.Transport,
        connection: OpenConnection,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        super().__init__()
        self.connection = connection
        connection.abort = self.abort
        self._inner = inner
        self._loop = loop
        self._holders: set[str] = set()
        self._num_written = 0
        self._owed = 0
        """How many bytes must have left at the next look."""
        self._timer: asyncio.TimerHandle | None = None

    # -- writing ------------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        """As asyncio's; what does not leave in time ends the connection."""
        self._inner.write(data)
        self._num_written += len(data)
        self._watch()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview[Any]]) -> None:
        """As asyncio's."""
        self.write(b"".join(list_of_data))

    def _watch(self) -> None:
        if self._timer is None and (pending := self._inner.get_write_buffer_size()):
            sent = self._num_written - pending
            self._owed = sent + min(pending, MIN_SENT_BYTES)
            self._timer = self._loop.call_later(WRITE_STALL, self._look)

    def _look(self) -> None:
        self._timer = None
        sent = self._num_written - self._inner.get_write_buffer_size()
        if sent < self._owed:
            self._inner.abort()
        else:
            self._watch()

    def lost(self) -> None:
        """The protocol was told that the connection is gone."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- reading ------------------------------------------------------------------------------

    def hold_reading(self, holder: str) -> None:
        """Read nothing more until `holder` lets go."""
        self._holders.add(holder)
        if not self._inner.is_closing():
            self._inner.pause_reading()

    def release_reading(self, holder: str) -> None:
        """Read on, unless somebody else holds."""
        self._holders.discard(holder)
        if not self._holders and not self._inner.is_closing():
            self._inner.resume_reading()

    def pause_reading(self) -> None:
        """As asyncio's."""
        self.hold_reading("protocol")

    def resume_reading(self) -> None:
        """As asyncio's, unless somebody else holds."""
        self.release_reading("protocol")

    def is_reading(self) -> bool:
        """As asyncio's."""
        return self._inner.is_reading()

    # -- the inner transport's own --------------------------------------------------------------

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As asyncio's."""
        return self._inner.get_extra_info(name, default)

    def is_closing(self) -> bool:
        """As asyncio's."""
        return self._inner.is_closing()

    def close(self) -> None:
        """As asyncio's: what is buffered is sent first, for as long as the peer takes it."""
        self._inner.close()

    def abort(self) -> None:
        """As asyncio's."""
        self._inner.abort()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """As asyncio's."""
        self._inner.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """As asyncio's."""
        return self._inner.get_protocol()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As asyncio's."""
        self._inner.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        """As asyncio's."""
        return self._inner.get_write_buffer_size()

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """As asyncio's."""
        return self._inner.get_write_buffer_limits()

    def write_eof(self) -> None:
        """As asyncio's."""
        self._inner.write_eof()

    def can_write_eof(self) -> bool:
        """As asyncio's."""
        return self._inner.can_write_eof()
