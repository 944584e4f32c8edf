"""The one shape of errors that clients of the era know, whichever door answers."""

from __future__ import annotations

import math
from uuid import uuid4

from starlette.responses import JSONResponse, Response

from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import Busy
from fabstir.web.errors import http_error


def error_body(kind: str, message: str, details: Json = None) -> Json:
    """What every error looks like."""
    return {
        "error_type": kind,
        "message": message,
        "request_id": uuid4().hex,
        "details": details,
    }


def retry_after(error: Busy) -> dict[str, str]:
    """The header that says when to come again."""
    return {"Retry-After": str(max(1, math.ceil(error.retry_after)))}


def busy_response(error: Busy) -> Response:
    """Says when to come again: to an HTTP request, or instead of a WebSocket."""
    status, kind = http_error(error)
    return JSONResponse(error_body(kind, str(error)), status, retry_after(error))
