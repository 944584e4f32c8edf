"""A store of its own for each test, a clock that the test sets, and caches in it."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from fabstir.crypto import NATIVE
from fabstir.s5.cache.results import ResultCache, open_result_cache
from fabstir.s5.store import BlobStore, open_store

KEY = b"\7" * 32
OWNER = "results"


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True, slots=True)
class Caches:
    store: BlobStore
    clock: Clock

    def open(
        self,
        *,
        owner: str = OWNER,
        key: bytes = KEY,
        max_bytes: int = 1_000_000,
        default_ttl: float = 3600,
    ) -> AbstractAsyncContextManager[ResultCache]:
        return open_result_cache(
            self.store,
            owner=owner,
            key=key,
            crypto=NATIVE,
            random=secrets.token_bytes,
            clock=self.clock,
            max_bytes=max_bytes,
            default_ttl=default_ttl,
        )

    async def num_pins(self, owner: str = OWNER) -> int:
        return len([pin async for pin in self.store.pins(owner)])


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def caches(tmp_path: Path) -> AsyncGenerator[Caches]:
    clock = Clock()
    async with open_store(tmp_path / "s5", NATIVE, clock=clock) as store:
        yield Caches(store, clock)


@pytest.fixture
async def cache(caches: Caches) -> AsyncGenerator[ResultCache]:
    async with caches.open() as cache:
        yield cache
