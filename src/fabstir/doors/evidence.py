"""What a host has published: the checkpoints of its sessions, and blobs by their CID."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import BlobTooLarge, NotFound, RemoteProtocolError
from fabstir.primitives.ids import JobId
from fabstir.s5.door.serving import Representation, means_blob, serve
from fabstir.s5.ports import Blobs

_MAX_JOB_ID_DIGITS = 18
_MAX_BLOB_BYTES = 64 << 20
"""Longest blob that this door gives: proofs and checkpoints are far shorter. S5's own door, in
`s5/door`, gives blobs of any length."""

_WHOLE_BLOB_BYTES = 1 << 20
"""Up to this length a blob is read as a whole; a longer one is never in memory."""

_WRITE_TIMEOUT = 60.0
"""Seconds for a piece of a longer one to leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedEvidence:
    """GET /v1/checkpoints/{session_id} and /s5/blob/{cid}."""

    checkpoint_index: Callable[[JobId], Awaitable[bytes | None]]
    blobs: Blobs

    def routes(self) -> list[Route]:
        return [
            Route("/v1/checkpoints/{session_id}", self._checkpoints),
            Route("/s5/blob/{cid}", self._blob),
        ]

    async def _checkpoints(self, request: Request) -> Response:
        session_id: str = request.path_params["session_id"]
        if not session_id.isascii() or not session_id.isdigit():
            raise RemoteProtocolError("session ids are decimal numbers")
        if len(session_id) > _MAX_JOB_ID_DIGITS:
            raise NotFound(f"nothing was claimed for session {session_id[:32]}")
        index = await self.checkpoint_index(JobId(int(session_id)))
        if index is None:
            raise NotFound(f"nothing was claimed for session {session_id}")
        return Response(index, media_type="application/json")

    async def _blob(self, request: Request) -> Response:
        cid: str = request.path_params["cid"]
        try:
            blob = BlobId.decode(cid)
        except ValueError as error:
            raise RemoteProtocolError(f"{cid[:80]} is not a blob identifier: {error}") from error
        if blob.size > _WHOLE_BLOB_BYTES:
            return await self._stream(request, blob)
        data = await self.blobs.get(blob.multihash, max_bytes=_WHOLE_BLOB_BYTES)
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
            read=lambda start, end: self.blobs.read(blob, start, end),
        )
        return await serve(request, shown, write_timeout=_WRITE_TIMEOUT)
