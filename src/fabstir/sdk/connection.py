"""One socket to a host, opened for one session: the handshake, sealed frames, and noticing silence.

Measured: a host that is killed closes its TCP connection at once; one that is stopped answers no
ping, which is noticed after at most PING_INTERVAL + PING_TIMEOUT and the time to give up closing,
and the time that a slow line takes for what was sent since the last pong.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import anyio
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidURI
from websockets.frames import CloseCode
from websockets.protocol import State

from fabstir.primitives.errors import (
    AddressRefused,
    ContextLengthExceeded,
    FabstirError,
    HostUnresponsive,
    RemoteProtocolError,
)
from fabstir.primitives.ids import ChainId
from fabstir.protocol.authorization import SignedAuthorization
from fabstir.protocol.client_messages import EncryptedSessionInit
from fabstir.protocol.codes import error_told
from fabstir.protocol.envelope import (
    NONCE_BYTES,
    SealedPayload,
    SecureChannel,
    frame_binding,
    init_aad,
    seal_init,
)
from fabstir.protocol.frames import Frame, encode_frame
from fabstir.protocol.host_messages import (
    Connected,
    ErrorMessage,
    HostMessage,
    Pong,
    SessionInitAck,
    Unknown,
    decode_host_message,
)
from fabstir.protocol.limits import MAX_HOST_FRAME_BYTES
from fabstir.protocol.payloads import (
    EXTENSION_NAME,
    ExtensionOffer,
    ExtensionTerms,
    InitPlaintext,
)
from fabstir.protocol.receipts import SignedAcknowledgement
from fabstir.sdk.bounded_socket import MAX_UNREAD_BYTES, PING_INTERVAL, BoundedSocket
from fabstir.sdk.budget import HANDSHAKE_BYTES, HANDSHAKE_FRAMES, ReadBudget
from fabstir.sdk.verification import SessionFacts
from fabstir.web.addresses import parse_strangers_url
from fabstir.web.reach import Reach
from fabstir.web.sockets import WEBSOCKET_SCHEMES, connect_websocket

OPEN_TIMEOUT: Final = 10.0
"""Seconds for TCP, TLS and the WebSocket's own handshake."""

INIT_TIMEOUT: Final = 30.0
"""Seconds for the host to look at the chain and answer the handshake; era-C's SDK waits as long."""

CLOSE_TIMEOUT: Final = 1.0
"""Seconds for a closing handshake that a dead host will never answer."""

MAX_UNREAD_FRAMES: Final = 1024
"""Frames kept for a slow reader before the socket is read no further (and pings go unanswered). A
host that keeps to its window of unacknowledged tokens never sends a quarter as many."""

_BREACHES: Final = {CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG}
"""What our side closes with when the peer's frames break the rules."""

_DOORS: Final = {"http": "ws", "https": "wss"}
_HOST_SCHEMES: Final = frozenset({*_DOORS, *WEBSOCKET_SCHEMES})


@dataclass(frozen=True, slots=True, kw_only=True)
class Handshake:
    """What one connection is opened with.

    Attributes:
        authorization: the depositor's signature for the session key.
        last_acknowledgement: where both sides go on after an earlier connection.
        random: secure random bytes.
        reach: where `api_url`, which the host's record or the registry names, may lead.
    """

    facts: SessionFacts
    api_url: str
    reach: Reach
    host_public_key: bytes
    model_name: str
    session_secret: bytes = field(repr=False)
    recovery_public_key: bytes
    authorization: SignedAuthorization
    last_acknowledgement: SignedAcknowledgement | None
    random: Callable[[int], bytes]


