"""This rail over a journal on disk and a contract in memory: no socket, no chain, no model."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
from tests.unit.protocol.exchange.answering import DIGEST, DOMAIN, HOST_SECRET
from tests.unit.protocol.exchange.meeting import (
    HOST,
    JOB,
    NOW,
    SESSION_SECRET,
    WALLET_SECRET,
    randomness,
)
from tests.unit.rails.memory_contract import MemoryContract, job_of
from tests.unit.rails.memory_storage import MemoryBlobs, MemoryRegistry

from fabstir.crypto import NATIVE
from fabstir.db import open_database
from fabstir.db.host_sessions import SessionRow
from fabstir.market.ledger import HostLedger
from fabstir.market.worth import HostTerms
from fabstir.primitives.errors import StorageError
from fabstir.primitives.ids import NATIVE_TOKEN, Address, Hash32, JobId, ModelId
from fabstir.primitives.units import BasisPoints, PricePerToken, TokenCount, Wei
from fabstir.proofs.prover import Prover
from fabstir.proofs.receipt_chain import ReceiptChainProver
from fabstir.protocol.checkpoint import TimedMessage
from fabstir.protocol.content import Message
from fabstir.protocol.host_messages import ProofMessage
from fabstir.protocol.receipts import Acknowledgement, ChainHead, Work, sign_receipt
from fabstir.rails.rail import Said
from fabstir.rails.session_job.admission import JobAdmission
from fabstir.rails.session_job.checkpoint_files import CheckpointFiles
from fabstir.rails.session_job.checkpoints import Checkpoints
from fabstir.rails.session_job.claims import Claimer
from fabstir.rails.session_job.follower import SessionFollower
from fabstir.rails.session_job.rail import SessionJobRail
from fabstir.rails.session_job.records import ChainRecords
from fabstir.rails.session_job.settler import Settler
from fabstir.s5.formats.derivation import Identity
from fabstir.s5.formats.directory_cid import Capability
from fabstir.s5.fs import FileSystem
from fabstir.telemetry.waiting import Changes

START = int(NOW)
DEPOSITOR = NATIVE.address_of(NATIVE.public_key(WALLET_SECRET))
SIGNER = NATIVE.address_of(NATIVE.public_key(SESSION_SECRET))
MODEL = ModelId("0x" + "33" * 32)
PRICE = PricePerToken(200_000_000_000)
"""Wei for a thousand tokens."""
RECOVERY_SECRET = bytes([17]) * 32


def terms(**changes: object) -> HostTerms:
    """What this host asks; gas costs nothing unless the contract's `gas` says otherwise."""
    values: dict[str, object] = {
        "prices": {NATIVE_TOKEN: PRICE},
        "min_deposits": {},
        "min_proof_interval": TokenCount(1),
        "min_duration": 60,
        "max_unproven": TokenCount(1000),
        "fee": BasisPoints(1000),
        "min_proven": TokenCount(1),
    }
    return HostTerms(**{**values, **changes})  # pyright: ignore[reportArgumentType] - its fields


def make_contract(*, jobs: Sequence[JobId] = (JOB,)) -> MemoryContract:
    """With these sessions open, 10^15 wei in each: 5,000 tokens."""
    contract = MemoryContract(host=HOST, now=START)
    for job_id in jobs:
        open_job(contract, job_id)
    return contract


def open_job(contract: MemoryContract, job_id: JobId = JOB, depositor: Address = DEPOSITOR) -> None:
    contract.open(
        job_of(
            job_id,
            host=HOST,
            depositor=depositor,
            deposit=Wei(10**15),
            price_per_token=PRICE,
            max_duration=86_400,
            proof_timeout_window=3600,
        ),
        MODEL,
    )


