"""Files and directories over the real store, read back by somebody who has seen nothing."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from fabstir.primitives.errors import NotFound, PathRefused, StorageError, WriteConflict
from fabstir.s5.fs import FileSystem
from fabstir.s5.store import BlobStore

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


async def test_a_file_is_read_back_by_a_fresh_reader(fs: FileSystem, other: FileSystem) -> None:
    info = await fs.put("home/notes/today.txt", b"hello")

    assert (info.path, info.size, info.media_type) == ("home/notes/today.txt", 5, "text/plain")
    assert await other.get("home/notes/today.txt", 100) == b"hello"
    assert await other.stat("home/notes/today.txt") == info
    assert (await other.stat("home/notes")).is_directory
    assert [entry.path for entry in (await other.list("home")).entries] == ["home/notes"]


async def test_what_is_missing_is_not_found(fs: FileSystem) -> None:
    await fs.put("home/a.txt", b"a")

    for path in ("b", "home/b", "home/b/c", "home/a.txt/c"):
        assert not await fs.exists(path)
        with pytest.raises(NotFound):
            await fs.stat(path)
    with pytest.raises(NotFound):
        await fs.get("home/b", 10)
    with pytest.raises(NotFound):
        await fs.delete("home/b")
    with pytest.raises(NotFound):
        await fs.list("nowhere")


async def test_an_untouched_tree_is_empty(fs: FileSystem) -> None:
    assert (await fs.list()).entries == ()
    assert (await fs.stat("")).is_directory


async def test_files_and_directories_keep_out_of_each_others_way(fs: FileSystem) -> None:
    await fs.put("a/b", b"")

    with pytest.raises(PathRefused):
        await fs.put("a", b"")
    with pytest.raises(PathRefused):
        await fs.put("a/b/c", b"")
    with pytest.raises(PathRefused):
        await fs.make_directory("a/b")
    with pytest.raises(PathRefused):
        await fs.get("a", 10)
    with pytest.raises(PathRefused):
        await fs.put("", b"")


@pytest.mark.parametrize("encrypt", [True, False])
async def test_ranges(fs: FileSystem, other: FileSystem, *, encrypt: bool) -> None:
    data = bytes(n * 7 % 251 for n in range(700_000))

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 99_991):
            yield data[start : start + 99_991]

    info = await fs.put("f.bin", pieces(), encrypt=encrypt)

    assert info.size == len(data)
    assert await other.get("f.bin", len(data)) == data
    for start, end in (
        (0, 1),
        (262_143, 262_145),
        (5, 700_000),
        (699_999, None),
        (3, 3),
        (9**9, None),
    ):
        found = b"".join([piece async for piece in other.read("f.bin", start, end)])
        assert found == data[start:end]
    with pytest.raises(StorageError):
        await other.get("f.bin", len(data) - 1)


@pytest.mark.parametrize("encrypt", [True, False])
async def test_an_empty_file(fs: FileSystem, other: FileSystem, *, encrypt: bool) -> None:
    await fs.put("empty", b"", encrypt=encrypt)

    assert await other.get("empty", 0) == b""


async def test_conditions(fs: FileSystem) -> None:
    first = await fs.put("f", b"1", if_none_match=True)
    with pytest.raises(WriteConflict):
        await fs.put("f", b"2", if_none_match=True)
    second = await fs.put("f", b"2", if_match=first.cid)
    with pytest.raises(WriteConflict):
        await fs.put("f", b"3", if_match=first.cid)
    with pytest.raises(WriteConflict):
        await fs.delete("f", if_match=first.cid)
    with pytest.raises(WriteConflict):
        await fs.put("g", b"3", if_match=first.cid)
    assert await fs.get("f", 10) == b"2"

    await fs.delete("f", if_match=second.cid)

    assert not await fs.exists("f")


async def test_deleting_directories(fs: FileSystem, other: FileSystem) -> None:
    await fs.put("a/b/c.txt", b"c")
    await fs.put("a/d.txt", b"d")

    with pytest.raises(PathRefused):
        await fs.delete("a")
    await fs.delete("a", recursive=True)

    assert (await other.list()).entries == ()
    await fs.put("a/e.txt", b"e")
    assert [info.path async for info in other.walk()] == ["a", "a/e.txt"]
    await fs.put("a/b/f.txt", b"f")
    assert await other.get("a/b/f.txt", 1) == b"f"
    await fs.delete("a/b/f.txt")
    await fs.delete("a/b")
    await fs.put("a/b/g.txt", b"g")
    assert [info.path async for info in other.walk("a/b")] == ["a/b/g.txt"]


async def test_a_page_follows_another(fs: FileSystem) -> None:
    async with fs.batch() as batch:
        for n in range(25):
            await batch.put(f"d/{n:02}", b"x")
            batch.make_directory(f"d/{n:02}.d")

    found: list[str] = []
    cursor: str | None = None
    while True:
        page = await fs.list("d", cursor=cursor, limit=7)
        found += [info.path for info in page.entries]
        cursor = page.cursor
        if cursor is None:
            break

    assert found == sorted(f"d/{n:02}{end}" for n in range(25) for end in ("", ".d"))


async def test_a_directory_grows_into_a_hamt(fs: FileSystem, other: FileSystem) -> None:
    async with fs.batch() as batch:
        for n in range(998):
            await batch.put(f"d/{n}", str(n).encode())
    for n in range(998, 1005):
        await fs.put(f"d/{n}", str(n).encode())

    names = [info.path async for info in other.walk("d")]

    assert sorted(names) == sorted(f"d/{n}" for n in range(1005))
    page = await other.list("d", limit=600)
    rest = await other.list("d", limit=600, cursor=page.cursor)
    assert len({info.path for info in (*page.entries, *rest.entries)}) == 1005
    await fs.delete("d/500")
    assert not await other.exists("d/500")
    assert await other.exists("d/501")


async def test_a_batch_that_fails_shows_nothing(
    fs: FileSystem, other: FileSystem, store: BlobStore
) -> None:
    await fs.put("d/kept", b"kept")
    before = {pin.blob async for pin in store.pins()}

    with pytest.raises(ZeroDivisionError):
        async with fs.batch() as batch:
            await batch.put("d/lost", b"lost")
            await batch.put("e/lost", b"lost")
            raise ZeroDivisionError

    assert [info.path async for info in other.walk()] == ["d", "d/kept"]
    assert {pin.blob async for pin in store.pins()} == before


async def test_a_batch_writes_each_directory_once(fs: FileSystem, other: FileSystem) -> None:
    await fs.put("d/a", b"1")
    async with fs.batch() as batch:
        for n in range(10):
            await batch.put(f"d/{n}", b"x")
            await batch.put(f"d/e/f/{n}", b"y")
        batch.delete("d/a")

    assert batch.info("d/e/f/3").size == 1
    assert len([info async for info in other.walk("d")]) == 22
