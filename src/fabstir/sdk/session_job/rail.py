"""The rail itself: what clients and sessions see of JobMarketplace."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from fabstir.chain.contracts import Contracts
from fabstir.chain.rpc import Chain
from fabstir.db.renter import RenterSession
from fabstir.market.worth import GAS_TO_END
from fabstir.primitives.ids import NATIVE_TOKEN, Address
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.eip712 import Domain
from fabstir.protocol.exchange.verification import Verified
from fabstir.protocol.payloads import ClosedPlaintext
from fabstir.protocol.receipts import SignedAcknowledgement
from fabstir.sdk.journal import RenterJournal
from fabstir.sdk.money import PaymentToken, SessionSettlement
from fabstir.sdk.recovered import RecoveredConversation
from fabstir.sdk.session_job.checkpoints import CheckpointReader
from fabstir.sdk.session_job.deposits import Deposits, offer_of
from fabstir.sdk.session_job.watcher import Watcher

GAS_TO_OPEN: Final = 362_000
"""The most that an approval (45,968) and a first session in an ERC-20 (315,698) took. The chain
cannot estimate it before the approval; it does estimate a session in its own coin."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionJobPayments:
    """Sessions of JobMarketplace. See `sdk.rail.RenterRail`."""

    chain: Chain
    contracts: Contracts
    journal: RenterJournal
    deposits: Deposits
    watcher: Watcher
    checkpoints: CheckpointReader
    crypto: Crypto
    max_gas_to_open: int = GAS_TO_OPEN
    gas_to_end: int = GAS_TO_END

    @property
    def contract(self) -> Address:
        return self.contracts.marketplace.address

    async def gas_to_open(self, session: RenterSession) -> int:
        if session.payment_token != NATIVE_TOKEN:
            return GAS_TO_OPEN
        call = self.contracts.marketplace.create_session(offer_of(session))
        return await self.chain.estimate_gas(call, session.depositor)

    async def open(self, session: RenterSession) -> RenterSession:
        return await self.deposits.lock(session)

    async def agree(self, session: RenterSession, verified: Verified) -> SignedAcknowledgement:
        signed = verified.acknowledgement.sign(
            session.session_secret, Domain(session.chain_id, session.contract), self.crypto
        )
        await self.journal.agree(session, verified.plaintext.signed, signed)
        return signed

    async def end(
        self, session: RenterSession, closed: ClosedPlaintext | None, *, now: bool = False
    ) -> RenterSession:
        if closed is not None and closed.settles_in is not None and not now:
            session = await self.watcher.let_host_settle(session, closed.settles_in)
        is_final = closed is not None and closed.is_final
        return await self.watcher.bring_home(session, now=now or is_final)

    async def settlement(self, session: RenterSession, token: PaymentToken) -> SessionSettlement:
        return await self.watcher.settlement(session, token)

    async def conversation(self, session: RenterSession) -> RecoveredConversation:
        return await self.checkpoints.conversation(session)

    @contextmanager
    def using(self, session: RenterSession) -> Generator[None]:
        self.watcher.in_use.add(session.id)
        try:
            yield
        finally:
            self.watcher.in_use.discard(session.id)

    async def look_at_all(self) -> list[RenterSession]:
        return await self.watcher.look_at_all()

    async def run(self) -> None:
        await self.watcher.run()
