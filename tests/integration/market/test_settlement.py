"""The mirror `settle` against the deployed bytecode, at random and at the edges."""

import random
from pathlib import Path

import pytest
from tests.anvil import increase_time
from tests.contract_calls import marketplace_calls

from fabstir.chain.contracts import NodeRegistration, SessionOffer, SessionStatus
from fabstir.chain.devnet import DevModel, Devnet, DevnetParameters, open_devnet
from fabstir.chain.transactions import TransactionQueue, open_transaction_queue
from fabstir.db import open_database
from fabstir.market.settlement import settle
from fabstir.primitives.errors import TransactionReverted
from fabstir.primitives.ids import NATIVE_TOKEN, Address, Hash32, JobId, ModelId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei, tokens_for

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

MODEL = DevModel("repo", "file.gguf", Hash32("0x" + "ab" * 32))
NUM_CASES = 12


class Parties:
    """Host and renter, and how they open and claim."""

    def __init__(self, devnet: Devnet, host: TransactionQueue, renter: TransactionQueue) -> None:
        self.devnet, self.host, self.renter = devnet, host, renter
        self.model: ModelId = devnet.contracts.models.model_id(MODEL.repo, MODEL.file)
        self.count = 0

    async def register(self) -> None:
        nodes, fab = self.devnet.contracts.nodes, self.devnet.contracts.fab
        limits = await nodes.price_limits()
        stake = await nodes.min_stake()
        await self.host.send("approve", fab.approve(nodes.address, stake))
        registration = NodeRegistration(
            metadata="{}",
            api_url="http://127.0.0.1:1",
            models=(self.model,),
            min_price_native=limits.min_native,
            min_price_stable=limits.min_stable,
        )
        await self.host.send("register", nodes.register(registration))
        for token, price in (
            (NATIVE_TOKEN, limits.min_native),
            (self.devnet.contracts.usdc.address, limits.min_stable),
        ):
            await self.host.send(f"price {token}", nodes.set_price(self.model, token, price))

    async def open(self, token: Address, deposit: int, price: int) -> JobId:
        self.count += 1
        market = marketplace_calls(self.devnet)
        job_id = await market.next_job_id()
        if token != NATIVE_TOKEN:
            call = self.devnet.contracts.usdc.approve(market.address, Wei(deposit))
            await self.renter.send(f"approve {self.count}", call)
        offer = SessionOffer(
            host=self.host.signer.address,
            model_id=self.model,
            payment_token=token,
            deposit=Wei(deposit),
            price_per_token=PricePerToken(price),
            max_duration=86_400,
            proof_interval=TokenCount(1),
            proof_timeout_window=3600,
        )
        await self.renter.send(f"open {self.count}", market.create_session(offer))
        return job_id

    async def claim(self, job_id: JobId, tokens: int) -> None:
        self.count += 1
        proof = Hash32("0x" + self.count.to_bytes(32, "big").hex())
        call = self.devnet.contracts.marketplace.submit_proof(job_id, TokenCount(tokens), proof)
        await self.host.send(f"claim {self.count}", call)


def cases(usdc: Address) -> list[tuple[Address, int, int]]:
    """Token, deposit and price: random ones, and deposits that the price does not divide."""
    chance = random.Random(7)
    native = [
        (NATIVE_TOKEN, 10**14 + chance.randrange(10**18), 227_273 + chance.randrange(10**15))
        for _ in range(NUM_CASES)
    ]
    stable = [
        (usdc, 500_000 + chance.randrange(10**8), 1 + chance.randrange(10**8))
        for _ in range(NUM_CASES)
    ]
    return [*native, *stable, (usdc, 500_000, 100_000_000), (usdc, 500_001, 1)]


async def test_settle_equals_the_contract(tmp_path: Path) -> None:
    async with (
        open_devnet(tmp_path / "deployments", [MODEL], DevnetParameters(port=0)) as devnet,
        open_database(f"sqlite:///{tmp_path}/a.sqlite") as host_db,
        open_database(f"sqlite:///{tmp_path}/b.sqlite") as renter_db,
        open_transaction_queue(devnet.chain, devnet.accounts[0], host_db) as host,
        open_transaction_queue(devnet.chain, devnet.accounts[1], renter_db) as renter,
    ):
        parties = Parties(devnet, host, renter)
        await parties.register()
        market = devnet.contracts.marketplace
        fee = (await market.terms()).fee
        chance = random.Random(11)
        for token, deposit, price in cases(devnet.contracts.usdc.address):
            most = tokens_for(Wei(deposit), PricePerToken(price))
            job_id = await parties.open(token, deposit, price)
            await increase_time(devnet.chain, 3000)
            tokens = min(chance.choice([1, most, chance.randrange(most) + 1]), 10**7)
            await parties.claim(job_id, tokens)
            with pytest.raises(TransactionReverted, match=r"deposit|Excessive"):
                await parties.claim(job_id, most - tokens + 1)

            await renter.send(f"complete {job_id}", market.complete_session(job_id))

            job = await market.session(job_id)
            assert job is not None
            assert job.status is SessionStatus.COMPLETED
            parts = settle(Wei(deposit), TokenCount(tokens), PricePerToken(price), fee)
            assert (job.withdrawn_by_host, job.refunded_to_user) == (parts.host, parts.refund)
