"""A client that speaks to a host frame by frame, politely or not: era-C's dialect and ours.

    async with open_raw_client(host, devnet) as client:
        opened = await client.open(job_id, secret)                       # as era-C's SDK does
        opened = await client.open(job_id, secret, offer=ExtensionOffer(...))   # as our SDK does
        answer = await opened.ask("Hello")

Nothing here looks after anybody's money: that is what the tests are for.
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from tests.e2e.harness import encryption_key_of
from websockets.asyncio.client import ClientConnection, connect

from fabstir.chain.devnet import Devnet
from fabstir.cli.host_process import HostProcess
from fabstir.crypto import NATIVE
from fabstir.primitives.ids import Address, JobId
from fabstir.primitives.units import TokenCount
from fabstir.protocol.authorization import SessionKeyAuthorization
from fabstir.protocol.client_messages import (
    EncryptedAck,
    EncryptedClose,
    EncryptedMessage,
    EncryptedSessionInit,
)
from fabstir.protocol.content import Message
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.envelope import (
    NONCE_BYTES,
    SealedPayload,
    SecureChannel,
    frame_binding,
    init_aad,
    open_payload,
    seal_init,
    seal_payload,
)
from fabstir.protocol.frames import Frame, encode_frame
from fabstir.protocol.host_messages import (
    Connected,
    EncryptedChunk,
    EncryptedReceipt,
    EncryptedResponse,
    ErrorMessage,
    HostMessage,
    ProofMessage,
    SessionClosed,
    SessionInitAck,
    StreamEnd,
    decode_host_message,
)
from fabstir.protocol.limits import MAX_FRAME_BYTES
from fabstir.protocol.payloads import (
    ChunkPlaintext,
    ClosedPlaintext,
    EndPlaintext,
    ExtensionOffer,
    ExtensionTerms,
    InitPlaintext,
    ReceiptPlaintext,
)
from fabstir.protocol.receipts import Acknowledgement, Receipt
from fabstir.protocol.request import ChatRequest, RequestPlaintext
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk.websocket import websocket_url

RECEIVE_TIMEOUT = 45.0
"""Seconds; the longest silence of a host is 30 s, in which it waits for an acknowledgement."""


class Refused(Exception):
    """The host answered with an error frame."""

    def __init__(self, error: ErrorMessage) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.error = error
        self.code = error.code


@dataclass(frozen=True, slots=True, kw_only=True)
class Init:
    """A handshake that was made, to be sent as often as one likes."""

    frame: EncryptedSessionInit
    session_key: bytes
    ephemeral_secret: bytes
    context: bytes


@dataclass(slots=True)
class Answer:
    """What came for one request.

    Attributes:
        frames: in order, without those of other matters.
        tokens: by the host's count.
    """

    frames: list[HostMessage] = field(default_factory=list["HostMessage"])
    texts: list[str] = field(default_factory=list[str])
    tokens: int = 0
    finish_reason: str = ""
    receipts: list[Receipt] = field(default_factory=list[Receipt])
    end: StreamEnd | None = None

    @property
    def text(self) -> str:
        return "".join(self.texts)


class RawClient:
    """One socket to one host."""

    def __init__(
        self, socket: ClientConnection, domain: Domain, host: Address, host_key: bytes
    ) -> None:
        self._socket = socket
        self.domain = domain
        self.host = host
        self.host_key = host_key

    async def send(self, frame: Frame) -> None:
        await self.send_data(encode_frame(frame))

    async def send_data(self, data: str | bytes) -> None:
        """Any text or binary frame."""
        with anyio.fail_after(RECEIVE_TIMEOUT):
            await self._socket.send(data)

    async def receive(self) -> HostMessage:
        """The host's next frame, whatever it is."""
        with anyio.fail_after(RECEIVE_TIMEOUT):
            return decode_host_message(await self._socket.recv())

    async def expect_error(self) -> ErrorMessage:
        """The next error frame; proofs may come in between."""
        while True:
            message = await self.receive()
            if isinstance(message, ErrorMessage):
                return message
            assert isinstance(message, ProofMessage | StreamEnd), message

    def stop_reading(self) -> None:
        """From now on read nothing, with as little room in the kernel as it allows."""
        transport = self._socket.transport
        tcp: socket.socket = transport.get_extra_info("socket")
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        transport.pause_reading()

    def drop(self) -> None:
        """Be gone, without a word to anybody."""
        self._socket.transport.abort()

    async def close(self) -> None:
        """A socket that closes without a word is how era-C clients end."""
        await self._socket.close()

    def authorize(
        self,
        job_id: JobId,
        wallet_secret: bytes,
        session_secret: bytes,
        *,
        host: Address | None = None,
        expires_in: int = 3600,
    ) -> ExtensionOffer:
        """The offer of a renter whose wallet lets a session key speak for it."""
        authorization = SessionKeyAuthorization(
            job_id=job_id,
            host=host or self.host,
            session_key=NATIVE.address_of(NATIVE.public_key(session_secret)),
            expires_at=int(time.time()) + expires_in,
        )
        return ExtensionOffer(authorization=authorization.sign(wallet_secret, self.domain, NATIVE))

    # -- handshakes -----------------------------------------------------------------------------

    def make_init(
        self,
        job_id: JobId,
        secret: bytes,
        *,
        offer: ExtensionOffer | None = None,
        inner_job_id: JobId | None = None,
        chain_id: int | None = None,
        context: bytes | None = None,
        recovery_public_key: bytes | None = None,
    ) -> Init:
        """A handshake signed with `secret`; what is not named is as it should be.

        Args:
            offer: of the extension; None speaks era-C's dialect.
            context: the associated data, which era-C clients leave empty.
        """
        domain = self.domain
        if context is None and offer is not None:
            context = init_aad(domain.chain_id, domain.contract, job_id, self.host)
        plaintext = InitPlaintext(
            job_id=job_id if inner_job_id is None else inner_job_id,
            model_name="",
            session_key=secrets.token_bytes(32),
            recovery_public_key=recovery_public_key,
            extension=offer,
        )
        ephemeral = secrets.token_bytes(32)
        envelope = seal_init(
            plaintext.encode(),
            host_public_key=self.host_key,
            ephemeral_secret=ephemeral,
            signing_secret=secret,
            nonce=secrets.token_bytes(NONCE_BYTES),
            aad=context or b"",
            crypto=NATIVE,
        )
        frame = EncryptedSessionInit(
            session_id=str(job_id),
            job_id=job_id,
            chain_id=domain.chain_id if chain_id is None else chain_id,
            payload=envelope,
            id="init",
        )
        return Init(
            frame=frame,
            session_key=plaintext.session_key,
            ephemeral_secret=ephemeral,
            context=context or b"",
        )

    async def open(
        self, job_id: JobId, secret: bytes, *, offer: ExtensionOffer | None = None
    ) -> OpenedSession:
        """Send a handshake. Raises Refused."""
        return await self.send_init(self.make_init(job_id, secret, offer=offer), secret)

    async def send_init(self, init: Init, secret: bytes) -> OpenedSession:
        """Send a handshake that was made before. Raises Refused."""
        await self.send(init.frame)
        while isinstance(ack := await self.receive(), ProofMessage | StreamEnd):
            pass  # of a claim that was mined meanwhile, of a request that was refused before
        if isinstance(ack, ErrorMessage):
            raise Refused(ack)
        assert isinstance(ack, SessionInitAck), ack
        if ack.extension is None:
            return OpenedSession(self, init, secret, ack, None, None)
        channel = SecureChannel.derive(
            is_host=False,
            session_key=init.session_key,
            ephemeral_secret=init.ephemeral_secret,
            peer_ephemeral_public_key=ack.extension.ephemeral_public_key,
            context=init.context,
            crypto=NATIVE,
        )
        binding = frame_binding("session_init_ack", ack.session_id, ack.id or "")
        terms = ExtensionTerms.decode(channel.open(ack.extension.payload, binding))
        return OpenedSession(self, init, secret, ack, channel, terms)


