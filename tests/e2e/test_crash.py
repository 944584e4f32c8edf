"""The host is killed at each step between deposit and settlement, and nobody loses anything.

Whatever it was doing, once it is back: the chain pays exactly what the renter's own journal says it
agreed to, nothing stays locked, and host, treasury and refund add up to the deposit.

The kill points are not timed: they are held open by a relay that swallows what the host was about
to send or be told, by a chain that makes no blocks, or recognised in the host's own journal.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from dataclasses import dataclass
from enum import Enum, auto

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
from tests.e2e.tables import Table, printed_table

from fabstir.chain.devnet import Devnet
from fabstir.db.claims import ClaimState
from fabstir.db.host_sessions import SessionState
from fabstir.primitives.units import TokenCount
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS, RECEIPT_INTERVAL_TOKENS
from fabstir.sdk import HostOffer, Session, Settlement

pytestmark = [pytest.mark.e2e, pytest.mark.anyio]

PROOF_INTERVAL = TokenCount(200)
"""So that a claim is due in the middle of an answer of 300 tokens."""

BOUNDARIES = (1, RECEIPT_INTERVAL_TOKENS - 1, RECEIPT_INTERVAL_TOKENS, RECEIPT_INTERVAL_TOKENS + 1)
"""Tokens that the renter has had of an answer when the host dies: around a receipt."""

SEND, CONFIRM = b"eth_sendRawTransaction", b"eth_getTransactionReceipt"
"""With what a host tells its chain of a transaction, and asks after it."""

LONG_PROMPT = "the sea and the lighthouse " * 120
"""Takes long enough to read that nothing is said of it yet when the host dies."""


class Then(Enum):
    """What the renter does once the host is dead."""

    GO_ON = auto()
    """It asks the restarted host for more, and closes."""
    CLOSE = auto()
    """It reconnects only to close."""
    STAY = auto()
    """It was closing already, and waits."""
    LEAVE = auto()
    """It was closing already, and its app is quit: the host must settle alone."""


# -- the kill points --------------------------------------------------------------------------


async def deposit_unheard(scene: Scene) -> None:
    assert scene.journal.row() is None


async def deposit_heard(scene: Scene) -> None:
    await scene.until(lambda: scene.journal.row() is not None)


async def init_admitted(scene: Scene) -> None:
    scene.start_answer(prompt=LONG_PROMPT)
    await scene.until(lambda: (row := scene.journal.row()) is not None and row.signer)


async def first_tokens(scene: Scene) -> None:
    scene.start_answer()
    await scene.until_tokens(3)


async def receipt_lost(scene: Scene) -> None:
    """Journalled by the host, and never seen by the renter."""
    scene.start_answer()
    await scene.until_tokens(1)
    scene.host.to_renters.hold_answers()
    first_window = RECEIPT_INTERVAL_TOKENS + MAX_UNACKNOWLEDGED_TOKENS
    await scene.until(
        lambda: (row := scene.journal.row()) is not None and row.tokens_reserved >= first_window
    )
    assert scene.num_receipts == 0


async def acknowledgement_lost(scene: Scene) -> None:
    """Journalled by the renter, and never seen by the host."""
    scene.start_answer()
    await scene.until_tokens(1)
    scene.host.to_renters.hold_requests()
    await scene.until(lambda: scene.num_receipts)
    assert scene.journal.tokens_agreed() == 0


async def acknowledged(scene: Scene) -> None:
    scene.start_answer()
    await scene.until(lambda: scene.journal.tokens_agreed() >= RECEIPT_INTERVAL_TOKENS)


async def second_window(scene: Scene) -> None:
    """Between two receipts: some tokens are agreed to, more are delivered."""
    scene.start_answer()
    await scene.until_tokens(RECEIPT_INTERVAL_TOKENS + 20)


async def idle(scene: Scene) -> None:
    """The answer is complete, and the next question not asked."""
    await scene.answer(80)
    await scene.until(lambda: scene.journal.tokens_agreed() == scene.session.tokens)


async def interim_claim_unsent(scene: Scene) -> None:
    """In the middle of an answer, whose first tokens are being claimed."""
    scene.host.to_chain.hold_requests(SEND)
    scene.start_answer()
    await scene.until_held()
    assert scene.journal.claims(ClaimState.PLANNED)


async def claim_planned(scene: Scene) -> None:
    await scene.answer(80)
    scene.host.to_chain.hold_requests()
    scene.start_close()
    await scene.until_planned()
    assert scene.journal.transaction("proof:0") is None


async def claim_signed(scene: Scene) -> None:
    """Stored in the outbox, and not sent."""
    await scene.answer(80)
    scene.host.to_chain.hold_requests(SEND)
    scene.start_close()
    await scene.until_held()
    assert scene.journal.transaction("proof:0") is not None


async def claim_signed_twice(scene: Scene) -> None:
    """At the same place again after its restart."""
    await claim_signed(scene)
    await scene.host.kill()
    scene.host.to_chain.hold_requests(SEND)
    await scene.host.start()
    await scene.until_held()


async def claim_sent(scene: Scene) -> None:
    """Waits for a block."""
    await scene.answer(80)
    await scene.stop_blocks()
    scene.start_close()
    await scene.until_sent()


async def claim_mined(scene: Scene) -> None:
    """On chain, and the host does not know it."""
    await scene.answer(80)
    scene.host.to_chain.hold_requests(CONFIRM)
    scene.start_close()
    await scene.until_paid()
    assert scene.journal.claims(ClaimState.PLANNED)


async def claimed(scene: Scene) -> None:
    """Known to be on chain; the session waits for its dispute window."""
    await scene.answer(80)
    scene.start_close()
    await scene.until_claimed()


async def settlement_signed(scene: Scene) -> None:
    await claimed(scene)
    scene.host.to_chain.hold_requests(SEND)
    await scene.until_held()
    assert scene.journal.transaction("complete") is not None


async def settlement_sent(scene: Scene) -> None:
    await claimed(scene)
    await scene.stop_blocks()
    await scene.until_sent()


async def settlement_mined(scene: Scene) -> None:
    await claimed(scene)
    scene.host.to_chain.hold_requests(CONFIRM)
    await scene.until_over()


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to die.

    Attributes:
        has_no_chain: the host hears nothing of its chain from before the deposit on.
        blocks_come_late: while it is started again, the chain still makes no blocks.
    """

    name: str
    reach: Callable[[Scene], Awaitable[None]]
    then: Then
    has_no_chain: bool = False
    blocks_come_late: bool = False


