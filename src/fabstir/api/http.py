"""The HTTP doors: health, models, version, the key challenge, checkpoints and blobs by CID."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from fabstir.api.host_guard import HostGuard
from fabstir.primitives.cid import BlobId
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import (
    BlobTooLarge,
    ChainError,
    FabstirError,
    NotFound,
    RemoteProtocolError,
)
from fabstir.primitives.ids import ChainId, JobId
from fabstir.protocol.codes import ERROR_CODES
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.fields import Fields
from fabstir.s5.door.serving import Representation, means_blob, serve
from fabstir.s5.ports import Blobs
from fabstir.web.answers import error_body
from fabstir.web.bodies import BodyLimits, read_json
from fabstir.web.errors import http_error
from fabstir.web.unread import CloseUnread

_MAX_JOB_ID_DIGITS = 18
_BODY_LIMITS = BodyLimits()
_MAX_BLOB_BYTES = 64 << 20
"""Longest blob that this door gives: proofs and checkpoints are far shorter. S5's own door, in
`s5/door`, gives blobs of any length."""

_WHOLE_BLOB_BYTES = 1 << 20
"""Up to this length a blob is read as a whole; a longer one is never in memory."""

_WRITE_TIMEOUT = 60.0
"""Seconds for a piece of a longer one to leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpServices:
    """What the HTTP doors translate to."""

    session_door: Callable[[WebSocket], Awaitable[None]]
    blobs: Blobs
    checkpoint_index: Callable[[JobId], Awaitable[bytes | None]]
    health: Callable[[], Awaitable[Json]]
    version: Json
    models: Callable[[], Json]
    chains: Json
    chain_id: ChainId
    encryption_secret: bytes = field(repr=False)
    crypto: Crypto
    on_refused: Callable[[str], None] = lambda _why: None


def create_app(services: HttpServices) -> Starlette:
    """The ASGI application of a host."""
    doors = _Doors(services)
    routes = [
        Route("/health", doors.health),
        Route("/v1/health", doors.health),
        Route("/v1/version", doors.version),
        Route("/v1/models", doors.models),
        Route("/v1/chains", doors.chains),
        Route("/v1/auth/challenge", doors.challenge, methods=["POST"]),
        Route("/v1/checkpoints/{session_id}", doors.checkpoints),
        Route("/s5/blob/{cid}", doors.blob),
        WebSocketRoute("/v1/ws", services.session_door),
    ]
    # Any page may ask: nothing here is protected by cookies, and browsers are renters too.
    cors = Middleware(CORSMiddleware, allow_origins=["*"], allow_methods=["GET", "POST"])
    handlers = {
        FabstirError: _on_error,
        ClientDisconnect: _on_gone,
        404: _on_missing,
        405: _on_method,
    }
    guard = Middleware(HostGuard, on_refused=services.on_refused)
    return Starlette(
        routes=routes,
        middleware=[cors, Middleware(CloseUnread), guard],
        exception_handlers=handlers,
    )


class _Doors:
    def __init__(self, services: HttpServices) -> None:
        self._services = services

    async def health(self, _request: Request) -> Response:
        return JSONResponse(await self._services.health())

    async def version(self, _request: Request) -> Response:
        return JSONResponse(self._services.version)

    async def models(self, request: Request) -> Response:
        wanted = request.query_params.get("chain_id")
        if wanted is not None and wanted != str(self._services.chain_id):
            raise RemoteProtocolError(
                f"this host serves chain {self._services.chain_id}, not {wanted}"
            )
        return JSONResponse(self._services.models())

    async def chains(self, _request: Request) -> Response:
        return JSONResponse(self._services.chains)

    async def challenge(self, request: Request) -> Response:
        """Prove possession of the encryption key, and let the caller recover its public half."""
        body = await read_json(request, _BODY_LIMITS)
        challenge = Fields.parse(body, "challenge").hex("challenge", size=32)
        digest = hashlib.sha256(challenge).digest()
        signature = self._services.crypto.sign(self._services.encryption_secret, digest)
        return JSONResponse({"signature": signature[:64].hex(), "recid": signature[64]})

    async def checkpoints(self, request: Request) -> Response:
        session_id: str = request.path_params["session_id"]
        if not session_id.isascii() or not session_id.isdigit():
            raise RemoteProtocolError("session ids are decimal numbers")
        if len(session_id) > _MAX_JOB_ID_DIGITS:
            raise NotFound(f"nothing was claimed for session {session_id[:32]}")
        index = await self._services.checkpoint_index(JobId(int(session_id)))
        if index is None:
            raise NotFound(f"nothing was claimed for session {session_id}")
        return Response(index, media_type="application/json")

    async def blob(self, request: Request) -> Response:
        cid: str = request.path_params["cid"]
        try:
            blob = BlobId.decode(cid)
        except ValueError as error:
            raise RemoteProtocolError(f"{cid[:80]} is not a blob identifier: {error}") from error
        if blob.size > _WHOLE_BLOB_BYTES:
            return await self._stream(request, blob)
        data = await self._services.blobs.get(blob.multihash, max_bytes=_WHOLE_BLOB_BYTES)
        if len(data) != blob.size:
            raise NotFound(f"the blob of {cid} has {len(data)} bytes, not {blob.size}")
        headers = {"ETag": f'"{blob.encode()}"', "Cache-Control": "public, immutable"}
        return Response(data, media_type="application/octet-stream", headers=headers)

    async def _stream(self, request: Request, blob: BlobId) -> Response:
        if blob.size > _MAX_BLOB_BYTES:
            raise BlobTooLarge(_MAX_BLOB_BYTES)
        shown = Representation(
            size=blob.size,
            etag=blob.encode(),
            is_it=means_blob(blob),
            read=lambda start, end: self._services.blobs.read(blob, start, end),
        )
        return await serve(request, shown, write_timeout=_WRITE_TIMEOUT)


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
