"""What one answer has delivered, what waits to leave with its next piece, and what receipts say."""

from __future__ import annotations

from dataclasses import dataclass, field

from fabstir.engines import GenerationChunk
from fabstir.protocol.answers import AnswerContent, TokenLogprob
from fabstir.protocol.commitments import OutputCommitment
from fabstir.protocol.payloads import ChunkPlaintext
from fabstir.protocol.receipts import Work


@dataclass(slots=True)
class DeliveredOutput:
    """What was delivered."""

    token_ids: list[int] = field(default_factory=list[int])
    content: AnswerContent = field(default_factory=AnswerContent)
    num_chunks: int = 0
    num_receipted: int = 0

    @property
    def num_unreceipted(self) -> int:
        return len(self.token_ids) - self.num_receipted


@dataclass(slots=True)
class PendingPiece:
    """Chunks of the engine that leave as one piece."""

    texts: list[str] = field(default_factory=list[str])
    token_ids: list[int] = field(default_factory=list[int])
    logprobs: list[TokenLogprob] = field(default_factory=list[TokenLogprob])
    is_empty: bool = True

    def add(self, text: str, chunk: GenerationChunk) -> None:
        self.texts.append(text)
        self.token_ids += chunk.token_ids
        self.logprobs += chunk.logprobs
        self.is_empty = False

    def take(self) -> ChunkPlaintext:
        piece = ChunkPlaintext(
            text="".join(self.texts),
            token_ids=tuple(self.token_ids),
            logprobs=tuple(self.logprobs),
        )
        for each in (self.texts, self.token_ids, self.logprobs):
            each.clear()
        self.is_empty = True
        return piece


@dataclass(frozen=True, slots=True)
class AnswerBooks:
    """What a receipt says of the work, from the moment in which the prompt was read.

    Attributes:
        work: what no longer changes; its output and the number of its tokens do.
    """

    work: Work
    output: OutputCommitment
