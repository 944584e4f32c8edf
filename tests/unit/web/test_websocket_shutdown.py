"""What the end of the server does to a WebSocket that is already being closed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from tests.integration.web.served import frame, upgrade_head
from uvicorn.server import ServerState

from fabstir.web.inbound.connections import Connections, OpenConnection
from fabstir.web.inbound.guarded_transport import GuardedTransport
from fabstir.web.inbound.websocket_protocol import WebSocketProtocol

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """uvicorn's protocols are asyncio's."""
    return "asyncio"


class FullTransport(asyncio.Transport):
    """To a peer that reads nothing: closing it does not end before it is aborted."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()
        self.has_upgraded = asyncio.Event()
        self.is_closed = self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        self.written += data
        self.has_upgraded.set()

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self.is_closed or self.is_aborted

    def is_reading(self) -> bool:
        return not self.is_closing()

    def pause_reading(self) -> None:
        """Nothing comes by itself."""

    def resume_reading(self) -> None:
        """Nothing comes by itself."""

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True


async def accept(_scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "websocket.accept"})
    while (await receive())["type"] != "websocket.disconnect":
        pass


@pytest.mark.parametrize(
    ("sent", "is_aborted"), [(frame(b"\x03\xe8", opcode=8), True), (b"", False)]
)
async def test_who_is_being_closed_is_cut(sent: bytes, is_aborted: bool) -> None:
    config = uvicorn.Config(accept, log_config=None, ws_ping_interval=None)
    config.load()
    state = ServerState()
    connection = Connections().admit("127.0.0.1")
    assert isinstance(connection, OpenConnection)
    transport = FullTransport()
    protocol = WebSocketProtocol(config, state, {})
    protocol.connection_made(GuardedTransport(transport, connection, asyncio.get_running_loop()))
    protocol.data_received(upgrade_head("/"))
    async with asyncio.timeout(5):
        await transport.has_upgraded.wait()
        await asyncio.sleep(0)  # the slice after the head
    protocol.data_received(sent)
    async with asyncio.timeout(5):
        while sent and not transport.is_closed:
            await asyncio.sleep(0)

    protocol.shutdown()

    assert (transport.is_aborted, transport.is_closing()) == (is_aborted, True)
    async with asyncio.timeout(5):
        await asyncio.gather(*state.tasks)
    protocol.connection_lost(None)
