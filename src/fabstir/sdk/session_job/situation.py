"""What a session needs now, decided from journal and chain alone.

Fairness. The contract lets a depositor complete at any time, and then pays only what the host has
claimed by then. So a renter that completes while tokens it acknowledged are unclaimed keeps money
that it has agreed to pay. Ours does not: it completes at once when everything that was
acknowledged is on chain, and otherwise leaves the host the time that both agreed to when the
session was opened, its proof window. A host that claims nothing in that time has given it up, and
the session is timed out. Only an explicit request of the owner (`now`) overrides this.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from fabstir.chain.contracts import SessionJob, SessionStatus
from fabstir.db.renter import RenterSession, RenterState
from fabstir.primitives.units import TokenCount

KEEP_SECONDS: Final = 120.0
"""How long an unused session stays open, so that a restarted app can go on with it. Hosts settle a
session whose renter is gone after a minute, so keeping it longer would only wait for nothing."""

SETTLE_MARGIN: Final = 15.0
"""Seconds beyond its dispute window for the host to settle: then we do it ourselves."""

MAX_SETTLE_WAIT: Final = 120.0
"""Seconds that a host which settles at its own cost is waited for, whatever the contract's dispute
window: four times our contract's. After that our own gas is cheaper than a locked deposit."""


class Step(Enum):
    """What a session needs now."""

    WAIT = auto()
    CLOSE = auto()
    """Nobody uses it any more: stop keeping it."""
    COMPLETE = auto()
    TIME_OUT = auto()
    RECORD = auto()
    """The chain has settled it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DepositSituation:
    """All that decides what a session needs.

    Attributes:
        tokens_agreed: acknowledged by us; what the host may claim.
        chain_now: Unix time of the chain, by which the contract's windows count: the newest
            block's, or this machine's where no block came for a while.
        now: this machine's Unix time; our own patience counts by it.
    """

    session: RenterSession
    job: SessionJob
    tokens_agreed: TokenCount
    chain_now: int
    now: float
    keep: float = KEEP_SECONDS

    @property
    def runs_out_at(self) -> int:
        """Unix time on chain after which anyone may time the session out."""
        job = self.job
        return min(
            job.start_time + job.max_duration, job.last_proof_time + job.proof_timeout_window
        )

    @property
    def is_fully_claimed(self) -> bool:
        """The host has put on chain all that we agreed to."""
        return self.job.tokens_used >= self.tokens_agreed


def next_step(situation: DepositSituation) -> Step:
    """What the session needs now."""
    if situation.job.status is not SessionStatus.ACTIVE:
        return Step.RECORD
    if situation.session.state is RenterState.OPEN:
        is_unused = situation.now > situation.session.last_used_at + situation.keep
        return Step.CLOSE if is_unused else Step.WAIT
    if situation.is_fully_claimed:
        return Step.COMPLETE
    return Step.TIME_OUT if situation.chain_now > situation.runs_out_at else Step.WAIT


def settling_patience(situation: DepositSituation, settles_in: int, dispute_window: int) -> float:
    """Seconds to wait for a host that says it settles in `settles_in` seconds.

    Its word only shortens the wait: the contract lets it complete one dispute window after its
    last claim, so a host that names a later time wants nothing but our waiting.
    """
    allowed_at = situation.job.last_proof_time + dispute_window
    left = max(0, min(settles_in, allowed_at - situation.chain_now))
    return min(left, MAX_SETTLE_WAIT) + SETTLE_MARGIN
