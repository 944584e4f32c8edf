"""What a client gets whose frame this host does not serve: the answer that it waits for.

An `error` frame ends the wait of a prompt or an init alone. Uploads and searches wait for a frame
of their own type, for up to 30 s, and an `error` would end the prompt that runs beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

from fabstir.primitives.encoding import Json
from fabstir.protocol.client_messages import Unsupported
from fabstir.protocol.codes import text_prefix, unmistakable
from fabstir.protocol.frames import Frame
from fabstir.protocol.host_messages import ErrorMessage, StreamEnd

_IN_CLEAR = frozenset({"prompt", "inference", "stateless_inference"})
"""Prompts: their senders wait for the end of a stream."""

_HANDSHAKES_IN_CLEAR = frozenset({"session_init", "session_resume", "init"})

_INSTEAD = {
    "session_end": "close the socket: a session that is not opened again is settled",
    "session_control": "stream_cancel stops an answer, closing the socket ends the session",
    "auth": "encrypted_session_init shows who you are",
    "token_refresh": "there are no tokens here, encrypted_session_init shows who you are",
}

_NO_VECTORS = "this host has no vector search: put the text that matters into the prompt"
_NO_WEB_SEARCH = "this host does not search the web: put the text that matters into the prompt"


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadVectorsResponse:
    """No vector was stored."""

    request_id: str | None
    rejected: int
    error: str

    def to_json(self) -> dict[str, Json]:
        return {
            "type": "uploadVectorsResponse",
            "requestId": self.request_id,
            "status": "error",
            "uploaded": 0,
            "rejected": self.rejected,
            "errors": [self.error],
            "error": self.error,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchVectorsResponse:
    """Nothing was searched."""

    request_id: str | None
    error: str

    def to_json(self) -> dict[str, Json]:
        return {
            "type": "searchVectorsResponse",
            "requestId": self.request_id,
            "results": [],
            "totalVectors": 0,
            "searchTimeMs": 0,
            "error": self.error,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResponse:
    """The web was not searched.

    Attributes:
        kind: the frame's type. No document names it; both names that fit the others are sent.
    """

    kind: str
    request_id: str | None
    error: str

    def to_json(self) -> dict[str, Json]:
        return {
            "type": self.kind,
            "requestId": self.request_id,
            "results": [],
            "resultCount": 0,
            "searchTimeMs": 0,
            "error": self.error,
        }


SEARCH_RESPONSES = ("searchError", "searchResponse", "searchResults")
"""The refusal first: who knows it never takes the empty answers behind it for results."""


def refusal(message: Unsupported) -> list[Frame]:
    """The frames that end the wait of the client that sent it."""
    match message.kind:
        case "uploadVectors":
            return [
                UploadVectorsResponse(
                    request_id=_request_id(message),
                    rejected=message.num_vectors,
                    error=_text(_NO_VECTORS),
                )
            ]
        case "searchVectors":
            return [
                SearchVectorsResponse(request_id=_request_id(message), error=_text(_NO_VECTORS))
            ]
        case "searchRequest":
            request_id, error = _request_id(message), _text(_NO_WEB_SEARCH)
            return [
                SearchResponse(kind=kind, request_id=request_id, error=error)
                for kind in SEARCH_RESPONSES
            ]
        case _:
            return _errors(message)


def _errors(message: Unsupported) -> list[Frame]:
    kind = message.kind
    if kind not in _IN_CLEAR and kind not in _HANDSHAKES_IN_CLEAR:
        instead = f": {_INSTEAD[kind]}" if kind in _INSTEAD else ""
        text = f"this host does not serve {kind}{instead}"
        return [_error(message, text, code="UNSUPPORTED_MESSAGE")]
    text = (
        f"{kind} travels in clear and anyone could send it for anyone's session: "
        "use encrypted_session_init and encrypted_message"
    )
    error = _error(message, text, code="ENCRYPTION_REQUIRED")
    if kind in _HANDSHAKES_IN_CLEAR:
        return [error]
    end = StreamEnd(session_id=message.session_id or "", id=error.id, reason="error", tokens_used=0)
    return [error, end]


def _error(message: Unsupported, text: str, *, code: str) -> ErrorMessage:
    return ErrorMessage(
        code=code,
        message=unmistakable(code, text),
        session_id=message.session_id,
        id=message.request_id if message.id is None else message.id,
    )


def _request_id(message: Unsupported) -> str | None:
    return message.id if message.request_id is None else message.request_id


def _text(message: str) -> str:
    return text_prefix("UNSUPPORTED_MESSAGE") + message
