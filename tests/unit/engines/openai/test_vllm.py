"""vLLM's stream gives the same events however it is cut, and says what it cannot mean."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.mutation import CORPUS

from fabstir.engines import (
    GenerationChunk,
    GenerationEnd,
    GenerationEvent,
    GenerationRequest,
    GenerationStart,
)
from fabstir.engines._http import EngineRefused
from fabstir.engines.openai.vllm import VllmReader, completion_body
from fabstir.primitives.errors import EngineCrashed
from fabstir.protocol.content import Message
from fabstir.protocol.sampling import SamplingParams

STREAMS = CORPUS / "vllm_stream"

deltas = st.lists(st.tuples(st.text(max_size=4), st.lists(st.integers(0, 2**31), max_size=3)))


def event(text: str, token_ids: list[int], finish_reason: str | None = None) -> bytes:
    choice = {"text": text, "token_ids": token_ids, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def read(stream: bytes, cuts: list[int]) -> list[GenerationEvent]:
    reader, events = VllmReader(2), list[GenerationEvent]()
    for cut in [*cuts, len(stream)]:
        events += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert reader.is_over
    return events


def untimed(events: list[GenerationEvent]) -> list[Any]:
    return [
        (each.finish_reason, each.num_completion_tokens)
        if isinstance(each, GenerationEnd)
        else each
        for each in events
    ]


@given(deltas, st.lists(st.integers(1, 60)), st.sampled_from(["stop", "length"]))
def test_any_cut_gives_the_same_events_and_no_id_twice(
    pieces: list[tuple[str, list[int]]], cuts: list[int], reason: str
) -> None:
    stream = b"".join(event(text, ids) for text, ids in pieces) + event("", [2], reason)
    stream += b"data: [DONE]\n\n"

    events = read(stream, cuts)

    assert untimed(events) == untimed(read(stream, []))
    start, *chunks, end = events
    assert start == GenerationStart(2)
    assert isinstance(end, GenerationEnd)
    delivered = [
        token for each in chunks if isinstance(each, GenerationChunk) for token in each.token_ids
    ]
    told = [token for _text, ids in pieces for token in ids] + [2]
    assert delivered == told[: len(delivered)]
    assert end.num_completion_tokens == len(delivered)
    if reason == "stop":
        assert delivered == told


def test_ids_wait_for_the_text_of_their_character() -> None:
    events = read((STREAMS / "stop.bin").read_bytes(), [])

    assert events[1:3] == [GenerationChunk("é", (174, 217)), GenerationChunk("", (2,))]
    end = events[-1]
    assert isinstance(end, GenerationEnd)
    assert (end.finish_reason, end.num_cached_tokens) == ("stop", 1)


def test_a_character_that_is_cut_off_is_not_delivered() -> None:
    events = read(event("a", [5]) + event("", [174], "length") + b"data: [DONE]\n\n", [])

    assert events[1:-1] == [GenerationChunk("a", (5,))]


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        ((STREAMS / "error.bin").read_bytes(), "gave up: EngineCore"),
        (b"data: [1]\n\n", "cannot be read"),
        (b"data: nonsense\n\n", "cannot be read"),
        (b'data: {"choices": [{"text": "a", "finish_reason": null}]}\n\n', "cannot be read"),
        (event("a", [1], "abort") + b"data: [DONE]\n\n", "finished with abort"),
        (b"data: [DONE]\n\n", "finished with None"),
    ],
)
def test_what_is_no_answer_is_said(stream: bytes, says: str) -> None:
    with pytest.raises(EngineCrashed, match=says):
        read(stream, [])


def test_a_refusal_may_come_in_the_stream() -> None:
    error = b'{"error": {"message": "Grammar error: Invalid type: nonsense", "code": 400}}'

    with pytest.raises(EngineRefused) as refused:
        read(b"data: " + error + b"\n\n", [])

    assert refused.value.message == "Grammar error: Invalid type: nonsense"


def test_the_prompt_goes_on_behind_what_was_generated_and_keeps_to_the_context() -> None:
    request = GenerationRequest(
        messages=(Message("user", "Hi"),),
        sampling=SamplingParams(max_tokens=50, seed=1, logit_bias=((7, -1.0),)),
        generated=(8, 9),
    )

    body = completion_body(request, "model", (1, 2), room=10)

    assert (body["prompt"], body["max_tokens"]) == ([1, 2, 8, 9], 10)
    assert body["logit_bias"] == {"7": -1.0}
