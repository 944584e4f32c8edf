"""The requests of existing clients, in all their spellings, read into ours."""

import json

import pytest
from hypothesis import example, given
from tests.strategies import seeds, texts

from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.content import Message
from fabstir.protocol.era_c import ERA_C_MAX_TOKENS, EraCRequest
from fabstir.protocol.limits import (
    MAX_COMPLETION_TOKENS,
    MAX_MESSAGES,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
)
from fabstir.protocol.sampling import SEED_LIMIT, SamplingParams

NOTHING: list[Json] = [None, "", "none", [], {}]


def encoded(value: Json) -> bytes:
    return json.dumps(value).encode()


def request(**fields: Json) -> EraCRequest:
    return EraCRequest.decode(encoded({"prompt": "x", **fields}))


@given(texts(40, 1))
@example("123")
@example("null")
@example("{")
@example('{"prompt": NaN}')
@example("[1, 2]")
@example("[" * 100)
def test_bare_text_is_the_prompt(text: str) -> None:
    if text.startswith('"'):
        return
    assert EraCRequest.decode(text.encode()).prompt == text


def test_a_json_string_is_the_prompt() -> None:
    assert EraCRequest.decode(b'"say \\"hi\\""').prompt == 'say "hi"'


def test_the_defaults_are_those_of_existing_clients() -> None:
    defaults = SamplingParams(max_tokens=ERA_C_MAX_TOKENS)

    assert request() == EraCRequest(prompt="x", sampling=defaults)
    assert defaults.temperature == 0.7


def test_the_request_of_existing_clients() -> None:
    asked = request(
        model="m",
        max_tokens=100,
        temperature=0.7,
        stream=True,
        thinking="low",
        images=[],
        action=None,
    )

    assert asked.sampling == SamplingParams(max_tokens=100)
    assert asked.sampling.seed is None


@given(seeds)
def test_camel_case_of_sampling(seed: int) -> None:
    asked = request(
        maxTokens=5, topP=0.5, minP=0.25, topK=3, repeatPenalty=1.5, seed=seed, stop="a"
    )

    assert asked.sampling == SamplingParams(
        max_tokens=5,
        top_p=0.5,
        min_p=0.25,
        repeat_penalty=1.5,
        top_k=3,
        seed=seed,
        stop=("a",),
    )


def test_messages_win_over_the_prompt_and_top_k_may_be_zero() -> None:
    asked = request(messages=[{"role": "user", "content": "hi"}], top_k=0)

    assert asked.messages == (Message("user", "hi"),)
    assert asked.prompt == ""
    assert asked.sampling.top_k == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": 0},
        {"max_tokens": MAX_COMPLETION_TOKENS + 1},
        {"max_tokens": -1},
        {"temperature": 10.1},
        {"temperature": 10**400},
        {"top_p": 1.1},
        {"seed": SEED_LIMIT},
        {"top_k": -1},
        {"stop": [""] * (MAX_STOP_STRINGS + 1)},
        {"stop": ["s" * (MAX_STOP_CHARS + 1)]},
        {"stop": 5},
        {"messages": [{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1)},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "r" * 33, "content": "x"}]},
        {"messages": ["hi"]},
        {"prompt": ""},
        {"prompt": None},
        {"prompt": "\ud800"},
    ],
)
def test_requests_out_of_bounds_are_refused(fields: dict[str, Json]) -> None:
    with pytest.raises(RemoteProtocolError):
        request(**fields)


@pytest.mark.parametrize("data", [b"", b"\xff", b'"\\ud800"', b"{}"])
def test_what_holds_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        EraCRequest.decode(data)


@pytest.mark.parametrize(
    "name",
    ["action", "images", "audio", "files", "tools", "tool_choice", "functions", "response_format"],
)
def test_more_than_text_is_refused_by_name(name: str) -> None:
    with pytest.raises(RemoteProtocolError, match=repr(name)) as caught:
        request(**{name: ["something"]})
    assert caught.value.code == "UNSUPPORTED_REQUEST"
    for nothing in NOTHING:
        assert request(**{name: nothing}).prompt == "x"
