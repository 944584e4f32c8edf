"""Files by path over HTTP, as the bridge and as the Enhanced S5.js server name them."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import anyio
import httpx
import pytest
from tests.integration.s5.door.door import Door, error_of, open_door
from tests.integration.s5.door.raw import connect, exchange, head, status_of
from tests.integration.s5.fs.sharer import Sharer

from fabstir.crypto import NATIVE
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.limits import MAX_REVISION
from fabstir.s5.formats.registry import read_blob_pointer
from fabstir.s5.fs.values import DEFAULT_MEDIA_TYPE
from fabstir.s5.store import LocalBlobs, LocalRegistry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


@pytest.fixture
def place() -> str:
    """A directory of this test's own."""
    return f"/s5/fs/test-{secrets.token_hex(8)}"


async def put(door: Door, path: str, data: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await door.owner.put(path, content=data, headers=named)


async def test_a_file_comes_back(door: Door, place: str) -> None:
    data = secrets.token_bytes(700_000)
    path = f"{place}/sub/a.bin"

    written = await put(door, path, data, Content_Type="image/x-test; q=1")

    assert written.status_code == 201
    body = written.json()
    assert body["success"] is True
    assert body["path"] == body["key"] == path.removeprefix("/s5/fs/")
    assert (body["size"], body["mediaType"]) == (len(data), "image/x-test; q=1")
    assert body["networkUploaded"] is True
    assert written.headers["etag"] == f'"{body["cid"]}"'
    read = await door.owner.get(path)
    assert (read.status_code, read.content) == (200, data)
    assert read.headers["content-type"] == "image/x-test; q=1"
    assert read.headers["etag"] == written.headers["etag"]
    assert read.headers["cache-control"] == "private, no-cache"
    part = await door.owner.get(path, headers={"Range": "bytes=262140-262150"})
    assert (part.status_code, part.content) == (206, data[262140:262151])
    shown = await door.owner.head(path)
    assert shown.headers["content-length"] == str(len(data))
    same = await door.owner.get(path, headers={"If-None-Match": written.headers["etag"]})
    assert same.status_code == 304


async def test_the_nodes_own_store_cannot_read_it(door: Door, place: str) -> None:
    body = (await put(door, f"{place}/secret", b"of the owner's alone")).json()
    clear = await door.owner.put(f"{place}/clear?encrypt=false", content=b"in clear")

    blob = await door.http.get(f"/s5/blob/{body['cid']}")

    assert body["encrypted"] is True
    assert b"owner" not in blob.content
    assert (await door.http.get(f"/s5/blob/{clear.json()['cid']}")).content == b"in clear"


async def test_only_the_owner(door: Door, place: str) -> None:
    await put(door, f"{place}/a", b"mine")
    account = await door.account()

    for http, status in ((door.http, 401), (account.http, 403)):
        for answer in (
            await http.get(f"{place}/a"),
            await http.head(f"{place}/a"),
            await http.get(place),
            await http.get("/s5/fs"),
            await http.put(f"{place}/a", content=b"yours"),
            await http.delete(f"{place}/a"),
        ):
            assert answer.status_code == status
    assert (await door.owner.get(f"{place}/a")).content == b"mine"


async def test_replacing(door: Door, place: str) -> None:
    first = await put(door, f"{place}/a", b"1")
    second = await put(door, f"{place}/a", b"2")

    assert (first.status_code, second.status_code) == (201, 200)
    assert (await door.owner.get(f"{place}/a")).content == b"2"


async def test_conditional_writes(door: Door, place: str) -> None:
    path = f"{place}/a"

    missing = await put(door, path, b"0", If_Match="*")
    created = await put(door, path, b"1", If_None_Match="*")
    again = await put(door, path, b"2", If_None_Match="*")
    etag = created.headers["etag"]
    replaced = await put(door, path, b"3", If_Match=f'"nonsense", {etag}')
    stale = await put(door, path, b"4", If_Match=etag)
    anything = await put(door, path, b"5", If_Match="*")
    odd = await put(door, path, b"6", If_None_Match=etag)
    stale_delete = await door.owner.delete(path, headers={"If-Match": etag})

    assert created.status_code == 201
    assert (replaced.status_code, anything.status_code) == (200, 200)
    for answer in (missing, again, stale, stale_delete):
        assert (answer.status_code, error_of(answer)) == (412, "conflict")
    assert odd.status_code == 400
    assert (await door.owner.get(path)).content == b"5"
    newest = {"If-Match": anything.headers["etag"]}
    assert (await door.owner.delete(path, headers=newest)).status_code == 204
    assert (await door.owner.get(path)).status_code == 404


async def test_of_many_writers_of_one_version_one_wins(door: Door, place: str) -> None:
    etag = (await put(door, f"{place}/a", b"0")).headers["etag"]
    statuses: list[int] = []

    async def write(number: int) -> None:
        answer = await put(door, f"{place}/a", b"%d" % number, If_Match=etag)
        statuses.append(answer.status_code)

    async with anyio.create_task_group() as tasks:
        for number in range(1, 6):
            tasks.start_soon(write, number)

    assert sorted(statuses) == [200, 412, 412, 412, 412]


async def test_lists(door: Door, place: str) -> None:
    names = [f"{number:02}.txt" for number in range(7)]
    for name in names:
        await put(door, f"{place}/{name}", b"x")
    await door.owner.put(f"{place}/empty/")

    whole = (await door.owner.get(place)).json()
    assert sorted(whole["items"]) == [*names, "empty"]
    assert whole["cursor"] is None
    assert (await door.owner.get(f"{place}/")).json() == whole
    assert (await door.owner.get(f"{place}?list")).json() == whole
    (entry,) = [entry for entry in whole["entries"] if entry["name"] == "00.txt"]
    assert (entry["type"], entry["size"], entry["mediaType"]) == ("file", 1, "text/plain")
    (empty,) = [entry for entry in whole["entries"] if entry["name"] == "empty"]
    assert empty["type"] == "directory"
    paged: list[str] = []
    cursor = ""
    while cursor is not None:
        params = {"limit": "3", "cursor": cursor}
        page = (await door.owner.get(place, params=params)).json()
        assert len(page["items"]) <= 3
        paged += page["items"]
        cursor = page["cursor"]
    assert paged == whole["items"]
    assert place.rpartition("/")[2] in (await door.owner.get("/s5/fs")).json()["items"]
    assert (await door.owner.get(f"{place}/empty")).json()["items"] == []


async def test_odd_lists(door: Door, place: str) -> None:
    await put(door, f"{place}/a", b"x")

    for query in ("limit=0", "limit=1001", "limit=x", "limit=-1", "limit=٣", "cursor=%00"):
        assert (await door.owner.get(f"{place}?{query}")).status_code == 400
    assert (await door.owner.get(f"{place}-missing?list")).status_code == 404
    assert (await door.owner.get(f"{place}/a?list")).status_code == 404
    assert (await door.owner.get(f"{place}/a/b")).status_code == 404


async def test_deleting(door: Door, place: str) -> None:
    await put(door, f"{place}/sub/a", b"x")

    full = await door.owner.delete(f"{place}/sub")
    assert (full.status_code, error_of(full)) == (400, "path_refused")
    gone = await door.owner.delete(f"{place}/sub?recursive=true")
    assert (gone.status_code, gone.content) == (204, b"")
    again = await door.owner.delete(f"{place}/sub")
    assert (again.status_code, error_of(again)) == (404, "not_found")


async def test_clients_of_the_enhanced_s5js_server(door: Door, place: str) -> None:
    """`/s5/fs/:type/:id`: JSON in, JSON out; and what is no JSON comes back as it was (fault 5)."""
    kind = place.rpartition("/")[2]
    value = {"vector": [0.25, -1], "meta": {"ä": None}}
    wants_json = {"Accept": "application/json"}

    stored = await door.owner.put(f"{place}/one", json=value)
    assert stored.json()["success"] is True
    assert stored.json()["key"] == f"{kind}/one"
    read = await door.owner.get(f"{place}/one")
    assert read.headers["content-type"] == "application/json"
    assert read.json() == value
    await put(door, f"{place}/two", b"\0\xff", Content_Type="application/octet-stream")
    assert (await door.owner.get(f"{place}/two")).content == b"\0\xff"
    assert sorted((await door.owner.get(place)).json()["items"]) == ["one", "two"]
    deleted = await door.owner.delete(f"{place}/one", headers=wants_json)
    assert deleted.json() == {"success": True}
    deleted = await door.owner.delete(f"{place}/one", headers=wants_json)
    assert deleted.json() == {"success": False}
    assert (await door.owner.get(f"{place}/one")).status_code == 404


async def test_what_is_written_survives_a_restart(folder: Path) -> None:
    """The Enhanced S5.js server keeps it in a map of its process."""
    async with open_door(folder) as door:
        await door.owner.put("/s5/fs/type/id", json={"a": 1})
    async with open_door(folder) as door:
        assert (await door.owner.get("/s5/fs/type/id")).json() == {"a": 1}


TRAVERSALS = [
    "/s5/fs/../account",
    "/s5/fs/a/../../b",
    "/s5/fs/%2e%2e/b",
    "/s5/fs/a/%2E%2e/b",
    "/s5/fs/./a",
    "/s5/fs/a/%2e/b",
    "/s5/fs//a",
    "/s5/fs/a//b",
    "/s5/fs/a%2fb",
    "/s5/fs/..%2f..%2fetc%2fpasswd",
    "/s5/fs%2fa",
    "/s5/fs/a%00b",
    "/s5/fs/a%0ab",
    "/s5/fs/a%0a",
    "/s5/fs/%0a",
    "/s5/fs/a%0d%0ab",
    "/s5/fs/%c0%ae%c0%ae/a",
    "/s5/fs/%ff",
    "/s5/fs/%ed%a0%80",
    "/s5/fs/a%",
    "/s5/fs/a%zz",
    "/s5/fs/%E2%80%AEtxt.exe",
    "/s5/fs/" + "a" * 4097,
    "/s5/fs/" + "a" * 1025,
    "/s5/fs/" + "%C3%A9" * 2049,
    "/s5/fs/" + "/".join("a" * 65),
]


@pytest.mark.parametrize("path", TRAVERSALS)
async def test_paths_that_are_refused(door: Door, path: str) -> None:
    token = f"Authorization: {door.owner.headers['authorization']}"

    for method in ("PUT", "GET", "DELETE"):
        request = head(method, path, door, token, "Content-Length: 1") + b"x"
        answer = await exchange(door, request)
        assert status_of(answer) == 400, answer
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error_type"] == "path_refused"


@pytest.mark.parametrize("path", ["/s5/fs/a%09b", "/s5/fs/a%E2%80%8Bb"])
async def test_names_that_others_may_have_written_are_read_and_not_written(
    door: Door, path: str
) -> None:
    token = f"Authorization: {door.owner.headers['authorization']}"

    for method, status in (("PUT", 400), ("GET", 404), ("DELETE", 404)):
        request = head(method, path, door, token, "Content-Length: 1") + b"x"
        answer = await exchange(door, request)
        assert status_of(answer) == status, answer


async def test_names_that_only_look_odd(door: Door, place: str) -> None:
    names = ["%2e%2e", "a%2fb", "a+b c", "...", "ä", "文", "🙂", "a" * 1024, "\\..\\x", "con", "~"]

    for name in names:
        path = f"{place}/{quote(name, safe='')}"
        assert (await put(door, path, name.encode())).status_code == 201
    for name in names:
        path = f"{place}/{quote(name, safe='')}"
        assert (await door.owner.get(path)).content == name.encode()
    assert set((await door.owner.get(place)).json()["items"]) == set(names)


async def test_names_that_look_the_same_are_one(door: Door, place: str) -> None:
    """Composed and decomposed are one name; a full-width twin is refused."""
    assert (await put(door, f"{place}/caf%C3%A9", b"1")).status_code == 201
    assert (await put(door, f"{place}/cafe%CC%81", b"2")).status_code == 200
    twin = await put(door, f"{place}/{quote('ｃafé', safe='')}", b"3")

    assert (twin.status_code, error_of(twin)) == (400, "path_refused")
    assert (await door.owner.get(f"{place}/caf%C3%A9")).content == b"2"
    assert len((await door.owner.get(place)).json()["items"]) == 1


async def test_a_part_does_not_become_the_whole_file(door: Door, place: str) -> None:
    await put(door, f"{place}/a", b"hello")

    answer = await put(door, f"{place}/a", b"he", Content_Range="bytes 0-1/5")

    assert (answer.status_code, error_of(answer)) == (400, "validation_error")
    assert (await door.owner.get(f"{place}/a")).content == b"hello"


async def test_a_wrong_method_is_told_the_right_ones(door: Door, place: str) -> None:
    answer = await door.owner.post(f"{place}/a")

    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD", "PUT", "DELETE"}


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("a.md", "text/markdown"), ("a.tar.gz", "application/gzip"), ("a", DEFAULT_MEDIA_TYPE)],
)
async def test_the_ending_says_the_media_type(
    door: Door, place: str, name: str, media_type: str
) -> None:
    written = await put(door, f"{place}/{name}", b"text")

    assert written.json()["mediaType"] == media_type


