"""Somebody is away, for a moment or for good: it is noticed in time, and money still comes home."""

from __future__ import annotations

import signal
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from subprocess import DEVNULL

import anyio
import pytest
from anyio.abc import Process
from tests.anvil import increase_time
from tests.contract_calls import marketplace_calls
from tests.e2e.crashing import STORY, HostJournal
from tests.e2e.harness import (
    DEPOSIT,
    PRICE_PER_MILLION,
    HostStarter,
    Renter,
    check_money,
    eventually,
    session_of,
    wait_until_over,
)
from tests.forked import open_forked
from tests.tables import Table, printed_table

from fabstir.chain.contracts import SessionStatus
from fabstir.chain.devnet import Devnet
from fabstir.cli.host_process import HostProcess
from fabstir.db import open_database
from fabstir.db import renter as renter_tables
from fabstir.db.host_sessions import SessionRow, SessionState
from fabstir.primitives.errors import HostUnresponsive
from fabstir.primitives.ids import JobId
from fabstir.primitives.units import TokenCount, Wei, cost_of, price_from_million
from fabstir.protocol.content import Message
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS, RECEIPT_INTERVAL_TOKENS
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk import (
    AsyncClient,
    AsyncSession,
    HostOffer,
    ReceiptVerified,
    SessionSettlement,
    Text,
)

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

KILL_IS_NOTICED_WITHIN, STOP_IS_NOTICED_WITHIN = 5.0, 15.0
"""Seconds."""

SIX_MINUTES = 360

PROOF_INTERVAL = TokenCount(100)


@pytest.fixture(scope="module")
async def host(start_host: HostStarter, anyio_backend: str) -> AsyncGenerator[HostProcess]:
    async with start_host("host") as started:
        yield started


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Generator[Table]:
    with printed_table(request, "figures of those who are away", "measured", "") as made:
        yield made


def greedy(num_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=TokenCount(num_tokens), temperature=0)


async def ask(session: AsyncSession, num_tokens: int) -> int:
    """Returns the tokens of the whole answer."""
    tokens = 0
    async with session.chat([Message("user", STORY)], sampling=greedy(num_tokens)) as answer:
        async for event in answer:
            tokens += event.num_tokens if isinstance(event, Text) else 0
    return tokens


async def seconds_until_noticed(
    session: AsyncSession, host: HostProcess, number: signal.Signals
) -> float:
    """Send a signal to the host in the middle of an answer; how long the renter talks to nobody."""
    sent_at = 0.0
    with pytest.raises(HostUnresponsive):
        async with session.chat([Message("user", STORY)], sampling=greedy(800)) as answer:
            async for event in answer:
                if isinstance(event, ReceiptVerified) and not sent_at:
                    host.process.send_signal(number)
                    sent_at = time.monotonic()
    return time.monotonic() - sent_at


async def find(client: AsyncClient, host: HostProcess) -> HostOffer:
    """The host's offer; others of this chain are found by the registry, too."""
    return next(each for each in await client.find_hosts() if each.host == host.account)


# -- a moment ---------------------------------------------------------------------------------


async def test_a_stopped_host_is_noticed_and_goes_on_when_it_wakes(
    devnet: Devnet, host: HostProcess, renter: Renter, table: Table
) -> None:
    async with renter.open(host) as client:
        offer = await find(client, host)
        async with client.open_session(offer, deposit=DEPOSIT) as session:
            try:
                noticed_after = await seconds_until_noticed(session, host, signal.SIGSTOP)
            finally:
                host.process.send_signal(signal.SIGCONT)
            before = session.tokens
            tokens = await ask(session, 10)
            await session.close()

    table.add("seconds until a stopped host was noticed", f"{noticed_after:.2f}")
    assert noticed_after < STOP_IS_NOTICED_WITHIN
    assert before > 0
    await check_money(devnet, session.job_id, before + tokens)


async def test_a_six_minute_pause_does_not_end_a_chat(
    devnet: Devnet, host: HostProcess, renter: Renter
) -> None:
    async with renter.open(host) as client:
        offer = await find(client, host)
        async with client.open_session(offer, deposit=DEPOSIT) as session:
            first = await ask(session, 70)
            journal = HostJournal.of(devnet, host, session.job_id)
            await increase_time(devnet.chain, SIX_MINUTES)
            await until_looked_at_twice(journal)
            row = journal.row()
            second = await ask(session, 10)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(session.close)
                await wait_until_over(devnet, session.job_id)

    assert row is not None
    assert row.state is SessionState.OPEN
    await check_money(devnet, session.job_id, first + second)


async def until_looked_at_twice(journal: HostJournal) -> None:
    """The host's watcher writes down, at each look, that the renter is there."""
    for _ in range(2):
        row = journal.row()
        assert row is not None
        before = row.last_seen_at

        async def is_later(before: float = before) -> bool:
            row = journal.row()
            return row is not None and row.last_seen_at > before

        await eventually(is_later)


# -- for good ---------------------------------------------------------------------------------


