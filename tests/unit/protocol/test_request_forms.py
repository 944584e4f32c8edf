"""Requests as clients of today's chat APIs make them: read, bounded, and with one form to hash."""

import json
import shutil
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.strategies import chat_requests, conversations, request_plaintexts, seeds

from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.errors import RemoteProtocolError, RequestRefused
from fabstir.protocol.additions import Addition, with_additions
from fabstir.protocol.capabilities import ModelCapability, needs_of, require_capable
from fabstir.protocol.content import ImagePart, Message, TextPart
from fabstir.protocol.fields import Fields
from fabstir.protocol.limits import (
    MAX_LOGIT_BIASES,
    MAX_MESSAGES,
    MAX_PARTS,
    MAX_SCHEMA_BYTES,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    MAX_TOOLS,
    MAX_TOP_LOGPROBS,
)
from fabstir.protocol.request import ChatRequest, RequestPlaintext, ResponseFormat, ToolChoice
from fabstir.protocol.sampling import SEED_LIMIT, SamplingParams

USER: Final[Json] = {"role": "user", "content": "hi"}
SAMPLING: Final[dict[str, Json]] = {
    "max_tokens": 5,
    "temperature": "0.7",
    "top_p": "0.95",
    "min_p": "0.05",
    "top_k": 40,
    "repeat_penalty": "1",
    "presence_penalty": "0",
    "frequency_penalty": "0",
    "stop": [],
}
CALL: Final[Json] = {
    "type": "function",
    "id": "call_1",
    "function": {"name": "weather", "arguments": '{"city": "Rome"}'},
}
TOOL: Final[Json] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city.",
        "parameters": '{"type": "object", "properties": {"city": {"type": "string"}}}',
        "strict": True,
    },
}


def request(**fields: Json) -> ChatRequest:
    return ChatRequest.from_fields(
        Fields({"messages": [USER], "sampling": SAMPLING, **fields}, "request")
    )


def sampled(**fields: Json) -> SamplingParams:
    return request(sampling={**SAMPLING, **fields}).sampling


def said(**fields: Json) -> Message:
    return request(messages=[{**fields}]).messages[0]


# -- forms ----------------------------------------------------------------------------------------


@given(request_plaintexts())
def test_round_trip(value: RequestPlaintext) -> None:
    assert RequestPlaintext.decode(value.encode()) == value


@given(request_plaintexts(), st.data())
def test_altered_requests_are_a_value_or_the_one_error(
    value: RequestPlaintext, data: st.DataObject
) -> None:
    raw = value.encode()
    start = data.draw(st.integers(0, len(raw)))
    end = data.draw(st.integers(start, min(len(raw), start + 5)))

    with suppress(RemoteProtocolError):
        RequestPlaintext.decode(raw[:start] + data.draw(st.binary(max_size=5)) + raw[end:])


@pytest.mark.needs("node")
@settings(max_examples=3)
@given(st.lists(chat_requests, min_size=10, max_size=20))
def test_javascript_writes_the_same_canonical_form(requests: list[ChatRequest]) -> None:
    """Another language's parser and printer between: what is hashed hangs on neither."""
    form = canonical_json([each.to_json() for each in requests])

    assert canonical_by_javascript(form) == form


def canonical_by_javascript(form: bytes) -> bytes:
    """JSON read by node and written again: names sorted by code point, as JSON.stringify writes."""
    node = shutil.which("node")
    assert node is not None
    script = """
    const points = (text) => Array.from(text, (letter) => letter.codePointAt(0));
    const order = (a, b) => {
      const [x, y] = [points(a), points(b)];
      for (let i = 0; i < Math.min(x.length, y.length); i++) if (x[i] !== y[i]) return x[i] - y[i];
      return x.length - y.length;
    };
    const write = (value) => {
      if (Array.isArray(value)) return "[" + value.map(write).join(",") + "]";
      if (value === null || typeof value !== "object") return JSON.stringify(value);
      const names = Object.keys(value).sort(order);
      return "{" + names.map((n) => JSON.stringify(n) + ":" + write(value[n])).join(",") + "}";
    };
    const text = require("fs").readFileSync(0, "utf8");
    process.stdout.write(write(JSON.parse(text)));
    """
    run = subprocess.run([node, "-e", script], input=form, capture_output=True, check=True)
    return run.stdout


