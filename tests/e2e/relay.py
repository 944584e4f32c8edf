"""A wire that can be cut at will: TCP in between, which holds back what a test does not want sent.

What it holds stands for what was lost on the way when its sender or receiver died.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import SocketAttribute, SocketStream


@dataclass(slots=True)
class Relay:
    """Carries every connection to one server. Made by `open_relay`.

    Attributes:
        port: where clients connect instead, on loopback.
        has_held: set once something is held back.
    """

    port: int
    target: int
    has_held: anyio.Event = field(default_factory=anyio.Event)
    _held_request: bytes | None = None
    _holds_answers: bool = False
    _let_go: anyio.Event = field(default_factory=anyio.Event)

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"http://127.0.0.1:{self.port}"

    def hold_requests(self, holding: bytes = b"") -> None:
        """Forward no more of a connection's requests from the first on that has these bytes."""
        self._held_request = holding

    def hold_answers(self) -> None:
        """Forward nothing more that the server says."""
        self._holds_answers = True

    def let_go(self) -> None:
        """Carry everything again. What was held is lost, with the connections it was held on."""
        self._held_request, self._holds_answers = None, False
        self._let_go.set()
        self._let_go, self.has_held = anyio.Event(), anyio.Event()

    async def serve(self, client: SocketStream) -> None:
        """Carry one connection until either side ends it."""
        async with client:
            try:
                server = await anyio.connect_tcp("127.0.0.1", self.target)
            except OSError:
                return  # nobody is there, which the client sees by our closing
            async with server, anyio.create_task_group() as tasks:
                tasks.start_soon(self._carry, client, server, tasks.cancel_scope, True)
                tasks.start_soon(self._carry, server, client, tasks.cancel_scope, False)

    async def _carry(
        self, source: SocketStream, sink: SocketStream, end: anyio.CancelScope, is_request: bool
    ) -> None:
        try:
            async for data in source:
                if self._holds(data, is_request):
                    let_go = self._let_go
                    self.has_held.set()
                    await self._wait_or_end(source, let_go)
                    break
                await sink.send(data)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass  # killed: its peer is told by the end of the connection
        end.cancel()

    def _holds(self, data: bytes, is_request: bool) -> bool:
        if is_request:
            return self._held_request is not None and self._held_request in data
        return self._holds_answers

    @staticmethod
    async def _wait_or_end(source: SocketStream, let_go: anyio.Event) -> None:
        """Read on, so that the end of the connection is seen, until all is carried again."""
        async with anyio.create_task_group() as tasks:

            async def drain() -> None:
                async for _ in source:
                    pass
                tasks.cancel_scope.cancel()

            tasks.start_soon(drain)
            await let_go.wait()
            tasks.cancel_scope.cancel()


@asynccontextmanager
async def open_relay(target: int) -> AsyncGenerator[Relay]:
    """Carry connections to a port on loopback for the length of the block."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    relay = Relay(port=int(listener.extra(SocketAttribute.local_port)), target=target)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, relay.serve)
        yield relay
        tasks.cancel_scope.cancel()
