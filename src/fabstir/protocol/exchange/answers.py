"""What an answer is made of, whoever makes it and whatever carries it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from fabstir.protocol.payloads import ChunkPlaintext, EndPlaintext, ReceiptPlaintext


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What a model wrote, up to a character's end, and exactly the tokens that are billed for it.

    Attributes:
        index: its place in the answer, from 0.
    """

    index: int
    chunk: ChunkPlaintext


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Nothing more comes.

    Attributes:
        plaintext: why, and what was counted.
        num_pieces: how many there were.
        max_model_len: the model's context, in tokens.
    """

    plaintext: EndPlaintext
    num_pieces: int
    max_model_len: int

    @property
    def is_complete(self) -> bool:
        """Whether the model or `max_tokens` ended it, and nothing else."""
        return self.plaintext.finish_reason in {"stop", "length"}


AnswerPart = Piece | ReceiptPlaintext | End
"""A receipt covers exactly the pieces before it."""

AnswerSink = Callable[[AnswerPart], None]
"""Takes an answer's parts in order. Never waits. Raises anyio.BrokenResourceError when whoever
asked is gone."""
