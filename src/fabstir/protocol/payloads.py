"""What stands inside the encrypted payloads: session terms, answers and receipts.

Requests are in `protocol.request`, those of existing clients in `protocol.era_c`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Self

from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import Hash32, JobId
from fabstir.primitives.units import PricePerToken, TokenCount
from fabstir.protocol.additions import Addition, additions_json, parse_additions
from fabstir.protocol.answers import TokenLogprob, ToolCallPiece
from fabstir.protocol.authorization import SignedAuthorization
from fabstir.protocol.fields import Fields
from fabstir.protocol.limits import MAX_CHUNK_TEXT_BYTES, MAX_CHUNK_TOKENS, MAX_TOOLS
from fabstir.protocol.receipts import SignedAcknowledgement, SignedReceipt
from fabstir.protocol.sampling import SEED_LIMIT

EXTENSION_NAME: Final = "fabstir/2"
FINISH_REASONS: Final = frozenset(
    {
        "stop",
        "length",
        "tool_calls",
        "cancelled",
        "deposit_exhausted",
        "unacknowledged",
        "draining",
        "error",
    }
)
"""Why an answer ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionOffer:
    """The renter's side of the negotiation, inside the init's ciphertext.

    Attributes:
        authorization: the caller's proof; absent only if the init's signer is the depositor
            or its delegate itself.
        last_acknowledgement: of an earlier connection of the same session, so that a host that
            lost it (it crashed before it was stored) can still claim it.
    """

    authorization: SignedAuthorization | None
    last_acknowledgement: SignedAcknowledgement | None = None

    def to_json(self) -> Json:
        out: dict[str, Json] = {"name": EXTENSION_NAME}
        if self.authorization:
            out["authorization"] = self.authorization.to_json()
        if self.last_acknowledgement:
            out["lastAcknowledgement"] = self.last_acknowledgement.to_json()
        return out

    @classmethod
    def from_fields(cls, fields: Fields) -> Self | None:
        """None for an extension we do not know: the session is then an era-C one."""
        if fields.get("name") != EXTENSION_NAME:
            return None
        authorization = fields.optional_child("authorization")
        last = fields.optional_child("lastAcknowledgement")
        return cls(
            authorization=authorization and SignedAuthorization.from_fields(authorization),
            last_acknowledgement=last and SignedAcknowledgement.from_fields(last),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InitPlaintext:
    """The plaintext of encrypted_session_init.

    Attributes:
        model_name: as the client calls it: "repo:file", a short name or a model id.
        session_key: 32 bytes; era-C messages are encrypted with it in both directions.
        price_per_token: informative (the SDK sends 0); the chain's price counts.
        recovery_public_key: compressed secp256k1 key to which checkpoints are encrypted.
    """

    job_id: JobId
    model_name: str
    session_key: bytes
    price_per_token: PricePerToken = PricePerToken(0)
    recovery_public_key: bytes | None = None
    extension: ExtensionOffer | None = None

    def encode(self) -> bytes:
        out: dict[str, Json] = {
            "jobId": str(self.job_id),
            "modelName": self.model_name,
            "sessionKey": self.session_key.hex(),
            "pricePerToken": self.price_per_token,
        }
        if self.recovery_public_key:
            out["recoveryPublicKey"] = "0x" + self.recovery_public_key.hex()
        if self.extension:
            out["extension"] = self.extension.to_json()
        return canonical_json(out)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError, never another error."""
        fields = Fields.parse(data, "session init")
        extension = fields.optional_child("extension")
        has_recovery = fields.get("recoveryPublicKey", "recovery_public_key") is not None
        return cls(
            job_id=JobId(fields.integer("jobId", "job_id")),
            model_name=fields.optional_text("modelName", "model_name", limit=512) or "",
            session_key=fields.hex("sessionKey", "session_key", size=32),
            price_per_token=PricePerToken(
                fields.optional_integer("pricePerToken", "price_per_token") or 0
            ),
            recovery_public_key=(
                fields.point("recoveryPublicKey", "recovery_public_key") if has_recovery else None
            ),
            extension=extension and ExtensionOffer.from_fields(extension),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionTerms:
    """The host's side of the negotiation, sealed in the acknowledgement of an init.

    Attributes:
        model_digest: sha256 of the bytes of the model file that is loaded.
        max_model_len: tokens of context, prompt and completion together.
        seed_commitment: to the host's nonce for the next request's seed.
        sequence, receipt_hash, cumulative_tokens: the chain's last acknowledged link; the next
            receipt follows it, and anything later is written off.
    """

    model_digest: Hash32
    max_model_len: int
    price_per_token: PricePerToken
    receipt_interval: int
    max_unacknowledged: int
    seed_commitment: Hash32
    sequence: int
    receipt_hash: Hash32
    cumulative_tokens: TokenCount

    def encode(self) -> bytes:
        return canonical_json(
            {
                "name": EXTENSION_NAME,
                "modelDigest": self.model_digest,
                "maxModelLen": self.max_model_len,
                "pricePerToken": str(self.price_per_token),
                "receiptInterval": self.receipt_interval,
                "maxUnacknowledged": self.max_unacknowledged,
                "seedCommitment": self.seed_commitment,
                "sequence": self.sequence,
                "receiptHash": self.receipt_hash,
                "cumulativeTokens": self.cumulative_tokens,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError."""
        fields = Fields.parse(data, "extension terms")
        if fields.get("name") != EXTENSION_NAME:
            raise RemoteProtocolError(f"extension terms: name must be {EXTENSION_NAME}")
        return cls(
            model_digest=fields.hash32("modelDigest"),
            max_model_len=fields.integer("maxModelLen", limit=1 << 32),
            price_per_token=PricePerToken(fields.integer("pricePerToken")),
            receipt_interval=fields.integer("receiptInterval", limit=1 << 32),
            max_unacknowledged=fields.integer("maxUnacknowledged", limit=1 << 32),
            seed_commitment=fields.hash32("seedCommitment"),
            sequence=fields.integer("sequence", limit=1 << 64),
            receipt_hash=fields.hash32("receiptHash"),
            cumulative_tokens=TokenCount(fields.integer("cumulativeTokens", limit=1 << 64)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPlaintext:
    """The extension's chunk: a piece of an answer, and the ids of exactly the tokens that it costs.

    Attributes:
        logprobs: one for each token whose probability the engine tells; empty if none was asked.
    """

    text: str
    token_ids: tuple[int, ...]
    reasoning: str = ""
    tool_calls: tuple[ToolCallPiece, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def num_text_bytes(self) -> int:
        """Bytes of UTF-8 in all that a model wrote here."""
        calls = sum(call.num_bytes for call in self.tool_calls)
        return len(self.text.encode()) + len(self.reasoning.encode()) + calls

    def encode(self) -> bytes:
        out: dict[str, Json] = {"text": self.text, "ids": list(self.token_ids)}
        if self.reasoning:
            out["reasoning"] = self.reasoning
        if self.tool_calls:
            out["toolCalls"] = [call.to_json() for call in self.tool_calls]
        if self.logprobs:
            out["logprobs"] = [each.to_json() for each in self.logprobs]
        return canonical_json(out)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError."""
        fields = Fields.parse(data, "chunk")
        ids = fields.items("ids", limit=MAX_CHUNK_TOKENS)
        holders = (Fields({"id": value}, "chunk.ids") for value in ids)
        calls = fields.optional_children("toolCalls", limit=MAX_TOOLS)
        logprobs = fields.optional_children("logprobs", limit=len(ids))
        chunk = cls(
            text=fields.text("text", limit=MAX_CHUNK_TEXT_BYTES),
            token_ids=tuple(holder.integer("id", limit=1 << 32) for holder in holders),
            reasoning=fields.optional_text("reasoning", limit=MAX_CHUNK_TEXT_BYTES) or "",
            tool_calls=tuple(ToolCallPiece.from_fields(call) for call in calls),
            logprobs=tuple(TokenLogprob.from_fields(each) for each in logprobs),
        )
        if chunk.num_text_bytes > MAX_CHUNK_TEXT_BYTES:
            raise RemoteProtocolError(f"chunk: text must have at most {MAX_CHUNK_TEXT_BYTES} bytes")
        return chunk


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptPlaintext:
    """The extension's receipt frame.

    Attributes:
        seed: the sampling's seed, and `host_nonce` from which the renter recomputes it.
        additions: what the host added to the conversation; with a request's first receipt alone.
    """

    signed: SignedReceipt
    seed: int
    host_nonce: bytes
    additions: tuple[Addition, ...] = ()

    def encode(self) -> bytes:
        out: dict[str, Json] = {
            "receipt": self.signed.to_json(),
            "seed": self.seed,
            "hostNonce": self.host_nonce.hex(),
        }
        if self.additions:
            out["additions"] = additions_json(self.additions)
        return canonical_json(out)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError."""
        fields = Fields.parse(data, "receipt")
        return cls(
            signed=SignedReceipt.from_fields(fields.child("receipt")),
            seed=fields.integer("seed", limit=SEED_LIMIT),
            host_nonce=fields.hex("hostNonce", size=32),
            additions=parse_additions(fields, "additions"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EndPlaintext:
    """The extension's end of an answer.

    Attributes:
        finish_reason: one of FINISH_REASONS, or UNKNOWN.
        seed_commitment: for the next request.
    """

    finish_reason: str
    num_prompt_tokens: TokenCount
    num_completion_tokens: TokenCount
    seed_commitment: Hash32

    def encode(self) -> bytes:
        return canonical_json(
            {
                "finishReason": self.finish_reason,
                "numPromptTokens": self.num_prompt_tokens,
                "numCompletionTokens": self.num_completion_tokens,
                "seedCommitment": self.seed_commitment,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError."""
        fields = Fields.parse(data, "end of answer")
        return cls(
            finish_reason=fields.word("finishReason", known=FINISH_REASONS),
            num_prompt_tokens=TokenCount(fields.integer("numPromptTokens", limit=1 << 64)),
            num_completion_tokens=TokenCount(fields.integer("numCompletionTokens", limit=1 << 64)),
            seed_commitment=fields.hash32("seedCommitment"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedPlaintext:
    """The extension's answer to a close: what the host has claimed, and what it will still do.

    Attributes:
        tokens_proven: on chain for this session; informative, the chain is what counts.
        is_final: the host claims nothing more: the renter may complete at once, even if it
            acknowledged more than is on chain.
        settles_in: seconds until the host completes the session itself, at its own cost; None if
            it leaves that to the renter.
    """

    tokens_proven: TokenCount
    is_final: bool
    settles_in: int | None = None

    def encode(self) -> bytes:
        out: dict[str, Json] = {"tokensProven": self.tokens_proven, "isFinal": self.is_final}
        if self.settles_in is not None:
            out["settlesIn"] = self.settles_in
        return canonical_json(out)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError."""
        fields = Fields.parse(data, "close")
        return cls(
            tokens_proven=TokenCount(fields.integer("tokensProven", limit=1 << 64)),
            is_final=fields.flag("isFinal"),
            settles_in=fields.optional_integer("settlesIn", limit=1 << 32),
        )
