"""A node with a store, a registry and peers, and the server that others dial."""

from __future__ import annotations

import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from random import Random

import anyio
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import NotFound, RemoteProtocolError
from fabstir.s5.formats.limits import MAX_WIRE_BYTES
from fabstir.s5.formats.wire import LocationType
from fabstir.s5.peers import Offer, PeerLimits, Peers, open_peers
from fabstir.s5.peers.connection import TRY_AGAIN_LATER
from fabstir.s5.store import BlobStore, LocalRegistry, open_store
from fabstir.web.reach import Reach

QUICK = PeerLimits(reconnect=0.01, max_reconnect=0.05, query_deadline=20.0, settle=0.05)
"""A deadline that no test reaches, unless it asks peers that do not answer."""

Offering = Callable[[Multihash], Awaitable[Offer | None]]


class Accepted:
    """The accepted end of a WebSocket."""

    def __init__(self, websocket: ServerConnection) -> None:
        host, port = websocket.remote_address[:2]
        self.url = f"ws://{host}:{port}"
        self._websocket = websocket

    def known(self) -> None:
        return

    async def send(self, message: bytes) -> None:
        try:
            await self._websocket.send(message)
        except ConnectionClosed as exc:
            raise anyio.BrokenResourceError from exc

    async def receive(self) -> bytes:
        try:
            message = await self._websocket.recv()
        except ConnectionClosed as exc:
            raise anyio.EndOfStream from exc
        if isinstance(message, str):
            raise RemoteProtocolError("text")
        return message


def listening_socket(port: int = 0) -> socket.socket:
    """A bound socket, so that a node knows its own address before it serves."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def http_answer(websocket: ServerConnection, status: HTTPStatus, body: bytes) -> Response:
    response = websocket.respond(status, "")
    response.headers.clear()
    response.headers["Content-Length"] = str(len(body))
    response.headers["Connection"] = "close"
    response.body = body
    return response


@dataclass(frozen=True)
class Node:
    store: BlobStore
    registry: LocalRegistry
    peers: Peers
    port: int

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/s5/p2p"

    async def put(self, data: bytes) -> Multihash:
        return (await self.store.put(data, owner="test", reason="test")).multihash


@asynccontextmanager
async def open_node(
    folder: Path,
    key: int,
    urls: Sequence[str] = (),
    *,
    port: int = 0,
    limits: PeerLimits = QUICK,
    network: str | None = None,
    reach: Reach = Reach(allow_private=True),  # noqa: B008 - it is frozen
    before_offer: Callable[[], Awaitable[object]] | None = None,
    max_entries: int | None = None,
) -> AsyncGenerator[Node]:
    """A node whose key is 32 times `key`.

    Args:
        before_offer: waited for before this node says what it has.
        max_entries: keys of which its registry keeps entries.
    """
    with listening_socket(port) as sock:
        own_port = sock.getsockname()[1]
        async with open_store(folder, NATIVE) as store:
            registry = LocalRegistry(store, NATIVE, max_entries=max_entries)

            async def offer(blob: Multihash) -> Offer | None:
                if before_offer is not None:
                    await before_offer()
                size = await store.size(blob)
                if size is None:
                    return None
                cid = BlobId(blob.digest, size, blob.type).encode()
                url = f"http://127.0.0.1:{own_port}/s5/download/{cid}"
                return Offer(LocationType.FILE, (url,))

            async with (
                open_peers(
                    urls,
                    node_key=bytes([key]) * 32,
                    crypto=NATIVE,
                    offer=offer,
                    entries=registry,
                    own_uris=(f"ws://127.0.0.1:{own_port}/s5/p2p",),
                    network=network,
                    reach=reach,
                    limits=limits,
                    jitter=Random(key),
                ) as peers,
                _serve(sock, store, peers),
            ):
                yield Node(store, registry, peers, own_port)


@asynccontextmanager
async def _serve(sock: socket.socket, store: BlobStore, peers: Peers) -> AsyncGenerator[None]:
    async def download(websocket: ServerConnection, request: Request) -> Response | None:
        if request.path == "/s5/p2p":
            return None
        blob = BlobId.decode(request.path.removeprefix("/s5/download/"))
        try:
            body = await store.get(blob.multihash, max_bytes=1 << 20)
        except NotFound:
            return http_answer(websocket, HTTPStatus.NOT_FOUND, b"")
        return http_answer(websocket, HTTPStatus.OK, body)

    async def talk(websocket: ServerConnection) -> None:
        reason = await peers.serve(Accepted(websocket))
        if reason:
            await websocket.close(TRY_AGAIN_LATER, reason[:100])

    async with serve(
        talk, sock=sock, process_request=download, max_size=MAX_WIRE_BYTES, close_timeout=0.1
    ):
        yield