def test_the_digest_does_not_hang_on_how_a_request_is_spelled() -> None:
    one = request(
        messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}], "name": None}],
        sampling={**SAMPLING, "temperature": "0.70", "repeat_penalty": 1, "top_p": "0.950000"},
        tools=[],
        response_format={"type": "text"},
    )

    assert one == request()
    assert canonical_json(one.to_json()) == canonical_json(request().to_json())


def test_a_request_with_everything() -> None:
    asked = request(
        model="m",
        messages=[
            {"role": "developer", "content": "Be brief."},
            {
                "role": "user",
                "name": "anna",
                "content": [
                    {"type": "text", "text": "What"},
                    {"type": "text", "text": "is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                    {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
                    {"type": "file", "file": {"file_id": "f-1"}},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": [CALL], "reasoning": "Hm."},
            {"role": "tool", "content": "Sunny", "tool_call_id": "call_1"},
        ],
        tools=[TOOL],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        response_format={"type": "json_schema", "json_schema": {"schema": "{}", "strict": True}},
        reasoning={"effort": "low", "max_tokens": 100},
    )

    assert asked.messages[1].text == "What\nis this?"
    assert asked.messages[1].parts[2] == ImagePart("data:image/png;base64,AA==", "auto")
    assert asked.messages[2].content == ""
    assert asked.messages[2].tool_calls[0].arguments == '{"city": "Rome"}'
    assert asked.tool_choice == ToolChoice("required", "weather")
    assert asked.response_format == ResponseFormat(schema="{}", strict=True)
    assert ChatRequest.from_fields(Fields(asked.to_json(), "request")) == asked


def test_a_schema_stays_as_the_client_wrote_it() -> None:
    """The order of its properties is what an engine generates by, and fractions keep their form."""
    schema = '{ "properties": {"b": {"multipleOf": 0.10}, "a": {}} }'
    tool: Json = {"type": "function", "function": {"name": "t", "parameters": schema}}

    assert request(tools=[tool]).tools[0].parameters == schema


@given(conversations)
def test_one_part_of_text_is_the_text(messages: tuple[Message, ...]) -> None:
    for message in messages:
        assert Message("user", message.parts).content == Message("user", message.content).content
    assert Message("user", (TextPart("a"),)) == Message("user", "a")
    assert Message("user", ()) == Message("user", "")


@given(chat_requests, seeds)
def test_the_seed_that_is_used_changes_nothing_else(asked: ChatRequest, seed: int) -> None:
    used, before = asked.with_seed(seed).to_json(), asked.to_json()

    changed, unchanged = used.pop("sampling"), before.pop("sampling")

    assert isinstance(changed, dict)
    assert isinstance(unchanged, dict)
    assert changed.pop("seed") == seed
    assert used == before
    assert changed == {name: value for name, value in unchanged.items() if name != "seed"}


# -- bounds ---------------------------------------------------------------------------------------


BAD_SAMPLINGS: Final[list[dict[str, Json]]] = [
    {"max_tokens": 0},
    {"max_tokens": None},
    {"temperature": 0.7},
    {"temperature": "10.1"},
    {"temperature": None},
    {"top_p": "1.1"},
    {"min_p": "-0.1"},
    {"presence_penalty": "-2.1"},
    {"frequency_penalty": "2.000001"},
    {"top_k": -1},
    {"top_k": 1 << 31},
    {"seed": SEED_LIMIT},
    {"stop": "a"},
    {"stop": [""] * (MAX_STOP_STRINGS + 1)},
    {"stop": ["s" * (MAX_STOP_CHARS + 1)]},
    {"logit_bias": {"1": 0.5}},
    {"logit_bias": {"1": "101"}},
    {"logit_bias": {"x": "1"}},
    {"logit_bias": {"1": "1", "01": "2"}},
    {"logit_bias": {str(1 << 32): "1"}},
    {"logit_bias": {str(token): "1" for token in range(MAX_LOGIT_BIASES + 1)}},
    {"logit_bias": [[1, "1"]]},
    {"logprobs": 5},
    {"top_logprobs": 1},
    {"logprobs": True, "top_logprobs": MAX_TOP_LOGPROBS + 1},
    {"n": 2},
    {"best_of": 2},
]


@pytest.mark.parametrize("fields", BAD_SAMPLINGS, ids=str)
def test_sampling_out_of_bounds_is_refused(fields: dict[str, Json]) -> None:
    with pytest.raises(RemoteProtocolError):
        sampled(**fields)


BAD_MESSAGES: Final[list[dict[str, Json]]] = [
    {"role": "observation", "content": "x"},
    {"role": "user", "content": 5},
    {"role": "user", "content": [{"type": "text"}]},
    {"role": "user", "content": ["x"]},
    {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {}}]},
    {"role": "user", "content": [{"type": "video_url", "video_url": {"url": "x"}}]},
    {"role": "user", "content": [{"type": "text", "text": "x"}] * (MAX_PARTS + 1)},
    {"role": "user", "content": [{"type": "image_url", "image_url": "x"}]},
    {
        "role": "user",
        "content": [{"type": "image_url", "image_url": {"url": "x", "detail": "huge"}}],
    },
    {"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "x"}}]},
    {"role": "user", "content": "x", "tool_calls": [CALL]},
    {"role": "user", "content": "x", "tool_call_id": "c"},
    {"role": "user", "content": "x", "reasoning": "r"},
    {"role": "tool", "content": "x"},
    {"role": "assistant", "tool_calls": [{"id": "c", "function": {}}]},
    {"role": "assistant", "tool_calls": [{"type": "custom", "id": "c", "custom": {}}]},
    {"role": "assistant", "tool_calls": [CALL] * (MAX_TOOLS + 1)},
    {"role": "user", "content": "\ud800"},
    {"role": "user", "content": "x", "unheard_of": 1},
]


@pytest.mark.parametrize("message", BAD_MESSAGES, ids=range(19))
def test_messages_out_of_bounds_are_refused(message: dict[str, Json]) -> None:
    with pytest.raises(RemoteProtocolError):
        said(**message)


BAD_REQUESTS: Final[list[dict[str, Json]]] = [
    {"messages": []},
    {"messages": None},
    {"messages": [USER] * (MAX_MESSAGES + 1)},
    {"tools": [TOOL] * (MAX_TOOLS + 1)},
    {"tools": [{"type": "web_search"}]},
    {"tools": [{"type": "function", "function": {"name": "t", "parameters": {}}}]},
    {"tools": [{"type": "function", "function": {"name": "t", "parameters": "[]"}}]},
    {"tools": [{"type": "function", "function": {"name": "t", "parameters": "{"}}]},
    {"tool_choice": "any"},
    {"tool_choice": {"type": "allowed_tools", "allowed_tools": {}}},
    {"parallel_tool_calls": 1},
    {"response_format": {"type": "grammar"}},
    {"response_format": {"type": "json_object", "json_schema": {}}},
    {"response_format": {"type": "json_schema"}},
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"schema": '{"a":"' + "x" * MAX_SCHEMA_BYTES + '"}'},
        }
    },
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"schema": '{"a":"' + "é" * (MAX_SCHEMA_BYTES // 2) + '"}'},
        }
    },
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"schema": '{"a":' * 33 + "1" + "}" * 33},
        }
    },
    {"reasoning": {"effort": "maximal"}},
    {"reasoning": {"budget": 5}},
    {"service_tier": "flex"},
]


