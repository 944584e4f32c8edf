"""A peer that shakes hands as it should, and then does what no honest node does."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from http import HTTPStatus

import anyio
from tests.integration.s5.peers.nodes import http_answer, listening_socket
from websockets.asyncio.client import connect
from websockets.asyncio.connection import Connection
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from fabstir.crypto import NATIVE
from fabstir.s5.formats.limits import MAX_WIRE_BYTES
from fabstir.s5.formats.wire import (
    HandshakeDone,
    HashQuery,
    LocationType,
    PeerHandshake,
    StorageLocation,
    decode_message,
    sign_location,
    sign_message,
)

KEY = b"\x66" * 32
FAR_FUTURE = (1 << 32) - 1

Lie = Callable[["Liar", HashQuery], bytes | None]
"""What it answers to a question; None: nothing."""


class Liar:
    """Its state; `answered` is set when it has said its lie, `lost` when its peer is gone."""

    def __init__(self, lie: Lie, port: int, body: bytes, status: HTTPStatus, key: bytes) -> None:
        self.answered = anyio.Event()
        self.lost = anyio.Event()
        self.url = f"ws://127.0.0.1:{port}/s5/p2p"
        self.num_downloads = 0
        self.num_connections = 0
        self._lie = lie
        self._port = port
        self._body = body
        self._status = status
        self._key = key

    def location(
        self,
        query: HashQuery,
        *,
        expiry: int = FAR_FUTURE,
        port: int | None = None,
        url: str | None = None,
    ) -> StorageLocation:
        """A well-signed location; what is there are other bytes, unless it is somebody's `url`."""
        return sign_location(
            self._key,
            query,
            location_type=LocationType.FILE,
            expiry=expiry,
            parts=(url or f"http://127.0.0.1:{port or self._port}/blob",),
            crypto=NATIVE,
        )

    async def download(self, websocket: ServerConnection, request: Request) -> Response | None:
        if request.path == "/s5/p2p":
            return None
        self.num_downloads += 1
        return http_answer(websocket, self._status, self._body)

    async def dial(self, url: str) -> None:
        """Be the one who connects; returns when it is dropped."""
        async with connect(url, proxy=None, close_timeout=0.1) as websocket:
            await self.talk(websocket)

    async def talk(self, websocket: Connection) -> None:
        self.num_connections += 1
        await websocket.send(PeerHandshake(challenge=b"\x01" * 64).encode())
        try:
            async for frame in websocket:
                assert isinstance(frame, bytes)
                await self._answer(websocket, frame)
        except ConnectionClosed:
            pass
        self.lost.set()

    async def _answer(self, websocket: Connection, frame: bytes) -> None:
        message = decode_message(frame, NATIVE)
        if isinstance(message, PeerHandshake):
            done = HandshakeDone(challenge=message.challenge)
            await websocket.send(sign_message(self._key, done, NATIVE).encode())
        elif isinstance(message, HashQuery):
            lie = self._lie(self, message)
            if lie is not None:
                await websocket.send(lie)
            self.answered.set()


@asynccontextmanager
async def open_liar(
    lie: Lie,
    body: bytes = b"wrong bytes",
    status: HTTPStatus = HTTPStatus.OK,
    *,
    key: bytes = KEY,
) -> AsyncGenerator[Liar]:
    with listening_socket() as sock:
        liar = Liar(lie, sock.getsockname()[1], body, status, key)
        async with serve(
            liar.talk, sock=sock, process_request=liar.download, max_size=None, close_timeout=0.1
        ):
            yield liar


def wrong_bytes(liar: Liar, query: HashQuery) -> bytes:
    return liar.location(query).encode()


def expired(liar: Liar, query: HashQuery) -> bytes:
    return liar.location(query, expiry=1_000_000_000).encode()


def of_another_signer(liar: Liar, query: HashQuery) -> bytes:
    return replace(
        liar.location(query), public_key=NATIVE.ed25519_public_key(b"\x02" * 32)
    ).encode()


def too_long(_liar: Liar, _query: HashQuery) -> bytes:
    return b"\x05" * (MAX_WIRE_BYTES + 1)


def garbage(_liar: Liar, _query: HashQuery) -> bytes:
    return b"\x0a\xc4\x21\xed"


def silence(_liar: Liar, _query: HashQuery) -> None:
    return None
