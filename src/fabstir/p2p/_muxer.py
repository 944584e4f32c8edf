"""yamux with bounds. The library's (libp2p 0.8.1) has none on what a peer may leave with us:

- data beyond the window of a stream is kept all the same: one peer could fill the memory;
- a stream that only we have closed is kept until the connection ends;
- a write that is cancelled half-way leaves the cipher of the connection out of step for good;
- an error in the muxer's own task ends the whole node.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio
import trio
from libp2p.abc import ISecureConn
from libp2p.peer.id import ID
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from fabstir.p2p.limits import HALF_CLOSED_TIMEOUT, MAX_UNREAD_BYTES

logger = logging.getLogger(__name__)


def _nothing() -> None:
    return


class BoundedYamux(Yamux):
    """A connection whose peer cannot make us keep more than MAX_UNREAD_BYTES.

    Attributes:
        on_used: called when either side opens a stream.
    """

    def __init__(
        self,
        secured_conn: ISecureConn,
        peer_id: ID,
        is_initiator: bool | None = None,
        on_close: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        super().__init__(secured_conn, peer_id, is_initiator, on_close)
        self.on_used: Callable[[], None] = _nothing
        self._half_closed_since: dict[int, float] = {}

    def is_busy(self) -> bool:
        """Whether the peer waits for something. Our own streams do not count: identify opens one to
        everybody, and strangers need not answer."""
        return any(
            not stream.is_initiator and not stream.send_closed for stream in self.streams.values()
        )

    async def start(self) -> None:
        try:
            await super().start()
        except Exception as exc:  # noqa: BLE001 - in the library it would end the node; it ends the connection
            logger.debug("a muxer failed", extra={"cause": repr(exc)})
            await self._cleanup_on_error()

    async def open_stream(self) -> YamuxStream:
        self.on_used()
        return await super().open_stream()

    async def _read_data_body(self, length: int) -> bytes:
        unread = sum(map(len, self.stream_buffers.values()))
        if unread + length > MAX_UNREAD_BYTES:
            # The one error for which the library's loop closes the connection.
            raise trio.TooSlowError(f"the peer left {unread} bytes and sends {length} more")
        return await super()._read_data_body(length)

    async def _write_frame(self, data: bytes) -> None:
        async with self._write_lock:
            with anyio.CancelScope(shield=True):  # the transport bounds how long it takes
                await self.secured_conn.write(data)
        await trio.lowlevel.checkpoint()

    def _sweep_stale_streams(self, now: float | None = None) -> int:
        """Called every 30 s, with the lock on the streams held."""
        now = trio.current_time() if now is None else now
        half_closed = {sid for sid, stream in self.streams.items() if stream.send_closed}
        since = {sid: at for sid, at in self._half_closed_since.items() if sid in half_closed}
        for sid in half_closed:
            if now - since.setdefault(sid, now) >= HALF_CLOSED_TIMEOUT:
                self.streams[sid].closed = True
                self.stream_buffers[sid] = bytearray()
        self._half_closed_since = since
        return super()._sweep_stale_streams(now)
