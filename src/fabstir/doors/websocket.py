"""GET /v1/ws as a stream of frames."""

from __future__ import annotations

from typing import Final

import anyio
from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from fabstir.doors.session import SessionDoor
from fabstir.protocol.exchange.streams import Path
from fabstir.web.inbound.proving import prove, unprove

POLICY_VIOLATION: Final = 1008
"""The close code of who was refused too often."""


class WebSocketStream:
    """A socket that a server accepted. See `CallerStream`."""

    path = Path.DIRECT

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self.peer = socket.client.host if socket.client else ""

    @property
    def is_open(self) -> bool:
        return self._socket.application_state == WebSocketState.CONNECTED

    async def receive(self) -> str | bytes:
        event = await self._socket.receive()
        if event["type"] == "websocket.disconnect":
            raise anyio.EndOfStream
        return event.get("text") or event.get("bytes") or ""

    async def send(self, data: str) -> None:
        if not self.is_open:
            raise anyio.BrokenResourceError
        try:
            await self._socket.send_text(data)
        except (WebSocketDisconnect, RuntimeError, OSError) as error:
            # Starlette says "gone" with RuntimeError once it has seen the close itself.
            raise anyio.BrokenResourceError from error

    async def aclose(self) -> None:
        await self._socket.close()

    async def refuse(self, reason: str) -> None:
        await self._socket.close(POLICY_VIOLATION, reason)

    def prove(self) -> None:
        prove(self._socket)

    def unprove(self) -> None:
        unprove(self._socket)


class WebSocketDoor:
    """GET /v1/ws: sessions over WebSockets."""

    def __init__(self, door: SessionDoor) -> None:
        self._door = door

    def routes(self) -> list[BaseRoute]:
        return [WebSocketRoute("/v1/ws", self._serve)]

    async def _serve(self, socket: WebSocket) -> None:
        """One socket, from open to close."""
        await socket.accept()
        await self._door.serve(WebSocketStream(socket))
