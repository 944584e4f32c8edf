"""When a host is taken for dead: by silence, not by a long frame on a slow line."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from fabstir.sdk import bounded_socket
from fabstir.sdk.bounded_socket import BoundedSocket

pytestmark = pytest.mark.anyio

FRAME = "x" * (1 << 20)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_socket, "PING_INTERVAL", 0.05)
    monkeypatch.setattr(bounded_socket, "PING_TIMEOUT", 0.2)
    monkeypatch.setattr(bounded_socket, "SENT_BYTES_PER_SECOND", len(FRAME) // 5)


class Host:
    """A host that reads nothing until it is told to."""

    def __init__(self) -> None:
        self.stopped, self.received = anyio.Event(), anyio.Event()
        self.socket: ServerConnection | None = None

    async def handle(self, socket: ServerConnection) -> None:
        self.socket = socket
        socket.transport.pause_reading()
        self.stopped.set()
        async for message in socket:
            assert message == FRAME
            self.received.set()

    def go_on(self) -> None:
        assert self.socket is not None
        self.socket.transport.resume_reading()


@asynccontextmanager
async def open_socket(host: Host) -> AsyncGenerator[BoundedSocket]:
    async with serve(host.handle, "127.0.0.1", 0, ping_interval=None, max_size=None) as server:
        port: int = next(iter(server.sockets)).getsockname()[1]
        socket = await connect(
            f"ws://127.0.0.1:{port}",
            create_connection=BoundedSocket,
            ping_interval=bounded_socket.PING_INTERVAL,
            close_timeout=0.1,
            compression=None,
            proxy=None,
        )
        assert isinstance(socket, BoundedSocket)
        try:
            await host.stopped.wait()
            yield socket
        finally:
            host.go_on()
            await socket.close()


async def test_a_host_that_is_stopped_is_noticed() -> None:
    async with open_socket(Host()) as socket:
        with anyio.fail_after(2), pytest.raises(ConnectionClosed):
            await socket.read()


async def test_a_long_frame_has_the_time_that_a_slow_line_takes() -> None:
    host = Host()
    async with open_socket(host) as socket:
        asyncio.get_running_loop().call_later(1.0, host.go_on)  # five times the ping's own patience

        await socket.write(FRAME)

        with anyio.fail_after(5):
            await host.received.wait()
