"""Hash-chained receipts: what the renter pays for, agreed while it streams.

The host signs a receipt every RECEIPT_INTERVAL_TOKENS completion tokens and at the end of each
request; the renter checks it against what it saw and signs an acknowledgement. The last
acknowledged receipt is what the host may claim, and its hash is the proof hash on chain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.errors import ReceiptMismatch
from fabstir.primitives.ids import Address, Hash32, JobId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei, cost_of
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.eip712 import Domain, is_signed_by, sign_digest, struct_hash, typed_digest
from fabstir.protocol.fields import Fields

RECEIPT_TYPE = (
    "Receipt(uint256 jobId,uint64 sequence,bytes32 previous,bytes32 modelDigest,"
    "bytes32 requestDigest,bytes32 additionsDigest,bytes32 outputCommitment,"
    "uint64 numPromptTokens,uint64 numCompletionTokens,uint64 cumulativeTokens,"
    "uint256 cumulativeCost)"
)
ACKNOWLEDGEMENT_TYPE = (
    "Acknowledgement(uint256 jobId,uint64 sequence,bytes32 receiptHash,uint64 cumulativeTokens)"
)
GENESIS: Final = Hash32("0x" + "00" * 32)
"""`previous` of a session's first receipt."""

_UINT64 = 1 << 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one receipt says of one request: the part that the renter can see for itself.

    Attributes:
        request_digest: of the request as it was executed.
        additions_digest: of what the host added to it; zero if that is nothing.
        num_prompt_tokens: of the whole prompt, by the engine's count. Not billed on rail 1.
        num_completion_tokens: of this request so far: the billable unit of rail 1.
    """

    model_digest: Hash32
    request_digest: Hash32
    additions_digest: Hash32
    output_commitment: Hash32
    num_prompt_tokens: TokenCount
    num_completion_tokens: TokenCount


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """One link of a session's chain.

    Attributes:
        sequence: 1 for the first receipt, without gaps.
        previous: hash of the receipt before it, GENESIS for the first.
        cumulative_tokens: completion tokens of the whole session, this receipt's included.
        cumulative_cost: what they cost, as the contract rounds.
    """

    job_id: JobId
    sequence: int
    previous: Hash32
    work: Work
    cumulative_tokens: TokenCount
    cumulative_cost: Wei

    def hash(self, domain: Domain, crypto: Crypto) -> Hash32:
        """The EIP-712 digest: what is signed, what the next link names, and the proof hash."""
        values = (
            self.job_id,
            self.sequence,
            self.previous,
            self.work.model_digest,
            self.work.request_digest,
            self.work.additions_digest,
            self.work.output_commitment,
            self.work.num_prompt_tokens,
            self.work.num_completion_tokens,
            self.cumulative_tokens,
            self.cumulative_cost,
        )
        return typed_digest(domain, struct_hash(RECEIPT_TYPE, values, crypto), crypto)

    def to_json(self) -> dict[str, Json]:
        return {
            "jobId": str(self.job_id),
            "sequence": self.sequence,
            "previous": self.previous,
            "modelDigest": self.work.model_digest,
            "requestDigest": self.work.request_digest,
            "additionsDigest": self.work.additions_digest,
            "outputCommitment": self.work.output_commitment,
            "numPromptTokens": self.work.num_prompt_tokens,
            "numCompletionTokens": self.work.num_completion_tokens,
            "cumulativeTokens": self.cumulative_tokens,
            "cumulativeCost": str(self.cumulative_cost),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError."""
        work = Work(
            model_digest=fields.hash32("modelDigest"),
            request_digest=fields.hash32("requestDigest"),
            additions_digest=fields.hash32("additionsDigest"),
            output_commitment=fields.hash32("outputCommitment"),
            num_prompt_tokens=TokenCount(fields.integer("numPromptTokens", limit=_UINT64)),
            num_completion_tokens=TokenCount(fields.integer("numCompletionTokens", limit=_UINT64)),
        )
        return cls(
            job_id=JobId(fields.integer("jobId")),
            sequence=fields.integer("sequence", limit=_UINT64),
            previous=fields.hash32("previous"),
            work=work,
            cumulative_tokens=TokenCount(fields.integer("cumulativeTokens", limit=_UINT64)),
            cumulative_cost=Wei(fields.integer("cumulativeCost")),
        )


