"""The fixtures of the end-to-end tests: a real chain, hosts and renters as their users run them.

    devnet      a chain with the contracts, one for each module. `devnet.chain`, `.contracts`,
                `.rpc_url`; `fabstir.chain.cheats` moves its clock and stops its mining.
    start_host  `async with start_host("name", {"host.reconnect_grace_seconds": "1"}) as host:`
                runs `fabstir serve` in a process. Leaving the block kills it if it still runs
                (`host.kill()`, `host.stop()` do so earlier) and fails on any ERROR line in its log
                unless it is in `expected_errors`. The same name again: the same host, in the same
                folder, on the same ports.
    renter      a fresh wallet for our SDK. `async with renter.open(host) as client:` gives the
                AsyncClient; `(await renter.settings(host)).file` is a config for a process of
                its own. Opened twice it is the same renter with the same journal.
    wallet      a fresh wallet for anything else: `job_id = await wallet.lock(host)` opens a
                session on chain, `wallet.send(call)` sends any other transaction.

`harness.py` has what tests wait with (`eventually`, `logged`, `wait_until_over`) and count with
(`check_money`); `raw_client.py` speaks to a host frame by frame.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.e2e.harness import HostStarter, Renter, Wallet, funded, open_wallet

from fabstir.chain.devnet import DevModel, Devnet, DevnetParameters, open_devnet
from fabstir.models import DEMO_MODEL

_numbers = itertools.count()


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="module")
async def devnet(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str, demo_model: Path
) -> AsyncGenerator[Devnet]:
    model = DevModel(DEMO_MODEL.repo, DEMO_MODEL.file, DEMO_MODEL.sha256)
    folder = tmp_path_factory.mktemp("deployments")
    async with open_devnet(folder, [model], DevnetParameters(port=0)) as net:
        yield net


@pytest.fixture(scope="module")
def start_host(devnet: Devnet, tmp_path_factory: pytest.TempPathFactory) -> HostStarter:
    return HostStarter(devnet, tmp_path_factory.mktemp("hosts"))


@pytest.fixture
async def renter(devnet: Devnet, tmp_path: Path) -> Renter:
    signer = await funded(devnet, f"renter {next(_numbers)}")
    return Renter(devnet=devnet, signer=signer, folder=tmp_path / "renter")


@pytest.fixture
async def wallet(devnet: Devnet, tmp_path: Path) -> AsyncGenerator[Wallet]:
    signer = await funded(devnet, f"wallet {next(_numbers)}")
    async with open_wallet(devnet, signer, tmp_path) as opened:
        yield opened
