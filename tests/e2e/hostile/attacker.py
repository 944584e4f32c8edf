"""An attacker from one address, as a process of its own: it takes no time of those it meets.

Reads one JSON object (an `Orders`), attacks until it is told to stop (SIGTERM), and prints what it
got for each kind. Loopback only; every kind has a bounded number of connections, which are opened
again when they are closed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import resource
import secrets
import signal
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Final

SOURCE: Final = "127.0.0.2"
AGAIN_SECONDS: Final = 2.0
"""Before a connection that ended is opened again."""

HELLO: Final = b"\x13/multistream/1.0.0\n"
"""What opens a libp2p connection."""

PIECE: Final = bytes(64 * 1024)


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """
    Attributes:
        ports: by the name of the door: "api", "s5", "p2p".
        counts: connections of each kind.
        inits: handshake frames for sessions that there are not.
        blob: path of a large blob at the S5 door.
    """

    ports: dict[str, int]
    counts: dict[str, int]
    inits: list[str]
    blob: str

    def encode(self) -> bytes:
        return json.dumps(asdict(self)).encode() + b"\n"


class Connection:
    """One connection of the attacker's, without any manners."""

    def __init__(self, client: socket.socket) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self._client, data)

    async def receive(self, size: int = 65536) -> bytes:
        if not (data := await self._loop.sock_recv(self._client, size)):
            raise ConnectionResetError
        return data

    async def upgrade(self, path: str) -> None:
        key = base64.b64encode(secrets.token_bytes(16)).decode()
        await self.send(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket"
            f"\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
        )
        if b" 101 " not in await self.receive():
            raise ConnectionRefusedError

    async def until_closed(self) -> None:
        while True:
            await self.receive()


Attack = Callable[[Connection, Orders], Awaitable[None]]


def frame(data: bytes, *, opcode: int = 1, length: int | None = None) -> bytes:
    """A masked frame, with a mask of zeros, that may announce more than it has."""
    length = len(data) if length is None else length
    return bytes([0x80 | opcode, 0xFF]) + struct.pack("!Q", length) + bytes(4) + data


async def silent(connection: Connection, _orders: Orders) -> None:
    """Connects and says nothing."""
    await connection.until_closed()


async def idle_websocket(connection: Connection, _orders: Orders) -> None:
    """A WebSocket on which nothing is ever said."""
    await connection.upgrade("/v1/ws")
    await connection.until_closed()


async def half_head(connection: Connection, _orders: Orders) -> None:
    """A head a byte at a time."""
    for byte in b"GET /v1/health HTTP/1.1\r\nHost: " + b"x" * 1000:
        await connection.send(bytes([byte]))
        await asyncio.sleep(1)


async def half_frame(connection: Connection, _orders: Orders) -> None:
    """A frame of 4 MiB, all but its last byte."""
    await connection.upgrade("/v1/ws")
    await connection.send(frame(b"", length=4 << 20))
    for _ in range(63):
        await connection.send(PIECE)
    await connection.until_closed()


async def long_body(connection: Connection, _orders: Orders) -> None:
    """700 MiB to a door that takes 64 KiB."""
    head = b"POST /v1/auth/challenge HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n"
    await connection.send(head % (700 << 20))
    for _ in range(700 << 4):
        await connection.send(PIECE)


async def endless_body(connection: Connection, _orders: Orders) -> None:
    """Chunks without an end."""
    await connection.send(
        b"POST /v1/auth/challenge HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    while True:
        await connection.send(b"%x\r\n%b\r\n" % (len(PIECE), PIECE))


async def init_flood(connection: Connection, orders: Orders) -> None:
    """Handshakes for sessions that there are not, as fast as they are answered."""
    await connection.upgrade("/v1/ws")
    while True:
        for init in orders.inits:
            await connection.send(frame(init.encode()))
            await connection.receive()


async def garbage(connection: Connection, _orders: Orders) -> None:
    """Frames that mean nothing, faster than they are answered."""
    await connection.upgrade("/v1/ws")
    while True:
        await connection.send(frame(b'{"type": "nothing"}') * 100)
        await asyncio.sleep(0)


async def pings(connection: Connection, _orders: Orders) -> None:
    """Pings without reading the pongs."""
    await connection.upgrade("/v1/ws")
    ping = bytes([0x89, 0x80 | 125]) + bytes(4) + bytes(125)
    while True:
        await connection.send(ping * 500)


async def unread_download(connection: Connection, orders: Orders) -> None:
    """Asks for a large blob and reads none of it."""
    await connection.send(f"GET {orders.blob} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    await asyncio.sleep(3600)


async def silent_peer(connection: Connection, _orders: Orders) -> None:
    """A WebSocket to the S5 node's P2P door that never shakes hands."""
    await connection.upgrade("/s5/p2p")
    await connection.until_closed()


async def passing_peer(connection: Connection, _orders: Orders) -> None:
    """Connects to libp2p and leaves."""
    await connection.send(HELLO)
    await connection.receive()


KINDS: Final[dict[str, tuple[str, Attack]]] = {
    "silent": ("api", silent),
    "idle_websocket": ("api", idle_websocket),
    "half_head": ("api", half_head),
    "half_frame": ("api", half_frame),
    "long_body": ("api", long_body),
    "endless_body": ("api", endless_body),
    "init_flood": ("api", init_flood),
    "garbage": ("api", garbage),
    "pings": ("api", pings),
    "unread_download": ("s5", unread_download),
    "silent_peer": ("s5", silent_peer),
    "silent_s5": ("s5", silent),
    "passing_peer": ("p2p", passing_peer),
    "silent_libp2p": ("p2p", silent),
}
"""What is attacked, and how."""


class Attacker:
    """All connections of one attack; `opened` counts them by kind."""

    def __init__(self, orders: Orders) -> None:
        self.opened: Counter[str] = Counter()
        self._orders = orders

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for kind, count in self._orders.counts.items():
                for _ in range(count):
                    tasks.create_task(self._again_and_again(kind))

    async def _again_and_again(self, kind: str) -> None:
        door, attack = KINDS[kind]
        while True:
            with socket.socket() as client, suppress(OSError):
                client.setblocking(False)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
                client.bind((SOURCE, 0))
                address = ("127.0.0.1", self._orders.ports[door])
                await asyncio.get_running_loop().sock_connect(client, address)
                self.opened[kind] += 1
                await attack(Connection(client), self._orders)
            await asyncio.sleep(AGAIN_SECONDS)


async def main() -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    orders = Orders(**json.loads(sys.stdin.readline()))
    attacker = Attacker(orders)
    attack = asyncio.create_task(attacker.run())
    parent = os.getppid()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, attack.cancel)
    with suppress(asyncio.CancelledError):
        while not attack.done() and os.getppid() == parent:
            await asyncio.wait([attack], timeout=1)
    attack.cancel()
    sys.stdout.write(json.dumps(attacker.opened) + "\n")


if __name__ == "__main__":
    asyncio.run(main())
