"""A connection of whole messages, and the WebSocket that is dialled."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final, Protocol

import anyio
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI

from fabstir.primitives.errors import AddressRefused, PortalUnavailable, RemoteProtocolError
from fabstir.s5.formats.limits import MAX_WIRE_BYTES
from fabstir.web.reach import Reach
from fabstir.web.sockets import connect_websocket

_QUEUED_FRAMES = 4
"""Received frames that wait for us before the peer's TCP connection fills: 4 MiB."""


TRY_AGAIN_LATER: Final = 1013
"""The code with which a WebSocket is closed that has no place here (RFC 6455's registry)."""

_SHOWN_CHARS = 120


class MessageConnection(Protocol):
    """What the two ends of `/s5/p2p` have in common: dialled here, accepted by `s5.door`."""

    @property
    def url(self) -> str:
        """The other end, for people, and to tell whether it is near: `ws://host:port`."""
        ...

    def known(self) -> None:
        """The node at the other end has proven its key."""
        ...

    async def send(self, message: bytes) -> None:
        """Send one binary frame.

        Raises:
            anyio.BrokenResourceError: the connection is gone.
        """
        ...

    async def receive(self) -> bytes:
        """The next binary frame.

        Raises:
            anyio.EndOfStream: the connection was closed.
            RemoteProtocolError: a text frame, or one longer than MAX_WIRE_BYTES.
            PortalUnavailable: the other end has no place for this node.
        """
        ...


class _Dialled:
    """A WebSocket that this side opened."""

    def __init__(self, url: str, socket: ClientConnection) -> None:
        self.url = url
        self._socket = socket

    def known(self) -> None:
        return  # we chose whom to dial

    async def send(self, message: bytes) -> None:
        try:
            await self._socket.send(message)
        except ConnectionClosed as exc:
            raise anyio.BrokenResourceError from exc

    async def receive(self) -> bytes:
        try:
            message = await self._socket.recv()
        except ConnectionClosed as exc:
            if exc.sent is not None and exc.sent.code == 1009 and not exc.rcvd_then_sent:
                raise RemoteProtocolError(
                    f"a peer sent a frame longer than {MAX_WIRE_BYTES} bytes"
                ) from exc
            if exc.rcvd is not None and exc.rcvd.code == TRY_AGAIN_LATER:
                reason = f"it has no place for this node ({exc.rcvd.reason[:_SHOWN_CHARS]!r})"
                raise PortalUnavailable(self.url, reason) from exc
            raise anyio.EndOfStream from exc
        if isinstance(message, str):
            raise RemoteProtocolError("a peer sent a text frame; S5's are binary")
        return message


@asynccontextmanager
async def dial(
    url: str, timeout: float, reach: Reach | None = None
) -> AsyncGenerator[MessageConnection]:
    """A WebSocket for the length of the block.

    Args:
        timeout: for connecting.
        reach: where it may lead, if another peer named it; None: the settings did.

    Raises:
        PortalUnavailable: nobody answers there, or no WebSocket, or it is not dialled.
    """
    try:
        socket = await connect_websocket(
            url,
            reach=reach,
            max_size=MAX_WIRE_BYTES,
            max_queue=_QUEUED_FRAMES,
            compression=None,  # nothing of a stranger is inflated
            open_timeout=timeout,
            close_timeout=1.0,
        )
    except AddressRefused as exc:
        raise PortalUnavailable(url, f"it is not dialled: {exc}") from exc
    except (OSError, InvalidHandshake, InvalidURI, TimeoutError, UnicodeError) as exc:
        # UnicodeError: a host name that the resolver cannot write, such as a..b
        raise PortalUnavailable(url, f"it cannot be dialled ({exc or type(exc).__name__})") from exc
    try:
        yield _Dialled(url, socket)
    finally:
        with anyio.CancelScope(shield=True), contextlib.suppress(ConnectionClosed):
            await socket.close()
