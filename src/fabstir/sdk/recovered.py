"""A conversation as its host published it."""

from __future__ import annotations

from dataclasses import dataclass

from fabstir.primitives.ids import JobId
from fabstir.protocol.checkpoint import TimedMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class MissingPart:
    """A claim whose delta could not be read.

    Attributes:
        start_token, end_token: completion tokens of the session before and after.
    """

    start_token: int
    end_token: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveredConversation:
    """What could be read back.

    Attributes:
        messages: in their order; a partial one is the beginning of the next one of its role.
        num_checkpoints: claims that were found.
        missing: of which nothing could be read, and why.
    """

    job_id: JobId
    messages: tuple[TimedMessage, ...]
    num_checkpoints: int
    missing: tuple[MissingPart, ...]
