"""Renters that pause, die or are cut off: their money comes home by itself."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable

import pytest
from tests.anvil import increase_time
from tests.integration.sdk.waiting import blocks_come, settled, until

from fabstir.chain.contracts import Contracts, SessionStatus
from fabstir.chain.devnet import Devnet
from fabstir.chain.keystore import Signer
from fabstir.chain.transactions import TransactionQueue, open_transaction_queue
from fabstir.config import Settings
from fabstir.db import Database, open_database
from fabstir.db.renter import RenterSession, RenterState
from fabstir.node.build import Host
from fabstir.primitives.units import TokenCount, Wei
from fabstir.protocol.content import Message
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk import AsyncClient, open_async_client
from fabstir.sdk.drafts import draft_session
from fabstir.sdk.journal import RenterJournal
from fabstir.sdk.money import NATIVE_COIN
from fabstir.sdk.session_job.deposits import offer_of, open_key
from fabstir.sdk.session_job.situation import KEEP_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.anyio]

DEPOSIT = Wei(10**15)
LONG = [Message("user", "Write a long story about a lighthouse.")]
HELLO = [Message("user", "Say hello.")]


async def test_a_pause_of_six_minutes_does_not_end_a_session(
    renter_settings: Settings, devnet: Devnet
) -> None:
    async with open_async_client(renter_settings) as client:
        (offer,) = await client.find_hosts()
        async with client.open_session(offer, deposit=DEPOSIT) as session:
            async with session.chat(HELLO, sampling=SamplingParams(max_tokens=8)) as first:
                await first.complete()
            await increase_time(devnet.chain, 360)
            async with session.chat(HELLO, sampling=SamplingParams(max_tokens=8)) as second:
                await second.complete()
            async with blocks_come(devnet.chain):
                settlement = await session.close()

    assert first.end is not None
    assert second.end is not None
    counts = (first.end.num_completion_tokens, second.end.num_completion_tokens)
    assert settlement.tokens_settled == sum(counts)


async def test_a_renter_that_completes_right_after_the_last_token_costs_at_most_the_window(
    renter_settings: Settings, devnet: Devnet
) -> None:
    async with open_async_client(renter_settings) as client:
        (offer,) = await client.find_hosts()
        async with (
            client.open_session(offer, deposit=DEPOSIT) as session,
            session.chat(LONG, sampling=SamplingParams(max_tokens=200)) as answer,
        ):
            await answer.complete()
        settlement = await client.close_session(session.id, now=True)

    job = await devnet.contracts.marketplace.session(session.job_id)
    assert job is not None
    assert job.status is SessionStatus.COMPLETED
    assert settlement.is_settled
    unclaimed = settlement.tokens_agreed - settlement.tokens_settled
    assert 0 <= unclaimed <= session.info.proof_interval + MAX_UNACKNOWLEDGED_TOKENS


# -- renters that die while they open a session ------------------------------------------------


async def drafted(client: AsyncClient, devnet: Devnet, settings: Settings) -> RenterSession:
    (offer,) = await client.find_hosts()
    return draft_session(
        offer,
        DEPOSIT,
        chain_id=devnet.deployment.chain_id,
        contract=devnet.contracts.marketplace.address,
        depositor=client.wallet,
        settings=settings.renter,
        random=secrets.token_bytes,
        now=time.time(),
    )


async def begin(
    settings: Settings,
    devnet: Devnet,
    wallet: Signer,
    session: RenterSession,
    then: Callable[[TransactionQueue, Contracts], Awaitable[object]] | None = None,
) -> None:
    """What a renter does until it dies: journal the session, and perhaps send the deposit."""

    async def journal(db: Database) -> None:
        books = RenterJournal(db, session.chain_id, session.contract, session.depositor, time.time)
        await books.begin(session, settings.renter.spending_cap_native, NATIVE_COIN)

    async with open_database(f"sqlite:///{settings.paths.data_dir}/renter.sqlite") as db:
        await journal(db)
        if then:
            async with open_transaction_queue(devnet.chain, wallet, db) as queue:
                await then(queue, devnet.contracts)


async def test_a_deposit_that_was_journalled_and_never_sent_locks_nothing(
    renter_settings: Settings, devnet: Devnet
) -> None:
    async with open_async_client(renter_settings) as client:
        session = await drafted(client, devnet, renter_settings)
    await begin(renter_settings, devnet, devnet.accounts[1], session)

    async with open_async_client(renter_settings) as client:
        await client.recover()
        (row,) = await client.sessions()
        locked = (await client.balances())[0].locked

    assert (row.state, row.outcome) == (RenterState.FAILED, "the deposit was never sent")
    assert locked == 0


async def test_a_deposit_that_was_mined_before_the_renter_noticed_comes_home(
    renter_settings: Settings, devnet: Devnet
) -> None:
    async with open_async_client(renter_settings) as client:
        session = await drafted(client, devnet, renter_settings)

    async def deposit(queue: TransactionQueue, contracts: Contracts) -> None:
        call = contracts.marketplace.create_session(offer_of(session))
        await queue.send(open_key(session), call)

    await begin(renter_settings, devnet, devnet.accounts[1], session, deposit)
    later = KEEP_SECONDS + 1
    async with open_async_client(renter_settings, clock=lambda: time.time() + later) as client:

        async def is_settled() -> bool:
            await client.recover()
            return (await client.sessions())[0].state is RenterState.SETTLED

        await until(is_settled)
        (row,) = await client.sessions()

    assert row.job_id is not None
    assert (row.tokens_settled, row.refund) == (TokenCount(0), DEPOSIT)


async def test_a_refund_that_cannot_be_paid_out_is_withdrawn_later(
    renter_settings: Settings, devnet: Devnet, host: Host
) -> None:
    wallet = devnet.accounts[1].address
    refuses_everything = "0x60006000fd"  # PUSH 0, PUSH 0, REVERT
    async with open_async_client(renter_settings) as client:
        (offer,) = await client.find_hosts()
        async with client.open_session(offer, deposit=DEPOSIT) as session:
            async with session.chat(HELLO, sampling=SamplingParams(max_tokens=8)) as answer:
                await answer.complete()
            await devnet.chain.request("anvil_setCode", [wallet, refuses_everything])
            await host.work.rail.settler.ledger.close(
                session.job_id, "the test does not wait for the grace"
            )

    async def is_completed() -> bool:
        job = await devnet.contracts.marketplace.session(session.job_id)
        return job is not None and job.status is SessionStatus.COMPLETED

    async with blocks_come(devnet.chain):
        await until(is_completed)
    await devnet.chain.request("anvil_setCode", [wallet, "0x"])
    before = await devnet.chain.balance(wallet)
    async with open_async_client(renter_settings) as client:
        settlement = await settled(client, session)
        await client.recover()
        balance = (await client.balances())[0]

    assert settlement.refund == DEPOSIT - session.cost
    assert balance.in_contract == 0
    assert balance.wallet > before
