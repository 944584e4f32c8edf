"""The renter's journal: what is locked, what was agreed to, whose it is."""

from __future__ import annotations

import stat
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.unit.protocol.exchange.answering import DOMAIN, HonestHost
from tests.unit.sdk.test_sdk_situation import RENTER, SESSION

from fabstir.crypto import NATIVE as NATIVE_CRYPTO
from fabstir.db import Database, open_database
from fabstir.db.renter import RenterSession, RenterState
from fabstir.market.selection import UNKNOWN, HostHistory
from fabstir.primitives.errors import SpendingCapReached
from fabstir.primitives.ids import Address, JobId
from fabstir.primitives.units import TokenCount, Wei
from fabstir.protocol.receipts import Acknowledgement, SignedAcknowledgement, SignedReceipt
from fabstir.sdk.journal import RenterJournal
from fabstir.sdk.money import NATIVE_COIN

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

NOW = 2_000_000.0
CAP = Wei(3 * SESSION.deposit)


def draft(name: str) -> RenterSession:
    return replace(SESSION, id=name, state=RenterState.OPENING, job_id=None)


@pytest.fixture
async def db(database_url: str) -> AsyncGenerator[Database]:
    async with open_database(database_url) as database:
        yield database


@pytest.fixture
def journal(db: Database) -> RenterJournal:
    return journal_of(db)


def journal_of(db: Database) -> RenterJournal:
    return RenterJournal(db, SESSION.chain_id, SESSION.contract, RENTER, lambda: NOW)


def agreed(host: HonestHost) -> tuple[SignedReceipt, SignedAcknowledgement]:
    host.deliver("more", [1, 2, 3])
    receipt = host.issue().signed
    acknowledgement = Acknowledgement(
        job_id=JobId(9),
        sequence=receipt.receipt.sequence,
        receipt_hash=receipt.receipt.hash(DOMAIN, NATIVE_CRYPTO),
        cumulative_tokens=receipt.receipt.cumulative_tokens,
    )
    return receipt, acknowledgement.sign(bytes([5]) * 32, DOMAIN, NATIVE_CRYPTO)


async def test_a_session_is_read_back_as_it_was_written(journal: RenterJournal) -> None:
    await journal.begin(draft("a"), CAP, NATIVE_COIN)
    changed = await journal.update(draft("a"), state=RenterState.OPEN, job_id=JobId(3))

    assert await journal.load("a") == changed == replace(SESSION, id="a", job_id=JobId(3))
    assert await journal.sessions() == [changed]
    assert await journal.load("b") is None


async def test_keys_are_in_a_file_of_the_owner_alone_and_in_no_text(tmp_path: Path) -> None:
    session = replace(draft("a"), session_secret=b"secret-key-of-the-session-32byte")
    async with open_database(f"sqlite:///{tmp_path}/renter.sqlite") as db:
        await journal_of(db).begin(session, CAP, NATIVE_COIN)
        modes = {
            path.name: (await path.stat()).st_mode async for path in anyio.Path(tmp_path).iterdir()
        }

    assert "renter.sqlite" in modes
    assert not any(mode & (stat.S_IRWXG | stat.S_IRWXO) for mode in modes.values())
    assert "secret" not in repr(session)


async def test_the_cap_counts_what_is_locked_until_it_is_settled(journal: RenterJournal) -> None:
    for name in "abc":
        await journal.begin(draft(name), CAP, NATIVE_COIN)

    with pytest.raises(SpendingCapReached, match="close a session"):
        await journal.begin(draft("d"), CAP, NATIVE_COIN)
    await journal.update(draft("a"), state=RenterState.CLOSING)
    with pytest.raises(SpendingCapReached):
        await journal.begin(draft("d"), CAP, NATIVE_COIN)
    await journal.update(draft("a"), state=RenterState.SETTLED)
    await journal.begin(draft("d"), CAP, NATIVE_COIN)

    assert [row.id for row in await journal.sessions(unfinished_only=True)] == ["b", "c", "d"]


