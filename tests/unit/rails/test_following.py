"""What events make a host do: look at the contract, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

import pytest
from eth_abi.abi import encode
from tests.unit.protocol.exchange.answering import DOMAIN
from tests.unit.protocol.exchange.meeting import HOST, JOB
from tests.unit.rails.hosting import DEPOSITOR, OpenRail
from tests.unit.rails.test_settler import used

from fabstir.chain.abi import load_abi
from fabstir.chain.records import Log
from fabstir.primitives.errors import StorageError
from fabstir.primitives.ids import Address, Hash32, JobId

pytestmark = pytest.mark.anyio

OTHER = Address("0x" + "55" * 20)
MARKETPLACE = load_abi("JobMarketplaceWithModels")


@dataclass
class Step:
    """Some events, and a journal that cannot note them the first few times."""

    logs: Sequence[Log]
    num_failures: int = 0
    is_committed: bool = False

    async def commit(self) -> None:
        if self.num_failures:
            self.num_failures -= 1
            raise StorageError("the disk does not answer")
        self.is_committed = True


def event(name: str, *values: object) -> Log:
    """As a node returns it."""
    abi = MARKETPLACE.events[name]
    indexed, plain = list[bytes](), list[tuple[str, object]]()
    for (kind, is_indexed), value in zip(abi.fields, values, strict=True):
        if is_indexed:
            indexed.append(encode([kind], [value]))
        else:
            plain.append((kind, value))
    return Log(
        address=DOMAIN.contract,
        topics=(abi.topic, *indexed),
        data=encode([kind for kind, _ in plain], [value for _, value in plain]),
        block_number=1,
        block_hash=Hash32("0x" + "01" * 32),
        tx_hash=Hash32("0x" + "02" * 32),
        log_index=0,
    )


def created(job_id: JobId = JOB, host: Address = HOST) -> Log:
    return event("SessionJobCreatedForModel", job_id, DEPOSITOR, host, bytes(32), 1)


def completed(job_id: JobId = JOB) -> Log:
    return event("SessionCompleted", job_id, 0, 0, 0)


def timed_out(job_id: JobId = JOB) -> Log:
    return event("SessionTimedOut", job_id, 0, 0)


async def follow(rail: OpenRail, *steps: Step) -> None:
    async def each() -> AsyncIterator[Step]:
        for step in steps:
            yield step

    await rail.follower.run(each())
    assert all(step.is_committed for step in steps)


async def test_a_session_that_is_opened_with_this_host_is_journalled(rail: OpenRail) -> None:
    await follow(rail, Step([created()]))

    assert (await rail.row()).depositor == DEPOSITOR
    assert (await rail.row()).signer is None


async def test_what_an_event_says_is_looked_up_and_not_believed(rail: OpenRail) -> None:
    await used(rail)
    await follow(rail, Step([completed(), timed_out()]))  # on a branch that the chain left
    assert (await rail.row()).tokens_settled is None
    gone = JobId(11)
    await follow(rail, Step([created(gone)]))

    assert await rail.ledger.session(gone) is None


async def test_an_end_by_the_renter_is_booked(rail: OpenRail) -> None:
    await used(rail)
    rail.contract.complete_by(DEPOSITOR, JOB)
    await follow(rail, Step([completed(), completed()]))

    assert (await rail.row()).outcome == "completed"
    assert set(rail.live.forgotten) == {JOB}


async def test_others_sessions_are_theirs(rail: OpenRail) -> None:
    await follow(rail, Step([created(host=OTHER), completed(JobId(12)), timed_out(JobId(13))]))

    assert await rail.ledger.sessions(unsettled_only=False) == []


async def test_a_session_that_ended_before_it_was_read_is_not_opened(rail: OpenRail) -> None:
    rail.contract.complete_by(DEPOSITOR, JOB)
    await follow(rail, Step([created(), completed()]))

    assert await rail.ledger.session(JOB) is None


async def test_blocks_that_leave_the_chain_only_wake_the_settler(rail: OpenRail) -> None:
    await follow(rail, Step([]))

    assert await rail.ledger.sessions(unsettled_only=False) == []


async def test_an_event_of_another_layout_holds_nobody_up(
    rail: OpenRail, caplog: pytest.LogCaptureFixture
) -> None:
    broken = replace(created(), data=b"\1")
    unknown = replace(created(), topics=(bytes(32),))
    with caplog.at_level(logging.WARNING):
        await follow(rail, Step([broken, unknown, created()]))

    assert (await rail.row()).depositor == DEPOSITOR
    assert "passed over" in caplog.text


async def test_chain_and_journal_are_waited_for(
    rail: OpenRail, caplog: pytest.LogCaptureFixture
) -> None:
    await used(rail)
    rail.contract.complete_by(DEPOSITOR, JOB)
    rail.ledger.num_failures = 3
    with caplog.at_level(logging.WARNING):
        await follow(rail, Step([completed()], num_failures=2))

    assert (await rail.row()).outcome == "completed"
    assert caplog.text.count("looked at again soon") == 3
    assert caplog.text.count("noted soon") == 2
