"""What existing clients read in an error: its text, in which some words open a new session."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import texts

from fabstir.doors.errors import error_message
from fabstir.primitives.errors import (
    ContextLengthExceeded,
    ConversationRefused,
    CorruptBlob,
    DepositExhausted,
    EngineCrashed,
    EngineUnavailable,
    FabstirError,
    KeystoreError,
    PortalRefused,
    ReceiptMismatch,
    RemoteProtocolError,
    RequestRefused,
    RpcUnavailable,
    SessionRefused,
    StorageError,
)
from fabstir.protocol.codes import ERROR_CODES, code_of, error_told, row_of, text_prefix
from fabstir.protocol.frames import encode_frame
from fabstir.protocol.host_messages import ErrorMessage, decode_host_message
from fabstir.web.errors import http_error

ENDS_A_SESSION = {
    "SESSION_NOT_FOUND",
    "SESSION_NOT_ACTIVE",
    "SESSION_EXPIRED",
    "SESSION_EVICTED",
    "DEPOSIT_EXHAUSTED",
    "UNACKNOWLEDGED",
    "DECRYPTION_FAILED",
}
"""Whoever gets one of these needs a new session; for all others a new deposit would be waste."""

MESSAGES = [
    "why, and what to do",
    "0x52908400098527886e0f7030069857d2aead9ee7 is not the depositor",
    "AeAd",
    "the message does not decrypt",
    "see SESSION_NOT_FOUND and session_not_active",
    "BUSY: again",
    "",
]


def opens_a_new_session(text: str, *, folds_case: bool) -> bool:
    """As bridges of existing clients decide it; whether they fold case is not known."""
    words = ("SESSION_NOT_ACTIVE", "SESSION_NOT_FOUND", "decrypt", "aead")
    if folds_case:
        return any(word.lower() in text.lower() for word in words)
    return any(word in text for word in words)


def sent(error: FabstirError) -> dict[str, str]:
    frame = error_message(error, session_id="7", request_id="1")
    return json.loads(encode_frame(frame))


@pytest.mark.parametrize("code", ERROR_CODES)
def test_a_text_begins_with_its_code_and_says_whether_the_session_is_over(code: str) -> None:
    for message in MESSAGES:
        frame = sent(SessionRefused(code, message))

        assert frame["code"] == code
        assert frame["message"] == frame["error"]
        assert frame["message"].startswith(f"{code}: ")
        for folds_case in (False, True):
            is_over = opens_a_new_session(frame["message"], folds_case=folds_case)
            assert is_over == (code in ENDS_A_SESSION), message


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RemoteProtocolError("bad"), "INVALID_PAYLOAD"),
        (DepositExhausted("no further token"), "DEPOSIT_EXHAUSTED"),
        (ContextLengthExceeded(9, 8), "TOKEN_LIMIT_EXCEEDED"),
        (ConversationRefused("roles must alternate"), "CONVERSATION_REFUSED"),
        (ReceiptMismatch("fits none"), "RECEIPT_MISMATCH"),
        (EngineCrashed("while it read aead.gguf"), "ENGINE_CRASHED"),
        (EngineUnavailable("loading"), "ENGINE_UNAVAILABLE"),
        (RequestRefused("no images"), "UNSUPPORTED_REQUEST"),
        (RpcUnavailable("no answer"), "CHAIN_UNAVAILABLE"),
        (CorruptBlob("blob", "/home/host/store"), "INTERNAL_ERROR"),
        (FabstirError("a secret of ours: SESSION_NOT_ACTIVE"), "INTERNAL_ERROR"),
    ],
)
def test_errors_without_a_code_of_their_own(error: FabstirError, code: str) -> None:
    text = sent(error)["message"]

    assert text.startswith(f"{code}: ")
    assert opens_a_new_session(text, folds_case=True) == (code in ENDS_A_SESSION)


@given(st.sampled_from([*ERROR_CODES, "A_CODE_OF_LATER"]), texts(40, 1))
def test_our_renter_reads_the_message_without_its_code(code: str, message: str) -> None:
    frame = ErrorMessage(code=code, message=message)

    assert decode_host_message(encode_frame(frame)) == frame


@given(st.sampled_from(sorted(ERROR_CODES)), texts(60))
def test_no_text_of_ours_is_misread(code: str, message: str) -> None:
    text = sent(SessionRefused(code, message))["message"]

    assert opens_a_new_session(text, folds_case=True) == (code in ENDS_A_SESSION)


def test_the_meanings_are_never_misread_themselves() -> None:
    texts = {code: text_prefix(code) + row.text for code, row in ERROR_CODES.items()}

    misread = {code for code, text in texts.items() if opens_a_new_session(text, folds_case=True)}

    assert misread == ENDS_A_SESSION


@pytest.mark.parametrize("code", ERROR_CODES)
def test_a_renter_raises_what_the_host_did_or_says_the_code(code: str) -> None:
    error = error_told(code, "the host says: why")

    assert "the host says: why" in str(error)
    if ERROR_CODES[code].is_raised_by_renters:
        assert type(error) is ERROR_CODES[code].error
    else:
        assert isinstance(error, SessionRefused)
        assert code in str(error)
    assert code_of(error) == code


def test_a_code_of_a_later_version_is_told_as_it_is() -> None:
    error = error_told("OF_A_LATER_VERSION", "the host says: why")

    assert code_of(error) == "OF_A_LATER_VERSION"
    assert row_of(error).status == 400


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (RemoteProtocolError("bad"), 400, "validation_error"),
        (RemoteProtocolError("no blob", code="INVALID_CID"), 400, "validation_error"),
        (SessionRefused("SESSION_NOT_FOUND", "none"), 404, "session_refused"),
        (ContextLengthExceeded(9, 8), 400, "validation_error"),
        (DepositExhausted("used up"), 402, "session_refused"),
        (EngineUnavailable("loading"), 503, "service_unavailable"),
        (PortalRefused("https://portal", 404, "no"), 502, "bad_gateway"),
        (StorageError("somehow"), 500, "storage_error"),
        (KeystoreError("wrong password"), 500, "internal_error"),
    ],
)
def test_http_says_the_same_rows(error: FabstirError, status: int, kind: str) -> None:
    assert http_error(error) == (status, kind)


def test_no_two_rows_are_of_one_error() -> None:
    kinds = [row.error for row in ERROR_CODES.values() if row.error]

    assert len(kinds) == len(set(kinds))
    assert FabstirError in kinds
