"""What the WebSocket's frames have in common: one JSON object a frame."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Protocol, Self

from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.envelope import SealedPayload
from fabstir.protocol.fields import Fields


class Frame(Protocol):
    """Anything that can be sent."""

    def to_json(self) -> dict[str, Json]:
        """The frame's fields; None for those it leaves out."""
        ...


def encode_frame(frame: Frame) -> str:
    """One frame's text; fields without a value are left out."""
    fields = {name: value for name, value in frame.to_json().items() if value is not None}
    return json.dumps(fields, separators=(",", ":"), ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedFrame:
    """A frame that holds nothing but one encrypted payload."""

    session_id: str
    id: str | None
    payload: SealedPayload

    def sealed_json(self, kind: str) -> dict[str, Json]:
        return {
            "type": kind,
            "session_id": self.session_id,
            "id": self.id,
            "payload": self.payload.to_json(),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        session_id = fields.optional_identifier("session_id", "sessionId")
        if session_id is None:
            raise RemoteProtocolError("the message lacks session_id", code="MISSING_SESSION_ID")
        return cls(
            session_id=session_id,
            id=fields.optional_identifier("id"),
            payload=SealedPayload.from_fields(fields.child("payload", code="MISSING_PAYLOAD")),
        )