CASES = (
    Case(
        name="deposit mined, unheard of",
        reach=deposit_unheard,
        then=Then.GO_ON,
        has_no_chain=True,
    ),
    Case(name="deposit heard of", reach=deposit_heard, then=Then.CLOSE),
    Case(name="init admitted", reach=init_admitted, then=Then.GO_ON),
    Case(name="first tokens", reach=first_tokens, then=Then.GO_ON),
    Case(name="receipt lost on its way", reach=receipt_lost, then=Then.GO_ON),
    Case(name="acknowledgement lost, goes on", reach=acknowledgement_lost, then=Then.GO_ON),
    Case(name="acknowledgement lost, closes", reach=acknowledgement_lost, then=Then.CLOSE),
    Case(name="acknowledged, streaming", reach=acknowledged, then=Then.CLOSE),
    Case(name="second window", reach=second_window, then=Then.GO_ON),
    Case(name="idle, goes on", reach=idle, then=Then.GO_ON),
    Case(name="idle, closes", reach=idle, then=Then.CLOSE),
    Case(name="interim claim unsent", reach=interim_claim_unsent, then=Then.GO_ON),
    Case(name="claim planned", reach=claim_planned, then=Then.STAY),
    Case(name="claim signed", reach=claim_signed, then=Then.LEAVE),
    Case(name="claim signed, twice", reach=claim_signed_twice, then=Then.STAY),
    Case(name="claim sent, mined meanwhile", reach=claim_sent, then=Then.LEAVE),
    Case(
        name="claim sent, mined after restart",
        reach=claim_sent,
        then=Then.STAY,
        blocks_come_late=True,
    ),
    Case(name="claim mined, unknown", reach=claim_mined, then=Then.LEAVE),
    Case(name="claimed, renter stays", reach=claimed, then=Then.STAY),
    Case(name="claimed, renter leaves", reach=claimed, then=Then.LEAVE),
    Case(name="settlement signed", reach=settlement_signed, then=Then.LEAVE),
    Case(name="settlement sent", reach=settlement_sent, then=Then.LEAVE),
    Case(name="settlement mined, unknown", reach=settlement_mined, then=Then.STAY),
)


# -- playing them -----------------------------------------------------------------------------


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


async def die(case: Case, host: CrashingHost, session: Session) -> Played:
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


async def brought_home(renter: Renter) -> Settlement:
    """The renter's only session, once its journal says that it is over."""
    async with renter.open() as client:

        async def look() -> Settlement | None:
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
    settlement: Settlement,
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
