"""Several portals: fallback, circuit breakers, copies, what they store and cost."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from decimal import Decimal

import httpx
import pytest
from tests.integration.s5.portals.clients import LARGE, PATIENCE, SMALL, client_of, pieces
from tests.integration.s5.portals.faulty import FaultyPortal, open_faulty_portal
from tests.integration.s5.portals.raw_http import Alter, Cut, refuse

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, Multihash
from fabstir.primitives.errors import (
    NotFound,
    PortalRefused,
    PortalUnavailable,
    StorageError,
)
from fabstir.s5.portals import Backoff, PortalPool

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

ONCE = replace(PATIENCE, max_failures=1)


@dataclass(slots=True)
class Clock:
    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def three() -> AsyncGenerator[list[FaultyPortal]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_faulty_portal()) for _ in range(3)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pool(three: list[FaultyPortal], clock: Clock, http_client: httpx.AsyncClient) -> PortalPool:
    return PortalPool(
        [client_of(faulty, http_client, ONCE) for faulty in three],
        NATIVE,
        copies=2,
        usd_per_tb_month={three[0].url: Decimal("5.99")},
        backoff=Backoff(first=10, most=100, max_failures=1),
        clock=clock,
        random=lambda: 0.0,
    )


def holders(three: list[FaultyPortal], blob: BlobId) -> list[bool]:
    return [blob.multihash in faulty.blobs for faulty in three]


async def test_a_blob_is_stored_at_the_first_copies_portals(
    three: list[FaultyPortal], pool: PortalPool
) -> None:
    blob = await pool.put(SMALL, reason="file")

    assert holders(three, blob) == [True, True, False]


async def test_where_one_fails_the_next_one_takes_it(
    three: list[FaultyPortal], pool: PortalPool
) -> None:
    three[0].fail("POST /s5/upload", refuse(503))

    blob = await pool.put(pieces(LARGE), reason="file")

    assert holders(three, blob) == [False, True, True]
    assert await pool.get(blob.multihash, max_bytes=len(LARGE)) == LARGE


async def test_fewer_copies_are_named_and_none_is_an_error(
    three: list[FaultyPortal], pool: PortalPool, caplog: pytest.LogCaptureFixture
) -> None:
    for faulty in three[1:]:
        faulty.fail("POST /s5/upload", refuse(507), refuse(507))

    blob = await pool.put(SMALL, reason="file")
    three[0].fail("POST /s5/upload", refuse(507))
    with pytest.raises(PortalUnavailable, match=r"stored nowhere.*no room.*no room.*no room"):
        await pool.put(b"other", reason="file")

    assert holders(three, blob) == [True, False, False]
    assert "fewer copies" in caplog.text


async def test_a_lie_is_replaced_by_the_truth(three: list[FaultyPortal], pool: PortalPool) -> None:
    blobs = [faulty.add(LARGE) for faulty in three]
    three[0].fail("GET /s5/download", Alter(lambda a: replace(a, body=bytes(len(a.body)))))
    three[1].fail("GET /s5/download", Cut(1000))

    data = b"".join([piece async for piece in pool.read(blobs[0], 10, 1_000_000)])

    assert data == LARGE[10:1_000_000]
    health = {report.url: report for report in pool.health()}
    assert health[three[0].url].closed_for >= 100
    assert "other bytes" in health[three[0].url].last_error


async def test_a_long_blob_goes_on_from_the_next_portal(
    three: list[FaultyPortal], pool: PortalPool
) -> None:
    _, _, blob = [faulty.add(LARGE) for faulty in three]
    three[1].has_outboards = True  # the others have none
    three[0].fail("GET /s5/download", Alter(lambda a: a), Cut(1000))

    data = b"".join([piece async for piece in pool.read(blob, 3)])

    assert data == LARGE[3:]
    assert len(three[1].server.paths("GET")) == 2


async def test_a_failed_portal_is_left_alone_and_tried_again(
    three: list[FaultyPortal], pool: PortalPool, clock: Clock
) -> None:
    blob = three[0].add(SMALL)
    three[0].fail("GET /s5/download", refuse(500), refuse(500))

    # 10 s x 1/2 after the first failure, 20 s x 1/2 after the second.
    for seconds, num_asked in ((0, 1), (4.9, 1), (0.2, 2), (9.9, 2)):
        clock.now += seconds
        with pytest.raises(PortalUnavailable):
            await pool.get(blob.multihash, max_bytes=100)
        assert len(three[0].requests) == num_asked
    clock.now += 0.2

    assert await pool.get(blob.multihash, max_bytes=100) == SMALL


async def test_what_a_busy_portal_asks_for_is_respected(
    three: list[FaultyPortal], pool: PortalPool, clock: Clock
) -> None:
    three[0].fail("GET /s5/download", refuse(429, Retry_After="60"))
    blob = three[1].add(SMALL)

    await pool.get(blob.multihash, max_bytes=100)
    clock.now += 59
    await pool.get(blob.multihash, max_bytes=100)
    before = len(three[0].requests)
    clock.now += 2
    await pool.get(Multihash(blob.digest), max_bytes=100)

    assert before == 1


async def test_nobody_has_it_only_where_all_say_so(
    three: list[FaultyPortal], pool: PortalPool
) -> None:
    with pytest.raises(NotFound, match="none of 3 portals"):
        await pool.get(Multihash(bytes(32)), max_bytes=100)
    three[1].fail("GET /s5/download", refuse(502))
    with pytest.raises(PortalUnavailable, match="502"):
        await pool.get(Multihash(bytes(32)), max_bytes=100)


async def test_too_long_is_said_when_all_say_so(
    three: list[FaultyPortal], pool: PortalPool
) -> None:
    blobs = [faulty.add(LARGE) for faulty in three]

    with pytest.raises(StorageError, match="limit of 100 bytes"):
        await pool.get(blobs[0].multihash, max_bytes=100)


async def test_stored_bytes_and_their_cost(three: list[FaultyPortal], pool: PortalPool) -> None:
    for faulty, portal in zip(three, pool.portals, strict=True):
        faulty.tokens["a-token"] = bytes(32)
        portal.session.token = "a-token"
    three[2].fail("GET /s5/account/stats", refuse(403))

    await pool.put(LARGE[:1000], reason="file")
    usage = await pool.usage()

    assert [u.stored_bytes for u in usage] == [1000, 1000, None]
    assert [u.usd_per_month for u in usage] == [Decimal("5.99E-9"), None, None]
    assert "forbids" in usage[2].error


async def test_release_drops_pins_wherever_somebody_is_logged_in(
    three: list[FaultyPortal], pool: PortalPool, caplog: pytest.LogCaptureFixture
) -> None:
    for faulty, portal in zip(three[:2], pool.portals, strict=False):
        faulty.tokens["a-token"] = bytes(32)
        portal.session.token = "a-token"
    blob = await pool.put(SMALL, reason="file")
    three[1].fail("DELETE", refuse(500))

    await pool.release([blob.multihash, Multihash(bytes(32))])

    assert three[0].pinned() == set()
    assert three[1].pinned() == {blob.multihash}
    assert "keeps released blobs" in caplog.text
    three[0].fail("DELETE", refuse(500))
    with pytest.raises(PortalUnavailable, match="released nowhere"):
        await pool.release([blob.multihash])


async def test_a_single_portal_speaks_for_itself(
    faulty: FaultyPortal, http_client: httpx.AsyncClient
) -> None:
    pool = PortalPool([client_of(faulty, http_client, ONCE)], NATIVE)
    faulty.fail("POST /s5/upload", refuse(401, b"no"))

    with pytest.raises(PortalRefused, match="log in again"):
        await pool.put(SMALL, reason="file")


async def test_without_portals_the_setting_is_named() -> None:
    with pytest.raises(PortalUnavailable, match=r"s5\.portals"):
        await PortalPool([], NATIVE).put(SMALL, reason="file")


async def test_lies_are_remembered_for_a_while(
    three: list[FaultyPortal], pool: PortalPool, clock: Clock
) -> None:
    blob = three[0].add(SMALL)
    three[0].fail("GET /s5/download", Alter(lambda a: replace(a, body=b"x" * len(a.body))))

    with pytest.raises(PortalUnavailable, match="other bytes"):
        await pool.get(blob.multihash, max_bytes=100)
    clock.now += 149
    with pytest.raises(PortalUnavailable, match="left alone"):
        await pool.get(blob.multihash, max_bytes=100)
    clock.now += 2

    assert await pool.get(blob.multihash, max_bytes=100) == SMALL
