"""The host's end of one connection: frames in, events and frames out; no I/O and no clock.

Several sessions may share a connection, and a session outlives it: its account is the book's, and
is handed from exchange to exchange. Everything that a frame may mean is decided here; whoever
runs the exchange asks the gate, runs answers and journals what the events say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol

from fabstir.primitives.errors import FabstirError, RemoteProtocolError, SessionRefused
from fabstir.protocol.client_messages import (
    ClientMessage,
    EncryptedAck,
    EncryptedClose,
    EncryptedMessage,
    EncryptedSessionInit,
    Ping,
    StreamCancel,
    Unsupported,
    decode_client_fields,
    ids_of,
    parse_client_frame,
)
from fabstir.protocol.era_c import EraCRequest
from fabstir.protocol.exchange.account import HostAccount
from fabstir.protocol.exchange.answers import AnswerPart, End, Piece
from fabstir.protocol.exchange.dialects import SessionDialect
from fabstir.protocol.exchange.handshake import Greeting, Party, answer_init
from fabstir.protocol.exchange.phases import HostPhase, HostStep, not_here
from fabstir.protocol.frames import Frame
from fabstir.protocol.host_messages import ErrorMessage, Pong, StreamEnd, Usage
from fabstir.protocol.payloads import (
    ClosedPlaintext,
    ExtensionTerms,
    ReceiptPlaintext,
)
from fabstir.protocol.receipts import Receipt, SignedAcknowledgement
from fabstir.protocol.refusals import refusal
from fabstir.protocol.request import RequestPlaintext

_STALE_NAME_CODES: Final = frozenset({"NOT_AUTHENTICATED", "DECRYPTION_FAILED"})
"""What a message is refused with that names another session of its socket than it means."""


class DescribeError(Protocol):
    """An error as a client is told of it."""

    def __call__(
        self, error: FabstirError, *, session_id: str | None, request_id: str | None
    ) -> ErrorMessage: ...


# -- events -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InitReceived:
    """A client wants a session: ask the gate, then `HostExchange.admit` or `refuse`."""

    message: EncryptedSessionInit


@dataclass(frozen=True, slots=True)
class RequestReceived:
    """A request, which is the session's only one until its `End`, or `fail`.

    Attributes:
        message: the frame, with the name of the session that it is for.
    """

    account: HostAccount
    dialect: SessionDialect
    message: EncryptedMessage
    request: EraCRequest | RequestPlaintext


@dataclass(frozen=True, slots=True)
class AcknowledgementReceived:
    """The renter's yes to a receipt that is due: journal it, then `account.agree`."""

    account: HostAccount
    message: EncryptedAck
    signed: SignedAcknowledgement
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class CancelReceived:
    """The running answer, if there is one, is to end after the piece that is being sent."""

    account: HostAccount


@dataclass(frozen=True, slots=True)
class CloseReceived:
    """The renter is done: stop the running answer, prove, settle, then `HostExchange.closed`."""

    account: HostAccount
    dialect: SessionDialect
    message: EncryptedClose


@dataclass(frozen=True, slots=True)
class Reply:
    """Send these; nothing else is to be done."""

    frames: list[Frame]


@dataclass(frozen=True, slots=True)
class FrameRefused:
    """A frame counted for nothing: tell its sender, and count it against it."""

    error: FabstirError
    frames: list[Frame]


HostEvent = (
    InitReceived
    | RequestReceived
    | AcknowledgementReceived
    | CancelReceived
    | CloseReceived
    | Reply
    | FrameRefused
)


@dataclass(slots=True)
class _Seat:
    """One session on this connection, how its frames are sealed, and what it is answering."""

    account: HostAccount
    dialect: SessionDialect
    request: RequestReceived | None = None


