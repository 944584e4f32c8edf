"""Registry entries: signed, never older than what was seen, and the newest of several portals."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack

import httpx
import pytest
from tests.integration.s5.portals.clients import client_of
from tests.integration.s5.portals.faulty import (
    FaultyPortal,
    json_answer,
    open_faulty_portal,
)
from tests.integration.s5.portals.raw_http import Answer, Cut, Fault, Stall, always, refuse

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import PortalLied, PortalUnavailable, WriteConflict
from fabstir.s5.formats.registry import SignedEntry, sign_entry
from fabstir.s5.portals import Portal, PortalPool, registry
from fabstir.s5.portals.answers import registry_json

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

SEED = bytes([3]) * 32
KEY = NATIVE.ed25519_public_key(SEED)


def entry_of(revision: int, data: bytes = b"pointer") -> SignedEntry:
    return sign_entry(SEED, revision, data, NATIVE)


def lie(**changes: object) -> Fault:
    return always(json_answer(dict(registry_json(entry_of(5))) | changes))


async def test_an_entry_is_published_and_read(faulty: FaultyPortal, portal: Portal) -> None:
    nothing = await portal.get_entry(KEY)
    await portal.set_entry(entry_of(5))

    assert nothing is None
    assert await portal.get_entry(KEY) == entry_of(5)
    assert faulty.entries[KEY] == entry_of(5)


async def test_the_same_entry_twice_is_no_conflict_and_a_lower_one_is(portal: Portal) -> None:
    await portal.set_entry(entry_of(5))
    await portal.set_entry(entry_of(5))

    for other in (entry_of(4), entry_of(5, b"fork")):
        with pytest.raises(WriteConflict, match="revision 5"):
            await portal.set_entry(other)


async def test_an_answer_lost_on_its_way_is_no_failure(
    faulty: FaultyPortal, portal: Portal
) -> None:
    faulty.fail("POST /s5/registry", Cut(), refuse(500))

    await portal.set_entry(entry_of(5))

    assert faulty.entries[KEY] == entry_of(5)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lie(revision=6), "not signed"),
        (lie(revision=-1), "revision"),
        (lie(revision=1 << 60), "revision"),
        (lie(revision="x"), "revision"),
        (lie(data="AAAA"), "not signed"),
        (lie(data="A" * 100), "at most 64"),
        (lie(signature="AAAA"), "not signed"),
        (lie(signature="!"), "base64url"),
        (lie(pk=registry_json(sign_entry(bytes(32), 1, b"", NATIVE))["pk"]), "another key"),
        (lie(pk="AAAA"), "ed25519"),
        (always(Answer(200, b"null")), "JSON object"),
        (always(Answer(200, b"\xff")), "UTF-8"),
    ],
)
async def test_a_forged_entry_is_never_returned(
    faulty: FaultyPortal, portal: Portal, fault: Fault, words: str
) -> None:
    faulty.fail("GET /s5/registry", fault)

    with pytest.raises(PortalLied, match=words):
        await portal.get_entry(KEY)


@pytest.mark.parametrize("older", [entry_of(4), None])
async def test_a_replay_is_named(
    faulty: FaultyPortal, portal: Portal, older: SignedEntry | None
) -> None:
    await portal.set_entry(entry_of(5))
    faulty.entries.clear()
    if older is not None:
        faulty.entries[KEY] = older

    with pytest.raises(PortalLied, match="replay"):
        await portal.get_entry(KEY)


@pytest.fixture
async def three(http_client: httpx.AsyncClient) -> AsyncGenerator[list[FaultyPortal]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(open_faulty_portal()) for _ in range(3)]


@pytest.fixture
def pool(three: list[FaultyPortal], http_client: httpx.AsyncClient) -> PortalPool:
    return PortalPool([client_of(faulty, http_client) for faulty in three], NATIVE)


async def test_the_highest_revision_of_those_that_answer_wins(
    three: list[FaultyPortal], pool: PortalPool
) -> None:
    three[0].entries[KEY] = entry_of(4)
    three[1].entries[KEY] = entry_of(7)
    three[2].fail("GET /s5/registry", lie(revision=9))

    assert await pool.registry.get(KEY) == entry_of(7)


async def test_all_get_a_new_entry_and_one_is_enough(
    three: list[FaultyPortal], pool: PortalPool, caplog: pytest.LogCaptureFixture
) -> None:
    three[0].fail("POST /s5/registry", refuse(503), refuse(503))

    await pool.registry.set(entry_of(5))

    assert [KEY in faulty.entries for faulty in three] == [False, True, True]
    assert "portals lack the newest registry entry" in caplog.text
    assert await pool.registry.get(KEY) == entry_of(5)


async def test_somebody_elses_newer_entry_is_a_conflict(
    three: list[FaultyPortal], pool: PortalPool
) -> None:
    three[2].entries[KEY] = entry_of(9)

    with pytest.raises(WriteConflict, match="revision 9"):
        await pool.registry.set(entry_of(5))


async def test_a_fork_is_named_and_read_the_same_everywhere(
    three: list[FaultyPortal], pool: PortalPool, caplog: pytest.LogCaptureFixture
) -> None:
    three[0].entries[KEY] = entry_of(5, b"a")
    three[1].entries[KEY] = entry_of(5, b"b")

    assert await pool.registry.get(KEY) == entry_of(5, b"b")
    assert "registry fork" in caplog.text


async def test_if_all_go_back_in_time_nothing_is_returned(
    three: list[FaultyPortal], pool: PortalPool
) -> None:
    three[0].entries[KEY] = entry_of(5)
    await pool.registry.get(KEY)
    for faulty in three[1:]:
        faulty.entries[KEY] = entry_of(4)
    three[0].fail("GET /s5/registry", *[refuse(503)] * 4)

    with pytest.raises(PortalLied, match="replay"):
        await pool.registry.get(KEY)


async def test_if_nobody_answers_that_is_not_the_same_as_no_entry(
    three: list[FaultyPortal], pool: PortalPool
) -> None:
    for faulty in three:
        faulty.fail("GET /s5/registry", refuse(503))

    with pytest.raises(PortalUnavailable, match="no portal answers"):
        await pool.registry.get(KEY)
    assert await pool.registry.get(KEY) is None


async def test_a_portal_that_stalls_is_left_alone(
    faulty: FaultyPortal, portal: Portal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "REGISTRY_TIMEOUT", 0.1)
    pool = PortalPool([portal], NATIVE)
    faulty.fail("GET /s5/registry", *[Stall()] * 3)

    for words in ("no answer about", "no answer about", "left alone"):
        with pytest.raises(PortalUnavailable, match=words):
            await pool.registry.get(KEY)

    assert len([r for r in faulty.requests if "registry" in r.path]) == 2
