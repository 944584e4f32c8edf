"""Hosts and renters that die in the middle: nothing stays locked, no loss exceeds the stated one."""

from __future__ import annotations

import secrets
import signal
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from tests.integration.sdk.conftest import chain_settings, make_home
from tests.integration.sdk.host_process import HostProcess, open_host_process

from fabstir.chain.cheats import increase_time
from fabstir.chain.contracts import Contracts, SessionStatus
from fabstir.chain.devnet import Devnet
from fabstir.chain.keystore import Signer
from fabstir.chain.transactions import TransactionQueue, open_transaction_queue
from fabstir.config import Settings
from fabstir.db import Database, open_database
from fabstir.db.renter import RenterSession, RenterState
from fabstir.primitives.errors import HostUnresponsive
from fabstir.primitives.units import TokenCount, Wei, cost_of
from fabstir.protocol.chat import ChatMessage
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS
from fabstir.protocol.sampling import SamplingParams
from fabstir.sdk import FabstirClient, ReceiptVerified, Session, Settlement, open_client
from fabstir.sdk.deposits import offer_of
from fabstir.sdk.drafts import draft_session
from fabstir.sdk.journal import RenterJournal, open_key
from fabstir.sdk.money import NATIVE
from fabstir.sdk.watcher import KEEP_SECONDS

pytestmark = [pytest.mark.integration, pytest.mark.anyio, pytest.mark.slow]

DEPOSIT = Wei(10**15)
LONG = [ChatMessage("user", "Write a long story about a lighthouse.")]
HELLO = [ChatMessage("user", "Say hello.")]
SETTLE_TIMEOUT = 60.0


