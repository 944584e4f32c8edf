"""Long files at bridges that know no ranges, or only now and then, or send too much or half."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

import httpx
import pytest
from tests.integration.s5.portals.clients import PATIENCE
from tests.integration.s5.portals.raw_http import Answer, Request, Server, open_server

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import PortalLied, PortalUnavailable, WriteConflict
from fabstir.s5.portals import BridgeClient, PortalHttp

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

LONG = bytes(range(256)) * 40_000
"""10 MB: three ranges of a read."""

CLEAR = BlobId(NATIVE.blake3(LONG), len(LONG))
SEALED = BlobId(bytes(32), len(LONG) + 500)


class Moody:
    """A bridge that answers some requests for a range with the whole file.

    Attributes:
        whole: of which requests for a range, by their number, it does so.
        data: what it answers to a GET without a range.
    """

    def __init__(self, cid: BlobId, whole: Callable[[int], bool], data: bytes = LONG) -> None:
        self.cid = cid
        self.whole = whole
        self.data = data
        self.later_cid = cid
        self.num_ranges = 0

    async def __call__(self, request: Request) -> Answer:
        wanted = request.headers.get("range")
        if request.method == "HEAD":
            return Answer(200, LONG, (("ETag", f'"{self.cid.encode()}"'),))
        if wanted is None:
            return Answer(200, self.data, (("ETag", f'"{self.later_cid.encode()}"'),))
        self.num_ranges += 1
        headers = (("ETag", f'"{self.cid.encode()}"'),)
        if self.whole(self.num_ranges):
            return Answer(200, LONG, headers)
        start, end = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        extent = ("Content-Range", f"bytes {start}-{end}/{len(LONG)}")
        return Answer(206, LONG[start : end + 1], (*headers, extent))


async def read(server: Server, client: httpx.AsyncClient, *extent: int) -> bytes:
    bridge = BridgeClient(PortalHttp(server.url, client, patience=PATIENCE))
    stream: AsyncGenerator[bytes] = bridge.read("a", *extent)
    return b"".join([piece async for piece in stream])


@pytest.mark.parametrize("cid", [CLEAR, SEALED], ids=["clear", "sealed"])
@pytest.mark.parametrize("first_whole", [1, 2, 3, 4])
async def test_a_bridge_that_forgets_ranges_on_the_way_gives_the_file(
    http_client: httpx.AsyncClient, cid: BlobId, first_whole: int
) -> None:
    # From the second range on, the whole file was appended to what was there of it.
    async with open_server(Moody(cid, lambda number: number >= first_whole)) as server:
        assert await read(server, http_client) == LONG
        assert await read(server, http_client, 5_000_000, 9_000_000) == LONG[5_000_000:9_000_000]


@pytest.mark.parametrize("cid", [CLEAR, SEALED], ids=["clear", "sealed"])
async def test_a_bridge_that_knows_ranges_now_and_then_gives_the_file(
    http_client: httpx.AsyncClient, cid: BlobId
) -> None:
    async with open_server(Moody(cid, lambda number: number % 3 == 2)) as server:
        assert await read(server, http_client) == LONG


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (LONG + b"more", PortalLied),
        (LONG[:-1], PortalUnavailable),
    ],
    ids=["more", "half"],
)
async def test_a_whole_file_of_another_length_is_not_returned(
    http_client: httpx.AsyncClient, data: bytes, error: type[Exception]
) -> None:
    async with open_server(Moody(SEALED, lambda _number: True, data)) as server:
        with pytest.raises(error):
            await read(server, http_client)


async def test_a_whole_file_of_another_version_is_not_the_rest_of_this_one(
    http_client: httpx.AsyncClient,
) -> None:
    moody = Moody(SEALED, lambda number: number > 1, bytes(len(LONG)))
    moody.later_cid = BlobId(bytes([1]) * 32, len(LONG) + 500)
    async with open_server(moody) as server:
        with pytest.raises(WriteConflict, match="replaced while it was read"):
            await read(server, http_client)
