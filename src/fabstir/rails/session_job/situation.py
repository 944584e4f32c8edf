"""What a session needs now: one pure function of its books, the clock and the chain's terms."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from fabstir.db.host_sessions import SessionRow, SessionState
from fabstir.market.ledger import Balance

CLAIM_NUMERATOR, CLAIM_DENOMINATOR = 3, 4
"""A claim is sent at three quarters of the tokens that may be unproven, so that it is usually
mined before delivery would have to stop."""

PROOF_MARGIN_SECONDS: Final = 60
"""How long before a proof window runs out an idle session's tokens are proven; a quarter of the
window if that is shorter."""


class Action(Enum):
    """What a session needs now."""

    WAIT = auto()
    CLAIM = auto()
    CLOSE = auto()
    SETTLE = auto()
    TIME_OUT = auto()
    LEAVE = auto()
    """To its renter: ending it would cost this host more than it earns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that decides what a session needs.

    Attributes:
        chain_now: Unix time of the chain; windows on chain count by it.
        now: this machine's Unix time; a renter's absence counts by it.
        serving_since: when this process began: nobody could come before.
        is_present: a socket is open for the session.
        max_unproven, min_claim, min_end: tokens; see `market.worth.HostTerms`.
    """

    row: SessionRow
    balance: Balance
    last_proof_at: int
    dispute_window: int
    chain_now: int
    now: float
    serving_since: float
    is_present: bool
    max_unproven: int
    min_claim: int
    min_end: int
    reconnect_grace: float

    @property
    def is_claim_due(self) -> bool:
        """Something agreed to is not on chain, and is worth a claim; or a claim is on its way."""
        balance = self.balance
        is_on_its_way = balance.planned > balance.proven
        return is_on_its_way or balance.unproven >= self.min_claim

    @property
    def has_run_out(self) -> bool:
        """Its time is over, or its window is and nobody is there to use it any more.

        A pause ends no session by its own host, however long: anyone else may time it out.
        """
        if self.chain_now > self.row.started_at + self.row.max_duration:
            return True
        is_window_over = self.chain_now > self.last_proof_at + self.row.proof_window
        return is_window_over and self.is_absent

    @property
    def is_absent(self) -> bool:
        """No socket is open, and none was for longer than the grace, in which one could be."""
        absent_since = max(self.row.last_seen_at, self.serving_since)
        return not self.is_present and self.now > absent_since + self.reconnect_grace

    @property
    def is_abandoned(self) -> bool:
        """Its renter was here and is gone for longer than the grace, in which it could have come.

        A session that nobody ever opened here is left alone: its renter may be late, or the
        session may be served by another process of this host.
        """
        return self.row.signer is not None and self.is_absent


def is_much(unproven: int, max_unproven: int) -> bool:
    """Whether so many tokens that are not on chain call for a claim."""
    return unproven * CLAIM_DENOMINATOR >= max_unproven * CLAIM_NUMERATOR


def next_action(situation: Situation) -> Action:
    """What the session needs now."""
    row, balance = situation.row, situation.balance
    if situation.has_run_out or row.state == SessionState.CLOSING:
        return _end_of(situation)
    if situation.is_abandoned:
        return Action.CLOSE
    if is_much(balance.unproven, situation.max_unproven) and situation.is_claim_due:
        return Action.CLAIM
    margin = min(PROOF_MARGIN_SECONDS, row.proof_window // 4)
    deadline = min(situation.last_proof_at + row.proof_window, row.started_at + row.max_duration)
    if situation.is_claim_due and situation.chain_now >= deadline - margin:
        return Action.CLAIM
    return Action.WAIT


def _end_of(situation: Situation) -> Action:
    """Nothing more is served: claim, then end it, each if it is worth its gas."""
    if situation.is_claim_due:
        return Action.CLAIM
    if situation.balance.proven < max(1, situation.min_end):
        return Action.LEAVE
    if situation.has_run_out:
        return Action.TIME_OUT
    is_free = situation.chain_now > situation.last_proof_at + situation.dispute_window
    return Action.SETTLE if is_free else Action.WAIT
