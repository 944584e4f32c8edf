"""What a host's errors are called and what they mean. docs/protocol.md has the same table; a test
compares them.

Existing clients drop an error's `code` and search its text instead: on certain words their bridges
open a new session, with a new deposit. So each text begins with its code; the texts of errors that
end a session hold those words, and no other text does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

SESSION_IS_OVER: Final = "SESSION_NOT_ACTIVE"
"""What existing clients understand as: open a new session."""

WORDS_THAT_REOPEN: Final = (SESSION_IS_OVER, "SESSION_NOT_FOUND", "decrypt", "aead")
"""What their bridges search for; we assume that some do so without regard to case."""


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """One row.

    Attributes:
        meaning: said instead of a text that would be misread.
        marker: stands behind the code, for clients that read nothing else.
    """

    meaning: str
    marker: str | None = None


ERROR_CODES: Final[Mapping[str, ErrorCode]] = {
    "INVALID_PAYLOAD": ErrorCode("a frame or plaintext is malformed or exceeds a limit"),
    "INVALID_CID": ErrorCode("a path of the S5 doors names no blob"),
    "INVALID_UTF8": ErrorCode("it is not UTF-8, or text holds lone surrogates"),
    "INVALID_HEX_ENCODING": ErrorCode("a field is not hex, or not of its size"),
    "INVALID_NONCE_SIZE": ErrorCode("a nonce has not 24 bytes"),
    "MISSING_SESSION_ID": ErrorCode("a frame names no session"),
    "MISSING_PAYLOAD": ErrorCode("a frame has no payload"),
    "MISSING_PAYLOAD_FIELDS": ErrorCode("a payload lacks a field"),
    "DECRYPTION_FAILED": ErrorCode(
        "a payload does not open, or belongs to another frame: open the session again",
        "cannot decrypt",
    ),
    "REPLAYED_MESSAGE": ErrorCode("a message was seen before, or is not the next one"),
    "REPLAYED_INIT": ErrorCode("an ephemeral key was used before: make a new one"),
    "SESSION_KEY_NOT_FOUND": ErrorCode(
        "too many messages under one session key: open the session again"
    ),
    "WRONG_CHAIN": ErrorCode("the host serves another chain"),
    "JOB_MISMATCH": ErrorCode(
        "inside and outside, or authorization and session, name different jobs or hosts"
    ),
    "SESSION_NOT_FOUND": ErrorCode("no such job on chain"),
    "SESSION_NOT_ACTIVE": ErrorCode("completed, timed out, or being settled: open another"),
    "SESSION_EXPIRED": ErrorCode("past its duration", SESSION_IS_OVER),
    "WRONG_HOST": ErrorCode("the job is with another host"),
    "WRONG_MODEL": ErrorCode(
        "the job is for a model that is not served, or the init names another: the text lists those"
        " that are"
    ),
    "NOT_DEPOSITOR": ErrorCode("the caller does not speak for who paid"),
    "AUTHORIZATION_EXPIRED": ErrorCode("sign a new one, for at most 30 days"),
    "SESSION_PINNED": ErrorCode(
        "another key uses the session, or this one was proven and now is not: open it as before, "
        "or as its depositor"
    ),
    "TERMS_REFUSED": ErrorCode(
        "the session's deposit, price, interval or duration is below what the host asks: the text "
        "says which, and what to open instead"
    ),
    "SESSION_EVICTED": ErrorCode("the depositor took the session over", SESSION_IS_OVER),
    "NOT_AUTHENTICATED": ErrorCode("this socket did not open that session"),
    "ENCRYPTION_REQUIRED": ErrorCode("a conversation in clear: use encrypted_session_init"),
    "UNSUPPORTED_MESSAGE": ErrorCode("a type that this host does not serve"),
    "UNSUPPORTED_REQUEST": ErrorCode(
        "a request asks for what this model does not serve or this version does not know (images, "
        "tools ...): nothing is answered or billed"
    ),
    "RATE_LIMITED": ErrorCode("too many handshakes or refused frames: try again when it says"),
    "BUSY": ErrorCode("the session is answering: wait for stream_end, or cancel"),
    "UNACKNOWLEDGED": ErrorCode(
        "too much of the session was delivered and never acknowledged: close it", SESSION_IS_OVER
    ),
    "DRAINING": ErrorCode("the host is shutting down: what was used is proven, choose another"),
    "TOKEN_LIMIT_EXCEEDED": ErrorCode("the prompt does not fit the context; carries both numbers"),
    "CONVERSATION_REFUSED": ErrorCode(
        "the model's chat template does not take these roles in this order: the text has its words"
    ),
    "DEPOSIT_EXHAUSTED": ErrorCode("the deposit pays for no further token", SESSION_IS_OVER),
    "RECEIPT_MISMATCH": ErrorCode("an acknowledgement fits no receipt that is due"),
    "ENGINE_UNAVAILABLE": ErrorCode("the model is loading or gone"),
    "ENGINE_CRASHED": ErrorCode("it died during this request: send it again"),
    "CHAIN_UNAVAILABLE": ErrorCode("the host cannot ask the chain"),
    "INTERNAL_ERROR": ErrorCode("the host failed; what was not acknowledged is not billed"),
}

_UNKNOWN = ErrorCode("this host refuses it")


def text_prefix(code: str) -> str:
    """What an error's text begins with."""
    marker = ERROR_CODES.get(code, _UNKNOWN).marker
    return f"{code}: {marker}: " if marker else f"{code}: "


def unmistakable(code: str, message: str) -> str:
    """The message, or what its code means where an existing client would open a new session because
    of it: a hexadecimal address can hold "aead".
    """
    if may_reopen(text_prefix(code)) or not may_reopen(message):
        return message
    return ERROR_CODES.get(code, _UNKNOWN).meaning


def may_reopen(text: str) -> bool:
    """Whether some existing client opens a new session when it reads this."""
    folded = text.lower()
    return any(word.lower() in folded for word in WORDS_THAT_REOPEN)
