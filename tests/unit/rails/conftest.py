"""One rail, over one session that is open on chain."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.unit.rails.hosting import OpenRail, make_contract, open_rail
from tests.unit.rails.memory_contract import MemoryContract


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def contract() -> MemoryContract:
    return make_contract()


@pytest.fixture
async def rail(tmp_path: Path, contract: MemoryContract) -> AsyncGenerator[OpenRail]:
    async with open_rail(tmp_path, contract) as opened:
        yield opened
