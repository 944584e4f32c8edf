"""A host's share that its token refuses to send to the earnings contract: seen, and withdrawn."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.anvil import increase_time, set_code
from tests.contract_calls import MarketplaceCalls

from fabstir.chain.contracts import NodeRegistration, SessionOffer
from fabstir.chain.devnet import DevModel, Devnet, DevnetParameters, open_devnet
from fabstir.chain.events import HostShareCredited, decode_event
from fabstir.chain.transactions import TransactionQueue, open_transaction_queue
from fabstir.config import load_settings
from fabstir.db import open_database
from fabstir.node.market import HostMarket
from fabstir.node.status import read_status, withdraw_all
from fabstir.primitives.ids import NATIVE_TOKEN, Hash32, JobId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

MODEL = DevModel("org/tiny-model-gguf", "tiny-q4.gguf", Hash32("0x" + "ab" * 32))
PRICE = PricePerToken(300_000)
DEPOSIT = Wei(10**15)
STAKE = Wei(1_000 * 10**18)
HOST_SHARE = Wei(2700)
"""Nine tenths of ten tokens."""
ALWAYS_REVERTS = bytes.fromhex("5f5ffd")


@pytest.fixture
async def devnet(tmp_path: Path) -> AsyncGenerator[Devnet]:
    async with open_devnet(tmp_path / "deployments", [MODEL], DevnetParameters(port=0)) as net:
        yield net


@pytest.fixture
async def market(devnet: Devnet, tmp_path: Path) -> AsyncGenerator[HostMarket]:
    host = devnet.accounts[0]
    async with (
        open_database(f"sqlite:///{tmp_path}/host.sqlite") as db,
        open_transaction_queue(devnet.chain, host, db) as queue,
    ):
        yield HostMarket(
            settings=load_settings(file=None, environ={}),
            signer=host,
            db=db,
            chain=devnet.chain,
            contracts=devnet.contracts,
            queue=queue,
        )


@pytest.fixture
async def renter(devnet: Devnet, tmp_path: Path) -> AsyncGenerator[TransactionQueue]:
    async with (
        open_database(f"sqlite:///{tmp_path}/renter.sqlite") as db,
        open_transaction_queue(devnet.chain, devnet.accounts[1], db) as queue,
    ):
        yield queue


async def open_and_claim(market: HostMarket, renter: TransactionQueue) -> JobId:
    contracts, queue = market.contracts, market.queue
    model = contracts.models.model_id(MODEL.repo, MODEL.file)
    registration = NodeRegistration(
        metadata="{}",
        api_url="http://127.0.0.1:1",
        models=(model,),
        min_price_native=PRICE,
        min_price_stable=PricePerToken(1),
    )
    await queue.send("approve", contracts.fab.approve(contracts.nodes.address, STAKE))
    await queue.send("register", contracts.nodes.register(registration))
    await queue.send("price", contracts.nodes.set_price(model, NATIVE_TOKEN, PRICE))
    offer = SessionOffer(
        host=market.signer.address,
        model_id=model,
        payment_token=NATIVE_TOKEN,
        deposit=DEPOSIT,
        price_per_token=PRICE,
        max_duration=86_400,
        proof_interval=TokenCount(1),
        proof_timeout_window=3600,
    )
    job = await MarketplaceCalls(market.chain, contracts.marketplace.address).next_job_id()
    await renter.send("open", contracts.marketplace.create_session(offer))
    await increase_time(market.chain, 10)
    claim = contracts.marketplace.submit_proof(job, TokenCount(10), Hash32("0x" + "12" * 32))
    await queue.send("claim", claim)
    return job


async def test_it_is_in_the_status_and_comes_with_the_withdrawal(
    market: HostMarket, renter: TransactionQueue
) -> None:
    contracts, chain, host = market.contracts, market.chain, market.signer.address
    job = await open_and_claim(market, renter)
    earnings_code = await chain.code(contracts.earnings.address)
    await set_code(chain, contracts.earnings.address, ALWAYS_REVERTS)

    mined = await renter.send("complete", contracts.marketplace.complete_session(job))
    receipt = await chain.receipt(mined.tx_hash)
    await set_code(chain, contracts.earnings.address, earnings_code)
    status = await read_status(market, running=None)
    withdrawn = await withdraw_all(market)

    assert receipt is not None
    credited = HostShareCredited(job, host, HOST_SHARE, NATIVE_TOKEN)
    assert credited in [decode_event(log) for log in receipt.logs]
    assert (status.held_native, status.earned_native) == (HOST_SHARE, 0)
    assert withdrawn == (HOST_SHARE, 0)
    assert await contracts.marketplace.deposit_balance(host, NATIVE_TOKEN) == 0
    assert await contracts.marketplace.locked_balance(renter.signer.address, NATIVE_TOKEN) == 0
    assert await withdraw_all(market) == (0, 0)