@dataclass(frozen=True, slots=True)
class SignedReceipt:
    """A receipt, and the host's 65-byte signature over its hash."""

    receipt: Receipt
    signature: bytes

    def to_json(self) -> dict[str, Json]:
        return {**self.receipt.to_json(), "signature": "0x" + self.signature.hex()}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        return cls(Receipt.from_fields(fields), fields.hex("signature", size=65))


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """The renter agrees to everything up to one receipt."""

    job_id: JobId
    sequence: int
    receipt_hash: Hash32
    cumulative_tokens: TokenCount

    def digest(self, domain: Domain, crypto: Crypto) -> Hash32:
        values = (self.job_id, self.sequence, self.receipt_hash, self.cumulative_tokens)
        return typed_digest(domain, struct_hash(ACKNOWLEDGEMENT_TYPE, values, crypto), crypto)

    def sign(self, secret_key: bytes, domain: Domain, crypto: Crypto) -> SignedAcknowledgement:
        """Sign with the session key."""
        return SignedAcknowledgement(
            self, sign_digest(secret_key, self.digest(domain, crypto), crypto)
        )


@dataclass(frozen=True, slots=True)
class SignedAcknowledgement:
    """An acknowledgement and the session key's 65-byte signature."""

    acknowledgement: Acknowledgement
    signature: bytes

    def is_signed_by(self, signer: Address, domain: Domain, crypto: Crypto) -> bool:
        digest = self.acknowledgement.digest(domain, crypto)
        return is_signed_by(signer, self.signature, digest, crypto)

    def to_json(self) -> dict[str, Json]:
        return {
            "jobId": str(self.acknowledgement.job_id),
            "sequence": self.acknowledgement.sequence,
            "receiptHash": self.acknowledgement.receipt_hash,
            "cumulativeTokens": self.acknowledgement.cumulative_tokens,
            "signature": "0x" + self.signature.hex(),
        }

    def encode(self) -> bytes:
        """What stands inside an encrypted_ack."""
        return canonical_json(self.to_json())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError."""
        return cls.from_fields(Fields.parse(data, "acknowledgement"))

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError."""
        acknowledgement = Acknowledgement(
            job_id=JobId(fields.integer("jobId")),
            sequence=fields.integer("sequence", limit=_UINT64),
            receipt_hash=fields.hash32("receiptHash"),
            cumulative_tokens=TokenCount(fields.integer("cumulativeTokens", limit=_UINT64)),
        )
        return cls(acknowledgement, fields.hex("signature", size=65))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainHead:
    """The end of a session's receipt chain: all that is needed to make or check the next link.

    Attributes:
        tokens_before_request: cumulative tokens of all requests before the current one.
    """

    sequence: int = 0
    hash: Hash32 = GENESIS
    cumulative_tokens: TokenCount = TokenCount(0)
    tokens_before_request: TokenCount = TokenCount(0)

    def next_request(self) -> ChainHead:
        """The head with which a new request begins."""
        return ChainHead(
            sequence=self.sequence,
            hash=self.hash,
            cumulative_tokens=self.cumulative_tokens,
            tokens_before_request=self.cumulative_tokens,
        )

    def advance(self, receipt: Receipt, receipt_hash: Hash32) -> ChainHead:
        """The head after `receipt`."""
        return ChainHead(
            sequence=receipt.sequence,
            hash=receipt_hash,
            cumulative_tokens=receipt.cumulative_tokens,
            tokens_before_request=self.tokens_before_request,
        )

    def make(self, job_id: JobId, work: Work, price: PricePerToken) -> Receipt:
        """The next link, for `work` of the current request."""
        total = TokenCount(self.tokens_before_request + work.num_completion_tokens)
        return Receipt(
            job_id=job_id,
            sequence=self.sequence + 1,
            previous=self.hash,
            work=work,
            cumulative_tokens=total,
            cumulative_cost=cost_of(total, price),
        )

    def check(self, receipt: Receipt, expected: Receipt) -> None:
        """Compare a host's receipt with the one the renter would have made itself.

        Raises:
            ReceiptMismatch: names every field that differs; nothing must be acknowledged.
        """
        theirs, ours = receipt.to_json(), expected.to_json()
        wrong = [
            f"{name} is {theirs[name]}, expected {ours[name]}"
            for name in ours
            if theirs[name] != ours[name]
        ]
        if wrong:
            raise ReceiptMismatch(
                f"receipt {receipt.sequence} of session {receipt.job_id} is not what was "
                f"delivered ({'; '.join(wrong)}): it is not acknowledged and not paid"
            )


def sign_receipt(
    receipt: Receipt, secret_key: bytes, domain: Domain, crypto: Crypto
) -> SignedReceipt:
    """Sign as the host."""
    return SignedReceipt(receipt, sign_digest(secret_key, receipt.hash(domain, crypto), crypto))
