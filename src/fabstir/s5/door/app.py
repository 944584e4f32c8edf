"""The ASGI application of an S5 node: its routes and the middleware around them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from fabstir.primitives.encoding import encode_multibase
from fabstir.primitives.errors import FabstirError
from fabstir.s5.door.accounts import AccountDoors
from fabstir.s5.door.answers import json_response, on_error, on_gone, on_method, on_missing
from fabstir.s5.door.blobs import BlobDoors
from fabstir.s5.door.bridge import BridgeDoors
from fabstir.s5.door.guard import Guard
from fabstir.s5.door.peers import PeerDoor
from fabstir.s5.door.registry import RegistryDoors
from fabstir.s5.door.services import S5Services
from fabstir.s5.door.tus import TusDoors
from fabstir.s5.formats.multikey import encode_multikey
from fabstir.web.unread import CloseUnread

_EXPOSED_HEADERS: Final = (
    "Accept-Ranges",
    "Content-Length",
    "Content-Range",
    "ETag",
    "Location",
    "Retry-After",
    "S5-Modified",
    "Tus-Checksum-Algorithm",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Resumable",
    "Tus-Version",
    "Upload-Cid",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
)
"""What a page of another origin may see of an answer."""

ErrorHandler = Callable[[Request, Exception], Awaitable[Response]]


def create_s5_app(services: S5Services) -> Starlette:
    """Portal API, bridge REST, P2P WebSocket and health of one node."""
    blobs = BlobDoors(services)
    status = _StatusDoors(services)
    routes = [
        *status.routes(),
        *TusDoors(services).routes(),
        *AccountDoors(services).routes(),
        *RegistryDoors(services).routes(),
        *BridgeDoors(services).routes(),
        *blobs.routes(),
        *PeerDoor(services).routes(),
        *blobs.root_routes(),
    ]
    # Any page may ask, and write with a token that it holds itself; cookies are never let through.
    cors = Middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["*"],
        allow_headers=["*"],
        expose_headers=list(_EXPOSED_HEADERS),
        max_age=86_400,
    )
    handlers: Mapping[int | type[Exception], ErrorHandler] = {
        FabstirError: on_error,
        ClientDisconnect: on_gone,
        404: on_missing,
        405: on_method,
    }
    return Starlette(
        routes=routes,
        middleware=[cors, Middleware(CloseUnread), Middleware(Guard, services=services)],
        exception_handlers=dict(handlers),
    )


class _StatusDoors:
    """What a node says of itself."""

    def __init__(self, services: S5Services) -> None:
        self._services = services

    def routes(self) -> list[Route]:
        return [
            Route("/health", self.health),
            Route("/s5/health", self.health),
            Route("/s5/version", self.version),
            Route("/s5/p2p/nodes", self.nodes),
        ]

    async def health(self, _request: Request) -> Response:
        return json_response(await self._services.health())

    async def version(self, _request: Request) -> Response:
        return json_response({"node": self._services.version})

    async def nodes(self, _request: Request) -> Response:
        """This node's identity, and where other nodes reach it."""
        node = {
            "id": encode_multibase(encode_multikey(self._services.node_id), "z"),
            "uris": list(self._services.p2p_uris),
        }
        return json_response({"nodes": [node]})
