"""A journal of its own for each test, on each engine."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from fabstir.db import Database, open_database


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def db(database_url: str) -> AsyncGenerator[Database]:
    async with open_database(database_url) as database:
        yield database
