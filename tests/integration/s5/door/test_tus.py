"""Resumable uploads, as the TUS protocol says."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from pathlib import Path

import anyio
import httpx
import pytest
from tests.integration.s5.door.door import Account, Door, b64, blob_of, error_of, open_door
from tests.integration.s5.door.raw import connect, head

from fabstir.primitives.errors import StorageFull, WriteConflict
from fabstir.s5.transfer import resumable

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

TUS = {"Tus-Resumable": "1.0.0"}
PATCH = {**TUS, "Content-Type": "application/offset+octet-stream"}


def metadata_of(data: bytes) -> str:
    text = b64(blob_of(data).multihash.to_bytes())
    return f"hash {base64.b64encode(text.encode()).decode()}"


async def create(
    http: httpx.AsyncClient, length: int, metadata: str | None = None
) -> httpx.Response:
    headers = {**TUS, "Upload-Length": str(length)}
    if metadata is not None:
        headers["Upload-Metadata"] = metadata
    return await http.post("/s5/upload/tus", headers=headers)


async def begin(http: httpx.AsyncClient, length: int, metadata: str | None = None) -> str:
    answer = await create(http, length, metadata)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


async def send(
    http: httpx.AsyncClient, url: str, offset: int, data: bytes | AsyncIterator[bytes], **more: str
) -> httpx.Response:
    headers = {**PATCH, "Upload-Offset": str(offset)} | {
        name.replace("_", "-"): value for name, value in more.items()
    }
    return await http.patch(url, headers=headers, content=data)


async def offset_of(http: httpx.AsyncClient, url: str) -> int:
    answer = await http.head(url, headers=TUS)
    assert answer.status_code == 200
    return int(answer.headers["upload-offset"])


async def test_an_upload_in_three_parts(door: Door) -> None:
    account = await door.account()
    data = secrets.token_bytes(2_500_000)
    metadata = metadata_of(data) + ",filename YS5iaW4=,empty"
    url = await begin(account.http, len(data), metadata)
    assert url.startswith(f"{door.url}/s5/upload/tus/")

    for start, end in ((0, 10), (10, 1_500_000), (1_500_000, len(data))):
        answer = await send(account.http, url, start, data[start:end])
        assert answer.status_code == 204
        assert answer.headers["upload-offset"] == str(end)
        assert answer.headers["tus-resumable"] == "1.0.0"
        assert parsedate_to_datetime(answer.headers["upload-expires"])
        status = await account.http.head(url, headers=TUS)
        assert status.headers["upload-offset"] == str(end)
        assert status.headers["upload-length"] == str(len(data))
        assert status.headers["upload-metadata"] == metadata
        assert status.headers["cache-control"] == "no-store"

    cid = blob_of(data).encode("z")
    assert answer.headers["upload-cid"] == cid
    assert (await door.http.get(f"/s5/blob/{cid}")).content == data
    stats = (await account.http.get("/s5/account/stats")).json()["stats"]["total"]
    assert (stats["usedStorage"], stats["reservedStorage"]) == (len(data), 0)
    assert list((door.folder / "uploads").iterdir()) == []


async def test_options(door: Door) -> None:
    answer = await door.http.options("/s5/upload/tus")

    assert answer.status_code == 204
    assert answer.headers["tus-version"] == "1.0.0"
    assert answer.headers["tus-extension"] == "creation,termination,expiration,checksum"
    assert answer.headers["tus-checksum-algorithm"] == "sha1,sha256"
    assert int(answer.headers["tus-max-size"]) > 0


async def test_nothing_at_all_is_a_blob_too(door: Door) -> None:
    answer = await create(door.owner, 0)

    assert answer.status_code == 201
    assert answer.headers["upload-offset"] == "0"
    assert answer.headers["upload-cid"] == blob_of(b"").encode("z")


async def test_other_offsets_are_conflicts(door: Door) -> None:
    data = secrets.token_bytes(1000)
    url = await begin(door.owner, len(data))
    await send(door.owner, url, 0, data[:400])

    for offset in (0, 399, 401, 1000):
        answer = await send(door.owner, url, offset, data[offset:])
        assert (answer.status_code, error_of(answer)) == (409, "conflict")
    assert await offset_of(door.owner, url) == 400
    assert (await send(door.owner, url, 400, data[400:])).status_code == 204
    assert (await send(door.owner, url, 1000, b"")).status_code == 204
    assert (await send(door.owner, url, 0, data)).status_code == 409


async def test_more_than_was_announced_is_refused(door: Door) -> None:
    url = await begin(door.owner, 100)

    answer = await send(door.owner, url, 0, bytes(101))

    assert (answer.status_code, error_of(answer)) == (400, "validation_error")
    assert await offset_of(door.owner, url) == 0


async def test_another_content_than_was_promised(door: Door) -> None:
    account = await door.account()
    data, other = secrets.token_bytes(100), secrets.token_bytes(100)
    url = await begin(account.http, 100, metadata_of(data))

    answer = await send(account.http, url, 0, other)

    assert (answer.status_code, error_of(answer)) == (400, "hash_mismatch")
    assert (await account.http.head(url, headers=TUS)).status_code == 404
    assert await door.store.size(blob_of(other).multihash) is None
    stats = (await account.http.get("/s5/account/stats")).json()["stats"]["total"]
    assert (stats["usedStorage"], stats["reservedStorage"]) == (0, 0)


async def test_what_the_node_has_already_is_pinned(door: Door) -> None:
    one, two = await door.account(), await door.account()
    data = secrets.token_bytes(1000)
    await one.http.post("/s5/upload", content=data)

    answer = await create(two.http, len(data), metadata_of(data))

    cid = blob_of(data).encode("z")
    assert (answer.status_code, error_of(answer)) == (409, "conflict")
    assert answer.json()["details"] == {"cid": cid}
    assert answer.headers["upload-cid"] == cid
    stats = (await two.http.get("/s5/account/stats")).json()["stats"]["total"]
    assert stats["usedStorage"] == len(data)
    lies = await create(two.http, len(data) + 1, metadata_of(data))
    assert lies.status_code == 201  # another length: another blob, which will not verify


@pytest.mark.parametrize("algorithm", ["sha1", "sha256"])
async def test_checksums(door: Door, algorithm: str) -> None:
    data = secrets.token_bytes(1000)
    url = await begin(door.owner, len(data))

    def checksum(part: bytes) -> str:
        digest = hashlib.new(algorithm, part).digest()
        return f"{algorithm} {base64.b64encode(digest).decode()}"

    wrong = await send(door.owner, url, 0, data[:500], Upload_Checksum=checksum(b""))
    assert (wrong.status_code, error_of(wrong)) == (460, "checksum_mismatch")
    assert await offset_of(door.owner, url) == 0
    for start, end in ((0, 500), (500, 1000)):
        part = data[start:end]
        answer = await send(door.owner, url, start, part, Upload_Checksum=checksum(part))
        assert answer.status_code == 204
    assert answer.headers["upload-cid"] == blob_of(data).encode("z")
    unknown = await send(door.owner, url, 0, b"", Upload_Checksum="md5 AAAA")
    assert unknown.status_code == 400


async def test_termination(door: Door) -> None:
    account = await door.account()
    url = await begin(account.http, 1000)
    await send(account.http, url, 0, bytes(500))

    assert (await account.http.delete(url, headers=TUS)).status_code == 204

    for answer in (
        await account.http.head(url, headers=TUS),
        await send(account.http, url, 500, bytes(500)),
        await account.http.delete(url, headers=TUS),
    ):
        assert answer.status_code == 404
    assert list((door.folder / "uploads").glob(url.rpartition("/")[2])) == []


async def test_nobody_sees_anothers_upload(door: Door) -> None:
    one, two = await door.account(), await door.account()
    url = await begin(one.http, 1000)

    for http, status in ((two.http, 404), (door.owner, 404), (door.http, 401)):
        assert (await http.head(url, headers=TUS)).status_code == status
        assert (await send(http, url, 0, bytes(10))).status_code == status
        assert (await http.delete(url, headers=TUS)).status_code == status
    assert await offset_of(one.http, url) == 0
    assert (await create(door.http, 10)).status_code == 401


async def test_an_upload_counts_from_the_first_moment(door: Door) -> None:
    account = await door.account()
    url = await begin(account.http, 3 << 20)

    second = await create(account.http, (1 << 20) + 1)
    plain = await account.http.post("/s5/upload", content=bytes((1 << 20) + 1))

    assert (second.status_code, error_of(second)) == (507, "quota_exceeded")
    assert (plain.status_code, error_of(plain)) == (507, "quota_exceeded")
    assert (await create(account.http, 1 << 20)).status_code == 201
    assert (await account.http.delete(url, headers=TUS)).status_code == 204
    assert (await create(account.http, 3 << 20)).status_code == 201


async def test_what_an_upload_was_promised_is_not_for_pins(door: Door) -> None:
    account = await door.account()
    others, mine = secrets.token_bytes(2 << 20), secrets.token_bytes(3 << 20)
    cid = (await door.owner.post("/s5/upload", content=others)).json()["cid"]
    url = await begin(account.http, len(mine), metadata_of(mine))
    assert (await send(account.http, url, 0, mine[:-1])).status_code == 204

    pinned = await account.http.post(f"/s5/pin/{cid}")

    assert (pinned.status_code, error_of(pinned)) == (507, "quota_exceeded")
    last = await send(account.http, url, len(mine) - 1, mine[-1:])
    assert last.headers["upload-cid"] == blob_of(mine).encode("z")
    stats = (await account.http.get("/s5/account/stats")).json()["stats"]["total"]
    assert (stats["usedStorage"], stats["reservedStorage"]) == (len(mine), 0)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Upload-Length": "x"},
        {"Upload-Length": "-1"},
        {"Upload-Length": "1.5"},
        {"Upload-Length": str(1 << 63)},
        {"Upload-Defer-Length": "1"},
        {"Upload-Length": "1", "Upload-Metadata": "hash !!"},
        {"Upload-Length": "1", "Upload-Metadata": "hash AAAA"},
        {"Upload-Length": "1", "Upload-Metadata": "a YQ==,a YQ=="},
        {"Upload-Length": "1", "Upload-Metadata": "a " + "A" * 5000},
    ],
)
async def test_odd_beginnings(door: Door, headers: dict[str, str]) -> None:
    answer = await door.owner.post("/s5/upload/tus", headers={**TUS, **headers})

    assert (answer.status_code, error_of(answer)) == (400, "validation_error")


async def test_odd_requests(door: Door) -> None:
    url = await begin(door.owner, 10)

    version = await door.owner.head(url, headers={"Tus-Resumable": "0.2.2"})
    assert version.status_code == 412
    assert version.headers["tus-version"] == "1.0.0"
    too_long = await create(door.owner, 1 << 62)
    assert too_long.status_code == 413
    kind = await door.owner.patch(url, headers={**TUS, "Upload-Offset": "0"}, content=b"x")
    assert kind.status_code == 415
    assert (await door.owner.patch(url, headers=PATCH, content=b"x")).status_code == 400
    for name in ("x", "%2e%2e%2fowner.token", "a" * 43, "A" * 65, "é"):
        assert (await door.owner.head(f"/s5/upload/tus/{name}")).status_code == 404
    assert (await door.owner.get(url)).status_code == 405


async def test_what_arrived_before_a_cut_is_kept(door: Door) -> None:
    account = await door.account()
    data = secrets.token_bytes(1_200_000)
    url = await begin(account.http, len(data), metadata_of(data))
    path = "/" + url.split("/", 3)[3]
    lines = [
        f"Authorization: Bearer {account.token}",
        "Upload-Offset: 0",
        *(f"{name}: {value}" for name, value in PATCH.items()),
        f"Content-Length: {len(data)}",
    ]

    async with await connect(door) as stream:
        await stream.send(head("PATCH", path, door, *lines) + data[:1_000_000])
    offset = 0
    with anyio.fail_after(5):
        while not offset:
            offset = await offset_of(account.http, url)

    assert 0 < offset <= 1_000_000
    assert (await send(account.http, url, offset, data[offset:])).status_code == 204
    assert (await door.http.get(f"/s5/blob/{blob_of(data).encode('z')}")).content == data


async def test_who_comes_back_takes_over(door: Door) -> None:
    """A connection that hangs does not lock an upload: its client comes back on another."""
    account = await door.account()
    data = secrets.token_bytes(100_000)
    url = await begin(account.http, len(data), metadata_of(data))
    begun = anyio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield data[:60_000]
        begun.set()
        await anyio.sleep_forever()

    statuses: list[int] = []

    async def first() -> None:
        statuses.append((await send(account.http, url, 0, hanging())).status_code)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(first)
        await begun.wait()
        async with door.client(account.token) as again:
            with anyio.fail_after(10):
                answer = await send(again, url, 60_000, data[60_000:])
                while answer.status_code == 409:
                    offset = await offset_of(again, url)
                    answer = await send(again, url, offset, data[offset:])
            assert answer.status_code == 204
            assert answer.headers["upload-cid"] == blob_of(data).encode("z")
        tasks.cancel_scope.cancel()


async def test_the_newest_of_many_goes_on(door: Door) -> None:
    """One that waits for its turn gives way too, or its dead connection would get it later."""
    uploads, data = door.services.uploads, secrets.token_bytes(1000)
    upload = await uploads.create("owner", 1000, expected=None, metadata="", quota=None)
    begun = anyio.Event()
    refused: list[int] = []

    async def hanging() -> AsyncIterator[bytes]:
        begun.set()
        await anyio.sleep_forever()
        yield b""

    async def whole() -> AsyncIterator[bytes]:
        yield data

    async def hang(number: int) -> None:
        with pytest.raises(WriteConflict, match="another request"):
            await uploads.append(upload.id, "owner", 0, hanging())
        refused.append(number)

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(hang, 0)
            await begun.wait()
            for number in range(1, 4):
                tasks.start_soon(hang, number)
            while not refused:
                await anyio.sleep(0)
            done = await uploads.append(upload.id, "owner", 0, whole())
            assert done.blob == blob_of(data)

    assert sorted(refused) == [0, 1, 2, 3]


async def test_uploads_expire(folder: Path) -> None:
    async with open_door(folder, lifetime=0) as door:
        account: Account = await door.account()
        url = await begin(account.http, 1000)

        assert (await account.http.head(url, headers=TUS)).status_code == 404
        assert await door.services.uploads.sweep() == 1
        assert await door.services.uploads.sweep() == 0
        stats = (await account.http.get("/s5/account/stats")).json()["stats"]["total"]
        assert stats["reservedStorage"] == 0


async def test_unfinished_uploads_are_bounded(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resumable, "MAX_UPLOADS", 2)
    account = await door.account()
    await begin(account.http, 10)
    url = await begin(account.http, 10)

    answer = await create(account.http, 10)

    assert (answer.status_code, error_of(answer)) == (429, "too_many_requests")
    await send(account.http, url, 0, bytes(10))
    assert (await create(account.http, 11)).status_code == 201


async def test_what_the_whole_node_may_not_hold_is_not_begun(folder: Path) -> None:
    async with open_door(folder, num_max_bytes=1000) as door:
        await door.owner.post("/s5/upload", content=bytes(300))
        one, two = await door.account(), await door.account()
        url = await begin(one.http, 600)

        full = await create(two.http, 101)

        assert (full.status_code, error_of(full)) == (507, "storage_full")
        assert (await create(two.http, 100)).status_code == 201
        assert (await send(one.http, url, 0, secrets.token_bytes(600))).status_code == 204


async def test_a_sweep_that_fails_ends_nothing(
    door: Door, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk it cannot write, and the node has to live on."""
    sweeps = 0

    async def full(_uploads: resumable.ResumableUploads) -> int:
        nonlocal sweeps
        sweeps += 1
        raise StorageFull("no room")

    monkeypatch.setattr(resumable.ResumableUploads, "sweep", full)

    async with resumable.open_resumable_uploads(
        door.store, door.folder / "others", sweep_seconds=0
    ):
        with anyio.fail_after(10):
            while sweeps < 3:
                await anyio.sleep(0)

    assert "uploads were not swept" in {record.message for record in caplog.records}
