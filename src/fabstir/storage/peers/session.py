"""One peer, from its handshake to its end."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import anyio

from fabstir.primitives.errors import PortalUnavailable, RemoteProtocolError
from fabstir.primitives.rates import TokenBucket
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.s5.limits import MAX_WIRE_BYTES
from fabstir.protocol.s5.wire import (
    ANSWERS_ABSENT,
    FEATURES,
    Handshake,
    HandshakeDone,
    Message,
    Signed,
    decode_message,
    sign_message,
)
from fabstir.storage.peers.connection import MessageConnection
from fabstir.storage.peers.limits import PeerLimits

_logger = logging.getLogger(__name__)

_CHALLENGE_BYTES = 32

_MAX_EARLY = 16
"""Messages that come before the peer's answer to our challenge: S5.js signs while it asks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnNode:
    """What this node says of itself.

    Attributes:
        key: its ed25519 seed.
        uris: where it can be dialled.
        network: None: the public one.
        token_bytes: randomness for challenges.
    """

    key: bytes = field(repr=False)
    public_key: bytes
    uris: tuple[str, ...]
    network: str | None
    crypto: Crypto
    token_bytes: Callable[[int], bytes]


class PeerSession:
    """A connected peer. `peer_key` and `uris` are known when `on_ready` is called.

    Args:
        place: its HTTP origin, if the settings name it: it may name its own door even in a private
            network. "": a stranger.
        expected_key: whose handshake is accepted; None: anybody's.
    """

    def __init__(
        self,
        connection: MessageConnection,
        own: OwnNode,
        limits: PeerLimits,
        monotonic: Callable[[], float],
        *,
        place: str = "",
        expected_key: bytes | None = None,
    ) -> None:
        self.url = connection.url
        self.place = place
        self.peer_key = b""
        self.uris: tuple[str, ...] = ()
        self.answers_absent = False
        self.num_received = 0
        self._connection = connection
        self._own = own
        self._limits = limits
        self._expected_key = expected_key
        self._challenge = own.token_bytes(_CHALLENGE_BYTES)
        burst = limits.burst_seconds
        self._frames = TokenBucket(
            limits.frames_per_second, limits.frames_per_second * burst, monotonic
        )
        self._bytes = TokenBucket(
            limits.bytes_per_second, limits.bytes_per_second * burst, monotonic
        )
        self.new_keys = TokenBucket(limits.new_keys_per_second, limits.burst_new_keys, monotonic)
        self._outbox_in, self._outbox = anyio.create_memory_object_stream[bytes](
            limits.outbox_frames
        )
        self._early: deque[Message] = deque()
        self._scope = anyio.CancelScope()

    def send(self, frame: bytes) -> bool:
        """Queue a frame; False: the peer is too slow, or gone, and does not get it."""
        try:
            self._outbox_in.send_nowait(frame)
        except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return False
        return True

    def close(self) -> None:
        """End it soon."""
        self._scope.cancel()

    async def run(
        self, on_ready: Callable[[], None], on_message: Callable[[Message], Awaitable[None]]
    ) -> None:
        """Shake hands, then hand every message to `on_message`, one after another.

        Returns when the connection ends or `close` was called.

        Raises:
            RemoteProtocolError: the peer broke a rule, or names another key than the expected one.
            PortalUnavailable: it did not finish its handshake in time.
        """
        faults: list[RemoteProtocolError | PortalUnavailable] = []
        with self._scope, self._outbox_in, self._outbox:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write)
                try:
                    await self._talk(on_ready, on_message)
                except (RemoteProtocolError, PortalUnavailable) as fault:
                    faults.append(fault)
                except (anyio.EndOfStream, anyio.BrokenResourceError):
                    pass  # the other end has gone
                tasks.cancel_scope.cancel()
        if faults:
            raise faults[0]

    async def _talk(
        self, on_ready: Callable[[], None], on_message: Callable[[Message], Awaitable[None]]
    ) -> None:
        opening = Handshake(challenge=self._challenge, network=self._own.network)
        await self._send_now(opening.encode())
        try:
            with anyio.fail_after(self._limits.handshake_timeout):
                await self._shake_hands()
        except TimeoutError:
            raise PortalUnavailable(
                self.url, f"no handshake within {self._limits.handshake_timeout} s"
            ) from None
        on_ready()
        while self._early:
            await on_message(self._early.popleft())
        while True:
            message = await self._next()
            if isinstance(message, Handshake):
                await self._send_now(self._answer(message))
            else:
                await on_message(message)

    async def _shake_hands(self) -> None:
        has_answered = False
        while not (has_answered and self.peer_key):
            message = await self._next()
            if isinstance(message, Handshake):
                await self._send_now(self._answer(message))
                has_answered = True
            elif isinstance(message, Signed) and isinstance(message.message, HandshakeDone):
                self._take(message.public_key, message.message)
            elif len(self._early) < _MAX_EARLY:
                self._early.append(message)
            else:
                raise RemoteProtocolError("a peer talks on without answering the handshake")

    def _answer(self, message: Handshake) -> bytes:
        if message.network != self._own.network:
            raise RemoteProtocolError(
                f"a peer is in the network {message.network!r}, and this node in "
                f"{self._own.network!r}"
            )
        done = HandshakeDone(
            challenge=message.challenge, uris=self._own.uris, extensions=ANSWERS_ABSENT
        )
        return sign_message(self._own.key, done, self._own.crypto).encode()

    def _take(self, public_key: bytes, done: HandshakeDone) -> None:
        if done.challenge != self._challenge:
            raise RemoteProtocolError("a peer answered another challenge than ours")
        if done.features != FEATURES:
            raise RemoteProtocolError(
                f"a peer has the features {done.features}, and {FEATURES} are S5's"
            )
        if self._expected_key not in {None, public_key}:
            raise RemoteProtocolError("a peer has another key than the one it is known by")
        self.peer_key = public_key
        self.uris = done.uris
        self.answers_absent = bool(done.extensions & ANSWERS_ABSENT)

    async def _next(self) -> Message:
        frame = await self._connection.receive()
        if len(frame) > MAX_WIRE_BYTES:
            raise RemoteProtocolError(f"a peer sent a frame longer than {MAX_WIRE_BYTES} bytes")
        self.num_received += 1
        pause = max(self._frames.take(1), self._bytes.take(len(frame)))
        if pause:
            await anyio.sleep(pause)
        return decode_message(frame, self._own.crypto)

    async def _send_now(self, frame: bytes) -> None:
        await self._outbox_in.send(frame)

    async def _write(self) -> None:
        async for frame in self._outbox:
            try:
                with anyio.fail_after(self._limits.send_timeout):
                    await self._connection.send(frame)
            except (anyio.BrokenResourceError, TimeoutError):
                _logger.info("a peer takes no more messages", extra={"peer": self.url})
                self._scope.cancel()
                return
