"""The frames that a client sends on GET /v1/ws.

Era-C clients mix spellings and number forms; both are read, and ids are echoed as text. What is
not understood is answered with an error frame, never with silence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Self, cast

from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import JobId
from fabstir.protocol.envelope import InitEnvelope
from fabstir.protocol.fields import Fields
from fabstir.protocol.frames import SealedFrame


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptedSessionInit:
    """Opens, or re-keys, a session on this socket."""

    session_id: str
    job_id: JobId
    chain_id: int | None
    payload: InitEnvelope
    id: str | None = None

    def to_json(self) -> dict[str, Json]:
        return {
            "type": "encrypted_session_init",
            "session_id": self.session_id,
            "job_id": str(self.job_id),
            "chain_id": self.chain_id,
            "payload": self.payload.to_json(),
            "id": self.id,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        session_id = fields.optional_identifier("session_id", "sessionId")
        job_id = fields.optional_integer("job_id", "jobId")
        if session_id is None and job_id is None:
            raise RemoteProtocolError("the init lacks session_id", code="MISSING_SESSION_ID")
        if job_id is None:
            job_id = Fields({"session_id": session_id}, fields.where).integer("session_id")
        return cls(
            session_id=session_id or str(job_id),
            job_id=JobId(job_id),
            chain_id=fields.optional_integer("chain_id", "chainId", limit=1 << 53),
            payload=InitEnvelope.from_fields(fields.child("payload", code="MISSING_PAYLOAD")),
            id=fields.optional_identifier("id"),
        )


class EncryptedMessage(SealedFrame):
    """One request (RequestPlaintext inside)."""

    __slots__ = ()

    def to_json(self) -> dict[str, Json]:
        return self.sealed_json("encrypted_message")


class EncryptedAck(SealedFrame):
    """Extension: one signed acknowledgement inside."""

    __slots__ = ()

    def to_json(self) -> dict[str, Json]:
        return self.sealed_json("encrypted_ack")


class EncryptedClose(SealedFrame):
    """Extension: the renter is done; the host proves what was acknowledged and settles."""

    __slots__ = ()

    def to_json(self) -> dict[str, Json]:
        return self.sealed_json("encrypted_close")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCancel:
    """Stops the running answer; counts only from the socket that authenticated."""

    session_id: str
    reason: str = ""
    id: str | None = None

    def to_json(self) -> dict[str, Json]:
        return {
            "type": "stream_cancel",
            "session_id": self.session_id,
            "reason": self.reason,
            "id": self.id,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        return cls(
            session_id=fields.optional_identifier("session_id", "sessionId") or "",
            reason=fields.optional_text("reason", limit=1024) or "",
            id=fields.optional_identifier("id"),
        )


@dataclass(frozen=True, slots=True)
class Ping:
    """Era-C's application-level heartbeat."""

    def to_json(self) -> dict[str, Json]:
        return {"type": "ping"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unsupported:
    """A frame whose type we do not serve: `refusals.refusal` says so as its sender reads it.

    It is read leniently: whatever is in it, its sender gets the answer that it waits for.

    Attributes:
        request_id: of the types that name their requests so (uploadVectors and its kind).
        num_vectors: how many an upload would have stored.
    """

    kind: str
    id: str | None = None
    session_id: str | None = None
    request_id: str | None = None
    num_vectors: int = 0

    @classmethod
    def from_fields(cls, kind: str, fields: Fields) -> Self:
        session_id, _ = ids_of(fields)
        vectors = fields.get("vectors")
        return cls(
            kind=kind,
            id=_readable_identifier(fields, "id"),
            session_id=session_id,
            request_id=_readable_identifier(fields, "requestId", "request_id"),
            num_vectors=len(cast("list[object]", vectors)) if isinstance(vectors, list) else 0,
        )


ClientMessage = (
    EncryptedSessionInit
    | EncryptedMessage
    | EncryptedAck
    | EncryptedClose
    | StreamCancel
    | Ping
    | Unsupported
)


CLIENT_FRAMES: Final[Mapping[str, Callable[[Fields], ClientMessage]]] = {
    "encrypted_session_init": EncryptedSessionInit.from_fields,
    "encrypted_message": EncryptedMessage.from_fields,
    "encrypted_ack": EncryptedAck.from_fields,
    "encrypted_close": EncryptedClose.from_fields,
    "stream_cancel": StreamCancel.from_fields,
    "ping": lambda _fields: Ping(),
}
"""How each type of frame is read. Decoders raise RemoteProtocolError and nothing else."""


def decode_client_message(data: str | bytes) -> ClientMessage:
    """Parse one frame from a client.

    Raises:
        RemoteProtocolError: never any other error, whatever the bytes.
    """
    return decode_client_fields(parse_client_frame(data))


def parse_client_frame(data: str | bytes) -> Fields:
    """The first half: one JSON object. Raises RemoteProtocolError."""
    return Fields.parse(data, "frame")


def ids_of(fields: Fields) -> tuple[str | None, str | None]:
    """The session and the request that a refusal of this frame names, as far as they are readable:
    existing clients match an error with what they wait for.
    """
    session_id = _readable_identifier(fields, "session_id", "sessionId", "job_id", "jobId")
    return session_id, _readable_identifier(fields, "id", "requestId", "request_id")


def decode_client_fields(fields: Fields) -> ClientMessage:
    """The second half. Raises RemoteProtocolError."""
    kind = fields.text("type", limit=64)
    decode = CLIENT_FRAMES.get(kind)
    return decode(fields) if decode else Unsupported.from_fields(kind, fields)


def _readable_identifier(fields: Fields, *names: str) -> str | None:
    try:
        return fields.optional_identifier(*names)
    except RemoteProtocolError:
        return None
