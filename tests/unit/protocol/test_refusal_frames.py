"""Frames of existing clients that we do not serve: each gets the answer that ends their wait."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.strategies import texts

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.client_messages import (
    Unsupported,
    decode_client_message,
    ids_of,
    parse_client_frame,
)
from fabstir.protocol.frames import encode_frame
from fabstir.protocol.limits import MAX_ID_CHARS
from fabstir.protocol.refusals import refusal

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts(200),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts(8), inner, max_size=3),
    max_leaves=8,
)

SERVED = {
    "encrypted_session_init",
    "encrypted_message",
    "encrypted_ack",
    "encrypted_close",
    "stream_cancel",
    "ping",
}


def answers(frame: dict[str, Any]) -> list[dict[str, Any]]:
    message = decode_client_message(json.dumps(frame))
    assert isinstance(message, Unsupported)
    return [json.loads(encode_frame(answer)) for answer in refusal(message)]


def test_an_upload_of_vectors() -> None:
    vectors: list[Any] = [{"id": f"v{i}", "vector": [0.0] * 384} for i in range(3)]
    frame: dict[str, Any] = {
        "type": "uploadVectors",
        "session_id": 7,
        "requestId": "r1",
        "vectors": vectors,
    }

    (answer,) = answers(frame)

    error = answer["error"]
    assert error.startswith("UNSUPPORTED_MESSAGE: ")
    assert answer == {
        "type": "uploadVectorsResponse",
        "requestId": "r1",
        "status": "error",
        "uploaded": 0,
        "rejected": 3,
        "errors": [error],
        "error": error,
    }


def test_a_search_of_vectors() -> None:
    frame: dict[str, Any] = {"type": "searchVectors", "sessionId": "7", "requestId": 5, "k": 3}

    (answer,) = answers(frame)

    error = answer.pop("error")
    assert error.startswith("UNSUPPORTED_MESSAGE: ")
    assert answer == {
        "type": "searchVectorsResponse",
        "requestId": "5",
        "results": [],
        "totalVectors": 0,
        "searchTimeMs": 0,
    }


def test_a_search_of_the_web() -> None:
    found = answers({"type": "searchRequest", "query": "q", "numResults": 3, "requestId": "r"})

    assert [answer["type"] for answer in found] == [
        "searchError",
        "searchResponse",
        "searchResults",
    ]
    for answer in found:
        assert answer["requestId"] == "r"
        assert answer["results"] == []
        assert answer["error"].startswith("UNSUPPORTED_MESSAGE: ")


@pytest.mark.parametrize("kind", ["prompt", "inference", "stateless_inference"])
def test_a_prompt_in_clear_ends_its_stream(kind: str) -> None:
    error, end = answers({"type": kind, "jobId": 7, "prompt": "hi", "id": "p1"})

    assert (error["type"], error["code"], error["id"]) == ("error", "ENCRYPTION_REQUIRED", "p1")
    assert error["message"].startswith("ENCRYPTION_REQUIRED: ")
    assert end == {
        "type": "stream_end",
        "session_id": "7",
        "id": "p1",
        "reason": "error",
        "tokens_used": 0,
    }


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        ("session_init", "ENCRYPTION_REQUIRED"),
        ("session_resume", "ENCRYPTION_REQUIRED"),
        ("init", "ENCRYPTION_REQUIRED"),
        ("session_end", "UNSUPPORTED_MESSAGE"),
        ("session_control", "UNSUPPORTED_MESSAGE"),
        ("auth", "UNSUPPORTED_MESSAGE"),
        ("token_refresh", "UNSUPPORTED_MESSAGE"),
        ("response", "UNSUPPORTED_MESSAGE"),
        ("generate_video", "UNSUPPORTED_MESSAGE"),
        ("dance", "UNSUPPORTED_MESSAGE"),
        ("decrypt_aead", "UNSUPPORTED_MESSAGE"),
    ],
)
def test_other_types_get_an_error(kind: str, code: str) -> None:
    (answer,) = answers({"type": kind, "session_id": "7", "requestId": "r"})

    assert (answer["type"], answer["code"]) == ("error", code)
    assert (answer["session_id"], answer["id"]) == ("7", "r")
    assert answer["message"].startswith(f"{code}: ")
    assert "aead" not in answer["message"]


@given(
    st.sampled_from(["uploadVectors", "searchVectors", "searchRequest", "prompt", "session_end"])
    | texts(20).filter(lambda kind: kind not in SERVED),
    st.dictionaries(
        st.sampled_from(["id", "requestId", "session_id", "jobId", "vectors", "query", "request"]),
        json_values,
    ),
)
@example(kind="uploadVectors", others={"requestId": ""})
def test_whatever_is_in_it_there_is_an_answer(kind: str, others: dict[str, Any]) -> None:
    found = answers({**others, "type": kind})

    assert found
    request_id = others.get("requestId")
    if isinstance(request_id, str) and len(request_id) <= MAX_ID_CHARS and "id" not in others:
        assert all(request_id in {a.get("requestId"), a.get("id")} for a in found)


@pytest.mark.parametrize(
    ("frame", "ids"),
    [
        ({"type": "encrypted_message", "session_id": 7, "id": "m"}, ("7", "m")),
        ({"id": 3, "jobId": "9"}, ("9", "3")),
        ({"type": 5, "requestId": "r", "session_id": {}}, (None, "r")),
        ({"type": "ping", "id": "i" * 129}, (None, None)),
    ],
)
def test_a_frame_that_is_refused_is_named_by_its_ids(
    frame: dict[str, Any], ids: tuple[str | None, str | None]
) -> None:
    assert ids_of(parse_client_frame(json.dumps(frame))) == ids


@pytest.mark.parametrize("data", ["", "not json", "[]", "5", '"text"', b"\xff", '{"no":"type"}'])
def test_what_is_no_frame_raises_and_is_answered_by_the_door(data: str | bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_client_message(data)
