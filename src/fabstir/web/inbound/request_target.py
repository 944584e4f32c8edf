"""The forms of a request's target (RFC 9112, section 3.2), brought to the one that doors know.

GET /s5/health HTTP/1.1                             origin form
GET http://127.0.0.1:5522/s5/health HTTP/1.1        absolute form: what is sent to a proxy, and
                                                    what every server must take
OPTIONS * HTTP/1.1                                  asterisk form: the server as a whole
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

_ABSOLUTE: Final = re.compile(rb"(?i:https?|wss?)://([^/?#]*)(/.*)?", re.DOTALL)
_AUTHORITY: Final = re.compile(rb"(?:[A-Za-z0-9._~%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
"""A host and perhaps a port. A user before an @ is refused, as RFC 9110 (4.2.4) advises."""


class RequestTargets:
    """ASGI middleware before all doors."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the upgrade to a WebSocket."""
        if scope["type"] not in {"http", "websocket"} or scope["path"].startswith("/"):
            return await self._app(scope, receive, send)
        if scope["type"] == "http" and scope["path"] == "*" and scope["method"] == "OPTIONS":
            return await Response(status_code=204)(scope, receive, send)
        match = _ABSOLUTE.fullmatch(_raw_path(scope))
        if match is None or not _AUTHORITY.fullmatch(match[1]):
            return await _refuse(scope, receive, send)
        return await self._app(_in_origin_form(scope, match[1], match[2] or b"/"), receive, send)


def _raw_path(scope: Scope) -> bytes:
    """Without the query: uvicorn's WebSockets give no raw path."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0]


def _in_origin_form(scope: Scope, authority: bytes, path: bytes) -> Scope:
    # Whose server is meant is said by the target then, and not by Host (RFC 9112, 3.2.2).
    headers: Iterable[tuple[bytes, bytes]] = scope["headers"]
    others = [(name, value) for name, value in headers if name.lower() != b"host"]
    return {
        **scope,
        "raw_path": path,
        "path": unquote(path.decode("ascii", "replace")),
        "headers": [(b"host", authority.lower()), *others],
    }


async def _refuse(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008, "reason": ""})
    text = "the request's target is a path that begins with /, or an absolute http:// URL\n"
    return await PlainTextResponse(text, 400)(scope, receive, send)
