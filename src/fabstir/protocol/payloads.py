"""What stands inside the encrypted payloads: session terms, requests, and their answers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Self, cast

from fabstir.primitives.encoding import Json, canonical_json, parse_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import Hash32, JobId
from fabstir.primitives.units import PricePerToken, TokenCount
from fabstir.protocol.authorization import SignedAuthorization
from fabstir.protocol.chat import ChatMessage
from fabstir.protocol.fields import Fields
from fabstir.protocol.limits import (
    MAX_CHUNK_TEXT_BYTES,
    MAX_CHUNK_TOKENS,
    MAX_COMPLETION_TOKENS,
    MAX_JSON_DEPTH,
    MAX_MESSAGES,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
)
from fabstir.protocol.receipts import SignedAcknowledgement, SignedReceipt
from fabstir.protocol.sampling import SEED_LIMIT, SamplingParams

EXTENSION_NAME: Final = "fabstir/1"
DEFAULT_MAX_TOKENS: Final = 4000
"""What era-C clients mean when they name no limit."""

FINISH_REASONS: Final = frozenset(
    {"stop", "length", "cancelled", "deposit_exhausted", "unacknowledged", "draining", "error"}
)
"""Why an answer ends."""

_MILLION = 1_000_000

_NOT_SERVED: Final = {
    "action": "actions such as image_generation",
    "images": "images",
    "audio": "audio",
    "files": "files",
    "tools": "tools",
    "tool_choice": "tools",
    "functions": "functions",
    "response_format": "response formats",
    "lora": "adapters",
}
"""What requests may name that no version of this protocol serves yet. Ignored, it would be answered
as if it had not been asked for, and billed; so it is refused by name."""


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
class ChatRequest:
    """The plaintext of encrypted_message: one completion that a client asks for.

    Attributes:
        prompt: era-C's single text; may be a whole conversation in ChatML.
        messages: the extension's form, the whole conversation; wins over `prompt`.
        sampling: its seed is a placeholder (0) unless `has_seed`.
        client_nonce: 32 bytes from which, with the host's, an unchosen seed is derived.
        salt: 32 bytes for the commitments; the renter's choice.
    """

    prompt: str = ""
    messages: tuple[ChatMessage, ...] = ()
    model: str = ""
    sampling: SamplingParams
    has_seed: bool = False
    client_nonce: bytes | None = None
    salt: bytes | None = None

    def with_seed(self, seed: int) -> SamplingParams:
        """The sampling that is really used."""
        return replace(self.sampling, seed=seed)

    def encode(self) -> bytes:
        sampling = self.sampling
        out: dict[str, Json] = {
            "model": self.model,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature_millionths / _MILLION,
            "top_p": sampling.top_p_millionths / _MILLION,
            "min_p": sampling.min_p_millionths / _MILLION,
            "repeat_penalty": sampling.repeat_penalty_millionths / _MILLION,
            "top_k": sampling.top_k,
            "stop": list(sampling.stop),
            "stream": True,
        }
        if self.messages:
            out["messages"] = [{"role": m.role, "content": m.content} for m in self.messages]
        else:
            out["prompt"] = self.prompt
        if self.has_seed:
            out["seed"] = sampling.seed
        if self.client_nonce:
            out["clientNonce"] = self.client_nonce.hex()
        if self.salt:
            out["salt"] = self.salt.hex()
        return canonical_json(out)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """A JSON object, or bare text (then the text is the prompt).

        Raises:
            RemoteProtocolError: never another error. UNSUPPORTED_REQUEST: it asks for more than
                text, which is not ignored.
        """
        fields = cls._fields_of(data)
        _refuse_what_is_not_served(fields)
        has_nonce = fields.get("clientNonce") is not None
        has_salt = fields.get("salt") is not None
        messages = _messages(fields)
        request = cls(
            prompt="" if messages else fields.optional_text("prompt") or "",
            messages=messages,
            model=fields.optional_text("model", limit=512) or "",
            sampling=_sampling(fields),
            has_seed=fields.get("seed") is not None,
            client_nonce=fields.hex("clientNonce", size=32) if has_nonce else None,
            salt=fields.hex("salt", size=32) if has_salt else None,
        )
        if not request.prompt and not request.messages:
            raise RemoteProtocolError("the request holds neither a prompt nor messages")
        return request

    @staticmethod
    def _fields_of(data: bytes) -> Fields:
        try:
            value = parse_json(data, max_depth=MAX_JSON_DEPTH)
        except UnicodeDecodeError as exc:
            raise RemoteProtocolError("the request is not UTF-8", code="INVALID_UTF8") from exc
        except ValueError:
            value = None
        if isinstance(value, dict):
            return Fields.of(cast("object", value), "request")
        return Fields({"prompt": value if isinstance(value, str) else data.decode()}, "request")


def _refuse_what_is_not_served(fields: Fields) -> None:
    for name, what in _NOT_SERVED.items():
        if fields.get(name) not in (None, "", "none", [], {}):
            raise RemoteProtocolError(
                f"the request has {name!r} and this host serves no {what}: send text alone",
                code="UNSUPPORTED_REQUEST",
            )


def _messages(fields: Fields) -> tuple[ChatMessage, ...]:
    if fields.get("messages") is None:
        return ()
    return tuple(
        ChatMessage(item.text("role", limit=32), item.text("content"))
        for item in fields.children("messages", limit=MAX_MESSAGES)
    )


def _sampling(fields: Fields) -> SamplingParams:
    max_tokens = fields.optional_integer("max_tokens", "maxTokens", limit=MAX_COMPLETION_TOKENS + 1)
    if max_tokens == 0:
        raise RemoteProtocolError("request: max_tokens must be at least 1")
    stop = fields.get("stop")
    if isinstance(stop, str):
        fields = Fields({**fields.raw, "stop": [stop]}, fields.where)
    defaults = SamplingParams(max_tokens=max_tokens or DEFAULT_MAX_TOKENS, seed=0)
    top_k = fields.optional_integer("top_k", "topK", limit=1 << 31)
    return SamplingParams(
        max_tokens=defaults.max_tokens,
        temperature_millionths=fields.millionths(
            "temperature", default=defaults.temperature_millionths, limit=10 * _MILLION
        ),
        top_p_millionths=fields.millionths(
            "top_p", "topP", default=defaults.top_p_millionths, limit=_MILLION
        ),
        min_p_millionths=fields.millionths(
            "min_p", "minP", default=defaults.min_p_millionths, limit=_MILLION
        ),
        repeat_penalty_millionths=fields.millionths(
            "repeat_penalty", "repeatPenalty",
            default=defaults.repeat_penalty_millionths, limit=10 * _MILLION,
        ),
        top_k=defaults.top_k if top_k is None else top_k,
        seed=fields.optional_integer("seed", limit=SEED_LIMIT) or 0,
        stop=()
        if stop is None
        else fields.texts("stop", limit=MAX_STOP_STRINGS, chars=MAX_STOP_CHARS),
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkPlaintext:
    """The extension's chunk: text and the ids of exactly the tokens that are billed for it."""

    text: str
    token_ids: tuple[int, ...]

    def encode(self) -> bytes:
        return canonical_json({"text": self.text, "ids": list(self.token_ids)})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError."""
        fields = Fields.parse(data, "chunk")
        text = fields.text("text", limit=MAX_CHUNK_TEXT_BYTES)
        if len(text.encode()) > MAX_CHUNK_TEXT_BYTES:
            raise RemoteProtocolError(f"chunk: text must have at most {MAX_CHUNK_TEXT_BYTES} bytes")
        ids = fields.items("ids", limit=MAX_CHUNK_TOKENS)
        holders = (Fields({"id": value}, "chunk.ids") for value in ids)
        return cls(
            text=text,
            token_ids=tuple(holder.integer("id", limit=1 << 32) for holder in holders),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptPlaintext:
    """The extension's receipt frame.

    Attributes:
        seed: the sampling's seed, and `host_nonce` from which the renter recomputes it.
    """

    signed: SignedReceipt
    seed: int
    host_nonce: bytes

    def encode(self) -> bytes:
        return canonical_json(
            {
                "receipt": self.signed.to_json(),
                "seed": self.seed,
                "hostNonce": self.host_nonce.hex(),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises RemoteProtocolError."""
        fields = Fields.parse(data, "receipt")
        return cls(
            signed=SignedReceipt.from_fields(fields.child("receipt")),
            seed=fields.integer("seed", limit=SEED_LIMIT),
            host_nonce=fields.hex("hostNonce", size=32),
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
