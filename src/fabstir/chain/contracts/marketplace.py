"""JobMarketplaceWithModels: sessions, deposits, delegates."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final

from fabstir.chain.contracts._contract import Contract
from fabstir.chain.records import ContractCall
from fabstir.chain.rpc import BlockTag
from fabstir.primitives.ids import NATIVE_TOKEN, Address, Hash32, JobId, ModelId, hash32, to_bytes
from fabstir.primitives.units import BasisPoints, PricePerToken, TokenCount, Wei


GAS_LIMIT_TO_END: Final = 600_000
"""For the end of a session, which becomes dearer by a claim that is mined before it: the contract
wants 294,603 gas to be left at each of two payments, and uses 195,000 at most."""


class SessionStatus(IntEnum):
    """How far a session is."""

    ACTIVE = 0
    COMPLETED = 1
    TIMED_OUT = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionJob:
    """A session as the contract stores it; the order is that of its getter's 18 outputs."""

    id: JobId
    depositor: Address
    host: Address
    payment_token: Address
    """NATIVE_TOKEN for the chain's own coin."""
    deposit: Wei
    price_per_token: PricePerToken
    tokens_used: TokenCount
    """The sum of all claims so far."""
    max_duration: int
    """Seconds from the start after which anyone may time the session out."""
    start_time: int
    """Unix time in seconds."""
    last_proof_time: int
    """Unix time of the last claim; of the start before the first."""
    proof_interval: TokenCount
    proof_timeout_window: int
    """Seconds without a claim after which anyone may time the session out."""
    status: SessionStatus
    withdrawn_by_host: Wei
    """What the host was credited when the session closed."""
    refunded_to_user: Wei
    conversation_cid: str
    last_proof_hash: Hash32
    last_proof_cid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOffer:
    """The terms that a renter asks for."""

    host: Address
    model_id: ModelId
    payment_token: Address
    """NATIVE_TOKEN for the chain's own coin."""
    deposit: Wei
    price_per_token: PricePerToken
    """At least the host's own price for this model and token."""
    max_duration: int
    """Seconds, up to 365 days."""
    proof_interval: TokenCount
    """From 1 to what the deposit pays for."""
    proof_timeout_window: int
    """Seconds between the terms' minimum and maximum; 0 for the contract's default."""

    @property
    def terms(self) -> tuple[int, int, int, int]:
        """Price, duration, interval and window, as every way to open a session takes them."""
        return (
            self.price_per_token,
            self.max_duration,
            self.proof_interval,
            self.proof_timeout_window,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketplaceTerms:
    """What is the same for all sessions of a marketplace. Durations in seconds."""

    fee: BasisPoints
    """The treasury's share of what the host is paid."""
    dispute_window: int
    """How long a host waits after its last claim before it may complete."""
    min_proof_timeout: int
    default_proof_timeout: int
    max_proof_timeout: int
    min_deposit: Wei
    """Of the native coin; other tokens have their own."""
    min_proven_tokens: TokenCount
    """No claim may be smaller. 1 in our contract, 100 in the original."""
    min_tokens_fee: TokenCount
    """What a renter pays who completes before any claim. 0 in our contract."""
    is_paused: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofSubmission:
    """One claim of a host."""

    proof_hash: Hash32
    tokens_claimed: TokenCount
    timestamp: int
    is_verified: bool
    delta_cid: str


class Marketplace(Contract):
    """The contract that holds deposits and settles sessions."""

    artifact = "JobMarketplaceWithModels"

    async def terms(self) -> MarketplaceTerms:
        """Its constants. They cannot change in our contract, so one read is enough."""
        return MarketplaceTerms(
            fee=BasisPoints(await self._read_one("feeBasisPoints")),
            dispute_window=await self._read_one("disputeWindow"),
            min_proof_timeout=await self._read_one("MIN_PROOF_TIMEOUT"),
            default_proof_timeout=await self._read_one("DEFAULT_PROOF_TIMEOUT"),
            max_proof_timeout=await self._read_one("MAX_PROOF_TIMEOUT"),
            min_deposit=Wei(await self._read_one("MIN_DEPOSIT")),
            min_proven_tokens=TokenCount(await self._read_one("MIN_PROVEN_TOKENS")),
            min_tokens_fee=TokenCount(await self._read_one("minTokensFee")),
            is_paused=await self._read_one("paused"),
        )

    async def dispute_window(self) -> int:
        """Seconds that a host waits after its last claim before it may complete."""
        return int(await self._read_one("disputeWindow"))

    async def session(self, job_id: JobId, *, tag: BlockTag = "latest") -> SessionJob | None:
        """A session by its number; None if there is none."""
        values = await self._read("sessionJobs", job_id, tag=tag)
        try:
            session = _parse_session(values)
        except ValueError as exc:
            raise self._unreadable(f"session {job_id} is no session: {exc}") from exc
        return None if session.depositor == NATIVE_TOKEN else session

    async def session_model(self, job_id: JobId) -> ModelId:
        """Which model the session was opened for."""
        return ModelId(hash32(await self._read_one("sessionModel", job_id)))

    async def proof(self, job_id: JobId, index: int) -> ProofSubmission:
        """One of a session's claims, counted from 0."""
        values = await self._read("getProofSubmission", job_id, index)
        return ProofSubmission(
            proof_hash=hash32(values[0]),
            tokens_claimed=TokenCount(values[1]),
            timestamp=values[2],
            is_verified=values[3],
            delta_cid=values[4],
        )

    async def is_delegate(self, depositor: Address, delegate: Address) -> bool:
        """Whether the depositor lets the delegate act for it."""
        return bool(await self._read_one("isDelegateAuthorized", depositor, delegate))

    async def deposit_balance(self, account: Address, token: Address) -> Wei:
        """What the account can withdraw here: pre-deposits, and what could not be sent when a
        session was settled, a renter's refund or a host's share.
        """
        return Wei(await self._read_one("getDepositBalance", account, token))

    async def locked_balance(self, account: Address, token: Address) -> Wei:
        """What the account's open sessions hold."""
        if token == NATIVE_TOKEN:
            return Wei(await self._read_one("getLockedBalanceNative", account))
        return Wei(await self._read_one("getLockedBalanceToken", account, token))

    async def treasury_accumulated(self, token: Address) -> Wei:
        """Fees that wait for the treasury."""
        if token == NATIVE_TOKEN:
            return Wei(await self._read_one("accumulatedTreasuryNative"))
        return Wei(await self._read_one("accumulatedTreasuryTokens", token))

    async def treasury(self) -> Address:
        """Who may withdraw the fees."""
        return Address(await self._read_one("treasuryAddress"))

    def create_session(self, offer: SessionOffer) -> ContractCall:
        """Lock a deposit: native coin goes along; of an ERC-20 the allowance must cover it."""
        description = f"opening a session with {offer.host}"
        terms = offer.terms
        if offer.payment_token == NATIVE_TOKEN:
            return self._call(
                description,
                "createSessionJobForModel",
                offer.host,
                to_bytes(offer.model_id),
                *terms,
                value=offer.deposit,
            )
        return self._call(
            description,
            "createSessionJobForModelWithToken",
            offer.host,
            to_bytes(offer.model_id),
            offer.payment_token,
            offer.deposit,
            *terms,
        )

    def submit_proof(
        self,
        job_id: JobId,
        tokens: TokenCount,
        proof_hash: Hash32,
        *,
        proof_cid: str = "",
        delta_cid: str = "",
    ) -> ContractCall:
        """Claim tokens since the last claim (not in all). The host only."""
        return self._call(
            f"claiming {tokens} tokens of session {job_id}",
            "submitProofOfWork",
            job_id,
            tokens,
            to_bytes(proof_hash),
            proof_cid,
            delta_cid,
        )

    def complete_session(self, job_id: JobId, conversation_cid: str = "") -> ContractCall:
        """Settle: the depositor at any time, the host after the dispute window."""
        return self._call(
            f"completing session {job_id}",
            "completeSessionJob",
            job_id,
            conversation_cid,
            min_gas_limit=GAS_LIMIT_TO_END,
        )

    def trigger_timeout(self, job_id: JobId) -> ContractCall:
        """Settle a session whose host or time is gone. Anyone."""
        return self._call(
            f"timing out session {job_id}",
            "triggerSessionTimeout",
            job_id,
            min_gas_limit=GAS_LIMIT_TO_END,
        )

    def deposit(self, token: Address, amount: Wei) -> ContractCall:
        """Put money in for later sessions."""
        if token == NATIVE_TOKEN:
            return self._call("depositing native coin", "depositNative", value=amount)
        return self._call(f"depositing {token}", "depositToken", token, amount)

    def withdraw(self, token: Address, amount: Wei) -> ContractCall:
        """Take out what `deposit_balance` says."""
        if token == NATIVE_TOKEN:
            return self._call("withdrawing native coin", "withdrawNative", amount)
        return self._call(f"withdrawing {token}", "withdrawToken", token, amount)

def _parse_session(values: tuple[Any, ...]) -> SessionJob:
    return SessionJob(
        id=JobId(values[0]),
        depositor=Address(values[1]),
        host=Address(values[2]),
        payment_token=Address(values[3]),
        deposit=Wei(values[4]),
        price_per_token=PricePerToken(values[5]),
        tokens_used=TokenCount(_count(values[6])),
        max_duration=_count(values[7]),
        start_time=_count(values[8]),
        last_proof_time=_count(values[9]),
        proof_interval=TokenCount(_count(values[10])),
        proof_timeout_window=_count(values[11]),
        status=SessionStatus(values[12]),
        withdrawn_by_host=Wei(values[13]),
        refunded_to_user=Wei(values[14]),
        conversation_cid=values[15],
        last_proof_hash=hash32(values[16]),
        last_proof_cid=values[17],
    )


def _count(value: int) -> int:
    """Raises ValueError: more tokens or seconds than the journal's integers hold."""
    if value > _MAX_COUNT:
        raise ValueError(f"{value} is beyond {_MAX_COUNT}")
    return value


_MAX_COUNT = 2**63 - 1
