"""Long blobs, up and down, over connections that break and portals that lie half-way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import anyio
import httpx
import pytest
from tests.integration.s5.portals.clients import HASTY, LARGE, PATIENCE, client_of, pieces
from tests.integration.s5.portals.faulty import FaultyPortal, open_faulty_portal, with_header
from tests.integration.s5.portals.raw_http import (
    Alter,
    Answer,
    Cut,
    CutRequest,
    Fault,
    Stall,
    always,
    refuse,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import (
    NotFound,
    PortalLied,
    PortalRefused,
    PortalUnavailable,
    StorageError,
)
from fabstir.s5.portals import Portal, PortalPool, UploadSource, bytes_source, spooled_source

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

HALF = len(LARGE) // 2
MIB = 1024 * 1024
OTHER = BlobId(bytes(32), len(LARGE))


def to(url: str) -> Answer:
    return Answer(307, b"", (("Location", url),))


# Down


@pytest.mark.parametrize("fault", [Cut(HALF), Cut(), refuse(503), refuse(429, Retry_After="0")])
async def test_a_download_goes_on_where_it_broke_off(
    faulty: FaultyPortal, portal: Portal, fault: Fault
) -> None:
    blob = faulty.add(LARGE)
    faulty.fail("GET /s5/download", fault)
    seen: list[tuple[int, int]] = []

    data = b"".join(
        [
            p
            async for p in portal.read(
                blob, on_progress=lambda done, total: seen.append((done, total))
            )
        ]
    )

    assert data == LARGE
    assert seen == sorted(seen)
    assert seen[-1] == (len(LARGE), len(LARGE))
    if fault == Cut(HALF):
        second = faulty.requests[-1].headers
        assert second["range"].startswith("bytes=2")
        assert second["if-range"] == f'"{blob.encode("z")}"'


async def test_a_portal_without_ranges_starts_again(faulty: FaultyPortal, portal: Portal) -> None:
    blob = faulty.add(LARGE)
    faulty.has_ranges = False
    faulty.fail("GET /s5/download", Cut(HALF))

    assert await portal.get(blob.multihash, max_bytes=len(LARGE)) == LARGE


async def test_a_stalled_download_ends(
    faulty: FaultyPortal, http_client: httpx.AsyncClient
) -> None:
    blob = faulty.add(LARGE)
    faulty.fail("GET /s5/download", Stall(HALF))
    portal = client_of(faulty, http_client, HASTY)

    with pytest.raises(PortalUnavailable, match="in time"):
        await portal.get(blob.multihash, max_bytes=len(LARGE))


async def test_a_portal_that_stalls_is_not_asked_again(
    faulty: FaultyPortal, http_client: httpx.AsyncClient
) -> None:
    blob = faulty.add(LARGE)
    faulty.fail("GET /s5/download", *[Stall()] * 4)
    portal = client_of(faulty, http_client, replace(HASTY, max_failures=4))

    with pytest.raises(PortalUnavailable, match="in time"):
        await portal.get(blob.multihash, max_bytes=len(LARGE))

    assert len([r for r in faulty.requests if "download" in r.path]) == 1


def ranged(value: str) -> Alter:
    return Alter(lambda answer: with_header(answer, "Content-Range", value))


@pytest.mark.parametrize(
    ("faults", "error", "words"),
    [
        ([Alter(lambda a: replace(a, body=a.body[:-1] + b"!"))], PortalLied, "other bytes"),
        ([Alter(lambda a: replace(a, body=b"", length=0))], PortalLied, "has 0"),
        ([Alter(lambda a: replace(a, body=a.body + b"more"))], PortalLied, "has 52"),
        ([Alter(lambda a: replace(a, body=a.body + b"more", length=-1))], PortalLied, "more than"),
        ([Cut(HALF), ranged(f"bytes 0-9/{len(LARGE)}")], PortalLied, "another range"),
        ([Cut(HALF), ranged("bytes 7")], PortalLied, "does not say which"),
        ([Cut(HALF), ranged(f"bytes {'9' * 5000}-9/9")], PortalLied, "does not say which"),
        (
            [always(Answer(200, b"<html>", (("Content-Type", "text/html; charset=x"),)))] * 3,
            PortalUnavailable,
            "web page",
        ),
        ([Alter(lambda a: with_header(a, "Content-Encoding", "br"))], PortalLied, "compresses"),
        ([always(Answer(416))], PortalRefused, "416"),
        ([always(Answer(404))], NotFound, "does not know"),
        ([refuse(500)] * 3, PortalUnavailable, "500"),
        ([refuse(503, Retry_After="60")], PortalUnavailable, "503"),
    ],
)
async def test_nothing_unverified_comes_back(
    faulty: FaultyPortal,
    portal: Portal,
    faults: list[Fault],
    error: type[StorageError],
    words: str,
) -> None:
    blob = faulty.add(LARGE)
    faulty.fail("GET /s5/download", *faults)
    got = bytearray()

    with pytest.raises(error, match=words):
        async for piece in portal.read(blob):
            got += piece

    assert not got


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("file:///etc/passwd", "no web address"),
        ("ftp://example.org/", "no web address"),
        ("", "no web address"),
        ("http://xn--/", "no URL"),
        ("http://user:secret@127.0.0.1/", "password"),
        ("/s5/blob/{cid}", "circles"),
    ],
)
async def test_redirects_lead_to_web_addresses_only(
    faulty: FaultyPortal, portal: Portal, location: str, words: str
) -> None:
    blob = faulty.add(LARGE)
    target = location.format(cid=blob.encode("z"))
    faulty.fail("GET /s5/download", refuse(403))
    faulty.fail("GET /s5/blob", *[always(to(target))] * 10)

    with pytest.raises(PortalLied, match=words) as caught:
        await portal.get(blob.multihash, max_bytes=len(LARGE))

    assert "secret" not in str(caught.value)


async def test_a_redirect_is_followed_without_the_token(
    faulty: FaultyPortal, portal: Portal
) -> None:
    async with open_faulty_portal() as elsewhere:
        blob = elsewhere.add(LARGE)
        faulty.fail("GET /s5/download", refuse(401))
        faulty.fail("GET /s5/blob", always(to(f"{elsewhere.url}/s5/download/{blob.encode('z')}")))
        portal.session.token = "secret-token"

        data = await portal.get(blob.multihash, max_bytes=len(LARGE))

        assert data == LARGE
        assert "authorization" in faulty.requests[-1].headers
        assert "authorization" not in elsewhere.requests[-1].headers


async def test_endless_redirects_end(faulty: FaultyPortal, portal: Portal) -> None:
    blob = faulty.add(LARGE)
    steps = [always(to(f"{faulty.url}/s5/blob/{blob.encode('z')}?{n}")) for n in range(50)]
    faulty.fail("GET /s5/download", refuse(403))
    faulty.fail("GET /s5/blob", *steps)

    with pytest.raises(PortalLied, match="more than 5 times"):
        await portal.get(blob.multihash, max_bytes=len(LARGE))

    assert len(faulty.requests) < 10


# By groups


async def test_of_a_long_blob_only_the_groups_that_are_read_are_fetched(
    faulty: FaultyPortal, portal: Portal
) -> None:
    faulty.has_outboards = True
    blob = faulty.add(LARGE)

    first = b"".join([piece async for piece in portal.read(blob, 300_000, 300_010)])
    second = b"".join([piece async for piece in portal.read(blob, len(LARGE) - 3)])
    nothing = [piece async for piece in portal.read(blob, 7, 7)]
    whole = b"".join([piece async for piece in portal.read(blob)])

    assert (first, second, nothing, whole) == (LARGE[300_000:300_010], LARGE[-3:], [], LARGE)
    ranges = [request.headers.get("range") for request in faulty.requests]
    group = 256 * 1024
    assert ranges == [
        None,  # the outboard, once
        f"bytes={group}-{2 * group - 1}",
        f"bytes={19 * group}-{20 * group - 1}",
        f"bytes=0-{16 * group - 1}",
        f"bytes={16 * group}-{20 * group - 1}",
    ]


async def test_a_wrong_group_is_never_returned(faulty: FaultyPortal, portal: Portal) -> None:
    faulty.has_outboards = True
    blob = faulty.add(LARGE)
    faulty.fail(
        "GET /s5/download",
        Alter(lambda a: a),
        Alter(lambda a: replace(a, body=a.body[:-1] + bytes([a.body[-1] ^ 1]))),
    )
    got = bytearray()

    with pytest.raises(PortalLied, match="bytes 4980736 to 5242880 are not those"):
        async for piece in portal.read(blob):
            got += piece

    assert got == LARGE[: 16 * 256 * 1024]


def flipped(position: int) -> Alter:
    def flip(answer: Answer) -> Answer:
        body = bytearray(answer.body)
        body[position] ^= 1
        return replace(answer, body=bytes(body))

    return Alter(flip)


@pytest.mark.parametrize("position", [0, 8, 100, -1])
async def test_a_wrong_outboard_is_named(
    faulty: FaultyPortal, portal: Portal, position: int
) -> None:
    faulty.has_outboards = True
    blob = faulty.add(LARGE)
    faulty.fail(f"GET /s5/blob/{blob.encode('z')}.obao", flipped(position))

    with pytest.raises(PortalLied, match="outboard"):
        await anext(aiter(portal.read(blob)))


@pytest.mark.parametrize(
    "fault",
    [
        Alter(lambda a: replace(a, body=a.body + b"x")),
        Alter(lambda a: replace(a, body=a.body[:-1])),
        refuse(403),
        always(Answer(404)),
    ],
)
async def test_without_an_outboard_the_whole_is_verified(
    faulty: FaultyPortal, portal: Portal, fault: Fault
) -> None:
    faulty.has_outboards = True
    blob = faulty.add(LARGE)
    faulty.fail(f"GET /s5/blob/{blob.encode('z')}.obao", fault)

    assert b"".join([piece async for piece in portal.read(blob, 9, 99)]) == LARGE[9:99]


async def test_a_portal_without_ranges_gives_the_whole(
    faulty: FaultyPortal, portal: Portal
) -> None:
    faulty.has_outboards, faulty.has_ranges = True, False
    blob = faulty.add(LARGE)

    with pytest.raises(PortalRefused, match="no ranges"):
        await portal.unverified_range(blob, 5, 10)
    pool = PortalPool([portal], NATIVE)

    assert b"".join([piece async for piece in pool.read(blob, 5, 10)]) == LARGE[5:10]


# Up


async def test_a_large_blob_goes_up_in_chunks_with_progress(
    faulty: FaultyPortal, portal: Portal
) -> None:
    seen: list[tuple[int, int]] = []

    async with spooled_source(pieces(LARGE * 4)) as source:
        blob = await portal.upload(
            source, on_progress=lambda done, total: seen.append((done, total))
        )

    assert faulty.blobs[blob.multihash] == LARGE * 4
    assert len(faulty.server.paths("PATCH")) == 3
    assert seen == [(8 * MIB, 20 * MIB), (16 * MIB, 20 * MIB), (20 * MIB, 20 * MIB)]


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("PATCH", CutRequest(HALF)),
        ("PATCH", Cut()),
        ("PATCH", refuse(500)),
        ("PATCH", refuse(409)),
        ("POST /s5/upload/tus", Cut()),
        ("POST /s5/upload/tus", refuse(502)),
    ],
)
async def test_an_upload_survives_a_dropped_connection(
    faulty: FaultyPortal, portal: Portal, line: str, fault: Fault
) -> None:
    faulty.fail(line, fault)

    blob = await portal.upload(LARGE)

    assert faulty.blobs[blob.multihash] == LARGE
    if isinstance(fault, CutRequest):
        last = faulty.requests[-1]
        assert last.headers["upload-offset"] == str(HALF)
        assert len(last.body) == len(LARGE) - HALF


async def test_an_upload_is_resumed_by_another_process(
    faulty: FaultyPortal, http_client: httpx.AsyncClient
) -> None:
    portal = client_of(faulty, http_client, replace(PATIENCE, max_failures=1))
    faulty.fail("PATCH", CutRequest(HALF))
    kept: list[str | None] = []

    async def keep(location: str | None) -> None:
        kept.append(location)

    with pytest.raises(PortalUnavailable):
        await portal.upload(LARGE, on_location=keep)
    later = client_of(faulty, http_client)
    blob = await later.upload(LARGE, location=kept[0])

    assert faulty.blobs[blob.multihash] == LARGE
    assert len(faulty.requests[-1].body) == len(LARGE) - HALF


async def test_a_portal_that_forgot_the_upload_begins_again(
    faulty: FaultyPortal, portal: Portal
) -> None:
    blob = await portal.upload(LARGE, location="/s5/upload/tus/00ff")

    assert faulty.blobs[blob.multihash] == LARGE


async def test_a_blob_that_is_there_already_is_pinned(faulty: FaultyPortal, portal: Portal) -> None:
    blob = faulty.add(LARGE)
    faulty.tokens["a-token"] = bytes(32)
    portal.session.token = "a-token"

    await portal.upload(LARGE)

    assert faulty.pins["a-token"] == {blob.multihash}
    assert not faulty.server.paths("PATCH")


async def test_without_tus_the_blob_goes_up_at_once(faulty: FaultyPortal, portal: Portal) -> None:
    faulty.has_tus = False

    blob = await portal.upload(LARGE)

    assert faulty.blobs[blob.multihash] == LARGE


def offset(value: object) -> Callable[[Answer], Answer]:
    return lambda answer: with_header(answer, "Upload-Offset", str(value))


@pytest.mark.parametrize(
    ("line", "fault", "words"),
    [
        ("PATCH", Alter(offset(len(LARGE) + 1)), "were sent"),
        ("PATCH", Alter(offset("x")), "were sent"),
        ("PATCH", Alter(offset(0)), "keeps nothing"),
        (
            "POST /s5/upload/tus",
            Alter(lambda a: with_header(a, "Location", "http://elsewhere.example/x")),
            "another host",
        ),
        ("PATCH", Alter(lambda a: with_header(a, "Upload-Cid", OTHER.encode())), "answers with"),
        ("PATCH", Alter(lambda a: with_header(a, "Upload-Cid", "z1")), "names no blob"),
        ("POST /s5/upload/tus", always(Answer(201)), "does not say where"),
        (
            "POST /s5/upload/tus",
            Alter(lambda a: with_header(a, "Location", "http://127.0.0.1:port/")),
            "no URL",
        ),
    ],
)
async def test_an_upload_that_is_lied_about_ends(
    faulty: FaultyPortal, portal: Portal, line: str, fault: Fault, words: str
) -> None:
    faulty.fail(line, fault)

    with pytest.raises(PortalLied, match=words):
        await portal.upload(LARGE)


async def test_an_upload_whose_length_changes_ends(faulty: FaultyPortal, portal: Portal) -> None:
    faulty.fail("PATCH", CutRequest(HALF))
    faulty.fail("HEAD", Alter(lambda a: with_header(a, "Upload-Length", "7")))

    with pytest.raises(PortalLied, match="has '7'"):
        await portal.upload(LARGE)


async def test_a_source_that_shrinks_is_named(portal: Portal) -> None:
    whole = bytes_source(LARGE, NATIVE)
    short = UploadSource(whole.blob, lambda start: pieces(LARGE[start:HALF]))

    with pytest.raises(StorageError, match="was changed while it was uploaded"):
        await portal.upload(short)


@pytest.mark.parametrize("size", [2 << 30, 4 << 30, 5 << 30])
async def test_the_hash_decides_where_javascript_computes_a_wrong_size(size: int) -> None:
    from fabstir.s5.portals.answers import is_same_blob

    ours = BlobId(bytes(32), size)

    assert is_same_blob(BlobId(bytes(32), 0), ours)
    assert not is_same_blob(BlobId(bytes([1]) * 32, size), ours)


async def test_a_cancelled_upload_leaves_a_usable_client(
    faulty: FaultyPortal, portal: Portal, tmp_path: Path
) -> None:
    faulty.fail("PATCH", Stall())

    with anyio.move_on_after(0.1):
        await portal.upload(LARGE)

    assert (await portal.upload(b"short")).size == 5
