"""The one table that turns errors into HTTP statuses."""

from __future__ import annotations

from collections.abc import Mapping

from fabstir.primitives.errors import (
    AccessDenied,
    BlobTooLarge,
    Busy,
    ChainError,
    ConversationRefused,
    CorruptBlob,
    EngineUnavailable,
    FabstirError,
    FetchFailed,
    HashMismatch,
    NotFound,
    PathRefused,
    PortalError,
    QuotaExceeded,
    RegistryFull,
    RemoteProtocolError,
    RequestRefused,
    StorageError,
    StorageFull,
    WriteConflict,
)

_HTTP: tuple[tuple[type[FabstirError], int, str], ...] = (
    (RemoteProtocolError, 400, "validation_error"),
    (ConversationRefused, 400, "validation_error"),
    (RequestRefused, 400, "validation_error"),
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
