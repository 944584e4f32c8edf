"""How a door tells the server below it that a caller is somebody's.

Until then a WebSocket has a deadline, takes small frames only, and gives way to others when all
places are taken: web/inbound/connections.py, web/inbound/websocket_protocol.py.
"""

from __future__ import annotations

from typing import Final

from starlette.requests import HTTPConnection

PROVE: Final = "fabstir.prove"
"""Where the server puts the function into the scope's state; other servers may have none."""

UNPROVE: Final = "fabstir.unprove"
"""As `PROVE`, for the opposite."""


def prove(connection: HTTPConnection) -> None:
    """The caller has paid, or has a token of this node, or another node's key."""
    if (told := connection.scope.get("state", {}).get(PROVE)) is not None:
        told()


def unprove(connection: HTTPConnection) -> None:
    """What the caller had shown counts no more: it may show it anew, within the deadline."""
    if (told := connection.scope.get("state", {}).get(UNPROVE)) is not None:
        told()
