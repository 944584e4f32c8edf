"""Results that come back while they are young, and never as another's."""

from __future__ import annotations

import random
import sys
import time
from functools import partial
from pathlib import Path

import anyio
import pytest
from sqlalchemy import Connection, text
from tests.integration.s5.cache.conftest import KEY, OWNER, Caches, Clock

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import BlobTooLarge, ConfigError, PathRefused, QuotaExceeded
from fabstir.s5.cache.results import MAX_SKEW_SECONDS, ResultCache
from fabstir.s5.store import open_store

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

ROOT = Path(__file__).resolve().parents[4]
SEALED = 41
"""What a value is longer by: version, nonce, tag."""


async def test_a_value_comes_back_and_is_counted(cache: ResultCache) -> None:
    await cache.put("answers/one", b"yes")

    assert await cache.get("answers/one") == b"yes"
    assert await cache.get("/answers/one/") == b"yes"
    assert await cache.get("answers/two") is None
    stats = cache.stats
    assert (stats.hits, stats.misses, stats.num_entries) == (2, 1, 1)
    assert stats.num_bytes == 3 + SEALED


async def test_an_empty_value_is_a_hit(cache: ResultCache) -> None:
    await cache.put("nothing", b"")

    assert await cache.get("nothing") == b""


async def test_what_is_on_disk_is_encrypted(cache: ResultCache, caches: Caches) -> None:
    value = b"a secret of many words " * 2000
    await cache.put("answers/one", value)

    blobs = [pin.blob async for pin in caches.store.pins(OWNER)]
    stored = [await caches.store.get(blob.multihash, max_bytes=blob.size) for blob in blobs]
    assert len(stored) == 1
    assert b"secret" not in stored[0]


async def test_a_newer_value_replaces_the_older_and_its_blob(
    cache: ResultCache, caches: Caches
) -> None:
    await cache.put("one", b"first")
    await cache.put("one", b"second")

    assert await cache.get("one") == b"second"
    assert await caches.num_pins() == 1
    assert cache.stats.num_entries == 1
    assert cache.stats.num_bytes == 6 + SEALED


class TestTime:
    """TTL by the clock that is given."""

    async def test_it_ends_to_the_second(self, cache: ResultCache, caches: Caches) -> None:
        await cache.put("short", b"1", ttl=10)
        await cache.put("default", b"2")

        caches.clock.now += 9.5
        assert await cache.get("short") == b"1"
        caches.clock.now += 0.5
        assert await cache.get("short") is None
        assert await cache.get("default") == b"2"

        assert cache.stats.expired == 1
        assert await caches.num_pins() == 1

    async def test_all_that_is_over_is_removed_at_once(
        self, cache: ResultCache, caches: Caches
    ) -> None:
        async with anyio.create_task_group() as tasks:
            for number in range(300):
                tasks.start_soon(partial(cache.put, f"short/{number}", b"1", ttl=10))
        await cache.put("long", b"2")
        caches.clock.now += 11

        assert await cache.expire() == 300
        assert await cache.expire() == 0
        assert cache.stats.num_entries == await caches.num_pins() == 1

    async def test_a_value_from_the_future_is_over(
        self, cache: ResultCache, caches: Caches
    ) -> None:
        await cache.put("one", b"1", ttl=10)
        await cache.put("two", b"2", ttl=10)

        caches.clock.now -= MAX_SKEW_SECONDS
        assert await cache.get("one") == b"1"
        caches.clock.now -= 1
        assert await cache.get("two") is None


