"""What the renter agreed to becomes tokens on chain: each once, none more, whatever goes wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from tests.unit.protocol.exchange.meeting import HOST, JOB
from tests.unit.rails.hosting import (
    DEPOSITOR,
    RECOVERY_SECRET,
    SIGNER,
    OpenRail,
    open_rail,
)
from tests.unit.rails.memory_contract import Killed, MemoryContract

from fabstir.crypto import NATIVE
from fabstir.db.claims import ClaimRow, ClaimState
from fabstir.primitives.cid import BlobId
from fabstir.primitives.errors import ChainError, RpcUnavailable, StorageFull
from fabstir.primitives.ids import Hash32, JobId
from fabstir.primitives.units import TokenCount, Wei
from fabstir.proofs.prover import ClaimedWork, Evidence
from fabstir.proofs.receipt_chain import ReceiptChainProver
from fabstir.protocol.checkpoint import open_delta

pytestmark = pytest.mark.anyio


@dataclass
class DuringProof:
    """The receipt chain, with something that happens while the evidence is made, once."""

    happens: Callable[[], object] | None = None

    async def prove(self, work: ClaimedWork) -> Evidence:
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()
        return await ReceiptChainProver().prove(work)


def on_chain(rail: OpenRail, job_id: JobId = JOB) -> int:
    return rail.contract.sessions[job_id].tokens_used


async def states(rail: OpenRail) -> list[ClaimState]:
    return [claim.state for claim in await rail.ledger.claims(JOB)]


async def blob(rail: OpenRail, cid: str) -> bytes:
    return await rail.blobs.get(BlobId.decode(cid).multihash, max_bytes=1 << 20)


# -- what goes out ------------------------------------------------------------------------------


async def test_what_was_agreed_to_is_claimed_once(rail: OpenRail) -> None:
    await rail.admit()
    receipt_hash = await rail.agree(100)

    assert await rail.claimer.claim(JOB) == 100
    assert await rail.claimer.claim(JOB) == 100

    assert on_chain(rail) == 100
    assert rail.contract.sessions[JOB].last_proof_hash == receipt_hash
    assert len(rail.contract.outcomes) == 1
    ((job_id, up_to, proof),) = rail.live.proofs
    assert (job_id, up_to, proof.tokens_claimed, proof.proof_id) == (JOB, 100, 100, receipt_hash)


async def test_a_claim_begins_where_the_one_before_it_ended(rail: OpenRail) -> None:
    await rail.admit()
    await rail.agree(100)
    await rail.claimer.claim(JOB)
    await rail.agree(20)
    await rail.agree(30)

    assert await rail.claimer.claim(JOB) == 150

    first, second = await rail.ledger.claims(JOB)
    assert [(c.start_token, c.end_token) for c in (first, second)] == [(0, 100), (100, 150)]
    bundle = json.loads(await blob(rail, second.proof_cid))
    assert len(bundle["receipts"]) == 2
    assert bundle["receipts"][0]["receipt"]["previous"] == first.proof_hash
    assert bundle["renterKey"] == SIGNER
    assert all(link["acknowledgement"] for link in bundle["receipts"])


async def test_what_was_said_is_published_sealed_to_its_renter(rail: OpenRail) -> None:
    await rail.admit(recovery=NATIVE.public_key(RECOVERY_SECRET))
    rail.say("What is a receipt?")
    await rail.agree(10)

    await rail.claimer.claim(JOB)

    (claim,) = await rail.ledger.claims(JOB)
    sealed = await blob(rail, claim.delta_cid)
    delta = open_delta(sealed, HOST, RECOVERY_SECRET, NATIVE)
    assert claim.is_encrypted
    assert b"receipt?" not in sealed
    assert [each.message.text for each in delta.messages] == ["What is a receipt?"]
    assert (delta.proof_hash, delta.end_token) == (claim.proof_hash, 10)
    assert rail.live.transcripts[JOB].messages == ()


async def test_nothing_that_was_said_is_published_in_clear(rail: OpenRail) -> None:
    await rail.admit()
    rail.say("a secret")
    await rail.agree(10)

    await rail.claimer.claim(JOB)

    (claim,) = await rail.ledger.claims(JOB)
    assert not claim.is_encrypted
    assert b"a secret" not in await blob(rail, claim.delta_cid)


async def test_a_session_that_is_not_live_is_claimed_from_the_journal(rail: OpenRail) -> None:
    await rail.admit()
    await rail.agree(10)
    rail.live.transcripts.clear()

    assert await rail.claimer.claim(JOB) == 10


async def test_two_who_claim_at_once_claim_once(rail: OpenRail) -> None:
    await rail.admit()
    await rail.agree(100)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(rail.claimer.claim, JOB)
        tasks.start_soon(rail.claimer.claim, JOB)

    assert on_chain(rail) == 100
    assert len(await rail.ledger.claims(JOB)) == 1


# -- what does not ------------------------------------------------------------------------------


async def test_a_claim_that_is_not_worth_its_gas_waits_until_it_is(rail: OpenRail) -> None:
    await rail.admit()
    await rail.agree(100)
    rail.contract.gas = Wei(10**9)

    assert await rail.claimer.claim(JOB) == 0
    assert await rail.ledger.claims(JOB) == []
    rail.contract.gas = Wei(10**4)
    assert await rail.claimer.claim(JOB) == 100


async def test_the_first_claim_must_pay_for_the_end_and_later_ones_for_themselves(
    rail: OpenRail,
) -> None:
    await rail.admit()
    rail.contract.gas = Wei(10**5)
    balance = await rail.ledger.balance(JOB)
    first = await rail.claimer.min_claim(await rail.row(), balance)
    await rail.agree(first - 1)
    assert await rail.claimer.claim(JOB) == 0
    await rail.agree(1)
    assert await rail.claimer.claim(JOB) == first

    later = await rail.claimer.min_claim(await rail.row(), await rail.ledger.balance(JOB))

    assert 1 < later < first


async def test_a_session_that_the_chain_does_not_know_is_not_claimed(rail: OpenRail) -> None:
    await rail.admit()
    await rail.agree(10)
    del rail.contract.sessions[JOB]

    with pytest.raises(ChainError, match="does not know session 9"):
        await rail.claimer.claim(JOB)


async def test_a_session_that_is_over_is_not_claimed(rail: OpenRail) -> None:
    await rail.admit()
    await rail.agree(10)
    rail.contract.complete_by(DEPOSITOR, JOB)

    assert await rail.claimer.claim(JOB) == 0
    assert await rail.ledger.claims(JOB) == []


async def test_another_sessions_tokens_are_never_claimed(rail: OpenRail) -> None:
    """A reorg gave its number to somebody else."""
    await rail.admit()
    await rail.agree(10)
    job = rail.contract.sessions[JOB]
    rail.contract.now += 60
    rail.contract.open(job, rail.contract.models[JOB])

    assert await rail.claimer.claim(JOB) == 0
    assert rail.restarted == [JOB]
    assert (await rail.row()).signer is None


# -- bad days -----------------------------------------------------------------------------------


async def test_a_claim_that_is_overtaken_by_an_end_is_given_up_with_its_transaction(
    rail: OpenRail,
) -> None:
    await rail.admit()
    await rail.agree(10)
    rail.contract.overtaken_by = lambda: rail.contract.complete_by(DEPOSITOR, JOB)

    assert await rail.claimer.claim(JOB) == 0

    (claim,) = await rail.ledger.claims(JOB)
    assert (claim.state, claim.reason) == (ClaimState.REFUSED, "Session not active")
    assert claim.tx_hash is not None
    assert rail.live.proofs == []


async def test_a_claim_for_a_session_that_ended_meanwhile_is_not_sent(
    tmp_path: Path, contract: MemoryContract
) -> None:
    prover = DuringProof(lambda: contract.complete_by(DEPOSITOR, JOB))
    async with open_rail(tmp_path, contract, prover=prover) as rail:
        await rail.admit()
        await rail.agree(10)

        assert await rail.claimer.claim(JOB) == 0

        (claim,) = await rail.ledger.claims(JOB)
        assert (claim.state, claim.tx_hash) == (ClaimState.REFUSED, None)
        assert contract.outcomes == {}


async def test_a_claim_that_the_contract_does_not_take_yet_stays_planned(rail: OpenRail) -> None:
    await rail.admit()
    receipt_hash = await rail.agree(10)
    rail.contract.spend(receipt_hash)

    assert await rail.claimer.claim(JOB) == 0
    assert await states(rail) == [ClaimState.PLANNED]
    rail.contract.spend(receipt_hash, is_spent=False)
    assert await rail.claimer.claim(JOB) == 10
    assert await states(rail) == [ClaimState.MINED]


async def test_tokens_of_a_claim_that_was_mined_and_refused_go_into_the_next(
    rail: OpenRail,
) -> None:
    await rail.admit()
    receipt_hash = await rail.agree(10)
    rail.contract.overtaken_by = lambda: rail.contract.spend(receipt_hash)

    assert await rail.claimer.claim(JOB) == 0
    assert await states(rail) == [ClaimState.REFUSED]
    await rail.agree(5)
    assert await rail.claimer.claim(JOB) == 15
    assert await states(rail) == [ClaimState.REFUSED, ClaimState.MINED]


async def test_a_chain_that_goes_away_delays_a_claim(
    tmp_path: Path, contract: MemoryContract
) -> None:
    def go_away() -> None:
        contract.is_away = True

    async with open_rail(tmp_path, contract, prover=DuringProof(go_away)) as rail:
        await rail.admit()
        await rail.agree(10)

        with pytest.raises(RpcUnavailable):
            await rail.claimer.claim(JOB)
        assert await states(rail) == [ClaimState.PLANNED]
        contract.is_away = False
        assert await rail.claimer.claim(JOB) == 10
        assert len(await rail.ledger.claims(JOB)) == 1


async def test_nothing_is_claimed_that_could_not_be_published(rail: OpenRail) -> None:
    await rail.admit(recovery=NATIVE.public_key(RECOVERY_SECRET))
    rail.say("kept")
    await rail.agree(10)
    rail.blobs.num_refused = 1

    with pytest.raises(StorageFull):
        await rail.claimer.claim(JOB)
    assert await rail.ledger.claims(JOB) == []
    assert len(rail.live.transcripts[JOB].messages) == 1
    assert await rail.claimer.claim(JOB) == 10
    assert rail.live.transcripts[JOB].messages == ()


@pytest.mark.parametrize("moment", ["kill_before", "kill_after"])
async def test_a_kill_between_plan_and_block_claims_nothing_twice(
    tmp_path: Path, contract: MemoryContract, moment: str
) -> None:
    async with open_rail(tmp_path, contract) as rail:
        await rail.admit()
        await rail.agree(10)
        setattr(contract, moment, True)
        with pytest.raises(Killed):
            await rail.claimer.claim(JOB)
        planned = await rail.ledger.claims(JOB)

    async with open_rail(tmp_path, contract) as rail:
        assert await rail.claimer.claim(JOB) == 10

        (claim,) = await rail.ledger.claims(JOB)
        assert [_without_outcome(each) for each in planned] == [_without_outcome(claim)]
        assert claim.state == ClaimState.MINED
        assert on_chain(rail) == 10
        assert len(contract.outcomes) == 1


def _without_outcome(claim: ClaimRow) -> tuple[object, ...]:
    return (claim.claim_index, claim.proof_hash, claim.proof_cid, claim.delta_cid, claim.end_token)


async def test_what_an_evicted_key_used_is_not_claimed_though_it_was_begun(
    tmp_path: Path, contract: MemoryContract
) -> None:
    """The depositor comes while the evidence is made."""

    class Evicting:
        async def prove(self, work: ClaimedWork) -> Evidence:
            await rail.ledger.bind_renter(JOB, DEPOSITOR, is_proven=True, recovery=None)
            return await ReceiptChainProver().prove(work)

    async with open_rail(tmp_path, contract, prover=Evicting()) as rail:
        await rail.admit(is_proven=False)
        await rail.agree(10, is_acknowledged=False)

        assert await rail.claimer.claim(JOB) == 0

        assert await rail.ledger.claims(JOB) == []
        assert contract.outcomes == {}


# -- another prover -----------------------------------------------------------------------------


class CountingProver:
    """Proves the number of tokens and nothing of how they came: no receipt's hash is its proof."""

    num_proofs = 0

    async def prove(self, work: ClaimedWork) -> Evidence:
        self.num_proofs += 1
        statement = f"{self.num_proofs}:{work.session.job_id}:{work.start_token}-{work.end_token}"
        proof_hash = "0x" + NATIVE.keccak256(statement.encode()).hex()
        return Evidence(proof_hash=Hash32(proof_hash), bundle=statement.encode())