async def test_a_capability_opens_what_was_shared_for_reading_only(door: Door, place: str) -> None:
    await put(door, f"{place}/shared/in/a.txt", b"hello")
    await put(door, f"{place}/other", b"not shared")
    path = f"{place}/shared".removeprefix("/s5/fs/")
    given = {"S5-Capability": await door.services.files.share(path)}
    writable = {"S5-Capability": await door.services.files.share(path, is_writable=True)}

    listed = await door.owner.get("/s5/fs", headers=given)
    whole = await door.owner.get("/s5/fs/in/a.txt", headers=given)
    part = await door.owner.get("/s5/fs/in/a.txt", headers={**given, "Range": "bytes=1-2"})
    head_only = await door.owner.head("/s5/fs/in/a.txt", headers=writable)
    refused = [
        await door.owner.put("/s5/fs/in/a.txt", content=b"x", headers=given),
        await door.owner.put("/s5/fs/in/a.txt", content=b"x", headers=writable),
        await door.owner.delete("/s5/fs/in/a.txt", headers=writable),
        await door.owner.get("/s5/fs", headers={"S5-Capability": "blvnonsense"}),
        await (await door.account()).http.get("/s5/fs", headers=given),
    ]
    nobody = await door.http.get("/s5/fs", headers=given)
    outside = await door.owner.get("/s5/fs/other", headers=given)

    assert listed.json()["items"] == ["in"]
    assert (whole.content, whole.headers["content-type"]) == (b"hello", "text/plain")
    assert (part.status_code, part.content) == (206, b"el")
    assert head_only.headers["content-length"] == "5"
    assert [answer.status_code for answer in refused] == [403] * 5
    assert nobody.status_code == 401
    assert outside.status_code == 404
    assert (await door.owner.get(f"{place}/shared/in/a.txt")).content == b"hello"


