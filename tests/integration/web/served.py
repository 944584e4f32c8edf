"""A small application behind the real server, and clients that do to it what they should not."""

from __future__ import annotations

import base64
import secrets
import socket
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketStream
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from fabstir.web.inbound.connections import Connections, DoorLimits
from fabstir.web.inbound.proving import prove, unprove
from fabstir.web.inbound.server import bind, open_server

PIECE = bytes(64 * 1024)
MAX_FRAME_BYTES = 1 << 20


@dataclass(slots=True)
class Application:
    """What is served.

    Attributes:
        ended: a handler of /big, /flood or /bye has returned.
        messages: that /ws got.
    """

    ended: anyio.Event = field(default_factory=anyio.Event)
    messages: list[str | bytes] = field(default_factory=list["str | bytes"])

    def asgi(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/hello", self.hello),
                Route("/who", self.who),
                Route("/mine", self.mine),
                Route("/big", self.big),
                WebSocketRoute("/flood", self.flood),
                WebSocketRoute("/bye", self.bye),
                WebSocketRoute("/ws", self.websocket),
            ]
        )

    async def hello(self, _request: Request) -> Response:
        return PlainTextResponse("hello")

    async def mine(self, request: Request) -> Response:
        prove(request)
        return PlainTextResponse("yours")

    async def who(self, request: Request) -> Response:
        return PlainTextResponse(request.client.host if request.client else "")

    async def big(self, _request: Request) -> Response:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                for _ in range(1024):
                    yield PIECE
            finally:
                self.ended.set()

        return StreamingResponse(pieces())

    async def flood(self, socket: WebSocket) -> None:
        await socket.accept()
        try:
            while True:
                await socket.send_bytes(PIECE)
        except (WebSocketDisconnect, RuntimeError, OSError):
            self.ended.set()

    async def bye(self, socket: WebSocket) -> None:
        """Sends more than the kernel takes, without waiting, and closes."""
        await socket.accept()
        try:
            await socket.send_bytes(bytes(MAX_FRAME_BYTES * 32))
            await socket.close()
        except (WebSocketDisconnect, RuntimeError, OSError):
            self.ended.set()

    async def websocket(self, socket: WebSocket) -> None:
        """Whoever says "mine" is somebody, until they say "gone"."""
        await socket.accept()
        while (event := await socket.receive())["type"] == "websocket.receive":
            message: str | bytes = event.get("text") or event.get("bytes") or ""
            self.messages.append(message)
            if message == "mine":
                prove(socket)
            elif message == "gone":
                unprove(socket)
            await socket.send_text(f"{len(message)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """A server, and what is connected to it, which is closed with it."""

    application: Application
    connections: Connections
    port: int
    clients: AsyncExitStack

    def connect(
        self, *, source: str = "127.0.0.1", receive_bytes: int = 16 * 1024
    ) -> socket.socket:
        """A socket from some loopback address; small buffers, so that they fill soon."""
        client = self.clients.enter_context(socket.socket())
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        client.bind((source, 0))
        client.connect(("127.0.0.1", self.port))
        client.setblocking(False)
        return client

    async def open(self, *, source: str = "127.0.0.1") -> SocketStream:
        stream = await anyio.connect_tcp("127.0.0.1", self.port, local_host=source)
        return await self.clients.enter_async_context(stream)

    async def get(self, path: str, *, source: str = "127.0.0.1", **headers: str) -> bytes:
        """The whole answer of a connection of its own."""
        lines = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
        async with await self.open(source=source) as stream:
            await stream.send(
                f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode()
            )
            return await read_all(stream)

    async def upgrade(self, path: str, *, source: str = "127.0.0.1") -> SocketStream:
        """A WebSocket without a library."""
        stream = await self.open(source=source)
        await stream.send(upgrade_head(path))
        head = b""
        while b"\r\n\r\n" not in head:
            head += await stream.receive()
        assert head.startswith(b"HTTP/1.1 101"), head
        return stream


def upgrade_head(path: str, method: str = "GET") -> bytes:
    key = base64.b64encode(secrets.token_bytes(16)).decode()
    return (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    ).encode()


def frame(data: bytes, *, opcode: int = 1, length: int | None = None, fin: bool = True) -> bytes:
    """A masked frame (with a mask of zeros) that may announce more than it has."""
    length = len(data) if length is None else length
    return bytes([0x80 * fin | opcode, 0x80 | 127]) + struct.pack("!Q", length) + bytes(4) + data


async def read_all(stream: SocketStream) -> bytes:
    """To the end, which may be a reset."""
    data = b""
    with anyio.fail_after(10):
        try:
            while True:
                data += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return data


async def read_close(stream: SocketStream) -> tuple[int, str]:
    """Code and reason of the close frame that comes last."""
    data = await read_all(stream)
    while data:
        length = data[1] & 0x7F
        start = 2
        if length == 126:
            length, start = int.from_bytes(data[2:4], "big"), 4
        if data[0] & 0x0F == 8:
            body = data[start : start + length]
            return int.from_bytes(body[:2], "big"), body[2:].decode()
        data = data[start + length :]
    return 0, ""


@asynccontextmanager
async def open_served(
    limits: DoorLimits | None = None,
    on_refused: Callable[[str], None] = lambda _why: None,
) -> AsyncGenerator[Served]:
    application = Application()
    connections = Connections(limits or DoorLimits(), on_refused)
    with bind("127.0.0.1", 0, setting="host.port") as listener:
        port: int = listener.getsockname()[1]
        async with (
            AsyncExitStack() as clients,
            open_server(
                application.asgi(),
                listener,
                max_frame_bytes=MAX_FRAME_BYTES,
                connections=connections,
            ),
        ):
            yield Served(
                application=application, connections=connections, port=port, clients=clients
            )
