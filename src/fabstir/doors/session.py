"""A session's door: runs a `HostExchange` over any stream of frames.

What a frame means is decided in the exchange, who may spend a session at the gate, what is
answered in serving. Here they are put together: one task reads, one writes, one answers.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Final

import anyio
from anyio.abc import TaskGroup

from fabstir.db.host_sessions import SessionRow
from fabstir.doors.outgoing import Outgoing
from fabstir.doors.strangers import Strangers
from fabstir.primitives.errors import EngineError, FabstirError, ReceiptMismatch, SessionRefused
from fabstir.primitives.ids import JobId
from fabstir.protocol.client_messages import EncryptedSessionInit
from fabstir.protocol.commitments import seed_commitment
from fabstir.protocol.exchange.handshake import Party
from fabstir.protocol.exchange.host import (
    AcknowledgementReceived,
    CancelReceived,
    CloseReceived,
    DescribeError,
    FrameRefused,
    HostEvent,
    HostExchange,
    InitReceived,
    Reply,
    RequestReceived,
)
from fabstir.protocol.exchange.streams import CallerStream
from fabstir.protocol.frames import Frame
from fabstir.protocol.host_messages import Connected
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS, RECEIPT_INTERVAL_TOKENS
from fabstir.protocol.payloads import ClosedPlaintext, ExtensionTerms
from fabstir.serving.answer import PATIENCE, Answer, AnswerServices
from fabstir.serving.book import SessionBook
from fabstir.serving.conversation import is_self_contained
from fabstir.serving.gate import Gate
from fabstir.serving.session import LiveSession

_logger = logging.getLogger(__name__)

FINISH_SECONDS: Final = 30.0
"""How long a host that was told to stop lets running answers go on: most take less."""

STOP_SECONDS: Final = 5.0
"""How long answers that were told to stop may take for it: they await no client."""

GREETING: Final = "fabstir host: encrypted_session_init opens a session"


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorServices:
    """What every connection needs.

    Attributes:
        strangers: counts what callers cost who are not known yet.
        describe_error: an error as a client is told of it.
    """

    answers: AnswerServices
    gate: Gate
    book: SessionBook
    party: Party
    strangers: Strangers
    describe_error: DescribeError


class SessionDoor:
    """Serves streams for the length of the server, whatever transport they come from."""

    def __init__(self, services: DoorServices) -> None:
        self._services = services
        self._connections: set[_Connection] = set()

    def __len__(self) -> int:
        return len(self._connections)

    async def serve(self, stream: CallerStream) -> None:
        """One stream, from open to close."""
        async with anyio.create_task_group() as tasks:
            connection = _Connection(self._services, stream, tasks)
            self._connections.add(connection)
            try:
                tasks.start_soon(self._write, connection, stream, tasks)
                await connection.read()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                _logger.debug("client left")
            finally:
                self._connections.discard(connection)
                connection.release()
                tasks.cancel_scope.cancel()

    @staticmethod
    async def _write(connection: _Connection, stream: CallerStream, tasks: TaskGroup) -> None:
        """Until the client is gone, or reads nothing: then nothing else of it goes on either."""
        try:
            await connection.outgoing.run(stream.send)
        except anyio.BrokenResourceError:
            tasks.cancel_scope.cancel()

    async def drain(self) -> None:
        """Let running answers end and be acknowledged; cut short what takes too long."""
        with anyio.move_on_after(FINISH_SECONDS):
            await self._finish_answers()
        for connection in tuple(self._connections):
            connection.stop_answers("draining")
        with anyio.move_on_after(STOP_SECONDS):
            await self._finish_answers()

    async def _finish_answers(self) -> None:
        async with anyio.create_task_group() as tasks:
            for connection in tuple(self._connections):
                tasks.start_soon(connection.finish_answers)


@dataclass(slots=True)
class _Running:
    """An answer that is being given."""

    answer: Answer
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    is_over: anyio.Event = field(default_factory=anyio.Event)


class _Connection:
    """One client, until its stream ends.

    Attributes:
        outgoing: what waits to be written to the client.
    """

    def __init__(self, services: DoorServices, stream: CallerStream, tasks: TaskGroup) -> None:
        self._services = services
        self._book = services.book
        self._stream = stream
        self._tasks = tasks
        self._caller = services.strangers.caller(stream.peer)
        self._exchange = HostExchange(
            services.party, services.describe_error, services.answers.random
        )
        self._sessions: dict[JobId, LiveSession] = {}
        self._running: dict[JobId, _Running] = {}
        self.outgoing = Outgoing(self._on_room)

    # -- reading ------------------------------------------------------------------------------

    async def read(self) -> None:
        """Until the stream ends.

        Raises:
            EndOfStream, BrokenResourceError: the client is gone.
        """
        self.outgoing.put([Connected(GREETING)])
        while True:
            refused = await self.take(self._exchange.receive(await self._stream.receive()))
            if refused is None:
                continue
            extra = {"reason": str(refused.error)}
            _logger.info("told a client of an error", extra=extra)
            self.outgoing.put(refused.frames)
            if not self._caller.may_be_refused_again():
                await self._stream.refuse("RATE_LIMITED: too many refused frames")
                raise anyio.EndOfStream

    async def take(self, event: HostEvent) -> FrameRefused | None:
        """Do what one frame asks for; returns why not."""
        match event:
            case InitReceived():
                return await self._greet(event)
            case RequestReceived():
                return self._begin(event)
            case AcknowledgementReceived():
                return await self._acknowledge(event)
            case CancelReceived(account):
                self._stop(account.job_id, "cancelled")
            case CloseReceived():
                await self._close(event)
            case Reply(frames):
                self.outgoing.put(frames)
            case FrameRefused():
                return event
        return None

    def release(self) -> None:
        """The stream has ended: stop answering; the sessions wait for their renters."""
        for running in self._running.values():
            running.scope.cancel()
        self._book.release(self._exchange)

    # -- opening ------------------------------------------------------------------------------

    async def _greet(self, event: InitReceived) -> FrameRefused | None:
        message = event.message
        try:
            async with self._caller.handshake(message.job_id):
                await self._open(message)
        except FabstirError as error:
            return self._exchange.refuse(
                error, message, session_id=message.session_id, request_id=message.id
            )
        if self._exchange.has_sessions:
            self._stream.prove()
        return None

    async def _open(self, message: EncryptedSessionInit) -> None:
        await self._vacate(message.job_id)
        self._book.require_serving()
        admission = await self._services.gate.admit(message)
        session = await self._book.open(
            admission, self._exchange, lambda: self._evicted(message.job_id)
        )
        account = session.account
        dialect, frames = self._exchange.admit(admission.greeting, account, self._terms(session))
        self._sessions[account.job_id] = session
        session.on_over = self._session_lost
        session.on_proof = lambda proof: self._tell([proof])
        self.outgoing.put(frames)
        extra = {"job_id": account.job_id, "has_receipts": dialect.has_receipts}
        _logger.info("session opened", extra=extra)

    def _terms(self, session: LiveSession) -> ExtensionTerms:
        answers, account = self._services.answers, session.account
        return ExtensionTerms(
            model_digest=session.model.digest,
            max_model_len=session.model.info.max_model_len,
            price_per_token=account.price_per_token,
            receipt_interval=RECEIPT_INTERVAL_TOKENS,
            max_unacknowledged=MAX_UNACKNOWLEDGED_TOKENS,
            seed_commitment=seed_commitment(session.seed_nonce, answers.crypto),
            sequence=account.issued.sequence,
            receipt_hash=account.issued.hash,
            cumulative_tokens=account.issued.cumulative_tokens,
        )

    # -- answering ----------------------------------------------------------------------------

    def _begin(self, event: RequestReceived) -> FrameRefused | None:
        session = self._sessions[event.account.job_id]
        try:
            self._book.require_serving()
            session.require_memory(is_self_contained=is_self_contained(event.request))
        except SessionRefused as refused:
            return self._exchange.decline(event, refused)
        answer = Answer(
            self._services.answers,
            session,
            event.request,
            has_receipts=event.dialect.has_receipts,
            sink=lambda part: self.outgoing.put(self._exchange.part(event, part)),
            has_room=lambda: self.outgoing.has_room,
        )
        running = self._running[event.account.job_id] = _Running(answer)
        self._tasks.start_soon(self._run, running, event)
        return None

    async def _run(self, running: _Running, event: RequestReceived) -> None:
        job_id = event.account.job_id
        try:
            with running.scope:
                await self._answer_or_fail(running.answer, event)
        except anyio.BrokenResourceError:
            _logger.info("client left", extra={"job_id": job_id})
        finally:
            self._exchange.ended(event)
            if self._running.get(job_id) is running:
                del self._running[job_id]
            running.is_over.set()

    async def _answer_or_fail(self, answer: Answer, event: RequestReceived) -> None:
        try:
            await answer.run()
        except FabstirError as error:
            extra = {"session_id": event.account.session_id, "reason": str(error)}
            if isinstance(error, EngineError):
                _logger.warning("engine failed an answer", extra=extra)
            _logger.info("told a client of an error", extra=extra)
            self.outgoing.put(self._exchange.fail(event, error))

    async def _acknowledge(self, event: AcknowledgementReceived) -> FrameRefused | None:
        account, receipt = event.account, event.receipt
        session = self._sessions[account.job_id]  # now: it may be another connection's soon
        answers = self._services.answers
        if not await answers.ledger.acknowledge(event.signed):
            error = ReceiptMismatch(f"receipt {receipt.sequence} does not count any more")
            return self._exchange.refuse(
                error, event.message, session_id=account.session_id, request_id=event.message.id
            )
        account.agree(receipt)
        session.changed()
        answers.rail.agreed(session.row, account.agreed - account.proven)
        return None

    def _stop(self, job_id: JobId, reason: str) -> None:
        if (running := self._running.get(job_id)) is not None:
            running.answer.stop(reason)

    async def finish_answers(self) -> None:
        """Wait until every running answer has ended and its receipts are acknowledged."""
        for session in tuple(self._sessions.values()):
            account = session.account
            if account.holder is not self._exchange:
                continue
            if (running := self._running.get(account.job_id)) is not None:
                await running.is_over.wait()
            await session.wait_until(lambda account=account: not account.pending, PATIENCE)

    def stop_answers(self, reason: str) -> None:
        """Ask every running answer to end after the piece that is being sent."""
        for job_id in tuple(self._running):
            self._stop(job_id, reason)

    # -- closing ------------------------------------------------------------------------------

    async def _close(self, event: CloseReceived) -> None:
        row = self._sessions[event.account.job_id].row
        await self._vacate(event.account.job_id)
        self._tasks.start_soon(self._prove_and_tell, event, row)

    async def _prove_and_tell(self, event: CloseReceived, row: SessionRow) -> None:
        session_id, request_id = event.account.session_id, event.message.id
        try:
            ended = await self._services.answers.rail.close(row)
        except FabstirError as error:
            self._tell_error(error, session_id=session_id, request_id=request_id)
            return
        closed = ClosedPlaintext(
            tokens_proven=ended.tokens_proven,
            is_final=ended.is_final,
            settles_in=ended.settles_in,
        )
        self._tell(self._exchange.closed(event, closed))

    # -- losing -------------------------------------------------------------------------------

    async def _vacate(self, job_id: JobId) -> None:
        """Stop this connection's answer for a session and wait until it has stopped."""
        if (running := self._running.get(job_id)) is not None:
            running.scope.cancel()
            await running.is_over.wait()

    async def _evicted(self, job_id: JobId) -> None:
        await self._vacate(job_id)
        session_id = str(job_id)
        self._exchange.lose(session_id)
        self._sessions.pop(job_id, None)
        self._session_lost()
        error = SessionRefused(
            "SESSION_EVICTED", f"session {session_id} was taken over by its depositor"
        )
        self._tell_error(error, session_id=session_id, request_id=None)

    def _session_lost(self) -> None:
        if not self._exchange.has_sessions:
            self._stream.unprove()

    # -- telling ------------------------------------------------------------------------------

    def _tell_error(self, error: FabstirError, *, session_id: str, request_id: str | None) -> None:
        _logger.info("told a client of an error", extra={"reason": str(error)})
        self._tell(self._exchange.error(error, session_id=session_id, request_id=request_id))

    def _tell(self, frames: list[Frame]) -> None:
        """What nothing waits for: a client that is gone misses it."""
        try:
            self.outgoing.put(frames)
        except anyio.BrokenResourceError:
            _logger.debug("client left before it was told")

    def _on_room(self) -> None:
        """The client has read, or is gone: answers that wait for either look again."""
        for session in self._sessions.values():
            session.changed()