@pytest.mark.parametrize("kind", ["x", "a/b\x01", "a/b; " + "c" * 300, "a b/c", "é/x", "/"])
async def test_odd_media_types(door: Door, place: str, kind: str) -> None:
    answer = await door.owner.put(
        f"{place}/a", content=b"x", headers={b"Content-Type": kind.encode("latin-1")}
    )

    assert answer.status_code == 400


async def test_types_that_nobody_chose_go_by_the_name(door: Door, place: str) -> None:
    for kind in ({}, {"Content_Type": "application/x-www-form-urlencoded"}):
        await put(door, f"{place}/a.json", b"{}", **kind)
        read = await door.owner.get(f"{place}/a.json")
        assert read.headers["content-type"] == "application/json"


async def test_a_put_that_is_cut_changes_nothing(door: Door, place: str) -> None:
    await put(door, f"{place}/a", b"before")
    token = f"Authorization: {door.owner.headers['authorization']}"
    usage = await door.store.usage("files")

    async with await connect(door) as stream:
        request = head("PUT", f"{place}/a", door, token, "Content-Length: 1000000")
        await stream.send(request + bytes(600_000))
    async with await connect(door) as stream:
        request = head("PUT", f"{place}/new", door, token, "Transfer-Encoding: chunked")
        await stream.send(request + b"3e8\r\n" + bytes(1000) + b"\r\n")

    assert (await door.owner.get(f"{place}/a")).content == b"before"
    assert (await door.owner.get(f"{place}/new")).status_code == 404
    assert await door.store.usage("files") == usage


