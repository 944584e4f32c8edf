"""Who may spend a session: the one check that stands before every door.

On chain: the job exists, is active, is ours, is for a model of ours, has not run out. In the
handshake: nothing replayed, the inner job is the outer one, and the caller is the depositor, its
on-chain delegate, or a session key that one of them signed. Clients that cannot sign that are
pinned to their first key, and give way to the depositor.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from fabstir.chain.contracts import Marketplace, SessionStatus
from fabstir.chain.gas_price import GasPrice
from fabstir.db.host_sessions import SessionRow, SessionState
from fabstir.jobs.records import ChainRecords
from fabstir.market.ledger import HostLedger
from fabstir.market.worth import HostTerms
from fabstir.primitives.errors import SessionRefused
from fabstir.primitives.ids import Address, JobId
from fabstir.protocol.authorization import SignedAuthorization
from fabstir.protocol.client_messages import EncryptedSessionInit
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.envelope import init_aad, open_init
from fabstir.protocol.limits import MAX_AUTHORIZATION_LIFETIME
from fabstir.protocol.payloads import InitPlaintext
from fabstir.protocol.receipts import SignedAcknowledgement
from fabstir.serving.models import ServedModel, ServedModels

_MAX_JOB_ID: Final = 1 << 63
"""What the journal's integers hold; contracts number jobs from 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A handshake that passed.

    Attributes:
        row: the session, which the signer speaks for now.
        model: the one that the session was opened for, which alone answers in it.
    """

    row: SessionRow
    model: ServedModel
    init: InitPlaintext
    signer: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The checks, with what they look at."""

    marketplace: Marketplace
    records: ChainRecords
    ledger: HostLedger
    terms: HostTerms
    gas_price: GasPrice
    domain: Domain
    host: Address
    models: ServedModels
    encryption_secret: bytes = field(repr=False)
    crypto: Crypto
    chain_time: Callable[[], Awaitable[int]]
    clock: Callable[[], float]

    async def admit(self, message: EncryptedSessionInit) -> Admission:
        """Check a handshake.

        Raises:
            RemoteProtocolError: it is malformed or not for this host's key.
            SessionRefused: it is not this caller's to spend; the code says why.
        """
        if message.chain_id not in {None, self.domain.chain_id}:
            raise SessionRefused(
                "WRONG_CHAIN",
                f"this host serves chain {self.domain.chain_id}, not {message.chain_id}",
            )
        opened = open_init(message.payload, self.encryption_secret, self.crypto)
        init = InitPlaintext.decode(opened.plaintext)
        if not str(init.job_id) == str(message.job_id) == message.session_id:
            raise SessionRefused(
                "JOB_MISMATCH",
                f"the encrypted job id {init.job_id} is not the outer one "
                f"(job {message.job_id}, session {message.session_id})",
            )
        row = await self._check_job(init.job_id)
        model = self.models.of_session(
            row.job_id, row.model_id, named=init.model_name, is_free=init.extension is None
        )
        is_proven = await self._is_proven(message, init, row, opened.signer)
        if not row.yields_to(opened.signer, is_proven=is_proven):
            raise _pinned(row, opened.signer)
        if row.signer is None:
            await self._check_terms(row)
        ephemeral = message.payload.ephemeral_public_key
        if not await self.ledger.use_handshake(row.job_id, ephemeral):
            raise SessionRefused(
                "REPLAYED_INIT", "this handshake was used before: make a new ephemeral key"
            )
        bound = await self.ledger.bind_renter(
            row.job_id, opened.signer, is_proven=is_proven, recovery=init.recovery_public_key
        )
        if bound is None:  # somebody else was admitted just now
            raise _pinned(row, opened.signer)
        if init.extension and init.extension.last_acknowledgement:
            await self._take_last(init.extension.last_acknowledgement, bound, opened.signer)
        return Admission(row=bound, model=model, init=init, signer=opened.signer)

    # -- on chain -----------------------------------------------------------------------------

    async def _check_job(self, job_id: JobId) -> SessionRow:
        if job_id >= _MAX_JOB_ID:
            raise SessionRefused("SESSION_NOT_FOUND", f"there is no session {job_id}")
        job = await self.marketplace.session(job_id)
        if job is None:
            raise SessionRefused(
                "SESSION_NOT_FOUND",
                f"there is no session {job_id} on {self.domain.contract} "
                f"(chain {self.domain.chain_id}): open one first",
            )
        if job.host != self.host:
            raise SessionRefused(
                "WRONG_HOST", f"session {job_id} is with host {job.host}, this is {self.host}"
            )
        if job.status != SessionStatus.ACTIVE:
            raise SessionRefused(
                "SESSION_NOT_ACTIVE",
                f"session {job_id} is {job.status.name.lower()} on chain: open another",
            )
        if await self.chain_time() > job.start_time + job.max_duration:
            raise SessionRefused(
                "SESSION_EXPIRED",
                f"session {job_id} is past its {job.max_duration} seconds: open another",
            )
        row = await self.records.row_of(job)
        if row.state != SessionState.OPEN:
            raise SessionRefused(
                "SESSION_NOT_ACTIVE", f"session {job_id} is being settled: open another"
            )
        return row

    async def _check_terms(self, row: SessionRow) -> None:
        """Before a session is used for the first time: it must be worth this host's while."""
        objection = self.terms.objection(row, await self.gas_price.look())
        if objection is not None:
            raise SessionRefused(
                "TERMS_REFUSED",
                f"session {row.job_id} is not served and costs nothing: {objection}",
            )

    # -- the caller ---------------------------------------------------------------------------

    async def _is_proven(
        self, message: EncryptedSessionInit, init: InitPlaintext, row: SessionRow, signer: Address
    ) -> bool:
        """Whether the signer is shown to be the depositor's. Raises if it claims so wrongly."""
        if init.extension is None:
            return await self._speaks_for(row, signer)
        expected = init_aad(self.domain.chain_id, self.domain.contract, row.job_id, self.host)
        if message.payload.sealed.aad != expected:
            raise SessionRefused(
                "JOB_MISMATCH", "the handshake is not bound to this chain, contract, job and host"
            )
        if init.extension.authorization is None:
            if await self._speaks_for(row, signer):
                return True
            raise SessionRefused(
                "NOT_DEPOSITOR",
                f"{signer} is neither the depositor {row.depositor} of session {row.job_id} nor "
                "its delegate, and shows no authorization",
            )
        await self._check_authorization(init.extension.authorization, row, signer)
        return True

    async def _check_authorization(
        self, signed: SignedAuthorization, row: SessionRow, signer: Address
    ) -> None:
        authorization = signed.authorization
        if authorization.job_id != row.job_id or authorization.host != self.host:
            raise SessionRefused(
                "JOB_MISMATCH", "the authorization is for another job or another host"
            )
        now = self.clock()
        if not now < authorization.expires_at <= now + MAX_AUTHORIZATION_LIFETIME:
            raise SessionRefused(
                "AUTHORIZATION_EXPIRED",
                "the session key's authorization has expired or reaches more than "
                f"{MAX_AUTHORIZATION_LIFETIME // 86400} days ahead: sign a new one",
            )
        wallet = signed.signer(self.domain, self.crypto)
        if (
            authorization.session_key != signer
            or wallet is None
            or not await self._speaks_for(row, wallet)
        ):
            raise SessionRefused(
                "NOT_DEPOSITOR",
                f"session {row.job_id} was paid by {row.depositor}; neither it nor a delegate of "
                "its authorized this session key",
            )

    async def _speaks_for(self, row: SessionRow, wallet: Address) -> bool:
        if wallet == row.depositor:
            return True
        return await self.marketplace.is_delegate(row.depositor, wallet)

    async def _take_last(
        self, signed: SignedAcknowledgement, row: SessionRow, signer: Address
    ) -> None:
        """Book an acknowledgement that this host lost when it crashed."""
        acknowledgement = signed.acknowledgement
        receipt = await self.ledger.find_receipt(acknowledgement.receipt_hash)
        if (
            receipt
            and acknowledgement.job_id == row.job_id
            and acknowledgement.sequence == receipt.sequence
            and acknowledgement.cumulative_tokens == receipt.cumulative_tokens
            and signed.is_signed_by(signer, self.domain, self.crypto)
        ):
            await self.ledger.acknowledge(signed)


def _pinned(row: SessionRow, signer: Address) -> SessionRefused:
    if row.signer == signer:
        return SessionRefused(
            "SESSION_PINNED",
            f"session {row.job_id} was opened with its depositor's authorization, and this "
            "handshake shows none: open it in the same way again",
        )
    return SessionRefused(
        "SESSION_PINNED",
        f"session {row.job_id} is in use by another key: only its depositor "
        f"{row.depositor} can take it over, with an authorization",
    )
