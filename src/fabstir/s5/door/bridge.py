"""The owner's files by path: PUT, GET, HEAD, DELETE and lists below /s5/fs.

With a capability in the header S5-Capability, paths are read in the directory that somebody shared.
It is a secret, so it never stands in a URL: those are logged, and kept in histories.

The same URLs serve clients of the Enhanced S5.js server, whose `/s5/fs/:type/:id` are paths of two
names and whose `/s5/fs/:type` lists the names: answers hold the fields that each of them reads.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Final

from starlette.convertors import Convertor, register_url_convertor
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fabstir.primitives.cid import BlobId
from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import (
    AccessDenied,
    NotFound,
    PathRefused,
    RemoteProtocolError,
    WriteConflict,
)
from fabstir.s5.door.answers import error_response, json_response
from fabstir.s5.door.guard import require_owner
from fabstir.s5.door.names import decode_path
from fabstir.s5.door.ranges import Condition, parse_condition
from fabstir.s5.door.services import S5Services
from fabstir.s5.door.serving import Representation, means_blob, serve
from fabstir.s5.fs import DirectoryInfo, FileInfo, Info, ReadOnlyTree, is_media_type, open_tree
from fabstir.web.bodies import stream_body
from fabstir.web.errors import HttpRefusal

PREFIX: Final = "/s5/fs"
CAPABILITY_HEADER: Final = "S5-Capability"
MAX_LIST_ENTRIES: Final = 1000
"""Entries of one page, some 300 KiB of JSON."""

_FORM: Final = "application/x-www-form-urlencoded"
"""What curl writes where nobody chose a type, and so no file's."""

_PRIVATE: Final = "private, no-cache"
"""May be kept by the owner's own client, and is asked for again each time: the ETag tells."""


class _AnyText(Convertor[str]):
    """Starlette's own `path` without its exception: a path with a line break in it is refused by
    name, and not missing."""

    regex = "(?s:.*)"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("any_text", _AnyText())


class BridgeDoors:
    """Everything below /s5/fs; the owner's token opens it."""

    def __init__(self, services: S5Services) -> None:
        self._services = services
        self._files = services.files
        self._slots = services.upload_queue()

    def routes(self) -> list[Route]:
        methods = ["GET", "PUT", "DELETE"]
        paths = (PREFIX, PREFIX + "/{path:any_text}")
        return [Route(path, self.answer, methods=methods) for path in paths]

    async def answer(self, request: Request) -> Response:
        """One route for all methods, so that a 405 names all of them."""
        doors = {"PUT": self.write, "DELETE": self.delete}
        return await doors.get(request.method, self.read)(request)

    async def read(self, request: Request) -> Response:
        """A file, whole or in part; or a page of a directory's list."""
        require_owner(request)
        path = _path(request).removesuffix("/")
        limit = _limit(request.query_params.get("limit"))
        with _as_the_node():
            tree = self._tree(request)
            if "list" in request.query_params:
                return await self._list(request, tree, path, limit)
            info = await tree.stat(path)
            if isinstance(info, DirectoryInfo):
                return await self._list(request, tree, path, limit)
            return await self._serve(request, tree, path, info)

    def _tree(self, request: Request) -> ReadOnlyTree:
        """The owner's own, or what the request's capability opens."""
        capability = request.headers.get(CAPABILITY_HEADER)
        if capability is None:
            return self._files
        services = self._services
        return open_tree(capability, services.blobs, services.registry, services.crypto)

    async def _serve(
        self, request: Request, tree: ReadOnlyTree, path: str, info: FileInfo
    ) -> Response:
        media_type = info.media_type if is_media_type(info.media_type) else None
        # Of this version only: a file that is replaced meanwhile is not mixed with its successor.
        read = partial(tree.read, path, version=info.cid)
        headers = {"Vary": CAPABILITY_HEADER}
        if (modified := _shown_time(info.modified_at)) is not None:
            headers["S5-Modified"] = modified
        shown = Representation(
            size=info.size,
            etag=info.cid,
            is_it=means_blob(BlobId.decode(info.cid)),
            read=read,
            media_type=media_type or "application/octet-stream",
            cache_control=_PRIVATE,
            headers=headers,
        )
        return await serve(request, shown, write_timeout=self._services.limits.write_timeout)

    async def _list(self, request: Request, tree: ReadOnlyTree, path: str, limit: int) -> Response:
        cursor = request.query_params.get("cursor") or None
        page = await tree.list(path, cursor=cursor, limit=limit)
        entries = [_entry(info) for info in page.entries]
        body: Json = {
            "path": path,
            "entries": entries,
            "items": [entry["name"] for entry in entries],
            "cursor": page.cursor,
            "numRefused": page.num_refused,
        }
        return json_response(body)

    async def write(self, request: Request) -> Response:
        """A file from the body; with a slash at the end of the path, a directory."""
        caller = require_owner(request)
        _refuse_capability(request)
        if "content-range" in request.headers:
            # RFC 9110, 14.4: such a body is a part, and must not become the whole file.
            raise RemoteProtocolError("a PUT with Content-Range: files are written whole here")
        path = _path(request)
        if path.endswith("/") or not path:
            with _as_the_node():
                directory = await self._files.make_directory(path.removesuffix("/"))
            made: Json = {"success": True, "path": directory.path, "type": "directory"}
            return json_response(made, 201)
        media_type = _media_type(request)
        limits = self._services.limits
        pieces = stream_body(request, limits, max_bytes=limits.max_upload_bytes)
        wanted, is_new = _conditions(request)
        async with self._slots.hold(caller.owner):
            with _as_the_node():
                try:
                    info = await self._files.put(
                        path,
                        pieces,
                        media_type,
                        if_match=await self._matching(path, wanted),
                        if_none_match=is_new,
                        encrypt=request.query_params.get("encrypt") != "false",
                    )
                except WriteConflict as error:
                    return error_response(error, status=412 if wanted or is_new else None)
        return json_response(_written(info), 200 if info.num_versions > 1 else 201, _etag(info))

    async def delete(self, request: Request) -> Response:
        """A file; a directory if it is empty, or with `?recursive=true`."""
        require_owner(request)
        _refuse_capability(request)
        path = _path(request).removesuffix("/")
        wants_json = "application/json" in request.headers.get("accept", "")
        wanted, _ = _conditions(request)
        with _as_the_node():
            try:
                await self._files.delete(
                    path,
                    recursive=request.query_params.get("recursive") == "true",
                    if_match=await self._matching(path, wanted),
                )
            except WriteConflict as error:
                return error_response(error, status=412 if wanted else None)
            except NotFound:
                if not wants_json:
                    raise
                return json_response({"success": False})
        # What asks for JSON is a client of the Enhanced S5.js server, which reads a body.
        return json_response({"success": True}) if wants_json else Response(status_code=204)

    async def _matching(self, path: str, condition: Condition | None) -> str | None:
        """The CID that must be there; None: whatever is.

        Raises:
            WriteConflict: what is there is none of those that If-Match names.
        """
        if condition is None:
            return None
        try:
            info = await self._files.stat(path)
        except NotFound:
            raise WriteConflict(path, "there is nothing, and If-Match wants something") from None
        if isinstance(info, DirectoryInfo):
            raise PathRefused(f"{path!a} is a directory, which has no ETag")
        if not condition.names(means_blob(BlobId.decode(info.cid)), is_strong=True):
            raise WriteConflict(path, f"it is {info.cid} now")
        return info.cid


