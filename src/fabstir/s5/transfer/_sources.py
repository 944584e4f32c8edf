"""One place that may have a blob, and how its bytes are asked for. Nothing here is verified but the
outboard; the caller verifies groups."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Self

import httpx
from anyio import to_thread

from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import (
    ConfigError,
    NotFound,
    PortalLied,
    PortalRefused,
    PortalUnavailable,
    RemoteProtocolError,
)
from fabstir.s5.portals.download import (
    content_length,
    open_route,
    read_content_range,
    routes_of,
)
from fabstir.s5.portals.http import PortalHttp, PortalPatience, parse_origin
from fabstir.s5.verified.tree import MAX_TREE_BYTES, GroupTree, outboard_size

OUTBOARD_SUFFIX: Final = ".obao"
"""What nodes of S5 add to a blob's address for its outboard."""


class NoRanges(PortalRefused):
    """It sends whole blobs only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobSource:
    """A place that may have a blob.

    Attributes:
        origin: `scheme://host[:port]`; what errors call it.
        path: of a location; "" of a portal, which is one place whatever its routes.
        routes: paths there to try for the blob, in this order.
        outboard_routes: and for its outboard.
        token: of an account there; it goes to the origin only.
        only_stored: as of `PortalHttp`: it looks on its own disk only.
        is_strangers: as of `PortalHttp`: somebody else named it.
    """

    origin: str
    path: str = ""
    routes: tuple[str, ...]
    outboard_routes: tuple[str, ...]
    token: str | None = field(default=None, repr=False)
    only_stored: bool = False
    is_strangers: bool = False

    @property
    def name(self) -> str:
        """What it is told apart by, in reports: one origin may be many people's (object stores
        are), and of these one may lie."""
        return self.origin + self.path

    @classmethod
    def portal(
        cls, url: str, blob: BlobId, *, token: str | None = None, only_stored: bool = False
    ) -> Self:
        """A portal, ours or another's.

        Raises:
            ConfigError: `url` is not `http(s)://host[:port]`.
        """
        return cls(
            origin=parse_origin(url)[0],
            routes=routes_of(blob),
            # Where a blob is served under any name with a dot, this is the blob itself.
            outboard_routes=(f"/s5/blob/{blob.encode('z')}{OUTBOARD_SUFFIX}",),
            token=token,
            only_stored=only_stored,
        )

    @classmethod
    def location(cls, url: str, *, is_strangers: bool = True) -> Self:
        """A blob's own address, as peers name it in a storage location.

        Args:
            is_strangers: False: it is at a place from the settings.

        Raises:
            ConfigError: it is no web address, or one with a password.
        """
        try:
            parts = httpx.URL(url)
        except httpx.InvalidURL as exc:
            raise ConfigError(f"a storage location is no URL: {exc}") from exc
        path = parts.raw_path.decode("ascii")
        userinfo = "@" if parts.userinfo else ""
        origin = f"{parts.scheme}://{userinfo}{parts.netloc.decode('ascii')}"
        return cls(
            origin=parse_origin(origin)[0],
            path=path,
            routes=(path,),
            outboard_routes=(path + OUTBOARD_SUFFIX,),
            is_strangers=is_strangers,
        )


class SourceReader:
    """Asks one source for one blob."""

    def __init__(
        self, source: BlobSource, blob: BlobId, client: httpx.AsyncClient, patience: PortalPatience
    ) -> None:
        self.name = source.name
        self.origin = source.origin
        self.has_ranges = True
        self._source = source
        self._blob = blob
        self._client = client
        self._http = PortalHttp(
            source.origin,
            client,
            patience=patience,
            only_stored=source.only_stored,
            is_strangers=source.is_strangers,
        )

    async def outboard(self) -> GroupTree | None:
        """The blob's tree, verified; None: this source has no outboard, or too long a one.

        Raises:
            PortalLied: its outboard is not that of the blob.
            PortalUnavailable: it does not answer.
        """
        size = outboard_size(self._blob.size)
        if size > MAX_TREE_BYTES:
            return None
        try:
            data = await self._outboard_bytes(self._source.outboard_routes, size)
        except (NotFound, PortalRefused):
            data = None
        if data is None:
            data = await self._outboard_elsewhere(size)
        if data is None:
            return None
        try:
            return await to_thread.run_sync(GroupTree.decode, self._blob, data)
        except RemoteProtocolError as exc:
            raise PortalLied(self.origin, str(exc)) from exc

    async def read_range(self, start: int, end: int, into: bytearray) -> None:
        """Append the bytes from `start` to before `end`; those that came before an error too.

        Raises:
            NoRanges: see there.
            PortalLied: another range, or another length of the whole.
            NotFound, PortalError: it has nothing, refuses, or broke off.
        """
        async with self.open_range(start, end) as (response, _):
            if response.status_code == 200 and (start, end) != (0, self._blob.size):
                raise NoRanges(self.origin, 200, "it sends whole blobs only, no ranges")
            async for piece in response.aiter_raw():
                if len(into) + len(piece) > end - start:
                    raise PortalLied(self.origin, "it sends more than it was asked for")
                into += piece
        if len(into) < end - start:
            raise PortalUnavailable(
                self.origin, f"the connection ended after {len(into)} of {end - start} bytes"
            )

    @asynccontextmanager
    async def open_range(self, start: int, end: int) -> AsyncGenerator[tuple[httpx.Response, int]]:
        """GET a range that is not empty.

        Yields:
            The answer and the place where its body starts: `start`, or 0 where the source knows
            no ranges and sends everything.
        """
        is_whole = (start, end) == (0, self._blob.size)
        headers = {} if is_whole else {"Range": f"bytes={start}-{end - 1}"}
        routes = self._source.routes
        async with open_route(
            self._http, self._source.token, routes, headers, end - start
        ) as response:
            if response.status_code == 200:
                self._check_total(content_length(response.headers))
                yield response, 0
                return
            if response.status_code != 206:
                await self._http.refuse(response)
            first, after, total = read_content_range(self._http, response)
            if first != start or after > end:
                raise PortalLied(self.origin, "it sends another range than was asked for")
            self._check_total(total)
            yield response, start

    async def _outboard_bytes(self, routes: tuple[str, ...], size: int) -> bytes | None:
        """None: what is there has another length, so it is no outboard of this blob."""
        async with open_route(self._http, self._source.token, routes, {}, size) as response:
            if response.status_code != 200:
                await self._http.refuse(response)
            if content_length(response.headers) not in {None, size}:
                return None
            data = bytearray()
            async for piece in response.aiter_raw():
                data += piece
                if len(data) > size:
                    return None
        return bytes(data) if len(data) == size else None

    async def _outboard_elsewhere(self, size: int) -> bytes | None:
        """Beside the place to which the source redirects for the blob, as the Dart node does."""
        try:
            async with self.open_range(0, min(1, self._blob.size)) as (response, _):
                place = BlobSource.location(str(response.url))
            if place.origin == self.origin:
                return None
            there = SourceReader(place, self._blob, self._client, self._http.patience)
            return await there._outboard_bytes(place.outboard_routes, size)
        except (NotFound, PortalRefused, ConfigError):
            return None

    def _check_total(self, total: int | None) -> None:
        if total not in {None, self._blob.size}:
            raise PortalLied(
                self.origin, f"it says that a blob of {self._blob.size} bytes has {total}"
            )
