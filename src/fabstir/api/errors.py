"""The one table that turns errors into what goes over a wire."""

from __future__ import annotations

from fabstir.primitives.errors import (
    ChainError,
    ContextLengthExceeded,
    DepositExhausted,
    EngineCrashed,
    EngineUnavailable,
    FabstirError,
    ReceiptMismatch,
    RemoteProtocolError,
    SessionRefused,
    StorageError,
)
from fabstir.protocol.host_messages import ErrorMessage

_CODES: tuple[tuple[type[FabstirError], str], ...] = (
    (ContextLengthExceeded, "TOKEN_LIMIT_EXCEEDED"),
    (DepositExhausted, "DEPOSIT_EXHAUSTED"),
    (ReceiptMismatch, "RECEIPT_MISMATCH"),
    (EngineCrashed, "ENGINE_CRASHED"),
    (EngineUnavailable, "ENGINE_UNAVAILABLE"),
    (ChainError, "CHAIN_UNAVAILABLE"),
)

_HTTP: tuple[tuple[type[FabstirError], int, str], ...] = (
    (RemoteProtocolError, 400, "validation_error"),
    (StorageError, 404, "not_found"),
    (EngineUnavailable, 503, "service_unavailable"),
    (ChainError, 503, "service_unavailable"),
)


def error_message(
    error: FabstirError, *, session_id: str | None, request_id: str | None
) -> ErrorMessage:
    """An error as a frame. Errors that are none of the client's business get no detail."""
    if isinstance(error, RemoteProtocolError | SessionRefused):
        return ErrorMessage(
            code=error.code, message=str(error), session_id=session_id, id=request_id
        )
    code = next((code for kind, code in _CODES if isinstance(error, kind)), None)
    if code is None:
        return ErrorMessage(
            code="INTERNAL_ERROR",
            message="this host failed; what was not acknowledged is not billed",
            session_id=session_id,
            id=request_id,
        )
    is_context = isinstance(error, ContextLengthExceeded)
    return ErrorMessage(
        code=code,
        message=str(error),
        session_id=session_id,
        id=request_id,
        prompt_tokens=error.num_prompt_tokens if is_context else None,
        context_window_size=error.max_model_len if is_context else None,
    )


def http_error(error: FabstirError) -> tuple[int, str]:
    """Status and era-C's error_type."""
    for kind, status, name in _HTTP:
        if isinstance(error, kind):
            return status, name
    return 500, "internal_error"
