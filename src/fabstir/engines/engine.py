"""The port that every engine offers: generate, cancel, and say what it is."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, Protocol

from fabstir.protocol.answers import TokenLogprob
from fabstir.protocol.capabilities import ModelCapability
from fabstir.protocol.content import Message
from fabstir.protocol.request import ResponseFormat
from fabstir.protocol.sampling import SamplingParams


class EngineState(StrEnum):
    """failed: it crashed too often and stays down until the host is started again."""

    LOADING = "loading"
    READY = "ready"
    RESTARTING = "restarting"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What is loaded.

    Attributes:
        max_model_len: tokens of context of one request, prompt and completion together.
        num_slots: requests that are decoded at the same time; more wait.
        build: the engine's own name for its version.
        chat_template: the model's own, as text.
        tuning: which thread counts were chosen, and why.
    """

    model: str
    max_model_len: int
    num_slots: int
    build: str
    chat_template: str
    tuning: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One completion.

    Attributes:
        messages: the conversation; the engine puts it into the model's own template, open for the
            answer.
        sampling: with a seed; `max_tokens` is how many are generated now.
        response_format: None for text. An answer that is held to a form cannot be gone on with in
            another request: the form would begin anew.
        generated: tokens of this answer that an earlier request gave; it goes on behind them.

    Raises:
        ValueError: there is no message or no seed, or max_tokens is less than 1 (llama.cpp
            generates a token for 0, and without end for -1).
    """

    messages: tuple[Message, ...]
    sampling: SamplingParams
    response_format: ResponseFormat | None = None
    generated: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.messages:
            raise ValueError("a conversation has at least one message")
        if self.sampling.seed is None:
            raise ValueError("an engine is told its seed, so that the answer can be made again")
        if self.sampling.max_tokens < 1:
            raise ValueError(f"max_tokens is {self.sampling.max_tokens}: ask for at least 1")


@dataclass(frozen=True, slots=True)
class GenerationStart:
    """The first event: the prompt has been read.

    Attributes:
        num_prompt_tokens: of the conversation in its template, without `generated`.
    """

    num_prompt_tokens: int


@dataclass(frozen=True, slots=True)
class GenerationChunk:
    """A piece of text that ends on a character's end, and the tokens that it is made of.

    The pieces joined are the answer. Every generated token is in exactly one piece, with four
    remarks: the token that ends an answer (EOS) is one of them, with no text; a token that may
    begin a stop string comes at once, with its text later or never; a character of several tokens
    is one piece; and tokens of a character that max_tokens cuts off are never delivered. What is
    billed is the number of `token_ids`.

    Attributes:
        logprobs: of the tokens, if they were asked for; an engine may miss some of a character's.
    """

    text: str
    token_ids: tuple[int, ...]
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationEnd:
    """Why and how a completion ended.

    Attributes:
        finish_reason: stop: the model ended it, or a stop string. length: max_tokens or the
            context is used up.
        num_prompt_tokens: as the start says.
        num_cached_tokens: of the prompt and `generated`, taken from an earlier request.
        num_completion_tokens: the `token_ids` of all pieces.
    """

    finish_reason: Literal["stop", "length"]
    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int
    prompt_seconds: float
    decode_seconds: float


GenerationEvent = GenerationStart | GenerationChunk | GenerationEnd

BATCH_SECONDS: Final = 0.02
"""The first piece of an answer comes at once, and then what has come in this time comes together:
what a piece costs (sealing, a frame, a wake-up on both sides) is many times what a token costs, and
nobody reads faster."""


class Engine(Protocol):
    """A language model that is loaded, whatever runs it."""

    @property
    def info(self) -> EngineInfo:
        """What is loaded."""
        ...

    @property
    def state(self) -> EngineState:
        """Whether it can answer now."""
        ...

    def capabilities(self) -> frozenset[ModelCapability]:
        """What it can do; a request that needs more is refused before anything is charged."""
        ...

    def generate(
        self, request: GenerationRequest
    ) -> AbstractAsyncContextManager[AsyncIterator[tuple[GenerationEvent, ...]]]:
        """Stream one completion: a start, chunks, one end, in batches of what has come.

        Entering the block sends the request and waits for nothing more. Leaving it early stops
        decoding.

        Raises, while entering or iterating:
            ContextLengthExceeded: the prompt leaves no room for a token.
            ConversationRefused: the template does not take these roles in this order.
            EngineUnavailable: it is loading or gone; nothing was generated.
            RequestRefused: it does not take the schema of the answer.
            EngineCrashed: it died in the middle.
        """
        ...
