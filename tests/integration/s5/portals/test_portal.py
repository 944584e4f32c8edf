"""One portal, honest and not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from tests.integration.s5.portals.clients import HASTY, LARGE, PATIENCE, SMALL, client_of
from tests.integration.s5.portals.faulty import FaultyPortal, json_answer, with_header
from tests.integration.s5.portals.raw_http import (
    Alter,
    Answer,
    Cut,
    Fault,
    Stall,
    always,
    refuse,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId, HashType, Multihash
from fabstir.primitives.errors import (
    NotFound,
    PortalError,
    PortalLied,
    PortalRefused,
    PortalUnavailable,
    StorageError,
)
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.registry import sign_entry
from fabstir.s5.portals import (
    AccountFile,
    Portal,
    PortalHttp,
    PortalRequest,
    load_session,
    sign_in,
)

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

IDENTITY = Identity(bytes(range(16)), NATIVE)


def random_bytes(length: int) -> bytes:
    return bytes([5]) * length


async def test_an_account_is_made_entered_and_used(
    faulty: FaultyPortal, http_client: httpx.AsyncClient, tmp_path: Path
) -> None:
    faulty.is_open = False
    file = AccountFile(tmp_path / "accounts.json")
    http = PortalHttp(faulty.url, http_client, patience=PATIENCE)

    await sign_in(http, IDENTITY, file, random_bytes=random_bytes)
    again = await sign_in(http, IDENTITY, file, random_bytes=random_bytes)
    portal = Portal(http, NATIVE, await load_session(http, IDENTITY, file))
    blob = await portal.upload(SMALL)
    stats = await portal.stats()

    assert len(faulty.accounts) == 1
    assert again.token in faulty.tokens
    assert (stats.tier, stats.used_bytes, stats.limit_bytes) == ("free", len(SMALL), 10**10)
    assert await portal.get(blob.multihash, max_bytes=100) == SMALL
    assert (tmp_path / "accounts.json").stat().st_mode & 0o777 == 0o600
    assert again.token not in repr(await file.load_all())


async def test_an_expired_token_is_replaced_without_asking(
    faulty: FaultyPortal, http_client: httpx.AsyncClient, tmp_path: Path
) -> None:
    faulty.is_open = False
    file = AccountFile(tmp_path / "accounts.json")
    http = PortalHttp(faulty.url, http_client, patience=PATIENCE)
    session = await sign_in(http, IDENTITY, file, random_bytes=random_bytes)
    portal = Portal(http, NATIVE, session)
    faulty.tokens.clear()

    blob = await portal.upload(SMALL)

    kept = await file.load(faulty.url)
    assert kept is not None
    assert kept.token == session.token
    assert faulty.pinned() == {blob.multihash}


async def test_a_crash_between_seed_and_account_leaves_nothing_unusable(
    faulty: FaultyPortal, http_client: httpx.AsyncClient, tmp_path: Path
) -> None:
    file = AccountFile(tmp_path / "accounts.json")
    http = PortalHttp(faulty.url, http_client, patience=replace(PATIENCE, max_failures=1))
    faulty.fail("POST /s5/account/register", Cut(), Cut())  # registered, and never answered

    with pytest.raises(PortalUnavailable):
        await sign_in(http, IDENTITY, file, random_bytes=random_bytes)
    session = await sign_in(http, IDENTITY, file, random_bytes=random_bytes)

    assert session.token in faulty.tokens
    assert len(faulty.accounts) == 1


@pytest.mark.parametrize("size", [0, 1, 1024, 1_500_000])
async def test_small_blobs_go_up_and_come_back(
    faulty: FaultyPortal, portal: Portal, size: int
) -> None:
    data = LARGE[:size]

    blob = await portal.upload(data)

    assert blob == BlobId(NATIVE.blake3(data), size)
    assert await portal.get(blob.multihash, max_bytes=size) == data
    assert b"".join([piece async for piece in portal.read(blob)]) == data
    assert faulty.blobs[blob.multihash] == data


async def test_a_portal_that_wants_forms_gets_forms(faulty: FaultyPortal, portal: Portal) -> None:
    faulty.takes_raw = False

    await portal.upload(SMALL)
    await portal.upload(b"another")

    assert set(faulty.blobs.values()) >= {SMALL, b"another"}
    assert len(faulty.requests) == 3  # what it wants is asked once


async def test_ranges_are_of_the_verified_whole(faulty: FaultyPortal, portal: Portal) -> None:
    blob = faulty.add(LARGE)

    part = b"".join([piece async for piece in portal.read(blob, 1_000_000, 3_000_001)])

    assert part == LARGE[1_000_000:3_000_001]
    assert await portal.unverified_range(blob, 5, 10) == LARGE[5:10]


async def test_a_sha256_is_verified_as_such(faulty: FaultyPortal, portal: Portal) -> None:
    import hashlib

    name = Multihash(hashlib.sha256(SMALL).digest(), HashType.SHA256)
    faulty.blobs[name] = SMALL

    assert await portal.get(name, max_bytes=100) == SMALL


async def test_what_is_not_there_is_not_found(portal: Portal) -> None:
    with pytest.raises(NotFound):
        await portal.get(Multihash(bytes(32)), max_bytes=10)


async def test_pins_are_made_and_dropped(
    faulty: FaultyPortal, http_client: httpx.AsyncClient, tmp_path: Path
) -> None:
    http = PortalHttp(faulty.url, http_client, patience=PATIENCE)
    file = AccountFile(tmp_path / "accounts.json")
    portal = Portal(http, NATIVE, await sign_in(http, IDENTITY, file, random_bytes=random_bytes))
    blob = faulty.add(SMALL)

    await portal.pin(blob)
    pinned = faulty.pinned()
    await portal.unpin(blob.multihash)
    await portal.unpin(blob.multihash)

    assert pinned == {blob.multihash}
    assert faulty.pinned() == set()


async def test_a_portal_says_what_it_is(faulty: FaultyPortal, portal: Portal) -> None:
    nodes = await portal.nodes()
    locations = await portal.locations(faulty.add(SMALL).multihash)

    assert await portal.version() == "faulty-1"
    assert nodes[0].uris == ("ws://127.0.0.1:1/s5/p2p",)
    assert locations[0].type == 5


HTML = Answer(200, b"<html>log in</html>", (("Content-Type", "text/html"),))
DEEP = Answer(200, b"[" * 100_000)


@pytest.mark.parametrize(
    ("fault", "error", "words"),
    [
        (always(HTML), PortalLied, "not JSON"),
        (always(DEEP), PortalLied, "deep"),
        (always(json_answer({"cid": "zABC"})), PortalLied, "no blob"),
        (always(json_answer({"cid": 5})), PortalLied, "cid"),
        (always(json_answer({})), PortalLied, "cid"),
        (always(Answer(200, b"x" * 300_000)), PortalLied, "longer than"),
        (always(json_answer({"cid": BlobId(bytes(32), 12).encode()})), PortalLied, "answers with"),
        (
            always(json_answer({"cid": BlobId(NATIVE.blake3(SMALL), 13).encode("z")})),
            PortalLied,
            "answers with",
        ),
        (Alter(lambda a: with_header(a, "Content-Encoding", "gzip")), PortalLied, "compresses"),
        (Alter(lambda a: with_header(a, "X-Long", "x" * 300_000)), PortalUnavailable, "broke off"),
        (always(Answer(302, b"", (("Location", "http://other/"),))), PortalRefused, "redirects"),
        (refuse(401, b"Invalid auth token"), PortalRefused, "log in again"),
        (refuse(413), PortalRefused, "size"),
        (refuse(507, b"full"), PortalRefused, "no room"),
        (refuse(500, b"<html>oops", Content_Type="text/html"), PortalUnavailable, "answers 500"),
        (refuse(503, Retry_After="7"), PortalUnavailable, "answers 503"),
        (Cut(5), PortalUnavailable, "broke off"),
    ],
)
async def test_an_upload_that_is_not_really_answered_has_a_name(
    faulty: FaultyPortal, portal: Portal, fault: Fault, error: type[PortalError], words: str
) -> None:
    faulty.fail("POST /s5/upload", fault, fault)

    with pytest.raises(error, match=words) as caught:
        await portal.upload(SMALL)

    assert caught.value.url == faulty.url
    assert len(str(caught.value)) < 600
    if isinstance(caught.value, PortalUnavailable) and "503" in str(caught.value):
        assert caught.value.retry_after == 7


async def test_a_dead_connection_is_replaced_once(faulty: FaultyPortal, portal: Portal) -> None:
    faulty.fail("POST /s5/upload", Cut())

    blob = await portal.upload(SMALL)

    assert faulty.blobs[blob.multihash] == SMALL


@pytest.mark.parametrize("line", ["POST /s5/upload", "GET /s5/download", "GET /s5/registry"])
@pytest.mark.parametrize("after", [None, 3])
async def test_a_stall_ends(
    faulty: FaultyPortal, http_client: httpx.AsyncClient, line: str, after: int | None
) -> None:
    portal = client_of(faulty, http_client, HASTY)
    blob = faulty.add(SMALL)
    entry = sign_entry(bytes(32), 1, b"data", NATIVE)
    faulty.entries[entry.public_key] = entry
    faulty.fail(line, Stall(after))

    with pytest.raises(PortalUnavailable, match="in time"):
        if line.startswith("POST"):
            await portal.upload(SMALL)
        elif "registry" in line:
            await portal.get_entry(entry.public_key)
        else:
            await portal.get(blob.multihash, max_bytes=100)


async def test_nobody_there(http_client: httpx.AsyncClient, faulty: FaultyPortal) -> None:
    http = PortalHttp("http://127.0.0.1:1", http_client, patience=HASTY)

    with pytest.raises(PortalUnavailable, match="no connection"):
        await Portal(http, NATIVE).version()


async def test_every_request_is_counted(
    faulty: FaultyPortal, http_client: httpx.AsyncClient
) -> None:
    seen: list[PortalRequest] = []
    portal = client_of(faulty, http_client, on_request=seen.append)
    faulty.fail("GET /s5/download", Alter(lambda a: replace(a, body=b"other bytes!")))

    blob = await portal.upload(SMALL)
    with pytest.raises(PortalLied):
        await portal.get(blob.multihash, max_bytes=100)
    with pytest.raises(NotFound):
        await portal.get(Multihash(bytes(32)), max_bytes=100)

    assert [(r.operation, r.outcome) for r in seen] == [
        ("upload", "ok"),
        ("download", "lied"),
        ("download", "ok"),
    ]
    assert seen[0].bytes_out == len(SMALL)
    assert seen[1].bytes_in == len(SMALL)
    assert all(request.seconds > 0 for request in seen)


async def test_limits_hold_whatever_a_portal_says(faulty: FaultyPortal, portal: Portal) -> None:
    blob = faulty.add(LARGE)

    with pytest.raises(StorageError, match="limit of 100 bytes"):
        await portal.get(blob.multihash, max_bytes=100)


async def test_the_accounts_token_is_in_no_error(
    faulty: FaultyPortal, http_client: httpx.AsyncClient, tmp_path: Path
) -> None:
    http = PortalHttp(faulty.url, http_client, patience=PATIENCE)
    file = AccountFile(tmp_path / "a.json")
    session = await sign_in(http, IDENTITY, file, random_bytes=random_bytes)
    assert session.token is not None
    faulty.fail("GET /s5/account/stats", refuse(403, json.dumps({"message": "no"}).encode()))

    with pytest.raises(PortalRefused) as caught:
        await Portal(http, NATIVE, session).stats()

    assert session.token not in str(caught.value)
