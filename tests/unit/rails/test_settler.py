"""How sessions end, each party with what is its own, whatever is slower, away or gone."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from tests.unit.protocol.exchange.meeting import JOB
from tests.unit.rails.hosting import (
    DEPOSITOR,
    Disk,
    OpenRail,
    make_contract,
    open_job,
    open_rail,
)
from tests.unit.rails.memory_contract import Killed, MemoryContract

from fabstir.chain.contracts import SessionStatus
from fabstir.db.host_sessions import SessionState
from fabstir.market.settlement import settle
from fabstir.primitives.errors import ChainError, ChainReplaced, RpcUnavailable
from fabstir.primitives.ids import Address, JobId, ModelId
from fabstir.primitives.units import TokenCount, Wei
from fabstir.rails.session_job.settler import LEFT_SECONDS

pytestmark = pytest.mark.anyio

GRACE = 61
WINDOW = 31
PATIENCE = 60.0
"""Seconds, on a machine that is busy with other tests."""
OTHER = Address("0x" + "55" * 20)


@asynccontextmanager
async def running(rail: OpenRail) -> AsyncGenerator[None]:
    """The settler's own loop, for the length of the block."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rail.settler.run)
        yield
        tasks.cancel_scope.cancel()


async def used(rail: OpenRail, tokens: int = 100) -> None:
    """A session in which so many tokens were agreed to, whose renter is gone."""
    await rail.admit()
    await rail.agree(tokens)
    rail.live.present.clear()


def status(rail: OpenRail, job_id: JobId = JOB) -> SessionStatus:
    return rail.contract.sessions[job_id].status


# -- a session's whole life -----------------------------------------------------------------------


async def test_a_session_is_claimed_closed_and_settled_by_looks_alone(rail: OpenRail) -> None:
    await used(rail)
    rail.contract.now += GRACE
    await rail.look()  # its renter did not come back
    assert (await rail.row()).state is SessionState.CLOSING
    assert rail.live.stopped == [JOB]
    await rail.look()  # what was agreed to goes on chain
    assert rail.contract.sessions[JOB].tokens_used == 100
    await rail.look()  # the dispute window is open
    assert status(rail) is SessionStatus.ACTIVE
    rail.contract.now += WINDOW
    await rail.look()

    row, job = await rail.row(), rail.contract.sessions[JOB]
    parts = settle(job.deposit, TokenCount(100), job.price_per_token, rail.contract.fee)
    assert status(rail) is SessionStatus.COMPLETED
    assert (row.tokens_settled, row.host_paid, row.refund) == (100, parts.host, parts.refund)
    assert rail.live.forgotten == [JOB]
    assert await rail.ledger.sessions(unsettled_only=True) == []


async def test_the_loop_does_it_by_itself(tmp_path: Path, contract: MemoryContract) -> None:
    async with open_rail(tmp_path, contract, poll_seconds=0.01) as rail, running(rail):
        await used(rail)
        contract.now += GRACE
        await rail.live.until(lambda: bool(rail.live.proofs))
        contract.now += WINDOW
        await rail.live.until(lambda: bool(rail.live.forgotten))

        assert contract.sessions[JOB].status is SessionStatus.COMPLETED


async def test_a_renter_that_is_there_is_not_settled(rail: OpenRail) -> None:
    await rail.admit()
    await rail.agree(10)
    rail.contract.now += GRACE
    await rail.look()

    assert (await rail.row()).state is SessionState.OPEN
    assert (await rail.row()).last_seen_at == rail.contract.now


async def test_a_renter_that_comes_back_at_the_last_moment_is_not_closed(rail: OpenRail) -> None:
    await used(rail)
    rail.contract.now += GRACE
    rail.live.on_look = lambda job_id: rail.live.present.add(job_id)
    await rail.look()

    assert (await rail.row()).state is SessionState.OPEN
    assert rail.live.stopped == []


async def test_a_session_that_nobody_opened_here_is_left_alone(rail: OpenRail) -> None:
    await rail.claimer.records.row_of(rail.contract.sessions[JOB])
    rail.contract.now += 86_401
    async with running(rail):
        await anyio.wait_all_tasks_blocked()

    assert status(rail) is SessionStatus.ACTIVE


async def test_a_session_whose_time_is_over_is_timed_out(rail: OpenRail) -> None:
    await used(rail)
    rail.contract.now += 86_401
    await rail.look()
    assert rail.contract.sessions[JOB].tokens_used == 100
    await rail.look()

    assert status(rail) is SessionStatus.TIMED_OUT
    assert (await rail.row()).outcome == "timed_out"


async def test_a_proof_window_that_runs_out_calls_for_a_claim_before(rail: OpenRail) -> None:
    await rail.admit()
    await rail.agree(10)
    rail.contract.now += 3600 - 61
    await rail.look()
    assert rail.contract.sessions[JOB].tokens_used == 0
    rail.contract.now += 1
    await rail.look()

    assert rail.contract.sessions[JOB].tokens_used == 10


