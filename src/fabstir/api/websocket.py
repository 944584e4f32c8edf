"""The door /v1/ws: text frames to messages, errors to error frames, nothing else."""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
from anyio.abc import TaskGroup
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from fabstir.api.strangers import Strangers
from fabstir.jobs.connection import ClientConnection
from fabstir.jobs.outgoing import Write
from fabstir.primitives.errors import FabstirError
from fabstir.protocol.client_messages import (
    EncryptedSessionInit,
    decode_client_fields,
    ids_of,
    parse_client_frame,
)
from fabstir.protocol.host_messages import Connected
from fabstir.web.inbound.proving import prove, unprove

_logger = logging.getLogger(__name__)

MakeConnection = Callable[[TaskGroup], ClientConnection]

FINISH_SECONDS = 30.0
"""How long a host that was told to stop lets running answers go on: most take less."""

STOP_SECONDS = 5.0
"""How long answers that were told to stop may take for it: they await no client."""

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
        with anyio.move_on_after(STOP_SECONDS):
            await self._finish_answers()

    async def _finish_answers(self) -> None:
        async with anyio.create_task_group() as tasks:
            for connection in tuple(self._connections):
                tasks.start_soon(connection.finish_answers)

    async def serve(self, socket: WebSocket) -> None:
        """One socket, from open to close."""
        await socket.accept()

        async def write(text: str) -> None:
            if socket.application_state != WebSocketState.CONNECTED:
                raise anyio.BrokenResourceError
            try:
                await socket.send_text(text)
            except (WebSocketDisconnect, RuntimeError, OSError) as error:
                # Starlette says "gone" with RuntimeError once it has seen the close itself.
                raise anyio.BrokenResourceError from error

        async with anyio.create_task_group() as tasks:
            connection = self._make(tasks)
            connection.on_vacant = lambda: unprove(socket)
            self._connections.add(connection)
            try:
                tasks.start_soon(self._write, connection, write, tasks)
                greeting = Connected("fabstir host: encrypted_session_init opens a session")
                connection.outgoing.put([greeting])
                await self._read(socket, connection)
            except (WebSocketDisconnect, anyio.BrokenResourceError):
                _logger.debug("client left")
            finally:
                self._connections.discard(connection)
                connection.release()
                tasks.cancel_scope.cancel()

    @staticmethod
    async def _write(connection: ClientConnection, write: Write, tasks: TaskGroup) -> None:
        """Until the client is gone, or reads nothing: then nothing else of it goes on either."""
        try:
            await connection.outgoing.run(write)
        except anyio.BrokenResourceError:
            tasks.cancel_scope.cancel()

    async def _read(self, socket: WebSocket, connection: ClientConnection) -> None:
        caller = self._strangers.caller(socket.client.host if socket.client else "")
        while True:
            event = await socket.receive()
            if event["type"] == "websocket.disconnect":
                return
            data: str | bytes = event.get("text") or event.get("bytes") or ""
            session_id = request_id = message = None
            try:
                fields = parse_client_frame(data)
                session_id, request_id = ids_of(fields)
                message = decode_client_fields(fields)
                if isinstance(message, EncryptedSessionInit):
                    async with caller.handshake(message.job_id):
                        await connection.handle(message)
                    if connection.has_seats:
                        prove(socket)
                else:
                    await connection.handle(message)
            except FabstirError as error:
                connection.refuse(error, message, session_id=session_id, request_id=request_id)
                if not caller.may_be_refused_again():
                    await socket.close(POLICY_VIOLATION, "RATE_LIMITED: too many refused frames")
                    return
