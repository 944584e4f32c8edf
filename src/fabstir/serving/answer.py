"""One answer: from a request to its last receipt, never further ahead than the renter agreed to.

The engine streams; every piece is sent at once; a receipt follows every
RECEIPT_INTERVAL_TOKENS. Delivery stops at MAX_UNACKNOWLEDGED_TOKENS without an acknowledgement, at
`max_unproven` tokens beyond the last proof on chain, and while the client reads nothing. What takes
long is waited for without the engine: its decoding is cancelled, so that its slot is another
session's, and goes on from the kept prefix afterwards.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final

import anyio

from fabstir.engines import Engine, GenerationChunk, GenerationEnd, GenerationRequest
from fabstir.market.ledger import HostLedger
from fabstir.primitives.errors import ContextLengthExceeded, DepositExhausted
from fabstir.primitives.units import TokenCount
from fabstir.protocol.answers import AnswerContent
from fabstir.protocol.capabilities import require_capable
from fabstir.protocol.commitments import (
    NO_ADDITIONS,
    derive_seed,
    output_commitment,
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


@dataclass(slots=True)
class _Output:
    token_ids: list[int] = field(default_factory=list[int])
    content: AnswerContent = field(default_factory=AnswerContent)
    num_chunks: int = 0
    num_receipted: int = 0

    def add(self, chunk: GenerationChunk) -> None:
        self.token_ids += chunk.token_ids
        self.content.add(chunk.text)
        self.num_chunks += 1


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
        self._output = _Output()
        self._stop_reason: str | None = None
        self._executed, self._salt = self._execution()
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
        prompt = await engine.tokenize_chat(self._executed.messages)
        limit, limit_reason = self._limit(len(prompt))
        await self._services.ledger.reserve(account.job_id, account.window_end)
        self._work = self._work_of(len(prompt))
        try:
            reason = await self._deliver(engine, prompt, limit, limit_reason)
            if rest := self._stops.rest():
                await self._send_piece(GenerationChunk(rest, ()))
        finally:
            with anyio.CancelScope(shield=True):
                if not self._has_receipts:
                    # A client that leaves in the middle can agree no more to what it was sent.
                    await self._receipt(is_last=True)
                await self._services.ledger.release(account.job_id, account.delivered)
        await self._receipt(is_last=True)
        await self._finish(len(prompt), reason)

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

    def _limit(self, num_prompt_tokens: int) -> tuple[int, str]:
        """How many tokens may be generated, and what it means to reach that many."""
        max_model_len = self._session.model.info.max_model_len
        room = max_model_len - num_prompt_tokens
        if room < 1:
            raise ContextLengthExceeded(num_prompt_tokens, max_model_len)
        affordable = self._account.affordable
        if affordable < 1:
            raise DepositExhausted(
                f"the deposit of session {self._account.job_id} is used up: "
                "close it and open another, with a larger deposit"
            )
        wanted = min(self._executed.sampling.max_tokens, room)
        return (wanted, "length") if wanted <= affordable else (affordable, "deposit_exhausted")

    def _work_of(self, num_prompt_tokens: int) -> Work:
        crypto = self._services.crypto
        return Work(
            model_digest=self._session.model.digest,
            request_digest=request_digest(self._executed, self._salt, crypto),
            additions_digest=NO_ADDITIONS,
            output_commitment=output_commitment((), AnswerContent(), self._salt, crypto),
            num_prompt_tokens=TokenCount(num_prompt_tokens),
            num_completion_tokens=TokenCount(0),
        )

    # -- delivery -----------------------------------------------------------------------------

    async def _deliver(
        self, engine: Engine, prompt: tuple[int, ...], limit: int, limit_reason: str
    ) -> str:
        """Generate and send until there is a reason to stop; returns it."""
        while True:
            left = limit - len(self._output.token_ids)
            if left <= 0:
                return limit_reason
            if not await self._wait_for_renter():
                return self._stopping or "unacknowledged"
            request = GenerationRequest(
                prompt_token_ids=(*prompt, *self._output.token_ids),
                sampling=replace(self._executed.sampling, max_tokens=left, stop=()),
                response_format=self._executed.response_format,
            )
            end = await self._stream(engine, request, left)
            if self._stops.is_found:
                return "stop"
            if self._stopping:
                return self._stopping
            if end is None and self._is_held_to_a_form:
                return "unacknowledged"
            if end is not None:
                return limit_reason if end.finish_reason == "length" else end.finish_reason

    async def _stream(
        self, engine: Engine, request: GenerationRequest, left: int
    ) -> GenerationEnd | None:
        """Send what the engine makes, up to `left` tokens; None if it was cancelled to wait or to
        stop.
        """
        async with engine.generate(request) as events:
            async for event in events:
                if isinstance(event, GenerationEnd):
                    return event
                if self._stopping:
                    return None
                if not await self._may_deliver(len(event.token_ids), self._patience):
                    return None  # this piece is generated again from the kept prefix
                text = self._stops.feed(event.text)
                left -= len(event.token_ids)
                if left <= 0:
                    text += self._stops.rest()
                await self._send_piece(replace(event, text=text))
                if self._stops.is_found:
                    return None
        return None

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

    async def _send_piece(self, chunk: GenerationChunk) -> None:
        if not self._output.num_chunks:
            self._services.observe_first_token(
                self._session.model.name, time.monotonic() - self._started
            )
        index = self._output.num_chunks
        piece = ChunkPlaintext(text=chunk.text, token_ids=chunk.token_ids, logprobs=chunk.logprobs)
        self._sink(Piece(index=index, chunk=piece))
        self._output.add(chunk)
        self._account.deliver(len(chunk.token_ids))
        self._services.observe_tokens(self._session.model.name, len(chunk.token_ids))
        if len(self._output.token_ids) - self._output.num_receipted >= RECEIPT_INTERVAL_TOKENS:
            await self._receipt()

    # -- receipts -----------------------------------------------------------------------------

    async def _receipt(self, *, is_last: bool = False) -> None:
        """Receipt everything that was delivered, if that is more than before.

        Args:
            is_last: nothing more is delivered, so no further window is reserved.
        """
        output, account, services = self._output, self._account, self._services
        if output.num_receipted == len(output.token_ids):
            return
        work = replace(
            self._work,
            output_commitment=output_commitment(
                output.token_ids, output.content, self._salt, services.crypto
            ),
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
        account.issue(receipt, receipt_hash, is_agreed=not self._has_receipts)
        if self._has_receipts:
            seed = self._executed.sampling.seed
            assert seed is not None, "a request is executed with a seed"
            nonce = self._session.seed_nonce
            self._sink(ReceiptPlaintext(signed=signed, seed=seed, host_nonce=nonce))
        else:
            self._ask_for_proof()

    # -- the end ------------------------------------------------------------------------------

    async def _finish(self, num_prompt: int, reason: str) -> None:
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
            num_prompt_tokens=TokenCount(num_prompt),
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
