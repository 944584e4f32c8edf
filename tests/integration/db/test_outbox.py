"""The outbox's rows: keys, nonces and versions, on each engine."""

from __future__ import annotations

import itertools

import pytest
from sqlalchemy.exc import IntegrityError

from fabstir.db import Database
from fabstir.db.outbox import (
    Intention,
    OutboxRow,
    TransactionOutcome,
    TransactionStatus,
    add_filler,
    add_version,
    find_transaction,
    insert_transaction,
    mark_final,
    next_nonce,
    record_outcome,
    reopen,
    unfinished_transactions,
)
from fabstir.db.signed import SignedVersion
from fabstir.primitives.ids import Address, ChainId, Hash32
from fabstir.primitives.units import Wei

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

CHAIN = ChainId(31337)
ACCOUNT = Address("0x" + "11" * 20)
_numbers = itertools.count()


def version(nonce: int, *, is_filler: bool = False) -> SignedVersion:
    return SignedVersion(
        tx_hash=Hash32(f"0x{next(_numbers):064x}"),
        raw=b"\x02raw",
        nonce=nonce,
        max_fee_per_gas=Wei(3),
        max_priority_fee_per_gas=Wei(1),
        is_filler=is_filler,
    )


def intention(key: str, nonce: int) -> Intention:
    return Intention(
        chain_id=CHAIN,
        account=ACCOUNT,
        key=key,
        nonce=nonce,
        description="a test",
        to=None,
        value=Wei(2**255),
        data=b"\x00\xff",
        gas_limit=21_000,
    )


async def insert(db: Database, key: str, nonce: int) -> OutboxRow:
    return await db.write(
        lambda c: insert_transaction(c, intention(key, nonce), version(nonce)), durable=True
    )


async def finish(db: Database, row: OutboxRow, status: TransactionStatus) -> OutboxRow:
    outcome = TransactionOutcome(
        status=status,
        tx_hash=row.versions[-1].tx_hash,
        block_number=5,
        block_hash=Hash32("0x" + "05" * 32),
        gas_used=21_000,
        effective_gas_price=Wei(2),
    )
    return await db.write(lambda c: record_outcome(c, row.id, outcome, None), durable=True)


async def test_a_row_comes_back_as_it_was_stored(db: Database) -> None:
    row = await insert(db, "k", 0)

    found = await db.read(lambda c: find_transaction(c, CHAIN, ACCOUNT, "k"))

    assert found == row
    assert (row.value, row.data, row.status) == (2**255, b"\x00\xff", TransactionStatus.PENDING)


async def test_a_key_and_a_nonce_are_used_once(db: Database) -> None:
    await insert(db, "k", 0)

    with pytest.raises(IntegrityError):
        await insert(db, "k", 1)
    with pytest.raises(IntegrityError):
        await insert(db, "other", 0)


async def test_a_cancelled_row_frees_its_key_but_not_its_nonce(db: Database) -> None:
    row = await insert(db, "k", 0)
    await db.write(
        lambda c: add_filler(c, row, version(0, is_filler=True), "too dear"), durable=True
    )
    cancelled = await finish(db, row, TransactionStatus.CANCELLED)

    again = await insert(db, "k", 1)

    assert await db.read(lambda c: find_transaction(c, CHAIN, ACCOUNT, "k")) == again
    assert [v.is_filler for v in cancelled.versions] == [False, True]


async def test_the_next_nonce_is_above_every_version(db: Database) -> None:
    row = await insert(db, "k", 4)
    assert await db.read(lambda c: next_nonce(c, CHAIN, ACCOUNT)) == 5

    moved = await db.write(lambda c: add_version(c, row, version(9)), durable=True)

    assert moved.nonce == 9
    assert await db.read(lambda c: next_nonce(c, CHAIN, ACCOUNT)) == 10
    assert await db.read(lambda c: next_nonce(c, ChainId(1), ACCOUNT)) == 0


async def test_unfinished_rows_leave_when_they_are_final(db: Database) -> None:
    second, first = await insert(db, "b", 1), await insert(db, "a", 0)
    mined = await finish(db, first, TransactionStatus.MINED)

    await db.write(lambda c: mark_final(c, [second.id]), durable=False)

    assert await db.read(lambda c: unfinished_transactions(c, CHAIN, ACCOUNT)) == [mined]


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        (TransactionStatus.MINED, TransactionStatus.PENDING),
        (TransactionStatus.REVERTED, TransactionStatus.PENDING),
        (TransactionStatus.CANCELLED, TransactionStatus.CANCELLING),
    ],
)
async def test_a_reorg_reopens_a_row(
    db: Database, was: TransactionStatus, becomes: TransactionStatus
) -> None:
    row = await finish(db, await insert(db, "k", 0), was)

    reopened = await db.write(lambda c: reopen(c, row), durable=True)

    assert (reopened.status, reopened.outcome) == (becomes, None)
