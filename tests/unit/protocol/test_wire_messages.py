"""Frames of the WebSocket: what is sent is what is read, in every spelling clients use."""

import json
from contextlib import suppress
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import (
    client_messages,
    host_messages,
    json_safe,
    session_inits,
)

from fabstir.primitives.encoding import Json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import JobId
from fabstir.protocol.client_messages import (
    ClientMessage,
    EncryptedMessage,
    EncryptedSessionInit,
    Ping,
    StreamCancel,
    Unsupported,
    decode_client_message,
)
from fabstir.protocol.frames import encode_frame
from fabstir.protocol.host_messages import (
    Connected,
    ErrorMessage,
    HostMessage,
    Pong,
    SessionInitAck,
    StreamEnd,
    Unknown,
    decode_host_message,
)

SEALED = {"ciphertextHex": "00", "nonceHex": "00" * 24}
INIT = {**SEALED, "ephPubHex": "02" * 33, "signatureHex": "01" * 65}

CAMEL = {
    "session_id": "sessionId",
    "job_id": "jobId",
    "chain_id": "chainId",
}


@given(client_messages)
def test_client_messages_round_trip(message: ClientMessage) -> None:
    assert not isinstance(message, Unsupported)
    text = encode_frame(message)

    assert decode_client_message(text) == message
    assert decode_client_message(text.encode()) == message


@given(host_messages)
def test_host_messages_round_trip(message: HostMessage) -> None:
    assert not isinstance(message, Unknown)
    text = encode_frame(message)

    assert decode_host_message(text) == message
    assert decode_host_message(text.encode()) == message


@given(client_messages | host_messages)
def test_frames_leave_out_what_they_do_not_have(message: ClientMessage | HostMessage) -> None:
    assert not isinstance(message, Unsupported | Unknown)

    assert None not in json.loads(encode_frame(message)).values()


@given(session_inits)
def test_both_spellings_and_both_number_forms(message: EncryptedSessionInit) -> None:
    fields = cast("dict[str, Json]", json.loads(encode_frame(message)))
    camel = {CAMEL.get(name, name): value for name, value in fields.items()}
    numbers = {**fields, "job_id": message.job_id}
    strings = {**fields, "chain_id": None if message.chain_id is None else str(message.chain_id)}

    for spelled in (camel, numbers, strings):
        assert decode_client_message(json.dumps(spelled)) == message


def test_the_recovery_id_may_stand_beside_a_signature_of_64_bytes() -> None:
    frame = {
        "type": "encrypted_session_init",
        "job_id": 7,
        "payload": {**INIT, "signatureHex": "0x" + "01" * 64, "recid": 28},
    }

    message = decode_client_message(json.dumps(frame))

    assert isinstance(message, EncryptedSessionInit)
    assert message.payload.signature == b"\x01" * 64 + b"\x1c"
    assert message.payload.salt == bytes(32)
    assert message.payload.info == b""
    assert message.payload.sealed.aad == b""


@pytest.mark.parametrize(
    ("ids", "session_id", "job_id"),
    [
        ({"session_id": "7", "job_id": "7"}, "7", 7),
        ({"sessionId": 7, "jobId": 7}, "7", 7),
        ({"job_id": 7}, "7", 7),
        ({"session_id": 7}, "7", 7),
        ({"session_id": "mine", "job_id": 7}, "mine", 7),
    ],
)
def test_session_and_job_stand_for_each_other(
    ids: dict[str, Json], session_id: str, job_id: int
) -> None:
    message = decode_client_message(
        json.dumps({"type": "encrypted_session_init", **ids, "payload": INIT})
    )

    assert isinstance(message, EncryptedSessionInit)
    assert (message.session_id, message.job_id) == (session_id, job_id)


