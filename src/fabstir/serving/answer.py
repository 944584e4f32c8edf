"""One answer: from a request to its last receipt, never further ahead than the renter agreed to.

The engine streams; what comes together is sent as one piece; a receipt follows every
RECEIPT_INTERVAL_TOKENS. Delivery stops at MAX_UNACKNOWLEDGED_TOKENS without an acknowledgement, at
`max_unproven` tokens beyond the last proof on chain, and while the client reads nothing. What takes
long is waited for without the engine: its decoding is cancelled, so that its slot is another
session's, and goes on from the kept prefix afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import anyio

from fabstir.engines import (
    Engine,
    GenerationChunk,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
    GenerationStart,
)
from fabstir.market.ledger import HostLedger
from fabstir.primitives.errors import DepositExhausted
from fabstir.primitives.units import TokenCount
from fabstir.protocol.capabilities import require_capable
from fabstir.protocol.commitments import (
    NO_ADDITIONS,
    OutputCommitment,
    derive_seed,
    request_digest,
    seed_commitment,
)
from fabstir.protocol.content import Message
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.era_c import EraCRequest
from fabstir.protocol.exchange.answers import AnswerSink, End, Piece
from fabstir.protocol.exchange.phases import HostPhase
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS, RECEIPT_INTERVAL_TOKENS
from fabstir.protocol.payloads import ChunkPlaintext, EndPlaintext, ReceiptPlaintext
from fabstir.protocol.receipts import Work, sign_receipt
from fabstir.protocol.request import ChatRequest, RequestPlaintext
from fabstir.rails.rail import Rail
from fabstir.serving.output import AnswerBooks, DeliveredOutput, PendingPiece
from fabstir.serving.session import LiveSession
from fabstir.serving.stops import StopStrings

PATIENCE: Final = 0.5
"""Seconds for which the engine's slot is kept while an acknowledgement, a proof or the client's
reading is waited for: many round trips."""

PROOF_TIMEOUT: Final = 120.0
"""Seconds to wait for a proof to be mined before an answer ends: the chain stands still."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerServices:
    """What every answer of a host needs.

    Attributes:
        acknowledgement_timeout: seconds after which an answer ends as "unacknowledged": the
            renter stopped agreeing.
        observe_first_token: told a model's name and how many seconds its first piece took.
        observe_tokens: told a model's name and how many tokens were sent.
    """

    ledger: HostLedger
    domain: Domain
    crypto: Crypto
    wallet_secret: bytes = field(repr=False)
    acknowledgement_timeout: float
    rail: Rail
    random: Callable[[int], bytes]
    observe_first_token: Callable[[str, float], None]
    observe_tokens: Callable[[str, int], None]


