"""A journal file of its own for each test."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from fabstir.db import Database, open_database


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/data/journal.db"


@pytest.fixture
async def db(url: str) -> AsyncGenerator[Database]:
    async with open_database(url) as database:
        yield database
