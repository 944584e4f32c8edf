"""A peer that sends just what the test says."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from fabstir.crypto import NATIVE
from fabstir.s5.formats.wire import (
    AnnouncePeers,
    HandshakeDone,
    PeerHandshake,
    PeerMessage,
    Signed,
    decode_message,
    sign_message,
)

SEED = b"\x55" * 32
KEY = NATIVE.ed25519_public_key(SEED)


class RawPeer:
    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket

    async def send(self, *frames: bytes) -> None:
        for frame in frames:
            await self._websocket.send(frame)

    async def receive(self) -> PeerMessage | None:
        """The next message; None: it was dropped."""
        try:
            frame = await self._websocket.recv()
        except ConnectionClosed:
            return None
        assert isinstance(frame, bytes)
        return decode_message(frame, NATIVE)

    async def challenge(self) -> bytes:
        """What the other side begins with."""
        message = await self.receive()
        assert isinstance(message, PeerHandshake)
        return message.challenge

    async def shake_hands(self) -> None:
        """As S5.js does: it asks, answers, and takes the announcement of peers."""
        await self.send(PeerHandshake(challenge=b"\x01" * 64).encode())
        await self.send(done(await self.challenge()))
        answered = await self.receive()
        assert isinstance(answered, Signed)
        assert isinstance(answered.message, HandshakeDone)
        assert answered.message.challenge == b"\x01" * 64
        announced = await self.receive()
        assert isinstance(announced, Signed)
        assert isinstance(announced.message, AnnouncePeers)


def done(challenge: bytes, *, features: int = 3, extensions: int = 0, seed: bytes = SEED) -> bytes:
    message = HandshakeDone(challenge=challenge, features=features, extensions=extensions)
    return sign_message(seed, message, NATIVE).encode()


@asynccontextmanager
async def dial_raw(url: str) -> AsyncGenerator[RawPeer]:
    async with connect(url, proxy=None, close_timeout=0.1) as websocket:
        yield RawPeer(websocket)
