"""What a host adds to a conversation before the model sees it, named so that nothing is hidden.

A receipt binds the request as it was executed, additions included, and a digest of the additions
alone. The host delivers them under seal, and so the renter can compute both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.content import Message
from fabstir.protocol.fields import Fields
from fabstir.protocol.limits import MAX_ADDITIONS, MAX_ADDITIONS_BYTES, MAX_MESSAGES

ADDITION_KINDS: Final = frozenset({"instructions", "retrieval", "summary"})
"""A system prompt of the host's, passages that it found, and earlier messages made shorter."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """One message that the host wrote.

    Attributes:
        kind: one of ADDITION_KINDS.
        index: before which of the renter's messages it stands, from 0.
        num_replaced: how many of the renter's messages, from `index` on, the model did not see
            because this one stands for them.
    """

    kind: str
    index: int
    message: Message
    num_replaced: int = 0

    def to_json(self) -> Json:
        return {
            "kind": self.kind,
            "index": self.index,
            "numReplaced": self.num_replaced,
            "message": self.message.to_json(),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError."""
        kind = fields.text("kind", limit=32)
        if kind not in ADDITION_KINDS:
            raise RemoteProtocolError(
                f"{fields.where}: kind must be one of {sorted(ADDITION_KINDS)}"
            )
        return cls(
            kind=kind,
            index=fields.integer("index", limit=MAX_MESSAGES + 1),
            num_replaced=fields.integer("numReplaced", limit=MAX_MESSAGES + 1),
            message=Message.from_fields(fields.child("message")),
        )


def additions_json(additions: Sequence[Addition]) -> Json:
    """The list in the form that travels and is hashed."""
    return [addition.to_json() for addition in additions]


def parse_additions(fields: Fields, name: str) -> tuple[Addition, ...]:
    """The additions in a message of the host; none if the field is not there.

    Raises:
        RemoteProtocolError: they are malformed, or longer than MAX_ADDITIONS_BYTES.
    """
    listed = fields.optional_children(name, limit=MAX_ADDITIONS)
    additions = tuple(Addition.from_fields(each) for each in listed)
    if len(canonical_json(additions_json(additions))) > MAX_ADDITIONS_BYTES:
        raise RemoteProtocolError(f"{fields.where}: {name} is over {MAX_ADDITIONS_BYTES} bytes")
    return additions


def with_additions(
    messages: Sequence[Message], additions: Sequence[Addition]
) -> tuple[Message, ...]:
    """The conversation that the model saw.

    Args:
        additions: in the order in which they stand in the conversation.

    Raises:
        ValueError: they are out of order, overlap, or reach beyond the conversation.
    """
    seen: list[Message] = []
    at = 0
    for addition in additions:
        end = addition.index + addition.num_replaced
        if not at <= addition.index <= end <= len(messages):
            raise ValueError(
                f"an addition at message {addition.index} for {addition.num_replaced} messages "
                f"does not fit a conversation of {len(messages)}"
            )
        seen += [*messages[at : addition.index], addition.message]
        at = end
    return (*seen, *messages[at:])
