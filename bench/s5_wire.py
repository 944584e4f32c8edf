"""A wire between a client and a server on this machine: as slow as a distance, and breakable."""

from __future__ import annotations

import collections
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import anyio
from anyio.abc import SocketAttribute, SocketStream, TaskGroup

_CHUNK_BYTES = 256 * 1024


@dataclass(slots=True)
class Wire:
    """
    Attributes:
        url: of this end.
        delay: seconds each way.
        cut_after: bytes from the client after which its connections break; None: never.
        num_cuts: that happened.
    """

    url: str
    delay: float
    cut_after: int | None = None
    num_cuts: int = 0


@asynccontextmanager
async def open_wire(port: int, *, delay: float = 0.0) -> AsyncGenerator[Wire]:
    """Forward a free loopback port to another one.

    The handshake of TCP is not delayed: what is measured of a new connection lacks one round trip.
    """
    async with (
        await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
        anyio.create_task_group() as tasks,
    ):
        wire = Wire(f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}", delay)

        async def serve(near: SocketStream) -> None:
            try:
                far = await anyio.connect_tcp("127.0.0.1", port)
            except OSError:  # the server is down: so is the wire
                await near.aclose()
                return
            async with near, far, anyio.create_task_group() as pumps:
                pumps.start_soon(_pump, near, far, wire, True, pumps)
                pumps.start_soon(_pump, far, near, wire, False, pumps)

        tasks.start_soon(listener.serve, serve)
        yield wire
        tasks.cancel_scope.cancel()


async def _pump(
    source: SocketStream,
    sink: SocketStream,
    wire: Wire,
    is_upward: bool,
    pumps: TaskGroup,
) -> None:
    """Every byte arrives `delay` later, however many follow it."""
    queue: collections.deque[tuple[float, bytes]] = collections.deque()
    arrived = anyio.Event()
    is_open = True

    async def deliver() -> None:
        nonlocal arrived
        while is_open or queue:
            if not queue:
                arrived = anyio.Event()
                await arrived.wait()
                continue
            due, data = queue.popleft()
            await anyio.sleep_until(due)
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                await sink.send(data)

    is_cut = False
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(deliver)
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            while not is_cut:
                data = await source.receive(_CHUNK_BYTES)
                if is_upward and wire.cut_after is not None:
                    data = data[: wire.cut_after]
                    wire.cut_after -= len(data)
                    is_cut = wire.cut_after == 0
                queue.append((anyio.current_time() + wire.delay, data))
                arrived.set()
        is_open = False
        arrived.set()
    if is_cut:
        wire.cut_after = None
        wire.num_cuts += 1
        pumps.cancel_scope.cancel()
    with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
        await sink.send_eof()
