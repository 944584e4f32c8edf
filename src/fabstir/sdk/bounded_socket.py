"""A socket to a host that costs only so much memory, and that notices when the host is gone."""

from __future__ import annotations

import asyncio
from typing import Final

import anyio
from websockets.asyncio.client import ClientConnection
from websockets.frames import CloseCode

from fabstir.protocol.limits import MAX_HOST_FRAME_BYTES

SEND_TIMEOUT: Final = 15.0
"""Seconds for a frame to fit into the socket: longer than a stopped host goes unnoticed. And those
for its length."""

SENT_BYTES_PER_SECOND: Final = 64 * 1024
"""What the slowest line takes that is supported, 560 kbit/s: a ping cannot overtake a long frame,
which may lie in the kernel where nobody sees how much of it has left."""

PING_INTERVAL: Final = 5.0
PING_TIMEOUT: Final = 7.0
"""Seconds. Together a host that says nothing any more is noticed within 15 s, closing included, or
later by what was sent to it just before."""

MAX_UNREAD_BYTES: Final = 2 * MAX_HOST_FRAME_BYTES
"""Kept for a slow reader; beyond it the socket is cut. The largest legal window of unacknowledged
tokens, 128 of the longest, takes 1.2 MB; 128 usual ones take 80 kB."""

_FRAME_HEADER_BYTES: Final = 14
"""A WebSocket frame's header at its longest."""


class BoundedSocket(ClientConnection):
    """A socket that is cut when the peer sends more than is read: frames alone are no bound.

    Attributes:
        has_overflowed: it was cut for that.
    """

    _unread_bytes = 0
    _unconfirmed_bytes = 0
    _heard_at = 0.0
    has_overflowed = False

    def data_received(self, data: bytes) -> None:
        self._unread_bytes += len(data)
        self._heard_at = self.loop.time()
        if self._unread_bytes > MAX_UNREAD_BYTES:
            self.has_overflowed = True
            self.transport.abort()
        else:
            super().data_received(data)

    async def read(self) -> bytes:
        """The next message. Raises ConnectionClosed."""
        data = await self.recv(decode=False)
        self._unread_bytes = max(0, self._unread_bytes - len(data) - _FRAME_HEADER_BYTES)
        return data

    async def write(self, text: str) -> None:
        """Send one message, of ASCII. Raises ConnectionClosed, TimeoutError."""
        self._unconfirmed_bytes += len(text)
        with anyio.fail_after(SEND_TIMEOUT + len(text) / SENT_BYTES_PER_SECOND):
            await self.send(text)

    async def keepalive(self) -> None:
        """As websockets', but a pong has as long as what is sent before its ping may take, and
        whatever comes meanwhile counts as well.
        """
        while True:
            await asyncio.sleep(PING_INTERVAL)
            num_bytes = self._unconfirmed_bytes
            pong = asyncio.ensure_future(await self.ping())
            if not await self._is_answered(pong, PING_TIMEOUT + num_bytes / SENT_BYTES_PER_SECOND):
                async with self.send_context():
                    self.protocol.fail(CloseCode.INTERNAL_ERROR, "keepalive ping timeout")
            self._unconfirmed_bytes -= num_bytes

    async def _is_answered(self, pong: asyncio.Future[float], patience: float) -> bool:
        pinged_at = self.loop.time()
        while not pong.done():
            left = max(pinged_at, self._heard_at) + patience - self.loop.time()
            if left <= 0.0:
                return False
            await asyncio.wait([pong], timeout=left)
        return True