class TestRoom:
    """A limit in bytes; the least used go."""

    async def test_the_least_used_is_evicted(self, caches: Caches) -> None:
        async with caches.open(max_bytes=3 * (1000 + SEALED)) as cache:
            for name in ("a", "b", "c"):
                await cache.put(name, bytes(1000))
                caches.clock.now += 1
            assert await cache.get("a") is not None
            caches.clock.now += 1

            await cache.put("d", bytes(1000))

            assert [entry.path async for entry in cache.entries()] == ["a", "c", "d"]
            assert cache.stats.evictions == 1
            assert cache.stats.num_bytes == 3 * (1000 + SEALED)
            assert await caches.num_pins() == 3

    async def test_what_is_over_goes_first(self, caches: Caches) -> None:
        async with caches.open(max_bytes=3 * (1000 + SEALED)) as cache:
            await cache.put("old", bytes(1000))
            caches.clock.now += 1
            await cache.put("over", bytes(1000), ttl=1)
            await cache.put("young", bytes(1000))
            caches.clock.now += 5

            await cache.put("new", bytes(1000))

            assert [entry.path async for entry in cache.entries()] == ["new", "old", "young"]
            assert (cache.stats.evictions, cache.stats.expired) == (0, 1)

    async def test_one_large_value_takes_the_place_of_many(self, caches: Caches) -> None:
        async with caches.open(max_bytes=300 * (10 + SEALED)) as cache:
            async with anyio.create_task_group() as tasks:
                for number in range(300):
                    tasks.start_soon(cache.put, f"small/{number}", bytes(10))

            await cache.put("large", bytes(300 * (10 + SEALED) - SEALED))

            assert [entry.path async for entry in cache.entries()] == ["large"]
            assert await caches.num_pins() == 1

    async def test_a_value_without_a_chance_is_refused(self, caches: Caches) -> None:
        async with caches.open(max_bytes=1000) as cache:
            await cache.put("one", b"1")

            with pytest.raises(BlobTooLarge):
                await cache.put("one", bytes(1001 - SEALED))

            assert await cache.get("one") == b"1"

    async def test_what_others_pin_is_never_removed(self, caches: Caches) -> None:
        async with caches.open(max_bytes=2 * (1000 + SEALED)) as cache:
            await cache.put("one", bytes(1000))
            (pin,) = [pin async for pin in caches.store.pins(OWNER)]
            blob = pin.blob.multihash
            await caches.store.pin("somebody else", [blob], reason="keeps it")
            await cache.put("two", bytes(1000))
            await cache.put("three", bytes(1000))
            assert await cache.get("one") is None

            caches.clock.now += 10_000
            await caches.store.collect(grace_seconds=0)

            assert await caches.store.size(blob) == 1000 + SEALED

    async def test_what_was_evicted_is_collected(self, caches: Caches) -> None:
        async with caches.open(max_bytes=1000 + SEALED) as cache:
            for number in range(5):
                await cache.put(str(number), bytes([number]) * 1000)

            caches.clock.now += 10
            await caches.store.collect(grace_seconds=0)

            assert (await caches.store.usage()).num_blobs == 1
            assert await cache.get("4") is not None

    async def test_a_quota_refuses_and_the_earlier_value_stays(
        self, cache: ResultCache, caches: Caches
    ) -> None:
        await cache.put("one", b"1")
        await caches.store.set_quota(OWNER, 100)

        with pytest.raises(QuotaExceeded):
            await cache.put("one", bytes(1000))

        assert await cache.get("one") == b"1"


async def test_puts_at_once_keep_the_limit(caches: Caches) -> None:
    async with caches.open(max_bytes=5 * (1000 + SEALED)) as cache:
        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(cache.put, f"{number % 20}", bytes(1000))

        assert cache.stats.num_bytes <= 5 * (1000 + SEALED)
        assert cache.stats.num_entries == await caches.num_pins() == 5


async def test_a_folder_is_listed_and_deleted(cache: ResultCache) -> None:
    for path in ("renters/a/1", "renters/a/2", "renters/a", "renters/ab", "renters/b/1"):
        await cache.put(path, b"x")

    assert [entry.path async for entry in cache.entries("renters/a")] == [
        "renters/a",
        "renters/a/1",
        "renters/a/2",
    ]
    assert await cache.delete("renters/a") == 3
    assert [entry.path async for entry in cache.entries()] == ["renters/ab", "renters/b/1"]
    assert await cache.delete("") == 2
    assert cache.stats.num_bytes == 0


@pytest.mark.parametrize("path", ["", "/", "a//b", "../a", "a\0b", "a" * 5000])
async def test_a_path_that_is_none_is_refused(cache: ResultCache, path: str) -> None:
    with pytest.raises(PathRefused):
        await cache.put(path, b"1")


