"""An HTTP door that answers as a host's, or as a test has it answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import h11
from anyio.abc import SocketAttribute, SocketStream
from websockets.http11 import Request
from websockets.server import ServerProtocol

from fabstir.crypto import NATIVE
from fabstir.primitives.ids import ModelId

_PIECE = b"x" * 65_536


@dataclass(slots=True, kw_only=True)
class ScriptedDoor:
    """Answers of a door by path; what it has none for is a good host's answer.

    Attributes:
        endless: paths whose body never ends.
        silent: paths that are never answered.
        num_sent: bytes of endless bodies that were taken.
    """

    secret: bytes
    model_id: ModelId
    answers: dict[str, bytes] = field(default_factory=dict[str, bytes])
    headers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    endless: set[str] = field(default_factory=set[str])
    silent: set[str] = field(default_factory=set[str])
    num_sent: int = 0
    url: str = ""

    async def serve(self, stream: SocketStream) -> None:
        connection = h11.Connection(h11.SERVER)
        async with stream:
            try:
                first = await stream.receive()
                if first.startswith(b"GET /v1/ws "):
                    await self._answer_pings(stream, first)
                    return
                connection.receive_data(first)
                while await self._answer(stream, connection):
                    connection.start_next_cycle()
            except (anyio.BrokenResourceError, anyio.EndOfStream):
                pass  # the renter has heard enough

    async def _answer_pings(self, stream: SocketStream, data: bytes) -> None:
        """The WebSocket door, as far as somebody sees it who only measures."""
        socket = ServerProtocol()
        while True:
            socket.receive_data(data)
            for event in socket.events_received():
                if isinstance(event, Request):
                    socket.send_response(socket.accept(event))
            for piece in socket.data_to_send():
                await stream.send(piece)
            data = await stream.receive()

    async def _answer(self, stream: SocketStream, connection: h11.Connection) -> bool:
        path, body = "", b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await stream.receive())
            elif isinstance(event, h11.Request):
                path = event.target.decode()
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            else:
                break
        if not isinstance(event, h11.EndOfMessage):
            return False
        if path in self.silent:
            await anyio.sleep_forever()
        answer = self.answers.get(path, self._honest(path, body))
        await self._send(stream, connection, path, answer)
        return True

    async def _send(
        self, stream: SocketStream, connection: h11.Connection, path: str, answer: bytes
    ) -> None:
        head = h11.Response(status_code=200, headers=self.headers)
        await stream.send(connection.send(head) or b"")
        while path in self.endless:
            await stream.send(connection.send(h11.Data(data=_PIECE)) or b"")
            self.num_sent += len(_PIECE)
        await stream.send(connection.send(h11.Data(data=answer)) or b"")
        await stream.send(connection.send(h11.EndOfMessage()) or b"")

    def _honest(self, path: str, body: bytes) -> bytes:
        if path == "/v1/auth/challenge":
            challenge = bytes.fromhex(json.loads(body)["challenge"])
            signature = NATIVE.sign(self.secret, hashlib.sha256(challenge).digest())
            proof = {"signature": signature[:64].hex(), "recid": signature[64]}
            return json.dumps(proof).encode()
        if path == "/v1/models":
            models = [{"id": self.model_id, "name": "demo", "context_length": 2048}]
            return json.dumps({"models": models}).encode()
        return b'{"status": "healthy"}'


@asynccontextmanager
async def open_scripted_door(door: ScriptedDoor) -> AsyncGenerator[ScriptedDoor]:
    """Serve it on a free port of loopback for the length of the block; sets its `url`."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    door.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, door.serve)
        yield door
        tasks.cancel_scope.cancel()
