"""A renter's session over streams in memory, paid for by a rail that is only a journal."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio.lowlevel
from tests.unit.doors.hosting import DEPOSITOR, SESSION, OpenDoor, open_door
from tests.unit.protocol.exchange.answering import DIGEST, DOMAIN
from tests.unit.protocol.exchange.meeting import (
    ENCRYPTION_SECRET,
    FACTS,
    HOST,
    JOB,
    NOW,
    SESSION_SECRET,
    WALLET_SECRET,
    randomness,
)

from fabstir.chain.keystore import Signer
from fabstir.crypto import NATIVE
from fabstir.db import open_database
from fabstir.db.renter import RenterSession, RenterState
from fabstir.primitives.errors import HostUnresponsive, NotFound
from fabstir.primitives.ids import Address
from fabstir.primitives.units import Wei, cost_of
from fabstir.protocol.exchange.streams import FrameStream
from fabstir.protocol.exchange.verification import Verified
from fabstir.protocol.payloads import ClosedPlaintext
from fabstir.protocol.receipts import ChainHead, SignedAcknowledgement
from fabstir.sdk.journal import RenterJournal
from fabstir.sdk.money import NATIVE_COIN, PaymentToken, SessionSettlement
from fabstir.sdk.recovered import RecoveredConversation
from fabstir.sdk.session import AsyncSession, SessionServices
from fabstir.sdk.transports import Transports

NEAR = "/memory/near"
FAR = "/memory/far"
GONE = "/memory/gone"

ROW = RenterSession(
    id="a",
    chain_id=DOMAIN.chain_id,
    contract=DOMAIN.contract,
    depositor=DEPOSITOR,
    host=HOST,
    host_public_key=NATIVE.public_key(ENCRYPTION_SECRET),
    api_url=GONE,
    model_id=SESSION.model_id,
    model_name="repo:file",
    model_digest=DIGEST,
    payment_token=NATIVE_COIN.address,
    deposit=FACTS.deposit,
    price_per_token=FACTS.price_per_token,
    proof_interval=SESSION.proof_interval,
    proof_window=3600,
    max_duration=86_400,
    session_secret=SESSION_SECRET,
    recovery_secret=bytes([8]) * 32,
    created_at=NOW,
    last_used_at=NOW,
    state=RenterState.OPENING,
)


@dataclass(slots=True)
class MemoryDialer:
    """A transport: streams in memory to a host that has no socket. See `Dialer`.

    Attributes:
        while_dialling: what happens before a stream is open.
    """

    host: OpenDoor
    while_dialling: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
    dialled: list[str] = field(default_factory=list[str])

    def can_dial(self, address: str) -> bool:
        return address.startswith("/memory/")

    async def dial(self, address: str, peer: str) -> FrameStream:
        self.dialled.append(address)
        await self.while_dialling()
        if address == GONE:
            raise HostUnresponsive(f"{peer} cannot be reached: it is gone")
        return self.host.dial()

    async def measure(self, address: str, peer: str) -> float:
        await (await self.dial(address, peer)).aclose()
        return {NEAR: 0.1, FAR: 0.2}[address]


@dataclass(slots=True)
class JournalPayments:
    """A way to pay without a chain: what is agreed to is what is owed. See `RenterRail`.

    Attributes:
        while_agreeing: what happens before an agreement is journalled.
    """

    journal: RenterJournal
    while_agreeing: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
    contract: Address = DOMAIN.contract
    max_gas_to_open: int = 0
    gas_to_end: int = 0

    async def gas_to_open(self, session: RenterSession) -> int:
        return 0

    async def open(self, session: RenterSession) -> RenterSession:
        return await self.journal.update(session, state=RenterState.OPEN, job_id=JOB)

    async def agree(self, session: RenterSession, verified: Verified) -> SignedAcknowledgement:
        signed = verified.acknowledgement.sign(session.session_secret, DOMAIN, NATIVE)
        await self.while_agreeing()
        await self.journal.agree(session, verified.plaintext.signed, signed)
        return signed

    async def end(
        self, session: RenterSession, closed: ClosedPlaintext | None, *, now: bool = False
    ) -> RenterSession:
        tokens = await self.journal.tokens_agreed(session)
        paid = cost_of(tokens, session.price_per_token)
        return await self.journal.update(
            session,
            state=RenterState.SETTLED,
            tokens_settled=tokens,
            host_paid=paid,
            refund=Wei(session.deposit - paid),
            outcome="completed",
        )

    async def settlement(self, session: RenterSession, token: PaymentToken) -> SessionSettlement:
        return SessionSettlement.of(session, token, await self.journal.tokens_agreed(session))

    async def conversation(self, session: RenterSession) -> RecoveredConversation:
        raise NotFound("nobody publishes what is paid for by a journal")

    @contextmanager
    def using(self, session: RenterSession) -> Generator[None]:
        yield

    async def look_at_all(self) -> list[RenterSession]:
        return []

    async def run(self) -> None:
        """Nothing is out."""


@dataclass(frozen=True, slots=True)
class Renting:
    """A session, and both ends of what it goes over."""

    session: AsyncSession
    host: OpenDoor
    dialer: MemoryDialer
    rail: JournalPayments


@asynccontextmanager
async def open_renting(
    folder: Path, words: list[str], *, addresses: tuple[str, ...] = (NEAR,), url: str = ""
) -> AsyncGenerator[Renting]:
    """A funded session at a host that reads the words out.

    Args:
        addresses: where the session dials.
        url: where the registry says that the host is.
    """
    async with (
        open_door(folder, words) as host,
        open_database(f"sqlite:///{folder}/renter.sqlite") as db,
        AsyncExitStack() as stack,
    ):
        journal = RenterJournal(db, DOMAIN.chain_id, DOMAIN.contract, DEPOSITOR, lambda: NOW)
        dialer, rail = MemoryDialer(host), JournalPayments(journal)

        async def find_url(_: Address) -> str:
            return url

        services = SessionServices(
            wallet=Signer(WALLET_SECRET),
            journal=journal,
            rail=rail,
            transports=Transports([dialer]),
            find_url=find_url,
            crypto=NATIVE,
            clock=lambda: NOW,
            random=randomness(3),
        )
        await journal.begin(replace(ROW), FACTS.deposit, NATIVE_COIN)
        row = await rail.open(ROW)
        session = AsyncSession(row, NATIVE_COIN, services, stack, ChainHead(), addresses)
        yield Renting(session, host, dialer, rail)