async def test_the_cap_holds_when_sessions_begin_at_the_same_time(journal: RenterJournal) -> None:
    refused: list[str] = []

    async def begin(name: str) -> None:
        try:
            await journal.begin(draft(name), CAP, NATIVE_COIN)
        except SpendingCapReached:
            refused.append(name)

    async with anyio.create_task_group() as tasks:
        for name in "abcdefgh":
            tasks.start_soon(begin, name)

    assert len(refused) == 5
    assert len(await journal.sessions()) == 3


async def test_each_payment_token_has_a_cap_of_its_own(journal: RenterJournal) -> None:
    other = Address("0x" + "ee" * 20)
    await journal.begin(draft("a"), SESSION.deposit, NATIVE_COIN)

    await journal.begin(replace(draft("b"), payment_token=other), SESSION.deposit, NATIVE_COIN)

    assert len(await journal.sessions()) == 2
    with pytest.raises(SpendingCapReached):
        await journal.begin(replace(draft("c"), payment_token=other), SESSION.deposit, NATIVE_COIN)


async def test_a_credited_refund_keeps_a_session_unfinished_but_locks_nothing(
    journal: RenterJournal,
) -> None:
    await journal.begin(draft("a"), CAP, NATIVE_COIN)

    owed = await journal.update(draft("a"), state=RenterState.SETTLED, refund_credited=Wei(1))

    assert await journal.sessions(unfinished_only=True) == [owed]
    await journal.begin(draft("b"), SESSION.deposit, NATIVE_COIN)  # the cap has room for all of it


async def test_the_last_acknowledgement_is_where_a_session_goes_on(journal: RenterJournal) -> None:
    session, host = draft("a"), HonestHost()
    await journal.begin(session, CAP, NATIVE_COIN)
    assert await journal.last_acknowledgement(session) is None

    links = [agreed(host) for _ in range(3)]
    for receipt, signed in links:
        await journal.agree(session, receipt, signed)

    assert await journal.last_acknowledgement(session) == links[-1][1]
    assert await journal.tokens_agreed(session) == 9
    row = await journal.load("a")
    assert row is not None
    assert row.last_used_at == NOW


async def test_sessions_of_another_wallet_are_not_ours(
    db: Database, journal: RenterJournal
) -> None:
    await journal.begin(draft("a"), CAP, NATIVE_COIN)

    other = RenterJournal(
        db, SESSION.chain_id, SESSION.contract, Address("0x" + "dd" * 20), lambda: NOW
    )

    assert await other.sessions() == []


@pytest.mark.parametrize(
    ("num_receipts", "tokens_settled", "outcome", "expected"),
    [
        (2, 6, "completed", HostHistory(num_served=1)),
        (2, 3, "completed", HostHistory(num_served=1)),
        (2, 0, "timed out", HostHistory(num_silent=1)),
        (2, 7, "completed", HostHistory(num_overcharged=1)),
        (0, 1, "completed", HostHistory(num_overcharged=1)),
        (0, 0, "timed out", UNKNOWN),
    ],
    ids=["paid", "waived", "silent", "overcharged", "charged for nothing", "never used"],
)
async def test_how_a_host_served_is_remembered(
    journal: RenterJournal,
    num_receipts: int,
    tokens_settled: int,
    outcome: str,
    expected: HostHistory,
) -> None:
    await journal.begin(draft("a"), CAP, NATIVE_COIN)
    host = HonestHost()
    for _ in range(num_receipts):
        await journal.agree(draft("a"), *agreed(host))
    assert await journal.histories() == {}

    await journal.update(
        draft("a"),
        state=RenterState.SETTLED,
        tokens_settled=TokenCount(tokens_settled),
        outcome=outcome,
    )

    assert await journal.histories() == {SESSION.host: expected}
