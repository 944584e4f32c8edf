"""Files by path at a bridge: our own node's, and ones that answer as the original's, or worse."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

import httpx
import pytest
from tests.integration.s5.door.door import Door, open_door
from tests.integration.s5.portals.clients import LARGE, PATIENCE, pieces
from tests.integration.s5.portals.faulty import json_answer
from tests.integration.s5.portals.raw_http import Answer, Cut, Refuse, Request, Server, open_server

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import (
    AccessDenied,
    BlobTooLarge,
    Busy,
    CorruptBlob,
    NotFound,
    PathRefused,
    PortalLied,
    PortalRefused,
    PortalUnavailable,
    StorageError,
    StorageFull,
    WriteConflict,
)
from fabstir.s5.fs import DirectoryInfo, FileInfo
from fabstir.s5.identities.node_secrets import load_owner_token
from fabstir.s5.portals import BridgeClient, PortalHttp

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

LONG = LARGE + LARGE[:4_000_000]


@pytest.fixture(scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Door]:
    async with open_door(tmp_path_factory.mktemp("bridge")) as door:
        yield door


@pytest.fixture
def bridge(door: Door, http_client: httpx.AsyncClient) -> BridgeClient:
    http = PortalHttp(door.url, http_client, patience=PATIENCE)
    return BridgeClient(http, token=load_owner_token(door.folder))


async def joined(stream: AsyncGenerator[bytes]) -> bytes:
    return b"".join([piece async for piece in stream])


async def test_files_are_written_read_listed_and_deleted(bridge: BridgeClient) -> None:
    put = await bridge.put("notes/ä b%2f.txt", b"hello")
    info = await bridge.stat("notes/ä b%2f.txt")
    page = await bridge.list("notes")
    data = await bridge.get("notes/ä b%2f.txt", 100)
    await bridge.delete("notes/ä b%2f.txt", if_match=info.cid)

    assert data == b"hello"
    assert isinstance(info, FileInfo)
    assert (info.cid, info.size, info.media_type) == (put.cid, 5, "text/plain")
    assert info.is_encrypted
    assert info.modified_at is not None
    assert [(e.path, e.cid) for e in page.entries] == [("notes/ä b%2f.txt", put.cid)]
    assert not await bridge.exists("notes/ä b%2f.txt")


async def test_long_files_stream_both_ways_and_in_ranges(bridge: BridgeClient) -> None:
    await bridge.put("long.bin", pieces(LONG))
    await bridge.put("clear.bin", pieces(LONG), encrypt=False)

    assert await joined(bridge.read("long.bin")) == LONG
    assert await joined(bridge.read("clear.bin")) == LONG
    assert await joined(bridge.read("long.bin", 5_000_000, 5_000_010)) == LONG[5_000_000:5_000_010]
    assert await joined(bridge.read("long.bin", len(LONG) - 2)) == LONG[-2:]
    assert await joined(bridge.read("long.bin", 3, 3)) == b""
    with pytest.raises(BlobTooLarge):
        await bridge.get("long.bin", 100)


async def test_conditions_hold(bridge: BridgeClient) -> None:
    first = await bridge.put("c.txt", b"1")
    second = await bridge.put("c.txt", b"2", if_match=first.cid)

    with pytest.raises(WriteConflict):
        await bridge.put("c.txt", b"3", if_match=first.cid)
    with pytest.raises(WriteConflict):
        await bridge.put("c.txt", b"3", if_none_match=True)
    with pytest.raises(WriteConflict):
        await bridge.delete("c.txt", if_match=first.cid)
    assert await bridge.get("c.txt", 10, version=second.cid) == b"2"
    with pytest.raises(WriteConflict):
        await bridge.get("c.txt", 10, version=first.cid)


async def test_directories_are_made_listed_page_by_page_and_deleted(bridge: BridgeClient) -> None:
    await bridge.make_directory("d/inner")
    for n in range(5):
        await bridge.put(f"d/{n}", b"x")

    first = await bridge.list("d", limit=4)
    rest = await bridge.list("d", cursor=first.cursor, limit=4)
    with pytest.raises(PathRefused):
        await bridge.delete("d")
    info = await bridge.stat("d")
    await bridge.delete("d", recursive=True)

    names = [entry.path for page in (first, rest) for entry in page.entries]
    assert sorted(names) == ["d/0", "d/1", "d/2", "d/3", "d/4", "d/inner"]
    assert rest.cursor is None
    assert isinstance(info, DirectoryInfo)
    assert not await bridge.exists("d")


async def test_what_is_missing_or_not_allowed_has_a_name(
    bridge: BridgeClient, door: Door, http_client: httpx.AsyncClient
) -> None:
    stranger = BridgeClient(PortalHttp(door.url, http_client, patience=PATIENCE))

    for call in (bridge.stat("no"), bridge.get("no", 1), bridge.delete("no"), bridge.list("no")):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(NotFound):
        await joined(bridge.read("no"))
    with pytest.raises(PathRefused):
        await bridge.put("../up", b"")
    with pytest.raises(AccessDenied):
        await stranger.get("long.bin", 1)
    await bridge.make_directory("folder")
    with pytest.raises(PathRefused):
        await joined(bridge.read("folder"))


# The original node's bridge, and worse ones

CID = BlobId(NATIVE.blake3(b"hello"), 5)
Handler = Callable[[Request], Awaitable[Answer]]


async def original(request: Request) -> Answer:
    """What fabstir-llm-node's bridge answers (reference/storage-vectors.md, section 2)."""
    if request.path.endswith("missing"):
        return json_answer({"error": "File not found"}, 404)
    if request.method == "PUT":
        return json_answer(
            {
                "success": True,
                "path": request.path,
                "size": len(request.body),
                "cid": CID.encode(),
                "networkUploaded": False,
                "debug": {},
            },
            201,
        )
    if request.method == "DELETE":
        return Answer(204)
    if "list" in request.query:
        return json_answer({"error": "disabled"}, 501)
    if request.method == "HEAD":
        return Answer(405)
    return Answer(200, b"hello", (("Content-Type", "application/octet-stream"),))


