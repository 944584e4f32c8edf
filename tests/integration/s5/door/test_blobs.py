"""Blobs over HTTP: under every name, in parts, under conditions, pinned and unpinned."""

from __future__ import annotations

import secrets
from pathlib import Path

import httpx
import pytest
from tests.integration.s5.door.door import Door, b64, blob_of, error_of, open_door

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import BlobId
from fabstir.s5.door import Limits
from fabstir.s5.store import LocalBlobs, open_store
from fabstir.s5.verified.tree import GroupTree

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

BIG_BYTES = 3_000_000


async def upload(door: Door, data: bytes) -> BlobId:
    answer = await door.owner.post("/s5/upload", content=data)
    assert answer.status_code == 200, answer.text
    return BlobId.decode(answer.json()["cid"])


async def test_an_upload_comes_back_under_every_name(door: Door) -> None:
    data = secrets.token_bytes(300_000)
    blob = blob_of(data)

    answer = await door.owner.post("/s5/upload", content=data)

    assert answer.status_code == 200
    assert answer.json() == {
        "cid": blob.encode("z"),
        "cidBase32": blob.encode("b"),
        "hash": b64(blob.multihash.to_bytes()),
        "size": len(data),
    }
    names = [blob.encode(base) for base in "fbzu"]
    names += [blob.multihash.encode(), b64(blob.multihash.to_bytes())]
    names += [BlobId(blob.digest, 0).encode("z"), f"{blob.encode()}.bin"]
    for name in names:
        for path in (f"/s5/blob/{name}", f"/s5/download/{name}", f"/{name}"):
            answer = await door.http.get(path)
            assert answer.status_code == 200
            assert answer.content == data
            assert answer.headers["etag"] == f'"{blob.encode()}"'
            assert "immutable" in answer.headers["cache-control"]
            assert answer.headers["content-security-policy"].startswith("sandbox;")


