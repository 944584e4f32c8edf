"""The host is killed at each step between deposit and settlement, and nobody loses anything.

Whatever it was doing, once it is back: the chain pays exactly what the renter's own journal says it
agreed to, nothing stays locked, and host, treasury and refund add up to the deposit.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Generator
from dataclasses import dataclass

import anyio
import pytest
from tests.e2e.crashing import CrashingHost, HostJournal, Scene, open_crashing_host
from tests.e2e.harness import (
    DEPOSIT,
    HostStarter,
    Renter,
    check_money,
    eventually,
    session_of,
    wait_until_over,
)
from tests.e2e.kill_points import CASES, PROOF_INTERVAL, Case, Then
from tests.tables import Table, printed_table

from fabstir.chain.devnet import Devnet
from fabstir.db.host_sessions import SessionState
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS, RECEIPT_INTERVAL_TOKENS
from fabstir.sdk import AsyncSession, HostOffer, SessionSettlement

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

BOUNDARIES = (1, RECEIPT_INTERVAL_TOKENS - 1, RECEIPT_INTERVAL_TOKENS, RECEIPT_INTERVAL_TOKENS + 1)
"""Tokens that the renter has had of an answer when the host dies: around a receipt."""


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Generator[Table]:
    columns = ("killed at", "had", "agreed", "on chain", "written off", "down s", "then over in s")
    with printed_table(request, "kill points between deposit and settlement", *columns) as made:
        yield made


@pytest.fixture(scope="module")
async def host(
    devnet: Devnet, start_host: HostStarter, anyio_backend: str
) -> AsyncGenerator[CrashingHost]:
    async with open_crashing_host(devnet, start_host, "host") as opened:
        yield opened


@pytest.fixture
async def blocks(devnet: Devnet) -> AsyncGenerator[None]:
    """However a test ends, the next one finds a chain that makes blocks."""
    yield
    await devnet.chain.request("evm_setAutomine", [True])


@pytest.fixture
async def offer(renter: Renter, host: CrashingHost) -> HostOffer:
    async with renter.open(host.process) as client:
        (found,) = await client.find_hosts()
        return found


@dataclass(slots=True, kw_only=True)
class Played:
    """A case once its host is back; the times are those of the machine's monotonic clock."""

    scene: Scene
    killed_at: float = 0.0
    started_at: float = 0.0


async def play(case: Case, host: CrashingHost, renter: Renter, offer: HostOffer) -> Played:
    """Until the host is back and the renter has done what it does."""
    async with renter.open(host.process) as client:
        if case.has_no_chain:
            host.to_chain.hold_requests()
        async with client.open_session(
            offer, deposit=DEPOSIT, proof_interval=PROOF_INTERVAL
        ) as session:
            played = await die(case, host, session)
            if case.then is Then.GO_ON:
                await played.scene.answer_at_last(10)
            if case.then in {Then.GO_ON, Then.CLOSE}:
                await session.close()
    if case.then is Then.LEAVE:
        await restart(case, played)
        await wait_until_over(host.devnet, played.scene.job_id)
    return played


async def die(case: Case, host: CrashingHost, session: AsyncSession) -> Played:
    """Until the host is dead; with a renter that stays, until it is back."""
    tasks = anyio.create_task_group()
    journal = HostJournal.of(host.devnet, host.process, session.job_id)
    played = Played(
        scene=Scene(devnet=host.devnet, host=host, session=session, journal=journal, tasks=tasks)
    )
    async with tasks:
        await case.reach(played.scene)
        await host.kill()
        played.killed_at = time.monotonic()
        if case.then is Then.LEAVE:
            tasks.cancel_scope.cancel()
        else:
            await restart(case, played)
    return played


async def restart(case: Case, played: Played) -> None:
    scene = played.scene
    if not case.blocks_come_late:
        await scene.make_blocks()
    await scene.host.start()
    if case.blocks_come_late:
        await scene.make_blocks()
    played.started_at = time.monotonic()


async def brought_home(renter: Renter) -> SessionSettlement:
    """The renter's only session, once its journal says that it is over."""
    async with renter.open() as client:

        async def look() -> SessionSettlement | None:
            await client.recover()
            (row,) = await client.sessions()
            settlement = await client.close_session(row.id)
            return settlement if settlement.is_settled else None

        return await eventually(look, interval=0.1)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.usefixtures("blocks")
async def test_a_killed_host_settles_what_was_agreed_to(
    case: Case, host: CrashingHost, renter: Renter, offer: HostOffer, table: Table
) -> None:
    played = await play(case, host, renter, offer)

    settlement = await brought_home(renter)
    over_in = time.monotonic() - played.started_at
    down = played.started_at - played.killed_at
    await check(played.scene, settlement, table, case.name, f"{down:.1f}", f"{over_in:.1f}")


async def test_a_host_that_dies_at_each_boundary_of_one_session_settles_what_was_agreed_to(
    host: CrashingHost, renter: Renter, offer: HostOffer, table: Table
) -> None:
    async with (
        renter.open(host.process) as client,
        client.open_session(offer, deposit=DEPOSIT, proof_interval=PROOF_INTERVAL) as session,
    ):
        tasks = anyio.create_task_group()
        journal = HostJournal.of(host.devnet, host.process, session.job_id)
        scene = Scene(devnet=host.devnet, host=host, session=session, journal=journal, tasks=tasks)
        async with tasks:
            for number, num_tokens in enumerate(BOUNDARIES, start=1):
                before = scene.num_tokens
                scene.start_answer()
                await scene.until_tokens(before + num_tokens)
                await host.kill()
                await host.start()
                await scene.until(lambda number=number: len(scene.noticed_at) == number)
        await session.close()
        started_at = time.monotonic()

    settlement = await brought_home(renter)
    over_in = time.monotonic() - started_at
    name = f"after {', '.join(map(str, BOUNDARIES))} tokens"
    await check(scene, settlement, table, name, "", f"{over_in:.1f}", num_crashes=len(BOUNDARIES))


async def check(
    scene: Scene,
    settlement: SessionSettlement,
    table: Table,
    name: str,
    *times: str,
    num_crashes: int = 1,
) -> None:
    """Chain, renter and host agree on what was paid, and no unit of money is missing."""
    await eventually(lambda: is_booked(scene.journal))
    job, row = await session_of(scene.devnet, scene.job_id), scene.journal.row()
    assert row is not None
    agreed = settlement.tokens_agreed
    table.add(name, scene.num_tokens, agreed, job.tokens_used, row.tokens_written_off, *times)
    assert job.tokens_used == agreed == row.tokens_settled
    assert settlement.host_paid + settlement.fee + settlement.refund == DEPOSIT
    unpaid = scene.num_tokens - agreed
    assert unpaid <= row.tokens_written_off <= num_crashes * MAX_UNACKNOWLEDGED_TOKENS
    await check_money(scene.devnet, scene.job_id, agreed)


async def is_booked(journal: HostJournal) -> bool:
    """The host knows that the session is over."""
    row = journal.row()
    return row is not None and row.state == SessionState.SETTLED
