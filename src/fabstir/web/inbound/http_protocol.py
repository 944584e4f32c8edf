"""HTTP/1.1 of strangers: a head has a time limit, and who reads nothing loses the connection.

uvicorn has a limit only between two requests: a client that sends its head a byte a minute, or
nothing at all, would hold a connection for ever, and a thousand of them all there are (slowloris).
"""

from __future__ import annotations

import asyncio
from typing import Final

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from fabstir.web.inbound.connections import FORWARDED_FOR, OpenConnection
from fabstir.web.inbound.guarded_transport import GuardedTransport
from fabstir.web.inbound.proving import PROVE, UNPROVE

HEAD_SECONDS: Final = 30.0
"""From a connection, or a head's first byte, to the head's end; Apache and nginx take 20 to 60."""

_ENDING: Final = b"this node is being stopped before this was done: send it again soon\n"


class HttpProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 with those limits, until the connection is upgraded to a WebSocket."""

    _timer: asyncio.TimerHandle | None = None

    def __init__(
        self, config: Config, server_state: ServerState, connection: OpenConnection
    ) -> None:
        state = {
            PROVE: connection.prove,
            UNPROVE: connection.unprove,
            FORWARDED_FOR: connection.is_forwarded_for,
        }
        super().__init__(config, server_state, state)
        self._connection = connection

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected, and owes a head."""
        guarded = GuardedTransport(transport, self._connection, self.loop)
        super().connection_made(guarded)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Bytes have come: part of a head, or its end, or of a body."""
        super().data_received(data)
        self._watch()

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
        self._unset()
        self._guarded.lost()
        self._connection.leave()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server ends."""
        try:
            super().shutdown()
        except h11.LocalProtocolError:  # it broke the protocol, and is being closed for that
            self.transport.abort()

    def say_ending(self) -> bool:
        """Answer a request that is not answered yet, in the handler's place: the server ends.

        Returns:
            Whether there was one.
        """
        if self.conn.our_state is not h11.SEND_RESPONSE:
            return False
        headers = [
            *((b"content-type", b"text/plain"), (b"content-length", b"%d" % len(_ENDING))),
            *((b"retry-after", b"5"), (b"connection", b"close")),
        ]
        for event in (
            h11.Response(status_code=503, headers=headers, reason=b"Service Unavailable"),
            h11.Data(data=_ENDING),
            h11.EndOfMessage(),
        ):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.write_eof()
        # The handler is told that its client has left, and what it still says is dropped.
        self.cycle.response_started = self.cycle.response_complete = True
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        return True

    @property
    def _guarded(self) -> GuardedTransport:
        assert isinstance(self.transport, GuardedTransport), "connection_made has wrapped it"
        return self.transport

    def _watch(self) -> None:
        if self.conn.their_state is not h11.IDLE:
            self._unset()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _unset(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
