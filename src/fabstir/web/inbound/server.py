"""The HTTP server: a socket bound before anything else starts, served until its block is left.

Accepting is our own, so that what there is no place for never becomes a connection: it is told
so and closed. uvicorn speaks HTTP and WebSocket over what is accepted.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from email.utils import formatdate
from typing import Any, cast

import anyio
import h11
import uvicorn
from anyio.abc import TaskGroup
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware
from uvicorn.server import ServerState
from websockets.exceptions import WebSocketException

from fabstir.primitives.errors import ConfigError
from fabstir.web.inbound.connections import Connections, DoorLimits, OpenConnection
from fabstir.web.inbound.forwarded import ForwardedPlaces
from fabstir.web.inbound.http_protocol import HttpProtocol
from fabstir.web.inbound.request_target import RequestTargets
from fabstir.web.inbound.websocket_protocol import WebSocketProtocol

_logger = logging.getLogger(__name__)

PING_INTERVAL = 5.0
"""Seconds between WebSocket pings: TCP alone does not notice a frozen peer."""

PING_TIMEOUT = 7.0
"""Seconds without a pong after which a peer is dead: noticed within 12 s."""

BACKLOG = 512
"""Connections that the kernel keeps until they are accepted."""

EXHAUSTED_PAUSE = 0.2
"""Seconds between two attempts to accept while this process has no descriptor left."""

TOLD_SECONDS = 60.0
"""Between two log lines about what does not get in."""

MAX_REFUSALS = 32
"""Clients that are told at the same time that there is no place; further ones are cut off. Each
is a descriptor."""

REFUSAL_SECONDS = 1.0
"""For a client that is refused to send its head: an answer before it would be lost."""

TOLD_ENDING_SECONDS = 1.0
"""For clients that are told that the server ends to read it: cutting them off may take it back."""

FINISH_SECONDS = 2.0
"""For answers that run when the server ends, and then for their handlers to notice."""


def bind(host: str, port: int, *, setting: str) -> socket.socket:
    """Take the port now, so that a taken one is said before anything is staked.

    Args:
        setting: which one the port is, such as "host.port".

    Raises:
        ConfigError: the port is taken or the address is not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error.strerror}): stop the program that uses the "
            f"port, or set {setting} to another (0: any free one)"
        ) from error
    return listener


def forget_start() -> None:
    """Take what a start made out of the garbage collector's rounds: it lives to the end.

    Measured: the 95th percentile of a small put over HTTP fell from 5.2 to 4.5 ms.
    """
    gc.collect()
    gc.freeze()


def require_free(*places: tuple[str, int, str]) -> None:
    """Say at once about every port that is taken, before one of them is.

    Args:
        places: address, port and setting of each.

    Raises:
        ConfigError: one of them or more cannot be listened on.
    """
    taken: list[tuple[str, str]] = []
    for host, port, setting in places:
        try:
            bind(host, port, setting=setting).close()
        except ConfigError as error:
            reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error
            taken.append((setting, f"{host}:{port} ({setting}: {reason})"))
    if taken:
        flags = " ".join(f"--set {setting}=0" for setting, _ in taken)
        raise ConfigError(
            f"cannot listen on {' and on '.join(text for _, text in taken)}: stop the program "
            f"that uses it, perhaps another node, or choose another port ({flags} takes any free)"
        )


@asynccontextmanager
async def open_server(
    app: ASGIApp,
    listener: socket.socket,
    *,
    max_frame_bytes: int,
    connections: Connections | None = None,
) -> AsyncGenerator[None]:
    """Serve `app` on a bound socket for the length of the block.

    Args:
        max_frame_bytes: longest WebSocket message, all its parts together: the door's own rule,
            kept before the bytes are in memory.
        connections: who may have how many; None: the defaults.
    """
    connections = Connections() if connections is None else connections
    config = uvicorn.Config(
        _behind_proxies(_quiet_when_cancelled(RequestTargets(app)), connections.limits),
        http=HttpProtocol,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws=WebSocketProtocol,
        ws_max_size=max_frame_bytes,
        ws_ping_interval=PING_INTERVAL,
        ws_ping_timeout=PING_TIMEOUT,
        ws_per_message_deflate=False,  # ciphertext does not compress
        proxy_headers=False,  # by default anybody on this machine may say whose a request is
    )
    config.load()
    # Its warnings are about what strangers send: one a line, as fast as they like.
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    server = _Server(config, connections)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(server.accept, listener)
            tasks.start_soon(server.keep_date)
            yield
            tasks.cancel_scope.cancel()
    finally:
        listener.close()  # nobody waits for it any more
        with anyio.CancelScope(shield=True):
            await server.finish()


