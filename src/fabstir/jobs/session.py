"""One session that is being served: what its sockets and its background work share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio

from fabstir.db.host_sessions import SessionRow
from fabstir.primitives.ids import Hash32
from fabstir.primitives.units import TokenCount, tokens_for
from fabstir.protocol.checkpoint import TimedMessage
from fabstir.protocol.content import Message
from fabstir.protocol.frames import Frame
from fabstir.protocol.limits import MAX_UNACKNOWLEDGED_TOKENS
from fabstir.protocol.receipts import ChainHead, Receipt
from fabstir.serving.conversation import Conversation
from fabstir.serving.models import ServedModel

MAX_LOST_TOKENS: Final = 4 * MAX_UNACKNOWLEDGED_TOKENS
"""What a session may lose by reconnecting before it is served no more. Without it, a renter that
reconnects instead of acknowledging would get a window for nothing each time."""

MAX_TRANSCRIPT_CHARS: Final = 256 * 1024
"""What is kept of a conversation for the next checkpoint: the newest of it. Prompts cost nothing on
rail 1, so without it a renter could fill the memory with them; and readers take no delta above
4 MiB, in which four bytes of a character are eight hex digits."""

LOST_SHARE: Final = 8
"""Bad networks: a long session may lose one token for this many that were agreed to."""

Send = Callable[[Callable[[], list[Frame]]], None]
"""Seals frames and queues them for the client in one step, so that counters go out in order. Never
waits. Raises BrokenResourceError when the client is gone."""


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


@dataclass(slots=True)
class LiveSession:
    """The state of a session in memory; the journal has all that must survive.

    Attributes:
        model: the one that it was opened for.
        issued: head of the receipts that were sent.
        agreed: tokens that may be claimed.
        delivered: tokens that were sent, receipted or not.
        proven: tokens that are on chain.
        lost: tokens sent on connections that ended before they were agreed to.
        pending: receipts that were sent and not acknowledged, by hash.
        seed_nonce: the host's part of the next request's seed; its commitment is published.
        is_closing: no further answer is begun.
        is_over: settled on chain; a running answer stops.
        has_forgotten: an earlier process of this host answered in it, and what was said is gone.
        owner: identifies the socket that may use the session; None when there is none.
        on_over: told when it is over; its owner sets it.
        transcript: what was said since the last claim, for the checkpoint.
    """

    row: SessionRow
    model: ServedModel
    seed_nonce: bytes
    issued: ChainHead = field(default_factory=ChainHead)
    agreed: TokenCount = TokenCount(0)
    delivered: TokenCount = TokenCount(0)
    proven: TokenCount = TokenCount(0)
    lost: int = 0
    pending: dict[Hash32, Receipt] = field(default_factory=dict[Hash32, Receipt])
    conversation: Conversation = field(default_factory=Conversation)
    transcript: list[TimedMessage] = field(default_factory=list[TimedMessage])
    owner: object | None = None
    notify: Send | None = None
    on_over: Callable[[], None] | None = None
    is_closing: bool = False
    is_over: bool = False
    has_forgotten: bool = False
    _changed: anyio.Event = field(default_factory=anyio.Event)

    @property
    def session_id(self) -> str:
        """Era-C's name for the session: the job id as text."""
        return str(self.row.job_id)

    @property
    def affordable(self) -> int:
        """Tokens that the deposit still covers, beyond what was delivered.

        Not beyond what was agreed to: a renter that agreed late to more than its deposit would
        make the whole claim revert.
        """
        return tokens_for(self.row.deposit, self.row.price_per_token) - self.delivered

    @property
    def unacknowledged(self) -> int:
        """Tokens delivered and not agreed to: this host's exposure to the renter."""
        return self.delivered - self.agreed

    @property
    def is_forgiven(self) -> bool:
        """Whether what was lost is still little, or little beside what was agreed to."""
        return self.lost <= max(MAX_LOST_TOKENS, self.agreed // LOST_SHARE)

    def resume(self, head: ChainHead) -> None:
        """A new connection goes on after `head`; what was sent after it is not billed."""
        self.lost += max(0, self.delivered - head.cumulative_tokens)
        self.issued = head
        self.agreed = self.delivered = head.cumulative_tokens
        self.pending.clear()

    def changed(self) -> None:
        """Wake whoever waits for an acknowledgement or a proof."""
        event, self._changed = self._changed, anyio.Event()
        event.set()

    async def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Whether `condition` came true within `timeout` seconds."""
        with anyio.move_on_after(timeout):
            while not condition():
                await self._changed.wait()
        return condition()

    def note(self, message: Message, timestamp: int, *, is_partial: bool = False) -> None:
        """Keep a message for the next checkpoint; only if it can be encrypted to the renter."""
        if not self.row.recovery_public_key:
            return
        self.transcript.append(
            TimedMessage(message=message, timestamp=timestamp, is_partial=is_partial)
        )
        num_chars = sum(len(each.message.text) for each in self.transcript)
        while num_chars > MAX_TRANSCRIPT_CHARS:
            num_chars -= len(self.transcript.pop(0).message.text)
