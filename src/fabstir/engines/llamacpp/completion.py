"""llama.cpp's POST /completion: what is asked, and the events that its stream holds."""

from __future__ import annotations

import json
import time
from typing import Any, Final

from fabstir.engines._sse import EventDecoder
from fabstir.engines.engine import (
    GenerationChunk,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
    GenerationStart,
)
from fabstir.engines.llamacpp.forms import schema_of
from fabstir.engines.llamacpp.vocabulary import CharacterPieces
from fabstir.primitives.errors import ContextLengthExceeded, EngineCrashed
from fabstir.protocol.answers import TokenLogprob

PATH: Final = "/completion"

_END_FIELDS: Final = ("stop", "stop_type", "tokens_evaluated", "timings")
"""Of the last event; the others repeat the prompt and the settings."""


def completion_body(request: GenerationRequest, text: str) -> dict[str, Any]:
    """What the server is asked for; `text` is the conversation in its template."""
    sampling = request.sampling
    body: dict[str, Any] = {
        "prompt": [text, *request.generated] if request.generated else text,
        "n_predict": sampling.max_tokens,
        "stream": True,
        "return_tokens": True,
        "response_fields": list(_END_FIELDS),
        "cache_prompt": True,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "logit_bias": [list(pair) for pair in sampling.logit_bias],
        "top_k": sampling.top_k,
        "seed": sampling.seed,
        "stop": list(sampling.stop),
    }
    if sampling.logprobs:
        body["n_probs"] = max(1, sampling.top_logprobs)  # 0 for no probabilities at all
    if request.response_format:
        body["json_schema"] = schema_of(request.response_format)
    return body


def num_tokens_too_many(refusal: bytes) -> int | None:
    """How many tokens a prompt has that the server refused for its length; None for any other
    refusal.
    """
    try:
        error = json.loads(refusal)["error"]
        is_too_long = error["type"] == "exceed_context_size_error"
        return int(error["n_prompt_tokens"]) if is_too_long else None
    except (ValueError, KeyError, TypeError):
        return None


class CompletionReader:
    """The body of one streamed answer, turned into events with all of their token ids.

    Attributes:
        is_over: the end was read: nothing more follows.
    """

    def __init__(
        self, pieces: CharacterPieces, request: GenerationRequest, max_model_len: int
    ) -> None:
        self.is_over = False
        self._pieces = pieces
        self._num_generated = len(request.generated)
        self._num_alternatives = request.sampling.top_logprobs
        self._max_model_len = max_model_len
        self._decoder = EventDecoder()
        self._num_prompt: int | None = None
        self._num_reported = 0
        self._num_delivered = 0
        self._is_text_withheld = False
        self._asked_at = self._started_at = time.monotonic()

    def feed(self, data: bytes) -> tuple[GenerationEvent, ...]:
        """The events that `data` completes.

        Raises:
            ContextLengthExceeded: the prompt leaves no room for a token.
            EngineCrashed: the engine says that it failed, or what it says is no event.
        """
        events: list[GenerationEvent] = []
        try:
            for payload in self._decoder.feed(data):
                self._read(json.loads(payload), events)
                if self.is_over:
                    break
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise EngineCrashed(
                f"the engine sent an event that cannot be read ({error!r}): is it a llama-server?"
            ) from error
        return tuple(events)

    def _read(self, event: dict[str, Any], events: list[GenerationEvent]) -> None:
        if "error" in event:
            raise EngineCrashed(f"the engine gave up: {event['error'].get('message', '')}")
        if self._num_prompt is None:
            events.append(self._start(event["tokens_evaluated"] - self._num_generated))
        if event["stop"]:
            self._end(event, events)
            return
        chunk = self._chunk(event)
        if self._room < len(chunk.token_ids):
            self._end_early(events)  # the server's context is rounded up
            return
        self._num_delivered += len(chunk.token_ids)
        events.append(chunk)

    @property
    def _room(self) -> int:
        assert self._num_prompt is not None, "the first event says it"
        used = self._num_prompt + self._num_generated + self._num_delivered
        return self._max_model_len - used

    def _start(self, num_prompt: int) -> GenerationStart:
        if num_prompt + self._num_generated >= self._max_model_len:
            raise ContextLengthExceeded(num_prompt, self._max_model_len)
        self._num_prompt = num_prompt
        self._started_at = time.monotonic()
        return GenerationStart(num_prompt)

    def _chunk(self, event: dict[str, Any]) -> GenerationChunk:
        text, token_ids = event["content"], tuple[int, ...](event["tokens"])
        if type(text) is not str or any(type(each) is not int for each in token_ids):
            raise TypeError("content is text, tokens are numbers")
        num_new = event["tokens_predicted"] - self._num_reported
        self._num_reported = event["tokens_predicted"]
        if num_new > len(token_ids) == 1:
            is_whole = not self._is_text_withheld
            token_ids = self._pieces.spell(text, num_new, token_ids[0], is_whole=is_whole)
        self._is_text_withheld = not text  # it may be the beginning of a stop string
        probabilities = event.get("completion_probabilities", ())
        return GenerationChunk(
            text, token_ids, tuple(_logprob(each, self._num_alternatives) for each in probabilities)
        )

    def _end(self, event: dict[str, Any], events: list[GenerationEvent]) -> None:
        assert self._num_prompt is not None, "the first event says it"
        timings = event["timings"]
        self.is_over = True
        events.append(
            GenerationEnd(
                finish_reason="length" if event["stop_type"] == "limit" else "stop",
                num_prompt_tokens=self._num_prompt,
                num_cached_tokens=timings.get("cache_n", 0),
                num_completion_tokens=self._num_delivered,
                prompt_seconds=timings["prompt_ms"] / 1000,
                decode_seconds=timings["predicted_ms"] / 1000,
            )
        )

    def _end_early(self, events: list[GenerationEvent]) -> None:
        """The context that was promised is used up, and the server would go on."""
        assert self._num_prompt is not None, "the first event says it"
        self.is_over = True
        events.append(
            GenerationEnd(
                finish_reason="length",
                num_prompt_tokens=self._num_prompt,
                num_cached_tokens=0,
                num_completion_tokens=self._num_delivered,
                prompt_seconds=self._started_at - self._asked_at,
                decode_seconds=time.monotonic() - self._started_at,
            )
        )


def _logprob(told: dict[str, Any], num_alternatives: int) -> TokenLogprob:
    top = told.get("top_logprobs", ())[:num_alternatives]
    return TokenLogprob(
        token_id=told["id"],
        token_bytes=bytes(told["bytes"]),
        logprob=told["logprob"],
        top=tuple(_logprob(each, 0) for each in top),
    )
