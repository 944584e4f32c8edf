"""The renter's end of one connection to a host, for one session: no I/O and no clock.

Whoever runs it dials, sends what it gives and feeds what comes; journals each receipt before it
sends the acknowledgement; and gives up a connection on which anything was raised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from fabstir.primitives.errors import FabstirError, RemoteProtocolError
from fabstir.protocol.client_messages import (
    EncryptedAck,
    EncryptedClose,
    EncryptedMessage,
    StreamCancel,
)
from fabstir.protocol.envelope import SealedPayload, SecureChannel, frame_binding
from fabstir.protocol.exchange.budget import HANDSHAKE_BYTES, HANDSHAKE_FRAMES, ReadBudget
from fabstir.protocol.exchange.handshake import Introduction, OpenHandshake, introduce
from fabstir.protocol.exchange.phases import (
    RENTER_TABLE,
    RenterPhase,
    RenterStep,
    renter_after,
)
from fabstir.protocol.exchange.verification import (
    AnswerVerifier,
    SessionFacts,
    Verified,
    check_terms,
    head_after,
)
from fabstir.protocol.frames import Frame, SealedFrame
from fabstir.protocol.host_messages import (
    Connected,
    EncryptedChunk,
    EncryptedReceipt,
    EncryptedResponse,
    ErrorMessage,
    HostMessage,
    Pong,
    ProofMessage,
    SessionClosed,
    SessionInitAck,
    StreamEnd,
    Unknown,
    decode_host_message,
)
from fabstir.protocol.payloads import (
    ChunkPlaintext,
    ClosedPlaintext,
    EndPlaintext,
    ExtensionTerms,
    ReceiptPlaintext,
)
from fabstir.protocol.receipts import ChainHead, SignedAcknowledgement
from fabstir.protocol.request import RequestPlaintext

CLOSE_ID = "close"
"""The request id of an `encrypted_close`."""


# -- events -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """The host let us in, on the terms that the chain and our journal have."""

    terms: ExtensionTerms


@dataclass(frozen=True, slots=True)
class PieceReceived:
    """A piece of the answer, with the tokens that are billed for it."""

    chunk: ChunkPlaintext


@dataclass(frozen=True, slots=True)
class ReceiptReceived:
    """A receipt says what was delivered: journal it, then send `RenterExchange.acknowledge`."""

    verified: Verified


@dataclass(frozen=True, slots=True)
class EndReceived:
    """The sealed end of an answer; `AnswerOver` follows."""

    end: EndPlaintext


@dataclass(frozen=True, slots=True)
class AnswerOver:
    """Nothing more comes for the request: ask the next one."""

    end: EndPlaintext


@dataclass(frozen=True, slots=True)
class Closed:
    """The host's last word on the session."""

    closed: ClosedPlaintext


@dataclass(frozen=True, slots=True)
class HostRefused:
    """What the host says instead of an answer."""

    message: ErrorMessage


RenterEvent = (
    Opened | PieceReceived | ReceiptReceived | EndReceived | AnswerOver | Closed | HostRefused
)


