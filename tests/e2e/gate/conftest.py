"""One host for each file, and two sockets to it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from tests.e2e.gate.steps import IMPATIENT
from tests.e2e.harness import (
    HostStarter,
)
from tests.e2e.raw_client import RawClient, open_raw_client

from fabstir.chain.devnet import Devnet
from fabstir.cli.host_process import HostProcess


@pytest.fixture(scope="module")
async def host(start_host: HostStarter, anyio_backend: str) -> AsyncGenerator[HostProcess]:
    async with start_host("host", IMPATIENT) as started:
        yield started


@pytest.fixture
async def client(host: HostProcess, devnet: Devnet) -> AsyncGenerator[RawClient]:
    async with open_raw_client(host, devnet) as opened:
        yield opened


@pytest.fixture
async def stranger(host: HostProcess, devnet: Devnet) -> AsyncGenerator[RawClient]:
    """Another socket, of somebody who knows what the depositor's looks like from outside."""
    async with open_raw_client(host, devnet) as opened:
        yield opened
