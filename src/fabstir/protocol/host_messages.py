"""The frames that a host sends on GET /v1/ws."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self

from fabstir.primitives.encoding import Json
from fabstir.primitives.ids import Hash32, JobId
from fabstir.protocol.codes import text_prefix
from fabstir.protocol.envelope import SealedPayload
from fabstir.protocol.fields import Fields
from fabstir.protocol.frames import SealedFrame

UNKNOWN_CODE: Final = "UNKNOWN"
"""Of an error that names no code, or what is none."""

_CODE = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_END_REASONS = frozenset({"complete", "cancelled", "error"})
_FINISH_REASONS = frozenset({"stop", "length", "cancelled"})


@dataclass(frozen=True, slots=True)
class Connected:
    """Sent on open."""

    message: str

    def to_json(self) -> dict[str, Json]:
        return {"type": "connected", "message": self.message}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        return cls(fields.optional_text("message", limit=1024) or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExtensionReply:
    """The host's ephemeral key, and ExtensionTerms sealed under the new channel."""

    ephemeral_public_key: bytes
    payload: SealedPayload

    def to_json(self) -> dict[str, Json]:
        return {"ephPubHex": self.ephemeral_public_key.hex(), "payload": self.payload.to_json()}

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        return cls(
            ephemeral_public_key=fields.hex("ephPubHex", size=33),
            payload=SealedPayload.from_fields(fields.child("payload")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInitAck:
    """The session is open on this socket."""

    session_id: str
    job_id: JobId
    chain_id: int
    client_address: str
    id: str | None = None
    extension: ExtensionReply | None = None

    def to_json(self) -> dict[str, Json]:
        return {
            "type": "session_init_ack",
            "status": "success",
            "session_id": self.session_id,
            "job_id": str(self.job_id),
            "chain_id": self.chain_id,
            "client_address": self.client_address,
            "message": "session open",
            "id": self.id,
            "extension": self.extension.to_json() if self.extension else None,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        extension = fields.optional_child("extension")
        return cls(
            session_id=fields.identifier("session_id", "sessionId"),
            job_id=JobId(fields.integer("job_id", "jobId")),
            chain_id=fields.integer("chain_id", "chainId", limit=1 << 53),
            client_address=fields.optional_text("client_address", limit=64) or "",
            id=fields.optional_identifier("id"),
            extension=extension and ExtensionReply.from_fields(extension),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedChunk:
    """A piece of an answer. `index` is its place in the stream, from 0."""

    session_id: str
    id: str | None
    tokens: int
    index: int
    payload: SealedPayload
    final: bool = False

    def to_json(self) -> dict[str, Json]:
        return {
            "type": "encrypted_chunk",
            "session_id": self.session_id,
            "id": self.id,
            "tokens": self.tokens,
            "final": True if self.final else None,
            "payload": {**self.payload.to_json(), "index": self.index},
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        payload = fields.child("payload")
        return cls(
            session_id=fields.identifier("session_id", "sessionId"),
            id=fields.optional_identifier("id"),
            tokens=fields.optional_integer("tokens", limit=1 << 32) or 0,
            index=payload.integer("index", limit=1 << 53),
            payload=SealedPayload.from_fields(payload),
            final=fields.flag("final"),
        )


class EncryptedReceipt(SealedFrame):
    """Extension: one signed receipt (ReceiptPlaintext inside)."""

    __slots__ = ()

    def to_json(self) -> dict[str, Json]:
        return self.sealed_json("encrypted_receipt")


class EncryptedResponse(SealedFrame):
    """The end of an answer, encrypted: era-C's finish reason, the extension's EndPlaintext."""

    __slots__ = ()

    def to_json(self) -> dict[str, Json]:
        return self.sealed_json("encrypted_response")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts of one request, in OpenAI's names."""

    prompt_tokens: int
    completion_tokens: int
    context_window_size: int

    def to_json(self) -> dict[str, Json]:
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "context_window_size": self.context_window_size,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        return cls(
            prompt_tokens=fields.optional_integer("prompt_tokens", limit=1 << 53) or 0,
            completion_tokens=fields.optional_integer("completion_tokens", limit=1 << 53) or 0,
            context_window_size=fields.optional_integer("context_window_size", limit=1 << 53) or 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamEnd:
    """Nothing more comes for this request.

    Attributes:
        reason: complete, cancelled or error; UNKNOWN for any other.
        finish_reason: stop, length or cancelled; UNKNOWN for any other.
    """

    session_id: str
    id: str | None
    reason: str
    tokens_used: int
    finish_reason: str | None = None
    usage: Usage | None = None

    def to_json(self) -> dict[str, Json]:
        return {
            "type": "stream_end",
            "session_id": self.session_id,
            "id": self.id,
            "reason": self.reason,
            "tokens_used": self.tokens_used,
            "finish_reason": self.finish_reason,
            "usage": self.usage.to_json() if self.usage else None,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        usage = fields.optional_child("usage")
        return cls(
            session_id=fields.optional_identifier("session_id", "sessionId") or "",
            id=fields.optional_identifier("id"),
            reason=fields.optional_word("reason", known=_END_REASONS) or "complete",
            tokens_used=fields.optional_integer("tokens_used", limit=1 << 53) or 0,
            finish_reason=fields.optional_word("finish_reason", known=_FINISH_REASONS),
            usage=usage and Usage.from_fields(usage),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofMessage:
    """A claim of this session was mined."""

    session_id: str
    proof_id: Hash32
    tokens_claimed: int
    timestamp: int
    size_bytes: int

    def to_json(self) -> dict[str, Json]:
        return {
            "type": "proof_submitted",
            "session_id": self.session_id,
            "proof_id": self.proof_id,
            "tokens_claimed": self.tokens_claimed,
            "size_bytes": self.size_bytes,
            "timestamp": self.timestamp,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        return cls(
            session_id=fields.identifier("session_id", "sessionId"),
            proof_id=fields.hash32("proof_id"),
            tokens_claimed=fields.optional_integer("tokens_claimed") or 0,
            timestamp=fields.integer("timestamp", limit=1 << 53),
            size_bytes=fields.optional_integer("size_bytes", limit=1 << 53) or 0,
        )


class SessionClosed(SealedFrame):
    """Extension: the host's last word on a session (ClosedPlaintext inside).

    Sealed, because the renter settles by it: in clear, anybody on the path could say it.
    """

    __slots__ = ()

    def to_json(self) -> dict[str, Json]:
        return self.sealed_json("session_closed")


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorMessage:
    """Something was refused or failed; `code` is for programs, `message` for people.

    On the wire the text begins with the code, because existing clients read nothing else.
    """

    code: str
    message: str
    session_id: str | None = None
    id: str | None = None
    prompt_tokens: int | None = None
    context_window_size: int | None = None

    @property
    def text(self) -> str:
        """The message as it is sent."""
        return text_prefix(self.code) + self.message

    def to_json(self) -> dict[str, Json]:
        return {
            "type": "error",
            "code": self.code,
            "message": self.text,
            "error": self.text,
            "session_id": self.session_id,
            "id": self.id,
            "prompt_tokens": self.prompt_tokens,
            "context_window_size": self.context_window_size,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        code = _code(fields)
        return cls(
            code=code,
            message=_message_behind(code, fields) or "no message",
            session_id=fields.optional_identifier("session_id", "sessionId"),
            id=fields.optional_identifier("id"),
            prompt_tokens=fields.optional_integer("prompt_tokens", limit=1 << 53),
            context_window_size=fields.optional_integer("context_window_size", limit=1 << 53),
        )


_MAX_MESSAGE_CHARS = 8192


def _message_behind(code: str, fields: Fields) -> str:
    prefix = text_prefix(code)
    text = fields.optional_text("message", "error", limit=_MAX_MESSAGE_CHARS + len(prefix)) or ""
    text = text.removeprefix(prefix) if text.startswith(prefix) else text.removeprefix(f"{code}: ")
    return text[:_MAX_MESSAGE_CHARS]


def _code(fields: Fields) -> str:
    """What has the form of a code; later hosts may have further ones."""
    code = fields.optional_text("code") or ""
    return code if _CODE.fullmatch(code) else UNKNOWN_CODE


@dataclass(frozen=True, slots=True)
class Pong:
    """The answer to Ping; harmless to era-C clients."""

    def to_json(self) -> dict[str, Json]:
        return {"type": "pong"}


@dataclass(frozen=True, slots=True)
class Unknown:
    """A host frame that this renter does not know; ignored."""

    kind: str


HostMessage = (
    Connected
    | SessionInitAck
    | EncryptedChunk
    | EncryptedReceipt
    | EncryptedResponse
    | StreamEnd
    | ProofMessage
    | SessionClosed
    | ErrorMessage
    | Pong
    | Unknown
)


HOST_FRAMES: Final[Mapping[str, Callable[[Fields], HostMessage]]] = {
    "connected": Connected.from_fields,
    "session_init_ack": SessionInitAck.from_fields,
    "encrypted_chunk": EncryptedChunk.from_fields,
    "encrypted_receipt": EncryptedReceipt.from_fields,
    "encrypted_response": EncryptedResponse.from_fields,
    "stream_end": StreamEnd.from_fields,
    "proof_submitted": ProofMessage.from_fields,
    "session_closed": SessionClosed.from_fields,
    "error": ErrorMessage.from_fields,
    "pong": lambda _fields: Pong(),
}
"""How each type of frame is read. Decoders raise RemoteProtocolError and nothing else."""


def decode_host_message(data: str | bytes) -> HostMessage:
    """Parse one frame from a host.

    Raises:
        RemoteProtocolError: never any other error, whatever the bytes.
    """
    fields = Fields.parse(data, "frame")
    kind = fields.text("type", limit=64)
    decode = HOST_FRAMES.get(kind)
    return decode(fields) if decode else Unknown(kind)
