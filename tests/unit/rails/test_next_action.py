"""What the watcher does for a session: nobody's money stays locked, nothing is claimed twice."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fabstir.db.host_sessions import SessionRow, SessionState
from fabstir.market.ledger import Balance
from fabstir.primitives.ids import Address, ChainId, JobId, ModelId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei
from fabstir.rails.session_job.situation import Action, Situation, next_action

START = 1_000_000
RENTER = Address("0x" + "11" * 20)


def row(**changes: object) -> SessionRow:
    base = SessionRow(
        chain_id=ChainId(31337),
        contract=Address("0x" + "22" * 20),
        job_id=JobId(1),
        depositor=RENTER,
        payment_token=Address("0x" + "00" * 20),
        deposit=Wei(10**15),
        price_per_token=PricePerToken(10**9),
        model_id=ModelId("0x" + "33" * 32),
        proof_interval=TokenCount(1000),
        proof_window=3600,
        started_at=START,
        max_duration=86_400,
        state=SessionState.OPEN,
        signer=RENTER,
        is_proven=True,
        recovery_public_key=None,
        tokens_reserved=TokenCount(0),
        tokens_written_off=TokenCount(0),
        last_seen_at=float(START),
    )
    return replace(base, **changes)  # pyright: ignore[reportArgumentType] - fields of the row


def balance(*, agreed: int = 0, planned: int = 0, proven: int = 0) -> Balance:
    return Balance(
        agreed=TokenCount(agreed),
        planned=TokenCount(max(planned, proven)),
        proven=TokenCount(proven),
    )


def situation(session: SessionRow, books: Balance, **changes: object) -> Situation:
    base = Situation(
        row=session,
        balance=books,
        last_proof_at=START,
        dispute_window=30,
        chain_now=START + 10,
        now=START + 10.0,
        serving_since=float(START),
        is_present=True,
        max_unproven=1000,
        min_claim=1,
        min_end=1,
        reconnect_grace=60.0,
    )
    return replace(base, **changes)  # pyright: ignore[reportArgumentType] - fields of the situation


def test_a_session_in_use_is_left_alone() -> None:
    assert next_action(situation(row(), balance(agreed=749))) is Action.WAIT


def test_three_quarters_of_the_exposure_are_claimed() -> None:
    assert next_action(situation(row(), balance(agreed=750))) is Action.CLAIM


def test_what_is_on_chain_is_not_claimed_again() -> None:
    assert next_action(situation(row(), balance(agreed=750, proven=750))) is Action.WAIT


def test_an_idle_session_is_proven_before_its_window_runs_out() -> None:
    late = situation(row(), balance(agreed=5), chain_now=START + 3541)

    assert next_action(late) is Action.CLAIM
    assert next_action(replace(late, chain_now=START + 3530)) is Action.WAIT


def test_a_pause_of_six_minutes_ends_nothing() -> None:
    paused = situation(row(), balance(agreed=5), chain_now=START + 370, now=START + 370.0)

    assert next_action(paused) is Action.WAIT


def test_a_renter_that_is_gone_is_waited_for_and_then_settled() -> None:
    gone = situation(row(), balance(agreed=5), is_present=False, now=START + 59.0)

    assert next_action(gone) is Action.WAIT
    assert next_action(replace(gone, now=START + 61.0)) is Action.CLOSE


def test_a_renter_is_not_absent_while_its_host_is_down() -> None:
    back = situation(
        row(), balance(), is_present=False, now=START + 1000.0, serving_since=START + 950.0
    )

    assert next_action(back) is Action.WAIT
    assert next_action(replace(back, now=START + 1011.0)) is Action.CLOSE


def test_nothing_is_spent_on_a_session_that_nobody_used() -> None:
    new = situation(row(signer=None), balance(), is_present=False, now=START + 3000.0)

    assert next_action(new) is Action.WAIT
    assert next_action(replace(new, chain_now=START + 3601)) is Action.LEAVE
    assert next_action(replace(new, chain_now=START + 90_000, now=START + 90_000.0)) is Action.LEAVE


def test_a_claim_that_costs_more_than_it_brings_is_not_sent() -> None:
    closing = situation(row(state=SessionState.CLOSING), balance(agreed=49), min_claim=50)

    assert next_action(closing) is Action.LEAVE
    assert next_action(replace(closing, balance=balance(agreed=50))) is Action.CLAIM


def test_a_claim_that_is_on_its_way_is_seen_through() -> None:
    closing = situation(
        row(state=SessionState.CLOSING), balance(agreed=49, planned=49), min_claim=50
    )

    assert next_action(closing) is Action.CLAIM


def test_an_end_that_costs_more_than_it_brings_is_left_to_the_renter() -> None:
    proven = situation(
        row(state=SessionState.CLOSING),
        balance(agreed=20, proven=20),
        min_end=21,
        chain_now=START + 100,
    )

    assert next_action(proven) is Action.LEAVE
    assert next_action(replace(proven, min_end=20)) is Action.SETTLE


def test_a_pause_of_nine_minutes_at_a_window_of_five_ends_nothing() -> None:
    """A renter whose socket is open is not timed out by its own host."""
    paused = situation(
        row(proof_window=300),
        balance(agreed=5, proven=5),
        chain_now=START + 540,
        now=START + 540.0,
    )

    assert next_action(paused) is Action.WAIT
    gone = replace(paused, is_present=False)
    assert next_action(gone) is Action.TIME_OUT
    back_after_a_restart = replace(gone, serving_since=START + 535.0)
    assert next_action(back_after_a_restart) is Action.WAIT


def test_closing_claims_first_waits_for_the_dispute_window_then_settles() -> None:
    closing = row(state=SessionState.CLOSING)

    assert next_action(situation(closing, balance(agreed=5))) is Action.CLAIM
    assert next_action(situation(closing, balance(agreed=5, planned=5))) is Action.CLAIM
    proven = situation(closing, balance(agreed=5, proven=5), last_proof_at=START + 5)
    assert next_action(proven) is Action.WAIT
    assert next_action(replace(proven, chain_now=START + 36)) is Action.SETTLE


def test_a_remainder_that_the_contract_does_not_take_is_left() -> None:
    closing = situation(
        row(state=SessionState.CLOSING),
        balance(agreed=150, proven=100),
        min_claim=100,
        chain_now=START + 31,
    )

    assert next_action(closing) is Action.SETTLE


@pytest.mark.parametrize("seconds", [3601, 86_401])
def test_a_session_past_its_time_is_timed_out(seconds: int) -> None:
    over = situation(
        row(),
        balance(agreed=5, proven=5),
        chain_now=START + seconds,
        now=float(START + seconds),
        is_present=False,
    )

    assert next_action(over) is Action.TIME_OUT
    present = next_action(replace(over, is_present=True))
    assert present is (Action.TIME_OUT if seconds > 86_400 else Action.WAIT)


@given(
    agreed=st.integers(0, 10**6),
    proven=st.integers(0, 10**6),
    elapsed=st.integers(0, 10**6),
    is_present=st.booleans(),
    state=st.sampled_from([SessionState.OPEN, SessionState.CLOSING]),
)
def test_nothing_is_settled_with_a_claim_outstanding(
    agreed: int, proven: int, elapsed: int, is_present: bool, state: SessionState
) -> None:
    assume(proven <= agreed)
    books = balance(agreed=agreed, proven=proven)
    at = situation(
        row(state=state),
        books,
        chain_now=START + elapsed,
        now=float(START + elapsed),
        is_present=is_present,
    )

    action = next_action(at)

    if action is Action.SETTLE:
        assert agreed == proven
    if action is Action.CLAIM:
        assert agreed > proven


@given(agreed=st.integers(0, 5000), is_present=st.booleans())
def test_every_session_ends(agreed: int, is_present: bool) -> None:
    """Doing what is said, with time going on, always comes to an end."""
    session, proven, now = row(), 0, START + 1
    for _ in range(1500):
        at = situation(
            session,
            balance(agreed=agreed, proven=proven),
            chain_now=now,
            now=float(now),
            is_present=is_present,
            last_proof_at=START,
        )
        match next_action(at):
            case Action.SETTLE | Action.TIME_OUT | Action.LEAVE:
                return
            case Action.CLAIM:
                proven = agreed
            case Action.CLOSE:
                session = replace(session, state=SessionState.CLOSING)
            case Action.WAIT:
                now += 60
    pytest.fail("the session is still open")


def test_a_claim_that_would_be_refused_is_not_tried_again_and_again() -> None:
    much = situation(row(), balance(agreed=750), min_claim=900)

    assert next_action(much) is Action.WAIT
