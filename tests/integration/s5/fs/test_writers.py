"""Two writers of one tree: nothing that was acknowledged is lost, conflicts are named."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from itertools import count

import anyio
import pytest
from anyio.lowlevel import checkpoint

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import (
    FabstirError,
    NotFound,
    PathRefused,
    PortalUnavailable,
    WriteConflict,
)
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.formats.registry import SignedEntry
from fabstir.s5.fs import FileSystem, open_tree
from fabstir.s5.store import BlobStore, LocalBlobs, LocalRegistry

pytestmark = [pytest.mark.integration, pytest.mark.anyio]


class HeldRegistry:
    """The real registry, where another writer comes in between reading and writing.

    Attributes:
        before_set: what happens before the next entry is set: another writer comes in.
        after_set: what happens after it: the answer is lost.
    """

    def __init__(self, registry: LocalRegistry) -> None:
        self._registry = registry
        self.before_set: list[Callable[[], object]] = []
        self.after_set: list[Callable[[], object]] = []
        self.num_sets = 0

    async def get(self, public_key: bytes) -> SignedEntry | None:
        return await self._registry.get(public_key)

    async def set(self, entry: SignedEntry) -> None:
        if self.before_set:
            pending = self.before_set.pop(0)()
            assert asyncio.iscoroutine(pending)
            await pending
        self.num_sets += 1
        await self._registry.set(entry)
        if self.after_set:
            pending = self.after_set.pop(0)()
            assert asyncio.iscoroutine(pending)
            await pending


@pytest.fixture
def held(registry: LocalRegistry) -> HeldRegistry:
    return HeldRegistry(registry)


@pytest.fixture
def slow(blobs: LocalBlobs, held: HeldRegistry, root: Capability) -> FileSystem:
    """A writer that the other one always overtakes."""
    return FileSystem(blobs, held, root, NATIVE)


async def test_different_names_merge(slow: FileSystem, fs: FileSystem, held: HeldRegistry) -> None:
    await fs.put("d/a", b"a")

    held.before_set = [lambda: fs.put("d/b", b"b"), lambda: fs.put("d/c", b"c")]
    await slow.put("d/d", b"d")

    assert [info.path async for info in fs.walk("d")] == ["d/a", "d/b", "d/c", "d/d"]


async def test_the_same_name_is_a_conflict_that_is_named(
    slow: FileSystem, fs: FileSystem, held: HeldRegistry, store: BlobStore
) -> None:
    await fs.put("d/a", b"before")

    held.before_set = [lambda: fs.put("d/a", b"theirs")]
    with pytest.raises(WriteConflict) as caught:
        await slow.put("d/a", b"mine")

    assert caught.value.what == "d/a"
    assert await slow.get("d/a", 10) == b"theirs"
    assert len(await slow.history("d/a")) == 2
    num_pins = len([pin async for pin in store.pins()])
    assert num_pins == 2 + 2  # root, directory; two versions


async def test_the_same_bytes_are_no_conflict(
    slow: FileSystem, fs: FileSystem, held: HeldRegistry
) -> None:
    await fs.make_directory("d")

    held.before_set = [lambda: fs.put("d/a", b"same")]
    info = await slow.put("d/a", b"same")

    assert info == await fs.stat("d/a")
    assert len(await fs.history("d/a")) == 1


async def test_conditions_are_checked_again(
    slow: FileSystem, fs: FileSystem, held: HeldRegistry
) -> None:
    await fs.make_directory("d")

    held.before_set = [lambda: fs.put("d/a", b"same")]
    with pytest.raises(WriteConflict):
        await slow.put("d/a", b"same", if_none_match=True)
    info = await fs.stat("d/a")
    assert not info.is_directory
    held.before_set = [lambda: fs.put("d/a", b"new")]
    with pytest.raises(WriteConflict):
        await slow.delete("d/a", if_match=info.cid)

    assert await fs.get("d/a", 10) == b"new"


@pytest.mark.parametrize("is_compatible", [False, True])
async def test_both_make_the_same_directories(
    blobs: LocalBlobs, held: HeldRegistry, root: Capability, *, is_compatible: bool
) -> None:
    slow, fs = (
        FileSystem(blobs, held, root, NATIVE, is_compatible=is_compatible) for _ in range(2)
    )
    await fs.put("first", b"")
    for before in range(3):
        name = f"d{before}"
        held.before_set = [asyncio_nothing] * before
        held.before_set.append(lambda name=name: fs.put(f"{name}/e/theirs", b"1"))
        await slow.put(f"{name}/e/mine", b"2")

        found = [info.path async for info in fs.walk(f"{name}/e")]
        assert found == [f"{name}/e/mine", f"{name}/e/theirs"]
        assert await fs.get(f"{name}/e/mine", 1) == b"2"
        assert await slow.get(f"{name}/e/theirs", 1) == b"1"


async def asyncio_nothing() -> None:
    """Another writer that does nothing."""


async def test_a_directory_is_deleted_under_a_writer(
    slow: FileSystem, fs: FileSystem, held: HeldRegistry
) -> None:
    await fs.put("d/e/old", b"old")
    held.before_set = [lambda: fs.delete("d", recursive=True)]
    await slow.put("d/e/new", b"new")
    assert [info.path async for info in fs.walk()] == ["d", "d/e", "d/e/new"]

    for before in range(3):
        held.before_set = [asyncio_nothing] * before
        held.before_set.append(lambda: fs.delete("d", recursive=True))
        await slow.put(f"d/{before}/x/new", b"new")

        found = [info.path async for info in fs.walk()]
        assert found == ["d", f"d/{before}", f"d/{before}/x", f"d/{before}/x/new"]


async def test_a_writer_comes_into_a_directory_that_is_being_deleted(
    slow: FileSystem, fs: FileSystem, held: HeldRegistry
) -> None:
    await fs.make_directory("d")
    held.before_set = [lambda: fs.put("d/new", b"new")]
    with pytest.raises(PathRefused, match="not empty"):
        await slow.delete("d")
    assert await fs.get("d/new", 10) == b"new"

    # Between the last entry of the directory and the end of its name.
    await fs.delete("d/new")
    held.before_set = [asyncio_nothing, lambda: fs.put("d/newer", b"newer")]
    await slow.delete("d")

    assert await fs.get("d/newer", 10) == b"newer"
    assert await slow.get("d/newer", 10) == b"newer"


async def test_a_move_meets_a_writer(slow: FileSystem, fs: FileSystem, held: HeldRegistry) -> None:
    for before in range(3):
        await fs.put("a/f", b"old")
        await fs.make_directory("b")
        held.before_set = [asyncio_nothing] * before
        held.before_set.append(lambda: fs.put("a/f", b"newer"))
        try:
            await slow.move("a/f", "b/f")
        except WriteConflict:
            assert await fs.get("a/f", 10) == b"newer"
            assert not await fs.exists("b/f")
        else:
            assert await fs.get("a/f", 10) == b"newer"
            assert await fs.get("b/f", 10) == b"old"
            await fs.delete("b/f")


async def test_many_tasks_of_two_writers(fs: FileSystem, other: FileSystem) -> None:
    async def write(writer: FileSystem, name: str) -> None:
        await writer.put(f"d/{name}", name.encode())

    async with anyio.create_task_group() as tasks:
        for n in range(15):
            tasks.start_soon(write, fs, f"one-{n}")
            tasks.start_soon(write, other, f"two-{n}")

    names = [info.path async for info in other.walk("d")]
    assert len(names) == 30
    for path in names:
        assert await fs.get(path, 10) == path[2:].encode()


async def test_clocks_do_not_matter(
    blobs: LocalBlobs, registry: LocalRegistry, root: Capability
) -> None:
    ahead = FileSystem(blobs, registry, root, NATIVE, clock=lambda: 4e9)
    behind = FileSystem(blobs, registry, root, NATIVE, clock=lambda: 0.0)

    await ahead.put("f", b"first")
    await behind.put("f", b"second")

    assert await ahead.get("f", 10) == b"second"
    assert [info.modified_at for info in await ahead.history("f")] == [0.0, 4e9]


async def test_a_batch_is_seen_whole_or_not_at_all(fs: FileSystem, other: FileSystem) -> None:
    done = anyio.Event()
    seen: list[int] = []

    async def watch() -> None:
        while not done.is_set():
            try:
                seen.append(len((await other.list("d")).entries))
            except NotFound:
                seen.append(0)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        for n in count():
            async with fs.batch() as batch:
                for name in range(10):
                    await batch.put(f"d/{n}-{name}", b"x")
            if n == 4:
                break
        done.set()

    assert seen == sorted(seen)
    assert all(num % 10 == 0 for num in seen)


async def test_a_conflict_in_a_batch_leaves_its_directory_alone(
    slow: FileSystem, fs: FileSystem, held: HeldRegistry
) -> None:
    await fs.put("d/a", b"1")

    held.before_set = [lambda: fs.put("d/a", b"theirs")]
    with pytest.raises(FabstirError):
        async with slow.batch() as batch:
            await batch.put("d/a", b"mine")
            await batch.put("d/b", b"mine")

    assert [info.path async for info in fs.walk("d")] == ["d/a"]


async def test_one_revision_a_directory(slow: FileSystem, held: HeldRegistry) -> None:
    await slow.put("d/e/f", b"1")
    held.num_sets = 0

    async with slow.batch() as batch:
        for n in range(30):
            await batch.put(f"d/{n}", b"x")
            await batch.put(f"d/e/{n}", b"x")
            await batch.put(f"d/new/{n}", b"x")

    assert held.num_sets == 3


@pytest.mark.parametrize(
    ("first", "second"),
    [("file", "\ufb01le"), ("\ufb01le", "file"), ("\u2764", "\u2764\ufe0f"), ("A", "\uff21")],
)
async def test_look_alikes_are_refused(
    fs: FileSystem, other: FileSystem, first: str, second: str
) -> None:
    await fs.put(f"d/{first}", b"1")

    with pytest.raises(PathRefused, match="look like"):
        await other.put(f"d/{second}", b"2")
    with pytest.raises(PathRefused, match="look like"):
        await other.make_directory(f"d/{second}/x")
    with pytest.raises(PathRefused, match="look like"):
        async with fs.batch() as batch:
            await batch.put(f"e/{first}", b"1")
            await batch.put(f"e/{second}", b"1")
    await other.put(f"e/{second}", b"2")


async def test_one_name_however_it_was_typed(fs: FileSystem, other: FileSystem) -> None:
    await fs.put("cafe\u0301", b"1")
    await other.put("caf\u00e9", b"2")

    assert [info.path async for info in fs.walk()] == ["caf\u00e9"]
    assert await fs.get("cafe\u0301", 10) == b"2"


async def test_a_registry_whose_answer_is_lost(
    slow: FileSystem, fs: FileSystem, held: HeldRegistry, store: BlobStore
) -> None:
    """The entry was taken, and the writer hears something else."""

    async def no_answer() -> None:
        raise PortalUnavailable("http://portal", "the connection broke")

    async def went_on_and_said_no() -> None:
        await fs.put("d/other", b"other")
        raise WriteConflict("the entry", "a higher revision is there")

    await fs.make_directory("d")
    held.after_set = [no_answer]
    with pytest.raises(PortalUnavailable):
        await slow.put("d/a", b"1", if_none_match=True)
    held.after_set = [went_on_and_said_no]
    info = await slow.put("d/b", b"2", if_none_match=True)

    await store.collect(grace_seconds=-60)
    assert await fs.get("d/a", 1) == b"1"
    assert await fs.get("d/b", 1) == b"2"
    assert await fs.stat("d/b") == info
    await slow.put("d/c", b"3")
    assert [found.path async for found in fs.walk("d")] == ["d/a", "d/b", "d/c", "d/other"]


async def test_a_vacuum_waits_for_a_snapshot(
    slow: FileSystem, fs: FileSystem, held: HeldRegistry, store: BlobStore
) -> None:
    await slow.put("d/f", b"1")
    refused: list[WriteConflict] = []

    async def vacuum() -> None:
        await fs.delete("d/f")
        with pytest.raises(WriteConflict) as caught:
            await fs.vacuum(store.pins())
        refused.append(caught.value)

    held.before_set = [asyncio_nothing, vacuum]
    snapshot = await slow.snapshot("d")
    await fs.vacuum(store.pins(), min_age=-60)
    await store.collect(grace_seconds=-60)

    assert len(refused) == 1
    tree = open_tree(snapshot.capability, LocalBlobs(store, "bob"), held, NATIVE)
    assert await tree.get("f", 1) == b"1"


@pytest.mark.parametrize("is_compatible", [False, True])
async def test_a_directory_that_a_killed_writer_left_without_a_name(
    blobs: LocalBlobs,
    held: HeldRegistry,
    root: Capability,
    store: BlobStore,
    *,
    is_compatible: bool,
) -> None:
    """Published, named by nobody, and its blob is collected."""
    fs = FileSystem(blobs, held, root, NATIVE, is_compatible=is_compatible)
    await fs.put("first", b"")

    async def killed() -> None:
        raise KeyboardInterrupt

    held.after_set = [killed]
    with pytest.raises(KeyboardInterrupt):
        await fs.put("d/lost", b"lost")
    fresh = FileSystem(blobs, held, root, NATIVE, is_compatible=is_compatible)
    await fresh.vacuum(store.pins(), min_age=-60)
    await store.collect(grace_seconds=-60)
    await fresh.put("d/kept", b"kept")
    await fresh.put("d/e/kept", b"too")

    assert [info.path async for info in fresh.walk()] == ["d", "d/e", "d/e/kept", "d/kept", "first"]
    assert await fs.get("d/kept", 10) == b"kept"
    await fs.vacuum(store.pins(), min_age=-60)
    await store.collect(grace_seconds=-60)
    assert await fresh.get("d/e/kept", 10) == b"too"


async def test_two_directories_are_moved_into_each_other(
    slow: FileSystem, fs: FileSystem, held: HeldRegistry
) -> None:
    refused: list[str] = []

    async def move(writer: FileSystem, source: str, target: str) -> None:
        try:
            await writer.move(source, f"{target}/{source}")
        except (NotFound, WriteConflict):
            refused.append(source)

    for before in range(4):  # the other's whole move comes before each of the steps
        one, other = f"a{before}", f"b{before}"
        for name in (one, other):
            await fs.put(f"{name}/f", name.encode())
        refused.clear()
        held.before_set = [asyncio_nothing] * before
        held.before_set.append(lambda one=one, other=other: move(fs, other, one))

        await move(slow, one, other)

        held.before_set.clear()
        assert refused == [[one], [other], [other], []][before]
        for name in (one, other):
            assert name.encode() in [
                await fs.get(info.path, 10)
                async for info in fs.walk()
                if info.path.endswith(f"/{name}/f") or info.path == f"{name}/f"
            ]


class ShuffledRegistry(HeldRegistry):
    """The real registry, where it is chance which of two writers goes on."""

    def __init__(self, registry: LocalRegistry, chance: random.Random) -> None:
        super().__init__(registry)
        self._chance = chance

    async def get(self, public_key: bytes) -> SignedEntry | None:
        await self._let_others_go_on()
        return await super().get(public_key)

    async def set(self, entry: SignedEntry) -> None:
        await self._let_others_go_on()
        await super().set(entry)

    async def _let_others_go_on(self) -> None:
        for _ in range(self._chance.choice((0, 0, 3, 30))):
            await checkpoint()


async def test_movers_of_directories_in_any_order(
    fs: FileSystem, blobs: LocalBlobs, registry: LocalRegistry, root: Capability
) -> None:
    num_refused = 0

    async def move(writer: FileSystem, source: str, target: str) -> None:
        nonlocal num_refused
        try:
            await writer.move(source, target)
        except (NotFound, WriteConflict):
            num_refused += 1

    for seed in range(40):
        chance = random.Random(seed)
        writers = [
            FileSystem(blobs, ShuffledRegistry(registry, chance), root, NATIVE) for _ in range(2)
        ]
        one, other = f"a{seed}", f"b{seed}"
        for name in (one, other):
            await fs.put(f"{name}/f", name.encode())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(move, writers[0], one, f"{other}/{one}")
            tasks.start_soon(move, writers[1], other, f"{one}/{other}")

        shown = {f"/{info.path}" async for info in fs.walk()}
        for name in (one, other):
            assert any(path.endswith(f"/{name}/f") for path in shown), seed
    assert num_refused >= 40


async def test_a_broken_off_move_is_ended_by_another_name(
    slow: FileSystem, fs: FileSystem, held: HeldRegistry
) -> None:
    await fs.put("a/f", b"a")
    await fs.put("b/f", b"b")

    async def break_off() -> None:
        raise PortalUnavailable("the registry", "it is away")

    held.before_set = [asyncio_nothing, break_off]
    with pytest.raises(PortalUnavailable):
        await slow.move("a", "b/a")
    with pytest.raises(WriteConflict, match="another name once"):
        await fs.move("b", "a/b")

    await fs.move("a", "a2")
    await fs.move("b", "a2/b")

    assert await fs.get("a2/b/f", 10) == b"b"


class LateRegistry(HeldRegistry):
    """The real registry, whose answers are on their way while another task writes."""

    def __init__(self, registry: LocalRegistry) -> None:
        super().__init__(registry)
        self.after_get: list[Callable[[], object]] = []

    async def get(self, public_key: bytes) -> SignedEntry | None:
        entry = await super().get(public_key)
        if self.after_get:
            pending = self.after_get.pop(0)()
            assert asyncio.iscoroutine(pending)
            await pending
        return entry


async def test_an_answer_that_another_task_overtakes_is_no_replay(
    blobs: LocalBlobs, registry: LocalRegistry, root: Capability
) -> None:
    late = LateRegistry(registry)
    fs = FileSystem(blobs, late, root, NATIVE)
    await fs.put("a", b"old")
    late.after_get.append(lambda: fs.put("a", b"new"))

    assert await fs.get("a", 10) == b"new"


async def test_an_answer_that_another_task_overtakes_in_a_new_tree(
    blobs: LocalBlobs, registry: LocalRegistry, root: Capability
) -> None:
    late = LateRegistry(registry)
    fs = FileSystem(blobs, late, root, NATIVE)
    late.after_get.append(lambda: fs.put("a", b"new"))

    assert await fs.exists("a")


async def test_readers_and_writers_of_one_directory(fs: FileSystem) -> None:
    names = [f"d/{number}" for number in range(5)]
    num_reads = num_writing = 0

    async def write(seed: int) -> None:
        nonlocal num_writing
        num_writing += 1
        chance = random.Random(seed)
        for _ in range(10):
            await fs.put(chance.choice(names), chance.randbytes(20))
        num_writing -= 1

    async def read(seed: int) -> None:
        nonlocal num_reads
        chance = random.Random(seed)
        while num_writing or not num_reads:
            with contextlib.suppress(NotFound):
                await fs.get(chance.choice(names), 20)
            num_reads += 1

    async with anyio.create_task_group() as tasks:
        for seed in range(4):
            tasks.start_soon(write, seed)
            tasks.start_soon(read, seed)
