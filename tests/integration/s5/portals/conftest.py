"""Portals that misbehave, and clients for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import httpx
import pytest
from tests.integration.s5.portals.clients import client_of
from tests.integration.s5.portals.faulty import FaultyPortal, open_faulty_portal

from fabstir.s5.portals import Portal, open_client
from fabstir.web.reach import Reach


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def http_client() -> AsyncGenerator[httpx.AsyncClient]:
    async with open_client(Reach(allow_private=True)) as client:
        yield client


@pytest.fixture
async def faulty() -> AsyncGenerator[FaultyPortal]:
    async with open_faulty_portal() as portal:
        yield portal


@pytest.fixture
def portal(faulty: FaultyPortal, http_client: httpx.AsyncClient) -> Portal:
    return client_of(faulty, http_client)