async def test_a_large_file_streams_in(door: Door, place: str) -> None:
    piece = secrets.token_bytes(1 << 20)

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(8):
            yield piece

    written = await door.owner.put(f"{place}/big", content=pieces())

    assert written.json()["size"] == 8 << 20
    async with door.owner.stream("GET", f"{place}/big") as answer:
        size = 0
        async for part in answer.aiter_raw():
            size += len(part)
    assert size == 8 << 20


async def sharer_of(door: Door, place: str) -> Sharer:
    """Somebody who may write this directory of the node, byte for byte."""
    path = place.removeprefix("/s5/fs/")
    text = await door.services.files.share(path, is_writable=True)
    capability = Capability.decode(text, NATIVE)
    registry = LocalRegistry(door.store, NATIVE)
    return Sharer(LocalBlobs(door.store, "mallory"), registry, capability)


async def test_times_and_sizes_that_no_calendar_and_no_disk_has(door: Door, place: str) -> None:
    await put(door, f"{place}/f", b"content")
    sharer = await sharer_of(door, place)
    (file,) = (await sharer.read()).files.values()
    times = (253_402_300_800, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)
    odd = {f"{time}": replace(file, timestamp=time, timestamp_nanos=time) for time in times}
    huge = {"huge": replace(file, size=(1 << 64) - 1)}
    child = sharer.child("d").reference()
    far = {"d": replace(child, timestamp=(1 << 64) - 1)}
    await sharer.add({**odd, **huge}, dirs=far)

    listed = await door.owner.get(place)

    assert listed.status_code == 200
    assert {entry["name"] for entry in listed.json()["entries"]} == {"f", "d", *odd}
    assert listed.json()["numRefused"] == 1
    for name in odd:
        answer = await door.owner.get(f"{place}/{name}")
        assert (answer.status_code, answer.content) == (200, b"content")
        assert (await door.owner.head(f"{place}/{name}")).status_code == 200
    assert (await door.owner.get(f"{place}/huge")).status_code == 502
    for name in ("huge", "d?recursive=true", *odd):
        assert (await door.owner.delete(f"{place}/{name}")).status_code == 204


async def test_the_last_revision_is_refused_by_name_and_can_be_deleted(
    door: Door, place: str
) -> None:
    await put(door, f"{place}/sub/f", b"content")
    sharer = await sharer_of(door, f"{place}/sub")
    entry = await door.services.registry.get(sharer.link)
    assert entry is not None
    await sharer.point(read_blob_pointer(entry.data), revision=MAX_REVISION)

    written = await put(door, f"{place}/sub/g", b"more")
    deleted = await door.owner.delete(f"{place}/sub/f")

    assert (written.status_code, deleted.status_code) == (409, 409)
    assert "last revision" in written.text
    whole = await door.owner.delete(f"{place}/sub?recursive=true")
    assert whole.status_code == 204
    assert (await put(door, f"{place}/sub/g", b"anew")).status_code == 201
