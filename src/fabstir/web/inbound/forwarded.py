"""Behind a reverse proxy every connection is the proxy's: places are counted by request instead,
and a connection is counted for whom its last request came from.
"""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from fabstir.primitives.errors import Busy
from fabstir.web.addresses import address_group
from fabstir.web.answers import busy_response
from fabstir.web.inbound.connections import FORWARDED_FOR, DoorLimits
from fabstir.web.rates import Slots


class ForwardedPlaces:
    """ASGI middleware: so many requests and WebSockets at once for each address that a proxy
    forwards for. Who is behind a proxy is in the scope already.
    """

    def __init__(self, app: ASGIApp, limits: DoorLimits) -> None:
        self._app = app
        self._slots = Slots(limits.max_per_address, "connections")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or one WebSocket from open to close."""
        if scope["type"] not in {"http", "websocket"}:
            return await self._app(scope, receive, send)
        client = HTTPConnection(scope).client
        host = "" if client is None else client.host
        if (is_forwarded_for := scope.get("state", {}).get(FORWARDED_FOR)) is not None:
            is_forwarded_for(host)
        try:
            with self._slots.hold(address_group(host)):
                return await self._app(scope, receive, send)
        except Busy as error:
            return await busy_response(error)(scope, receive, send)
