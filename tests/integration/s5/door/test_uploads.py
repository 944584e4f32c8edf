"""Uploads in one request: forms and plain bodies, whole, cut, slow, too long, over the quota."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest
from tests.integration.s5.door.door import Account, Door, blob_of, error_of, open_door
from tests.integration.s5.door.raw import connect, exchange, head, read_all, status_of

from fabstir.s5.door import Limits

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

EDGE = "XedgeX"
FORM = {"Content-Type": f"multipart/form-data; boundary={EDGE}"}


def part(name: str, data: bytes, *, filename: str | None = "f") -> bytes:
    file = "" if filename is None else f'; filename="{filename}"'
    line = f'--{EDGE}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'
    return line.encode() + data + b"\r\n"


END = f"--{EDGE}--\r\n".encode()


async def keeps_nothing(door: Door, account: Account, data: bytes) -> bool:
    usage = await door.store.usage("account:" + str(await _id(door, account)))
    return usage.num_blobs == 0 and await door.store.size(blob_of(data).multihash) is None


async def _id(door: Door, account: Account) -> int:
    caller = await door.services.accounts.identify(account.token)
    assert caller is not None
    assert caller.account is not None
    return caller.account.id


@pytest.mark.parametrize("size", [0, 1, 100_000, 1_500_000])
async def test_a_form(door: Door, size: int) -> None:
    data = secrets.token_bytes(size)

    answer = await door.owner.post("/s5/upload", files={"file": ("a.bin", data)})

    assert answer.json()["cid"] == blob_of(data).encode("z")
    assert (await door.http.get(f"/s5/blob/{answer.json()['cid']}")).content == data


async def test_what_looks_like_a_boundary_is_data(door: Door) -> None:
    data = f"\r\n--{EDGE}x\r\n--{EDGE[:-1]}\r\n-".encode() * 50
    body = part("field", b"1", filename=None) + part("file", data) + END

    answer = await door.owner.post("/s5/upload", content=body, headers=FORM)

    assert answer.json()["size"] == len(data)
    assert answer.json()["cid"] == blob_of(data).encode("z")


@pytest.mark.parametrize("cut", [1, 7, 1000])
async def test_a_form_in_pieces_of_any_size(door: Door, cut: int) -> None:
    data = secrets.token_bytes(3000)
    body = part("file", data) + part("more", b"x" * 100) + END

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), cut):
            yield body[start : start + cut]

    answer = await door.owner.post("/s5/upload", content=pieces(), headers=FORM)

    assert answer.json()["cid"] == blob_of(data).encode("z")


DATA = secrets.token_bytes(2000)
BAD_FORMS = {
    "no closing boundary": part("file", DATA),
    "cut in the file": part("file", DATA)[:-500],
    "no file": part("other", DATA) + END,
    "two files": part("file", DATA) + part("file", b"more") + END,
    "empty": b"",
    "no form": DATA,
    "too many parts": part("a", b"") * 17 + part("file", DATA) + END,
    "fields too long": part("a", b"x" * 70_000, filename=None) + part("file", DATA) + END,
    "header too long": f"--{EDGE}\r\nX: {'a' * 20_000}\r\n\r\n".encode() + DATA + b"\r\n" + END,
    "bad header": f"--{EDGE}\r\nno colon\r\n\r\n".encode() + DATA + b"\r\n" + END,
    "many headers": f"--{EDGE}\r\n{'A: b' * 1}\r\n".encode() + b"A: b\r\n" * 50 + b"\r\n" + END,
}


@pytest.mark.parametrize("name", BAD_FORMS)
async def test_a_bad_form_leaves_nothing(door: Door, name: str) -> None:
    account = await door.account()

    answer = await account.http.post("/s5/upload", content=BAD_FORMS[name], headers=FORM)

    assert (answer.status_code, error_of(answer)) == (400, "validation_error")
    assert await keeps_nothing(door, account, DATA)


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'b' * 300}",
    ],
)
async def test_a_form_needs_a_usable_boundary(door: Door, kind: str) -> None:
    body = part("file", DATA) + END

    answer = await door.owner.post("/s5/upload", content=body, headers={"Content-Type": kind})

    assert answer.status_code == 400


async def test_nobody_uploads_without_a_token(door: Door) -> None:
    data = secrets.token_bytes(1000)

    for headers in ({}, {"Authorization": "Bearer no-such-token"}, {"Authorization": "Basic eA=="}):
        answer = await door.http.post("/s5/upload", content=data, headers=headers)
        assert (answer.status_code, error_of(answer)) == (401, "unauthorized")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert await door.store.size(blob_of(data).multihash) is None


async def test_tokens_in_the_query(door: Door) -> None:
    account = await door.account()

    answer = await door.http.post(
        "/s5/upload", content=b"by query", params={"auth_token": account.token}
    )

    assert answer.status_code == 200


async def test_compressed_bodies_are_refused(door: Door) -> None:
    answer = await door.owner.post("/s5/upload", content=b"x", headers={"Content-Encoding": "gzip"})

    assert (answer.status_code, error_of(answer)) == (415, "unsupported_encoding")


@pytest.mark.parametrize("is_form", [False, True])
async def test_a_quota_that_is_met_in_the_middle_leaves_nothing(
    door: Door, *, is_form: bool
) -> None:
    account = await door.account()
    data = secrets.token_bytes(5 << 20)
    body = part("file", data) + END if is_form else data

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 65536):
            yield body[start : start + 65536]

    streamed = await account.http.post(
        "/s5/upload", content=pieces(), headers=FORM if is_form else {}
    )
    announced = await account.http.post("/s5/upload", content=body, headers=FORM if is_form else {})

    for answer in (streamed, announced):
        assert (answer.status_code, error_of(answer)) == (507, "quota_exceeded")
        assert answer.json()["details"]["limit_bytes"] == 4 << 20
    assert await keeps_nothing(door, account, data)
    small = await account.http.post("/s5/upload", content=b"fits")
    assert small.status_code == 200


async def test_the_quota_counts_all_uploads(door: Door) -> None:
    account = await door.account()
    for _ in range(3):
        answer = await account.http.post("/s5/upload", content=secrets.token_bytes(1 << 20))
        assert answer.status_code == 200

    too_much = await account.http.post("/s5/upload", content=secrets.token_bytes((1 << 20) + 1))
    fits = await account.http.post("/s5/upload", content=secrets.token_bytes(1 << 20))

    assert too_much.status_code == 507
    assert fits.status_code == 200
    stats = (await account.http.get("/s5/account/stats")).json()
    assert stats["stats"]["total"]["usedStorage"] == 4 << 20
    assert stats["quotaExceeded"] is True
    assert stats["tier"]["storageLimit"] == 4 << 20


async def test_too_long(folder: Path) -> None:
    async with open_door(folder, limits=Limits(max_upload_bytes=1000)) as door:
        data = secrets.token_bytes(1001)

        async def pieces() -> AsyncIterator[bytes]:
            yield data

        plain = await door.owner.post("/s5/upload", content=data)
        chunked = await door.owner.post("/s5/upload", content=pieces())
        form = await door.owner.post("/s5/upload", files={"file": data})
        fits = await door.owner.post("/s5/upload", files={"file": data[:1000]})

        for answer in (plain, chunked, form):
            assert (answer.status_code, error_of(answer)) == (413, "too_large")
        assert fits.status_code == 200


async def test_a_refused_body_of_any_length_is_not_read(door: Door) -> None:
    lines = ("Content-Length: 100000000000", "Expect: 100-continue")

    answer = await exchange(door, head("POST", "/s5/upload", door, *lines))

    assert status_of(answer) == 401
    assert b"100 Continue" not in answer
    assert b"connection: close" in answer.lower()


async def test_the_answer_arrives_before_the_end_of_a_long_body(door: Door) -> None:
    request = f"POST /s5/upload HTTP/1.1\r\nHost: {door.authority}\r\nContent-Length: 9000000000"

    with anyio.fail_after(10):
        async with await connect(door) as stream:
            await stream.send(request.encode() + b"\r\n\r\n" + bytes(100_000))
            answer = await read_all(stream)

    assert status_of(answer) == 401


async def test_an_upload_that_is_cut_leaves_nothing(door: Door) -> None:
    account = await door.account()
    data = secrets.token_bytes(200_000)
    bearer = f"Authorization: Bearer {account.token}"
    request = head("POST", "/s5/upload", door, bearer, f"Content-Length: {len(data) + 1}")

    async with await connect(door) as stream:
        await stream.send(request + data)
    chunked = head("POST", "/s5/upload", door, bearer, "Transfer-Encoding: chunked")
    async with await connect(door) as stream:
        await stream.send(chunked + b"%x\r\n" % len(data) + data + b"\r\n")

    assert (await account.http.post("/s5/upload", content=b"still works")).status_code == 200
    assert await door.store.size(blob_of(data).multihash) is None


@pytest.mark.parametrize("pause", ["nothing", "trickle"])
async def test_a_body_that_is_too_slow(folder: Path, pause: str) -> None:
    limits = Limits(read_timeout=0.2, min_bytes_per_second=10_000)
    async with open_door(folder, limits=limits) as door:
        bearer = f"Authorization: Bearer {door.owner.headers['authorization'][7:]}"
        request = head("POST", "/s5/upload", door, bearer, "Content-Length: 1000000")

        with anyio.fail_after(10):
            async with await connect(door) as stream, anyio.create_task_group() as tasks:

                async def trickle() -> None:
                    while pause == "trickle":
                        await stream.send(b"x")
                        await anyio.sleep(0.02)

                await stream.send(request + b"x")
                tasks.start_soon(trickle)
                assert status_of(await stream.receive()) == 408
                tasks.cancel_scope.cancel()


async def test_sixty_uploads_at_once_wait_for_each_other(folder: Path) -> None:
    """S5.js starts all that it has, and gives a file up at the first 429."""
    async with open_door(folder) as door:
        account = await door.account()
        limits = httpx.Limits(max_connections=None)
        statuses: list[int] = []
        headers = {"Authorization": f"Bearer {account.token}"}
        async with (
            httpx.AsyncClient(
                base_url=door.url, limits=limits, headers=headers, timeout=60
            ) as many,
            anyio.create_task_group() as tasks,
        ):

            async def upload(number: int) -> None:
                answer = await many.post("/s5/upload", content=b"%d" % number * 1000, timeout=60)
                statuses.append(answer.status_code)

            for number in range(60):
                tasks.start_soon(upload, number)

    assert statuses == [200] * 60


async def test_uploads_at_once_are_bounded(folder: Path) -> None:
    limits = Limits(uploads_per_caller=1, upload_wait=0.1)
    async with open_door(folder, limits=limits) as door:
        other = await door.account()
        begun, go_on = anyio.Event(), anyio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"begun"
            begun.set()
            await go_on.wait()
            yield b"done"

        async def first() -> None:
            answer = await door.owner.post("/s5/upload", content=pieces())
            assert answer.status_code == 200

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first)
            await begun.wait()
            with anyio.fail_after(5):
                second = await door.owner.post("/s5/upload", content=b"more")
                while second.status_code == 200:  # the first may not have arrived yet
                    second = await door.owner.post("/s5/upload", content=b"more")
            assert (second.status_code, error_of(second)) == (429, "too_many_requests")
            assert int(second.headers["retry-after"]) >= 1
            assert (await other.http.post("/s5/upload", content=b"other")).status_code == 200
            go_on.set()


async def test_a_full_node_says_so(folder: Path) -> None:
    async with open_door(folder, num_max_bytes=100_000) as door:
        data = secrets.token_bytes(100_001)

        answer = await door.owner.post("/s5/upload", content=data)

        assert answer.status_code == 507
        assert str(folder) not in answer.text
        assert await door.store.size(blob_of(data).multihash) is None
