"""Bytes to a door as no HTTP client would send them."""

from __future__ import annotations

import anyio
from anyio.abc import SocketStream
from tests.integration.s5.door.door import Door


async def connect(door: Door) -> SocketStream:
    host, _, port = door.authority.rpartition(":")
    return await anyio.connect_tcp(host, int(port))


async def read_all(stream: SocketStream) -> bytes:
    """Until the server closes."""
    received = bytearray()
    try:
        while True:
            received += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return bytes(received)


async def exchange(door: Door, request: bytes) -> bytes:
    """Everything that comes back to these bytes until the server closes."""
    with anyio.fail_after(20):
        async with await connect(door) as stream:
            await stream.send(request)
            return await read_all(stream)


def head(method: str, path: str, door: Door, *lines: str) -> bytes:
    """A request's head; the connection is closed after it."""
    fixed = (f"{method} {path} HTTP/1.1", f"Host: {door.authority}", "Connection: close")
    return "\r\n".join([*fixed, *lines, "", ""]).encode()


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])
