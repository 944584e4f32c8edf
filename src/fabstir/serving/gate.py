"""Who may spend a session: the one check that stands before every door.

The rail says whether the job is there, ours and worth it, and for whom its caller speaks. Here:
nothing is replayed, and nobody takes a session from whom it need not yield to. Clients that cannot
show for whom they speak are pinned to their first key, and give way to the depositor.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import anyio

from fabstir.db.host_sessions import SessionRow
from fabstir.market.ledger import HostLedger
from fabstir.primitives.errors import SessionRefused
from fabstir.primitives.ids import Address, ModelId
from fabstir.protocol.client_messages import EncryptedSessionInit
from fabstir.protocol.exchange.handshake import Greeting, Party, read_init
from fabstir.protocol.receipts import SignedAcknowledgement
from fabstir.rails.rail import Rail
from fabstir.serving.models import ServedModel, ServedModels

MAX_ADMISSIONS: Final = 16
"""Handshakes at the gate at a time; each asks the chain some three times."""

ADMISSION_PATIENCE: Final = 5.0
"""Seconds that a handshake waits for its turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A handshake that passed.

    Attributes:
        row: the session, which the signer speaks for now.
        model: the one that the session was opened for, which alone answers in it.
    """

    row: SessionRow
    model: ServedModel
    greeting: Greeting

    @property
    def signer(self) -> Address:
        """The key that speaks for the session."""
        return self.greeting.signer


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """The checks, with what they look at."""

    party: Party
    rail: Rail
    ledger: HostLedger
    models: ServedModels
    encryption_secret: bytes = field(repr=False)
    _places: anyio.CapacityLimiter = field(
        default_factory=lambda: anyio.CapacityLimiter(MAX_ADMISSIONS)
    )

    async def admit(self, message: EncryptedSessionInit) -> Admission:
        """Check a handshake, in its turn: never more than a few look at the chain at a time.

        Raises:
            RemoteProtocolError: it is malformed or not for this host's key.
            SessionRefused: it is not this caller's to spend; the code says why.
            ChainError: whether it is cannot be known now.
        """
        try:
            with anyio.fail_after(ADMISSION_PATIENCE):
                await self._places.acquire()
        except TimeoutError:
            raise SessionRefused(
                "RATE_LIMITED",
                f"too many sessions are being opened here: try again in {ADMISSION_PATIENCE:g} s",
            ) from None
        try:
            return await self._check(message)
        finally:
            self._places.release()

    async def _check(self, message: EncryptedSessionInit) -> Admission:
        greeting = read_init(message, self.party, self.encryption_secret)
        job_id, signer = greeting.job_id, greeting.signer
        funding = await self.rail.admit(
            greeting, accept=lambda model_id: self._model(greeting, model_id)
        )
        model = self._model(greeting, funding.row.model_id)
        if not funding.row.yields_to(signer, is_proven=funding.is_proven):
            raise _pinned(funding.row, signer)
        ephemeral = message.payload.ephemeral_public_key
        if not await self.ledger.use_handshake(job_id, ephemeral):
            raise SessionRefused(
                "REPLAYED_INIT", "this handshake was used before: make a new ephemeral key"
            )
        bound = await self.ledger.bind_renter(
            job_id,
            signer,
            is_proven=funding.is_proven,
            recovery=greeting.init.recovery_public_key,
        )
        if bound is None:  # somebody else was admitted just now
            raise _pinned(funding.row, signer)
        offer = greeting.init.extension
        if offer and offer.last_acknowledgement:
            await self._take_last(offer.last_acknowledgement, bound, signer)
        return Admission(row=bound, model=model, greeting=greeting)

    def _model(self, greeting: Greeting, model_id: ModelId) -> ServedModel:
        init = greeting.init
        return self.models.of_session(
            greeting.job_id, model_id, named=init.model_name, is_free=init.extension is None
        )

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
            and signed.is_signed_by(signer, self.party.domain, self.party.crypto)
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
