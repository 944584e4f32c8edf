"""A hub, and a model that it can serve."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from tests.integration.models.hub import Hub, Served, open_hub, serve_model


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def hub() -> AsyncGenerator[Hub]:
    async with open_hub() as hub:
        yield hub


@pytest.fixture
def served(hub: Hub) -> Served:
    return serve_model(hub)
