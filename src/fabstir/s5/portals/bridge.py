"""Files by path at somebody's `/s5/fs` bridge, with the methods of `fs.FileSystem`.

A bridge opens the directories and decrypts for its owner, so it is trusted with the content of
encrypted files: their ETag is the CID of what is stored, which says nothing about what comes out.
Files in clear are verified against theirs when they are read whole. Everything else that a bridge
may do wrong is found out: other lengths, other ranges, a file replaced in the middle of a read.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx

from fabstir.primitives.errors import (
    BlobTooLarge,
    NotFound,
    PathRefused,
    PortalLied,
    PortalUnavailable,
    WriteConflict,
)
from fabstir.s5.fs.contents import Data
from fabstir.s5.fs.paths import format_path, parse_path
from fabstir.s5.fs.values import DirectoryInfo, FileInfo, Info, Page
from fabstir.s5.portals._bridge_errors import bridge_error
from fabstir.s5.portals.answers import parse_cid
from fabstir.s5.portals.bridge_answers import (
    parse_etag,
    parse_file_headers,
    parse_page,
    parse_written,
)
from fabstir.s5.portals.download import content_length, read_content_range
from fabstir.s5.portals.http import MAX_ANSWER_BYTES, PortalAnswer, PortalHttp
from fabstir.s5.portals.retrying import keep_trying
from fabstir.s5.portals.source import PIECE_BYTES, UploadSource, new_hasher, spooled_source
from fabstir.s5.portals.spool import Spool, open_spool

_LOG = logging.getLogger(__name__)

PREFIX: Final = "/s5/fs"
RUN_BYTES: Final = 4 * 1024 * 1024
"""Bytes of one range: what is in memory at a time, and one round trip apart."""

MAX_LIST_BYTES: Final = 4 * 1024 * 1024
"""Longest page that is read: 1,000 names of 1 KiB, each with its CID, have 1.5 MiB."""

MAX_PAGE_ENTRIES: Final = 1000

_DONE = frozenset({200, 201, 204, 206})
_ALL = frozenset(range(200, 600)) - frozenset(range(300, 400))


class BridgeClient:
    """One bridge.

    Attributes:
        url: its origin.
    """

    def __init__(
        self, http: PortalHttp, *, token: str | None = None, spool_folder: Path | None = None
    ) -> None:
        """
        Args:
            token: of the bridge's owner; the original node's bridges need none.
            spool_folder: for streams that are written, and files of bridges without ranges; None:
                the system's.
        """
        self.url = http.url
        self._http = http
        self._token = token or None
        self._spool_folder = spool_folder

    async def stat(self, path: str) -> Info:
        """Describe a file or directory. Raises NotFound, AccessDenied, PortalError."""
        where = _checked(path)
        answer = await self._ask("HEAD", where, "bridge_stat")
        if answer.status == 405 or "ETag" not in answer.headers:
            # No tag: a directory, or a bridge that knows no HEAD.
            return await self._stat_by_get(where)
        return self._info(where, answer.headers, content_length(answer.headers))

    async def exists(self, path: str) -> bool:
        """Whether there is a file or directory."""
        try:
            await self.stat(path)
        except NotFound:
            return False
        return True

    async def get(self, path: str, max_bytes: int, *, version: str | None = None) -> bytes:
        """A whole file.

        Raises:
            NotFound: there is none, or not of this version.
            BlobTooLarge: it is longer than `max_bytes`.
            PortalLied: a file in clear that is not what its CID says, or half a file.
            AccessDenied, PortalError
        """
        where = _checked(path)
        headers = _only(version)
        with self._http.measured("bridge_get") as measure:
            async with self._get(where, headers, max_bytes) as response:
                if (content_length(response.headers) or 0) > max_bytes:
                    raise BlobTooLarge(max_bytes)
                data = await self._http.read_body(response, max_bytes)
            measure.bytes_in = len(data)
            self._verify(where, response, data)
        return data

    async def read(
        self, path: str, start: int = 0, end: int | None = None, *, version: str | None = None
    ) -> AsyncGenerator[bytes]:
        """A range of a file, in pieces of up to 4 MiB; goes on where a connection broke off.

        Raises:
            NotFound: there is no such file or version; from the first step of the iteration.
            WriteConflict: it was replaced while it was read.
            As `get`.
        """
        where = _checked(path)
        if start < 0 or (end is not None and end < start):
            raise ValueError(f"bytes {start} to {end} are no range")
        info = await self.stat(where)
        if isinstance(info, DirectoryInfo):
            raise PathRefused(f"{where!a} is a directory: list it")
        if version is not None and info.cid != version:
            raise NotFound(f"{where!a} is not of version {version} at {self.url}")
        last = info.size if end is None else min(end, info.size)
        if (start, last) == (0, info.size) and not info.is_encrypted and info.cid:
            async for piece in self._read_verified(where, info):
                yield piece
            return
        while start < last:
            stop = min(last, start + RUN_BYTES)
            piece = await self._run(info, start, stop)
            if piece is None:  # it knows no ranges
                async for rest in self._read_verified(where, info, start, last):
                    yield rest
                return
            yield piece
            start = stop

    async def put(
        self,
        path: str,
        data: Data,
        media_type: str | None = None,
        *,
        if_match: str | None = None,
        if_none_match: bool = False,
        encrypt: bool = True,
    ) -> FileInfo:
        """Write a file.

        Args:
            data: whole, or in pieces, which are spooled first so that they can be sent again.
            media_type: None: by the name's ending, as the bridge knows it.
            if_match: the CID that must be there.
            if_none_match: whether nothing may be there.
            encrypt: as the bridge keeps it. The original node's bridges decide it themselves.

        Raises:
            WriteConflict: a condition does not hold, or somebody changed it meanwhile.
            PathRefused, AccessDenied, BlobTooLarge, StorageFull, PortalError
        """
        where = _checked(path)
        headers = {"Content-Type": media_type} if media_type else {}
        if if_match is not None:
            headers["If-Match"] = f'"{if_match}"'
        if if_none_match:
            headers["If-None-Match"] = "*"
        params = {} if encrypt else {"encrypt": "false"}
        async with AsyncExitStack() as stack:
            content: bytes | AsyncIterator[bytes]
            if isinstance(data, bytes):
                content, size = data, len(data)
            else:
                source: UploadSource = await stack.enter_async_context(
                    spooled_source(data, self._spool_folder)
                )
                content, size = source.part(0, source.blob.size), source.blob.size
            answer = await self._ask(
                "PUT",
                where,
                "bridge_put",
                headers=headers,
                params=params,
                content=content,
                num_bytes=size,
            )
        if answer.status not in {200, 201}:
            raise PortalLied(self.url, f"it answers a write with {answer.status}")
        with self._http.believing():
            info = parse_written(answer.body, where, size, media_type)
        if info.metadata.get("networkUploaded") is False:
            _LOG.warning(
                "the bridge keeps the file for itself, and has no portal to store it at",
                extra={"bridge": self.url},
            )
        return info

    async def list(self, path: str = "", *, cursor: str | None = None, limit: int = 1000) -> Page:
        """A page of what is in a directory.

        Args:
            limit: 1 to 1,000.

        Raises:
            NotFound: no such directory.
            PortalRefused: the bridge does not list (that of the original node does not).
        """
        if not 1 <= limit <= MAX_PAGE_ENTRIES:
            raise ValueError(f"a page has 1 to {MAX_PAGE_ENTRIES} entries, not {limit}")
        where = _checked(path)
        params = {"list": "true", "limit": str(limit)} | ({"cursor": cursor} if cursor else {})
        answer = await self._ask(
            "GET", where, "bridge_list", params=params, max_bytes=MAX_LIST_BYTES
        )
        with self._http.believing():
            return parse_page(answer.body, where, limit)

    async def delete(
        self, path: str, *, recursive: bool = False, if_match: str | None = None
    ) -> None:
        """Delete a file, or a directory.

        Raises:
            NotFound: there is nothing.
            PathRefused: a directory that is not empty, and `recursive` is off.
            WriteConflict: `if_match` does not hold.
        """
        headers = {} if if_match is None else {"If-Match": f'"{if_match}"'}
        params = {"recursive": "true"} if recursive else {}
        await self._ask("DELETE", _checked(path), "bridge_delete", headers=headers, params=params)

    async def make_directory(self, path: str) -> DirectoryInfo:
        """Make a directory, and those above it that are missing."""
        where = _checked(path)
        await self._ask("PUT", where + "/", "bridge_put", content=b"")
        return DirectoryInfo(path=where, cid="", created_at=None, is_encrypted=False, metadata={})

    async def _stat_by_get(self, where: str) -> Info:
        async with self._get(where, {"Range": "bytes=0-0"}, MAX_LIST_BYTES) as response:
            if "ETag" not in response.headers and _is_json(response.headers):
                return DirectoryInfo(
                    path=where, cid="", created_at=None, is_encrypted=False, metadata={}
                )
            size = content_length(response.headers)
            if response.status_code == 206:
                size = read_content_range(self._http, response)[2]
            return self._info(where, response.headers, size)

    def _info(self, where: str, headers: httpx.Headers, size: int | None) -> FileInfo:
        if size is None:
            raise PortalLied(self.url, f"it has {where!a} and does not say how long it is")
        return parse_file_headers(where, headers, size)

    async def _read_verified(
        self, where: str, info: FileInfo, start: int = 0, end: int | None = None
    ) -> AsyncGenerator[bytes]:
        """The whole file into a spool; out of it, once it is known to be right."""
        async with open_spool(self._spool_folder) as spool:
            cid = parse_cid(info.cid) if info.cid else None
            is_clear = cid is not None and cid.size == info.size
            hasher = new_hasher(parse_cid(info.cid).type) if is_clear else None
            while spool.size < info.size:
                stop = min(info.size, spool.size + RUN_BYTES)
                piece = await self._run(info, spool.size, stop)
                if piece is None:
                    await self._spool_whole(info, spool)
                    break
                await spool.write(piece)
            if hasher is not None and cid is not None:
                async for piece in spool.read(0, spool.size):
                    hasher.update(piece)
                if hasher.digest() != cid.digest:
                    raise PortalLied(self.url, f"{where!a} has other bytes than its CID says")
            async for piece in spool.read(start, info.size if end is None else end):
                yield piece

    async def _spool_whole(self, info: FileInfo, spool: Spool) -> None:
        # A bridge may have sent ranges until now: this is all of the file, not the rest of it.
        await spool.clear()
        with self._http.measured("bridge_get") as measure:
            async with self._get(info.path, {}, info.size) as response:
                self._check_version(info, response)
                async for piece in response.aiter_raw(PIECE_BYTES):
                    measure.bytes_in += len(piece)
                    if measure.bytes_in > info.size:
                        raise PortalLied(self.url, f"{info.path!a} has more than {info.size} bytes")
                    await spool.write(piece)
            if measure.bytes_in != info.size:
                raise PortalUnavailable(
                    self.url, f"{info.path!a} ended after {measure.bytes_in} bytes"
                )

    async def _run(self, info: FileInfo, start: int, end: int) -> bytes | None:
        """A range of the very version that `info` describes; None: the bridge knows no ranges."""
        return await keep_trying(
            lambda: self._run_once(info, start, end), lambda: 0, self._http.patience
        )

    async def _run_once(self, info: FileInfo, start: int, end: int) -> bytes | None:
        headers = {"Range": f"bytes={start}-{end - 1}"} | _only(info.cid)
        with self._http.measured("bridge_get") as measure:
            async with self._get(info.path, headers, end - start) as response:
                self._check_version(info, response)
                if response.status_code == 200 and (start, end) != (0, info.size):
                    return None
                if response.status_code == 206:
                    first, after, total = read_content_range(self._http, response)
                    if (first, after) != (start, end) or total not in {None, info.size}:
                        raise PortalLied(self.url, "it sends another range than was asked for")
                data = await self._http.read_body(response, end - start)
            measure.bytes_in = len(data)
            if len(data) != end - start:
                reason = f"{len(data)} bytes came instead of {end - start}"
                raise PortalUnavailable(self.url, reason)
        return data

    @staticmethod
    def _check_version(info: FileInfo, response: httpx.Response) -> None:
        """Raises WriteConflict: the answer is of another version than `info`."""
        tag = parse_etag(response.headers.get("ETag", ""))
        if info.cid and tag is not None and tag.encode() != info.cid:
            raise WriteConflict(info.path, "it was replaced while it was read")

    def _verify(self, where: str, response: httpx.Response, data: bytes) -> None:
        length = content_length(response.headers)
        if length is not None and length != len(data):
            raise PortalUnavailable(self.url, f"{len(data)} bytes of {length} came of {where!a}")
        cid = parse_etag(response.headers.get("ETag", ""))
        if cid is None or cid.size != len(data):
            return  # stored encrypted: the bridge alone knows
        hasher = new_hasher(cid.type)
        hasher.update(data)
        if hasher.digest() != cid.digest:
            raise PortalLied(self.url, f"{where!a} has other bytes than its CID says")

    @asynccontextmanager
    async def _get(
        self, where: str, headers: Mapping[str, str], num_bytes: int
    ) -> AsyncGenerator[httpx.Response]:
        """GET a path; the block reads an answer of status 200 or 206."""
        url = httpx.URL(self.url + _route(where))
        async with self._http.exchange(
            "GET", url, self._authorized(headers), num_bytes=num_bytes
        ) as response:
            if response.status_code not in {200, 206}:
                body = await self._http.read_body(response, MAX_ANSWER_BYTES)
                answer = PortalAnswer(response.status_code, response.headers, body)
                raise bridge_error(self.url, where, answer)
            yield response

    async def _ask(
        self,
        method: str,
        where: str,
        operation: str,
        *,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        content: bytes | AsyncIterator[bytes] | None = None,
        num_bytes: int = 0,
        max_bytes: int = MAX_ANSWER_BYTES,
    ) -> PortalAnswer:
        def check(answer: PortalAnswer) -> None:
            if answer.status not in _DONE and not (method == "HEAD" and answer.status == 405):
                raise bridge_error(self.url, where, answer)

        return await self._http.ask(
            method,
            _route(where),
            operation=operation,
            accept=_ALL,
            headers=self._authorized(headers or {}),
            params=params,
            content=content,
            num_bytes=num_bytes,
            max_bytes=max_bytes,
            check=check,
        )

    def _authorized(self, headers: Mapping[str, str]) -> dict[str, str]:
        token = {} if self._token is None else {"Authorization": f"Bearer {self._token}"}
        return {**headers, **token}


def _checked(path: str) -> str:
    """The path in its one form. Raises PathRefused before anybody is asked."""
    return format_path(parse_path(path, is_new=False))


def _route(where: str) -> str:
    return f"{PREFIX}/" + "/".join(quote(name, safe="") for name in where.split("/"))


def _only(version: str | None) -> dict[str, str]:
    return {"If-Match": f'"{version}"'} if version else {}


def _is_json(headers: httpx.Headers) -> bool:
    return "application/json" in headers.get("Content-Type", "").lower()
