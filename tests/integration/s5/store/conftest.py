"""A store of its own for each test, and a clock that the test sets."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from fabstir.crypto import NATIVE
from fabstir.s5.store import BlobStore, open_store


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "s5"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def store(folder: Path, clock: Clock) -> AsyncGenerator[BlobStore]:
    async with open_store(folder, NATIVE, clock=clock) as opened:
        yield opened
