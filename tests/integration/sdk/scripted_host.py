"""A host without a model: it shakes hands as a real one, then says what a test has it say."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace

import anyio
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from fabstir.crypto import NATIVE
from fabstir.primitives.ids import Address, Hash32, JobId
from fabstir.primitives.units import PricePerToken, TokenCount
from fabstir.protocol.client_messages import (
    ClientMessage,
    EncryptedAck,
    EncryptedClose,
    EncryptedMessage,
    EncryptedSessionInit,
    decode_client_message,
)
from fabstir.protocol.commitments import (
    NO_ADDITIONS,
    OutputCommitment,
    derive_seed,
    request_digest,
    seed_commitment,
)
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.envelope import (
    SealedPayload,
    SecureChannel,
    frame_binding,
    init_aad,
    open_init,
)
from fabstir.protocol.frames import Frame, encode_frame
from fabstir.protocol.host_messages import (
    Connected,
    EncryptedChunk,
    EncryptedReceipt,
    EncryptedResponse,
    ExtensionReply,
    SessionClosed,
    SessionInitAck,
    StreamEnd,
)
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS, RECEIPT_INTERVAL_TOKENS
from fabstir.protocol.payloads import (
    ChunkPlaintext,
    ClosedPlaintext,
    EndPlaintext,
    ExtensionTerms,
    InitPlaintext,
    ReceiptPlaintext,
)
from fabstir.protocol.receipts import ChainHead, SignedAcknowledgement, Work, sign_receipt
from fabstir.protocol.request import RequestPlaintext

HOST_NONCE = bytes([3]) * 32
NUM_PROMPT_TOKENS = TokenCount(20)

Script = Callable[["Line"], Awaitable[None]]


async def say_nothing(_line: Line) -> None:
    """The script of a host that does not answer."""


@dataclass(slots=True, kw_only=True)
class ScriptedHost:
    """Who the host is, and what it does. Served by `open_scripted_host`.

    Attributes:
        secret: of its wallet, which signs receipts.
        greet: said before the handshake is answered.
        answer: what it does with a request; `line.asked` and `line.id` are set.
        on_close: what it does when the renter closes.
        terms: changes to the terms that an honest host would state.
        lines: every authenticated socket so far.
    """

    secret: bytes
    encryption_secret: bytes
    domain: Domain
    model_digest: Hash32
    price: PricePerToken
    greet: Script = say_nothing
    answer: Script = say_nothing
    on_close: Script = say_nothing
    terms: Callable[[ExtensionTerms], ExtensionTerms] = lambda terms: terms
    lines: list[Line] = field(default_factory=list["Line"])
    api_url: str = ""

    @property
    def address(self) -> Address:
        """Its wallet."""
        return NATIVE.address_of(NATIVE.public_key(self.secret))

    @property
    def public_key(self) -> bytes:
        """To which handshakes are encrypted."""
        return NATIVE.public_key(self.encryption_secret)


@dataclass(slots=True)
class Line:
    """One socket, after its handshake: what was said on it, and the books of an honest host."""

    host: ScriptedHost
    socket: ServerConnection
    job_id: JobId = field(default=JobId(0))
    channel: SecureChannel | None = None
    id: str = ""
    asked: RequestPlaintext | None = None
    token_ids: list[int] = field(default_factory=list[int])
    output: OutputCommitment | None = None
    num_chunks: int = 0
    head: ChainHead = field(default_factory=ChainHead)
    acknowledged: list[SignedAcknowledgement] = field(default_factory=list[SignedAcknowledgement])

    async def say(self, frame: Frame) -> None:
        """Send a frame as it stands."""
        await self.socket.send(encode_frame(frame))

    async def shout(self, text: str) -> None:
        """Send a text as it stands: what anybody on the path of ws:// can do."""
        await self.socket.send(text)

    async def pause(self, seconds: float) -> None:
        """Let time pass between two frames: a script's pace, not a wait for something."""
        await anyio.sleep(seconds)

    def seal(self, kind: str, plaintext: bytes) -> SealedPayload:
        """Encrypt the next frame."""
        assert self.channel is not None
        return self.channel.seal(plaintext, frame_binding(kind, str(self.job_id), self.id))

    async def deliver(self, text: str, token_ids: Sequence[int] = ()) -> None:
        """One piece of the answer."""
        chunk = ChunkPlaintext(text=text, token_ids=tuple(token_ids))
        await self.say(
            EncryptedChunk(
                session_id=str(self.job_id),
                id=self.id,
                tokens=len(token_ids),
                index=self.num_chunks,
                payload=self.seal("encrypted_chunk", chunk.encode()),
            )
        )
        self.num_chunks += 1
        assert self.output is not None, "a request is being answered"
        self.token_ids += token_ids
        self.output.add(token_ids, text)

    async def receipt(self) -> None:
        """An honest receipt for everything so far."""
        asked, output = self.asked, self.output
        assert asked is not None
        assert output is not None
        assert asked.client_nonce is not None
        seed = derive_seed(asked.client_nonce, HOST_NONCE, self.job_id, NATIVE)
        work = Work(
            model_digest=self.host.model_digest,
            request_digest=request_digest(asked.request.with_seed(seed), asked.salt, NATIVE),
            additions_digest=NO_ADDITIONS,
            output_commitment=output.value(),
            num_prompt_tokens=NUM_PROMPT_TOKENS,
            num_completion_tokens=TokenCount(len(self.token_ids)),
        )
        receipt = self.head.make(self.job_id, work, self.host.price)
        self.head = self.head.advance(receipt, receipt.hash(self.host.domain, NATIVE))
        output.receipted()
        signed = sign_receipt(receipt, self.host.secret, self.host.domain, NATIVE)
        plaintext = ReceiptPlaintext(signed=signed, seed=seed, host_nonce=HOST_NONCE)
        await self.say(
            EncryptedReceipt(
                session_id=str(self.job_id),
                id=self.id,
                payload=self.seal("encrypted_receipt", plaintext.encode()),
            )
        )

    async def end(self, finish_reason: str = "stop") -> None:
        """The end of an answer."""
        end = EndPlaintext(
            finish_reason=finish_reason,
            num_prompt_tokens=NUM_PROMPT_TOKENS,
            num_completion_tokens=TokenCount(len(self.token_ids)),
            seed_commitment=seed_commitment(HOST_NONCE, NATIVE),
        )
        payload = self.seal("encrypted_response", end.encode())
        await self.say(EncryptedResponse(session_id=str(self.job_id), id=self.id, payload=payload))
        await self.say(
            StreamEnd(
                session_id=str(self.job_id),
                id=self.id,
                reason="complete",
                tokens_used=len(self.token_ids),
            )
        )

    async def close(self, closed: ClosedPlaintext) -> None:
        """The last word on the session, sealed."""
        payload = self.seal("session_closed", closed.encode())
        await self.say(SessionClosed(session_id=str(self.job_id), id=self.id, payload=payload))

    # -- what the renter says -------------------------------------------------------------------

    async def take(self, message: ClientMessage) -> None:
        """Do what the script says."""
        match message:
            case EncryptedSessionInit():
                await self._shake_hands(message)
            case EncryptedMessage():
                self.id = message.id or ""
                self.asked = RequestPlaintext.decode(self._open("encrypted_message", message))
                self.token_ids, self.num_chunks = [], 0
                self.output = OutputCommitment(self.asked.salt, NATIVE)
                self.head = self.head.next_request()
                await self.host.answer(self)
            case EncryptedAck():
                opened = self._open("encrypted_ack", message)
                self.acknowledged.append(SignedAcknowledgement.decode(opened))
            case EncryptedClose():
                self.id = message.id or ""
                self._open("encrypted_close", message)
                await self.host.on_close(self)
            case _:
                pass

    def _open(self, kind: str, message: EncryptedMessage | EncryptedAck | EncryptedClose) -> bytes:
        assert self.channel is not None
        binding = frame_binding(kind, message.session_id, message.id or "")
        return self.channel.open(message.payload, binding)

    async def _shake_hands(self, message: EncryptedSessionInit) -> None:
        host = self.host
        opened = open_init(message.payload, host.encryption_secret, NATIVE)
        init = InitPlaintext.decode(opened.plaintext)
        assert init.extension is not None
        last = init.extension.last_acknowledgement
        if last is not None:
            agreed = last.acknowledgement
            self.head = replace(
                self.head,
                sequence=agreed.sequence,
                hash=agreed.receipt_hash,
                cumulative_tokens=agreed.cumulative_tokens,
            )
        self.job_id = init.job_id
        ephemeral = bytes([8]) * 32
        self.channel = SecureChannel.derive(
            is_host=True,
            session_key=init.session_key,
            ephemeral_secret=ephemeral,
            peer_ephemeral_public_key=message.payload.ephemeral_public_key,
            context=init_aad(host.domain.chain_id, host.domain.contract, init.job_id, host.address),
            crypto=NATIVE,
        )
        terms = ExtensionTerms(
            model_digest=host.model_digest,
            max_model_len=4096,
            price_per_token=host.price,
            receipt_interval=RECEIPT_INTERVAL_TOKENS,
            max_unacknowledged=MAX_UNACKNOWLEDGED_TOKENS,
            seed_commitment=seed_commitment(HOST_NONCE, NATIVE),
            sequence=self.head.sequence,
            receipt_hash=self.head.hash,
            cumulative_tokens=self.head.cumulative_tokens,
        )
        self.id = message.id or ""
        await host.greet(self)
        await self.say(
            SessionInitAck(
                session_id=message.session_id,
                job_id=init.job_id,
                chain_id=host.domain.chain_id,
                client_address=opened.signer,
                id=message.id,
                extension=ExtensionReply(
                    ephemeral_public_key=NATIVE.public_key(ephemeral),
                    payload=self.seal("session_init_ack", host.terms(terms).encode()),
                ),
            )
        )


@asynccontextmanager
async def open_scripted_host(host: ScriptedHost) -> AsyncGenerator[ScriptedHost]:
    """Serve it on a free port of loopback for the length of the block; sets its `api_url`."""

    async def talk(socket: ServerConnection) -> None:
        line = Line(host, socket)
        host.lines.append(line)
        with suppress(ConnectionClosed):
            await line.say(Connected("a scripted host"))
            async for data in socket:
                await line.take(decode_client_message(data))

    async with serve(talk, "127.0.0.1", 0, ping_interval=None, close_timeout=0.1) as server:
        (port,) = {socket.getsockname()[1] for socket in server.sockets}
        host.api_url = f"http://127.0.0.1:{port}"
        yield host
