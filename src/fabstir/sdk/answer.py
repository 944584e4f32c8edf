"""One answer as it streams in: each piece noted, each receipt checked, journalled, acknowledged."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from fabstir.primitives.errors import FabstirError, HostUnresponsive
from fabstir.primitives.units import TokenCount, Wei
from fabstir.protocol.additions import Addition
from fabstir.protocol.answers import AnswerContent
from fabstir.protocol.exchange.renter import (
    AnswerOver,
    EndReceived,
    PieceReceived,
    ReceiptReceived,
    RenterEvent,
)
from fabstir.protocol.exchange.verification import AnswerVerifier, SessionFacts, Verified
from fabstir.protocol.payloads import EndPlaintext
from fabstir.protocol.receipts import SignedAcknowledgement
from fabstir.sdk.connection import HostConnection
from fabstir.sdk.events import AnswerEvent, Finished, ReceiptVerified, Text
from fabstir.telemetry.background import to_its_end

_logger = logging.getLogger(__name__)

FIRST_TOKEN_TIMEOUT: Final = 180.0
"""Seconds for queueing and prefill. A host that is gone is noticed by its pings, not by this."""

PROGRESS_TIMEOUT: Final = 150.0
"""Seconds of waiting between two frames that bring the answer on (a token, a receipt, its end):
other frames, however many, buy no time. The host itself waits 120 s for a claim to be mined."""

Agree = Callable[[Verified], Awaitable[SignedAcknowledgement]]
"""Signs and journals an acknowledgement; what it returns may be sent."""


class AsyncAnswerStream:
    """The events of one answer, in order. Iterate once; made by `AsyncSession.chat`.

    Attributes:
        end: what the host said at the end; None until then.
        is_over: nothing more comes.
    """

    def __init__(
        self,
        connection: HostConnection,
        verifier: AnswerVerifier,
        facts: SessionFacts,
        agree: Agree,
    ) -> None:
        self._connection = connection
        self._verifier = verifier
        self._facts = facts
        self._agree = agree
        self._events: deque[AnswerEvent] = deque()
        self._patience = FIRST_TOKEN_TIMEOUT
        self.end: EndPlaintext | None = None
        self.is_over = False
        self._has_failed = False

    @property
    def text(self) -> str:
        """All of the answer that has arrived."""
        return self._verifier.text

    @property
    def content(self) -> AnswerContent:
        """All of it, reasoning and calls of tools included."""
        return self._verifier.content

    @property
    def additions(self) -> tuple[Addition, ...]:
        """What the host added to the conversation, as its first receipt says: empty before that."""
        return self._verifier.additions

    def __aiter__(self) -> AsyncIterator[AnswerEvent]:
        return self

    async def __anext__(self) -> AnswerEvent:
        """The next event.

        Raises:
            HostUnresponsive: the host is gone; what was acknowledged stays so.
            ReceiptMismatch: a receipt is not what was delivered; it is not acknowledged.
            SessionRefused, DepositExhausted, ContextLengthExceeded, EngineError: the host says so.
            RemoteProtocolError: the host broke the protocol.
        """
        while not self._events:
            if self.is_over:
                raise StopAsyncIteration
            await self._take_next()
        return self._events.popleft()

    async def complete(self) -> str:
        """Wait for the end; returns the whole text. Raises as iterating does."""
        async for _ in self:
            pass
        return self.text

    async def cancel(self) -> None:
        """Ask the host to stop. What it has delivered is still receipted: go on iterating.

        Does nothing if the answer has ended: whoever presses stop races with its end.
        """
        if self.is_over or self._has_failed:
            return
        await self._connection.send(self._connection.exchange.cancel())

    async def finish(self) -> None:
        """Cancel the answer if it still runs, and take in what was delivered."""
        if self.is_over or self._has_failed:
            return
        try:
            await self.cancel()
            await self.complete()
        except FabstirError as error:
            extra = {"job_id": self._facts.job_id, "reason": str(error)}
            _logger.warning("a cancelled answer did not end as it should", extra=extra)

    async def _take_next(self) -> None:
        try:
            await self._take(await self._receive())
        except FabstirError:
            self._has_failed = True
            raise

    async def _receive(self) -> RenterEvent:
        """The next event. Only our waiting counts: an app may be slow to read what has come."""
        if self._patience <= 0:
            raise HostUnresponsive(
                f"host {self._facts.host} sends frames, but for too long none that brings its "
                "answer on: a token, a receipt or its end"
            )
        started = time.monotonic()
        event = await self._connection.receive(self._patience)
        self._patience -= time.monotonic() - started
        return event

    async def _take(self, event: RenterEvent) -> None:
        match event:
            case PieceReceived(chunk):
                if chunk.token_ids:
                    self._patience = PROGRESS_TIMEOUT
                self._events.append(
                    Text(
                        text=chunk.text,
                        num_tokens=TokenCount(len(chunk.token_ids)),
                        reasoning=chunk.reasoning,
                        tool_calls=chunk.tool_calls,
                        logprobs=chunk.logprobs,
                    )
                )
            case ReceiptReceived(verified):
                self._patience = PROGRESS_TIMEOUT
                # Whoever is cancelled here has agreed to a receipt or has not: never to half of it.
                await to_its_end(self._take_receipt(verified))
            case EndReceived(end):
                self._patience = PROGRESS_TIMEOUT
                self.end = end
            case AnswerOver(end):
                self.is_over = True
                self._events.append(
                    Finished(
                        finish_reason=end.finish_reason,
                        num_prompt_tokens=end.num_prompt_tokens,
                        num_completion_tokens=end.num_completion_tokens,
                    )
                )
            case _:
                raise AssertionError(f"{event} while answering: the exchange allows it not")

    async def _take_receipt(self, verified: Verified) -> None:
        signed = await self._agree(verified)
        await self._connection.send(self._connection.exchange.acknowledge(verified, signed))
        receipt = verified.receipt
        self._events.append(
            ReceiptVerified(
                receipt=receipt,
                cumulative_tokens=receipt.cumulative_tokens,
                cost=receipt.cumulative_cost,
                deposit_left=Wei(self._facts.deposit - receipt.cumulative_cost),
                additions=self._verifier.additions,
            )
        )
