"""One answer as it streams in: each piece noted, each receipt checked, journalled, acknowledged."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from fabstir.primitives.errors import FabstirError, HostUnresponsive, RemoteProtocolError
from fabstir.primitives.units import TokenCount, Wei
from fabstir.protocol.additions import Addition
from fabstir.protocol.answers import AnswerContent
from fabstir.protocol.client_messages import EncryptedAck, StreamCancel
from fabstir.protocol.host_messages import (
    EncryptedChunk,
    EncryptedReceipt,
    EncryptedResponse,
    ErrorMessage,
    HostMessage,
    StreamEnd,
)
from fabstir.protocol.payloads import ChunkPlaintext, EndPlaintext, ReceiptPlaintext
from fabstir.protocol.receipts import SignedAcknowledgement
from fabstir.sdk.connection import HostConnection, error_of
from fabstir.sdk.events import AnswerEvent, Finished, ReceiptVerified, Text
from fabstir.sdk.verification import AnswerVerifier, SessionFacts, Verified

_logger = logging.getLogger(__name__)

FIRST_TOKEN_TIMEOUT: Final = 180.0
"""Seconds for queueing and prefill. A host that is gone is noticed by its pings, not by this."""

PROGRESS_TIMEOUT: Final = 150.0
"""Seconds of waiting between two frames that bring the answer on (a token, a receipt, its end):
other frames, however many, buy no time. The host itself waits 120 s for a claim to be mined."""

Agree = Callable[[Verified], Awaitable[SignedAcknowledgement]]
"""Signs and journals an acknowledgement; what it returns may be sent."""


class Answer:
    """The events of one answer, in order. Iterate once; made by `Session.chat`.

    Attributes:
        end: what the host said at the end; None until then.
        is_over: nothing more comes.
    """

    def __init__(
        self,
        connection: HostConnection,
        verifier: AnswerVerifier,
        facts: SessionFacts,
        request_id: str,
        agree: Agree,
    ) -> None:
        self._connection = connection
        self._verifier = verifier
        self._facts = facts
        self._id = request_id
        self._agree = agree
        self._events: deque[AnswerEvent] = deque()
        self._patience = FIRST_TOKEN_TIMEOUT
        self._budget = connection.begin_reading()
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
        """Ask the host to stop. What it has delivered is still receipted: go on iterating."""
        session_id = str(self._facts.job_id)
        await self._connection.send(
            StreamCancel(session_id=session_id, reason="cancelled by the renter", id=self._id)
        )

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

    async def _receive(self) -> HostMessage:
        """The next frame. Only our waiting counts: an app may be slow to read what has come."""
        if self._patience <= 0:
            raise HostUnresponsive(
                f"host {self._facts.host} sends frames, but for too long none that brings its "
                "answer on: a token, a receipt or its end"
            )
        started = time.monotonic()
        message = await self._connection.receive(self._patience)
        self._patience -= time.monotonic() - started
        return message

    async def _take(self, message: HostMessage) -> None:
        match message:
            case EncryptedChunk():
                self._take_chunk(message)
            case EncryptedReceipt():
                await self._take_receipt(message)
            case EncryptedResponse():
                plaintext = self._connection.open("encrypted_response", self._id, message.payload)
                self.end = EndPlaintext.decode(plaintext)
                self._verifier.check_end(self.end)
                self._patience = PROGRESS_TIMEOUT
            case StreamEnd(id=self._id):
                self._take_stream_end(message)
            case ErrorMessage(id=self._id | None):
                raise error_of(message)
            case _:
                pass  # a mined claim, or the end of an answer that failed before this one

    def _take_chunk(self, message: EncryptedChunk) -> None:
        plaintext = self._connection.open("encrypted_chunk", self._id, message.payload)
        chunk = ChunkPlaintext.decode(plaintext)
        before = self._verifier.num_tokens
        self._verifier.add_chunk(message.index, chunk)
        num_tokens = TokenCount(self._verifier.num_tokens - before)
        if num_tokens:
            self._patience = PROGRESS_TIMEOUT
            self._budget.earn(num_tokens)
        self._events.append(
            Text(
                text=chunk.text,
                num_tokens=num_tokens,
                reasoning=chunk.reasoning,
                tool_calls=chunk.tool_calls,
                logprobs=chunk.logprobs,
            )
        )

    async def _take_receipt(self, message: EncryptedReceipt) -> None:
        plaintext = self._connection.open("encrypted_receipt", self._id, message.payload)
        verified = self._verifier.check_receipt(ReceiptPlaintext.decode(plaintext))
        self._patience = PROGRESS_TIMEOUT
        signed = await self._agree(verified)
        sealed = self._connection.seal("encrypted_ack", self._id, signed.encode())
        session_id = str(self._facts.job_id)
        await self._connection.send(
            EncryptedAck(session_id=session_id, id=self._id, payload=sealed)
        )
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

    def _take_stream_end(self, message: StreamEnd) -> None:
        if self.end is None:
            raise RemoteProtocolError(
                f"the host ended the answer ({message.reason}) without saying why"
            )
        self.is_over = True
        self._events.append(
            Finished(
                finish_reason=self.end.finish_reason,
                num_prompt_tokens=self.end.num_prompt_tokens,
                num_completion_tokens=self.end.num_completion_tokens,
            )
        )