class TestTrust:
    """Nothing is returned that is not this path's own value."""

    async def test_another_key_opens_nothing(self, caches: Caches) -> None:
        async with caches.open() as cache:
            await cache.put("one", b"1")

        async with caches.open(key=b"\x08" * 32) as cache:
            assert await cache.get("one") is None
            assert cache.stats.damaged == 1

    async def test_a_value_does_not_open_at_another_path(
        self, cache: ResultCache, caches: Caches
    ) -> None:
        await cache.put("one", b"1")
        await cache.put("two", b"2")

        def swap(connection: Connection) -> None:
            connection.execute(
                text(
                    "UPDATE cache_entries SET digest = (SELECT digest FROM cache_entries "
                    "WHERE path = 'two') WHERE path = 'one'"
                )
            )

        await caches.store.db.write(swap, durable=True)

        assert await cache.get("one") is None
        assert cache.stats.damaged == 1

    async def test_a_lost_blob_is_a_miss(self, cache: ResultCache, caches: Caches) -> None:
        await cache.put("one", b"1")
        (pin,) = [pin async for pin in caches.store.pins(OWNER)]
        await caches.store.unpin(OWNER, [pin.blob.multihash])
        caches.clock.now += 10
        await caches.store.collect(grace_seconds=0)

        assert await cache.get("one") is None
        assert await cache.get("one") is None
        assert (cache.stats.damaged, cache.stats.num_entries) == (1, 0)

    async def test_a_rotten_blob_is_a_miss(self, cache: ResultCache, caches: Caches) -> None:
        await cache.put("one", bytes(200_000))
        (file,) = (path for path in (caches.store.folder / "blobs").rglob("*") if path.is_file())
        data = bytearray(file.read_bytes())
        data[1000] ^= 1
        file.chmod(0o600)
        file.write_bytes(data)

        assert await cache.get("one") is None
        assert cache.stats.damaged == 1


async def test_an_owner_has_one_cache_at_a_time(cache: ResultCache, caches: Caches) -> None:
    with pytest.raises(ConfigError, match="in use already"):
        async with caches.open():
            pass
    async with caches.open(owner="others") as other:
        assert await other.get("one") is None


async def test_reopened_it_knows_what_it_has(caches: Caches) -> None:
    async with caches.open() as cache:
        await cache.put("one", bytes(1000))

    async with caches.open() as cache:
        assert cache.stats.num_bytes == 1000 + SEALED
        assert await cache.get("one") == bytes(1000)


async def test_it_behaves_as_a_model_of_itself(caches: Caches) -> None:
    """Random operations against a dictionary with a list in order of use."""
    choose = random.Random(1)
    model: dict[str, tuple[bytes, float]] = {}
    async with caches.open(max_bytes=8 * (100 + SEALED)) as cache:
        for _ in range(300):
            caches.clock.now += choose.random()
            path = f"p/{choose.randrange(12)}"
            now = caches.clock.now
            if choose.random() < 0.5:
                value = choose.randbytes(100)
                ttl = choose.choice([2.0, 1000.0])
                await cache.put(path, value, ttl=ttl)
                model.pop(path, None)
                model[path] = (value, now + ttl)
                ends = sorted((end, name) for name, (_, end) in model.items())
                over = [name for end, name in ends if end <= now]
                least = [name for name in model if name not in over]
                for name in [*over, *least]:
                    if len(model) > 8:
                        del model[name]
            else:
                expected = model.pop(path, None)
                found = await cache.get(path)
                if expected is not None and expected[1] > now:
                    model[path] = expected
                    assert found == expected[0]
                else:
                    assert found is None
            assert cache.stats.num_entries == len(model)
    assert await caches.num_pins() == len(model)


@pytest.mark.parametrize(
    "num_kills", [2, pytest.param(30, marks=pytest.mark.heavy)], ids=["short", "long"]
)
async def test_killed_at_any_point_it_keeps_what_it_acknowledged(
    tmp_path: Path, num_kills: int
) -> None:
    folder = tmp_path / "s5"
    for number_of_kill in range(num_kills):
        command = [sys.executable, str(Path(__file__).with_name("cache_child.py")), str(folder)]
        async with await anyio.open_process(command, cwd=ROOT, stderr=None) as child:
            assert child.stdout is not None
            lines, wanted = b"", 10 + 7 * number_of_kill
            with anyio.fail_after(60):
                while lines.count(b"\n") < wanted:
                    lines += await child.stdout.receive()
            child.kill()
            with anyio.CancelScope(shield=True):
                await child.wait()
        last = max(int(line) for line in lines.split(b"\n")[:-1])
        acknowledged = {
            f"answers/{n % 40}": f"{n:1000}" for n in range(max(0, last - 10), last + 1)
        }

        clock = Clock()
        clock.now = time.time()
        async with (
            open_store(folder, NATIVE) as store,
            Caches(store, clock).open(key=KEY, max_bytes=20_000) as cache,
        ):
            for path, value in acknowledged.items():
                found = await cache.get(path)
                # The next one, not acknowledged any more, may have taken its place.
                assert found is not None
                assert int(found) >= int(value)
            pins = [pin.blob async for pin in store.pins(OWNER)]
            assert len(pins) == cache.stats.num_entries
            assert sum(blob.size for blob in pins) == cache.stats.num_bytes <= 20_000
