"""The door /v1/ws: text frames to messages, errors to error frames, nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from fabstir.api.errors import error_message
from fabstir.api.proving import prove
from fabstir.api.strangers import Strangers
from fabstir.jobs.connection import ClientConnection, ReportError, Transmit
from fabstir.primitives.errors import FabstirError
from fabstir.protocol.client_messages import (
    EncryptedSessionInit,
    decode_client_fields,
    ids_of,
    parse_client_frame,
)
from fabstir.protocol.frames import Frame, encode_frame
from fabstir.protocol.host_messages import Connected

_logger = logging.getLogger(__name__)

MakeConnection = Callable[[Transmit, ReportError, TaskGroup], ClientConnection]

FINISH_SECONDS = 30.0
"""How long a host that was told to stop lets running answers go on: most take less."""

POLICY_VIOLATION = 1008
"""The close code of who was refused too often."""


class WebSocketDoor:
    """Serves /v1/ws for the length of the server."""

    def __init__(self, make_connection: MakeConnection, strangers: Strangers | None = None) -> None:
        self._make = make_connection
        self._strangers = strangers or Strangers()
        self._connections: set[ClientConnection] = set()

    def __len__(self) -> int:
        return len(self._connections)

    async def drain(self) -> None:
        """Let running answers end and be acknowledged; cut short what takes too long."""
        with anyio.move_on_after(FINISH_SECONDS):
            await self._finish_answers()
        for connection in tuple(self._connections):
            connection.stop_answers("draining")
        await self._finish_answers()

    async def _finish_answers(self) -> None:
        async with anyio.create_task_group() as tasks:
            for connection in tuple(self._connections):
                tasks.start_soon(connection.finish_answers)

    async def serve(self, socket: WebSocket) -> None:
        """One socket, from open to close."""
        await socket.accept()

        async def transmit(frames: list[Frame]) -> None:
            if socket.application_state != WebSocketState.CONNECTED:
                raise anyio.BrokenResourceError
            try:
                for frame in frames:
                    await socket.send_text(encode_frame(frame))
            except (WebSocketDisconnect, RuntimeError, OSError) as error:
                # Starlette says "gone" with RuntimeError once it has seen the close itself.
                raise anyio.BrokenResourceError from error

        async def report(
            error: FabstirError, *, session_id: str | None, request_id: str | None
        ) -> None:
            frame = error_message(error, session_id=session_id, request_id=request_id)
            _logger.info("told a client of an error", extra={"code": frame.code})
            await transmit([frame])

        async with anyio.create_task_group() as tasks:
            connection = self._make(transmit, report, tasks)
            self._connections.add(connection)
            try:
                await transmit([Connected("fabstir host: encrypted_session_init opens a session")])
                await self._read(socket, connection, report)
            except (WebSocketDisconnect, anyio.BrokenResourceError):
                _logger.debug("client left")
            finally:
                self._connections.discard(connection)
                connection.release()
                tasks.cancel_scope.cancel()

    async def _read(
        self, socket: WebSocket, connection: ClientConnection, report: ReportError
    ) -> None:
        address = socket.client.host if socket.client else ""
        while True:
            event = await socket.receive()
            if event["type"] == "websocket.disconnect":
                return
            data: str | bytes = event.get("text") or event.get("bytes") or ""
            session_id = request_id = None
            try:
                fields = parse_client_frame(data)
                session_id, request_id = ids_of(fields)
                message = decode_client_fields(fields)
                if isinstance(message, EncryptedSessionInit):
                    async with self._strangers.handshake(address):
                        await connection.handle(message)
                    prove(socket)
                else:
                    await connection.handle(message)
            except FabstirError as error:
                await report(error, session_id=session_id, request_id=request_id)
                if not self._strangers.may_be_refused_again(address):
                    await socket.close(POLICY_VIOLATION, "RATE_LIMITED: too many refused frames")
                    return