async def test_another_prover_proves_claims(tmp_path: Path, contract: MemoryContract) -> None:
    prover = CountingProver()
    async with open_rail(tmp_path, contract, prover=prover) as rail:
        await rail.admit(recovery=NATIVE.public_key(RECOVERY_SECRET))
        await rail.agree(10)
        await rail.claimer.claim(JOB)
        await rail.agree(20)

        assert await rail.claimer.claim(JOB) == 30

        first, second = await rail.ledger.claims(JOB)
        assert await blob(rail, first.proof_cid) == b"1:9:0-10"
        assert await blob(rail, second.proof_cid) == b"2:9:10-30"
        assert contract.sessions[JOB].last_proof_hash == second.proof_hash
        delta = open_delta(await blob(rail, second.delta_cid), HOST, RECOVERY_SECRET, NATIVE)
        assert delta.proof_hash == second.proof_hash
        assert [proof.proof_id for _, _, proof in rail.live.proofs][-1] == second.proof_hash
        assert second.proof_hash not in {
            receipt.receipt_hash for receipt in await rail.ledger.receipts(JOB, after=TokenCount(0))
        }


async def test_evidence_is_made_once_for_a_claim_also_after_a_kill(
    tmp_path: Path, contract: MemoryContract
) -> None:
    prover = CountingProver()
    async with open_rail(tmp_path, contract, prover=prover) as rail:
        await rail.admit()
        await rail.agree(10)
        contract.kill_before = True
        with pytest.raises(Killed):
            await rail.claimer.claim(JOB)

    async with open_rail(tmp_path, contract, prover=prover) as rail:
        await rail.claimer.claim(JOB)

        (claim,) = await rail.ledger.claims(JOB)
        assert contract.sessions[JOB].last_proof_hash == claim.proof_hash
        assert prover.num_proofs == 1


async def test_an_eviction_keeps_what_another_prover_proved(
    tmp_path: Path, contract: MemoryContract
) -> None:
    async with open_rail(tmp_path, contract, prover=CountingProver()) as rail:
        await rail.admit(is_proven=False)
        await rail.agree(10, is_acknowledged=False)
        await rail.claimer.claim(JOB)
        await rail.agree(20, is_acknowledged=False)

        await rail.ledger.bind_renter(JOB, DEPOSITOR, is_proven=True, recovery=None)

        balance = await rail.ledger.balance(JOB)
        assert (balance.agreed, balance.proven) == (10, 10)
