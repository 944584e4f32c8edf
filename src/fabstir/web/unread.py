"""What becomes of a body that nobody wanted: read away if it is short, else cut off.

A connection that is closed over unread bytes is reset, and the client may never see the answer
that says why; one that is kept open would be read to the end of a body of any length.
"""

from __future__ import annotations

from typing import Final

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_DRAINED_BYTES: Final = 1 << 20
DRAIN_SECONDS: Final = 1.0


class CloseUnread:
    """ASGI middleware: answers before the end of a request's body end the connection."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not _has_body(scope):
            return await self._app(scope, receive, send)
        body = _Body(receive)

        async def close(message: Message) -> None:
            if message["type"] == "http.response.start" and not body.is_read:
                # Who was too slow (408) would only be waited for again.
                if message["status"] != 408 and not _waits_for_continue(scope, body):
                    await body.drain()
                if not body.is_read:
                    message["headers"] = [*message.get("headers", []), (b"connection", b"close")]
            await send(message)

        return await self._app(scope, body.receive, close)


class _Body:
    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.has_begun = False
        self.is_read = False

    async def receive(self) -> Message:
        self.has_begun = True
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.is_read = True
        return message

    async def drain(self) -> None:
        num_bytes = 0
        with anyio.move_on_after(DRAIN_SECONDS):
            while not self.is_read and num_bytes <= MAX_DRAINED_BYTES:
                num_bytes += len((await self.receive()).get("body", b""))


def _has_body(scope: Scope) -> bool:
    names = {name for name, value in scope["headers"] if value != b"0"}
    return b"content-length" in names or b"transfer-encoding" in names


def _waits_for_continue(scope: Scope, body: _Body) -> bool:
    """Whether the client has not begun to send: asking for the body would make it."""
    return not body.has_begun and (b"expect", b"100-continue") in scope["headers"]