class RenterExchange:
    """One connection.

    Attributes:
        phase: moves by `RENTER_TABLE`.
        head: the chain of receipts that both sides agree on.
        terms: the host's, with its commitment to the next request's seed; None until it has
            opened the session.
        verifier: of the running answer, or the last one.
    """

    def __init__(self, facts: SessionFacts, head: ChainHead) -> None:
        self.facts = facts
        self.head = head
        self.phase = RenterPhase.NEW
        self.terms: ExtensionTerms | None = None
        self.verifier: AnswerVerifier | None = None
        self._budget = ReadBudget(HANDSHAKE_FRAMES, HANDSHAKE_BYTES)
        self._handshake: OpenHandshake | None = None
        self._channel: SecureChannel | None = None
        self._num_requests = 0
        self._end: EndPlaintext | None = None

    @property
    def _session_id(self) -> str:
        return str(self.facts.job_id)

    @property
    def _request_id(self) -> str:
        return CLOSE_ID if self.phase is RenterPhase.CLOSING else str(self._num_requests)

    # -- what we say --------------------------------------------------------------------------

    def greet(self, introduction: Introduction, random: Callable[[int], bytes]) -> Frame:
        """The init, the connection's first frame; `random` gives secure random bytes."""
        after = self._after(RenterStep.GREET)
        facts = self.facts
        self._handshake = introduce(
            facts.party, facts.job_id, facts.price_per_token, introduction, random
        )
        self.phase = after
        return self._handshake.init

    def ask(self, asked: RequestPlaintext) -> Frame:
        """A request; its parts come as events until `AnswerOver`.

        Raises:
            LocalProtocolError: another answer is running, or the session is not open.
        """
        after = self._after(RenterStep.ASK)
        assert self.terms is not None, "it is open"
        # What cannot be encoded is no request: the next one finds the connection as it was.
        plaintext = asked.encode()
        verifier = AnswerVerifier(self.facts, self.terms, self.head, asked)
        self.phase, self.verifier = after, verifier
        self._budget = ReadBudget()
        self._end = None
        self._num_requests += 1
        payload = self._seal("encrypted_message", plaintext)
        return EncryptedMessage(session_id=self._session_id, id=self._request_id, payload=payload)

    def acknowledge(self, verified: Verified, signed: SignedAcknowledgement) -> Frame:
        """The yes to a receipt, which is journalled by now."""
        assert signed.acknowledgement == verified.acknowledgement, "for this receipt"
        payload = self._seal("encrypted_ack", signed.encode())
        self.head = head_after(signed)
        return EncryptedAck(session_id=self._session_id, id=self._request_id, payload=payload)

    def cancel(self) -> Frame:
        """Ask the host to stop. What it has delivered is still receipted."""
        self.phase = self._after(RenterStep.CANCEL)
        return StreamCancel(
            session_id=self._session_id, reason="cancelled by the renter", id=self._request_id
        )

    def close(self) -> Frame:
        """Ask the host for its last claim and its last word.

        Raises:
            LocalProtocolError: an answer is running: cancel it first.
        """
        self.phase = self._after(RenterStep.CLOSE)
        self._budget = ReadBudget()
        payload = self._seal("encrypted_close", b"{}")
        return EncryptedClose(session_id=self._session_id, id=CLOSE_ID, payload=payload)

    def _after(self, step: RenterStep) -> RenterPhase:
        """Raises LocalProtocolError: the step is not legal now."""
        return renter_after(self.phase, step)

    # -- what we hear -------------------------------------------------------------------------

    def receive(self, data: str | bytes) -> RenterEvent | None:
        """What one frame of the host means; None if nothing.

        Raises:
            RemoteProtocolError: it breaks the protocol.
            ReceiptMismatch: a receipt or the terms are not what was agreed or delivered.
        """
        try:
            self._budget.spend(len(data))
            return self._take(decode_host_message(data))
        except FabstirError:
            self.phase = RenterPhase.FAILED
            raise

    def _take(self, message: HostMessage) -> RenterEvent | None:
        match message:
            case SessionInitAck():
                return self._take_ack(message)
            case EncryptedChunk():
                return self._take_chunk(message)
            case EncryptedReceipt():
                return self._take_receipt(message)
            case EncryptedResponse():
                return self._take_end(message)
            case SessionClosed():
                self._hear(RenterStep.CLOSED, message)
                opened = self._open("session_closed", CLOSE_ID, message)
                return Closed(ClosedPlaintext.decode(opened))
            case StreamEnd():
                return self._take_stream_end(message)
            case ErrorMessage():
                return self._take_error(message)
            case Connected() | Pong() | ProofMessage() | Unknown():
                return None

    def _hear(self, step: RenterStep, message: HostMessage) -> None:
        after = RENTER_TABLE[self.phase].get(step)
        if after is None:
            raise RemoteProtocolError(
                f"the host sent {type(message).__name__} while the connection was {self.phase}"
            )
        self.phase = after

    def _take_ack(self, ack: SessionInitAck) -> Opened:
        self._hear(RenterStep.OPENED, ack)
        assert self._handshake is not None, "greeted"
        self._channel, self.terms = self._handshake.finish(ack)
        self._handshake = None
        check_terms(self.terms, self.facts, self.head)
        return Opened(self.terms)

    def _take_chunk(self, message: EncryptedChunk) -> PieceReceived:
        self._hear(RenterStep.PIECE, message)
        opened = self._open("encrypted_chunk", self._request_id, message)
        chunk = ChunkPlaintext.decode(opened)
        self._answering.add_chunk(message.index, chunk)
        self._budget.earn(len(chunk.token_ids))
        return PieceReceived(chunk)

    def _take_receipt(self, message: EncryptedReceipt) -> ReceiptReceived:
        self._hear(RenterStep.RECEIPT, message)
        opened = self._open("encrypted_receipt", self._request_id, message)
        return ReceiptReceived(self._answering.check_receipt(ReceiptPlaintext.decode(opened)))

    def _take_end(self, message: EncryptedResponse) -> EndReceived:
        self._hear(RenterStep.END, message)
        opened = self._open("encrypted_response", self._request_id, message)
        self._end = EndPlaintext.decode(opened)
        self._answering.check_end(self._end)
        return EndReceived(self._end)

    def _take_stream_end(self, message: StreamEnd) -> AnswerOver | None:
        """In clear: it ends nothing that has not ended under seal."""
        if message.id != self._request_id:
            return None  # of an answer that failed before this one
        if self.phase is RenterPhase.ANSWERED:
            raise RemoteProtocolError(
                f"the host ended the answer ({message.reason}) without saying why"
            )
        if self.phase is not RenterPhase.ENDING:
            return None
        self._hear(RenterStep.STREAM_END, message)
        assert self._end is not None, "ending"
        assert self.terms is not None, "it is open"
        self.terms = replace(self.terms, seed_commitment=self._end.seed_commitment)
        return AnswerOver(self._end)

    def _take_error(self, message: ErrorMessage) -> HostRefused | None:
        is_ours = message.id in {None, self._request_id}
        if self.phase is RenterPhase.GREETING:
            is_ours = True
        if not is_ours or self.phase is RenterPhase.IDLE:
            return None
        self._hear(RenterStep.ERROR, message)
        return HostRefused(message)

    # -- inside -------------------------------------------------------------------------------

    @property
    def _answering(self) -> AnswerVerifier:
        assert self.verifier is not None, "a request is out"
        return self.verifier

    def _seal(self, kind: str, plaintext: bytes) -> SealedPayload:
        assert self._channel is not None, "it is open"
        binding = frame_binding(kind, self._session_id, self._request_id)
        return self._channel.seal(plaintext, binding)

    def _open(self, kind: str, request_id: str, message: EncryptedChunk | SealedFrame) -> bytes:
        assert self._channel is not None, "it is open"
        binding = frame_binding(kind, self._session_id, request_id)
        return self._channel.open(message.payload, binding)
