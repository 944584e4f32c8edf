"""Blobs by identifier: download, upload in one request, pin, unpin, and where they are."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fabstir.primitives.cid import BlobId
from fabstir.primitives.encoding import Json, encode_multibase
from fabstir.primitives.errors import (
    BlobTooLarge,
    CorruptBlob,
    NotFound,
    QuotaExceeded,
    RemoteProtocolError,
)
from fabstir.s5.door.answers import json_response
from fabstir.s5.door.bodies import is_form, stream_file
from fabstir.s5.door.guard import caller_of, require_caller
from fabstir.s5.door.names import BlobName, encode_base64url, parse_blob_name
from fabstir.s5.door.services import S5Services
from fabstir.s5.door.serving import ReadRange, Representation, inline_as, means_blob, serve
from fabstir.s5.formats.limits import MAX_HAMT_NODE_BYTES
from fabstir.s5.formats.multikey import encode_multikey
from fabstir.s5.formats.wire import LocationType, StorageLocation
from fabstir.s5.fs import guess_media_type
from fabstir.s5.identities.accounts import Caller
from fabstir.web.bodies import content_length, stream_body

OUTBOARD_SUFFIX: Final = ".obao"
"""What S5's nodes put behind a blob's URL to ask for its verification tree (lib5)."""

MAX_TYPES: Final = 8
"""Location types that one query may name."""

OWN_LOCATION_SECONDS: Final = 3600
"""How long what is said of this disk holds, as the Dart node says of its own."""

_FORM_OVERHEAD_BYTES: Final = 256 * 1024
"""What a form may have beyond its file: fields, headers, boundaries."""


class BlobDoors:
    """Everything below /s5 that names blobs."""

    def __init__(self, services: S5Services) -> None:
        self._services = services
        self._uploads = services.upload_queue()

    def routes(self) -> list[Route]:
        return [
            Route("/s5/upload", self.upload, methods=["POST"]),
            Route("/s5/blob/{name}", self.here),
            Route("/s5/outboard/{name}", self.outboard),
            Route("/s5/download/{name}", self.download),
            Route("/s5/pin/{name}", self.pin, methods=["POST"]),
            Route("/s5/delete/{name}", self.unpin, methods=["DELETE"]),
            Route("/s5/debug/storage_locations/{name}", self.locations),
        ]

    def root_routes(self) -> list[Route]:
        """What must come after every other route of one segment."""
        return [Route("/{name}", self.show)]

    async def upload(self, request: Request) -> Response:
        """The body, or the field `file` of a form, becomes a blob that the caller pins."""
        caller = require_caller(request)
        limits = self._services.limits
        async with self._uploads.hold(caller.owner):
            room = await self._room(caller)
            has_form = is_form(request)
            overhead = _FORM_OVERHEAD_BYTES if has_form else 0
            length = content_length(request)
            if room is not None and length is not None and length > room + overhead:
                await self._refuse(caller, length)
            pieces: AsyncIterator[bytes] = stream_body(
                request, limits, max_bytes=limits.max_upload_bytes + overhead
            )
            if has_form:
                pieces = stream_file(request, pieces)
            blob = await self._store(caller, pieces, room)
        return json_response(blob_json(blob))

    async def _room(self, caller: Caller) -> int | None:
        """Bytes that the caller may still store: unfinished resumable uploads count as stored."""
        quota = self._services.accounts.quota(caller)
        if quota is None:
            return None
        usage = await self._services.store.usage(caller.owner)
        reserved = await self._services.uploads.reserved_bytes(caller.owner)
        return max(0, quota - usage.num_bytes - reserved)

    async def _store(
        self, caller: Caller, pieces: AsyncIterator[bytes], room: int | None
    ) -> BlobId:
        limit = self._services.limits.max_upload_bytes
        most = limit if room is None else min(limit, room)
        try:
            return await self._services.store.put(
                pieces, owner=caller.owner, reason="upload", max_bytes=most
            )
        except BlobTooLarge:
            if most < limit:
                await self._refuse(caller, most + 1)
            raise

    async def _refuse(self, caller: Caller, num_bytes: int) -> None:
        quota = self._services.accounts.quota(caller) or 0
        room = await self._room(caller) or 0
        raise QuotaExceeded(caller.owner, quota, quota - room + num_bytes)

    async def here(self, request: Request) -> Response:
        """A blob of this disk, or with `.obao` its verification tree. What is not here is not
        fetched (this URL is what peers are told), but a client is sent to who has it."""
        text: str = request.path_params["name"]
        is_outboard = text.endswith(OUTBOARD_SUFFIX)
        name = parse_blob_name(
            text.removesuffix(OUTBOARD_SUFFIX) if is_outboard else text.partition(".")[0]
        )
        try:
            blob = await self._find_here(name)
        except (NotFound, CorruptBlob):
            if wants_only_here(request):
                raise
            location = await self._services.place(name.hash)
            url = None if location is None else _url_of(location, is_outboard=is_outboard)
            if url is None:
                raise
            return Response(None, 307, {"Location": url, "Cache-Control": "no-store"})
        if is_outboard:
            return await self._outboard(request, name)
        return await self._serve_here(request, blob)

    async def outboard(self, request: Request) -> Response:
        """The verification tree of a blob of this disk."""
        return await self._outboard(request, parse_blob_name(request.path_params["name"]))

    async def _outboard(self, request: Request, name: BlobName) -> Response:
        blob = await self._find_here(name)

        async def read(start: int, end: int) -> AsyncIterator[bytes]:
            yield outboard[start:end]

        outboard = await self._services.outboards.get(blob)
        shown = Representation(
            size=len(outboard),
            etag=f"{blob.encode()}{OUTBOARD_SUFFIX}",
            is_it=lambda tag: tag == f"{blob.encode()}{OUTBOARD_SUFFIX}",
            read=read,
        )
        return await serve(request, shown, write_timeout=self._services.limits.write_timeout)

    async def download(self, request: Request) -> Response:
        """A blob, from this disk or from whoever has it."""
        name = parse_blob_name(request.path_params["name"].partition(".")[0])
        return await self._serve(request, name, "application/octet-stream", None)

    async def show(self, request: Request) -> Response:
        """A blob as a browser shows it: `/CID`, `/CID.png`, `/CID?filename=cat.png`."""
        text: str = request.path_params["name"]
        name = parse_blob_name(text.partition(".")[0])
        filename = request.query_params.get("filename", text)[:255]
        kind = guess_media_type(filename)
        if kind == "text/plain":
            kind += "; charset=utf-8"
        return await self._serve(request, name, kind, filename)

    async def _serve(
        self, request: Request, name: BlobName, media_type: str, filename: str | None
    ) -> Response:
        try:
            blob = await self._find_here(name)
        except (NotFound, CorruptBlob):
            if wants_only_here(request):
                raise
            return await self._serve_from_elsewhere(request, name, media_type, filename)
        return await self._serve_here(request, blob, media_type, filename)

    async def _find_here(self, name: BlobName) -> BlobId:
        """The blob of this hash. The size in the name is not compared: clients of the era write
        wrong ones from 2 GiB on, and the hash says it all.

        Raises:
            NotFound: it is not here.
            CorruptBlob: it has rotted.
        """
        size = await self._services.store.size(name.hash)
        if size is None:
            await self._services.store.get(name.hash, max_bytes=0)  # says what is the matter
            raise NotFound(f"there is no blob {name.hash.digest.hex()} here")
        return BlobId(name.hash.digest, size, name.hash.type)

    async def _serve_here(
        self,
        request: Request,
        blob: BlobId,
        media_type: str = "application/octet-stream",
        filename: str | None = None,
    ) -> Response:
        store = self._services.store
        return await serve(
            request,
            _representation(
                blob,
                lambda start, end: store.read(blob.multihash, start, end),
                media_type,
                filename,
            ),
            write_timeout=self._services.limits.write_timeout,
        )

    async def _serve_from_elsewhere(
        self, request: Request, name: BlobName, media_type: str, filename: str | None
    ) -> Response:
        blobs, limits = self._services.blobs, self._services.limits
        # Size 0 is how clients name a blob whose size they do not know.
        if not name.size:
            data = await blobs.get(name.hash, max_bytes=MAX_HAMT_NODE_BYTES)
            blob = BlobId(name.hash.digest, len(data), name.hash.type)

            async def read(start: int, end: int) -> AsyncIterator[bytes]:
                yield data[start:end]

        else:
            blob = BlobId(name.hash.digest, name.size, name.hash.type)
            if blob.size > limits.fetched_bytes and caller_of(request) is None:
                raise NotFound(
                    f"the blob is not here, and more than {limits.fetched_bytes} bytes are fetched "
                    "for accounts only: send a token"
                )

            def read(start: int, end: int) -> AsyncIterator[bytes]:
                return blobs.read(blob, start, end)

        shown = _representation(blob, read, media_type, filename)
        return await serve(request, shown, write_timeout=limits.write_timeout)

    async def pin(self, request: Request) -> Response:
        """Keep a blob in the caller's name; one that is elsewhere is fetched first."""
        caller = require_caller(request)
        name = parse_blob_name(request.path_params["name"])
        store = self._services.store
        try:
            await store.pin(caller.owner, [name.hash], reason="pin")
        except NotFound:
            if not name.size or wants_only_here(request):
                raise
            await self._fetch(caller, BlobId(name.hash.digest, name.size, name.hash.type))
        size = await store.size(name.hash) or 0
        return json_response(blob_json(BlobId(name.hash.digest, size, name.hash.type)))

    async def _fetch(self, caller: Caller, blob: BlobId) -> None:
        room = await self._room(caller)
        if room is not None and blob.size > room:
            await self._refuse(caller, blob.size)
        async with self._uploads.hold(caller.owner):
            await self._services.store.put(
                self._services.blobs.read(blob),
                owner=caller.owner,
                reason="pin",
                expected=blob.multihash,
                max_bytes=blob.size,
            )

    async def unpin(self, request: Request) -> Response:
        """Drop the caller's pin. Others' pins stay; no pin is no error."""
        caller = require_caller(request)
        name = parse_blob_name(request.path_params["name"])
        await self._services.store.unpin(caller.owner, [name.hash])
        return Response(status_code=204)

    async def locations(self, request: Request) -> Response:
        """Where a blob is: here, and where peers say."""
        blob = parse_blob_name(request.path_params["name"]).hash
        types = _types(request.query_params.get("types"))
        answer: list[dict[str, Json]] = []
        offer = await self._services.offer(blob)
        if offer is not None:
            expiry = int(time.time()) + OWN_LOCATION_SECONDS
            answer.append(_location(offer.type, offer.parts, expiry, self._services.node_id))
        for location in await self._services.find(blob):
            answer.append(
                _location(location.type, location.parts, location.expiry, location.public_key)
            )
        wanted = [entry for entry in answer if not types or entry["type"] in types]
        return json_response({"locations": wanted})


