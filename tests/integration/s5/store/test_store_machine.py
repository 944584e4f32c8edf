"""Random histories of a store against a model of it: two owners, a quota, crashes, collections."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.integration.s5.store.conftest import Clock
from tests.integration.s5.store.helpers import content, files, findings, get, joined, stream

from fabstir.crypto import NATIVE
from fabstir.primitives.cid import HashType, Multihash
from fabstir.primitives.errors import NotFound, QuotaExceeded
from fabstir.s5.store import BlobStore, open_store

pytestmark = pytest.mark.integration

T = TypeVar("T")

OWNERS = st.sampled_from("ab")
SIZES = (0, 1, 500, 131_071, 131_072, 262_144, 262_145, 1_200_000)
CONTENTS = [content("machine", size) for size in SIZES]
NAMES = [Multihash(NATIVE.blake3(data)) for data in CONTENTS]
NUMBERS = st.integers(0, len(SIZES) - 1)
QUOTA = 700_000
GRACE = 100.0


class StoreMachine(RuleBasedStateMachine):
    """One store, and what it must hold."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.base = Path(tempfile.mkdtemp(prefix="fabstir-store-"))
        self.num_crashes = 0
        self.clock = Clock()
        self.pinned: dict[str, set[int]] = {"a": set(), "b": set()}
        self.unpinned_at: dict[int, float] = {}
        self.quota: int | None = None
        self.stack = AsyncExitStack()
        self.store = self.open()

    @property
    def folder(self) -> Path:
        return self.base / str(self.num_crashes)

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def open(self) -> BlobStore:
        opening = open_store(self.folder, NATIVE, clock=self.clock)
        return self.run(self.stack.enter_async_context(opening))

    def teardown(self) -> None:
        self.run(self.stack.aclose())
        self.runner.close()
        shutil.rmtree(self.base)

    @property
    def kept(self) -> set[int]:
        return self.pinned["a"] | self.pinned["b"] | set(self.unpinned_at)

    def may_pin(self, owner: str, number: int) -> bool:
        if owner == "b" or self.quota is None or number in self.pinned[owner]:
            return True
        return sum(SIZES[n] for n in self.pinned[owner]) + SIZES[number] <= self.quota

    def pin_in_model(self, owner: str, number: int) -> None:
        self.pinned[owner].add(number)
        self.unpinned_at.pop(number, None)

    def expect(self, owner: str, number: int, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        if self.may_pin(owner, number):
            self.run(work())
            self.pin_in_model(owner, number)
        else:
            with pytest.raises(QuotaExceeded):
                self.run(work())

    @rule(owner=OWNERS, number=NUMBERS, piece=st.sampled_from([None, 50_000, 400_000]))
    def put(self, owner: str, number: int, piece: int | None) -> None:
        data = CONTENTS[number]

        async def put() -> None:
            pieces = [data[s : s + piece] for s in range(0, len(data), piece)] if piece else []
            blob = await self.store.put(
                stream(pieces) if piece else data, owner=owner, reason="test"
            )
            assert (blob.multihash, blob.size) == (NAMES[number], len(data))

        self.expect(owner, number, put)

    @rule(owner=OWNERS, number=NUMBERS)
    def put_by_sha256(self, owner: str, number: int) -> None:
        data = CONTENTS[number]
        name = Multihash(hashlib.sha256(data).digest(), HashType.SHA256)

        async def put() -> None:
            await self.store.put(data, owner=owner, reason="test", expected=name)
            assert await get(self.store, name) == data

        self.expect(owner, number, put)

    @rule(owner=OWNERS, number=NUMBERS)
    def pin(self, owner: str, number: int) -> None:
        if number in self.kept:
            self.expect(
                owner, number, lambda: self.store.pin(owner, [NAMES[number]], reason="test")
            )
        else:
            with pytest.raises(NotFound):
                self.run(self.store.pin(owner, [NAMES[number]], reason="test"))

    @rule(owner=OWNERS, numbers=st.sets(NUMBERS))
    def unpin(self, owner: str, numbers: set[int]) -> None:
        self.run(self.store.unpin(owner, [NAMES[number] for number in numbers]))

        other = self.pinned["b" if owner == "a" else "a"]
        for number in numbers & self.pinned[owner]:
            self.pinned[owner].discard(number)
            if number not in other:
                self.unpinned_at[number] = self.clock.now

    @rule(seconds=st.sampled_from([1.0, 60.0, 200.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def collect(self) -> None:
        collected = self.run(self.store.collect(grace_seconds=GRACE))

        old = {n for n, since in self.unpinned_at.items() if since <= self.clock.now - GRACE}
        assert collected.num_blobs == len(old)
        assert collected.num_bytes == sum(SIZES[number] for number in old)
        for number in old:
            del self.unpinned_at[number]

    @rule(quota=st.sampled_from([None, QUOTA]))
    def set_quota(self, quota: int | None) -> None:
        self.run(self.store.set_quota("a", quota))
        self.quota = quota

    @precondition(lambda self: self.num_crashes < 3)
    @rule()
    def crash(self) -> None:
        """Go on with what the disk has at this moment, as after SIGKILL."""
        before = self.folder
        self.num_crashes += 1
        shutil.copytree(before, self.folder)
        self.run(self.stack.aclose())
        self.store = self.open()

    @rule(number=NUMBERS, start=st.integers(0, 1_300_000), length=st.integers(0, 700_000))
    def read_range(self, number: int, start: int, length: int) -> None:
        if number in self.kept:
            read = joined(self.store.read(NAMES[number], start, start + length))
            assert self.run(read) == CONTENTS[number][start : start + length]

    @invariant()
    def usage_is_exact(self) -> None:
        async def usages() -> list[tuple[int, int]]:
            return [
                (usage.num_blobs, usage.num_bytes)
                for owner in ("a", "b", None)
                for usage in [await self.store.usage(owner)]
            ]

        expected = [self.pinned["a"], self.pinned["b"], self.kept]
        assert self.run(usages()) == [(len(ns), sum(SIZES[n] for n in ns)) for ns in expected]

    @invariant()
    def what_is_kept_is_there_and_nothing_else(self) -> None:
        async def check() -> None:
            for number, name in enumerate(NAMES):
                if number not in self.kept:
                    assert await self.store.size(name) is None
                else:
                    assert await get(self.store, name) == CONTENTS[number]

        self.run(check())
        assert len(files(self.folder)) == sum(SIZES[number] >= 131_072 for number in self.kept)

    @invariant()
    def a_scrub_finds_nothing(self) -> None:
        if self.num_crashes:
            assert self.run(findings(self.store)) == []


class ShortMachine(StoreMachine):
    pass


ShortMachine.TestCase.settings = settings(
    max_examples=6,
    stateful_step_count=12,
)
TestStore = pytest.mark.integration(ShortMachine.TestCase)

StoreMachine.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=50,
)
TestStoreAtLength = pytest.mark.heavy(StoreMachine.TestCase)