@pytest.fixture(scope="module")
async def host_home(devnet: Devnet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("host") / "home"
    await make_home(folder, devnet.accounts[0], {})
    return folder


@pytest.fixture
def host_overrides(devnet: Devnet, demo_model: Path, host_home: Path) -> dict[str, str]:
    return {
        **chain_settings(devnet),
        "paths.data_dir": str(host_home / "data"),
        "host.port": "0",
        "host.reconnect_grace_seconds": "1",
        "p2p.port": "0",
        "metrics.port": "0",
        "model.path": str(demo_model),
        "engine.num_threads": "2",
    }


@pytest.fixture
async def host(host_home: Path, host_overrides: dict[str, str]) -> AsyncGenerator[HostProcess]:
    async with open_host_process(host_home, host_overrides) as running:
        yield running


@pytest.fixture
async def renter_settings(devnet: Devnet, host: HostProcess, tmp_path: Path) -> Settings:
    bootstrap = {"p2p.bootstrap": host.p2p_address}
    return await make_home(
        tmp_path / "renter", devnet.accounts[1], {**chain_settings(devnet), **bootstrap}
    )


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    with anyio.fail_after(SETTLE_TIMEOUT):
        while not await condition():
            await anyio.sleep(0.1)


async def stream_until_first_receipt_then(session: Session, act: Callable[[], None]) -> float:
    """Returns the seconds between the act and the error that it caused."""
    acted_at = 0.0
    with pytest.raises(HostUnresponsive) as caught:
        async with session.chat(LONG, sampling=SamplingParams(max_tokens=3000, seed=0)) as answer:
            async for event in answer:
                if isinstance(event, ReceiptVerified) and not acted_at:
                    act()
                    acted_at = time.monotonic()
    text = str(caught.value)
    assert session.row.host in text
    assert "its last frame came" in text
    assert f"{session.tokens} tokens" in text
    assert "The rest of the deposit" in text
    return time.monotonic() - acted_at


async def settled(client: FabstirClient, session: Session) -> Settlement:
    """Wait until the journal says so, looking at the chain as the watcher does."""
    found: list[Settlement] = []

    async def look() -> bool:
        found[:] = [s for s in await client.recover() if s.session == session.row.id]
        return bool(found) and found[0].is_settled

    await until(look)
    return found[0]


async def test_a_host_that_is_killed_is_noticed_and_settles_after_its_restart(
    renter_settings: Settings, host: HostProcess, host_home: Path, host_overrides: dict[str, str]
) -> None:
    async with open_client(renter_settings) as client:
        (offer,) = await client.find_hosts()
        async with client.open_session(offer, deposit=DEPOSIT) as session:
            noticed_after = await stream_until_first_receipt_then(
                session, lambda: host.send(signal.SIGKILL)
            )
        async with open_host_process(host_home, host_overrides):
            settlement = await settled(client, session)

    assert noticed_after < 5
    assert settlement.tokens_settled == settlement.tokens_agreed == session.tokens > 0
    assert settlement.refund == DEPOSIT - cost_of(session.tokens, offer.price_per_token)
    assert settlement.refund + settlement.host_paid + settlement.fee == DEPOSIT


async def test_a_killed_host_that_never_returns_keeps_its_window_and_then_loses_its_claim(
    renter_settings: Settings, host: HostProcess, devnet: Devnet
) -> None:
    async with open_client(renter_settings) as client:
        (offer,) = await client.find_hosts()
        async with client.open_session(offer, deposit=DEPOSIT) as session:
            await stream_until_first_receipt_then(session, lambda: host.send(signal.SIGKILL))
            waiting = await session.close()
        await increase_time(devnet.chain, session.row.proof_window + 1)
        settlement = await settled(client, session)

    assert not waiting.is_settled
    assert waiting.tokens_agreed == session.tokens > 0
    assert waiting.waits_until is not None
    assert settlement.outcome == "timed out"
    assert (settlement.tokens_settled, settlement.refund) == (0, DEPOSIT)


async def test_a_stopped_host_is_noticed_and_the_session_goes_on_when_it_wakes(
    renter_settings: Settings, host: HostProcess
) -> None:
    async with open_client(renter_settings) as client:
        (offer,) = await client.find_hosts()
        async with client.open_session(offer, deposit=DEPOSIT) as session:
            noticed_after = await stream_until_first_receipt_then(
                session, lambda: host.send(signal.SIGSTOP)
            )
            tokens = session.tokens
            host.send(signal.SIGCONT)
            async with session.chat(HELLO, sampling=SamplingParams(max_tokens=8, seed=0)) as answer:
                await answer.complete()
            settlement = await session.close()

    assert noticed_after < 15
    assert answer.end is not None
    assert settlement.tokens_settled == tokens + answer.end.num_completion_tokens


async def test_a_pause_of_six_minutes_does_not_end_a_session(
    renter_settings: Settings, devnet: Devnet
) -> None:
    async with open_client(renter_settings) as client:
        (offer,) = await client.find_hosts()
        async with client.open_session(offer, deposit=DEPOSIT) as session:
            async with session.chat(HELLO, sampling=SamplingParams(max_tokens=8, seed=0)) as first:
                await first.complete()
            await increase_time(devnet.chain, 360)
            async with session.chat(HELLO, sampling=SamplingParams(max_tokens=8, seed=0)) as second:
                await second.complete()
            settlement = await session.close()

    assert first.end is not None
    assert second.end is not None
    counts = (first.end.num_completion_tokens, second.end.num_completion_tokens)
    assert settlement.tokens_settled == sum(counts)


async def test_a_renter_that_completes_right_after_the_last_token_costs_at_most_the_window(
    renter_settings: Settings, devnet: Devnet
) -> None:
    async with open_client(renter_settings) as client:
        (offer,) = await client.find_hosts()
        async with (
            client.open_session(offer, deposit=DEPOSIT) as session,
            session.chat(LONG, sampling=SamplingParams(max_tokens=200, seed=0)) as answer,
        ):
            await answer.complete()
        settlement = await client.close_session(session.row.id, now=True)

    job = await devnet.contracts.marketplace.session(session.job_id)
    assert job is not None
    assert job.status is SessionStatus.COMPLETED
    assert settlement.is_settled
    unclaimed = settlement.tokens_agreed - settlement.tokens_settled
    assert 0 <= unclaimed <= session.row.proof_interval + MAX_UNACKNOWLEDGED_TOKENS


# -- renters that die while they open a session ------------------------------------------------


async def drafted(client: FabstirClient, devnet: Devnet, settings: Settings) -> RenterSession:
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
        await books.begin(session, settings.renter.spending_cap_native, NATIVE)

    async with open_database(f"sqlite:///{settings.paths.data_dir}/renter.sqlite") as db:
        await journal(db)
        if then:
            async with open_transaction_queue(devnet.chain, wallet, db) as queue:
                await then(queue, devnet.contracts)


async def test_a_deposit_that_was_journalled_and_never_sent_locks_nothing(
    renter_settings: Settings, devnet: Devnet
) -> None:
    async with open_client(renter_settings) as client:
        session = await drafted(client, devnet, renter_settings)
    await begin(renter_settings, devnet, devnet.accounts[1], session)

    async with open_client(renter_settings) as client:
        await client.recover()
        (row,) = await client.sessions()
        locked = (await client.balances())[0].locked

    assert (row.state, row.outcome) == (RenterState.FAILED, "the deposit was never sent")
    assert locked == 0


async def test_a_deposit_that_was_mined_before_the_renter_noticed_comes_home(
    renter_settings: Settings, devnet: Devnet
) -> None:
    async with open_client(renter_settings) as client:
        session = await drafted(client, devnet, renter_settings)

    async def deposit(queue: TransactionQueue, contracts: Contracts) -> None:
        call = contracts.marketplace.create_session(offer_of(session))
        await queue.send(open_key(session), call)

    await begin(renter_settings, devnet, devnet.accounts[1], session, deposit)
    later = KEEP_SECONDS + 1
    async with open_client(renter_settings, clock=lambda: time.time() + later) as client:

        async def is_settled() -> bool:
            await client.recover()
            return (await client.sessions())[0].state is RenterState.SETTLED

        await until(is_settled)
        (row,) = await client.sessions()

    assert row.job_id is not None
    assert (row.tokens_settled, row.refund) == (TokenCount(0), DEPOSIT)


async def test_a_refund_that_cannot_be_paid_out_is_withdrawn_later(
    renter_settings: Settings, devnet: Devnet
) -> None:
    wallet = devnet.accounts[1].address
    refuses_everything = "0x60006000fd"
    async with open_client(renter_settings) as client:
        (offer,) = await client.find_hosts()
        async with client.open_session(offer, deposit=DEPOSIT) as session:
            async with session.chat(HELLO, sampling=SamplingParams(max_tokens=8, seed=0)) as answer:
                await answer.complete()
            await devnet.chain.request("anvil_setCode", [wallet, refuses_everything])

    async def is_completed() -> bool:
        job = await devnet.contracts.marketplace.session(session.job_id)
        return job is not None and job.status is SessionStatus.COMPLETED

    await until(is_completed)  # by the host, after its grace
    await devnet.chain.request("anvil_setCode", [wallet, "0x"])
    before = await devnet.chain.balance(wallet)
    async with open_client(renter_settings) as client:
        settlement = await settled(client, session)
        await client.recover()
        balance = (await client.balances())[0]

    assert settlement.refund == DEPOSIT - session.cost
    assert balance.in_contract == 0
    assert balance.wallet > before
