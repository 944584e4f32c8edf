"""The table that turns errors into frames; `web.errors` has the one for HTTP."""

from __future__ import annotations

from fabstir.primitives.errors import (
    ChainError,
    ContextLengthExceeded,
    ConversationRefused,
    DepositExhausted,
    EngineCrashed,
    EngineUnavailable,
    FabstirError,
    ReceiptMismatch,
    RemoteProtocolError,
    RequestRefused,
    SessionRefused,
)
from fabstir.protocol.codes import ERROR_CODES, unmistakable
from fabstir.protocol.host_messages import ErrorMessage

_CODES: tuple[tuple[type[FabstirError], str], ...] = (
    (ContextLengthExceeded, "TOKEN_LIMIT_EXCEEDED"),
    (ConversationRefused, "CONVERSATION_REFUSED"),
    (RequestRefused, "UNSUPPORTED_REQUEST"),
    (DepositExhausted, "DEPOSIT_EXHAUSTED"),
    (ReceiptMismatch, "RECEIPT_MISMATCH"),
    (EngineCrashed, "ENGINE_CRASHED"),
    (EngineUnavailable, "ENGINE_UNAVAILABLE"),
    (ChainError, "CHAIN_UNAVAILABLE"),
    (FabstirError, "INTERNAL_ERROR"),
)

_OURS = frozenset({"INTERNAL_ERROR", "CHAIN_UNAVAILABLE"})
"""What is the host's own affair: its text may name places of this machine and its network, so a
client is told what it means for it; the log has the text."""


def error_message(
    error: FabstirError, *, session_id: str | None, request_id: str | None
) -> ErrorMessage:
    """An error as a frame. Errors that are none of the client's business get no detail."""
    if isinstance(error, RemoteProtocolError | SessionRefused):
        code = error.code
    else:
        code = next(code for kind, code in _CODES if isinstance(error, kind))
    message = ERROR_CODES[code].meaning if code in _OURS else str(error)
    is_context = isinstance(error, ContextLengthExceeded)
    return ErrorMessage(
        code=code,
        message=unmistakable(code, message),
        session_id=session_id,
        id=request_id,
        prompt_tokens=error.num_prompt_tokens if is_context else None,
        context_window_size=error.max_model_len if is_context else None,
    )
