"""One blob from one portal, resumed where it broke off, and verified before anybody sees a byte."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Final

import httpx

from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import (
    BlobTooLarge,
    PortalLied,
    PortalRefused,
    PortalUnavailable,
)
from fabstir.s5.portals.http import PortalHttp, shown
from fabstir.s5.portals.retrying import keep_trying
from fabstir.s5.portals.source import OnBytesFetched, new_hasher
from fabstir.s5.portals.spool import Spool

MAX_REDIRECTS: Final = 5
"""An honest portal answers /s5/blob/:cid with one."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTENT_RANGE = re.compile(r"bytes (?:([0-9]{1,20})-([0-9]{1,20})|\*)/([0-9]{1,20}|\*)")
_NUMBER = re.compile(r"[0-9]{1,20}")
_NEXT_ROUTE = frozenset({400, 401, 403, 405, 501})
"""Refusals that another route of the same portal may not share: the Dart node lets everybody be
redirected (/s5/blob), and only accounts download."""


def routes_of(blob: BlobId, *, suffix: str = "") -> tuple[str, ...]:
    """The paths under which a portal may have a blob; the first takes one round trip."""
    cid = blob.encode("z") + suffix
    return (f"/s5/download/{cid}", f"/s5/blob/{cid}", f"/{cid}")


class Download:
    """A blob on its way into a spool. What `run` leaves there is verified."""

    def __init__(
        self,
        http: PortalHttp,
        token: str | None,
        blob: Multihash,
        size: int | None,
        spool: Spool,
        *,
        max_bytes: int,
        on_progress: OnBytesFetched | None = None,
    ) -> None:
        """
        Args:
            size: what it must have; None: only its hash is known.
            max_bytes: the most that is taken where the size is not known.
        """
        self._http = http
        self._token = token
        self._blob = blob
        self._size = size
        self._spool = spool
        self._limit = max_bytes if size is None else size
        self._on_progress = on_progress
        self._hasher = new_hasher(blob.type)
        self._total = size
        self._etag = ""
        self._routes = routes_of(BlobId(blob.digest, size or 0, blob.type))

    async def run(self) -> None:
        """Fetch and verify.

        Raises:
            NotFound: the portal does not have it.
            BlobTooLarge: it says that it is longer than `max_bytes`.
            PortalLied: other bytes, another size, or another one than it said before.
            PortalError: it does not answer, or refuses.
        """
        with self._http.measured("download") as measure:
            try:
                await keep_trying(self._attempt, lambda: self._spool.size, self._http.patience)
            finally:
                measure.bytes_in = self._spool.size
            if self._hasher.digest() != self._blob.digest:
                await self._spool.clear()
                raise PortalLied(self._http.url, "it sends other bytes than the hash asked for")

    async def _attempt(self) -> None:
        offset = self._spool.size
        if offset and offset == self._total:
            return
        headers: dict[str, str] = {}
        if offset:
            headers["Range"] = f"bytes={offset}-"
            if self._etag:
                headers["If-Range"] = self._etag
        async with open_route(self._http, self._token, self._routes, headers, self._limit) as r:
            await self._receive(r, offset)

    async def _receive(self, response: httpx.Response, offset: int) -> None:
        if response.status_code not in {200, 206}:
            await self._http.refuse(response)
        if response.status_code == 200:
            total = content_length(response.headers)
            if offset:
                await self._start_again()
        else:
            start, _, total = self._read_range(response)
            if start != offset:
                raise PortalLied(self._http.url, "it sends another range than was asked for")
        self._check_total(total)
        etag = response.headers.get("ETag", "")
        self._etag = "" if etag.startswith("W/") else etag[:256]
        async for piece in response.aiter_raw(256 * 1024):
            self._check_length(self._spool.size + len(piece))
            self._hasher.update(piece)
            await self._spool.write(piece)
            if self._on_progress is not None:
                self._on_progress(self._spool.size, self._total or 0)
        if self._total is not None and self._spool.size < self._total:
            raise PortalUnavailable(
                self._http.url,
                f"the connection ended after {self._spool.size} of {self._total} bytes",
            )

    async def _start_again(self) -> None:
        self._hasher = new_hasher(self._blob.type)
        await self._spool.clear()

    def _read_range(self, response: httpx.Response) -> tuple[int, int, int | None]:
        return read_content_range(self._http, response)

    def _check_total(self, total: int | None) -> None:
        if total is None:
            return
        if self._total is not None and total != self._total:
            raise PortalLied(
                self._http.url, f"it says that a blob of {self._total} bytes has {total}"
            )
        self._check_length(total)
        self._total = total

    def _check_length(self, length: int) -> None:
        if length <= self._limit:
            return
        if self._size is None:
            raise BlobTooLarge(self._limit)
        raise PortalLied(self._http.url, f"it sends more than the blob's {self._size} bytes")


