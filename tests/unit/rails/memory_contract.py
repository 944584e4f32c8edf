"""JobMarketplace in memory: the contract's rules for a session, and a chain that a test holds.

Nothing here decides what is paid: `settle` does, the mirror of the contract. That these rules are
the contract's is held by tests/integration/market/test_memory_contract.py, which does the same
things to both.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Final

from fabstir.chain.contracts import SessionJob, SessionStatus
from fabstir.market.settlement import settle
from fabstir.primitives.errors import (
    ChainReplaced,
    RpcUnavailable,
    TransactionReverted,
)
from fabstir.primitives.ids import NATIVE_TOKEN, Address, Hash32, JobId, ModelId
from fabstir.primitives.units import BasisPoints, PricePerToken, TokenCount, Wei, tokens_for

FEE: Final = BasisPoints(1000)
"""The treasury's share, as the development chain has it."""

TOKENS_PER_SECOND: Final = 10_000
"""Of a model of which the registry says nothing else."""


Change = Callable[[], None]
"""What a transaction does to the state, once it is known that nothing is against it."""


class Refused(Exception):
    """`require` said no; the text is the contract's own."""


def _require(is_so: bool, reason: str) -> None:
    if not is_so:
        raise Refused(reason)


class Killed(BaseException):
    """SIGKILL, as seen by the code that was running."""


