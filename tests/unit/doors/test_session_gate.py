"""Who may spend a session, with a journal and without a chain: the gate, and the book behind it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.unit.doors.hosting import SESSION, JournalRail, OpenDoor, open_door
from tests.unit.protocol.exchange.answering import DIGEST, DOMAIN, HOST_SECRET
from tests.unit.protocol.exchange.meeting import (
    FACTS,
    JOB,
    PARTY,
    SESSION_SECRET,
    era_c_init,
    introduction,
    randomness,
)

from fabstir.crypto import NATIVE
from fabstir.primitives.errors import SessionRefused
from fabstir.primitives.ids import Hash32, JobId, ModelId
from fabstir.primitives.units import TokenCount
from fabstir.protocol.client_messages import EncryptedSessionInit
from fabstir.protocol.exchange.handshake import Greeting, introduce
from fabstir.protocol.host_messages import ProofMessage
from fabstir.protocol.receipts import (
    Acknowledgement,
    ChainHead,
    SignedAcknowledgement,
    Work,
    sign_receipt,
)
from fabstir.rails.rail import Funding
from fabstir.serving import gate as gates
from fabstir.serving.gate import Admission

pytestmark = pytest.mark.anyio

HEAD = Hash32("0x" + "12" * 32)
WORK = Work(
    model_digest=DIGEST,
    request_digest=DIGEST,
    additions_digest=DIGEST,
    output_commitment=DIGEST,
    num_prompt_tokens=TokenCount(1),
    num_completion_tokens=TokenCount(64),
)


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def init(stream: int = 1, last: SignedAcknowledgement | None = None) -> EncryptedSessionInit:
    """A depositor's handshake, of randomness of its own."""
    return introduce(PARTY, JOB, FACTS.price_per_token, introduction(last), randomness(stream)).init


async def nobody_to_evict() -> None:
    raise AssertionError("there is nobody to evict")


async def opened(host: OpenDoor, holder: object, stream: int = 1) -> Admission:
    admission = await host.gate.admit(init(stream))
    await host.book.open(admission, holder, nobody_to_evict)
    return admission


# -- the gate -------------------------------------------------------------------------------------


async def test_a_handshake_waits_for_its_turn_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gates, "ADMISSION_PATIENCE", 0.05)
    async with open_door(tmp_path) as host, anyio.create_task_group() as tasks:
        gate = replace(host.gate, rail=BothSeen(host.rail), _places=anyio.CapacityLimiter(1))
        tasks.start_soon(gate.admit, init(1))
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(SessionRefused) as refused:
            await gate.admit(init(2))
        tasks.cancel_scope.cancel()
        assert refused.value.code == "RATE_LIMITED"


async def test_an_acknowledgement_that_this_host_lost_is_booked_again(tmp_path: Path) -> None:
    async with open_door(tmp_path) as host:
        await opened(host, object())
        unknown = Acknowledgement(
            job_id=JOB, sequence=1, receipt_hash=HEAD, cumulative_tokens=TokenCount(64)
        ).sign(SESSION_SECRET, DOMAIN, NATIVE)

        await host.gate.admit(init(2, unknown))

        assert (await host.ledger.balance(JOB)).agreed == 0  # no receipt of ours: not believed


async def test_an_acknowledgement_for_a_receipt_of_ours_counts_again(tmp_path: Path) -> None:
    async with open_door(tmp_path) as host:
        await opened(host, object())
        receipt = ChainHead().next_request().make(JOB, WORK, FACTS.price_per_token)
        receipt_hash = receipt.hash(DOMAIN, NATIVE)
        await host.ledger.add_receipt(
            JOB,
            receipt_hash,
            sign_receipt(receipt, HOST_SECRET, DOMAIN, NATIVE),
            is_claimable=False,
            reserve_up_to=receipt.cumulative_tokens,
        )
        lost = Acknowledgement(
            job_id=JOB,
            sequence=receipt.sequence,
            receipt_hash=receipt_hash,
            cumulative_tokens=receipt.cumulative_tokens,
        ).sign(SESSION_SECRET, DOMAIN, NATIVE)

        await host.gate.admit(init(2, lost))

        assert (await host.ledger.balance(JOB)).agreed == WORK.num_completion_tokens


