"""One peer, from its handshake to its end."""

from __future__ import annotations

import logging
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import anyio
import anyio.abc

from fabstir.primitives.errors import PortalUnavailable, RemoteProtocolError
from fabstir.primitives.rates import TokenBucket
from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.limits import MAX_WIRE_BYTES
from fabstir.s5.formats.wire import (
    ANSWERS_ABSENT,
    FEATURES,
    RELAYS,
    HandshakeDone,
    PeerHandshake,
    PeerMessage,
    Signed,
    decode_message,
    sign_message,
)
from fabstir.s5.peers.connection import MessageConnection
from fabstir.s5.peers.limits import PeerLimits
from fabstir.web.addresses import address_group

_logger = logging.getLogger(__name__)

_CHALLENGE_BYTES = 32

_MAX_EARLY = 16
"""Messages that come before the peer's answer to our challenge: S5.js signs while it asks."""

_MAX_SILENCES = 3
"""Questions that a peer leaves unanswered before nobody waits for it: S5.js answers none at all,
and each of them would cost everybody the deadline."""

_FLUSH = b""
"""Stands in the outbox for the entries that are owed."""


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


def remote_address(connection: MessageConnection) -> str:
    """What the limits of a connection are counted under: IPv6 by its /64."""
    return address_group(urlsplit(connection.url).hostname or "")


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
        self.address = remote_address(connection)
        """What its limits are counted under."""
        self.place = place
        self.peer_key = b""
        self.uris: tuple[str, ...] = ()
        self.answers_absent = False
        self.relays = False
        self.num_received = 0
        self.close_reason = ""
        """Why this node ends it, for the other end; "": for nothing that it should know."""
        self.num_silences = 0
        """Questions in a row that it has not answered."""
        self.last_use = monotonic()
        """When it last said something beyond its handshake, or connected."""
        self.is_known = False
        """Whether its handshake is done and it said something since."""
        self._monotonic = monotonic
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
        self._owed: OrderedDict[bytes, bytes] = OrderedDict()
        self._is_flush_sent = False
        self._tasks: anyio.abc.TaskGroup | None = None
        self._places = anyio.Semaphore(limits.max_answers_at_once)
        self._outbox_in, self._outbox = anyio.create_memory_object_stream[bytes](
            limits.outbox_frames
        )
        self._early: deque[PeerMessage] = deque()
        self._scope = anyio.CancelScope()

    def send(self, frame: bytes) -> bool:
        """Queue a frame; False: the peer is too slow, or gone, and does not get it."""
        try:
            self._outbox_in.send_nowait(frame)
        except (anyio.WouldBlock, anyio.ClosedResourceError, anyio.BrokenResourceError):
            return False
        return True

    def tell(self, public_key: bytes, entry: bytes) -> bool:
        """Send a registry entry as soon as the peer takes it, in place of an older one of its key
        that waits; False: too many wait already."""
        if public_key not in self._owed and len(self._owed) >= self._limits.max_owed_entries:
            _logger.warning(
                "a peer is too slow, and is not told of a registry entry", extra={"peer": self.url}
            )
            return False
        self._owed[public_key] = entry
        if not self._is_flush_sent:  # where the outbox is full, they come after its next frame
            self._is_flush_sent = self.send(_FLUSH)
        return True

    @property
    def is_waited_for(self) -> bool:
        """Whether it is known to answer, or may. A peer of the settings always may: Dart nodes are
        silent where they have nothing."""
        return bool(self.place) or self.num_silences < _MAX_SILENCES

    def was_silent(self) -> None:
        """It left a question unanswered."""
        self.num_silences += 1

    def has_answered(self) -> None:
        """It said something that may be an answer."""
        self.num_silences = 0

    async def beside(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something for this peer while it is read on; where too much is going on for it
        already, it is read on later. What is not done when it goes is not needed any more."""
        tasks = self._tasks
        if tasks is None:
            return
        await self._places.acquire()

        async def run() -> None:
            try:
                await work()
            finally:
                self._places.release()

        tasks.start_soon(run)

    def close(self, reason: str = "") -> None:
        """End it soon."""
        self.close_reason = reason
        self._scope.cancel()

    async def run(
        self, on_ready: Callable[[], None], on_message: Callable[[PeerMessage], Awaitable[None]]
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
                self._tasks = tasks
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
        self, on_ready: Callable[[], None], on_message: Callable[[PeerMessage], Awaitable[None]]
    ) -> None:
        opening = PeerHandshake(challenge=self._challenge, network=self._own.network)
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
            if isinstance(message, PeerHandshake):
                await self._send_now(self._answer(message))
            else:
                self.last_use, self.is_known = self._monotonic(), True
                await on_message(message)

    async def _shake_hands(self) -> None:
        has_answered = False
        while not (has_answered and self.peer_key):
            message = await self._next()
            if isinstance(message, PeerHandshake):
                await self._send_now(self._answer(message))
                has_answered = True
            elif isinstance(message, Signed) and isinstance(message.message, HandshakeDone):
                self._take(message.public_key, message.message)
            elif len(self._early) < _MAX_EARLY:
                self._early.append(message)
            else:
                raise RemoteProtocolError("a peer talks on without answering the handshake")

    def _answer(self, message: PeerHandshake) -> bytes:
        if message.network != self._own.network:
            raise RemoteProtocolError(
                f"a peer is in the network {message.network!r}, and this node in "
                f"{self._own.network!r}"
            )
        done = HandshakeDone(
            challenge=message.challenge, uris=self._own.uris, extensions=ANSWERS_ABSENT | RELAYS
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
        self.relays = bool(done.extensions & RELAYS)

    async def _next(self) -> PeerMessage:
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
            if frame == _FLUSH:
                self._is_flush_sent = False
            elif not await self._write_one(frame):
                return
            while self._owed:
                _, entry = self._owed.popitem(last=False)
                if not (await self._write_one(entry) and await self._write_waiting()):
                    return

    async def _write_waiting(self) -> bool:
        """What stands in the outbox: answers do not wait for thousands of entries."""
        while True:
            try:
                frame = self._outbox.receive_nowait()
            except anyio.WouldBlock:
                return True
            if frame == _FLUSH:
                self._is_flush_sent = False
            elif not await self._write_one(frame):
                return False

    async def _write_one(self, frame: bytes) -> bool:
        """Returns whether the peer takes it."""
        try:
            with anyio.fail_after(self._limits.send_timeout):
                await self._connection.send(frame)
        except (anyio.BrokenResourceError, TimeoutError):
            _logger.info("a peer takes no more messages", extra={"peer": self.url})
            self._scope.cancel()
            return False
        return True