@dataclass(slots=True)
class Live:
    """The sessions that are being served, as `LiveSessions` wants them, and what was said to it."""

    present: set[JobId] = field(default_factory=set[JobId])
    transcripts: dict[JobId, Said] = field(default_factory=dict[JobId, Said])
    proofs: list[tuple[JobId, TokenCount, ProofMessage]] = field(
        default_factory=list[tuple[JobId, TokenCount, ProofMessage]]
    )
    stopped: list[JobId] = field(default_factory=list[JobId])
    forgotten: list[JobId] = field(default_factory=list[JobId])
    on_look: Callable[[JobId], object] = field(default=lambda _job_id: None)
    _changes: Changes = field(default_factory=Changes)

    def is_present(self, job_id: JobId) -> bool:
        is_present = job_id in self.present
        self.on_look(job_id)
        return is_present

    def said(self, job_id: JobId) -> Said | None:
        return self.transcripts.get(job_id)

    def published(self, job_id: JobId, said: Said) -> None:
        self.transcripts[job_id] = Said(row=said.row, messages=())

    def proven(self, job_id: JobId, up_to: TokenCount, proof: ProofMessage) -> None:
        self.proofs.append((job_id, up_to, proof))
        self._changes.tell()

    def stop(self, job_id: JobId) -> None:
        self.stopped.append(job_id)

    def forget(self, job_id: JobId) -> None:
        self.forgotten.append(job_id)
        self._changes.tell()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Until something that is told here made it true."""
        with anyio.fail_after(60):
            while not condition():
                await self._changes.wait()


class FlakyLedger(HostLedger):
    """A journal that cannot be read the next few times."""

    num_failures = 0

    async def sessions(self, *, unsettled_only: bool) -> list[SessionRow]:
        self._fail()
        return await super().sessions(unsettled_only=unsettled_only)

    async def session(self, job_id: JobId) -> SessionRow | None:
        self._fail()
        return await super().session(job_id)

    def _fail(self) -> None:
        if self.num_failures:
            self.num_failures -= 1
            raise StorageError("the disk does not answer")


@dataclass(frozen=True, slots=True)
class Disk:
    """What a host keeps beside its journal."""

    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    registry: MemoryRegistry = field(default_factory=MemoryRegistry)


@dataclass(slots=True, kw_only=True)
class OpenRail:
    """The rail of one host, as its process has it."""

    contract: MemoryContract
    ledger: FlakyLedger
    live: Live
    blobs: MemoryBlobs
    checkpoints: Checkpoints
    files: CheckpointFiles
    claimer: Claimer
    settler: Settler
    follower: SessionFollower
    rail: SessionJobRail
    restarted: list[JobId]
    heads: dict[JobId, ChainHead] = field(default_factory=dict[JobId, ChainHead])

    async def admit(
        self, job_id: JobId = JOB, *, recovery: bytes | None = None, is_proven: bool = True
    ) -> SessionRow:
        """The session as the gate leaves it: journalled, with a signer, its socket open."""
        job = self.contract.sessions[job_id]
        await self.claimer.records.row_of(job)
        bound = await self.ledger.bind_renter(
            job_id, SIGNER, is_proven=is_proven, recovery=recovery
        )
        assert bound is not None
        self.live.present.add(job_id)
        self.live.transcripts[job_id] = Said(row=bound, messages=())
        return bound

    async def agree(
        self, tokens: int, job_id: JobId = JOB, *, is_acknowledged: bool = True
    ) -> Hash32:
        """An answer of so many tokens, to which the renter agreed; returns its receipt's hash.

        Args:
            is_acknowledged: False for a client that knows no acknowledgements.
        """
        head = self.heads.get(job_id) or await self.ledger.resume(job_id)
        receipt = head.next_request().make(job_id, _work(tokens), PRICE)
        receipt_hash = receipt.hash(DOMAIN, NATIVE)
        await self.ledger.add_receipt(
            job_id,
            receipt_hash,
            sign_receipt(receipt, HOST_SECRET, DOMAIN, NATIVE),
            is_claimable=not is_acknowledged,
            reserve_up_to=receipt.cumulative_tokens,
        )
        acknowledgement = Acknowledgement(
            job_id=job_id,
            sequence=receipt.sequence,
            receipt_hash=receipt_hash,
            cumulative_tokens=receipt.cumulative_tokens,
        )
        if is_acknowledged:
            await self.ledger.acknowledge(acknowledgement.sign(SESSION_SECRET, DOMAIN, NATIVE))
        self.heads[job_id] = head.next_request().advance(receipt, receipt_hash)
        return receipt_hash

    def say(self, text: str, job_id: JobId = JOB) -> None:
        """A message of the conversation, for the next checkpoint."""
        said = self.live.transcripts[job_id]
        message = TimedMessage(message=Message("user", text), timestamp=START * 1000)
        self.live.transcripts[job_id] = Said(row=said.row, messages=(*said.messages, message))

    async def row(self, job_id: JobId = JOB) -> SessionRow:
        row = await self.ledger.session(job_id)
        assert row is not None
        return row

    async def look(self) -> None:
        """One round of the watcher over every session that is not settled."""
        for row in await self.ledger.sessions(unsettled_only=True):
            await self.settler.look(row)


def _work(tokens: int) -> Work:
    return Work(
        model_digest=DIGEST,
        request_digest=DIGEST,
        additions_digest=DIGEST,
        output_commitment=DIGEST,
        num_prompt_tokens=TokenCount(1),
        num_completion_tokens=TokenCount(tokens),
    )


@asynccontextmanager
async def open_rail(
    folder: Path,
    contract: MemoryContract,
    *,
    prover: Prover | None = None,
    asked: HostTerms | None = None,
    disk: Disk | None = None,
    poll_seconds: float = 60.0,
) -> AsyncGenerator[OpenRail]:
    """As `node/work.py` puts it together; the same folder and disk again are the next process."""
    disk = disk or Disk()
    async with open_database(f"sqlite:///{folder}/journal.db") as db:
        root = Identity(b"\7" * 16, NATIVE).file_system_root()
        file_system = FileSystem(
            disk.blobs, disk.registry, Capability.of_keys(root, writable=True), NATIVE
        )
        ledger = FlakyLedger(db, DOMAIN.chain_id, DOMAIN.contract)
        live, restarted = Live(), list[JobId]()
        random = randomness()
        checkpoints = Checkpoints(
            blobs=disk.blobs,
            ledger=ledger,
            host=HOST,
            wallet_secret=HOST_SECRET,
            crypto=NATIVE,
            random=random,
        )
        files = CheckpointFiles(checkpoints, file_system, first_delay=0.0, max_delay=0.0)

        def clock() -> float:
            return float(contract.now)

        records = ChainRecords(
            contract=contract,
            ledger=ledger,
            domain=DOMAIN,
            clock=clock,
            on_restart=restarted.append,
        )
        wanted = asked or terms()
        claimer = Claimer(
            ledger=ledger,
            prover=prover or ReceiptChainProver(),
            checkpoints=checkpoints,
            contract=contract,
            records=records,
            terms=wanted,
            live=live,
            observe=lambda _tokens: None,
            on_mined=files.changed,
        )
        settler = Settler(
            ledger=ledger,
            claimer=claimer,
            contract=contract,
            records=records,
            terms=wanted,
            live=live,
            dispute_window=contract.dispute_window,
            reconnect_grace=60.0,
            clock=clock,
            serving_since=clock(),
            poll_seconds=poll_seconds,
        )
        admission = JobAdmission(
            contract=contract, records=records, terms=wanted, host=HOST, clock=clock
        )
        follower = SessionFollower(
            contract=contract,
            records=records,
            ledger=ledger,
            settler=settler,
            host=HOST,
            retry_seconds=0.0,
        )
        yield OpenRail(
            contract=contract,
            ledger=ledger,
            live=live,
            blobs=disk.blobs,
            checkpoints=checkpoints,
            files=files,
            claimer=claimer,
            settler=settler,
            follower=follower,
            rail=SessionJobRail(admission=admission, settler=settler, checkpoints=checkpoints),
            restarted=restarted,
        )
