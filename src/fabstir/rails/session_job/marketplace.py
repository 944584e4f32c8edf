"""JobMarketplace on a real chain, with transactions that outlive a crash."""

from __future__ import annotations

import time
from dataclasses import dataclass

from fabstir.chain.contracts import Marketplace, SessionJob
from fabstir.chain.gas_price import GasPrice
from fabstir.chain.identity import confirm_chain_identity
from fabstir.chain.rpc import Chain
from fabstir.chain.transactions import TransactionQueue
from fabstir.db import Database
from fabstir.primitives.ids import Address, Hash32, JobId, ModelId
from fabstir.primitives.units import TokenCount, Wei


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketplaceOnChain:
    """See `SessionContract`.

    Attributes:
        db: the journal, which says which chain of this id it belongs to.
    """

    marketplace: Marketplace
    chain: Chain
    db: Database
    queue: TransactionQueue
    gas: GasPrice

    @property
    def gas_price(self) -> Wei:
        return self.gas.value

    async def look_at_gas_price(self) -> Wei:
        return await self.gas.look()

    async def check_chain(self) -> None:
        await confirm_chain_identity(self.chain, self.db)

    async def time(self) -> int:
        """Its newest block's, or this machine's where no block came for a while."""
        return max(int(time.time()), (await self.chain.latest_block()).timestamp)

    async def session(self, job_id: JobId) -> SessionJob | None:
        return await self.marketplace.session(job_id)

    async def session_model(self, job_id: JobId) -> ModelId:
        return await self.marketplace.session_model(job_id)

    async def is_delegate(self, depositor: Address, delegate: Address) -> bool:
        return await self.marketplace.is_delegate(depositor, delegate)

    async def submit_proof(
        self,
        key: str,
        job_id: JobId,
        tokens: TokenCount,
        proof_hash: Hash32,
        *,
        proof_cid: str,
        delta_cid: str,
    ) -> Hash32:
        call = self.marketplace.submit_proof(
            job_id, tokens, proof_hash, proof_cid=proof_cid, delta_cid=delta_cid
        )
        return (await self.queue.send(key, call)).tx_hash

    async def complete_session(self, key: str, job_id: JobId, conversation_cid: str) -> None:
        await self.queue.send(key, self.marketplace.complete_session(job_id, conversation_cid))

    async def trigger_timeout(self, key: str, job_id: JobId) -> None:
        await self.queue.send(key, self.marketplace.trigger_timeout(job_id))