class Answer:
    """Runs once. `stop` may be called from another task at any time."""

    def __init__(
        self,
        services: AnswerServices,
        session: LiveSession,
        asked: EraCRequest | RequestPlaintext,
        *,
        has_receipts: bool,
        sink: AnswerSink,
        has_room: Callable[[], bool],
    ) -> None:
        """
        Args:
            has_receipts: whoever asked acknowledges them; else what was sent is agreed to.
            has_room: whether the client has read enough of what was sent. When that changes, the
                session is told.
        """
        self._services = services
        self._session = session
        self._account = session.account
        self._asked = asked
        self._has_receipts = has_receipts
        self._sink = sink
        self._has_room = has_room
        self._output = DeliveredOutput()
        self._stop_reason: str | None = None
        self._executed, self._salt = self._execution()
        self._pending = PendingPiece()
        self._books: AnswerBooks | None = None
        self._is_reserved = False
        self._max_tokens = 0
        self._stops = StopStrings(self._executed.sampling.stop)
        self._started = time.monotonic()

    def stop(self, reason: str) -> None:
        """End after the piece that is being sent; what was delivered is receipted."""
        self._stop_reason = reason
        self._session.changed()

    @property
    def _stopping(self) -> str | None:
        """Why to end after this piece; a session that was settled under us ends it, too."""
        is_over = self._account.phase is HostPhase.OVER
        return self._stop_reason or ("cancelled" if is_over else None)

    async def run(self) -> None:
        """Stream the answer.

        Raises:
            RequestRefused, ContextLengthExceeded, DepositExhausted: nothing was delivered or
                billed.
            EngineError: to a client that gives acknowledgements, what was not receipted yet is
                not billed.
        """
        async with self._session.model.acquire() as engine:
            await self._run(engine)

    async def _run(self, engine: Engine) -> None:
        account = self._account
        require_capable(self._executed, engine.capabilities())
        account.begin_request()
        self._max_tokens, limit_reason = self._limit()
        try:
            reason = await self._deliver(engine, limit_reason)
            if rest := self._stops.rest():
                await self._send_piece(ChunkPlaintext(text=rest, token_ids=()))
        finally:
            with anyio.CancelScope(shield=True):
                if not self._has_receipts:
                    # A client that leaves in the middle can agree no more to what it was sent.
                    await self._receipt(is_last=True)
                if self._is_reserved:
                    await self._services.ledger.release(account.job_id, account.delivered)
        await self._receipt(is_last=True)
        await self._finish(reason)

    # -- the parameters of this answer --------------------------------------------------------

    def _execution(self) -> tuple[ChatRequest, bytes]:
        """What is executed, and the salt of its commitments."""
        asked, session, services = self._asked, self._session, self._services
        if isinstance(asked, RequestPlaintext):
            request, salt, nonce = asked.request, asked.salt, asked.client_nonce
        else:
            request = ChatRequest(
                messages=session.conversation.turn(asked),
                sampling=asked.sampling,
                model=asked.model,
            )
            salt, nonce = services.random(32), None
        if request.sampling.seed is not None:
            return request, salt
        nonce = nonce or services.random(32)
        seed = derive_seed(nonce, session.seed_nonce, session.row.job_id, services.crypto)
        return request.with_seed(seed), salt

    def _limit(self) -> tuple[int, str]:
        """How many tokens may be generated, and what it means to reach that many."""
        affordable = self._account.affordable
        if affordable < 1:
            raise DepositExhausted(
                f"the deposit of session {self._account.job_id} is used up: "
                "close it and open another, with a larger deposit"
            )
        wanted = self._executed.sampling.max_tokens
        return (wanted, "length") if wanted <= affordable else (affordable, "deposit_exhausted")

    def _begin(self, start: GenerationStart) -> None:
        """The prompt has been read: now it is known how long it is."""
        if self._books is not None:
            return  # it was read before, and the answer paused
        crypto = self._services.crypto
        output = OutputCommitment(self._salt, crypto)
        work = Work(
            model_digest=self._session.model.digest,
            request_digest=request_digest(self._executed, self._salt, crypto),
            additions_digest=NO_ADDITIONS,
            output_commitment=output.value(),
            num_prompt_tokens=TokenCount(start.num_prompt_tokens),
            num_completion_tokens=TokenCount(0),
        )
        self._books = AnswerBooks(work, output)

    # -- delivery -----------------------------------------------------------------------------

    async def _deliver(self, engine: Engine, limit_reason: str) -> str:
        """Generate and send until there is a reason to stop; returns it."""
        while True:
            left = self._max_tokens - len(self._output.token_ids)
            if left <= 0:
                return limit_reason
            if not await self._wait_for_renter():
                return self._stopping or "unacknowledged"
            request = GenerationRequest(
                messages=self._executed.messages,
                sampling=replace(self._executed.sampling, max_tokens=left, stop=()),
                response_format=self._executed.response_format,
                generated=tuple(self._output.token_ids),
            )
            end = await self._stream(engine, request)
            if self._stops.is_found:
                return "stop"
            if self._stopping:
                return self._stopping
            if end is None and self._is_held_to_a_form:
                return "unacknowledged"
            if end is not None:
                is_at_limit = end.finish_reason == "length" and self._is_at_limit
                return limit_reason if is_at_limit else end.finish_reason

    async def _stream(self, engine: Engine, request: GenerationRequest) -> GenerationEnd | None:
        """Send what the engine makes; None if it was cancelled to wait or to stop."""
        async with engine.generate(request) as batches:
            await self._reserve()  # while the engine reads the prompt
            async for batch in batches:
                if self._stopping or not await self._send_batch(batch):
                    return None
                if isinstance(end := batch[-1], GenerationEnd):
                    return end
        return None

    async def _reserve(self) -> None:
        """Before the first token is delivered: what a crash from here on may have cost."""
        if self._is_reserved:
            return
        self._is_reserved = True
        await self._services.ledger.reserve(self._account.job_id, self._account.window_end)

    async def _send_batch(self, batch: Sequence[GenerationEvent]) -> bool:
        """Send what came together in as few pieces as the renter's window allows.

        Returns:
            Whether to go on: all of it was sent, and no stop string was found. What was not sent
            is generated again from the kept prefix.
        """
        for event in batch:
            if isinstance(event, GenerationStart):
                self._begin(event)
            elif isinstance(event, GenerationChunk) and not await self._add(event):
                break
            if self._stops.is_found:
                break
        else:
            is_last = isinstance(batch[-1], GenerationEnd) or self._is_at_limit
            if is_last and not self._pending.is_empty:
                self._pending.texts.append(self._stops.rest())  # alone it would be in no receipt
            await self._send_pending()
            return True
        await self._send_pending()
        return False

    @property
    def _is_at_limit(self) -> bool:
        return len(self._output.token_ids) + len(self._pending.token_ids) >= self._max_tokens

    async def _add(self, chunk: GenerationChunk) -> bool:
        """Put a chunk to those that leave together; False if it may not be delivered."""
        if not self._fits(len(self._pending.token_ids) + len(chunk.token_ids)):
            await self._send_pending()
        if self._pending.is_empty and not await self._may_deliver(
            len(chunk.token_ids), self._patience
        ):
            return False
        self._pending.add(self._stops.feed(chunk.text), chunk)
        return True

    def _fits(self, num_tokens: int) -> bool:
        """Whether one piece may hold so many; receipts stay where single tokens would put them."""
        is_before_receipt = self._output.num_unreceipted + num_tokens <= RECEIPT_INTERVAL_TOKENS
        return is_before_receipt and self._is_agreed(num_tokens) and self._is_proven(num_tokens)

    async def _send_pending(self) -> None:
        if not self._pending.is_empty:
            await self._send_piece(self._pending.take())

    @property
    def _is_held_to_a_form(self) -> bool:
        """Whether what follows a pause could not be generated from the kept prefix."""
        return self._executed.response_format is not None

    @property
    def _patience(self) -> float:
        """Seconds for which the engine's slot is kept while something is waited for."""
        if self._is_held_to_a_form:
            return self._services.acknowledgement_timeout
        return PATIENCE

    async def _wait_for_renter(self) -> bool:
        """Wait, as long as a renter may take, until the next token may be delivered."""
        if not self._is_proven(1):
            self._ask_for_proof()
            return await self._may_deliver(1, PROOF_TIMEOUT)
        return await self._may_deliver(1, self._services.acknowledgement_timeout)

    def _is_agreed(self, num_tokens: int) -> bool:
        """Whether the renter's agreement allows `num_tokens` more."""
        return not self._has_receipts or self._account.is_agreed(num_tokens)

    def _is_proven(self, num_tokens: int) -> bool:
        """Whether the last proof allows `num_tokens` more."""
        allowance = self._services.rail.allowance(self._session.row)
        return self._account.is_proven(num_tokens, allowance)

    def _ask_for_proof(self) -> None:
        account = self._account
        self._services.rail.agreed(self._session.row, account.agreed - account.proven)

    async def _may_deliver(self, num_tokens: int, timeout: float) -> bool:
        """Wait up to `timeout` seconds until `num_tokens` more may be delivered."""

        def may() -> bool:
            return self._is_agreed(num_tokens) and self._is_proven(num_tokens) and self._has_room()

        if not may():
            await self._receipt()  # what is due must be agreed to before more can be
            if not self._is_proven(num_tokens):
                self._ask_for_proof()
            await self._session.wait_until(lambda: may() or self._stopping is not None, timeout)
        return may() and self._stopping is None

    async def _send_piece(self, piece: ChunkPlaintext) -> None:
        output, services, model = self._output, self._services, self._session.model.name
        assert self._books is not None, "the engine says first that it has read the prompt"
        if not output.num_chunks:
            services.observe_first_token(model, time.monotonic() - self._started)
        self._sink(Piece(index=output.num_chunks, chunk=piece))
        output.token_ids += piece.token_ids
        output.content.add(piece.text)
        output.num_chunks += 1
        self._books.output.add(piece.token_ids, piece.text)
        self._account.deliver(len(piece.token_ids))
        services.observe_tokens(model, len(piece.token_ids))
        if output.num_unreceipted >= RECEIPT_INTERVAL_TOKENS:
            await self._receipt()

    # -- receipts -----------------------------------------------------------------------------

    async def _receipt(self, *, is_last: bool = False) -> None:
        """Receipt everything that was delivered, if that is more than before.

        Args:
            is_last: nothing more is delivered, so no further window is reserved.
        """
        output, account, services = self._output, self._account, self._services
        if not output.num_unreceipted:
            return
        books = self._books
        assert books is not None, "something was sent"
        work = replace(
            books.work,
            output_commitment=books.output.value(),
            num_completion_tokens=TokenCount(len(output.token_ids)),
        )
        receipt = account.next_receipt(work)
        signed = sign_receipt(receipt, services.wallet_secret, services.domain, services.crypto)
        receipt_hash = receipt.hash(services.domain, services.crypto)
        with anyio.CancelScope(shield=True):  # journalled or not: never without our knowing
            await services.ledger.add_receipt(
                account.job_id,
                receipt_hash,
                signed,
                is_claimable=not self._has_receipts,
                reserve_up_to=TokenCount(
                    receipt.cumulative_tokens + (0 if is_last else MAX_UNACKNOWLEDGED_TOKENS)
                ),
            )
        output.num_receipted = len(output.token_ids)
        books.output.receipted()
        account.issue(receipt, receipt_hash, is_agreed=not self._has_receipts)
        if self._has_receipts:
            seed = self._executed.sampling.seed
            assert seed is not None, "a request is executed with a seed"
            nonce = self._session.seed_nonce
            self._sink(ReceiptPlaintext(signed=signed, seed=seed, host_nonce=nonce))
        else:
            self._ask_for_proof()

    # -- the end ------------------------------------------------------------------------------

    async def _finish(self, reason: str) -> None:
        num_prompt = self._books.work.num_prompt_tokens if self._books else TokenCount(0)
        session, output, asked = self._session, self._output, self._asked
        now, turn, text = int(time.time() * 1000), self._executed.messages, output.content.text
        if isinstance(asked, EraCRequest) and not asked.messages:
            session.conversation.remember(turn, text)  # others send all of it each time
        session.note(turn[-1], now)
        is_partial = reason not in {"stop", "length"}
        session.note(Message("assistant", text), now, is_partial=is_partial)
        session.seed_nonce = self._services.random(32)  # the old one is revealed
        end = EndPlaintext(
            finish_reason=reason,
            num_prompt_tokens=num_prompt,
            num_completion_tokens=TokenCount(len(output.token_ids)),
            seed_commitment=seed_commitment(session.seed_nonce, self._services.crypto),
        )
        self._sink(
            End(
                plaintext=end,
                num_pieces=output.num_chunks,
                max_model_len=self._session.model.info.max_model_len,
            )
        )