@pytest.mark.parametrize("size", [0, 1, 70_000, BIG_BYTES])
async def test_ranges(door: Door, size: int) -> None:
    data = secrets.token_bytes(size)
    path = f"/s5/blob/{(await upload(door, data)).encode('z')}"
    ranges = [(0, 1), (0, size), (size - 1, size), (size // 2, size // 2 + 1)]
    ranges += [(262_143, 262_145), (100_000, 2_500_000)]

    for start, end in ranges:
        if not 0 <= start < end <= size:
            continue
        answer = await door.http.get(path, headers={"Range": f"bytes={start}-{end - 1}"})
        assert answer.status_code == 206
        assert answer.content == data[start:end]
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
    answer = await door.http.get(path, headers={"Range": f"bytes={size}-"})
    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{size}"
    assert error_of(answer) == "range_not_satisfiable"
    for whole in ("bytes=0-1,5-6", "bytes=5-1", "pages=1-2", "bytes=" + "1" * 3000 + "-"):
        answer = await door.http.get(path, headers={"Range": whole})
        assert (answer.status_code, answer.content) == (200, data)


async def test_head_tells_the_same_without_a_body(door: Door) -> None:
    blob = await upload(door, secrets.token_bytes(BIG_BYTES))

    for path in ("/s5/blob/", "/s5/download/", "/"):
        answer = await door.http.head(path + blob.encode("z"), headers={"Range": "bytes=0-1"})
        assert answer.status_code == 200
        assert answer.headers["content-length"] == str(BIG_BYTES)
        assert answer.headers["accept-ranges"] == "bytes"
        assert answer.content == b""


async def test_conditions(door: Door) -> None:
    data = secrets.token_bytes(1000)
    blob, other = await upload(door, data), blob_of(b"other")
    path = f"/s5/blob/{blob.encode('z')}"

    async def status(**headers: str) -> int:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return (await door.http.get(path, headers=named)).status_code

    assert await status(If_None_Match=f'"{blob.encode()}"') == 304
    assert await status(If_None_Match=f'W/"{blob.encode("z")}"') == 304
    assert await status(If_None_Match=f'"{other.encode()}", "{blob.encode("u")}"') == 304
    assert await status(If_None_Match="*") == 304
    assert await status(If_None_Match=f'"{other.encode()}"') == 200
    assert await status(If_None_Match="nonsense") == 200
    assert await status(If_Match=f'"{blob.encode()}"') == 200
    assert await status(If_Match=f'"{other.encode()}"') == 412
    assert await status(If_Match=f'W/"{blob.encode()}"') == 412
    part = {"Range": "bytes=0-9"}
    assert await status(If_Range=f'"{blob.encode()}"', **part) == 206
    assert await status(If_Range=f'"{other.encode()}"', **part) == 200
    assert await status(If_Range="Wed, 21 Oct 2015 07:28:00 GMT", **part) == 200
    not_modified = await door.http.get(path, headers={"If-None-Match": "*"})
    assert not_modified.content == b""
    assert not_modified.headers["etag"] == f'"{blob.encode()}"'


async def test_a_browser_is_shown_a_type_and_a_name(door: Door) -> None:
    blob = await upload(door, b"<script>alert(1)</script>" + secrets.token_bytes(4))
    cid = blob.encode("z")

    page = await door.http.get(f"/{cid}.html")
    text = await door.http.get(f"/{cid}", params={"filename": "a.txt"})
    odd = await door.http.get(f"/{cid}", params={"filename": 'x"\r\nSet-Cookie: a=b\r\n;é.png'})

    assert page.headers["content-type"] == "text/html"
    assert "sandbox" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert text.headers["content-type"] == "text/plain; charset=utf-8"
    assert text.headers["content-disposition"].startswith('inline; filename="a.txt"')
    assert "set-cookie" not in odd.headers
    assert "\n" not in odd.headers["content-disposition"]


async def test_what_is_not_there(door: Door) -> None:
    missing = blob_of(secrets.token_bytes(8))

    for path in ("/s5/blob/", "/s5/download/", "/", "/s5/outboard/"):
        answer = await door.http.get(path + missing.encode("z"))
        assert (answer.status_code, error_of(answer)) == (404, "not_found")
        answer = await door.http.get(path + missing.multihash.encode())
        assert answer.status_code == 404


@pytest.mark.parametrize("name", ["nonsense", "z", "zzzz", "b" + "a" * 300, "z0OIl", "%00", "é"])
async def test_what_is_no_name(door: Door, name: str) -> None:
    for path in (
        "/s5/blob/",
        "/s5/download/",
        "/",
        "/s5/outboard/",
        "/s5/debug/storage_locations/",
    ):
        answer = await door.http.get(path + name)
        assert (answer.status_code, error_of(answer)) == (400, "validation_error")


async def test_a_missing_blob_does_not_say_where_the_node_keeps_its_own(door: Door) -> None:
    answer = await door.http.get(f"/s5/blob/{blob_of(secrets.token_bytes(32)).encode()}")

    assert (answer.status_code, error_of(answer)) == (404, "not_found")
    assert str(door.folder) not in answer.text


async def test_unknown_routes_and_methods_answer_in_the_same_shape(door: Door) -> None:
    missing = await door.http.get("/a/b/c")
    method = await door.http.delete("/s5/upload")

    assert (missing.status_code, error_of(missing)) == (404, "not_found")
    assert (method.status_code, error_of(method)) == (405, "method_not_allowed")


def rot(door: Door, blob: BlobId, position: int) -> None:
    """Change one byte of a blob's file."""
    name = blob.digest.hex()
    (path,) = (door.store.folder / "blobs" / name[:2]).glob(f"{name}*")
    with path.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(bytes([byte[0] ^ 1]))


async def test_a_rotten_blob_is_never_returned(door: Door) -> None:
    blob = await upload(door, secrets.token_bytes(500_000))
    rot(door, blob, 10)

    for path in ("/s5/blob/", "/s5/download/"):
        answer = await door.http.get(path + blob.encode("z"))
        assert (answer.status_code, error_of(answer)) == (502, "corrupt_blob")
        assert str(door.folder) not in answer.text


async def test_a_download_that_meets_rot_is_cut_off(door: Door) -> None:
    data = secrets.token_bytes(BIG_BYTES)
    blob = await upload(door, data)
    rot(door, blob, BIG_BYTES - 10)
    received = bytearray()

    with pytest.raises(httpx.RemoteProtocolError):
        async with door.http.stream("GET", f"/s5/blob/{blob.encode('z')}") as answer:
            assert answer.status_code == 200
            async for piece in answer.aiter_raw():
                received += piece

    assert len(received) < BIG_BYTES
    assert data.startswith(received)


async def test_a_sound_range_of_a_rotten_blob(door: Door) -> None:
    data = secrets.token_bytes(BIG_BYTES)
    blob = await upload(door, data)
    rot(door, blob, BIG_BYTES - 10)

    answer = await door.http.get(f"/s5/blob/{blob.encode('z')}", headers={"Range": "bytes=5-99"})

    assert (answer.status_code, answer.content) == (206, data[5:100])
    path = f"/s5/blob/{blob.encode('z')}"
    answer = await door.http.get(path, headers={"Range": "bytes=-9"})
    assert answer.status_code == 502


@pytest.mark.parametrize("size", [10, 262_144, 262_145, BIG_BYTES])
async def test_outboards_verify_parts(door: Door, size: int) -> None:
    data = secrets.token_bytes(size)
    blob = await upload(door, data)

    answers = [
        await door.http.get(path)
        for path in (
            f"/s5/outboard/{blob.encode('z')}",
            f"/s5/blob/{blob.encode('z')}.obao",
            f"/s5/blob/{blob.multihash.encode()}.obao",
        )
    ]

    for answer in answers:
        assert answer.status_code == 200
        tree = GroupTree.decode(blob, answer.content)
        assert tree.wrong_groups(0, data[: min(size, 262_144)]) == []


async def test_pins_are_each_ones_own(door: Door) -> None:
    one, two = await door.account(), await door.account()
    data = secrets.token_bytes(1000)
    cid = BlobId.decode((await one.http.post("/s5/upload", content=data)).json()["cid"]).encode("z")

    assert (await door.http.post(f"/s5/pin/{cid}")).status_code == 401
    assert (await door.http.delete(f"/s5/delete/{cid}")).status_code == 401
    assert (await two.http.delete(f"/s5/delete/{cid}")).status_code == 204
    await door.store.collect(grace_seconds=0)
    assert (await door.http.get(f"/s5/blob/{cid}")).content == data

    pinned = await two.http.post(f"/s5/pin/{cid}")
    assert pinned.status_code == 200
    assert pinned.json()["cid"] == cid
    assert (await one.http.delete(f"/s5/delete/{cid}")).status_code == 204
    await door.store.collect(grace_seconds=0)
    assert (await door.http.get(f"/s5/blob/{cid}")).content == data

    assert await two.http.delete(f"/s5/delete/{BlobId(blob_of(data).digest, 0).encode('z')}")
    await door.store.collect(grace_seconds=0)
    assert (await door.http.get(f"/s5/blob/{cid}")).status_code == 404
    missing = await two.http.post(f"/s5/pin/{cid}")
    assert (missing.status_code, error_of(missing)) == (404, "not_found")


async def test_locations(door: Door) -> None:
    blob = await upload(door, secrets.token_bytes(100))
    path = f"/s5/debug/storage_locations/{b64(blob.multihash.to_bytes())}"

    everywhere = (await door.http.get(path)).json()["locations"]
    of_type = (await door.http.get(path, params={"types": "5,7"})).json()["locations"]
    other = (await door.http.get(path, params={"types": "3"})).json()["locations"]

    assert len(everywhere) == 1
    assert everywhere == of_type
    assert other == []
    assert everywhere[0]["type"] == 5
    nodes = (await door.http.get("/s5/p2p/nodes")).json()["nodes"]
    assert everywhere[0]["nodeId"] == nodes[0]["id"]
    assert (await door.http.get(everywhere[0]["parts"][0])).status_code == 200
    for types in ("x", "1,", "-1", "256", "1,2,3,4,5,6,7,8,9", "٣"):
        answer = await door.http.get(path, params={"types": types})
        assert answer.status_code == 400


async def test_what_others_have_is_fetched(tmp_path: Path) -> None:
    data, small = secrets.token_bytes(400_000), secrets.token_bytes(50)
    async with open_store(tmp_path / "other", NATIVE) as other:
        elsewhere = LocalBlobs(other, "other")
        blob, bare = (
            await elsewhere.put(data, reason="test"),
            await elsewhere.put(small, reason="test"),
        )
        limits = Limits(fetched_bytes=1000)
        async with open_door(tmp_path / "node", elsewhere=elsewhere, limits=limits) as door:
            path = f"/s5/download/{blob.encode('z')}"
            account = await door.account()

            assert (await door.http.get(f"/s5/blob/{blob.encode('z')}")).status_code == 404
            assert (await door.http.get(path)).status_code == 404  # more than 1,000 bytes
            answer = await account.http.get(path, headers={"Range": "bytes=100-200"})
            assert (answer.status_code, answer.content) == (206, data[100:201])
            here = await account.http.get(path, headers={"Cache-Control": "only-if-cached"})
            assert here.status_code == 404
            answer = await door.http.get(f"/s5/download/{bare.multihash.encode()}")
            assert answer.content == small
            assert answer.headers["etag"] == f'"{bare.encode()}"'
            pinned = await account.http.post(f"/s5/pin/{blob.encode('z')}")
            assert pinned.status_code == 200
            assert (await door.http.get(f"/s5/blob/{blob.encode('z')}")).content == data


async def test_health_version_and_nodes(door: Door) -> None:
    for path in ("/health", "/s5/health"):
        assert (await door.http.get(path)).json() == {"status": "ok"}
    assert set((await door.http.get("/s5/version")).json()) == {"node"}
    (node,) = (await door.http.get("/s5/p2p/nodes")).json()["nodes"]
    assert node["id"].startswith("z")
    assert node["uris"] == [f"ws://{door.authority}/s5/p2p"]
