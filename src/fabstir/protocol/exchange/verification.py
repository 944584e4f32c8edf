"""What a renter checks of one answer, without any I/O.

Every piece that arrives is added; every receipt is compared with the one that the renter would
have made itself, from what it saw. Nothing is agreed to that was not delivered.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.errors import ReceiptMismatch, RemoteProtocolError
from fabstir.primitives.ids import Address, Hash32, JobId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei, tokens_for
from fabstir.protocol.additions import Addition, with_additions
from fabstir.protocol.answers import AnswerContent
from fabstir.protocol.commitments import (
    OutputCommitment,
    additions_digest,
    derive_seed,
    request_digest,
    seed_commitment,
)
from fabstir.protocol.content import conversation_json
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.eip712 import Domain, is_signed_by
from fabstir.protocol.exchange.handshake import Party
from fabstir.protocol.limits import (
    MAX_CHUNK_TEXT_BYTES,
    MAX_CHUNK_TOKENS,
    MAX_TOKEN_TEXT_BYTES,
    MAX_UNACKNOWLEDGED_TOKENS,
    RECEIPT_INTERVAL_TOKENS,
)
from fabstir.protocol.payloads import (
    ChunkPlaintext,
    EndPlaintext,
    ExtensionTerms,
    ReceiptPlaintext,
)
from fabstir.protocol.receipts import (
    Acknowledgement,
    ChainHead,
    Receipt,
    SignedAcknowledgement,
    Work,
)
from fabstir.protocol.request import ChatRequest, RequestPlaintext

MAX_TEMPLATE_TOKENS: Final = 2048
"""Prompt tokens that a chat template may add by itself: a default system prompt, today's date, the
names of tools. The longest that we know, gpt-oss's, has about a hundred."""

