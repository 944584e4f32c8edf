"""What llama.cpp streams, turned into events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabstir.engines import (
    GenerationChunk,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
    GenerationStart,
)
from fabstir.engines.llamacpp.completion import CompletionReader, num_tokens_too_many
from fabstir.engines.llamacpp.vocabulary import CharacterPieces
from fabstir.primitives.errors import ContextLengthExceeded, EngineCrashed
from fabstir.protocol.content import Message
from fabstir.protocol.sampling import SamplingParams

REQUEST = GenerationRequest(
    messages=(Message("user", "Hello"),), sampling=SamplingParams(max_tokens=9, seed=1)
)
NUM_PROMPT = 5


def reader(max_model_len: int = 100, generated: tuple[int, ...] = ()) -> CompletionReader:
    request = GenerationRequest(
        messages=REQUEST.messages, sampling=REQUEST.sampling, generated=generated
    )
    return CompletionReader(CharacterPieces({}), request, max_model_len)


def line(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def token(number: int, **changes: Any) -> bytes:
    """The event of one token, the `number`-th of its answer, from 1."""
    event = {
        "content": f"w{number} ",
        "tokens": [number],
        "stop": False,
        "tokens_predicted": number,
        "tokens_evaluated": NUM_PROMPT,
    }
    return line(event | changes)


def end(**changes: Any) -> bytes:
    timings = {"cache_n": 4, "prompt_ms": 20.0, "predicted_ms": 50.0}
    event = {"stop": True, "stop_type": "eos", "tokens_evaluated": NUM_PROMPT, "timings": timings}
    return line(event | changes)


STREAM = token(1) + token(2) + end()
EVENTS: list[GenerationEvent] = [
    GenerationStart(NUM_PROMPT),
    GenerationChunk("w1 ", (1,)),
    GenerationChunk("w2 ", (2,)),
    GenerationEnd(
        finish_reason="stop",
        num_prompt_tokens=NUM_PROMPT,
        num_cached_tokens=4,
        num_completion_tokens=2,
        prompt_seconds=0.02,
        decode_seconds=0.05,
    ),
]


@given(st.lists(st.integers(1, 60)))
def test_any_cut_gives_the_same_events(cuts: list[int]) -> None:
    stream, found, reading = STREAM, list[GenerationEvent](), reader()
    for cut in [*cuts, len(stream)]:
        found += reading.feed(stream[:cut])
        stream = stream[cut:]

    assert found == EVENTS
    assert reading.is_over


def test_an_answer_that_goes_on_counts_its_prompt_without_what_was_generated() -> None:
    (start,) = reader(generated=(7, 8)).feed(token(1))[:1]

    assert start == GenerationStart(NUM_PROMPT - 2)


def test_an_answer_of_no_token_has_a_start() -> None:
    start, last = reader().feed(end())

    assert start == GenerationStart(NUM_PROMPT)
    assert isinstance(last, GenerationEnd)
    assert last.num_completion_tokens == 0


def test_it_ends_where_the_promised_context_does() -> None:
    reading = reader(max_model_len=NUM_PROMPT + 2)
    *_, last = reading.feed(token(1) + token(2) + token(3) + token(4))

    assert reading.is_over
    assert isinstance(last, GenerationEnd)
    assert (last.finish_reason, last.num_completion_tokens) == ("length", 2)


@pytest.mark.parametrize("generated", [(), (7, 8)])
def test_a_prompt_that_leaves_no_room_is_refused(generated: tuple[int, ...]) -> None:
    with pytest.raises(ContextLengthExceeded):
        reader(max_model_len=NUM_PROMPT, generated=generated).feed(token(1))


@pytest.mark.parametrize(
    "event",
    [
        b"data: {}\n\n",
        b"data: []\n\n",
        b"data: nothing\n\n",
        b"data: \xff\n\n",
        line({"error": {"message": "out of memory"}}),
        line({"error": "out of memory"}),
        token(1, tokens="x"),
        token(1, tokens=None),
        token(1, content=None),
        token(1, tokens_evaluated="many"),
        end(timings=None),
        token(1, completion_probabilities=[{}]),
    ],
    ids=range(12),
)
def test_what_is_no_event_is_a_crash(event: bytes) -> None:
    with pytest.raises(EngineCrashed):
        reader().feed(event)


def test_what_it_says_of_an_error_is_told() -> None:
    with pytest.raises(EngineCrashed, match="out of memory"):
        reader().feed(line({"error": {"message": "out of memory"}}))


def test_a_prompt_too_long_is_told_from_other_refusals() -> None:
    error = {"type": "exceed_context_size_error", "n_prompt_tokens": 600, "n_ctx": 512}

    assert num_tokens_too_many(json.dumps({"error": error}).encode()) == 600
    for other in (b"", b"[]", b"{}", b'{"error": {"type": "other"}}', b'{"error": "no"}'):
        assert num_tokens_too_many(other) is None
