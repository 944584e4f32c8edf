"""HTTP written by hand, so that a server can break every rule of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.buffered import BufferedByteReceiveStream

_MAX_HEAD_BYTES = 64 * 1024
_PIECE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Request:
    """
    Attributes:
        headers: names in lower case.
        is_whole: whether the body came whole; else the connection is about to be cut.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """
    Attributes:
        length: what Content-Length says; None: the truth; -1: it is not sent.
    """

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """Close the connection after so many bytes of the answer's body; None: without an answer."""

    after: int | None = None


@dataclass(frozen=True, slots=True)
class CutRequest:
    """Close the connection after so many bytes of the request's body were taken."""

    after: int


@dataclass(frozen=True, slots=True)
class StallRequest:
    """Take so many bytes of the request's body, then nothing more."""

    after: int


@dataclass(frozen=True, slots=True)
class Stall:
    """Send so many bytes of the answer's body, then nothing; None: not even its head."""

    after: int | None = None


@dataclass(frozen=True, slots=True)
class Alter:
    """Answer something else than the truth."""

    change: Callable[[Answer], Answer]


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer at once, and do nothing."""

    answer: Answer


Fault = Cut | CutRequest | StallRequest | Stall | Alter | Refuse


def refuse(status: int, body: bytes = b"", **headers: str) -> Refuse:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Refuse(Answer(status, body, named))


def always(answer: Answer) -> Alter:
    """Whatever would be true."""
    return Alter(lambda _: answer)


@dataclass(slots=True)
class Server:
    """
    Attributes:
        faults: by "METHOD /path" as a prefix: one for each of the next requests.
        requests: all of them, in order.
    """

    url: str
    handle: Callable[[Request], Awaitable[Answer]]
    faults: dict[str, list[Fault]] = field(default_factory=dict[str, list[Fault]])
    requests: list[Request] = field(default_factory=list[Request])

    def paths(self, method: str) -> list[str]:
        return [request.path for request in self.requests if request.method == method]

    async def serve(self, stream: SocketStream) -> None:
        async with stream:
            try:
                reader = BufferedByteReceiveStream(stream)
                while await self._answer_next(stream, reader):
                    pass
            except (
                anyio.BrokenResourceError,
                anyio.EndOfStream,
                anyio.IncompleteRead,
                anyio.ClosedResourceError,
            ):
                return  # the client hung up, which is what the tests make it do

    async def _answer_next(self, stream: SocketStream, reader: BufferedByteReceiveStream) -> bool:
        head = await reader.receive_until(b"\r\n\r\n", _MAX_HEAD_BYTES)
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split()
        fields = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        parts = urlsplit(target)
        fault = self._next_fault(f"{method} {parts.path}")
        length = int(headers.get("content-length", "0"))
        is_partial = isinstance(fault, CutRequest | StallRequest)
        taken = min(length, fault.after) if is_partial else length
        body = await reader.receive_exactly(taken) if taken else b""
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        is_whole = taken == length
        request = Request(method, parts.path, query, headers, body, is_whole)
        self.requests.append(request)
        if isinstance(fault, Refuse):
            await self._send(stream, fault.answer, method, None)
            return True
        answer = await self.handle(request)
        if isinstance(fault, StallRequest):
            await anyio.sleep_forever()
        if not is_whole:
            return False
        if isinstance(fault, Alter):
            answer = fault.change(answer)
        if isinstance(fault, Cut | Stall) and fault.after is None:
            if isinstance(fault, Stall):
                await stream.receive()
            return False
        most = fault.after if isinstance(fault, Cut | Stall) else None
        await self._send(stream, answer, method, most)
        if isinstance(fault, Stall):
            await stream.receive()
        return most is None and answer.length != -1

    def _next_fault(self, line: str) -> Fault | None:
        for prefix, faults in self.faults.items():
            if line.startswith(prefix) and faults:
                return faults.pop(0)
        return None

    async def _send(
        self, stream: SocketStream, answer: Answer, method: str, most: int | None
    ) -> None:
        lines = [f"{name}: {value}" for name, value in answer.headers]
        if answer.length != -1:
            length = len(answer.body) if answer.length is None else answer.length
            lines.append(f"Content-Length: {length}")
        head = "\r\n".join([f"HTTP/1.1 {answer.status} Status", *lines, "", ""]).encode("latin-1")
        body = b"" if method == "HEAD" else answer.body[:most]
        await stream.send(head + body[:_PIECE_BYTES])
        for start in range(_PIECE_BYTES, len(body), _PIECE_BYTES):
            await stream.send(body[start : start + _PIECE_BYTES])


@asynccontextmanager
async def open_server(handle: Callable[[Request], Awaitable[Answer]]) -> AsyncGenerator[Server]:
    """Serve on a free loopback port for the length of the block."""
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        port = listener.extra(SocketAttribute.local_port)
        server = Server(f"http://127.0.0.1:{port}", handle)
        tasks.start_soon(listener.serve, server.serve)
        yield server
        tasks.cancel_scope.cancel()
