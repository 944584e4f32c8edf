"""One session that is being served: what its connections and its background work share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import anyio

from fabstir.db.host_sessions import SessionRow
from fabstir.primitives.errors import SessionRefused
from fabstir.protocol.checkpoint import TimedMessage
from fabstir.protocol.content import Message
from fabstir.protocol.exchange.account import HostAccount
from fabstir.protocol.host_messages import ProofMessage
from fabstir.serving.conversation import Conversation
from fabstir.serving.models import ServedModel
from fabstir.telemetry.waiting import Changes

MAX_TRANSCRIPT_CHARS: Final = 256 * 1024
"""What is kept of a conversation for the next checkpoint: the newest of it. Prompts cost nothing on
rail 1, so without it a renter could fill the memory with them; and readers take no delta above
4 MiB, in which four bytes of a character are eight hex digits."""


@dataclass(slots=True)
class LiveSession:
    """The state of a session in memory; the journal has all that must survive.

    Attributes:
        model: the one that it was opened for.
        account: what was delivered, agreed to and proven, and in which phase it is.
        seed_nonce: the host's part of the next request's seed; its commitment is published.
        has_forgotten: an earlier process of this host answered in it, and what was said is gone.
        transcript: what was said since the last claim, for the checkpoint.
        on_proof: told of a mined claim; its connection sets it.
        on_over: told when it is over; its connection sets it.
    """

    row: SessionRow
    model: ServedModel
    account: HostAccount
    seed_nonce: bytes
    conversation: Conversation = field(default_factory=Conversation)
    transcript: list[TimedMessage] = field(default_factory=list[TimedMessage])
    has_forgotten: bool = False
    on_proof: Callable[[ProofMessage], None] | None = None
    on_over: Callable[[], None] | None = None
    _changes: Changes = field(default_factory=Changes)

    def changed(self) -> None:
        """Wake whoever waits for an acknowledgement or a proof."""
        self._changes.tell()

    async def wait_until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Whether `condition` came true within `timeout` seconds."""
        with anyio.move_on_after(timeout):
            while not condition():
                await self._changes.wait()
        return condition()

    def require_memory(self, *, is_self_contained: bool) -> None:
        """Refuse once to go on with a conversation that ended with an earlier process.

        Existing clients may send only what is new; answered without the rest, it would be billed
        nonsense. The code makes them begin anew.

        Raises:
            SessionRefused: the request does not bring what was said before.
        """
        has_forgotten, self.has_forgotten = self.has_forgotten, False
        if has_forgotten and not is_self_contained:
            raise SessionRefused(
                "SESSION_NOT_FOUND",
                "this host was started again and has kept nothing that was said in session "
                f"{self.account.session_id}: send the whole conversation again",
            )

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