def _types(text: str | None) -> tuple[int, ...]:
    parts = [] if not text else text.split(",")
    if len(parts) > MAX_TYPES or not all(part.isascii() and part.isdigit() for part in parts):
        raise RemoteProtocolError("types are numbers between commas: types=3,5")
    if any(len(part) > 3 or int(part) > 255 for part in parts):
        raise RemoteProtocolError("location types are below 256")
    return tuple(int(part) for part in parts)


def _location(
    location_type: int, parts: Sequence[str], expiry: int, public_key: bytes
) -> dict[str, Json]:
    return {
        "type": int(location_type),
        "parts": list(parts),
        "expiry": expiry,
        "nodeId": encode_multibase(encode_multikey(public_key), "z"),
    }


def _url_of(location: StorageLocation, *, is_outboard: bool) -> str | None:
    """Where a location gives a blob, or its tree; None: it has none."""
    if not is_outboard:
        return location.parts[0]
    if location.type != LocationType.FULL:
        return None
    url, *others = location.parts
    return others[0] if others else url + OUTBOARD_SUFFIX


def _representation(
    blob: BlobId, read: ReadRange, media_type: str, filename: str | None
) -> Representation:
    return Representation(
        size=blob.size,
        etag=blob.encode(),
        is_it=means_blob(blob),
        read=read,
        media_type=media_type,
        headers={} if filename is None else {"Content-Disposition": inline_as(filename)},
    )


def blob_json(blob: BlobId) -> Json:
    """A blob as portals answer with it, and what else a client may want to know."""
    return {
        "cid": blob.encode("z"),
        "cidBase32": blob.encode("b"),
        "hash": encode_base64url(blob.multihash.to_bytes()),
        "size": blob.size,
    }


def wants_only_here(request: Request) -> bool:
    """Whether the client wants only what is on this disk (RFC 9111, only-if-cached).

    Nodes ask each other so: else two that each take the other for a portal would ask in circles.
    """
    directives = request.headers.get("cache-control", "").lower().split(",")
    return "only-if-cached" in {directive.strip() for directive in directives}
