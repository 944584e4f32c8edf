"""How the S5 doors answer: errors in the one shape that clients of the era know, and JSON."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import (
    Busy,
    CorruptBlob,
    FabstirError,
    QuotaExceeded,
    RemoteProtocolError,
)
from fabstir.web.answers import error_body, retry_after
from fabstir.web.errors import HttpRefusal, http_error

logger = logging.getLogger(__name__)

_OF_THE_NODE: Final[Mapping[str, str]] = {
    "storage_full": "this node's disk is full; nothing was kept",
    "corrupt_blob": "this node's copy is damaged, so it is not returned",
    "bad_gateway": "no other node or portal gave it",
    "storage_error": "this node failed",
    "internal_error": "this node failed",
}
"""Instead of texts with paths and addresses, which are for the node's log."""

SANDBOX: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "sandbox; default-src 'none'; style-src 'unsafe-inline'; "
    "img-src 'self' data:; media-src 'self'",
    "X-Content-Type-Options": "nosniff",
}
"""Blobs are strangers' bytes: a page among them must not act as a page of this node."""


def json_response(
    body: Json, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """JSON that nobody keeps."""
    return JSONResponse(body, status, {"Cache-Control": "no-store", **(headers or {})})


def error_response(error: FabstirError, *, status: int | None = None) -> Response:
    """An error as an answer.

    Args:
        status: instead of the table's: 412, where the client had set the condition.
    """
    found, kind = http_error(error)
    status = found if status is None else status
    message = str(error)
    if kind in _OF_THE_NODE:
        logger.warning("a request failed", extra={"kind": kind, "reason": message})
        message = _OF_THE_NODE[kind]
    headers = dict(error.headers) if isinstance(error, HttpRefusal) else {}
    if isinstance(error, Busy):
        headers |= retry_after(error)
    return json_response(error_body(kind, message, _details(error)), status, headers)


def _details(error: FabstirError) -> Json:
    if isinstance(error, QuotaExceeded):
        return {"limit_bytes": error.limit_bytes, "needed_bytes": error.needed_bytes}
    if isinstance(error, CorruptBlob):
        return {"blob": error.blob}
    if isinstance(error, RemoteProtocolError):
        return {"code": error.code}
    return None


async def on_error(_request: Request, error: Exception) -> Response:
    """Every error that a door raises on purpose."""
    assert isinstance(error, FabstirError)
    return error_response(error)


async def on_gone(request: Request, _error: Exception) -> Response:
    """The client hung up in the middle of its body; nobody reads this answer."""
    logger.debug("a client left in the middle of its body", extra={"path": request.url.path})
    return Response(status_code=400)


async def on_missing(request: Request, _error: Exception) -> Response:
    """No such route."""
    message = f"there is no {request.url.path[:200]}"
    return json_response(error_body("not_found", message), 404)


async def on_method(request: Request, error: Exception) -> Response:
    """A route, but not for this method. OPTIONS asks for just those that it has."""
    message = f"{request.url.path[:200]} does not take {request.method}"
    headers: Mapping[str, str] = getattr(error, "headers", None) or {}
    if request.method == "OPTIONS":
        return Response(status_code=204, headers=headers)
    return json_response(error_body("method_not_allowed", message), 405, headers)