def content_length(headers: httpx.Headers) -> int | None:
    """What the header says."""
    text = headers.get("Content-Length", "")
    return int(text) if _NUMBER.fullmatch(text) else None


def read_content_range(http: PortalHttp, response: httpx.Response) -> tuple[int, int, int | None]:
    """First byte, the one after the last, and the whole length (None: it does not say).

    Raises:
        PortalLied: a partial answer that does not say which part it is.
    """
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or match[1] is None:
        raise PortalLied(http.url, "it sends a part and does not say which")
    total = None if match[3] == "*" else int(match[3])
    return int(match[1]), int(match[2]) + 1, total


@asynccontextmanager
async def open_route(
    http: PortalHttp,
    token: str | None,
    routes: tuple[str, ...],
    headers: dict[str, str],
    num_bytes: int,
) -> AsyncGenerator[httpx.Response]:
    """GET the first of several paths that the portal does not refuse, redirects followed.

    Yields:
        The answer, whose status may be anything where it was the last path.
    """
    for route in routes:
        is_last = route == routes[-1]
        async with follow(http, token, route, headers, num_bytes) as response:
            if response.status_code not in _NEXT_ROUTE or is_last:
                _refuse_page(http, response)
                yield response
                return


@asynccontextmanager
async def follow(
    http: PortalHttp, token: str | None, path: str, headers: dict[str, str], num_bytes: int
) -> AsyncGenerator[httpx.Response]:
    """GET, and go where the answer points, a few times.

    The account's token goes to the portal itself only.

    Raises:
        PortalLied: it points in circles, at no web address, or into a private network (whose
            addresses the client checks when it connects).
    """
    origin = httpx.URL(http.url)
    url = httpx.URL(http.url + path)
    seen: set[str] = set()
    while str(url) not in seen and len(seen) <= MAX_REDIRECTS:
        seen.add(str(url))
        is_own = (url.scheme, url.host, url.port) == (origin.scheme, origin.host, origin.port)
        sent = {"Authorization": f"Bearer {token}"} | headers if token and is_own else headers
        async with http.exchange("GET", url, sent, num_bytes=num_bytes) as response:
            if response.status_code not in _REDIRECTS:
                yield response
                return
            url = _target(http, url, response.headers.get("Location", ""))
    raise PortalLied(http.url, f"it redirects in circles, or more than {MAX_REDIRECTS} times")


def _target(http: PortalHttp, url: httpx.URL, location: str) -> httpx.URL:
    try:
        target = url.join(location)
    except (httpx.InvalidURL, ValueError) as exc:
        raise PortalLied(http.url, f"it redirects to {shown(location)!r}, no URL") from exc
    if not location or target.scheme not in {"http", "https"} or not target.host:
        raise PortalLied(http.url, f"it redirects to {shown(location)!r}, no web address")
    if target.userinfo:
        raise PortalLied(http.url, "it redirects to an address with a password")
    return target


def _refuse_page(http: PortalHttp, response: httpx.Response) -> None:
    """A blob is never a web page by its type: portals send octets where no file name is asked."""
    kind = response.headers.get("Content-Type", "").lower()
    if response.status_code in {200, 206} and "text/html" in kind:
        raise PortalUnavailable(
            http.url,
            "it answers with a web page: a proxy or a log-in page of the network stands between",
        )


async def fetch_range(
    http: PortalHttp, token: str | None, blob: BlobId, start: int, end: int
) -> bytes:
    """The bytes from `start` to before `end`, NOT verified: for callers that verify groups.

    Raises:
        PortalLied: another range, or another length of the whole.
        PortalRefused: the portal knows no ranges.
        PortalError, NotFound: as for a whole download.
    """
    headers = {"Range": f"bytes={start}-{end - 1}"}
    is_whole, sends_wholes = (start, end) == (0, blob.size), False
    with http.measured("range") as measure:
        for route in routes_of(blob):
            async with open_route(http, token, (route,), headers, end - start) as response:
                status = response.status_code
                # The Dart node knows ranges under some of its paths only.
                sends_wholes |= status == 200 and not is_whole
                if status in _NEXT_ROUTE or (sends_wholes and status in {200, 404}):
                    continue
                if status not in {200, 206}:
                    await http.refuse(response)
                if status == 206:
                    first, after, total = read_content_range(http, response)
                    if (first, after) != (start, end) or total not in {None, blob.size}:
                        raise PortalLied(http.url, "it sends another range than was asked for")
                data = await http.read_body(response, end - start)
            measure.bytes_in = len(data)
            if len(data) != end - start:
                reason = f"{len(data)} bytes came instead of {end - start}"
                raise PortalUnavailable(http.url, reason)
            return data
        raise PortalRefused(http.url, 200, "it sends no ranges of blobs")
