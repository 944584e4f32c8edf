"""What no host would take is refused before it is sent, and the next question is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from tests.unit.sdk.renting import open_renting

from fabstir.sdk import (
    FabstirError,
    LocalProtocolError,
    Message,
    RequestRefused,
    ResponseFormat,
    SamplingParams,
    TextPart,
    Tool,
)

pytestmark = pytest.mark.anyio

HELLO = [Message("user", "Hello")]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


REFUSED: dict[str, tuple[object, dict[str, Any], type[FabstirError], str]] = {
    "half a character": ([Message("user", "\ud800")], {}, RequestRefused, "surrogate"),
    "no message": ([], {}, RequestRefused, "at least one message"),
    "no tokens": (
        HELLO,
        {"sampling": SamplingParams(max_tokens=0)},
        RequestRefused,
        "max_tokens must be at least 1",
    ),
    "a word": ("hello", {}, LocalProtocolError, "messages must be a list of Message"),
    "a dict": ([{"role": "user"}], {}, LocalProtocolError, "messages must hold Message alone"),
    "a number": (5, {}, LocalProtocolError, "messages must be a list of Message"),
    "a role that is none": ([Message("robot", "Hi")], {}, RequestRefused, "role must be one of"),
    "a content that is none": (
        [Message("user", cast("Any", 5))],
        {},
        LocalProtocolError,
        "content of a message",
    ),
    "a part that is none": (
        [Message("user", (TextPart("a"), cast("Any", "b")))],
        {},
        LocalProtocolError,
        "content of a message",
    ),
    "a text that is none": (
        [Message("user", "Hi", name=cast("Any", b"me"))],
        {},
        LocalProtocolError,
        "is no JSON",
    ),
    "a form in a word": (
        HELLO,
        {"response_format": "json"},
        LocalProtocolError,
        "response_format must be a ResponseFormat",
    ),
    "a schema that is none": (
        HELLO,
        {"response_format": ResponseFormat(schema="{")},
        RequestRefused,
        "schema is not JSON",
    ),
    "sampling in a dict": (HELLO, {"sampling": {}}, LocalProtocolError, "SamplingParams"),
    "a tool that is none": (HELLO, {"tools": ["tool"]}, LocalProtocolError, "tools must hold Tool"),
    "one tool": (HELLO, {"tools": Tool(name="x")}, LocalProtocolError, "tools must be a list"),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_it_is_refused_and_the_next_question_is_answered(tmp_path: Path, name: str) -> None:
    messages, arguments, kind, why = REFUSED[name]
    async with open_renting(tmp_path, ["yes"]) as renting:
        with pytest.raises(kind, match=why):
            async with renting.session.chat(cast("Any", messages), **arguments):
                pass
        assert renting.dialer.dialled == []

        async with renting.session.chat(HELLO) as answer:
            assert await answer.complete() == "yes"
        with pytest.raises(kind, match=why):
            async with renting.session.chat(cast("Any", messages), **arguments):
                pass
        async with renting.session.chat(HELLO) as answer:
            assert await answer.complete() == "yes"
        assert len(renting.dialer.dialled) == 1


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"logit_bias": {1: 5.0}}, "logit_bias must be a tuple of pairs"),
        ({"logit_bias": (1, 2)}, "a pair of a token id"),
        ({"max_tokens": "5"}, "max_tokens must be an int"),
        ({"max_tokens": 5.5}, "max_tokens must be an int"),
        ({"temperature": "hot"}, "temperature must be a number"),
        ({"stop": "word"}, "stop must be a tuple of texts"),
        ({"stop": (5,)}, "each of stop"),
        ({"seed": 1.5}, "seed must be an int or None"),
    ],
)
def test_sampling_of_another_type_is_refused(values: dict[str, Any], why: str) -> None:
    arguments: dict[str, Any] = {"max_tokens": 5, **values}

    with pytest.raises(LocalProtocolError, match=why):
        SamplingParams(**arguments)
