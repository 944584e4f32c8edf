"""WebSockets of strangers: nothing that is sent costs more memory or time than it may.

Until the door has been shown whose the connection is (`api.proving`), there is a deadline, and
frames are short; afterwards a message may be as long as the door takes, but its end must come.
What arrives is read in small pieces, at the rate of its address: a piece of many tiny frames would
keep everybody else waiting.
"""

from __future__ import annotations

import asyncio
from asyncio.transports import BaseTransport
from typing import Any, Final

from uvicorn._types import ASGIReceiveEvent
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.protocol import State

from fabstir.web.inbound.guarded_transport import GuardedTransport

OPENING_SECONDS: Final = 30.0
"""From the upgrade to a caller who is known; clients open the socket when a session starts."""

OPENING_FRAME_BYTES: Final = 64 * 1024
"""Longest message until then: a handshake has some 2 KB."""

MESSAGE_SECONDS: Final = 60.0
"""From a message's first byte to its last: 4 MiB at 560 kbit/s."""

CLOSE_SECONDS: Final = 2.0
"""For the client's answer to our close."""

SLICE_BYTES: Final = 4096
"""Read at a time: at most 682 frames, some 10 ms."""

POLICY_VIOLATION: Final = 1008


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """uvicorn's, with those limits."""

    def __init__(
        self, config: Config, server_state: ServerState, app_state: dict[str, Any]
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._unread = bytearray()
        self._num_frames = 0
        self._heard_at = self.loop.time()
        self._opening: asyncio.TimerHandle | None = None
        self._message: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None

    # -- from the transport -------------------------------------------------------------------

    def connection_made(self, transport: BaseTransport) -> None:
        """The connection was upgraded."""
        super().connection_made(transport)
        connection = self._guarded.connection
        connection.unprove()  # what an HTTP request on it has shown
        connection.on_proven, connection.on_unproven = self._proven, self._unproven
        self._unproven()

    def data_received(self, data: bytes) -> None:
        """Bytes have come: they are read as fast as this client may send."""
        self._unread += data
        self._heard_at = self.loop.time()
        if self._pause is None:
            self._read()
        else:
            self._guarded.hold_reading("slices")

    def pause_writing(self) -> None:
        """The client takes too little: it is not read from either."""
        super().pause_writing()
        self._guarded.hold_reading("writes")

    def resume_writing(self) -> None:
        """It has taken enough."""
        super().resume_writing()
        self._guarded.release_reading("writes")

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        for timer in (self._opening, self._message, self._pause):
            if timer is not None:
                timer.cancel()
        self._opening = self._message = self._pause = None
        self._unread.clear()
        self._guarded.lost()
        self._guarded.connection.leave()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server ends. Who broke the protocol is being closed for that, and told nothing."""
        expected = State.OPEN if self.handshake_complete else State.CONNECTING
        is_whole = self.conn.state is expected and self.conn.handshake_exc is None
        if self.close_sent or is_whole:
            super().shutdown()
        else:
            self.stop_keepalive()
            self.queue.put_nowait({"type": "websocket.disconnect", "code": 1006})
            self.transport.abort()

    async def receive(self) -> ASGIReceiveEvent:
        """The application is ready for the next message."""
        event = await super().receive()
        if self._unread and self._pause is None:
            self._read()
        return event

    # -- reading ------------------------------------------------------------------------------

    def _read(self) -> None:
        """Read a slice, if the application has taken what came before; the next one is for when the
        loop has looked at others, or later, if this address sends more than it may.
        """
        self._pause = None
        if self.transport.is_closing():
            self._unread.clear()
            return
        # After our close, what is left to read is the client's.
        if self._unread and (self.queue.empty() or self.close_sent):
            piece = bytes(self._unread[:SLICE_BYTES])
            del self._unread[:SLICE_BYTES]
            super().data_received(piece)
            self._refuse_bad_upgrade()
            self._watch_message()
            num_frames, self._num_frames = self._num_frames, 0
            seconds = self._guarded.connection.frames.take(num_frames)
            self._pause = self.loop.call_later(seconds, self._read)
        if self._unread:
            self._guarded.hold_reading("slices")
        else:
            self._guarded.release_reading("slices")

    def handle_events(self) -> None:
        """Count what was read; uvicorn does the rest."""
        self._num_frames += len(self.conn.events)
        super().handle_events()

    def _refuse_bad_upgrade(self) -> None:
        """A head that HTTP let pass and WebSocket does not, such as POST: uvicorn says nothing."""
        if self.conn.handshake_exc is not None and not self.handshake_initiated:
            self.transport.write(b"".join(self.conn.data_to_send()) or _BAD_UPGRADE)
            self.transport.close()

    def send_receive_event_to_app(self) -> None:
        """A message is whole; uvicorn logs text that is not UTF-8 as an error of ours."""
        if self.curr_msg_data_type == "text":
            try:
                b"".join(self.frames).decode()
            except UnicodeDecodeError:
                self.frames = []
                self._close(1007, "text frames are UTF-8")
                return
        super().send_receive_event_to_app()

    # -- deadlines ----------------------------------------------------------------------------

    def _watch_message(self) -> None:
        fragments = self.conn.current_size
        num_bytes = len(self.conn.reader.buffer) + (fragments or 0)
        is_unfinished = num_bytes > 0 or fragments is not None
        if not is_unfinished and self._message is not None:
            self._message.cancel()
            self._message = None
        elif is_unfinished and self._message is None:
            self._message = self.loop.call_later(MESSAGE_SECONDS, self._not_finished)
        self._guarded.connection.has_unfinished(num_bytes)

    def _proven(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        self.conn.max_message_size = self.config.ws_max_size

    def _unproven(self) -> None:
        """It begins, or what was shown counts no more: a deadline, and small frames."""
        self.conn.max_message_size = min(OPENING_FRAME_BYTES, self.config.ws_max_size)
        if self._opening is None and not self.transport.is_closing():
            self._opening = self.loop.call_later(OPENING_SECONDS, self._not_proven)

    def _not_proven(self) -> None:
        self._opening = None
        self._close(
            POLICY_VIOLATION, f"nobody has shown within {OPENING_SECONDS:g} s whose this is"
        )

    def _not_finished(self) -> None:
        if not self._guarded.is_reading():  # we are what it waits for
            self._message = self.loop.call_later(MESSAGE_SECONDS, self._not_finished)
            return
        self._message = None
        self._close(
            POLICY_VIOLATION, f"a message has not come to its end within {MESSAGE_SECONDS:g} s"
        )

    def keepalive_timeout(self) -> None:
        """No pong in time, unless we are what it waits for, or something else came meanwhile.

        A pong cannot overtake a long message on a slow line, which has a deadline of its own.
        """
        seconds = self.ping_timeout or 0.0
        if self._guarded.is_reading():
            seconds -= self.loop.time() - self._heard_at
        if seconds > 0.0:
            self.pong_timer = self.loop.call_later(seconds, self.keepalive_timeout)
        else:
            super().keepalive_timeout()

    def _close(self, code: int, reason: str) -> None:
        """Say why, and close; the application hears that the client is gone."""
        if self.close_sent or self.transport.is_closing():
            return
        if self.conn.state is not State.OPEN or not self.handshake_complete:
            self.transport.abort()
            return
        self.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.close_timer = self.loop.call_later(CLOSE_SECONDS, self.transport.close)

    @property
    def _guarded(self) -> GuardedTransport:
        assert isinstance(self.transport, GuardedTransport), "HttpProtocol has wrapped it"
        return self.transport


_BAD_UPGRADE: Final = (
    b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Type: text/plain\r\n"
    b"Content-Length: 29\r\n\r\nthis is no WebSocket upgrade\n"
)
