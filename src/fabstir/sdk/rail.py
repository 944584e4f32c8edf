"""What the SDK asks of a way to pay: the renter's half of `rails.rail`."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from fabstir.db.renter import RenterSession
from fabstir.primitives.ids import Address
from fabstir.primitives.units import Wei
from fabstir.protocol.exchange.verification import Verified
from fabstir.protocol.payloads import ClosedPlaintext
from fabstir.protocol.receipts import SignedAcknowledgement
from fabstir.sdk.money import PaymentToken, SessionSettlement
from fabstir.sdk.recovered import RecoveredConversation


@dataclass(frozen=True, slots=True)
class Committed:
    """What a wallet has in the contract of a rail, in smallest units of one payment token.

    Attributes:
        locked: in sessions that are not settled, as the contract counts them.
        free: pre-deposits, and refunds that wait for withdrawal.
    """

    locked: Wei
    free: Wei


class RailReader(Protocol):
    """One way to pay, looked at beside whoever uses it."""

    async def committed(self, wallet: Address, token: Address) -> Committed:
        """What the wallet has in the contract. Raises ChainError."""
        ...


class RenterRail(Protocol):
    """One way to pay. Every step is journalled before another party can see it.

    Attributes:
        contract: holds what is paid; sessions and the journal are named by it.
        max_gas_to_open: gas that opening takes at most.
        gas_to_end: gas of ending a session, if its host does not.
    """

    @property
    def contract(self) -> Address: ...
    @property
    def max_gas_to_open(self) -> int: ...
    @property
    def gas_to_end(self) -> int: ...

    async def gas_to_open(self, session: RenterSession) -> int:
        """Gas that opening a drafted session would take now; nothing is sent.

        Raises:
            TransactionReverted: the contract would not take it.
        """
        ...

    async def open(self, session: RenterSession) -> RenterSession:
        """Fund a journalled session; returns it with its number.

        Raises:
            InsufficientFunds, TransactionReverted: nothing is locked, the session has failed.
            TransactionStuck, RpcUnavailable: it may still be mined; `run` follows it.
        """
        ...

    async def agree(self, session: RenterSession, verified: Verified) -> SignedAcknowledgement:
        """Agree to pay for what a receipt says; returns what may be sent, once it is journalled."""
        ...

    async def end(
        self, session: RenterSession, closed: ClosedPlaintext | None, *, now: bool = False
    ) -> RenterSession:
        """Get the unspent rest of a closing session back, as far as that can be done now.

        Args:
            closed: the host's last word; None if it did not say it.
            now: at once, even if the host has not claimed all that was agreed to.

        Returns:
            The session, still closing if the host has time left to claim what was agreed to.

        Raises:
            ChainError: the chain does not answer or does not take the transaction.
        """
        ...

    async def settlement(self, session: RenterSession, token: PaymentToken) -> SessionSettlement:
        """Where the money went, or until when it waits. Raises ChainError."""
        ...

    async def conversation(self, session: RenterSession) -> RecoveredConversation:
        """What the host published with its claims.

        Raises:
            NotFound: nothing was claimed, or this rail's hosts publish nothing.
            FabstirError: neither the host nor the chain says what was claimed.
        """
        ...

    def using(self, session: RenterSession) -> AbstractContextManager[None]:
        """This process uses the session for the length of the block: `run` leaves it alone."""
        ...

    async def look_at_all(self) -> list[RenterSession]:
        """One round over every unfinished session that nobody uses; returns them as they are now.

        What cannot be done for one of them now is logged, and done in a later round.
        """
        ...

    async def run(self) -> None:
        """Bring home what is out, round by round, until cancelled. Nothing makes it give up."""
        ...
