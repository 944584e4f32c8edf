"""The one table that turns errors into what goes over a wire."""

from __future__ import annotations

from collections.abc import Mapping

from fabstir.primitives.errors import (
    AccessDenied,
    BlobTooLarge,
    Busy,
    ChainError,
    ContextLengthExceeded,
    ConversationRefused,
    CorruptBlob,
    DepositExhausted,
    EngineCrashed,
    EngineUnavailable,
    FabstirError,
    FetchFailed,
    HashMismatch,
    NotFound,
    PathRefused,
    PortalError,
    QuotaExceeded,
    ReceiptMismatch,
    RegistryFull,
    RemoteProtocolError,
    SessionRefused,
    StorageError,
    StorageFull,
    WriteConflict,
)
from fabstir.protocol.codes import ERROR_CODES, unmistakable
from fabstir.protocol.host_messages import ErrorMessage

_CODES: tuple[tuple[type[FabstirError], str], ...] = (
    (ContextLengthExceeded, "TOKEN_LIMIT_EXCEEDED"),
    (ConversationRefused, "CONVERSATION_REFUSED"),
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

_HTTP: tuple[tuple[type[FabstirError], int, str], ...] = (
    (RemoteProtocolError, 400, "validation_error"),
    (ConversationRefused, 400, "validation_error"),
    (NotFound, 404, "not_found"),
    (PathRefused, 400, "path_refused"),
    (HashMismatch, 400, "hash_mismatch"),
    (BlobTooLarge, 413, "too_large"),
    (QuotaExceeded, 507, "quota_exceeded"),
    (StorageFull, 507, "storage_full"),
    (RegistryFull, 507, "registry_full"),
    (WriteConflict, 409, "conflict"),
    (AccessDenied, 403, "forbidden"),
    (Busy, 429, "too_many_requests"),
    (CorruptBlob, 502, "corrupt_blob"),
    (PortalError, 502, "bad_gateway"),
    (FetchFailed, 502, "bad_gateway"),
    (StorageError, 500, "storage_error"),
    (EngineUnavailable, 503, "service_unavailable"),
    (ChainError, 503, "service_unavailable"),
)


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


class HttpRefusal(FabstirError):
    """What only HTTP knows: a missing token, a header that is needed, a body that is too slow.

    Attributes:
        headers: go with the answer.
    """

    def __init__(
        self, status: int, kind: str, message: str, *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.headers = headers or {}


def http_error(error: FabstirError) -> tuple[int, str]:
    """Status and era-C's error_type."""
    if isinstance(error, HttpRefusal):
        return error.status, error.kind
    for kind, status, name in _HTTP:
        if isinstance(error, kind):
            return status, name
    return 500, "internal_error"