@pytest.mark.parametrize("fields", BAD_REQUESTS, ids=range(20))
def test_requests_out_of_bounds_are_refused(fields: dict[str, Json]) -> None:
    with pytest.raises(RemoteProtocolError):
        request(**fields)


CHANGES: Final[list[Callable[[dict[str, Any]], object]]] = [
    lambda v: v.pop("salt"),
    lambda v: v.update(salt="00" * 31),
    lambda v: v.update(clientNonce="00" * 33),
    lambda v: v.pop("clientNonce"),
    lambda v: v["request"]["sampling"].update(seed=5),
    lambda v: v.pop("request"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_request_has_a_salt_and_either_a_seed_or_a_nonce(
    change: Callable[[dict[str, Any]], object],
) -> None:
    value = json.loads(
        RequestPlaintext(request=request(), salt=bytes(32), client_nonce=bytes(32)).encode()
    )

    change(value)

    with pytest.raises(RemoteProtocolError):
        RequestPlaintext.decode(json.dumps(value).encode())


# -- what a model must be able to do --------------------------------------------------------------

COMMON: Final = frozenset({ModelCapability.TOP_K, ModelCapability.MIN_P})
"""What the defaults of sampling need."""


NEEDS: Final[list[tuple[dict[str, Json], set[ModelCapability]]]] = [
    ({}, set[ModelCapability]()),
    (
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
        {ModelCapability.FILES},
    ),
    (
        {
            "messages": [
                {
                    "role": "user",
                    "name": "anna",
                    "content": [
                        {"type": "image_url", "image_url": {"url": "x"}},
                        {"type": "input_audio", "input_audio": {"data": "", "format": "wav"}},
                    ],
                }
            ]
        },
        {ModelCapability.IMAGES, ModelCapability.AUDIO, ModelCapability.NAMES},
    ),
    ({"tools": [TOOL]}, {ModelCapability.TOOLS}),
    ({"tool_choice": "none"}, {ModelCapability.TOOLS}),
    ({"parallel_tool_calls": True}, {ModelCapability.TOOLS}),
    (
        {"messages": [{"role": "assistant", "tool_calls": [CALL], "reasoning": ""}]},
        {ModelCapability.TOOLS, ModelCapability.REASONING},
    ),
    (
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": "x"}]},
        {ModelCapability.TOOLS},
    ),
    ({"reasoning": {}}, {ModelCapability.REASONING}),
    ({"response_format": {"type": "text"}}, set[ModelCapability]()),
    ({"response_format": {"type": "json_object"}}, {ModelCapability.JSON_OBJECT}),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": "{}"}}},
        {ModelCapability.JSON_SCHEMA},
    ),
]


@pytest.mark.parametrize(("fields", "needed"), NEEDS, ids=range(12))
def test_what_a_request_needs(fields: dict[str, Json], needed: set[ModelCapability]) -> None:
    assert needs_of(request(**fields)) == COMMON | needed


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        ({"top_k": 0, "min_p": "0"}, set[ModelCapability]()),
        ({"repeat_penalty": "1.1"}, {*COMMON, ModelCapability.REPEAT_PENALTY}),
        ({"presence_penalty": "-1"}, {*COMMON, ModelCapability.PENALTIES}),
        ({"frequency_penalty": "1"}, {*COMMON, ModelCapability.PENALTIES}),
        ({"logit_bias": {"5": "1"}}, {*COMMON, ModelCapability.LOGIT_BIAS}),
        ({"logprobs": True}, {*COMMON, ModelCapability.LOGPROBS}),
    ],
    ids=range(6),
)
def test_what_sampling_needs(fields: dict[str, Json], needed: set[ModelCapability]) -> None:
    assert needs_of(request(sampling={**SAMPLING, **fields})) == needed


