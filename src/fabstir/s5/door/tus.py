"""TUS 1.0.0: uploads that go on where they were cut off. Core, creation, termination, expiration,
checksum (https://tus.io/protocols/resumable-upload)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fabstir.primitives.errors import BlobTooLarge, RemoteProtocolError
from fabstir.s5.door.answers import error_body, json_response
from fabstir.s5.door.guard import require_caller
from fabstir.s5.door.services import S5Services
from fabstir.s5.door.tus_headers import (
    CHECKSUMS,
    EXTENSIONS,
    VERSION,
    parse_checksum,
    parse_expected_hash,
    parse_metadata,
    parse_number,
)
from fabstir.s5.transfer.resumable import ChecksumMismatch, Upload
from fabstir.web.bodies import stream_body
from fabstir.web.errors import HttpRefusal

PATH: Final = "/s5/upload/tus"
_BODY_TYPE: Final = "application/offset+octet-stream"


class TusDoors:
    """The uploads of all accounts; nobody sees another's."""

    def __init__(self, services: S5Services) -> None:
        self._services = services
        self._slots = services.upload_queue()

    def routes(self) -> list[Route]:
        return [
            Route(PATH, self.options, methods=["OPTIONS"]),
            Route(PATH, self.create, methods=["POST"]),
            Route(PATH + "/{id}", self.options, methods=["OPTIONS"]),
            # HEAD alone: Starlette would add it to GET, which TUS does not have.
            Route(PATH + "/{id}", self.status, methods=["HEAD"]),
            Route(PATH + "/{id}", self.append, methods=["PATCH"]),
            Route(PATH + "/{id}", self.terminate, methods=["DELETE"]),
        ]

    async def options(self, _request: Request) -> Response:
        """What this server can do."""
        headers = {
            "Tus-Resumable": VERSION,
            "Tus-Version": VERSION,
            "Tus-Extension": EXTENSIONS,
            "Tus-Max-Size": str(self._services.limits.max_upload_bytes),
            "Tus-Checksum-Algorithm": ",".join(CHECKSUMS),
        }
        return Response(status_code=204, headers=headers)

    async def create(self, request: Request) -> Response:
        """Begin an upload; 409 if the node has the blob: it is pinned, nothing is left to send."""
        _check_version(request)
        caller = require_caller(request)
        if "upload-defer-length" in request.headers:
            raise RemoteProtocolError("Upload-Length is needed when an upload begins")
        length = parse_number(request.headers.get("upload-length"), "Upload-Length")
        if length > self._services.limits.max_upload_bytes:
            raise BlobTooLarge(self._services.limits.max_upload_bytes)
        metadata = request.headers.get("upload-metadata", "")
        upload = await self._services.uploads.create(
            caller.owner,
            length,
            expected=parse_expected_hash(parse_metadata(metadata)),
            metadata=metadata,
            quota=self._services.accounts.quota(caller),
        )
        if upload.blob is not None and length:
            # As the Dart node answers; unlike there the pin is made.
            cid = upload.blob.encode("z")
            message = "this node has the blob already, and keeps it for this account now"
            headers = {"Tus-Resumable": VERSION, "Upload-Cid": cid}
            return json_response(error_body("conflict", message, {"cid": cid}), 409, headers)
        # Absolute, because clients of S5 lose the port of a relative one (lib5's TUS client). Where
        # the node has a URL of its own, that one: a proxy before it speaks plain HTTP to it, and
        # what of the client's request it passes on is the proxy's own matter.
        asked = f"{request.url.scheme}://{request.url.netloc}"
        location = f"{self._services.public_url or asked}{PATH}/{upload.id}"
        return Response(status_code=201, headers=_headers(upload) | {"Location": location})

    async def status(self, request: Request) -> Response:
        """How far it is."""
        _check_version(request)
        upload = await self._services.uploads.find(
            request.path_params["id"], require_caller(request).owner
        )
        headers = _headers(upload) | {
            "Upload-Length": str(upload.length),
            "Cache-Control": "no-store",
        }
        if upload.metadata:
            headers["Upload-Metadata"] = upload.metadata
        return Response(status_code=200, headers=headers)

    async def append(self, request: Request) -> Response:
        """Go on. What has arrived before a request breaks off is kept, except with a checksum."""
        _check_version(request)
        caller = require_caller(request)
        if request.headers.get("content-type", "").lower() != _BODY_TYPE:
            raise HttpRefusal(415, "unsupported_media_type", f"the Content-Type is {_BODY_TYPE}")
        offset = parse_number(request.headers.get("upload-offset"), "Upload-Offset")
        checksum = parse_checksum(request.headers.get("upload-checksum"))
        limits = self._services.limits
        pieces = stream_body(request, limits, max_bytes=limits.max_upload_bytes)
        uploads, upload_id = self._services.uploads, request.path_params["id"]
        async with self._slots.hold(caller.owner):
            try:
                if checksum is None:
                    upload = await uploads.append(upload_id, caller.owner, offset, pieces)
                else:
                    upload = await uploads.append(
                        upload_id,
                        caller.owner,
                        offset,
                        pieces,
                        algorithm=checksum.algorithm,
                        is_right=checksum.is_of,
                    )
            except ChecksumMismatch as error:
                raise HttpRefusal(460, "checksum_mismatch", str(error)) from error
        return Response(status_code=204, headers=_headers(upload))

    async def terminate(self, request: Request) -> Response:
        """Give it up. What it became, if it was whole, stays pinned."""
        _check_version(request)
        await self._services.uploads.terminate(
            request.path_params["id"], require_caller(request).owner
        )
        return Response(status_code=204, headers={"Tus-Resumable": VERSION})


def _check_version(request: Request) -> None:
    # S5's own clients of old send none; another one is refused as TUS demands.
    if request.headers.get("tus-resumable", VERSION) != VERSION:
        raise HttpRefusal(
            412,
            "precondition_failed",
            f"this server speaks TUS {VERSION}",
            headers={"Tus-Version": VERSION},
        )


def _headers(upload: Upload) -> dict[str, str]:
    expires = datetime.fromtimestamp(upload.expires_at, UTC)
    headers = {
        "Tus-Resumable": VERSION,
        "Upload-Offset": str(upload.offset),
        "Upload-Expires": format_datetime(expires, usegmt=True),
    }
    if upload.blob is not None:
        headers["Upload-Cid"] = upload.blob.encode("z")
    return headers
