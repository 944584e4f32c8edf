"""A host's books: who may speak for a renter, and what stays true when the chain says otherwise."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from fabstir.crypto import NATIVE
from fabstir.db import open_database
from fabstir.db.claims import ClaimRow, ClaimState
from fabstir.db.host_sessions import SessionRow, SessionState
from fabstir.market.ledger import HostLedger
from fabstir.primitives.ids import NATIVE_TOKEN, Address, ChainId, Hash32, JobId, ModelId
from fabstir.primitives.units import PricePerToken, TokenCount, Wei
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.receipts import (
    Acknowledgement,
    ChainHead,
    Receipt,
    SignedAcknowledgement,
    Work,
    sign_receipt,
)

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

CHAIN, CONTRACT, JOB = ChainId(31337), Address("0x" + "22" * 20), JobId(5)
DOMAIN = Domain(CHAIN, CONTRACT)
PRICE = PricePerToken(2 * 10**11)
HOST_SECRET, RENTER_SECRET = bytes(31) + b"\1", bytes(31) + b"\2"
DEPOSITOR, DELEGATE, STRANGER = (Address("0x" + digit * 40) for digit in "abc")
KEY_A, KEY_B = b"\2" + bytes(32), b"\3" + bytes(32)

ROW = SessionRow(
    chain_id=CHAIN,
    contract=CONTRACT,
    job_id=JOB,
    depositor=DEPOSITOR,
    payment_token=NATIVE_TOKEN,
    deposit=Wei(10**15),
    price_per_token=PRICE,
    model_id=ModelId("0x" + "33" * 32),
    proof_interval=TokenCount(1000),
    proof_window=300,
    started_at=1_000_000,
    max_duration=86_400,
    state=SessionState.OPEN,
    signer=None,
    is_proven=False,
    recovery_public_key=None,
    tokens_reserved=TokenCount(0),
    tokens_written_off=TokenCount(0),
    last_seen_at=1_000_000.0,
)


@pytest.fixture
async def ledger(database_url: str) -> AsyncGenerator[HostLedger]:
    async with open_database(database_url) as db:
        made = HostLedger(db, CHAIN, CONTRACT)
        await made.remember(ROW)
        yield made


async def deliver(
    ledger: HostLedger, head: ChainHead, tokens: int, *, is_claimable: bool
) -> tuple[ChainHead, Receipt]:
    """One more receipt, as an answer of so many tokens makes it."""
    zero = Hash32("0x" + "00" * 32)
    work = Work(
        model_digest=zero,
        request_digest=zero,
        additions_digest=zero,
        output_commitment=zero,
        num_prompt_tokens=TokenCount(1),
        num_completion_tokens=TokenCount(tokens),
    )
    head = head.next_request()
    receipt = head.make(JOB, work, PRICE)
    receipt_hash = receipt.hash(DOMAIN, NATIVE)
    await ledger.add_receipt(
        JOB,
        receipt_hash,
        sign_receipt(receipt, HOST_SECRET, DOMAIN, NATIVE),
        is_claimable=is_claimable,
        reserve_up_to=receipt.cumulative_tokens,
    )
    return head.advance(receipt, receipt_hash), receipt


def acknowledgement(receipt: Receipt) -> SignedAcknowledgement:
    return Acknowledgement(
        job_id=JOB,
        sequence=receipt.sequence,
        receipt_hash=receipt.hash(DOMAIN, NATIVE),
        cumulative_tokens=receipt.cumulative_tokens,
    ).sign(RENTER_SECRET, DOMAIN, NATIVE)


async def plan(ledger: HostLedger, receipt: Receipt) -> bool:
    """A claim up to this receipt, by a prover that names it otherwise."""
    claim = ClaimRow(
        claim_index=0,
        proof_hash=Hash32("0x" + "77" * 32),
        start_token=TokenCount(0),
        end_token=receipt.cumulative_tokens,
        proof_cid="",
        delta_cid="",
        is_encrypted=False,
        created_at=0,
        state=ClaimState.PLANNED,
    )
    return await ledger.plan_claim(JOB, claim, receipt.hash(DOMAIN, NATIVE))


async def bind(
    ledger: HostLedger, signer: Address, *, is_proven: bool, recovery: bytes | None = None
) -> SessionRow | None:
    return await ledger.bind_renter(JOB, signer, is_proven=is_proven, recovery=recovery)


async def test_proof_never_goes_down_for_the_same_signer(ledger: HostLedger) -> None:
    await bind(ledger, DELEGATE, is_proven=True)

    assert await bind(ledger, DELEGATE, is_proven=False) is None
    assert await bind(ledger, STRANGER, is_proven=False) is None
    row = await ledger.session(JOB)
    assert row is not None
    assert (row.signer, row.is_proven) == (DELEGATE, True)


async def test_proof_goes_up_for_the_same_signer_and_voids_nothing(ledger: HostLedger) -> None:
    await bind(ledger, DELEGATE, is_proven=False, recovery=KEY_A)
    await deliver(ledger, ChainHead(), 50, is_claimable=True)

    row = await bind(ledger, DELEGATE, is_proven=True)

    assert row is not None
    assert row.recovery_public_key == KEY_A
    assert (await ledger.balance(JOB)).agreed == 50


async def test_an_evicted_signer_takes_everything_with_it(ledger: HostLedger) -> None:
    await bind(ledger, STRANGER, is_proven=False, recovery=KEY_A)
    await deliver(ledger, ChainHead(), 50, is_claimable=True)

    row = await bind(ledger, DEPOSITOR, is_proven=True)

    assert row is not None
    assert row.recovery_public_key is None
    assert row.tokens_written_off == 50
    assert (await ledger.balance(JOB)).agreed == 0


async def test_a_recovery_key_stays_with_its_own_signer_alone(ledger: HostLedger) -> None:
    await bind(ledger, DELEGATE, is_proven=True, recovery=KEY_A)
    again = await bind(ledger, DELEGATE, is_proven=True)
    other = await bind(ledger, DEPOSITOR, is_proven=True)
    with_key = await bind(ledger, DELEGATE, is_proven=True, recovery=KEY_B)

    keys = [row and row.recovery_public_key for row in (again, other, with_key)]
    assert keys == [KEY_A, None, KEY_B]


async def test_an_eviction_never_voids_what_was_acknowledged(ledger: HostLedger) -> None:
    """Also in a journal in which proof once went down."""
    await bind(ledger, STRANGER, is_proven=False)
    head, receipt = await deliver(ledger, ChainHead(), 50, is_claimable=False)
    assert await ledger.acknowledge(acknowledgement(receipt))
    await deliver(ledger, head, 20, is_claimable=True)

    await bind(ledger, DEPOSITOR, is_proven=True)

    assert (await ledger.balance(JOB)).agreed == 50


async def test_the_chains_terms_win_over_the_journals(ledger: HostLedger) -> None:
    await bind(ledger, DEPOSITOR, is_proven=True, recovery=KEY_A)
    _, receipt = await deliver(ledger, ChainHead(), 50, is_claimable=True)
    assert await plan(ledger, receipt)

    row, _ = await ledger.remember(replace(ROW, depositor=STRANGER))

    assert (row.depositor, row.signer, row.recovery_public_key) == (STRANGER, None, None)
    assert row.tokens_reserved == 0
    balance = await ledger.balance(JOB)
    assert (balance.agreed, balance.planned, balance.proven) == (0, 0, 0)
    assert await ledger.receipts(JOB, after=TokenCount(0)) == []
    assert [claim.state for claim in await ledger.claims(JOB)] == [ClaimState.REFUSED]
    assert not await ledger.acknowledge(acknowledgement(receipt))


@pytest.mark.parametrize(
    "change",
    [
        {"payment_token": STRANGER},
        {"deposit": Wei(1)},
        {"price_per_token": PricePerToken(1)},
        {"model_id": ModelId("0x" + "44" * 32)},
        {"proof_interval": TokenCount(7)},
        {"proof_window": 7},
        {"started_at": 7},
        {"max_duration": 7},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_every_immutable_term_is_compared(
    ledger: HostLedger, change: dict[str, object]
) -> None:
    await bind(ledger, DEPOSITOR, is_proven=True)

    row, _ = await ledger.remember(replace(ROW, **change))  # pyright: ignore[reportArgumentType] - fields of the row

    assert row.signer is None


async def test_an_eviction_voids_nothing_that_was_claimed(ledger: HostLedger) -> None:
    await bind(ledger, STRANGER, is_proven=False)
    head, receipt = await deliver(ledger, ChainHead(), 50, is_claimable=True)
    assert await plan(ledger, receipt)
    await deliver(ledger, head, 20, is_claimable=True)

    await bind(ledger, DEPOSITOR, is_proven=True)

    balance = await ledger.balance(JOB)
    assert (balance.agreed, balance.planned) == (50, 50)


async def test_a_claim_of_an_evicted_signer_is_never_planned(ledger: HostLedger) -> None:
    """The eviction may come between the look at the books and the plan."""
    await bind(ledger, STRANGER, is_proven=False)
    _, receipt = await deliver(ledger, ChainHead(), 50, is_claimable=True)

    await bind(ledger, DEPOSITOR, is_proven=True)

    assert not await plan(ledger, receipt)
    assert await ledger.claims(JOB) == []


async def test_the_same_terms_change_nothing(ledger: HostLedger) -> None:
    await bind(ledger, DEPOSITOR, is_proven=True)

    row, _ = await ledger.remember(replace(ROW, last_seen_at=5.0))

    assert row.signer == DEPOSITOR


async def test_a_bundle_holds_what_is_new_since_the_last(ledger: HostLedger) -> None:
    head, _ = await deliver(ledger, ChainHead(), 50, is_claimable=True)
    _, second = await deliver(ledger, head, 20, is_claimable=True)

    all_of_it = await ledger.receipts(JOB, after=TokenCount(0))
    new = await ledger.receipts(JOB, after=TokenCount(50))

    assert [row.cumulative_tokens for row in all_of_it] == [50, 70]
    assert [row.receipt_hash for row in new] == [second.hash(DOMAIN, NATIVE)]
    assert second.previous == all_of_it[0].receipt_hash


async def test_handshakes_are_remembered_until_the_session_is_over(ledger: HostLedger) -> None:
    other = JobId(JOB + 1)
    await ledger.remember(replace(ROW, job_id=other))
    assert await ledger.use_handshake(JOB, KEY_A)
    assert await ledger.use_handshake(other, KEY_B)
    assert not await ledger.use_handshake(JOB, KEY_A)

    await ledger.settled(
        JOB, tokens=TokenCount(0), host_paid=Wei(0), refund=Wei(0), outcome="settled"
    )

    assert await ledger.use_handshake(JOB, KEY_A), "its row is gone"
    assert not await ledger.use_handshake(other, KEY_B)
