"""What serving asks of a way to be paid, and what a rail asks of those that are being served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fabstir.db.host_sessions import SessionRow
from fabstir.primitives.ids import JobId, ModelId
from fabstir.primitives.units import TokenCount
from fabstir.protocol.checkpoint import TimedMessage
from fabstir.protocol.exchange.handshake import Greeting
from fabstir.protocol.host_messages import ProofMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class Funding:
    """A job that may be served, by its rail's word.

    Attributes:
        row: the journal's, held to what pays for it at this moment.
        is_proven: the caller was shown to speak for who pays.
    """

    row: SessionRow
    is_proven: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """Where a session stands whose renter is done.

    Attributes:
        tokens_proven: on chain.
        is_final: no further claim is coming: the rest, if any, is not worth its gas.
        settles_in: seconds until the host may end the session.
    """

    tokens_proven: TokenCount
    is_final: bool
    settles_in: int


class Rail(Protocol):
    """One way to be paid.

    Attributes:
        background: what goes on for as long as the host serves, by what complaints call it. Each is
            started again when an error of ours ends it.
    """

    @property
    def background(self) -> Mapping[str, Callable[[], Awaitable[None]]]: ...

    async def admit(self, greeting: Greeting, *, accept: Callable[[ModelId], object]) -> Funding:
        """Whether the job of a handshake is there, ours, worth it, and for whom its caller speaks.

        Args:
            accept: raises SessionRefused for a model that is not served.

        Raises:
            SessionRefused: it is not this caller's to spend, or not for this host.
            ChainError: it cannot be known now.
        """
        ...

    def allowance(self, row: SessionRow) -> int:
        """Tokens of a session that may be delivered beyond its last proof."""
        ...

    def agreed(self, row: SessionRow, unproven: int) -> None:
        """The renter agreed to more; `unproven` tokens are not on chain. Waits for nothing."""
        ...

    async def close(self, row: SessionRow) -> Closing:
        """The renter is done: claim everything now that is worth it, and settle from here on.

        Raises:
            ChainError: the claim could not be sent; it stays planned and is tried again.
        """
        ...

    async def drain(self, patience: float) -> None:
        """On shutdown, with `background` going on: claim what was agreed to, and settle what only
        waits for its time.

        Args:
            patience: seconds for each of the two.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What was said in a session since its last claim.

    Attributes:
        row: of whoever said it: his is the key that it is sealed to.
    """

    row: SessionRow
    messages: Sequence[TimedMessage]


class LiveSessions(Protocol):
    """The sessions that are being served, as a rail sees them. Nothing here waits."""

    def is_present(self, job_id: JobId) -> bool:
        """Whether a connection has the session."""
        ...

    def said(self, job_id: JobId) -> Said | None:
        """What waits for the next claim's checkpoint; None if the session is not live."""
        ...

    def published(self, job_id: JobId, said: Said) -> None:
        """It is in a checkpoint now: forget it."""
        ...

    def proven(self, job_id: JobId, up_to: TokenCount, proof: ProofMessage) -> None:
        """A claim was mined: more may be delivered, and the client is told."""
        ...

    def stop(self, job_id: JobId) -> None:
        """No further answer is begun."""
        ...

    def forget(self, job_id: JobId) -> None:
        """It is over, or its number another session's."""
        ...