async def test_a_renter_that_completes_at_once_costs_the_host_at_most_the_stated_exposure(
    devnet: Devnet, host: HostProcess, renter: Renter, table: Table
) -> None:
    async with renter.open(host) as client:
        offer = await find(client, host)
        async with client.open_session(
            offer, deposit=DEPOSIT, proof_interval=PROOF_INTERVAL
        ) as session:
            delivered = await ask(session, 300)
            await client.close_session(str(session.job_id), now=True)

    job = await session_of(devnet, session.job_id)
    lost = delivered - job.tokens_used
    booked = await eventually(lambda: settled_row(HostJournal.of(devnet, host, session.job_id)))
    table.add("tokens lost to a renter that completed at once", f"{lost} of {delivered}")
    assert job.status is SessionStatus.COMPLETED
    assert 0 <= lost <= PROOF_INTERVAL + MAX_UNACKNOWLEDGED_TOKENS
    assert booked.tokens_written_off == lost
    await check_money(devnet, session.job_id, job.tokens_used)


async def settled_row(journal: HostJournal) -> SessionRow | None:
    """The session, once the host has booked the end."""
    row = journal.row()
    return row if row and row.state == SessionState.SETTLED else None


async def test_a_renter_that_is_gone_for_good_gets_its_refund_from_the_host(
    devnet: Devnet, start_host: HostStarter, renter: Renter
) -> None:
    # So cheap that the other host of this chain is no choice.
    price_per_million = Wei(PRICE_PER_MILLION // 2)
    settings = {
        "host.reconnect_grace_seconds": "1",
        "host.price_native_per_million": str(price_per_million),
    }
    async with start_host("impatient", settings) as host:
        async with chatting(renter, host) as app:
            job_id = await opened_session(devnet, renter)
            journal = HostJournal.of(devnet, host, job_id)
            await eventually(lambda: has_agreed(journal), interval=0.005)
            app.kill()
            await app.wait()
        after_kill = await devnet.chain.balance(renter.signer.address)
        job = await wait_until_over(devnet, job_id)
        came_back = await devnet.chain.balance(renter.signer.address) - after_kill

    agreed = await tokens_in_journal(renter, job_id)
    assert (
        came_back
        == job.refunded_to_user
        == DEPOSIT - cost_of(job.tokens_used, price_from_million(price_per_million))
    )
    # Its last acknowledgement may have been journalled and not sent when it died.
    assert 0 <= agreed - job.tokens_used <= RECEIPT_INTERVAL_TOKENS
    assert job.tokens_used >= RECEIPT_INTERVAL_TOKENS
    await check_money(devnet, job_id, job.tokens_used)


@asynccontextmanager
async def chatting(renter: Renter, host: HostProcess) -> AsyncGenerator[Process]:
    """`fabstir chat` in a process of its own, with one question asked."""
    config = (await renter.settings(host)).file
    arguments = ["--config", str(config), "--json", "chat", "--yes", "--deposit", "0.001"]
    arguments += ["--max-tokens", "800", "--max-price", "0.0001"]
    async with await open_forked(arguments, stdout=DEVNULL, stderr=DEVNULL) as app:
        assert app.stdin is not None, "opened with a pipe"
        try:
            await app.stdin.send(f"{STORY}\n".encode())
            yield app
        finally:
            if app.returncode is None:
                app.kill()


async def opened_session(devnet: Devnet, renter: Renter) -> JobId:
    """The session of a renter that opens only one."""
    marketplace = marketplace_calls(devnet)

    async def look() -> JobId | None:
        last = JobId(await marketplace.next_job_id() - 1)
        job = await marketplace.session(last)
        return last if job and job.depositor == renter.signer.address else None

    return await eventually(look)


async def has_agreed(journal: HostJournal) -> bool:
    return journal.tokens_agreed() >= RECEIPT_INTERVAL_TOKENS


async def tokens_in_journal(renter: Renter, job_id: JobId) -> int:
    """What a renter whose process is gone had written down."""
    data_dir = (await renter.settings()).paths.data_dir
    deployment = renter.devnet.deployment
    async with open_database(f"sqlite:///{data_dir}/renter.sqlite") as db:
        rows = await db.read(
            lambda c: renter_tables.list_sessions(
                c, deployment.chain_id, deployment.job_marketplace
            )
        )
        (row,) = [row for row in rows if row.job_id == job_id]
        last = await db.read(lambda c: renter_tables.last_acknowledgement(c, row.id))
    return last.acknowledgement.cumulative_tokens if last else 0


async def test_a_host_that_never_returns_keeps_its_window_and_then_loses_its_claim(
    devnet: Devnet, start_host: HostStarter, renter: Renter, table: Table
) -> None:
    """The last test: its host is dead, and its chain's clock an hour ahead."""
    async with start_host("mortal") as host, renter.open(host) as client:
        async with client.open_session(await find(client, host), deposit=DEPOSIT) as session:
            noticed_after = await seconds_until_noticed(session, host, signal.SIGKILL)
            waiting = await session.close()
        await increase_time(devnet.chain, session.info.proof_window + 1)
        settlement = await settled(client, session)

    table.add("seconds until a killed host was noticed", f"{noticed_after:.2f}")
    assert noticed_after < KILL_IS_NOTICED_WITHIN
    assert not waiting.is_settled
    assert waiting.tokens_agreed == session.tokens > 0
    assert settlement.outcome == "timed out"
    assert (settlement.tokens_settled, settlement.refund) == (0, DEPOSIT)
    await check_money(devnet, session.job_id, 0)


async def settled(client: AsyncClient, session: AsyncSession) -> SessionSettlement:
    """What the client's watcher makes of it."""

    async def look() -> SessionSettlement | None:
        found = [each for each in await client.recover() if each.session == session.id]
        return next((each for each in found if each.is_settled), None)

    return await eventually(look)
