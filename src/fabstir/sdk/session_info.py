"""What a session tells about itself: everything but its keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from fabstir.db.renter import RenterSession, RenterState
from fabstir.primitives.ids import Address, JobId, ModelId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei, cost_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionInfo:
    """One session of the journal. Amounts in the payment token's smallest unit.

    Attributes:
        id: ours, made before the chain gives the session a number (`job_id`).
        proof_interval: tokens between the host's claims, as the contract has it.
        proof_window: seconds that the host may take between claims.
        max_duration: seconds after which the session ends at the latest.
        created_at, last_used_at: Unix time.
        outcome: why it ended, in words.
        tokens_agreed: completion tokens that were acknowledged.
        tokens_settled: completion tokens that were paid for, once it is settled; so are the others.
    """

    id: str
    job_id: JobId | None
    state: RenterState
    outcome: str | None
    host: Address
    api_url: str
    model_id: ModelId
    model_name: str
    payment_token: Address
    deposit: Wei
    price_per_token: PricePerToken
    proof_interval: TokenCount
    proof_window: int
    max_duration: int
    created_at: float
    last_used_at: float
    tokens_agreed: TokenCount
    tokens_settled: TokenCount | None
    host_paid: Wei | None
    refund: Wei | None

    @property
    def cost(self) -> Wei:
        """Of what was acknowledged."""
        return cost_of(self.tokens_agreed, self.price_per_token)

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is locked any more."""
        return self.state.is_over

    @classmethod
    def of(cls, row: RenterSession, tokens_agreed: TokenCount) -> Self:
        """A session as the journal has it, and what was acknowledged in it."""
        return cls(
            id=row.id,
            job_id=row.job_id,
            state=row.state,
            outcome=row.outcome,
            host=row.host,
            api_url=row.api_url,
            model_id=row.model_id,
            model_name=row.model_name,
            payment_token=row.payment_token,
            deposit=row.deposit,
            price_per_token=row.price_per_token,
            proof_interval=row.proof_interval,
            proof_window=row.proof_window,
            max_duration=row.max_duration,
            created_at=row.created_at,
            last_used_at=row.last_used_at,
            tokens_agreed=tokens_agreed,
            tokens_settled=row.tokens_settled,
            host_paid=row.host_paid,
            refund=row.refund,
        )