@pytest.fixture
async def old(http_client: httpx.AsyncClient) -> AsyncGenerator[tuple[BridgeClient, Server]]:
    async with open_server(original) as server:
        yield BridgeClient(PortalHttp(server.url, http_client, patience=PATIENCE)), server


async def test_the_original_nodes_bridge_is_understood(
    old: tuple[BridgeClient, Server], caplog: pytest.LogCaptureFixture
) -> None:
    bridge, _ = old

    info = await bridge.put("a/b", b"hello")
    stat = await bridge.stat("a/b")
    await bridge.delete("a/b")

    assert info.cid == CID.encode()
    assert info.metadata == {"networkUploaded": False}
    assert "keeps the file for itself" in caplog.text
    assert isinstance(stat, FileInfo)
    assert stat.size == 5
    assert await bridge.get("a/b", 10) == b"hello"
    assert await joined(bridge.read("a/b", 1, 3)) == b"el"
    with pytest.raises(NotFound):
        await bridge.get("missing", 10)
    with pytest.raises(PortalRefused, match="does not offer"):
        await bridge.list("a")


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (json_answer({"error_type": "path_refused", "message": "no"}, 400), PathRefused),
        (json_answer({"error_type": "storage_full"}, 507), StorageFull),
        (json_answer({"error_type": "corrupt_blob"}, 502), CorruptBlob),
        (json_answer({"error": "no portal account"}, 503), PortalUnavailable),
        (json_answer({"error": "x"}, 429, Retry_After="3"), Busy),
        (json_answer({}, 413), PortalRefused),
        (json_answer({}, 418), PortalRefused),
        (Answer(502, b"<html>", (("Content-Type", "text/html"),)), PortalUnavailable),
        (json_answer({"success": False}, 201), PortalLied),
        (json_answer({"success": True, "size": 6}, 201), PortalLied),
        (json_answer({"success": True, "cid": "zzz"}, 201), PortalLied),
        (Answer(200, b"<html>hello"), PortalLied),
        (Answer(204), PortalLied),
    ],
)
async def test_every_answer_to_a_write_has_its_error(
    old: tuple[BridgeClient, Server], answer: Answer, error: type[StorageError]
) -> None:
    bridge, server = old
    server.faults["PUT"] = [Refuse(answer)]

    with pytest.raises(error):
        await bridge.put("a", b"hello")