# -- what wakes it --------------------------------------------------------------------------------


async def test_much_that_is_unproven_wakes_it_and_little_does_not(rail: OpenRail) -> None:
    row = await rail.admit()
    assert rail.rail.allowance(row) == 1000
    async with running(rail):
        await anyio.wait_all_tasks_blocked()
        await rail.agree(749)
        rail.rail.agreed(row, 749)
        await anyio.wait_all_tasks_blocked()
        assert rail.live.proofs == []
        await rail.agree(1)
        rail.rail.agreed(row, 750)
        await rail.live.until(lambda: bool(rail.live.proofs))

    assert rail.contract.sessions[JOB].tokens_used == 750


# -- a renter that closes -------------------------------------------------------------------------


async def test_a_close_claims_at_once_and_says_where_the_session_stands(rail: OpenRail) -> None:
    row = await rail.admit()
    await rail.agree(100)

    closing = await rail.rail.close(row)

    assert (closing.tokens_proven, closing.is_final) == (100, True)
    assert closing.settles_in == rail.contract.dispute_window
    assert (await rail.row()).state is SessionState.CLOSING


async def test_a_close_of_what_is_not_worth_a_claim_is_final(
    tmp_path: Path, contract: MemoryContract
) -> None:
    contract.gas = Wei(10**12)
    async with open_rail(tmp_path, contract) as rail:
        row = await rail.admit()
        await rail.agree(1)
        closing = await rail.rail.close(row)

        assert (closing.tokens_proven, closing.is_final) == (0, True)


async def test_a_close_while_the_chain_is_away_fails_and_is_done_later(rail: OpenRail) -> None:
    row = await rail.admit()
    await rail.agree(100)
    rail.contract.is_away = True
    with pytest.raises(RpcUnavailable):
        await rail.rail.close(row)
    rail.contract.is_away = False
    rail.live.present.clear()
    await rail.look()

    assert rail.contract.sessions[JOB].tokens_used == 100


# -- ends that meet -------------------------------------------------------------------------------


async def closing_session(rail: OpenRail) -> None:
    await used(rail)
    await rail.rail.close(await rail.row())
    rail.contract.now += WINDOW


async def test_a_renter_that_is_faster_ends_it_and_its_end_is_booked(rail: OpenRail) -> None:
    await closing_session(rail)
    rail.contract.complete_by(DEPOSITOR, JOB)
    await rail.look()

    assert (await rail.row()).outcome == "completed"
    assert rail.contract.outcomes.keys().isdisjoint({"complete"})


async def test_an_end_that_is_overtaken_in_the_same_block_is_tried_under_another_key(
    rail: OpenRail,
) -> None:
    await closing_session(rail)
    contract, job = rail.contract, rail.contract.sessions[JOB]

    def claim_again() -> None:
        """As if a claim were mined just before: the dispute window begins anew."""
        contract.sessions[JOB] = replace(job, last_proof_time=contract.now)

    contract.overtaken_by = claim_again
    await rail.look()
    assert status(rail) is SessionStatus.ACTIVE
    contract.now += WINDOW
    await rail.look()

    assert status(rail) is SessionStatus.COMPLETED
    ends = [key for key in contract.outcomes if ":complete:" in key]
    assert len(ends) == 2
    assert ends[1] == f"{ends[0]}:1"


async def test_an_end_that_the_contract_does_not_take_yet_uses_up_no_key(rail: OpenRail) -> None:
    await closing_session(rail)
    rail.contract.dispute_window += 10  # its clock is behind ours
    await rail.look()
    assert status(rail) is SessionStatus.ACTIVE
    rail.contract.now += 10
    await rail.look()

    assert status(rail) is SessionStatus.COMPLETED
    assert [key for key in rail.contract.outcomes if key.endswith(":1")] == []


@pytest.mark.parametrize("moment", ["kill_before", "kill_after"])
async def test_a_kill_while_it_settles_pays_once(
    tmp_path: Path, contract: MemoryContract, moment: str
) -> None:
    disk = Disk()
    with pytest.raises(Killed):
        async with open_rail(tmp_path, contract, disk=disk) as rail:
            await closing_session(rail)
            setattr(contract, moment, True)
            await rail.look()
    async with open_rail(tmp_path, contract, disk=disk) as rail:
        await rail.look()

        assert status(rail) is SessionStatus.COMPLETED
        assert (await rail.row()).tokens_settled == 100


# -- what is not worth it -------------------------------------------------------------------------


