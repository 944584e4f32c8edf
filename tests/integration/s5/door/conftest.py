"""The doors of a node, on a free port of this machine."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.integration.s5.door.door import Door, open_door


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


# Not of the session: an async fixture keeps its event loop as long as it lives, and the tests of
# commands, which come after these, start loops of their own.
@pytest.fixture(scope="module")
async def door(tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Door]:
    """One for a module's tests that need no other settings: each has accounts of its own."""
    async with open_door(tmp_path_factory.mktemp("door")) as door:
        yield door


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "node"
