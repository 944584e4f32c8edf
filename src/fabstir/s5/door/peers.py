"""The WebSocket route /s5/p2p: turns binary frames into messages, nothing else."""

from __future__ import annotations

from typing import Final

import anyio
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.s5.door.services import S5Services
from fabstir.s5.formats.limits import MAX_WIRE_BYTES
from fabstir.s5.peers.connection import TRY_AGAIN_LATER
from fabstir.web.inbound.proving import prove

_MAX_REASON_BYTES: Final = 123
"""Of a WebSocket's close frame (RFC 6455)."""


class PeerDoor:
    """Serves /s5/p2p for the length of the server."""

    def __init__(self, services: S5Services) -> None:
        self._services = services

    def routes(self) -> list[WebSocketRoute]:
        return [WebSocketRoute("/s5/p2p", self.serve)]

    async def serve(self, socket: WebSocket) -> None:
        """One socket, from open to close."""
        await socket.accept()
        reason = await self._services.serve_peer(_Accepted(socket))
        if socket.application_state is WebSocketState.CONNECTED:
            code = TRY_AGAIN_LATER if reason else 1000
            try:
                await socket.close(code, _short(reason))
            except (RuntimeError, WebSocketDisconnect, OSError):
                return  # the peer was faster


def _short(reason: str) -> str:
    return reason.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")


class _Accepted:
    """A WebSocket that the other side opened."""

    def __init__(self, socket: WebSocket) -> None:
        client = socket.client
        host = "" if client is None else client.host
        host = f"[{host}]" if ":" in host else host
        self.url = f"ws://{host}:{0 if client is None else client.port}"
        self._socket = socket

    def known(self) -> None:
        """As `s5.peers.MessageConnection`."""
        prove(self._socket)

    async def send(self, message: bytes) -> None:
        """As `s5.peers.MessageConnection`."""
        if self._socket.application_state is not WebSocketState.CONNECTED:
            raise anyio.BrokenResourceError
        try:
            await self._socket.send_bytes(message)
        except (WebSocketDisconnect, RuntimeError, OSError) as error:
            # Starlette says "gone" with RuntimeError once it has seen the close itself.
            raise anyio.BrokenResourceError from error

    async def receive(self) -> bytes:
        """As `s5.peers.MessageConnection`."""
        if self._socket.client_state is not WebSocketState.CONNECTED:
            raise anyio.EndOfStream
        event = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            raise anyio.EndOfStream
        data = event.get("bytes")
        if not isinstance(data, bytes):
            raise RemoteProtocolError("peers of S5 send binary frames")
        if len(data) > MAX_WIRE_BYTES:
            raise RemoteProtocolError(f"a frame is longer than {MAX_WIRE_BYTES} bytes")
        return data
