"""A wire to a PostgreSQL server that breaks around a commit, as wires do."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import partial

import anyio
from anyio.abc import SocketAttribute, SocketStream


class Cut(Enum):
    """Where the next commit loses its connection."""

    BEFORE = auto()
    """The server never hears of it, and rolls back."""
    AFTER = auto()
    """The server commits, and nobody hears of it; it does not notice that its client is gone."""


@dataclass(slots=True)
class Wire:
    """Made by `open_wire`.

    Attributes:
        cut: for the next commit.
        is_down: whether new connections are refused.
    """

    port: int = 0
    cut: Cut | None = None
    is_down: bool = False
    num_refused: int = 0
    was_cut: anyio.Event = field(default_factory=anyio.Event)
    refused: anyio.Event = field(default_factory=anyio.Event)
    """Of the next connection that is refused."""


@asynccontextmanager
async def open_wire(server_port: int) -> AsyncGenerator[Wire]:
    """Carry connections to the server on this machine for the length of the block."""
    wire = Wire()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        wire.port = listener.extra(SocketAttribute.local_port)
        tasks.start_soon(partial(listener.serve, partial(_carry, wire, server_port)))
        yield wire
        tasks.cancel_scope.cancel()


async def _carry(wire: Wire, server_port: int, client: SocketStream) -> None:
    async with client:
        if wire.is_down:
            wire.num_refused += 1
            wire.refused.set()
            wire.refused = anyio.Event()
            return
        async with (
            await anyio.connect_tcp("127.0.0.1", server_port) as server,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(_back, server, client)
            with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
                while True:
                    data = await client.receive()
                    if wire.cut is not None and b"COMMIT" in data:
                        await _break(wire, server, client, data)
                        return
                    await server.send(data)
            tasks.cancel_scope.cancel()


async def _break(wire: Wire, server: SocketStream, client: SocketStream, data: bytes) -> None:
    cut, wire.cut = wire.cut, None
    await client.aclose()
    wire.was_cut.set()
    if cut is Cut.AFTER:
        await server.send(data)
        await anyio.sleep_forever()  # the server's side stays open


async def _back(server: SocketStream, client: SocketStream) -> None:
    with suppress(anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
        while True:
            await client.send(await server.receive())
    with suppress(anyio.ClosedResourceError):
        await client.aclose()
