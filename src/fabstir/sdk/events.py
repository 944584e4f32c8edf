"""What an answer consists of, as the app sees it."""

from __future__ import annotations

from dataclasses import dataclass

from fabstir.primitives.units import TokenCount, Wei
from fabstir.protocol.additions import Addition
from fabstir.protocol.answers import TokenLogprob, ToolCallPiece
from fabstir.protocol.receipts import Receipt


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A piece of the answer; `num_tokens` completion tokens, of which some may have no text.

    Attributes:
        reasoning, tool_calls: what else the model wrote here.
        logprobs: of the tokens, if they were asked for.
    """

    text: str
    num_tokens: TokenCount
    reasoning: str = ""
    tool_calls: tuple[ToolCallPiece, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptVerified:
    """The host's receipt says what was delivered; it is journalled and acknowledged.

    Attributes:
        cumulative_tokens: of the whole session.
        cost: of the whole session so far, in the payment token's smallest unit.
        deposit_left: what of the deposit is not spent yet.
        additions: what the host added to the conversation before the model saw it.
    """

    receipt: Receipt
    cumulative_tokens: TokenCount
    cost: Wei
    deposit_left: Wei
    additions: tuple[Addition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The answer is complete, or ended early for a reason.

    Attributes:
        finish_reason: stop, length, cancelled, deposit_exhausted, unacknowledged, draining or
            error; "unknown" for any other word of the host's.
    """

    finish_reason: str
    num_prompt_tokens: TokenCount
    num_completion_tokens: TokenCount


AnswerEvent = Text | ReceiptVerified | Finished
