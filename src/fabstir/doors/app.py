"""The ASGI application of a host: the routes of its doors, and what stands around all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute

from fabstir.doors.host_guard import HostGuard
from fabstir.primitives.errors import ChainError, FabstirError
from fabstir.protocol.codes import ERROR_CODES
from fabstir.web.answers import error_body
from fabstir.web.errors import http_error
from fabstir.web.unread import CloseUnread


def create_app(routes: Iterable[BaseRoute], *, on_refused: Callable[[str], None]) -> Starlette:
    """One application of all doors' routes.

    Args:
        on_refused: told what was refused because its address calls too often.
    """
    # Any page may ask: nothing here is protected by cookies, and browsers are renters too.
    cors = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "POST"])
    handlers = {
        FabstirError: _on_error,
        ClientDisconnect: _on_gone,
        404: _on_missing,
        405: _on_method,
    }
    guard = Middleware(HostGuard, on_refused=on_refused)
    return Starlette(
        routes=list(routes),
        middleware=[cors, Middleware(CloseUnread), guard],
        exception_handlers=handlers,
    )


def _error_response(status: int, kind: str, message: str) -> JSONResponse:
    return JSONResponse(error_body(kind, message), status_code=status)


async def _on_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, FabstirError)
    status, kind = http_error(error)
    message = str(error) if status < 500 or kind == "service_unavailable" else "this host failed"
    if isinstance(error, ChainError):
        message = ERROR_CODES["CHAIN_UNAVAILABLE"].meaning
    return _error_response(status, kind, message)


async def _on_gone(_request: Request, _error: Exception) -> Response:
    """The client hung up in the middle of its body; nobody reads this answer."""
    return Response(status_code=400)


async def _on_missing(request: Request, _error: Exception) -> Response:
    return _error_response(404, "not_found", f"there is no {request.url.path}")


async def _on_method(request: Request, error: Exception) -> Response:
    if request.method == "OPTIONS":  # asks for just the methods that there are
        return Response(status_code=204, headers=getattr(error, "headers", None))
    return _error_response(
        405, "method_not_allowed", f"{request.url.path} does not take {request.method}"
    )