def existing_clients_request(prompt: str, max_tokens: int, stop: tuple[str, ...]) -> bytes:
    """The plaintext of one text, as era-C's clients write it."""
    asked = {"prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "stop": list(stop)}
    return json.dumps({**asked, "stream": True}).encode()


class OpenedSession:
    """A session that is open on this socket, in the dialect of its handshake.

    Attributes:
        terms: the extension's; None speaks era-C's dialect.
    """

    def __init__(
        self,
        client: RawClient,
        init: Init,
        secret: bytes,
        ack: SessionInitAck,
        channel: SecureChannel | None,
        terms: ExtensionTerms | None,
    ) -> None:
        self.client = client
        self.ack = ack
        self.terms = terms
        self._init = init
        self._secret = secret
        self._channel = channel
        self._session_id = ack.session_id

    # -- our side -------------------------------------------------------------------------------

    def message(
        self,
        prompt: str,
        *,
        request_id: str = "1",
        max_tokens: int = 8,
        stop: tuple[str, ...] = (),
    ) -> EncryptedMessage:
        """A request. Greedy, so that the answer is the same each time."""
        asked = self._renters_request if self.terms else existing_clients_request
        plaintext = asked(prompt, max_tokens, stop)
        return EncryptedMessage(
            session_id=self._session_id,
            id=request_id,
            payload=self.seal("encrypted_message", request_id, plaintext),
        )

    @staticmethod
    def _renters_request(prompt: str, max_tokens: int, stop: tuple[str, ...]) -> bytes:
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0, stop=stop)
        request = ChatRequest(messages=(Message("user", prompt),), sampling=sampling)
        return RequestPlaintext(
            request=request, salt=secrets.token_bytes(32), client_nonce=secrets.token_bytes(32)
        ).encode()

    def acknowledgement(
        self, receipt: Receipt, request_id: str = "1", *, secret: bytes | None = None
    ) -> Frame:
        """Agreement to a receipt, signed with the session key, or with another one."""
        acknowledgement = Acknowledgement(
            job_id=receipt.job_id,
            sequence=receipt.sequence,
            receipt_hash=receipt.hash(self.client.domain, NATIVE),
            cumulative_tokens=TokenCount(receipt.cumulative_tokens),
        )
        signed = acknowledgement.sign(secret or self._secret, self.client.domain, NATIVE)
        return EncryptedAck(
            session_id=self._session_id,
            id=request_id,
            payload=self.seal("encrypted_ack", request_id, signed.encode()),
        )

    async def close(self) -> int:
        """Say that we are done (extension); returns the tokens that the host has proven."""
        payload = self.seal("encrypted_close", "close", b"{}")
        frame = EncryptedClose(session_id=self._session_id, id="close", payload=payload)
        await self.client.send(frame)
        while not isinstance(message := await self.client.receive(), SessionClosed):
            assert isinstance(message, ProofMessage | StreamEnd), message
        opened = self._open("session_closed", message.id, message.payload)
        return ClosedPlaintext.decode(opened).tokens_proven

    def seal(self, kind: str, request_id: str, plaintext: bytes) -> SealedPayload:
        if self._channel is None:
            nonce = secrets.token_bytes(NONCE_BYTES)
            return seal_payload(self._init.session_key, nonce, b"message", plaintext, NATIVE)
        return self._channel.seal(plaintext, frame_binding(kind, self._session_id, request_id))

    async def ask(
        self,
        prompt: str,
        *,
        request_id: str = "1",
        max_tokens: int = 8,
        stop: tuple[str, ...] = (),
        acknowledges: Callable[[Receipt], bool] = lambda _receipt: True,
        late: float = 0,
    ) -> Answer:
        """Ask and read to the end. Raises Refused.

        Args:
            acknowledges: which receipts to agree to.
            late: seconds before each acknowledgement.
        """
        message = self.message(prompt, request_id=request_id, max_tokens=max_tokens, stop=stop)
        await self.client.send(message)
        return await self.read(request_id=request_id, acknowledges=acknowledges, late=late)

    async def read(
        self,
        *,
        request_id: str = "1",
        acknowledges: Callable[[Receipt], bool] = lambda _receipt: True,
        until_tokens: int | None = None,
        late: float = 0,
    ) -> Answer:
        """Read to the end of an answer, or until it has this many tokens. Raises Refused."""
        answer = Answer()
        while answer.end is None:
            message = await self.client.receive()
            if isinstance(message, ErrorMessage):
                raise Refused(message)
            if isinstance(message, ProofMessage) or _ends_a_refused_request(message):
                continue
            answer.frames.append(message)
            receipt = self._take(answer, message)
            if receipt is not None and acknowledges(receipt):
                await anyio.sleep(late)
                await self.client.send(self.acknowledgement(receipt, request_id))
            if until_tokens is not None and answer.tokens >= until_tokens:
                break
        return answer

    # -- the host's side ------------------------------------------------------------------------

    def _take(self, answer: Answer, message: HostMessage) -> Receipt | None:
        match message:
            case EncryptedChunk():
                answer.tokens += message.tokens
                answer.texts.append(self._text(message))
            case EncryptedReceipt():
                plaintext = ReceiptPlaintext.decode(
                    self._open("encrypted_receipt", message.id, message.payload)
                )
                answer.receipts.append(plaintext.signed.receipt)
                return plaintext.signed.receipt
            case EncryptedResponse():
                answer.finish_reason = self._finish_reason(message)
            case StreamEnd():
                answer.end = message
            case _:
                raise AssertionError(f"{message} is no part of an answer")
        return None

    def _text(self, chunk: EncryptedChunk) -> str:
        opened = self._open("encrypted_chunk", chunk.id, chunk.payload)
        return opened.decode() if self._channel is None else ChunkPlaintext.decode(opened).text

    def _finish_reason(self, response: EncryptedResponse) -> str:
        opened = self._open("encrypted_response", response.id, response.payload)
        if self._channel is None:
            return opened.decode()
        return EndPlaintext.decode(opened).finish_reason

    def _open(self, kind: str, request_id: str | None, payload: SealedPayload) -> bytes:
        if self._channel is None:
            return open_payload(self._init.session_key, payload, NATIVE)
        binding = frame_binding(kind, self._session_id, request_id or "")
        return self._channel.open(payload, binding)


def _ends_a_refused_request(message: HostMessage) -> bool:
    """What follows an error, which was raised when it came."""
    return isinstance(message, StreamEnd) and message.reason == "error"


@asynccontextmanager
async def open_raw_client(host: HostProcess, devnet: Devnet) -> AsyncGenerator[RawClient]:
    """A socket to a host, with its greeting read."""
    domain = Domain(devnet.deployment.chain_id, devnet.deployment.job_marketplace)
    key = await encryption_key_of(devnet, host)
    url = websocket_url(host.api_url)
    # Without pings of its own, so that a client that reads nothing stays.
    async with connect(url, proxy=None, max_size=MAX_FRAME_BYTES, ping_interval=None) as opened:
        client = RawClient(opened, domain, host.account, key)
        assert isinstance(await client.receive(), Connected)
        yield client