@dataclass(slots=True, kw_only=True)
class MemoryContract:
    """See `SessionContract`: what is sent comes from `host`. A renter's calls stand beside it.

    Attributes:
        now: the chain's time; time goes on by hand.
        is_away: the chain cannot be asked.
        is_another: it is a new chain of the same number.
        odd_model: what it says of the next session that is asked for its model, once.
        overtaken_by: done between the look that lets a transaction out and its block, once.
        kill_before, kill_after: the process dies as it sends, once: before anything is stored, or
            when the transaction is in the outbox. It is mined in any case then.
        outcomes: by key, what became of each transaction that went out.
    """

    host: Address
    now: int
    dispute_window: int = 30
    fee: BasisPoints = FEE
    gas: Wei = Wei(0)
    sessions: dict[JobId, SessionJob] = field(default_factory=dict[JobId, SessionJob])
    models: dict[JobId, ModelId] = field(default_factory=dict[JobId, ModelId])
    delegates: set[tuple[Address, Address]] = field(default_factory=set[tuple[Address, Address]])
    is_away: bool = False
    is_another: bool = False
    odd_model: ModelId | None = None
    overtaken_by: Callable[[], object] | None = None
    kill_before: bool = False
    kill_after: bool = False
    outcomes: dict[str, Hash32 | TransactionReverted] = field(
        default_factory=dict[str, "Hash32 | TransactionReverted"]
    )
    _spent: set[Hash32] = field(default_factory=set[Hash32])
    _hashes: count[int] = field(default_factory=lambda: count(1))

    # -- what this rail asks --------------------------------------------------------------------

    @property
    def gas_price(self) -> Wei:
        return self.gas

    async def look_at_gas_price(self) -> Wei:
        self._ask()
        return self.gas

    async def check_chain(self) -> None:
        self._ask()
        if self.is_another:
            raise ChainReplaced("another chain of this id answers")

    async def time(self) -> int:
        self._ask()
        return self.now

    async def session(self, job_id: JobId) -> SessionJob | None:
        self._ask()
        return self.sessions.get(job_id)

    async def session_model(self, job_id: JobId) -> ModelId:
        self._ask()
        odd, self.odd_model = self.odd_model, None
        return odd or self.models[job_id]

    async def is_delegate(self, depositor: Address, delegate: Address) -> bool:
        self._ask()
        return (depositor, delegate) in self.delegates

    async def submit_proof(
        self,
        key: str,
        job_id: JobId,
        tokens: TokenCount,
        proof_hash: Hash32,
        *,
        proof_cid: str,
        delta_cid: str,
    ) -> Hash32:
        return await self._send(
            key,
            f"claiming {tokens} tokens of session {job_id}",
            lambda: self._claim(job_id, tokens, proof_hash, proof_cid),
        )

    async def complete_session(self, key: str, job_id: JobId, conversation_cid: str) -> None:
        await self._send(
            key,
            f"completing session {job_id}",
            lambda: self._complete(self.host, job_id, conversation_cid),
        )

    async def trigger_timeout(self, key: str, job_id: JobId) -> None:
        await self._send(key, f"timing out session {job_id}", lambda: self._time_out(job_id))

    def _ask(self) -> None:
        if self.is_away:
            raise RpcUnavailable("the chain does not answer")

    async def _send(self, key: str, action: str, call: Callable[[], Change]) -> Hash32:
        """As the outbox does: looked at first, sent once for each key, and then mined."""
        self._ask()
        if key not in self.outcomes:
            try:
                call()
            except Refused as refused:
                raise TransactionReverted(action, str(refused)) from refused
            if self.kill_before:
                self.kill_before = False
                raise Killed
            self._overtake()
            self.outcomes[key] = self._mine(action, call)
            if self.kill_after:
                self.kill_after = False
                raise Killed
        outcome = self.outcomes[key]
        if isinstance(outcome, TransactionReverted):
            raise TransactionReverted(outcome.action, outcome.reason, outcome.tx_hash)
        return outcome

    def _overtake(self) -> None:
        overtaken_by, self.overtaken_by = self.overtaken_by, None
        if overtaken_by is not None:
            overtaken_by()

    def _mine(self, action: str, call: Callable[[], Change]) -> Hash32 | TransactionReverted:
        tx_hash = Hash32("0x" + next(self._hashes).to_bytes(32, "big").hex())
        try:
            apply = call()
        except Refused as refused:
            return TransactionReverted(action, str(refused), tx_hash)
        apply()
        return tx_hash

    # -- what renters and time do ---------------------------------------------------------------

    def open(self, job: SessionJob, model_id: ModelId) -> None:
        """A session as `createSessionJobForModel` leaves it, from now on."""
        self.sessions[job.id] = replace(job, start_time=self.now, last_proof_time=self.now)
        self.models[job.id] = model_id

    def complete_by(self, sender: Address, job_id: JobId) -> None:
        """`completeSessionJob` by anyone; raises Refused."""
        self._complete(sender, job_id, "")()

    def spend(self, proof_hash: Hash32, *, is_spent: bool = True) -> None:
        """A proof hash that counted already for this host, or does no more after a reorg."""
        (self._spent.add if is_spent else self._spent.discard)(proof_hash)

    # -- the contract's rules -------------------------------------------------------------------

    def _active(self, job_id: JobId) -> SessionJob:
        job = self.sessions.get(job_id)
        _require(job is not None, "Session not found")
        assert job is not None
        _require(job.status is SessionStatus.ACTIVE, "Session not active")
        return job

    def _claim(
        self, job_id: JobId, tokens: TokenCount, proof_hash: Hash32, proof_cid: str
    ) -> Change:
        job = self._active(job_id)
        _require(job.host == self.host, "Not host")
        _require(tokens >= 1, "Must claim minimum tokens")
        most = tokens_for(job.deposit, job.price_per_token)
        _require(tokens <= most - job.tokens_used, "Exceeds deposit")
        elapsed = self.now - job.last_proof_time + 1
        _require(tokens <= elapsed * TOKENS_PER_SECOND, "Excessive tokens claimed")
        _require(proof_hash not in self._spent, "Proof already used")

        def apply() -> None:
            self._spent.add(proof_hash)
            self.sessions[job_id] = replace(
                job,
                tokens_used=TokenCount(job.tokens_used + tokens),
                last_proof_time=self.now,
                last_proof_hash=proof_hash,
                last_proof_cid=proof_cid,
            )

        return apply

    def _complete(self, sender: Address, job_id: JobId, conversation_cid: str) -> Change:
        job = self._active(job_id)
        if sender != job.depositor:
            _require(sender == job.host, "Not authorized")
            is_free = self.now >= job.last_proof_time + self.dispute_window
            _require(is_free, "Must wait dispute window")
        return lambda: self._close(
            replace(job, conversation_cid=conversation_cid), SessionStatus.COMPLETED
        )

    def _time_out(self, job_id: JobId) -> Change:
        job = self._active(job_id)
        _require(
            self.now > job.start_time + job.max_duration
            or self.now > job.last_proof_time + job.proof_timeout_window,
            "Session not timed out",
        )
        return lambda: self._close(job, SessionStatus.TIMED_OUT)

    def _close(self, job: SessionJob, status: SessionStatus) -> None:
        parts = settle(job.deposit, job.tokens_used, job.price_per_token, self.fee)
        self.sessions[job.id] = replace(
            job, status=status, withdrawn_by_host=parts.host, refunded_to_user=parts.refund
        )


def job_of(
    job_id: JobId,
    *,
    host: Address,
    depositor: Address,
    deposit: Wei,
    price_per_token: PricePerToken,
    max_duration: int,
    proof_timeout_window: int,
    payment_token: Address = NATIVE_TOKEN,
) -> SessionJob:
    """A session that nothing happened to yet."""
    return SessionJob(
        id=job_id,
        depositor=depositor,
        host=host,
        payment_token=payment_token,
        deposit=deposit,
        price_per_token=price_per_token,
        tokens_used=TokenCount(0),
        max_duration=max_duration,
        start_time=0,
        last_proof_time=0,
        proof_interval=TokenCount(1000),
        proof_timeout_window=proof_timeout_window,
        status=SessionStatus.ACTIVE,
        withdrawn_by_host=Wei(0),
        refunded_to_user=Wei(0),
        conversation_cid="",
        last_proof_hash=Hash32("0x" + "00" * 32),
        last_proof_cid="",
    )


async def outcome_of(sent: Awaitable[object]) -> str:
    """What became of a transaction: "" if it was done, else the contract's reason."""
    try:
        await sent
    except TransactionReverted as refused:
        return refused.reason
    return ""
