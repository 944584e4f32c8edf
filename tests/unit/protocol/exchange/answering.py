"""An honest host's side of one answer, made with the protocol's own functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fabstir.crypto import NATIVE
from fabstir.primitives.ids import Address, ChainId, Hash32, JobId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei
from fabstir.protocol.additions import Addition, with_additions
from fabstir.protocol.commitments import (
    OutputCommitment,
    additions_digest,
    derive_seed,
    request_digest,
    seed_commitment,
)
from fabstir.protocol.content import Message
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.exchange.verification import SessionFacts
from fabstir.protocol.payloads import (
    ChunkPlaintext,
    EndPlaintext,
    ExtensionTerms,
    ReceiptPlaintext,
)
from fabstir.protocol.receipts import ChainHead, Receipt, Work, sign_receipt
from fabstir.protocol.request import ChatRequest, RequestPlaintext
from fabstir.protocol.sampling import SamplingParams

HOST_SECRET = bytes([7]) * 32
HOST_NONCE = bytes([3]) * 32
DIGEST = Hash32("0x" + "ab" * 32)
DOMAIN = Domain(ChainId(31337), Address("0x" + "11" * 20))

FACTS = SessionFacts(
    job_id=JobId(9),
    host=NATIVE.address_of(NATIVE.public_key(HOST_SECRET)),
    model_digest=DIGEST,
    deposit=Wei(10**15),
    price_per_token=PricePerToken(200_000_000_000),
    domain=DOMAIN,
    crypto=NATIVE,
)

TERMS = ExtensionTerms(
    model_digest=DIGEST,
    max_model_len=4096,
    price_per_token=FACTS.price_per_token,
    receipt_interval=64,
    max_unacknowledged=128,
    seed_commitment=seed_commitment(HOST_NONCE, NATIVE),
    sequence=0,
    receipt_hash=ChainHead().hash,
    cumulative_tokens=TokenCount(0),
)

REQUEST = RequestPlaintext(
    request=ChatRequest(
        messages=(Message("user", "What is a receipt?"),),
        sampling=SamplingParams(max_tokens=500),
    ),
    client_nonce=bytes([1]) * 32,
    salt=bytes([2]) * 32,
)


def asking_for(max_tokens: int) -> RequestPlaintext:
    """REQUEST with another limit."""
    sampling = replace(REQUEST.request.sampling, max_tokens=max_tokens)
    return replace(REQUEST, request=replace(REQUEST.request, sampling=sampling))


@dataclass(slots=True)
class HonestHost:
    """Counts, commits and signs what it delivers, as a host must."""

    head: ChainHead = field(default_factory=ChainHead)
    asked: RequestPlaintext = REQUEST
    additions: tuple[Addition, ...] = ()
    num_prompt_tokens: int = 20
    token_ids: list[int] = field(default_factory=list[int])
    text: str = ""
    output: OutputCommitment = field(init=False)

    def __post_init__(self) -> None:
        self.output = OutputCommitment(self.asked.salt, NATIVE)

    def deliver(self, text: str, token_ids: Sequence[int]) -> ChunkPlaintext:
        """One more piece."""
        self.text += text
        self.token_ids += token_ids
        self.output.add(token_ids, text)
        return ChunkPlaintext(text=text, token_ids=tuple(token_ids))

    @property
    def seed(self) -> int:
        """The requested one, or the one that follows from both nonces."""
        nonce, seed = self.asked.client_nonce, self.asked.request.sampling.seed
        if nonce is None:
            assert seed is not None
            return seed
        return derive_seed(nonce, HOST_NONCE, FACTS.job_id, NATIVE)

    def work(self) -> Work:
        """All that was delivered so far."""
        salt = self.asked.salt
        executed = self.asked.request.with_seed(self.seed)
        seen = with_additions(executed.messages, self.additions)
        return Work(
            model_digest=DIGEST,
            request_digest=request_digest(replace(executed, messages=seen), salt, NATIVE),
            additions_digest=additions_digest(self.additions, salt, NATIVE),
            output_commitment=self.output.value(),
            num_prompt_tokens=TokenCount(self.num_prompt_tokens),
            num_completion_tokens=TokenCount(len(self.token_ids)),
        )

    def receipt(self) -> Receipt:
        """The next link of the chain, not issued yet."""
        return self.head.make(FACTS.job_id, self.work(), FACTS.price_per_token)

    def issue(
        self, receipt: Receipt | None = None, secret: bytes = HOST_SECRET
    ) -> ReceiptPlaintext:
        """Sign a receipt and go on after it."""
        receipt = receipt or self.receipt()
        is_first = self.head.sequence == 0
        self.head = self.head.advance(receipt, receipt.hash(DOMAIN, NATIVE))
        self.output.receipted()
        return ReceiptPlaintext(
            signed=sign_receipt(receipt, secret, DOMAIN, NATIVE),
            seed=self.seed,
            host_nonce=HOST_NONCE,
            additions=self.additions if is_first else (),
        )

    def end(self, **changes: int) -> EndPlaintext:
        """What is said last."""
        counts = EndPlaintext(
            finish_reason="stop",
            num_prompt_tokens=TokenCount(self.num_prompt_tokens),
            num_completion_tokens=TokenCount(len(self.token_ids)),
            seed_commitment=seed_commitment(bytes(32), NATIVE),
        )
        return replace(counts, **{name: TokenCount(value) for name, value in changes.items()})
