"""vLLM's doors: what is asked, and the events that its stream holds.

The prompt's token ids come from /tokenize, the answer from /v1/completions with `return_token_ids`:
the chat door would save a request, but what its parsers of reasoning and tools take out of an
answer is not in its text, and a receipt is over all that was generated (ADR 18).
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Final

from fabstir.engines._http import EngineRefused
from fabstir.engines._sse import EventDecoder
from fabstir.engines.engine import (
    GenerationChunk,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
    GenerationStart,
)
from fabstir.engines.openai.address import RemoteAddress
from fabstir.primitives.errors import (
    ConversationRefused,
    EngineCrashed,
    EngineUnavailable,
)
from fabstir.protocol.capabilities import ModelCapability
from fabstir.protocol.content import Message

PATH: Final = "/v1/completions"

CAPABILITIES: Final = frozenset(
    {
        ModelCapability.TOP_K,
        ModelCapability.MIN_P,
        ModelCapability.REPEAT_PENALTY,
        ModelCapability.PENALTIES,
        ModelCapability.LOGIT_BIAS,
    }
)
"""Not logprobs: it tells a token's text, which for a part of a character is not its bytes. Not JSON
either: what its grammars cannot follow of a schema (a reference to another document) they pass over
without a word, and no list says what that is."""

_DONE: Final = b"[DONE]"
_BAD_REQUEST: Final = 400


async def prompt_ids(
    address: RemoteAddress, model: str, messages: Sequence[Message]
) -> tuple[int, ...]:
    """The conversation in the model's own template, open for the answer.

    Raises:
        ConversationRefused: the template does not take these roles in this order.
        EngineUnavailable: it is loading or gone.
    """
    listed = [{"role": message.role, "content": message.text} for message in messages]
    body = {"model": model, "messages": listed, "add_generation_prompt": True}
    try:
        answer: Any = await address.post_json("/tokenize", body)
    except EngineRefused as error:
        if error.status != _BAD_REQUEST:
            raise EngineUnavailable(
                f"the engine refused to tokenize the prompt: {error.message}"
            ) from error
        raise ConversationRefused(
            f"the model's chat template does not take this conversation: {error.message}. "
            "Some models take no system message, or only user and assistant in turn"
        ) from error
    return tuple(answer["tokens"])


def completion_body(
    request: GenerationRequest, model: str, prompt: Sequence[int], room: int
) -> dict[str, Any]:
    """What the server is asked for; `room` is what the context has left."""
    sampling = request.sampling
    return {
        "model": model,
        "prompt": [*prompt, *request.generated],
        "max_tokens": min(sampling.max_tokens, room),
        "stream": True,
        "stream_options": {"include_usage": True},
        "return_token_ids": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": {str(token): bias for token, bias in sampling.logit_bias},
        "seed": sampling.seed,
        "stop": list(sampling.stop),
    }


class VllmReader:
    """The body of one streamed answer, turned into events with all of their token ids.

    vLLM keeps text back until it ends on a character's end, and longer where a stop string may have
    begun, and tells ids at once: they wait here for their text.

    Attributes:
        is_over: the end was read: nothing more follows.
    """

    def __init__(self, num_prompt_tokens: int) -> None:
        self.is_over = False
        self._num_prompt = num_prompt_tokens
        self._decoder = EventDecoder()
        self._waiting: list[int] = []
        self._num_delivered = 0
        self._finish_reason: str | None = None
        self._num_cached = 0
        self._asked_at = time.monotonic()
        self._started_at: float | None = None

    def feed(self, data: bytes) -> tuple[GenerationEvent, ...]:
        """The events that `data` completes.

        Raises:
            EngineCrashed: the engine says that it failed, or what it says is no event.
            EngineRefused: it does not take the request.
        """
        events: list[GenerationEvent] = []
        try:
            for payload in self._decoder.feed(data):
                if payload == _DONE:
                    events.append(self._end())
                    break
                self._read(payload, events)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise EngineCrashed(
                f"the engine sent an event that cannot be read ({error!r}): is it a vLLM server?"
            ) from error
        return tuple(events)

    def _read(self, payload: bytes, events: list[GenerationEvent]) -> None:
        event: dict[str, Any] = json.loads(payload)
        if "error" in event:
            if self._started_at is None and event["error"].get("code") == _BAD_REQUEST:
                raise EngineRefused(_BAD_REQUEST, payload)  # its status was sent before it looked
            raise EngineCrashed(f"the engine gave up: {event['error'].get('message', '')}")
        if self._started_at is None:
            self._started_at = time.monotonic()
            events.append(GenerationStart(self._num_prompt))
        if usage := event.get("usage"):
            details: Any = usage.get("prompt_tokens_details") or {}
            self._num_cached = int(details.get("cached_tokens") or 0)
        for choice in event["choices"]:
            self._finish_reason = choice["finish_reason"] or self._finish_reason
            self._waiting += map(int, choice["token_ids"])
            self._deliver(str(choice["text"]), events)

    def _deliver(self, text: str, events: list[GenerationEvent]) -> None:
        # At the end what has no text is the token that ends the answer, or begun a stop string.
        if text or (self._waiting and self._finish_reason == "stop"):
            events.append(GenerationChunk(text, tuple(self._waiting)))
            self._num_delivered += len(self._waiting)
            self._waiting.clear()

    def _end(self) -> GenerationEnd:
        if self._finish_reason not in {"stop", "length"}:
            raise EngineCrashed(f"the engine gave up: it finished with {self._finish_reason}")
        self.is_over = True
        started_at = self._started_at or time.monotonic()
        return GenerationEnd(
            finish_reason="length" if self._finish_reason == "length" else "stop",
            num_prompt_tokens=self._num_prompt,
            num_cached_tokens=self._num_cached,
            num_completion_tokens=self._num_delivered,
            prompt_seconds=started_at - self._asked_at,
            decode_seconds=time.monotonic() - started_at,
        )
