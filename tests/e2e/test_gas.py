"""Where gas costs what it does on Base, no transaction costs more than it brings."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.e2e.gate.steps import PAYS_FOR_100, open_as_depositor
from tests.e2e.harness import HostStarter, Wallet, session_of, wait_until_over
from tests.e2e.raw_client import open_raw_client

from fabstir.chain.contracts import SessionStatus
from fabstir.chain.devnet import DevModel, Devnet, DevnetParameters, open_devnet
from fabstir.models import DEMO_MODEL
from fabstir.primitives.units import Wei

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

BASE_FEE = Wei(5_000_000)
"""Wei; what Base asked in 2026."""


@pytest.fixture(scope="module")
async def devnet(
    tmp_path_factory: pytest.TempPathFactory, anyio_backend: str, demo_model: Path
) -> AsyncGenerator[Devnet]:
    model = DevModel(DEMO_MODEL.repo, DEMO_MODEL.file, DEMO_MODEL.sha256)
    folder = tmp_path_factory.mktemp("deployments")
    async with open_devnet(folder, [model], DevnetParameters(port=0, base_fee=BASE_FEE)) as net:
        yield net


async def test_a_claim_is_sent_if_and_only_if_it_is_worth_its_gas(
    devnet: Devnet, start_host: HostStarter, wallet: Wallet
) -> None:
    """A few tokens at the usual price are left to the renter; at a high price they are claimed."""
    settings = {"host.reconnect_grace_seconds": "0.5"}
    async with start_host("host", settings) as host:
        cheap = await wallet.lock(host)
        dear = await wallet.lock(host, price=PAYS_FOR_100, proof_interval=100)
        nonce = await devnet.chain.nonce(host.account)
        async with open_raw_client(host, devnet) as client:
            session = await open_as_depositor(client, cheap, wallet)
            few = await session.ask("Hello", max_tokens=8)
            claimed = await session.close()
            assert (few.tokens > 0, claimed) == (True, 0)
            session = await open_as_depositor(client, dear, wallet)
            worth = await session.ask("Hello", max_tokens=8)
        job = await wait_until_over(devnet, dear)
        assert await host.stop() == 0  # it waits for no session that it has left
        sent = await devnet.chain.nonce(host.account) - nonce

    assert job.tokens_used == worth.tokens
    assert job.withdrawn_by_host > 500_000 * BASE_FEE
    assert sent == 2  # the claim and the end of the one
    assert (await session_of(devnet, cheap)).status is SessionStatus.ACTIVE
    await wallet.settle_now(cheap)
    refunded = await session_of(devnet, cheap)
    assert refunded.refunded_to_user == refunded.deposit
