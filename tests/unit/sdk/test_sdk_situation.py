"""What becomes of a session, decided from journal and chain alone."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from fabstir.chain.contracts import SessionJob, SessionStatus
from fabstir.db.renter import RenterSession, RenterState
from fabstir.primitives.ids import NATIVE_TOKEN, Address, ChainId, Hash32, JobId, ModelId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei
from fabstir.sdk.session_job.situation import (
    KEEP_SECONDS,
    MAX_SETTLE_WAIT,
    SETTLE_MARGIN,
    DepositSituation,
    Step,
    next_step,
    settling_patience,
)

START = 1_000_000
HOST, RENTER = Address("0x" + "aa" * 20), Address("0x" + "bb" * 20)

SESSION = RenterSession(
    id="00000000-0000-0000-0000-000000000000",
    chain_id=ChainId(31337),
    contract=Address("0x" + "cc" * 20),
    depositor=RENTER,
    host=HOST,
    host_public_key=bytes(33),
    api_url="http://127.0.0.1:1",
    model_id=ModelId("0x" + "00" * 32),
    model_name="repo:file",
    model_digest=Hash32("0x" + "00" * 32),
    payment_token=NATIVE_TOKEN,
    deposit=Wei(10**15),
    price_per_token=PricePerToken(1000),
    proof_interval=TokenCount(1000),
    proof_window=3600,
    max_duration=86_400,
    session_secret=bytes(32),
    recovery_secret=bytes(32),
    created_at=START,
    last_used_at=START,
    state=RenterState.OPEN,
    job_id=JobId(1),
)
JOB = SessionJob(
    id=JobId(1),
    depositor=RENTER,
    host=HOST,
    payment_token=NATIVE_TOKEN,
    deposit=SESSION.deposit,
    price_per_token=SESSION.price_per_token,
    tokens_used=TokenCount(0),
    max_duration=86_400,
    start_time=START,
    last_proof_time=START,
    proof_interval=TokenCount(1000),
    proof_timeout_window=3600,
    status=SessionStatus.ACTIVE,
    withdrawn_by_host=Wei(0),
    refunded_to_user=Wei(0),
    conversation_cid="",
    last_proof_hash=Hash32("0x" + "00" * 32),
    last_proof_cid="",
)
OPEN = DepositSituation(
    session=SESSION, job=JOB, tokens_agreed=TokenCount(0), chain_now=START, now=START
)
CLOSING = replace(OPEN, session=replace(SESSION, state=RenterState.CLOSING))


def test_what_the_chain_has_settled_is_recorded_whatever_the_journal_thought() -> None:
    for situation in (OPEN, CLOSING):
        for status in (SessionStatus.COMPLETED, SessionStatus.TIMED_OUT):
            job = replace(JOB, status=status)

            assert next_step(replace(situation, job=job)) is Step.RECORD


def test_an_open_session_is_kept_for_an_app_that_restarts() -> None:
    assert next_step(replace(OPEN, now=START + KEEP_SECONDS)) is Step.WAIT


def test_an_open_session_that_nobody_uses_is_closed() -> None:
    assert next_step(replace(OPEN, now=START + KEEP_SECONDS + 1)) is Step.CLOSE


def test_a_closing_session_of_which_all_is_claimed_is_completed_at_once() -> None:
    job = replace(JOB, tokens_used=TokenCount(64))

    assert next_step(replace(CLOSING, job=job, tokens_agreed=TokenCount(64))) is Step.COMPLETE


def test_a_closing_session_in_which_nothing_was_agreed_is_completed_at_once() -> None:
    assert next_step(CLOSING) is Step.COMPLETE


def test_a_host_keeps_its_window_to_claim_what_was_acknowledged() -> None:
    owed = replace(CLOSING, tokens_agreed=TokenCount(64))

    assert next_step(owed) is Step.WAIT
    assert next_step(replace(owed, chain_now=START + 3600)) is Step.WAIT
    assert next_step(replace(owed, chain_now=START + 3601)) is Step.TIME_OUT


def test_a_claim_extends_the_window_but_not_the_session() -> None:
    job = replace(JOB, last_proof_time=START + 86_000, tokens_used=TokenCount(1))
    owed = replace(CLOSING, job=job, tokens_agreed=TokenCount(64))

    assert next_step(replace(owed, chain_now=START + 86_400)) is Step.WAIT
    assert next_step(replace(owed, chain_now=START + 86_401)) is Step.TIME_OUT


@given(
    st.integers(0, 10_000),
    st.integers(0, 10_000),
    st.integers(0, 200_000),
    st.integers(0, 200_000),
    st.sampled_from([RenterState.OPEN, RenterState.CLOSING]),
)
def test_money_that_was_agreed_to_is_never_taken_back_within_the_window(
    agreed: int, claimed: int, elapsed: int, idle: int, state: RenterState
) -> None:
    situation = DepositSituation(
        session=replace(SESSION, state=state),
        job=replace(JOB, tokens_used=TokenCount(claimed)),
        tokens_agreed=TokenCount(agreed),
        chain_now=START + elapsed,
        now=START + idle,
    )

    step = next_step(situation)

    if step in {Step.COMPLETE, Step.TIME_OUT}:
        assert claimed >= agreed or elapsed > 3600
    if state is RenterState.CLOSING and elapsed > 3600:
        assert step is not Step.WAIT


@given(st.integers(0, 1 << 64), st.integers(0, 10**9), st.integers(0, 10**7))
def test_no_word_of_a_host_makes_a_renter_wait_longer_than_the_contract_does(
    settles_in: int, dispute_window: int, elapsed: int
) -> None:
    situation = replace(CLOSING, chain_now=START + elapsed)

    patience = settling_patience(situation, settles_in, dispute_window)

    left = max(0, dispute_window - elapsed)
    assert SETTLE_MARGIN <= patience <= min(left, MAX_SETTLE_WAIT) + SETTLE_MARGIN
    assert patience <= settles_in + SETTLE_MARGIN