ENTRY = {"name": "x", "type": "file", "size": 1, "cid": CID.encode()}


@pytest.mark.parametrize(
    "body",
    [
        {"entries": [ENTRY] * 3},
        {"entries": {}},
        {"entries": [ENTRY | {"size": -1}]},
        {"entries": [ENTRY | {"cid": "blob"}]},
        {"entries": [ENTRY | {"type": "link"}]},
        {"entries": [ENTRY | {"modifiedAt": "now"}]},
        {"entries": [ENTRY | {"modifiedAt": True}]},
        {"entries": [ENTRY], "cursor": "x" * 5000},
        {"items": ["x"]},
        [],
    ],
)
async def test_a_list_that_is_none_is_named(old: tuple[BridgeClient, Server], body: object) -> None:
    bridge, server = old
    server.faults["GET"] = [Refuse(json_answer(body))]

    with pytest.raises(PortalLied):
        await bridge.list("a", limit=2)


async def test_names_that_are_not_allowed_are_counted(old: tuple[BridgeClient, Server]) -> None:
    bridge, server = old
    names = ["..", "a/b", "", "ok", "\u202e"]
    entries = [ENTRY | {"name": name} for name in names]
    server.faults["GET"] = [Refuse(json_answer({"entries": entries}))]

    page = await bridge.list("a")

    assert [entry.path for entry in page.entries] == ["a/ok"]
    assert page.num_refused == 4


def file_answers(data: bytes, cid: BlobId, lie: str = "") -> Handler:
    async def handle(request: Request) -> Answer:
        headers = [("ETag", f'"{cid.encode()}"')]
        wanted = request.headers.get("range")
        if wanted is None or request.method == "HEAD":
            return Answer(200, data, tuple(headers))
        start, end = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
        extent = lie or f"bytes {start}-{end}/{len(data)}"
        return Answer(206, data[start : end + 1], (*headers, ("Content-Range", extent)))

    return handle


async def test_a_file_in_clear_is_verified(http_client: httpx.AsyncClient) -> None:
    wrong = BlobId(NATIVE.blake3(b"other"), len(LONG))
    async with open_server(file_answers(LONG, wrong)) as server:
        bridge = BridgeClient(PortalHttp(server.url, http_client, patience=PATIENCE))

        with pytest.raises(PortalLied, match="other bytes"):
            await bridge.get("a", len(LONG))
        got = bytearray()
        with pytest.raises(PortalLied, match="other bytes"):
            async for piece in bridge.read("a"):
                got += piece
        assert not got


async def test_a_read_goes_on_after_a_cut_and_ends_when_the_file_changes(
    http_client: httpx.AsyncClient,
) -> None:
    cid = BlobId(bytes(32), len(LONG) + 500)  # of something encrypted
    async with open_server(file_answers(LONG, cid)) as server:
        bridge = BridgeClient(PortalHttp(server.url, http_client, patience=PATIENCE))
        server.faults["GET"] = [Cut(100), Cut()]

        assert await joined(bridge.read("a")) == LONG

        stream = bridge.read("a")
        first = await anext(stream)
        server.handle = file_answers(LONG, BlobId(bytes([1]) * 32, len(LONG) + 500))
        with pytest.raises(WriteConflict, match="replaced while it was read"):
            await joined(stream)
        assert first == LONG[: len(first)]


async def test_a_bridge_that_sends_another_range_is_named(http_client: httpx.AsyncClient) -> None:
    cid = BlobId(bytes(32), len(LONG) + 500)
    handle = file_answers(LONG, cid, "bytes 0-9/10")
    async with open_server(handle) as server:
        bridge = BridgeClient(PortalHttp(server.url, http_client, patience=PATIENCE))

        with pytest.raises(PortalLied, match="another range"):
            await joined(bridge.read("a", 5, 100))
