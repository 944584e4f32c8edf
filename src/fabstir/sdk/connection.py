"""One connection to a host, opened for one session: runs a `RenterExchange` over a stream."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import anyio

from fabstir.primitives.errors import (
    ContextLengthExceeded,
    FabstirError,
    HostUnresponsive,
)
from fabstir.protocol.codes import error_told
from fabstir.protocol.exchange.renter import HostRefused, Opened, RenterEvent, RenterExchange
from fabstir.protocol.exchange.streams import FrameStream
from fabstir.protocol.frames import Frame, encode_frame
from fabstir.protocol.host_messages import ErrorMessage
from fabstir.telemetry.background import to_its_end

INIT_TIMEOUT: Final = 30.0
"""Seconds for the host to look at the chain and answer the handshake; era-C's SDK waits as long."""


class HostConnection:
    """A stream to a host and what is said on it.

    Attributes:
        exchange: what may be said, and what was heard.
    """

    def __init__(self, stream: FrameStream, exchange: RenterExchange) -> None:
        self.exchange = exchange
        self._stream = stream
        self._heard_at = time.monotonic()

    @property
    def is_lost(self) -> bool:
        """The stream closed while nobody was asking."""
        return not self._stream.is_open

    async def send(self, frame: Frame) -> None:
        """Frames must be sent in the order in which the exchange made them.

        Raises:
            HostUnresponsive: the host is gone.
        """
        try:
            await self._stream.send(encode_frame(frame))
        except anyio.BrokenResourceError as exc:
            raise self._silence("stopped answering") from exc

    async def receive(self, timeout: float) -> RenterEvent:
        """The next event.

        Raises:
            HostUnresponsive: the stream is gone, or nothing that means something came for
                `timeout` seconds.
            RemoteProtocolError, ReceiptMismatch: see `RenterExchange.receive`.
            SessionRefused, DepositExhausted, ContextLengthExceeded, EngineError: the host says so.
        """
        with anyio.move_on_after(timeout):
            while True:
                event = self.exchange.receive(await self._read())
                if isinstance(event, HostRefused):
                    raise error_of(event.message)
                if event is not None:
                    return event
        raise self._silence("stopped answering")

    async def _read(self) -> str | bytes:
        try:
            data = await self._stream.receive()
        except anyio.EndOfStream as exc:
            raise self._silence("closed the connection") from exc
        except anyio.BrokenResourceError as exc:
            raise self._silence("stopped answering") from exc
        self._heard_at = time.monotonic()
        return data

    def _silence(self, what: str) -> HostUnresponsive:
        seconds = time.monotonic() - self._heard_at
        return HostUnresponsive(
            f"{self._stream.peer} {what}; its last frame came {seconds:.1f} s ago"
        )


@asynccontextmanager
async def open_connection(
    stream: FrameStream, exchange: RenterExchange, greeting: Frame
) -> AsyncGenerator[HostConnection]:
    """Open the session on a stream for the length of the block, which closes the stream.

    Args:
        greeting: the init, by `RenterExchange.greet`.

    Raises:
        HostUnresponsive: it does not answer in time.
        SessionRefused: the gate said no; the code says why.
        RemoteProtocolError: it answers, but not as a host.
        ReceiptMismatch: it answers with other terms than were agreed.
    """
    try:
        connection = HostConnection(stream, exchange)
        await connection.send(greeting)
        event = await connection.receive(INIT_TIMEOUT)
        assert isinstance(event, Opened), "nothing else is legal"
        yield connection
    finally:
        await to_its_end(stream.aclose())


def error_of(message: ErrorMessage) -> FabstirError:
    """A host's error frame as the error that it was on the host's side."""
    if message.prompt_tokens is not None and message.context_window_size is not None:
        return ContextLengthExceeded(message.prompt_tokens, message.context_window_size)
    return error_told(message.code, f"the host says: {message.message}")
