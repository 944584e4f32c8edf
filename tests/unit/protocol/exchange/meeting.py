"""A host and a renter that meet in memory: no socket, no model, no chain, no journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count

from tests.unit.protocol.exchange.answering import (
    DIGEST,
    DOMAIN,
    HOST_SECRET,
    REQUEST,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import FabstirError, RemoteProtocolError, SessionRefused
from fabstir.primitives.ids import JobId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei
from fabstir.protocol.authorization import SessionKeyAuthorization
from fabstir.protocol.client_messages import EncryptedSessionInit
from fabstir.protocol.commitments import (
    NO_ADDITIONS,
    OutputCommitment,
    derive_seed,
    request_digest,
    seed_commitment,
)
from fabstir.protocol.envelope import NONCE_BYTES, seal_init
from fabstir.protocol.era_c import EraCRequest
from fabstir.protocol.exchange.account import HostAccount
from fabstir.protocol.exchange.answers import End, Piece
from fabstir.protocol.exchange.handshake import Introduction, Party, read_init
from fabstir.protocol.exchange.host import (
    AcknowledgementReceived,
    CancelReceived,
    CloseReceived,
    FrameRefused,
    HostEvent,
    HostExchange,
    InitReceived,
    Reply,
    RequestReceived,
)
from fabstir.protocol.exchange.renter import ReceiptReceived, RenterEvent, RenterExchange
from fabstir.protocol.exchange.verification import SessionFacts
from fabstir.protocol.frames import Frame, encode_frame
from fabstir.protocol.host_messages import ErrorMessage
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

ENCRYPTION_SECRET = bytes([5]) * 32
SESSION_SECRET = bytes([9]) * 32
WALLET_SECRET = bytes([6]) * 32
JOB = JobId(9)
PRICE = PricePerToken(200_000_000_000)
DEPOSIT = Wei(10**12)
HOST = NATIVE.address_of(NATIVE.public_key(HOST_SECRET))
PARTY = Party(domain=DOMAIN, host=HOST, crypto=NATIVE)
FACTS = SessionFacts(
    job_id=JOB,
    host=HOST,
    model_digest=DIGEST,
    deposit=DEPOSIT,
    price_per_token=PRICE,
    domain=DOMAIN,
    crypto=NATIVE,
)
NOW = 1_800_000_000.0


def randomness(stream: int = 0) -> Callable[[int], bytes]:
    """Bytes that no two calls share; each stream has its own."""
    numbers = count(1)

    def draw(size: int) -> bytes:
        seed = stream.to_bytes(4, "big") + next(numbers).to_bytes(8, "big")
        return NATIVE.blake3(seed)[:size]

    return draw


def describe(
    error: FabstirError, *, session_id: str | None, request_id: str | None
) -> ErrorMessage:
    known = isinstance(error, RemoteProtocolError | SessionRefused)
    code = error.code if known else "INTERNAL_ERROR"
    return ErrorMessage(code=code, message=str(error), session_id=session_id, id=request_id)


def introduction(last: SignedAcknowledgement | None = None) -> Introduction:
    authorization = SessionKeyAuthorization(
        job_id=JOB,
        host=HOST,
        session_key=NATIVE.address_of(NATIVE.public_key(SESSION_SECRET)),
        expires_at=int(NOW) + 600,
    )
    return Introduction(
        host_public_key=NATIVE.public_key(ENCRYPTION_SECRET),
        model_name="repo:file",
        session_secret=SESSION_SECRET,
        recovery_public_key=NATIVE.public_key(SESSION_SECRET),
        authorization=authorization.sign(WALLET_SECRET, DOMAIN, NATIVE),
        last_acknowledgement=last,
    )


def era_c_init(secret: bytes = SESSION_SECRET, *, inside: JobId = JOB) -> EncryptedSessionInit:
    """An existing client's handshake, signed with `secret`; what is sealed names job `inside`."""
    random = randomness(secret[0])
    payload = seal_init(
        InitPlaintext(job_id=inside, model_name="any", session_key=bytes(32)).encode(),
        host_public_key=NATIVE.public_key(ENCRYPTION_SECRET),
        ephemeral_secret=random(32),
        signing_secret=secret,
        nonce=random(NONCE_BYTES),
        aad=b"",
        crypto=NATIVE,
    )
    return EncryptedSessionInit(
        session_id=str(JOB), job_id=JOB, chain_id=None, payload=payload, id="1"
    )