@given(chat_requests, st.sets(st.sampled_from(ModelCapability)))
def test_what_a_model_lacks_is_refused_by_name(
    asked: ChatRequest, capabilities: set[ModelCapability]
) -> None:
    missing = needs_of(asked) - capabilities
    if not missing:
        require_capable(asked, capabilities)
        return

    with pytest.raises(RequestRefused) as caught:
        require_capable(asked, capabilities)
    assert ", ".join(sorted(missing)) in str(caught.value)


# -- what a host adds -----------------------------------------------------------------------------

PASSAGE: Final = Message("system", "A passage.")


def test_additions_stand_where_they_say_and_replace_what_they_say() -> None:
    messages = [Message("user", text) for text in "abc"]
    additions = [
        Addition(kind="instructions", index=0, message=PASSAGE),
        Addition(kind="summary", index=0, num_replaced=2, message=PASSAGE),
        Addition(kind="retrieval", index=3, message=PASSAGE),
    ]

    assert with_additions(messages, ()) == tuple(messages)
    assert with_additions(messages, additions) == (PASSAGE, PASSAGE, messages[2], PASSAGE)


@pytest.mark.parametrize(
    "places", [[(2, 0)], [(0, 2)], [(1, 0), (0, 0)], [(0, 1), (0, 0)], [(1, 1)]]
)
def test_additions_that_do_not_fit_the_conversation(places: list[tuple[int, int]]) -> None:
    additions = [
        Addition(kind="summary", index=index, num_replaced=num_replaced, message=PASSAGE)
        for index, num_replaced in places
    ]

    with pytest.raises(ValueError, match="does not fit"):
        with_additions([Message("user", "a")], additions)
