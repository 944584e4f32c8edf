"""How often one address may call a host's HTTP doors: asked before any of them.

Blobs and checkpoints are read from the journal and the store, and the challenge is a signature:
those have rates of their own, well above what a renter needs to read a conversation back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from fabstir.primitives.errors import Busy
from fabstir.web.addresses import address_group
from fabstir.web.answers import busy_response
from fabstir.web.rates import Rates

CALLS_PER_SECOND: Final = 50.0
CALL_BURST: Final = 500
CHALLENGES_PER_SECOND: Final = 2.0
CHALLENGE_BURST: Final = 60
READS_PER_SECOND: Final = 20.0
READ_BURST: Final = 400
NUM_ADDRESSES: Final = 16_384
"""That are told apart; some 200 bytes each."""


class HostGuard:
    """ASGI middleware around all doors of a host."""

    def __init__(self, app: ASGIApp, on_refused: Callable[[str], None]) -> None:
        self._app = app
        self._on_refused = on_refused
        self._calls = _rates(CALLS_PER_SECOND, CALL_BURST)
        reads = _rates(READS_PER_SECOND, READ_BURST)
        self._costly: Mapping[str, Rates] = {
            "/v1/auth/": _rates(CHALLENGES_PER_SECOND, CHALLENGE_BURST),
            "/v1/checkpoints/": reads,
            "/s5/blob/": reads,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the upgrade to a WebSocket."""
        if scope["type"] not in {"http", "websocket"}:
            return await self._app(scope, receive, send)
        client = HTTPConnection(scope).client
        try:
            self._count(address_group("" if client is None else client.host), scope["path"])
        except Busy as error:
            self._on_refused("call")
            return await busy_response(error)(scope, receive, send)
        return await self._app(scope, receive, send)

    def _count(self, key: str, path: str) -> None:
        self._calls.take(key)
        for prefix, rates in self._costly.items():
            if path.startswith(prefix):
                rates.take(key)


def _rates(per_second: float, burst: int) -> Rates:
    return Rates(per_second, burst, num_keys=NUM_ADDRESSES)