class HostConnection:
    """An authenticated socket. Made by `open_connection`.

    Attributes:
        terms: what the host offers, unchecked: see `verification.check_terms`.
    """

    def __init__(
        self,
        wire: _Wire,
        channel: SecureChannel,
        terms: ExtensionTerms,
        session_id: str,
    ) -> None:
        self.terms = terms
        self._wire = wire
        self._channel = channel
        self._session_id = session_id

    @property
    def is_lost(self) -> bool:
        """The socket closed while nobody was asking."""
        return self._wire.is_lost

    async def send(self, frame: Frame) -> None:
        """Raises HostUnresponsive."""
        await self._wire.send(frame)

    async def receive(self, timeout: float) -> HostMessage:
        """The next frame that means something.

        Raises:
            HostUnresponsive: the socket is gone, or nothing came for `timeout` seconds.
            RemoteProtocolError: not a frame, or more of them than the budget allows.
        """
        return await self._wire.receive(timeout)

    def begin_reading(self) -> ReadBudget:
        """Bound what is read from now on, for one request; returns the budget to earn into."""
        self._wire.budget = ReadBudget()
        return self._wire.budget

    def seal(self, kind: str, request_id: str, plaintext: bytes) -> SealedPayload:
        """Encrypt the next frame; they must be sent in the order in which they were sealed."""
        return self._channel.seal(plaintext, frame_binding(kind, self._session_id, request_id))

    def open(self, kind: str, request_id: str, payload: SealedPayload) -> bytes:
        """Decrypt the host's next sealed frame. Raises RemoteProtocolError."""
        return self._channel.open(payload, frame_binding(kind, self._session_id, request_id))


@asynccontextmanager
async def open_connection(handshake: Handshake) -> AsyncGenerator[HostConnection]:
    """Connect and open the session on this socket for the length of the block.

    Raises:
        HostUnresponsive: it cannot be reached or does not answer in time.
        SessionRefused: the gate said no; the code says why.
        RemoteProtocolError: it answers, but not as a host.
    """
    socket = await _dial(handshake)
    try:
        yield await _shake_hands(socket, handshake)
    finally:
        with anyio.CancelScope(shield=True):
            await socket.close()


def error_of(message: ErrorMessage) -> FabstirError:
    """A host's error frame as the error that it was on the host's side."""
    if message.prompt_tokens is not None and message.context_window_size is not None:
        return ContextLengthExceeded(message.prompt_tokens, message.context_window_size)
    return error_told(message.code, f"the host says: {message.message}")


class _Wire:
    """Frames over a socket, before and after the handshake.

    Attributes:
        budget: what may still be read.
    """

    def __init__(self, socket: BoundedSocket, name: str) -> None:
        self.budget = ReadBudget(HANDSHAKE_FRAMES, HANDSHAKE_BYTES)
        self._socket = socket
        self.name = name
        self._heard_at = time.monotonic()

    @property
    def is_lost(self) -> bool:
        return self._socket.state is not State.OPEN

    async def send(self, frame: Frame) -> None:
        try:
            await self._socket.write(encode_frame(frame))
        except (ConnectionClosed, TimeoutError) as exc:
            raise self._silence(exc) from exc

    async def receive(self, timeout: float) -> HostMessage:
        with anyio.move_on_after(timeout):
            while True:
                message = decode_host_message(await self._read())
                if not isinstance(message, Connected | Pong | Unknown):
                    return message
        raise self._silence(None)

    async def _read(self) -> bytes:
        try:
            data = await self._socket.read()
        except ConnectionClosed as exc:
            raise self._breach(exc) or self._silence(exc) from exc
        self._heard_at = time.monotonic()
        self.budget.spend(len(data))
        return data

    def _breach(self, cause: ConnectionClosed) -> RemoteProtocolError | None:
        """Why we cut the connection ourselves, if we did."""
        if self._socket.has_overflowed:
            reason = f"sent more than {MAX_UNREAD_BYTES} bytes ahead of what was read"
        elif cause.sent is not None and cause.sent.code in _BREACHES and not cause.rcvd_then_sent:
            reason = f"broke the WebSocket protocol ({cause.sent.reason or cause.sent.code})"
        else:
            return None
        return RemoteProtocolError(f"{self.name} {reason}: its connection was cut")

    def _silence(self, cause: Exception | None) -> HostUnresponsive:
        seconds = time.monotonic() - self._heard_at
        closed = isinstance(cause, ConnectionClosed) and cause.rcvd is not None
        how = "closed the connection" if closed else "stopped answering"
        return HostUnresponsive(f"{self.name} {how}; its last frame came {seconds:.1f} s ago")


def _name(handshake: Handshake) -> str:
    return f"host {handshake.facts.host} at {handshake.api_url}"


