"""The contract of the sessions, and the chain that it is on, as this rail uses them.

Narrow, so that every rule about money is tested without a chain: against a contract in memory that
keeps the same rules, and is itself held to the real one on a real chain.
"""

from __future__ import annotations

from typing import Protocol

from fabstir.chain.contracts import SessionJob
from fabstir.primitives.ids import Address, Hash32, JobId, ModelId
from fabstir.primitives.units import TokenCount, Wei


class SessionContract(Protocol):
    """Every method that waits raises ChainError where the chain cannot be asked now.

    What is sent is sent once for each key, for ever: a second call with the same key, also after a
    restart, has the first one's outcome. It raises TransactionReverted if the contract refuses it:
    without a `tx_hash` nothing was sent and the key is free, with one the key is used up.
    """

    @property
    def gas_price(self) -> Wei:
        """Wei for a unit of gas, as of the last look."""
        ...

    async def look_at_gas_price(self) -> Wei:
        """The same, looked up again if the last look is not recent."""
        ...

    async def check_chain(self) -> None:
        """Raises ChainError if another chain answers than the journal's."""
        ...

    async def time(self) -> int:
        """Unix time of the chain, in seconds; windows on chain count by it."""
        ...

    async def session(self, job_id: JobId) -> SessionJob | None:
        """A session as the chain has it; None if it has none of this number."""
        ...

    async def session_model(self, job_id: JobId) -> ModelId:
        """Which model the session was opened for."""
        ...

    async def is_delegate(self, depositor: Address, delegate: Address) -> bool:
        """Whether the depositor lets the delegate act for it."""
        ...

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
        """Claim tokens since the last claim (not in all); returns the transaction's hash."""
        ...

    async def complete_session(self, key: str, job_id: JobId, conversation_cid: str) -> None:
        """Settle, after the dispute window."""
        ...

    async def trigger_timeout(self, key: str, job_id: JobId) -> None:
        """Settle a session whose time, or whose proof window, is over."""
        ...