async def test_what_is_not_worth_its_end_is_left_and_looked_at_again_later(
    tmp_path: Path, contract: MemoryContract
) -> None:
    contract.gas = Wei(10**12)
    async with open_rail(tmp_path, contract, poll_seconds=0.01) as rail:
        await used(rail, tokens=1)
        await rail.ledger.close(JOB, "closed by its renter")
        async with running(rail):
            await rail.live.until(lambda: bool(rail.live.forgotten))
            with anyio.fail_after(PATIENCE):
                await rail.settler.settle_closing()  # waits for nothing that it left
            contract.gas = Wei(0)
            contract.now += int(LEFT_SECONDS) + 1
            await rail.live.until(lambda: bool(rail.live.proofs))

        assert contract.sessions[JOB].tokens_used == 1


# -- chains that are away, lag or are others ------------------------------------------------------


async def test_a_chain_that_is_away_is_waited_for(tmp_path: Path, contract: MemoryContract) -> None:
    async with open_rail(tmp_path, contract, poll_seconds=0.01) as rail, running(rail):
        await used(rail)
        contract.now += GRACE
        contract.is_away = True
        await anyio.wait_all_tasks_blocked()
        rail.ledger.num_failures = 2  # and so is the journal, for a while
        contract.is_away = False
        await rail.live.until(lambda: bool(rail.live.proofs))


async def test_a_session_that_a_node_does_not_know_is_not_forgotten_before_its_time(
    rail: OpenRail,
) -> None:
    await used(rail)
    job = rail.contract.sessions.pop(JOB)
    await rail.look()
    assert (await rail.row()).tokens_settled is None
    rail.contract.sessions[JOB] = job
    await rail.look()
    assert rail.live.forgotten == []

    del rail.contract.sessions[JOB]
    rail.contract.now += 86_401
    await rail.look()

    assert (await rail.row()).outcome == "not on this chain"
    assert rail.live.forgotten == [JOB]


async def test_another_chain_of_the_same_number_settles_nothing(rail: OpenRail) -> None:
    await used(rail)
    del rail.contract.sessions[JOB]
    rail.contract.now += 86_401
    rail.contract.is_another = True
    await rail.look()

    assert (await rail.row()).tokens_settled is None
    with pytest.raises(ChainReplaced):
        await rail.contract.check_chain()


async def test_one_wrong_answer_of_the_chain_drops_no_books(rail: OpenRail) -> None:
    row = await rail.admit()
    await rail.agree(100)
    rail.contract.odd_model = ModelId("0x" + "ff" * 32)
    with pytest.raises(ChainError, match="two things"):
        await rail.rail.close(row)
    closing = await rail.rail.close(row)

    assert closing.tokens_proven == 100
    assert rail.restarted == []


async def test_a_number_that_became_another_depositors_begins_anew(rail: OpenRail) -> None:
    await used(rail)
    open_job(rail.contract, depositor=OTHER)
    await rail.look()

    row = await rail.row()
    assert (row.depositor, row.signer) == (OTHER, None)
    assert rail.restarted == [JOB]


# -- shutting down --------------------------------------------------------------------------------


async def test_on_shutdown_all_that_was_agreed_to_is_proven(tmp_path: Path) -> None:
    jobs = [JobId(9), JobId(10), JobId(11)]
    contract = make_contract(jobs=jobs)
    async with open_rail(tmp_path, contract) as rail:
        for job_id in jobs[:2]:
            await rail.admit(job_id)
            await rail.agree(10, job_id)
        await rail.claimer.records.row_of(contract.sessions[jobs[2]])
        await rail.settler.prove_all()

        assert [contract.sessions[each].tokens_used for each in jobs] == [10, 10, 0]


async def test_a_last_proof_that_the_chain_does_not_take_waits_for_the_next_start(
    rail: OpenRail,
) -> None:
    await used(rail)
    rail.contract.is_away = True
    await rail.settler.prove_all()
    rail.contract.is_away = False

    assert rail.contract.sessions[JOB].tokens_used == 0
    await rail.settler.prove_all()
    assert rail.contract.sessions[JOB].tokens_used == 100


async def test_on_shutdown_a_closing_session_is_waited_for(
    tmp_path: Path, contract: MemoryContract
) -> None:
    async with open_rail(tmp_path, contract, poll_seconds=0.01) as rail:
        await closing_session(rail)
        async with running(rail):
            await rail.rail.drain(PATIENCE)

        assert contract.sessions[JOB].status is SessionStatus.COMPLETED


async def test_what_ended_elsewhere_is_booked_once(rail: OpenRail) -> None:
    await used(rail)
    await rail.settler.record_end(JOB, None)
    await rail.settler.record_end(JOB, rail.contract.sessions[JOB])
    assert (await rail.row()).tokens_settled is None
    rail.contract.complete_by(DEPOSITOR, JOB)
    job = rail.contract.sessions[JOB]
    await rail.settler.record_end(JOB, job)
    await rail.settler.record_end(JOB, job)
    await rail.settler.record_end(JobId(77), replace(job, id=JobId(77)))  # nobody's here

    assert (await rail.row()).refund == job.deposit