@dataclass(slots=True)
class Host:
    """Runs host exchanges as a door does, and journals in memory.

    Attributes:
        acknowledged: what survives a connection: the last acknowledgement, as its chain's head.
        refused: the errors of frames that counted for nothing.
    """

    account: HostAccount
    random: Callable[[int], bytes] = field(default_factory=randomness)
    acknowledged: ChainHead = field(default_factory=ChainHead)
    seed_nonce: bytes = bytes([3]) * 32
    refused: list[FabstirError] = field(default_factory=list[FabstirError])
    request: RequestReceived | None = None
    token_ids: list[int] = field(default_factory=list[int])
    output: OutputCommitment = field(default_factory=lambda: OutputCommitment(bytes(32), NATIVE))
    num_pieces: int = 0
    num_receipted: int = 0
    exchange: HostExchange = field(init=False)

    def __post_init__(self) -> None:
        self.connect()

    def connect(self) -> None:
        """A new connection; the one before is gone."""
        if self.account.is_held:
            self.account.release()
        self.request = None
        self.exchange = HostExchange(PARTY, describe, self.random)

    def hear(self, data: str | bytes) -> list[Frame]:
        """What a door does with one frame."""
        return self._do(self.exchange.receive(data))

    def _do(self, event: HostEvent) -> list[Frame]:
        match event:
            case InitReceived(message):
                try:
                    return self._admit(event)
                except FabstirError as error:
                    refused = self.exchange.refuse(
                        error, message, session_id=message.session_id, request_id=message.id
                    )
                    return self._do(refused)
            case RequestReceived():
                self._begin(event)
                return []
            case AcknowledgementReceived(account, _, signed, receipt):
                account.agree(receipt)
                said = signed.acknowledgement
                if said.sequence > self.acknowledged.sequence:
                    self.acknowledged = ChainHead(
                        sequence=said.sequence,
                        hash=said.receipt_hash,
                        cumulative_tokens=said.cumulative_tokens,
                        tokens_before_request=said.cumulative_tokens,
                    )
                return []
            case CancelReceived():
                return self.end("cancelled")
            case CloseReceived():
                self.request = None
                closed = ClosedPlaintext(
                    tokens_proven=self.account.agreed, is_final=True, settles_in=0
                )
                return self.exchange.closed(event, closed)
            case Reply(frames):
                return frames
            case FrameRefused(error, frames):
                self.refused.append(error)
                return frames

    def _admit(self, event: InitReceived) -> list[Frame]:
        greeting = read_init(event.message, PARTY, ENCRYPTION_SECRET)
        wallet = NATIVE.address_of(NATIVE.public_key(WALLET_SECRET))
        if greeting.wallet(NOW) != wallet:
            raise greeting.not_depositor(wallet)
        if self.request is not None:
            self.exchange.ended(self.request)
            self.request = None
        self.account.resume(self.acknowledged, self.exchange)
        issued = self.account.issued
        terms = ExtensionTerms(
            model_digest=DIGEST,
            max_model_len=4096,
            price_per_token=PRICE,
            receipt_interval=RECEIPT_INTERVAL_TOKENS,
            max_unacknowledged=MAX_UNACKNOWLEDGED_TOKENS,
            seed_commitment=seed_commitment(self.seed_nonce, NATIVE),
            sequence=issued.sequence,
            receipt_hash=issued.hash,
            cumulative_tokens=issued.cumulative_tokens,
        )
        return self.exchange.admit(greeting, self.account, terms)[1]

    # -- an answer ----------------------------------------------------------------------------

    def _begin(self, event: RequestReceived) -> None:
        self.request = event
        self.account.begin_request()
        assert isinstance(event.request, RequestPlaintext)
        self.token_ids, self.output = [], OutputCommitment(event.request.salt, NATIVE)
        self.num_pieces = self.num_receipted = 0

    def piece(self, num_tokens: int) -> list[Frame]:
        """One more piece, if the window and the deposit allow it."""
        account = self.account
        allowed = account.is_agreed(num_tokens) and num_tokens <= account.affordable
        if self.request is None or not allowed:
            return []
        ids = tuple(len(self.token_ids) + n for n in range(num_tokens))
        chunk = ChunkPlaintext(text="word " * num_tokens, token_ids=ids)
        piece = Piece(index=self.num_pieces, chunk=chunk)
        self.token_ids += ids
        self.output.add(ids, chunk.text)
        self.num_pieces += 1
        account.deliver(num_tokens)
        frames = self.exchange.part(self.request, piece)
        if len(self.token_ids) - self.num_receipted >= RECEIPT_INTERVAL_TOKENS:
            frames += self.receipt()
        return frames

    def receipt(self) -> list[Frame]:
        """A receipt for what has none yet."""
        if self.request is None or self.num_receipted == len(self.token_ids):
            return []
        receipt = self.account.next_receipt(self._work(self.request.request))
        signed = sign_receipt(receipt, HOST_SECRET, DOMAIN, NATIVE)
        self.account.issue(receipt, receipt.hash(DOMAIN, NATIVE), is_agreed=False)
        self.num_receipted = len(self.token_ids)
        self.output.receipted()
        seed = self._seed(self.request.request)
        plaintext = ReceiptPlaintext(signed=signed, seed=seed, host_nonce=self.seed_nonce)
        return self.exchange.part(self.request, plaintext)

    def end(self, reason: str) -> list[Frame]:
        """The last receipt, and the end."""
        if self.request is None:
            return []
        frames, request = self.receipt(), self.request
        self.request = None
        self.seed_nonce = self.random(32)
        said = EndPlaintext(
            finish_reason=reason,
            num_prompt_tokens=TokenCount(20),
            num_completion_tokens=TokenCount(len(self.token_ids)),
            seed_commitment=seed_commitment(self.seed_nonce, NATIVE),
        )
        end = End(plaintext=said, num_pieces=self.num_pieces, max_model_len=4096)
        return [*frames, *self.exchange.part(request, end)]

    def fail(self, error: FabstirError) -> list[Frame]:
        """The engine crashed, or worse."""
        if self.request is None:
            return []
        request, self.request = self.request, None
        return self.exchange.fail(request, error)

    def _seed(self, request: EraCRequest | RequestPlaintext) -> int:
        assert isinstance(request, RequestPlaintext)
        assert request.client_nonce is not None
        return derive_seed(request.client_nonce, self.seed_nonce, JOB, NATIVE)

    def _work(self, request: EraCRequest | RequestPlaintext) -> Work:
        assert isinstance(request, RequestPlaintext)
        salt, executed = request.salt, request.request.with_seed(self._seed(request))
        return Work(
            model_digest=DIGEST,
            request_digest=request_digest(executed, salt, NATIVE),
            additions_digest=NO_ADDITIONS,
            output_commitment=self.output.value(),
            num_prompt_tokens=TokenCount(20),
            num_completion_tokens=TokenCount(len(self.token_ids)),
        )