class HostExchange:
    """One connection of a client."""

    def __init__(
        self, party: Party, describe_error: DescribeError, random: Callable[[int], bytes]
    ) -> None:
        """`random` gives secure random bytes."""
        self._party = party
        self._describe_error = describe_error
        self._random = random
        self._seats: dict[str, _Seat] = {}

    @property
    def has_sessions(self) -> bool:
        """Whether a session that is not over is this connection's."""
        return any(self._holds(seat) for seat in self._seats.values())

    def _holds(self, seat: _Seat) -> bool:
        return seat.account.holder is self and seat.account.phase is not HostPhase.OVER

    # -- what the client sends ----------------------------------------------------------------

    def receive(self, data: str | bytes) -> HostEvent:
        """What one frame asks for. Raises nothing: what cannot be is `FrameRefused`."""
        session_id = request_id = message = None
        try:
            fields = parse_client_frame(data)
            session_id, request_id = ids_of(fields)
            message = decode_client_fields(fields)
            return self._take(message)
        except FabstirError as error:
            return self.refuse(error, message, session_id=session_id, request_id=request_id)

    def _take(self, message: ClientMessage) -> HostEvent:
        match message:
            case EncryptedSessionInit():
                return InitReceived(message)
            case EncryptedMessage():
                return self._take_request(message)
            case EncryptedAck():
                return self._take_acknowledgement(message)
            case EncryptedClose():
                seat = self._seat(message.session_id)
                seat.dialect.open_close(message)
                seat.account.advance(HostStep.CLOSE)
                return CloseReceived(seat.account, seat.dialect, message)
            case StreamCancel():
                seat = self._seat(message.session_id)
                seat.account.advance(HostStep.CANCEL)
                return CancelReceived(seat.account)
            case Ping():
                return Reply([Pong()])
            case Unsupported():
                return Reply(refusal(message))

    def _take_request(self, message: EncryptedMessage) -> RequestReceived:
        seat, request = self._open_request(message)
        account = seat.account
        account.require_forgiven()
        account.advance(HostStep.REQUEST)
        named = replace(message, session_id=account.session_id)
        seat.request = RequestReceived(account, seat.dialect, named, request)
        return seat.request

    def _take_acknowledgement(self, message: EncryptedAck) -> AcknowledgementReceived:
        seat = self._seat(message.session_id)
        signed = seat.dialect.open_acknowledgement(message)
        seat.account.advance(HostStep.ACKNOWLEDGEMENT)
        receipt = seat.account.match(signed, self._party.domain, self._party.crypto)
        return AcknowledgementReceived(seat.account, message, signed, receipt)

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
        except (SessionRefused, RemoteProtocolError) as refused:
            if refused.code not in _STALE_NAME_CODES:
                raise
            held = (seat for seat in self._seats.values() if seat.account.holder is self)
            meant = [seat for seat in held if seat.dialect.is_meant(message)]
            if len(meant) != 1:
                raise
        return meant[0], meant[0].dialect.open_request(message)

    def _seat(self, session_id: str) -> _Seat:
        """A frame counts only for a session that this same connection opened."""
        seat = self._seats.get(session_id)
        if seat is None or seat.account.holder is not self:
            raise not_here(session_id)
        return seat

    # -- what the host says -------------------------------------------------------------------

    def admit(
        self, greeting: Greeting, account: HostAccount, terms: ExtensionTerms
    ) -> tuple[SessionDialect, list[Frame]]:
        """The gate let a client in; the account is this exchange's already (`resume`)."""
        assert account.holder is self, "a session is handed over before its client is told"
        dialect, ack = answer_init(greeting, terms, self._random)
        self._seats[account.session_id] = _Seat(account, dialect)
        return dialect, [ack]

    def refuse(
        self,
        error: FabstirError,
        message: ClientMessage | None,
        *,
        session_id: str | None,
        request_id: str | None,
    ) -> FrameRefused:
        """Say that a frame was refused and, of a request, that no answer to it comes.

        Args:
            message: None if the frame could not be read.
        """
        frames = self.error(error, session_id=session_id, request_id=request_id)
        # While one runs, an end of stream would be taken for that answer's, whatever it names.
        if isinstance(message, EncryptedMessage) and not self._is_answering:
            frames.append(_no_answer(message))
        return FrameRefused(error, frames)

    @property
    def _is_answering(self) -> bool:
        phases = (seat.account.phase for seat in self._seats.values() if self._holds(seat))
        return HostPhase.ANSWERING in phases

    def error(
        self, error: FabstirError, *, session_id: str | None, request_id: str | None
    ) -> list[Frame]:
        """An error that ends nothing by itself."""
        return [self._describe_error(error, session_id=session_id, request_id=request_id)]

    def decline(self, event: RequestReceived, error: FabstirError) -> FrameRefused:
        """A request is not begun: it counts as a frame that is refused."""
        self.ended(event)
        message = event.message
        return self.refuse(error, message, session_id=message.session_id, request_id=message.id)

    def fail(self, event: RequestReceived, error: FabstirError) -> list[Frame]:
        """An answer could not be given, or not to its end."""
        self.ended(event)
        message = event.message
        described = self.error(error, session_id=message.session_id, request_id=message.id)
        return [*described, _no_answer(message)]

    def part(self, event: RequestReceived, part: AnswerPart) -> list[Frame]:
        """The next part of an answer, sealed: send the frames in this order, and soon."""
        request_id, dialect = event.message.id, event.dialect
        match part:
            case Piece():
                return dialect.piece(request_id, part)
            case ReceiptPlaintext():
                return dialect.receipt(request_id, part)
            case End():
                self.ended(event)
                return [*dialect.end(request_id, part), _stream_end(event.message, part)]

    def ended(self, event: RequestReceived) -> None:
        """An answer has stopped, however. Counts once, and only while the session is here."""
        seat = self._seats.get(event.account.session_id)
        if seat is not None and seat.request is event:
            seat.request = None
            if event.account.holder is self:
                event.account.advance(HostStep.ENDED)

    @staticmethod
    def closed(event: CloseReceived, closed: ClosedPlaintext) -> list[Frame]:
        """The last word on a session."""
        return event.dialect.closed(event.message.id, closed)

    def lose(self, session_id: str) -> None:
        """Another connection took the session over."""
        self._seats.pop(session_id, None)


def _no_answer(message: EncryptedMessage) -> StreamEnd:
    return StreamEnd(session_id=message.session_id, id=message.id, reason="error", tokens_used=0)


def _stream_end(message: EncryptedMessage, end: End) -> StreamEnd:
    said = end.plaintext
    return StreamEnd(
        session_id=message.session_id,
        id=message.id,
        reason="complete" if end.is_complete else "cancelled",
        tokens_used=said.num_completion_tokens,
        finish_reason=said.finish_reason if end.is_complete else "cancelled",
        usage=Usage(
            prompt_tokens=said.num_prompt_tokens,
            completion_tokens=said.num_completion_tokens,
            context_window_size=end.max_model_len,
        ),
    )