async def _dial(handshake: Handshake) -> BoundedSocket:
    try:
        socket = await connect_websocket(
            websocket_url(handshake.api_url),
            reach=handshake.reach,
            open_timeout=OPEN_TIMEOUT,
            ping_interval=PING_INTERVAL,
            close_timeout=CLOSE_TIMEOUT,
            compression=None,  # ciphertext: nothing to gain, and a bomb's bytes are not the wire's
            max_size=MAX_HOST_FRAME_BYTES,
            max_queue=MAX_UNREAD_FRAMES,
            create_connection=BoundedSocket,
        )
    except AddressRefused as exc:
        raise HostUnresponsive(f"{_name(handshake)} is not contacted: {exc}") from exc
    except (OSError, TimeoutError, InvalidHandshake, InvalidURI, ConnectionClosed) as exc:
        reason = str(exc) or type(exc).__name__
        raise HostUnresponsive(f"{_name(handshake)} cannot be reached: {reason}") from exc
    assert isinstance(socket, BoundedSocket), "made by create_connection"
    return socket


def websocket_url(api_url: str) -> str:
    """The door for sessions of a host's http(s) URL; a ws(s) URL is taken as it is.

    Raises:
        AddressRefused: it is no URL that a host may have.
    """
    url = parse_strangers_url(api_url, _HOST_SCHEMES)
    if url.scheme in WEBSOCKET_SCHEMES:
        return str(url)
    return url.with_scheme(_DOORS[url.scheme]) + url.path.rstrip("/") + "/v1/ws"


async def _shake_hands(socket: BoundedSocket, handshake: Handshake) -> HostConnection:
    facts = handshake.facts
    session_key, ephemeral_secret = handshake.random(32), handshake.random(32)
    context = init_aad(facts.domain.chain_id, facts.domain.contract, facts.job_id, facts.host)
    init = _make_init(handshake, session_key, ephemeral_secret, context)
    wire = _Wire(socket, _name(handshake))
    await wire.send(init)
    ack = await _receive_ack(wire, init, facts.domain.chain_id)
    if ack.extension is None:
        raise RemoteProtocolError(
            f"{_name(handshake)} does not give receipts (extension {EXTENSION_NAME}), so what it "
            "counts could not be checked: choose another host"
        )
    channel = SecureChannel.derive(
        is_host=False,
        session_key=session_key,
        ephemeral_secret=ephemeral_secret,
        peer_ephemeral_public_key=ack.extension.ephemeral_public_key,
        context=context,
        crypto=facts.crypto,
    )
    binding = frame_binding("session_init_ack", ack.session_id, ack.id or "")
    terms = ExtensionTerms.decode(channel.open(ack.extension.payload, binding))
    return HostConnection(wire, channel, terms, str(facts.job_id))


def _make_init(
    handshake: Handshake, session_key: bytes, ephemeral_secret: bytes, context: bytes
) -> EncryptedSessionInit:
    facts = handshake.facts
    plaintext = InitPlaintext(
        job_id=facts.job_id,
        model_name=handshake.model_name,
        session_key=session_key,
        price_per_token=facts.price_per_token,
        recovery_public_key=handshake.recovery_public_key,
        extension=ExtensionOffer(
            authorization=handshake.authorization,
            last_acknowledgement=handshake.last_acknowledgement,
        ),
    )
    envelope = seal_init(
        plaintext.encode(),
        host_public_key=handshake.host_public_key,
        ephemeral_secret=ephemeral_secret,
        signing_secret=handshake.session_secret,
        nonce=handshake.random(NONCE_BYTES),
        aad=context,
        crypto=facts.crypto,
    )
    return EncryptedSessionInit(
        session_id=str(facts.job_id),
        job_id=facts.job_id,
        chain_id=facts.domain.chain_id,
        payload=envelope,
        id="init",
    )


async def _receive_ack(
    wire: _Wire, init: EncryptedSessionInit, chain_id: ChainId
) -> SessionInitAck:
    with anyio.move_on_after(INIT_TIMEOUT):
        while True:
            message = await wire.receive(INIT_TIMEOUT)
            if isinstance(message, ErrorMessage):
                raise error_of(message)
            if isinstance(message, SessionInitAck):
                theirs = (message.session_id, message.job_id, message.chain_id, message.id)
                if theirs != (init.session_id, init.job_id, chain_id, init.id):
                    raise RemoteProtocolError("the host answers the handshake of another session")
                return message
    raise HostUnresponsive(f"{wire.name} did not answer the handshake in {INIT_TIMEOUT:g} s")