@dataclass(slots=True)
class Renter:
    """Runs renter exchanges as the SDK does, and journals in memory.

    Attributes:
        last: the last acknowledgement that was journalled.
        events: what was heard on this connection.
    """

    random: Callable[[int], bytes] = field(default_factory=randomness)
    last: SignedAcknowledgement | None = None
    head: ChainHead = field(default_factory=ChainHead)
    events: list[RenterEvent] = field(default_factory=list[RenterEvent])
    exchange: RenterExchange = field(init=False)

    def __post_init__(self) -> None:
        self.exchange = RenterExchange(FACTS, self.head)

    def connect(self) -> list[Frame]:
        """A new connection after the last acknowledged receipt."""
        self.events.clear()
        self.exchange = RenterExchange(FACTS, self.head)
        return [self.exchange.greet(introduction(self.last), self.random)]

    def ask(self) -> list[Frame]:
        """A question, with nonce and salt of its own."""
        request = replace(REQUEST, client_nonce=self.random(32), salt=self.random(32))
        return [self.exchange.ask(request)]

    def hear(self, data: str | bytes) -> list[Frame]:
        """What the SDK does with one frame. Raises as `RenterExchange.receive` does."""
        event = self.exchange.receive(data)
        if event is None:
            return []
        self.events.append(event)
        if not isinstance(event, ReceiptReceived):
            return []
        signed = event.verified.acknowledgement.sign(SESSION_SECRET, DOMAIN, NATIVE)
        self.last = signed
        frame = self.exchange.acknowledge(event.verified, signed)
        self.head = self.exchange.head
        return [frame]


def make_account() -> HostAccount:
    """A session that nobody has used."""
    return HostAccount(
        job_id=JOB,
        deposit=DEPOSIT,
        price_per_token=PRICE,
        signer=NATIVE.address_of(NATIVE.public_key(SESSION_SECRET)),
    )


def on_wire(frames: list[Frame]) -> list[str]:
    """As they travel."""
    return [encode_frame(frame) for frame in frames]
