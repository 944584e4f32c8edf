"""Names of models, doors of hosts, errors of hosts, and what may be shown of a stranger's text."""

import pytest

from fabstir.primitives.errors import (
    ContextLengthExceeded,
    DepositExhausted,
    EngineCrashed,
    FabstirError,
    SessionRefused,
)
from fabstir.primitives.ids import Hash32, ModelId
from fabstir.protocol.host_messages import ErrorMessage
from fabstir.sdk import Model
from fabstir.sdk.connection import error_of
from fabstir.sdk.websocket import websocket_url

MODEL = Model(
    model_id=ModelId("0x" + "12" * 32),
    repo="Org/Tiny-GGUF",
    file="tiny.Q4_1.gguf",
    digest=Hash32("0x" + "34" * 32),
)


@pytest.mark.parametrize(
    "name",
    [
        "0x" + "12" * 32,
        "Org/Tiny-GGUF:tiny.Q4_1.gguf",
        "org/tiny-gguf/tiny.q4_1.gguf",
        "tiny.Q4_1.gguf",
        "TINY.q4_1",
    ],
)
def test_a_model_answers_to_its_names(name: str) -> None:
    assert MODEL.is_called(name)


@pytest.mark.parametrize("name", ["", "tiny", "Org/Tiny-GGUF", "other.gguf", "0x12"])
def test_a_model_does_not_answer_to_others(name: str) -> None:
    assert not MODEL.is_called(name)


@pytest.mark.parametrize(
    ("api_url", "expected"),
    [
        ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/v1/ws"),
        ("https://host.example/", "wss://host.example/v1/ws"),
        ("https://host.example/node", "wss://host.example/node/v1/ws"),
        ("wss://host.example/door", "wss://host.example/door"),
    ],
)
def test_the_door_for_sessions_follows_from_the_api_url(api_url: str, expected: str) -> None:
    assert websocket_url(api_url) == expected


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("DEPOSIT_EXHAUSTED", DepositExhausted),
        ("ENGINE_CRASHED", EngineCrashed),
        ("SESSION_EVICTED", SessionRefused),
    ],
)
def test_a_hosts_error_is_the_same_error_here(code: str, kind: type[FabstirError]) -> None:
    error = error_of(ErrorMessage(code=code, message="why, and what to do"))

    assert type(error) is kind
    assert "why, and what to do" in str(error)


def test_a_prompt_that_is_too_long_comes_with_its_numbers() -> None:
    message = ErrorMessage(
        code="TOKEN_LIMIT_EXCEEDED", message="", prompt_tokens=5000, context_window_size=4096
    )

    error = error_of(message)

    assert isinstance(error, ContextLengthExceeded)
    assert (error.num_prompt_tokens, error.max_model_len) == (5000, 4096)
