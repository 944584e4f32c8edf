"""A server on loopback that must not be reached, and says how often it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"


@dataclass
class Trap:
    """Attributes: port; requests: the first line of each; num_connections."""

    port: int = 0
    answer: bytes = ANSWER
    num_connections: int = 0
    requests: list[str] = field(default_factory=list[str])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


def redirect(location: str, status: int = 302) -> bytes:
    """An answer that leads elsewhere."""
    head = f"HTTP/1.1 {status} Found\r\nLocation: {location}\r\n"
    return (head + "Content-Length: 0\r\nConnection: close\r\n\r\n").encode()


@asynccontextmanager
async def open_trap(answer: bytes = ANSWER, host: str = "127.0.0.1") -> AsyncGenerator[Trap]:
    """Listen for the length of the block."""
    trap = Trap(answer=answer)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        trap.num_connections += 1
        head = await reader.readuntil(b"\r\n\r\n")
        trap.requests.append(head.partition(b"\r\n")[0].decode())
        writer.write(trap.answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, host, 0)
    trap.port = server.sockets[0].getsockname()[1]
    async with server:
        yield trap
