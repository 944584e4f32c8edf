"""The contract in memory, on which the rail's unit tests stand, held to the real one."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.anvil import increase_time
from tests.integration.market.test_settlement import MODEL, Parties
from tests.unit.rails.memory_contract import MemoryContract, Refused, outcome_of

from fabstir.chain.devnet import Devnet, DevnetParameters, open_devnet
from fabstir.chain.gas_price import watch_gas_price
from fabstir.chain.transactions import open_transaction_queue
from fabstir.db import open_database
from fabstir.primitives.errors import TransactionReverted
from fabstir.primitives.ids import NATIVE_TOKEN, Hash32, JobId
from fabstir.primitives.units import TokenCount
from fabstir.rails.session_job.contract import SessionContract
from fabstir.rails.session_job.marketplace import MarketplaceOnChain

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

DISPUTE_WINDOW = 50
"""Seconds: longer than the few steps between which time is to stand still."""

DEPOSIT = 10**15
PRICE = 10**9 * 1000
"""Of a thousand tokens: a million tokens in all."""

NO_PROOF = Hash32("0x" + "ab" * 32)

STEPS = ["claim", "claim", "claim again", "claim too much", "claim the rest", "wait", "wait long"]
ENDS = ["complete", "time out", "complete by renter", "wait past the end"]


@dataclass
class Both:
    """One session on chain and in memory, to which the same is done."""

    devnet: Devnet
    parties: Parties
    real: MarketplaceOnChain
    memory: MemoryContract
    job_id: JobId
    number: int = 0
    last_proof: Hash32 = NO_PROOF
    reasons: set[str] = field(default_factory=set[str])

    def key(self) -> str:
        self.number += 1
        return f"step {self.number}"

    async def tick(self) -> None:
        """Memory's clock to the chain's."""
        self.memory.now = (await self.devnet.chain.latest_block()).timestamp

    async def do(self, send: Callable[[SessionContract], Awaitable[object]]) -> None:
        """The same call to both: they do it, or refuse it for the same reason."""
        await self.tick()
        real = await outcome_of(send(self.real))
        memory = await outcome_of(send(self.memory))
        assert memory == real
        self.reasons.add(real)
        await self.compare()

    async def compare(self) -> None:
        job, ours = await self.real.session(self.job_id), await self.memory.session(self.job_id)
        assert job is not None
        assert ours is not None
        # A transaction's block has a second of its own.
        assert abs(ours.last_proof_time - job.last_proof_time) <= 5
        assert ours == replace(
            job, last_proof_time=ours.last_proof_time, start_time=ours.start_time
        )

    async def step(self, name: str, chance: random.Random) -> None:
        job = self.memory.sessions[self.job_id]
        match name:
            case "claim":
                self.last_proof = Hash32("0x" + chance.randbytes(32).hex())
                await self._claim(1 + chance.randrange(1000), self.last_proof)
            case "claim again":
                await self._claim(1, self.last_proof)
            case "claim too much":
                await self._claim(900_000, Hash32("0x" + chance.randbytes(32).hex()))
            case "claim the rest":
                left = 1_000_000 - job.tokens_used
                await self._claim(left + chance.randrange(2), Hash32("0x" + "cd" * 32))
            case "wait":
                await increase_time(self.devnet.chain, 3 * DISPUTE_WINDOW)
            case "wait long":
                await increase_time(self.devnet.chain, 4000)
            case "wait past the end":
                await increase_time(self.devnet.chain, 90_000)
            case "complete":
                key = self.key()
                await self.do(lambda to: to.complete_session(key, self.job_id, "blobb"))
            case "time out":
                key = self.key()
                await self.do(lambda to: to.trigger_timeout(key, self.job_id))
            case _:
                await self._complete_by_renter()

    async def _claim(self, tokens: int, proof: Hash32) -> None:
        key = self.key()
        await self.do(
            lambda to: to.submit_proof(
                key, self.job_id, TokenCount(tokens), proof, proof_cid="blobp", delta_cid="blobd"
            )
        )

    async def _complete_by_renter(self) -> None:
        await self.tick()
        renter, call = self.parties.renter, self.real.marketplace.complete_session(self.job_id)
        try:
            await renter.send(f"{self.job_id} {self.key()}", call)
            real = ""
        except TransactionReverted as refused:
            real = refused.reason
        try:
            self.memory.complete_by(renter.signer.address, self.job_id)
            memory = ""
        except Refused as refused:
            memory = str(refused)
        assert memory == real
        await self.compare()


@asynccontextmanager
async def opened(folder: Path) -> AsyncGenerator[tuple[Devnet, Parties, MarketplaceOnChain]]:
    parameters = DevnetParameters(port=0, dispute_window=DISPUTE_WINDOW)
    async with (
        open_devnet(folder / "deployments", [MODEL], parameters) as devnet,
        open_database(f"sqlite:///{folder}/a.sqlite") as host_db,
        open_database(f"sqlite:///{folder}/b.sqlite") as renter_db,
        open_transaction_queue(devnet.chain, devnet.accounts[0], host_db) as host,
        open_transaction_queue(devnet.chain, devnet.accounts[1], renter_db) as renter,
    ):
        parties = Parties(devnet, host, renter)
        await parties.register()
        yield (
            devnet,
            parties,
            MarketplaceOnChain(
                marketplace=devnet.contracts.marketplace,
                chain=devnet.chain,
                db=host_db,
                queue=host,
                gas=await watch_gas_price(devnet.chain, time.monotonic),
            ),
        )


async def test_the_contract_in_memory_does_what_the_real_one_does(tmp_path: Path) -> None:
    chance = random.Random(5)
    reasons: set[str] = set()
    async with opened(tmp_path) as (devnet, parties, real):
        memory = MemoryContract(
            host=parties.host.signer.address, now=0, dispute_window=DISPUTE_WINDOW
        )
        for number in range(10):
            job_id = await parties.open(NATIVE_TOKEN, DEPOSIT, PRICE)
            job = await real.session(job_id)
            assert job is not None
            memory.now = job.start_time
            memory.open(job, await real.session_model(job_id))
            both = Both(devnet, parties, real, memory, job_id, number=1000 * number)
            for name in [*chance.choices(STEPS, k=6), *chance.sample(ENDS, k=4)]:
                await both.step(name, chance)
            reasons |= both.reasons

    assert reasons == {
        "",
        "Exceeds deposit",
        "Excessive tokens claimed",
        "Must wait dispute window",
        "Proof already used",
        "Session not active",
        "Session not timed out",
    }
