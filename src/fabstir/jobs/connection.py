"""One client's connection: frames in, frames out, whatever carries them.

Doors parse and send; everything that a frame means is decided here. A frame counts only for a
session that this same connection opened.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

import anyio
from anyio.abc import TaskGroup

from fabstir.jobs.answer import PATIENCE, Answer, AnswerServices
from fabstir.jobs.book import SessionBook
from fabstir.jobs.dialects import Dialect, EraCDialect, ExtensionDialect
from fabstir.jobs.outgoing import Outgoing
from fabstir.jobs.session import Closing, LiveSession
from fabstir.primitives.errors import (
    EngineError,
    FabstirError,
    ReceiptMismatch,
    RemoteProtocolError,
    SessionRefused,
)
from fabstir.primitives.ids import Address
from fabstir.primitives.units import TokenCount
from fabstir.protocol.client_messages import (
    ClientMessage,
    EncryptedAck,
    EncryptedClose,
    EncryptedMessage,
    EncryptedSessionInit,
    Ping,
    StreamCancel,
    Unsupported,
)
from fabstir.protocol.commitments import seed_commitment
from fabstir.protocol.envelope import SecureChannel, frame_binding, init_aad
from fabstir.protocol.era_c import EraCRequest
from fabstir.protocol.frames import Frame
from fabstir.protocol.host_messages import (
    ErrorMessage,
    ExtensionReply,
    Pong,
    SessionInitAck,
    StreamEnd,
)
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS, RECEIPT_INTERVAL_TOKENS
from fabstir.protocol.payloads import (
    ClosedPlaintext,
    ExtensionTerms,
    InitPlaintext,
)
from fabstir.protocol.receipts import SignedAcknowledgement
from fabstir.protocol.refusals import refusal
from fabstir.protocol.request import RequestPlaintext
from fabstir.serving.conversation import is_self_contained

_logger = logging.getLogger(__name__)

_STALE_NAME_CODES: Final = frozenset({"NOT_AUTHENTICATED", "DECRYPTION_FAILED"})
"""What a message is refused with that names another session of its socket than it means."""


class DescribeError(Protocol):
    """An error as the door translates it."""

    def __call__(
        self, error: FabstirError, *, session_id: str | None, request_id: str | None
    ) -> ErrorMessage: ...


class CloseSession(Protocol):
    """Proves what was agreed to and begins to settle."""

    async def __call__(self, session: LiveSession) -> Closing: ...


@dataclass(slots=True)
class _Seat:
    """One session on this connection: how its frames are sealed, and what it is answering."""

    session: LiveSession
    dialect: Dialect
    answer: Answer | None = None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    is_free: anyio.Event = field(default_factory=anyio.Event)


class ClientConnection:
    """Handles one client until its door says that it is gone.

    Attributes:
        outgoing: what waits to be written to the client; its door runs it.
        on_vacant: told when the last of its sessions is over or another connection's.
    """

    def __init__(
        self,
        *,
        services: AnswerServices,
        book: SessionBook,
        host: Address,
        close_session: CloseSession,
        describe_error: DescribeError,
        tasks: TaskGroup,
    ) -> None:
        self._services = services
        self._book = book
        self._host = host
        self._close_session = close_session
        self._describe_error = describe_error
        self._tasks = tasks
        self._seats: dict[str, _Seat] = {}
        self.outgoing = Outgoing(self._on_room)
        self.on_vacant: Callable[[], None] = lambda: None

    @property
    def has_seats(self) -> bool:
        """Whether a session that is not over is this connection's."""
        seats = self._seats.values()
        return any(each.session.owner is self and not each.session.is_over for each in seats)

    async def handle(self, message: ClientMessage) -> None:
        """Do what one frame asks for.

        Raises:
            RemoteProtocolError, SessionRefused, ReceiptMismatch: for the door to report.
        """
        match message:
            case EncryptedSessionInit():
                await self._open(message)
            case EncryptedMessage():
                self._ask(message)
            case EncryptedAck():
                await self._acknowledge(message)
            case EncryptedClose():
                await self._close(message)
            case StreamCancel():
                self._cancel(message)
            case Ping():
                self._send(lambda: [Pong()])
            case Unsupported():
                self._send(lambda: refusal(message))

    def tell(self, error: FabstirError, *, session_id: str | None, request_id: str | None) -> None:
        """Queue an error for the client. Raises BrokenResourceError when it is gone."""
        frame = self._describe_error(error, session_id=session_id, request_id=request_id)
        extra = {"code": frame.code, "reason": str(error)}
        _logger.info("told a client of an error", extra=extra)
        self._send(lambda: [frame])

    def refuse(
        self,
        error: FabstirError,
        message: ClientMessage | None,
        *,
        session_id: str | None,
        request_id: str | None,
    ) -> None:
        """Tell the client that a frame was refused, and that no answer to it comes.

        Args:
            message: None if the frame could not be read.

        Raises:
            BrokenResourceError: it is gone.
        """
        # While one runs, an end of stream would be taken for that answer's, whatever it names.
        is_answering = any(seat.answer is not None for seat in self._seats.values())
        if isinstance(message, EncryptedMessage) and not is_answering:
            self._fail(message, error)
        else:
            self.tell(error, session_id=session_id, request_id=request_id)

    def release(self) -> list[LiveSession]:
        """The door is closed: stop answering; the sessions wait for their renters."""
        for seat in self._seats.values():
            seat.scope.cancel()
        return self._book.release(self)

    # -- frames -------------------------------------------------------------------------------

    async def _open(self, message: EncryptedSessionInit) -> None:
        await self._vacate(message.session_id)
        session, admission = await self._book.open(
            message, self, self._send, lambda: self._evicted(message.session_id)
        )
        init = admission.init
        extension = None
        if init.extension is None:
            dialect: Dialect = EraCDialect(
                session.session_id, init.session_key, self._services.crypto, self._services.random
            )
        else:
            dialect, extension = self._negotiate(message, init, session)
        self._seats[session.session_id] = _Seat(session, dialect)
        session.on_over = self._seat_lost
        ack = SessionInitAck(
            session_id=session.session_id,
            job_id=session.row.job_id,
            chain_id=self._services.domain.chain_id,
            client_address=admission.signer,
            id=message.id,
            extension=extension,
        )
        self._send(lambda: [ack])
        _logger.info(
            "session opened",
            extra={"job_id": session.row.job_id, "has_receipts": dialect.has_receipts},
        )

    def _negotiate(
        self, message: EncryptedSessionInit, init: InitPlaintext, session: LiveSession
    ) -> tuple[ExtensionDialect, ExtensionReply]:
        services, row = self._services, session.row
        domain = services.domain
        ephemeral = services.random(32)
        channel = SecureChannel.derive(
            is_host=True,
            session_key=init.session_key,
            ephemeral_secret=ephemeral,
            peer_ephemeral_public_key=message.payload.ephemeral_public_key,
            context=init_aad(domain.chain_id, domain.contract, row.job_id, self._host),
            crypto=services.crypto,
        )
        terms = ExtensionTerms(
            model_digest=session.model.digest,
            max_model_len=session.model.info.max_model_len,
            price_per_token=row.price_per_token,
            receipt_interval=RECEIPT_INTERVAL_TOKENS,
            max_unacknowledged=MAX_UNACKNOWLEDGED_TOKENS,
            seed_commitment=seed_commitment(session.seed_nonce, services.crypto),
            sequence=session.issued.sequence,
            receipt_hash=session.issued.hash,
            cumulative_tokens=session.issued.cumulative_tokens,
        )
        binding = frame_binding("session_init_ack", session.session_id, message.id or "")
        reply = ExtensionReply(
            ephemeral_public_key=services.crypto.public_key(ephemeral),
            payload=channel.seal(terms.encode(), binding),
        )
        return ExtensionDialect(session.session_id, channel), reply

    def _ask(self, message: EncryptedMessage) -> None:
        seat, request = self._open_request(message)
        message = replace(message, session_id=seat.session.session_id)
        if seat.answer is not None:
            raise SessionRefused(
                "BUSY", f"session {message.session_id} is answering: wait for stream_end or cancel"
            )
        if self._book.is_draining:
            raise SessionRefused(
                "DRAINING", "this host is shutting down: what you used is proven, choose another"
            )
        if seat.session.is_closing:
            raise SessionRefused("SESSION_NOT_ACTIVE", "the session is closed: open another")
        if not seat.session.is_forgiven:
            raise SessionRefused(
                "UNACKNOWLEDGED",
                f"{seat.session.lost} tokens of session {message.session_id} were delivered and "
                "never acknowledged: close it and open another",
            )
        self._require_memory(seat, request)
        seat.answer = Answer(
            self._services,
            seat.session,
            seat.dialect,
            request,
            message.id,
            self._send,
            lambda: self.outgoing.has_room,
        )
        seat.scope, seat.is_free = anyio.CancelScope(), anyio.Event()
        self._tasks.start_soon(self._run, seat, seat.answer, message)

    def _open_request(
        self, message: EncryptedMessage
    ) -> tuple[_Seat, EraCRequest | RequestPlaintext]:
        """The session that a message is for, and what it asks.

        Existing clients name the first session of their socket, whichever one they mean: the key
        says which, if it is the key of exactly one.
        """
        try:
            seat = self._seat(message.session_id)
            return seat, seat.dialect.open_request(message)
        except (SessionRefused, RemoteProtocolError) as refusal:
            if refusal.code not in _STALE_NAME_CODES:
                raise
            opened = self._meant_by_key(message)
            if opened is None:
                raise
            return opened

    def _meant_by_key(
        self, message: EncryptedMessage
    ) -> tuple[_Seat, EraCRequest | RequestPlaintext] | None:
        seats = [
            seat
            for seat in self._seats.values()
            if seat.session.owner is self
            and isinstance(seat.dialect, EraCDialect)
            and seat.dialect.can_open(message)
        ]
        if len(seats) != 1:
            return None
        return seats[0], seats[0].dialect.open_request(message)

    @staticmethod
    def _require_memory(seat: _Seat, request: EraCRequest | RequestPlaintext) -> None:
        """Refuse once to go on with a conversation that ended with an earlier process.

        Existing clients may send only what is new; answered without the rest, it would be billed
        nonsense. The code makes them begin anew.
        """
        session = seat.session
        if not session.has_forgotten:
            return
        session.has_forgotten = False
        if isinstance(request, EraCRequest) and not is_self_contained(request):
            raise SessionRefused(
                "SESSION_NOT_FOUND",
                f"this host was started again and has kept nothing that was said in session "
                f"{session.session_id}: send the whole conversation again",
            )

    async def _run(self, seat: _Seat, answer: Answer, message: EncryptedMessage) -> None:
        try:
            with seat.scope:
                await self._answer_or_fail(answer, message)
        except anyio.BrokenResourceError:
            _logger.info("client left", extra={"job_id": seat.session.row.job_id})
        finally:
            seat.answer = None
            seat.is_free.set()

    async def _answer_or_fail(self, answer: Answer, message: EncryptedMessage) -> None:
        try:
            await answer.run()
        except FabstirError as error:
            if isinstance(error, EngineError):
                extra = {"session_id": message.session_id, "reason": str(error)}
                _logger.warning("engine failed an answer", extra=extra)
            self._fail(message, error)

    def _fail(self, message: EncryptedMessage, error: FabstirError) -> None:
        self.tell(error, session_id=message.session_id, request_id=message.id)
        end = StreamEnd(session_id=message.session_id, id=message.id, reason="error", tokens_used=0)
        self._send(lambda: [end])

    async def _acknowledge(self, message: EncryptedAck) -> None:
        seat = self._seat(message.session_id)
        session = seat.session
        if not isinstance(seat.dialect, ExtensionDialect):
            raise RemoteProtocolError("this session knows no acknowledgements: open it with them")
        signed = SignedAcknowledgement.decode(seat.dialect.open("encrypted_ack", message))
        acknowledgement = signed.acknowledgement
        receipt = session.pending.get(acknowledgement.receipt_hash)
        services = self._services
        if (
            receipt is None
            or session.row.signer is None
            or acknowledgement.job_id != session.row.job_id
            or acknowledgement.sequence != receipt.sequence
            or acknowledgement.cumulative_tokens != receipt.cumulative_tokens
            or not signed.is_signed_by(session.row.signer, services.domain, services.crypto)
        ):
            raise ReceiptMismatch(
                f"the acknowledgement {acknowledgement.sequence} of session "
                f"{message.session_id} fits no receipt that is due: sign the receipt's own hash, "
                "sequence and cumulative tokens with the session key"
            )
        if not await services.ledger.acknowledge(signed):
            raise ReceiptMismatch(f"receipt {acknowledgement.sequence} does not count any more")
        session.pending = {
            receipt_hash: later
            for receipt_hash, later in session.pending.items()
            if later.sequence > receipt.sequence
        }
        session.agreed = TokenCount(max(session.agreed, receipt.cumulative_tokens))
        session.changed()
        services.claim_soon(session)

    async def _close(self, message: EncryptedClose) -> None:
        seat = self._seat(message.session_id)
        if not isinstance(seat.dialect, ExtensionDialect):
            raise RemoteProtocolError("this session knows no close: close the socket")
        seat.dialect.open("encrypted_close", message)
        session = seat.session
        session.is_closing = True
        await self._vacate(message.session_id)
        self._tasks.start_soon(self._prove_and_tell, message, session, seat.dialect)

    async def _prove_and_tell(
        self, message: EncryptedClose, session: LiveSession, dialect: ExtensionDialect
    ) -> None:
        try:
            await self._tell_closed(message, session, dialect)
        except anyio.BrokenResourceError:
            _logger.info("client left before its close", extra={"job_id": session.row.job_id})

    async def _tell_closed(
        self, message: EncryptedClose, session: LiveSession, dialect: ExtensionDialect
    ) -> None:
        try:
            ended = await self._close_session(session)
        except FabstirError as error:
            self.tell(error, session_id=message.session_id, request_id=message.id)
            return
        closed = ClosedPlaintext(
            tokens_proven=ended.tokens_proven,
            is_final=ended.is_final,
            settles_in=ended.settles_in,
        )
        self._send(lambda: [dialect.closed(message.id, closed)])

    def _cancel(self, message: StreamCancel) -> None:
        seat = self._seat(message.session_id)
        if seat.answer is not None:
            seat.answer.stop("cancelled")

    # -- seats --------------------------------------------------------------------------------

    def _seat(self, session_id: str) -> _Seat:
        seat = self._seats.get(session_id)
        if seat is None or seat.session.owner is not self:
            raise SessionRefused(
                "NOT_AUTHENTICATED",
                f"session {session_id} is not open on this connection: "
                "send encrypted_session_init first",
            )
        return seat

    async def _vacate(self, session_id: str) -> None:
        """Stop this connection's answer for a session and wait until it has stopped."""
        seat = self._seats.get(session_id)
        if seat is not None and seat.answer is not None:
            seat.scope.cancel()
            await seat.is_free.wait()

    async def _evicted(self, session_id: str) -> None:
        await self._vacate(session_id)
        self._seats.pop(session_id, None)
        self._seat_lost()
        error = SessionRefused(
            "SESSION_EVICTED", f"session {session_id} was taken over by its depositor"
        )
        try:
            self.tell(error, session_id=session_id, request_id=None)
        except anyio.BrokenResourceError:
            _logger.debug("evicted client is gone", extra={"session_id": session_id})

    def _seat_lost(self) -> None:
        if not self.has_seats:
            self.on_vacant()

    async def finish_answers(self) -> None:
        """Wait until every running answer has ended and its receipts are acknowledged."""
        for seat in tuple(self._seats.values()):
            if seat.answer is not None:
                await seat.is_free.wait()
            await seat.session.wait_until(lambda seat=seat: not seat.session.pending, PATIENCE)

    def stop_answers(self, reason: str) -> None:
        """Ask every running answer to end after the piece that is being sent."""
        for seat in self._seats.values():
            if seat.answer is not None:
                seat.answer.stop(reason)

    def _send(self, make: Callable[[], list[Frame]]) -> None:
        self.outgoing.put(make())

    def _on_room(self) -> None:
        """The client has read, or is gone: answers that wait for either look again."""
        for seat in self._seats.values():
            seat.session.changed()