def _quiet_when_cancelled(app: ASGIApp) -> ASGIApp:
    """Only the end of the server cancels a request, or says that its client has left before the
    client did: uvicorn would log a traceback, and answer 500."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await app(scope, receive, send)
        except (asyncio.CancelledError, ClientDisconnect):
            _logger.info("a request ended with the server", extra={"path": scope["path"]})

    return answer


def _behind_proxies(app: ASGIApp, limits: DoorLimits) -> ASGIApp:
    """Take a trusted proxy's word for whose a request is; nobody else's."""
    if not limits.trusted_proxies:
        return app
    proxies = [str(network) for network in limits.trusted_proxies]
    # uvicorn has types of its own for the same interface.
    counted = cast("Any", ForwardedPlaces(app, limits))
    return cast("ASGIApp", ProxyHeadersMiddleware(counted, proxies))


class _Server:
    """Accepts, and in the end lets go."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        self._config = config
        self._connections = connections
        self._state = ServerState()
        self._loop = asyncio.get_running_loop()
        self._num_refusals = 0
        self._told_at: dict[str, float] = {}

    async def accept(self, listener: socket.socket) -> None:
        """Until cancelled. A process without descriptors accepts again when it has some."""
        listener.setblocking(False)
        async with anyio.create_task_group() as tasks:
            while True:
                try:
                    client, address = await self._loop.sock_accept(listener)
                except OSError as error:
                    self._tell("cannot accept connections", str(error))
                    await anyio.sleep(EXHAUSTED_PAUSE)
                    continue
                await self._place(client, str(address[0]), tasks)

    async def _place(self, client: socket.socket, address: str, tasks: TaskGroup) -> None:
        admitted = self._connections.admit(address)
        if isinstance(admitted, OpenConnection):
            await self._serve(client, admitted)
            return
        self._tell("refused a connection", admitted)
        if self._num_refusals < MAX_REFUSALS:
            self._num_refusals += 1
            tasks.start_soon(self._refuse, client, admitted)
        else:
            client.close()

    async def _serve(self, client: socket.socket, connection: OpenConnection) -> None:
        def make_protocol() -> HttpProtocol:
            return HttpProtocol(self._config, self._state, connection)

        try:
            # Without it a short answer waits 40 ms for the peer's delayed acknowledgement.
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with anyio.CancelScope(shield=True):  # some turns of the loop
                await self._loop.connect_accepted_socket(make_protocol, client)
        except OSError as error:  # it has left already
            _logger.debug("a connection was not served", extra={"reason": str(error)})
            client.close()
            connection.leave()

    async def _refuse(self, client: socket.socket, why: str) -> None:
        body = f"{why}: try again soon\n".encode()
        head = (
            "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
            f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            with suppress(OSError):  # it has left
                with anyio.move_on_after(REFUSAL_SECONDS):
                    await self._loop.sock_recv(client, 16 * 1024)
                with anyio.move_on_after(REFUSAL_SECONDS):
                    await self._loop.sock_sendall(client, head.encode() + body)
                client.shutdown(socket.SHUT_WR)
        finally:
            self._num_refusals -= 1
            client.close()

    def _tell(self, what: str, reason: str) -> None:
        """Once a minute at most: attackers do not fill the log."""
        now = self._loop.time()
        if now - self._told_at.get(what, -TOLD_SECONDS) >= TOLD_SECONDS:
            self._told_at[what] = now
            _logger.warning(what, extra={"reason": reason, "num_open": len(self._connections)})

    async def keep_date(self) -> None:
        """Bring the header Date up to date, until cancelled."""
        while True:
            date = formatdate(usegmt=True).encode()
            self._state.default_headers = [(b"date", date), *self._config.encoded_headers]
            await anyio.sleep(1.0)

    async def finish(self) -> None:
        """Let answers end that take no longer than a moment; then cut every connection."""
        for connection in tuple(self._state.connections):
            try:
                connection.shutdown()
            except (RuntimeError, OSError, WebSocketException, h11.ProtocolError) as error:
                # A state that uvicorn does not expect must not keep the others open.
                _logger.warning("a connection did not end in order", extra={"reason": str(error)})
                connection.transport.abort()
        await self._wait_for_tasks(FINISH_SECONDS)
        await self._say_ending()
        self._connections.abort_all()
        await self._wait_for_tasks(FINISH_SECONDS)
        for task in self._state.tasks:
            _logger.warning("a request was cut off", extra={"task": task.get_name()})
            task.cancel()
        await self._wait_for_tasks(FINISH_SECONDS)

    async def _say_ending(self) -> None:
        """Answer what is not answered: a connection that is only cut says nothing."""
        told = {
            connection
            for connection in tuple(self._state.connections)
            if isinstance(connection, HttpProtocol) and connection.say_ending()
        }
        with anyio.move_on_after(TOLD_ENDING_SECONDS):
            while told & self._state.connections:  # noqa: ASYNC110 -- until they have closed
                await anyio.sleep(0.01)

    async def _wait_for_tasks(self, seconds: float) -> None:
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=seconds)