@contextmanager
def _as_the_node() -> Generator[None]:
    """Bytes of a directory that are none are the node's trouble, not the client's: 502."""
    try:
        yield
    except RemoteProtocolError as error:
        raise HttpRefusal(502, "corrupt_directory", f"a directory is damaged: {error}") from error


def _shown_time(seconds: float | None) -> str | None:
    """None: it is not written down, or is beyond the year 9999, which others may write as they
    like and RFC 3339 cannot say."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    except (ValueError, OverflowError, OSError):
        return None


def _refuse_capability(request: Request) -> None:
    if CAPABILITY_HEADER in request.headers:
        raise AccessDenied(
            f"{CAPABILITY_HEADER} is for reading: mount the directory (`fabstir s5 mount`), and "
            "write below the path that it has then"
        )


def _conditions(request: Request) -> tuple[Condition | None, bool]:
    """If-Match, and whether nothing may be there (If-None-Match: *)."""
    if_none_match = parse_condition(request.headers.get("if-none-match"))
    if if_none_match is not None and not if_none_match.is_any:
        raise RemoteProtocolError("If-None-Match of a write is *: nothing may be there")
    return parse_condition(request.headers.get("if-match")), if_none_match is not None


def _path(request: Request) -> str:
    """The decoded path behind /s5/fs; a slash at its end is kept."""
    raw: bytes = request.scope["raw_path"]
    prefix = PREFIX.encode()
    if not raw.startswith(prefix) or raw[len(prefix) : len(prefix) + 1] not in {b"", b"/"}:
        raise PathRefused(f"paths are written behind {PREFIX}/, the slashes not encoded")
    rest = raw[len(prefix) + 1 :]
    is_directory = rest.endswith(b"/")
    path = decode_path(rest.removesuffix(b"/"))
    return path + "/" if is_directory and path else path


def _limit(text: str | None) -> int:
    if text is None:
        return MAX_LIST_ENTRIES
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and 1 <= int(text) <= 1000):
        raise RemoteProtocolError(f"limit is 1 to {MAX_LIST_ENTRIES}")
    return int(text)


def _media_type(request: Request) -> str | None:
    """What the client says; None: by the name's ending."""
    text = request.headers.get("content-type", "").strip()
    if not text or text.lower() == _FORM:
        return None
    if not is_media_type(text):
        raise RemoteProtocolError("the Content-Type is no media type")
    return text


def _etag(info: FileInfo) -> dict[str, str]:
    return {"ETag": f'"{info.cid}"'}


def _written(info: FileInfo) -> Json:
    return {
        "success": True,
        "path": info.path,
        "key": info.path,
        "size": info.size,
        "cid": info.cid,
        "mediaType": info.media_type,
        "encrypted": info.is_encrypted,
        # It is in this S5 node's store and registry, durably; copies to others follow.
        "networkUploaded": True,
    }


def _entry(info: Info) -> dict[str, Json]:
    name = info.path.rpartition("/")[2]
    if isinstance(info, DirectoryInfo):
        return {
            "name": name,
            "type": "directory",
            "cid": info.cid,
            "createdAt": info.created_at,
            "encrypted": info.is_encrypted,
        }
    return {
        "name": name,
        "type": "file",
        "size": info.size,
        "mediaType": info.media_type,
        "cid": info.cid,
        "modifiedAt": info.modified_at,
        "encrypted": info.is_encrypted,
    }