async def test_proof_is_not_given_up_by_a_weaker_handshake(tmp_path: Path) -> None:
    async with open_door(tmp_path) as host:
        await opened(host, object())

        with pytest.raises(SessionRefused, match="this handshake shows none") as refused:
            await host.gate.admit(era_c_init())

    assert refused.value.code == "SESSION_PINNED"


async def test_two_that_come_at_once_do_not_both_get_it(tmp_path: Path) -> None:
    outcomes: list[str] = []

    async def come(secret: bytes) -> None:
        try:
            await gate.admit(era_c_init(secret))
        except SessionRefused as refused:
            outcomes.append(refused.code)
        else:
            outcomes.append("admitted")

    async with open_door(tmp_path) as host, anyio.create_task_group() as tasks:
        gate = replace(host.gate, rail=BothSeen(host.rail))
        tasks.start_soon(come, bytes([21]) * 32)
        tasks.start_soon(come, bytes([22]) * 32)

    assert outcomes == ["admitted", "SESSION_PINNED"]


@dataclass(slots=True)
class BothSeen:
    """A rail whose look at a job takes until a second caller has looked, too."""

    rail: JournalRail
    num_seen: int = 0
    both: anyio.Event = field(default_factory=anyio.Event)

    async def admit(self, greeting: Greeting, *, accept: Callable[[ModelId], object]) -> Funding:
        funding = await self.rail.admit(greeting, accept=accept)
        self.num_seen += 1
        if self.num_seen == 2:
            self.both.set()
        await self.both.wait()
        return funding

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rail, name)


# -- the book -------------------------------------------------------------------------------------


async def test_what_the_journal_says_is_over_is_not_opened_again(tmp_path: Path) -> None:
    async with open_door(tmp_path) as host:
        admission = await host.gate.admit(init())
        await host.ledger.close(JOB, "its renter did not come back")

        with pytest.raises(SessionRefused) as refused:
            await host.book.open(admission, object(), nobody_to_evict)

    assert refused.value.code == "SESSION_NOT_ACTIVE"


async def test_who_was_evicted_while_it_opened_gets_nothing(tmp_path: Path) -> None:
    async with open_door(tmp_path) as host:
        admission = await host.gate.admit(init())
        theirs = replace(admission.greeting, signer=SESSION.depositor)

        with pytest.raises(SessionRefused) as refused:
            await host.book.open(replace(admission, greeting=theirs), object(), nobody_to_evict)

    assert refused.value.code == "SESSION_EVICTED"


async def test_a_session_is_present_while_somebody_holds_it(tmp_path: Path) -> None:
    async with open_door(tmp_path) as host:
        holder = object()
        await opened(host, holder)
        assert host.book.is_present(JOB)

        host.book.release(object())
        assert host.book.is_present(JOB)
        host.book.release(holder)
        assert not host.book.is_present(JOB)
        assert len(host.book) == 0


async def test_what_was_said_is_given_to_one_claim(tmp_path: Path) -> None:
    async with open_door(tmp_path) as host:
        await opened(host, object())
        said = host.book.said(JOB)
        assert said is not None
        assert (said.row.signer, said.messages) == (
            NATIVE.address_of(NATIVE.public_key(SESSION_SECRET)),
            (),
        )

        host.book.published(JOB, said)
        host.book.published(JobId(10), said)


async def test_a_rail_may_speak_of_sessions_that_are_not_live(tmp_path: Path) -> None:
    proof = ProofMessage(
        session_id="10", proof_id=HEAD, tokens_claimed=1, timestamp=1, size_bytes=1
    )
    async with open_door(tmp_path) as host:
        book, gone = host.book, JobId(10)
        book.proven(gone, TokenCount(1), proof)
        book.stop(gone)
        book.forget(gone)

        assert not book.is_present(gone)
        assert book.said(gone) is None


async def test_a_session_that_is_forgotten_begins_anew(tmp_path: Path) -> None:
    async with open_door(tmp_path) as host:
        over: list[JobId] = []
        admission = await host.gate.admit(init())
        session = await host.book.open(admission, object(), nobody_to_evict)
        session.on_over = lambda: over.append(JOB)

        host.book.forget(JOB)

        assert over == [JOB]
        assert host.book.said(JOB) is None
        again = await host.book.open(await host.gate.admit(init(2)), object(), nobody_to_evict)
        assert again is not session
