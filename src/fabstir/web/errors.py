"""Errors as HTTP says them, by the table in `protocol.codes`."""

from __future__ import annotations

from collections.abc import Mapping

from fabstir.primitives.errors import FabstirError
from fabstir.protocol.codes import row_of


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
    row = row_of(error)
    return row.status, row.kind