MAX_MESSAGE_MARKERS: Final = 32
"""Prompt tokens that a template may put around each message; Llama 3 puts five."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFacts:
    """What is fixed for a whole session, as the renter knows it from the chain.

    Attributes:
        host: the wallet that must sign receipts.
        model_digest: the registry's sha256 of the model file.
    """

    job_id: JobId
    host: Address
    model_digest: Hash32
    deposit: Wei
    price_per_token: PricePerToken
    domain: Domain
    crypto: Crypto

    @property
    def party(self) -> Party:
        """Whose handshake opens it."""
        return Party(domain=self.domain, host=self.host, crypto=self.crypto)


@dataclass(frozen=True, slots=True)
class Verified:
    """A receipt that says what was delivered, and the acknowledgement to sign for it."""

    plaintext: ReceiptPlaintext
    acknowledgement: Acknowledgement

    @property
    def receipt(self) -> Receipt:
        """The receipt itself."""
        return self.plaintext.signed.receipt


def check_terms(terms: ExtensionTerms, facts: SessionFacts, head: ChainHead) -> None:
    """Compare what the host says in its acknowledgement of the handshake with what we know.

    Raises:
        ReceiptMismatch: another model file, another price, another history of receipts, or a
            larger window than the protocol's.
    """
    wrong = [
        f"{name} is {theirs}, expected {ours}"
        for name, theirs, ours in (
            ("the model's sha256", terms.model_digest, facts.model_digest),
            ("the price", terms.price_per_token, facts.price_per_token),
            ("the last receipt's number", terms.sequence, head.sequence),
            ("the last receipt's hash", terms.receipt_hash, head.hash),
            ("the number of tokens so far", terms.cumulative_tokens, head.cumulative_tokens),
        )
        if theirs != ours
    ]
    wrong += [
        f"{name} is {theirs}, at least {low} and at most {high} is allowed"
        for name, theirs, low, high in (
            ("the receipts' interval", terms.receipt_interval, 1, RECEIPT_INTERVAL_TOKENS),
            (
                "the window of unacknowledged tokens",
                terms.max_unacknowledged,
                terms.receipt_interval,
                MAX_UNACKNOWLEDGED_TOKENS,
            ),
        )
        if not low <= theirs <= high
    ]
    if wrong:
        raise ReceiptMismatch(
            f"host {facts.host} opens session {facts.job_id} on other terms than agreed "
            f"({'; '.join(wrong)}): nothing is sent to it. Close the session to get the rest of "
            "the deposit back"
        )


def head_after(last: SignedAcknowledgement | None) -> ChainHead:
    """The end of the chain of receipts that was agreed to."""
    if last is None:
        return ChainHead()
    agreed = last.acknowledgement
    return ChainHead(
        sequence=agreed.sequence,
        hash=agreed.receipt_hash,
        cumulative_tokens=agreed.cumulative_tokens,
        tokens_before_request=agreed.cumulative_tokens,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Execution:
    """What stays the same in all receipts of one request."""

    request_digest: Hash32
    additions: tuple[Addition, ...]
    additions_digest: Hash32
    max_prompt_tokens: int


class AnswerVerifier:
    """The renter's own account of one answer, from its first piece to its end.

    Attributes:
        head: the session's chain of receipts up to the last one that was verified here.
        content: all of the answer so far.
        num_receipted: completion tokens of this answer that a verified receipt covers.
    """

    def __init__(
        self, facts: SessionFacts, terms: ExtensionTerms, head: ChainHead, asked: RequestPlaintext
    ) -> None:
        self._facts = facts
        self._terms = terms
        self._asked = asked
        self._salt = asked.salt
        self._num_tokens: int = 0
        self._output = OutputCommitment(asked.salt, facts.crypto)
        self._num_pieces: int = 0
        self._num_text_bytes = 0
        self._num_prompt_tokens: TokenCount | None = None
        self._seed: int | None = None
        self._execution: _Execution | None = None
        self.content = AnswerContent()
        self.head = head.next_request()
        self.num_receipted = TokenCount(0)

    @property
    def num_tokens(self) -> TokenCount:
        """Completion tokens that have arrived."""
        return TokenCount(self._num_tokens)

    @property
    def text(self) -> str:
        """All of the answer so far."""
        return self.content.text

    @property
    def additions(self) -> tuple[Addition, ...]:
        """What the host added to the conversation, as its first receipt says."""
        return self._execution.additions if self._execution else ()

    def add_chunk(self, index: int, chunk: ChunkPlaintext) -> None:
        """Take note of a piece.

        Raises:
            RemoteProtocolError: out of order, too large, beyond what was asked for, more text than
                its tokens can have, or too many tokens without a receipt.
        """
        if index != self._num_pieces:
            raise RemoteProtocolError(f"piece {index} came where {self._num_pieces} was due")
        text_bytes, num_ids = chunk.num_text_bytes, len(chunk.token_ids)
        if text_bytes > MAX_CHUNK_TEXT_BYTES or num_ids > MAX_CHUNK_TOKENS:
            raise RemoteProtocolError(
                f"a piece holds more than {MAX_CHUNK_TOKENS} tokens or {MAX_CHUNK_TEXT_BYTES} bytes"
            )
        self._check_room(self.num_tokens + num_ids, self._num_text_bytes + text_bytes)
        self.content.add(chunk.text, reasoning=chunk.reasoning, tool_calls=chunk.tool_calls)
        self._num_pieces += 1
        self._num_text_bytes += text_bytes
        self._num_tokens += num_ids
        self._output.add(
            chunk.token_ids, chunk.text, reasoning=chunk.reasoning, tool_calls=chunk.tool_calls
        )

    def _check_room(self, num_tokens: int, num_text_bytes: int) -> None:
        """That an answer of so many tokens and bytes is one that was asked for, and is paid for.

        Text may come later than its tokens (it may be the beginning of a stop string, or of a
        character), never before them.
        """
        max_tokens = self._asked.request.sampling.max_tokens
        if num_tokens > max_tokens:
            raise RemoteProtocolError(f"the host sent more than the {max_tokens} tokens asked for")
        if num_tokens >= self._terms.max_model_len:
            raise RemoteProtocolError("the host sent more tokens than its model's context holds")
        if num_text_bytes > num_tokens * MAX_TOKEN_TEXT_BYTES:
            raise RemoteProtocolError(
                f"the host sent {num_text_bytes} bytes of text for {num_tokens} tokens: no token "
                f"has more than {MAX_TOKEN_TEXT_BYTES}"
            )
        if num_tokens - self.num_receipted > self._terms.max_unacknowledged:
            raise RemoteProtocolError(
                f"the host sent more than {self._terms.max_unacknowledged} tokens without a receipt"
            )

    def check_receipt(self, plaintext: ReceiptPlaintext) -> Verified:
        """Compare a receipt with what was delivered; the head moves on to it.

        Raises:
            ReceiptMismatch: anything in it differs, or the host did not sign it: acknowledge
                nothing.
        """
        receipt = plaintext.signed.receipt
        self._check_seed(plaintext)
        execution = self._executed(plaintext)
        self._check_prompt_tokens(receipt, execution.max_prompt_tokens)
        work = self._work(execution, receipt.work.num_prompt_tokens)
        facts = self._facts
        self.head.check(receipt, self.head.make(facts.job_id, work, facts.price_per_token))
        if receipt.cumulative_tokens > tokens_for(facts.deposit, facts.price_per_token):
            raise self._mismatch(receipt, "it bills more tokens than the deposit pays for")
        receipt_hash = receipt.hash(facts.domain, facts.crypto)
        if not is_signed_by(facts.host, plaintext.signed.signature, receipt_hash, facts.crypto):
            raise self._mismatch(receipt, f"host {facts.host} did not sign it")
        if receipt.cumulative_tokens == self.head.cumulative_tokens:
            raise self._mismatch(receipt, "it covers no new token")
        self.head = self.head.advance(receipt, receipt_hash)
        self._output.receipted()
        self._num_prompt_tokens = receipt.work.num_prompt_tokens
        self._seed = plaintext.seed
        self._execution = execution
        self.num_receipted = receipt.work.num_completion_tokens
        acknowledgement = Acknowledgement(
            job_id=facts.job_id,
            sequence=receipt.sequence,
            receipt_hash=receipt_hash,
            cumulative_tokens=receipt.cumulative_tokens,
        )
        return Verified(plaintext, acknowledgement)

    def check_end(self, end: EndPlaintext) -> None:
        """Compare the host's final counts with ours.

        Raises:
            RemoteProtocolError: they differ, or not all that was delivered is receipted.
        """
        if end.num_completion_tokens != self.num_tokens:
            raise RemoteProtocolError(
                f"the host counts {end.num_completion_tokens} completion tokens, "
                f"{self.num_tokens} arrived"
            )
        if self.num_receipted != self.num_tokens:
            raise RemoteProtocolError(
                f"the host ended its answer of {self.num_tokens} tokens with receipts for "
                f"{self.num_receipted}"
            )
        if self._num_prompt_tokens not in {None, end.num_prompt_tokens}:
            raise RemoteProtocolError(
                f"the host counts {end.num_prompt_tokens} prompt tokens, its receipts "
                f"{self._num_prompt_tokens}"
            )

    def _executed(self, plaintext: ReceiptPlaintext) -> _Execution:
        """What the host says that it executed: the request, the seed, and what it added.

        The first receipt says all of that; those after it are about the same request.
        """
        if self._execution is not None:
            if plaintext.additions:
                raise self._mismatch(
                    plaintext.signed.receipt, "it adds to the conversation after the first receipt"
                )
            return self._execution
        crypto, request = self._facts.crypto, self._asked.request.with_seed(plaintext.seed)
        try:
            messages = with_additions(request.messages, plaintext.additions)
        except ValueError as exc:
            raise self._mismatch(plaintext.signed.receipt, str(exc)) from exc
        request = replace(request, messages=messages)
        return _Execution(
            request_digest=request_digest(request, self._salt, crypto),
            additions=plaintext.additions,
            additions_digest=additions_digest(plaintext.additions, self._salt, crypto),
            max_prompt_tokens=_max_prompt_tokens(request),
        )

    def _work(self, execution: _Execution, num_prompt_tokens: TokenCount) -> Work:
        return Work(
            model_digest=self._facts.model_digest,
            request_digest=execution.request_digest,
            additions_digest=execution.additions_digest,
            output_commitment=self._output.value(),
            num_prompt_tokens=num_prompt_tokens,
            num_completion_tokens=self.num_tokens,
        )

    def _check_seed(self, plaintext: ReceiptPlaintext) -> None:
        """That neither side could choose the seed, unless the request names it."""
        facts, asked, receipt = self._facts, self._asked, plaintext.signed.receipt
        if self._seed not in {None, plaintext.seed}:
            raise self._mismatch(receipt, "its seed is not that of the receipt before")
        if asked.client_nonce is None:
            if plaintext.seed != asked.request.sampling.seed:
                raise self._mismatch(receipt, "its seed is not the requested one")
            return
        nonce = plaintext.host_nonce
        if seed_commitment(nonce, facts.crypto) != self._terms.seed_commitment:
            raise self._mismatch(receipt, "its seed's nonce is not the one committed to")
        if derive_seed(asked.client_nonce, nonce, facts.job_id, facts.crypto) != plaintext.seed:
            raise self._mismatch(receipt, "its seed does not follow from both nonces")

    def _check_prompt_tokens(self, receipt: Receipt, max_prompt_tokens: int) -> None:
        """The renter has no tokenizer: the count must be possible, and stay the same."""
        num_prompt_tokens = receipt.work.num_prompt_tokens
        if self._num_prompt_tokens not in {None, num_prompt_tokens}:
            raise self._mismatch(receipt, "its prompt token count changed within the answer")
        if num_prompt_tokens + self.num_tokens > self._terms.max_model_len:
            raise self._mismatch(receipt, "prompt and answer exceed the model's context")
        if not 1 <= num_prompt_tokens <= max_prompt_tokens:
            raise self._mismatch(
                receipt, f"no tokenizer makes {num_prompt_tokens} tokens of this prompt"
            )

    def _mismatch(self, receipt: Receipt, reason: str) -> ReceiptMismatch:
        return ReceiptMismatch(
            f"receipt {receipt.sequence} of session {self._facts.job_id} is not acknowledged and "
            f"not paid: {reason}"
        )


def _max_prompt_tokens(request: ChatRequest) -> int:
    """Each token stands for at least one byte, but for those that the chat template adds."""
    tools: Json = [tool.to_json() for tool in request.tools]
    num_bytes = len(canonical_json([conversation_json(request.messages), tools]))
    return num_bytes + MAX_MESSAGE_MARKERS * len(request.messages) + MAX_TEMPLATE_TOKENS