@pytest.mark.parametrize(("written", "echoed"), [("r-1", "r-1"), (5, "5"), (0, "0"), (None, None)])
def test_ids_are_kept_for_the_echo(written: Json, echoed: str | None) -> None:
    for kind, extra in (
        ("encrypted_message", {"payload": SEALED}),
        ("encrypted_ack", {"payload": SEALED}),
        ("encrypted_close", {"payload": SEALED}),
        ("stream_cancel", {}),
        ("encrypted_session_init", {"payload": INIT}),
        ("uploadVectors", {}),
    ):
        message = decode_client_message(
            json.dumps({"type": kind, "session_id": "7", "id": written, **extra})
        )
        assert getattr(message, "id") == echoed  # noqa: B009 - the union has members without it


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ({}, "INVALID_PAYLOAD"),
        ({"type": 5}, "INVALID_PAYLOAD"),
        ({"type": "t" * 65}, "INVALID_PAYLOAD"),
        ({"type": "encrypted_session_init"}, "MISSING_SESSION_ID"),
        ({"type": "encrypted_session_init", "session_id": "mine"}, "INVALID_PAYLOAD"),
        ({"type": "encrypted_session_init", "job_id": 7}, "MISSING_PAYLOAD"),
        ({"type": "encrypted_session_init", "job_id": 7, "payload": {}}, "MISSING_PAYLOAD_FIELDS"),
        ({"type": "encrypted_message", "payload": SEALED}, "MISSING_SESSION_ID"),
        ({"type": "encrypted_message", "session_id": "7"}, "MISSING_PAYLOAD"),
        ({"type": "encrypted_message", "session_id": "7", "payload": {}}, "MISSING_PAYLOAD_FIELDS"),
        ({"type": "encrypted_message", "session_id": "7", "payload": 5}, "INVALID_PAYLOAD"),
    ],
)
def test_what_is_missing_has_the_code_that_clients_know(frame: dict[str, Json], code: str) -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_client_message(json.dumps(frame))
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("altered", "code"),
    [
        ({"nonceHex": "00" * 23}, "INVALID_NONCE_SIZE"),
        ({"nonceHex": "zz"}, "INVALID_HEX_ENCODING"),
        ({"ciphertextHex": "0"}, "INVALID_HEX_ENCODING"),
        ({"aadHex": "-"}, "INVALID_HEX_ENCODING"),
        ({"saltHex": "00" * 31}, "INVALID_PAYLOAD"),
        ({"ephPubHex": "02" * 32}, "INVALID_HEX_ENCODING"),
        ({"ephPubHex": None}, "MISSING_PAYLOAD_FIELDS"),
        ({"signatureHex": None}, "MISSING_PAYLOAD_FIELDS"),
        ({"signatureHex": "00" * 66}, "INVALID_PAYLOAD"),
        ({"signatureHex": "00" * 64}, "INVALID_PAYLOAD"),
        ({"signatureHex": "00" * 64, "recid": 300}, "INVALID_PAYLOAD"),
        ({"info": "i" * 257}, "INVALID_PAYLOAD"),
        ({"info": 5}, "INVALID_PAYLOAD"),
    ],
)
def test_an_altered_init_has_the_code_that_clients_know(
    altered: dict[str, Json], code: str
) -> None:
    frame = {"type": "encrypted_session_init", "job_id": 7, "payload": {**INIT, **altered}}

    with pytest.raises(RemoteProtocolError) as caught:
        decode_client_message(json.dumps(frame))
    assert caught.value.code == code


def test_heartbeats() -> None:
    assert decode_client_message(encode_frame(Ping())) == Ping()
    assert decode_host_message(encode_frame(Pong())) == Pong()


def test_a_cancel_may_name_nothing() -> None:
    assert decode_client_message('{"type":"stream_cancel"}') == StreamCancel(session_id="")


def test_host_frames_of_existing_hosts_are_read() -> None:
    """Without what only our host sends."""
    assert decode_host_message('{"type":"connected"}') == Connected("")
    assert decode_host_message('{"type":"error","error":"old"}') == ErrorMessage(
        code="UNKNOWN", message="old"
    )
    assert decode_host_message('{"type":"error"}') == ErrorMessage(
        code="UNKNOWN", message="no message"
    )
    assert decode_host_message('{"type":"stream_end"}') == StreamEnd(
        session_id="", id=None, reason="complete", tokens_used=0
    )
    assert decode_host_message(
        '{"type":"session_init_ack","sessionId":7,"jobId":"7","chainId":1,"status":"success"}'
    ) == SessionInitAck(
        session_id="7", job_id=JobId(7), chain_id=1, client_address="", extension=None
    )
    assert decode_host_message('{"type":"session_status"}') == Unknown("session_status")


@given(client_messages | host_messages, st.data())
def test_altered_frames_are_a_message_or_the_one_error(
    message: ClientMessage | HostMessage, data: st.DataObject
) -> None:
    assert not isinstance(message, Unsupported | Unknown)
    text = encode_frame(message)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 9)))
    altered = text[:start] + data.draw(st.text(json_safe, max_size=9)) + text[end:]

    for decode in (decode_client_message, decode_host_message):
        with suppress(RemoteProtocolError):
            decode(altered)


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_garbage_is_the_one_error(data: str | bytes) -> None:
    for decode in (decode_client_message, decode_host_message):
        with pytest.raises(RemoteProtocolError):
            decode(data)


def test_fields_outside_the_ciphertext_do_not_matter_to_a_message() -> None:
    """Era-C clients send their web search queries there: a leak that we do not read."""
    frame = {
        "type": "encrypted_message",
        "session_id": "7",
        "payload": SEALED,
        "web_search": True,
        "search_queries": ["secret"],
    }

    message = decode_client_message(json.dumps(frame))

    assert isinstance(message, EncryptedMessage)
    assert "secret" not in repr(message)
