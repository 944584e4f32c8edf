"""One table of what goes wrong: its code, what it means and what to do, the error that it is here,
and how HTTP says it. Hosts, renters, docs/protocol.md and tests read these rows and no others.

Existing clients drop an error's `code` and search its text instead: on certain words their bridges
open a new session, with a new deposit. So each text begins with its code; the texts of errors that
end a session hold those words, and no other text does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from fabstir.primitives import errors

SESSION_IS_OVER: Final = "SESSION_NOT_ACTIVE"
"""What existing clients understand as: open a new session."""

WORDS_THAT_REOPEN: Final = (SESSION_IS_OVER, "SESSION_NOT_FOUND", "decrypt", "aead")
"""What their bridges search for; we assume that some do so without regard to case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorCode:
    """One row.

    Attributes:
        meaning, fix: what happened and what to do; said instead of a text that would be misread.
        status, kind: HTTP's status, and era-C's `error_type` in its body.
        error: the error to which a host gives this code. None: it is raised with its code.
        marker: stands behind the code, for clients that read nothing else.
        is_raised_by_renters: a renter that is told the code raises the same error, with the text;
            for all others SessionRefused, with the code.
        is_our_affair: the error's text may name places of the host's machine and network, so that
            sessions are told meaning and fix alone; the log has the text.
    """

    meaning: str
    fix: str
    status: int
    kind: str
    error: type[errors.FabstirError] | None = None
    marker: str | None = None
    is_raised_by_renters: bool = False
    is_our_affair: bool = False

    @property
    def text(self) -> str:
        """What is said where the error's own text must not be."""
        return f"{self.meaning}: {self.fix}"


def _malformed(meaning: str, fix: str, marker: str | None = None) -> ErrorCode:
    return ErrorCode(meaning=meaning, fix=fix, status=400, kind="validation_error", marker=marker)


def _refused(meaning: str, fix: str, status: int, marker: str | None = None) -> ErrorCode:
    return ErrorCode(meaning=meaning, fix=fix, status=status, kind="session_refused", marker=marker)


def _storage(
    error: type[errors.StorageError], status: int, kind: str, meaning: str, fix: str
) -> ErrorCode:
    return ErrorCode(
        meaning=meaning, fix=fix, status=status, kind=kind, error=error, is_our_affair=True
    )


def _of_model(
    error: type[errors.FabstirError], status: int, kind: str, meaning: str, fix: str
) -> ErrorCode:
    return ErrorCode(
        meaning=meaning,
        fix=fix,
        status=status,
        kind=kind,
        error=error,
        is_raised_by_renters=True,
    )


_ROWS: dict[str, ErrorCode] = {
    "INVALID_PAYLOAD": _malformed(
        "a frame, body or plaintext is malformed or exceeds a limit", "send what the text says"
    ),
    "INVALID_CID": _malformed("a path of the S5 doors names no blob", "correct the identifier"),
    "INVALID_UTF8": _malformed(
        "it is not UTF-8, or text holds lone surrogates", "send text in UTF-8"
    ),
    "INVALID_HEX_ENCODING": _malformed(
        "a field is not hex, or not of its size", "send hex of the size that the text says"
    ),
    "INVALID_NONCE_SIZE": _malformed("a nonce has not 24 bytes", "send one of 24"),
    "MISSING_SESSION_ID": _malformed("a frame names no session", "send session_id"),
    "MISSING_PAYLOAD": _malformed("a frame has no payload", "send it"),
    "MISSING_PAYLOAD_FIELDS": _malformed("a payload lacks a field", "send it"),
    "DECRYPTION_FAILED": _malformed(
        "a payload does not open, or belongs to another frame",
        "open the session again",
        "cannot decrypt",
    ),
    "REPLAYED_MESSAGE": _malformed(
        "a message was seen before, or is not the next one",
        "seal each message anew, and send in that order",
    ),
    "REPLAYED_INIT": _refused("an ephemeral key was used before", "make a new one", 409),
    "SESSION_KEY_NOT_FOUND": _malformed(
        "too many messages under one session key", "open the session again"
    ),
    "WRONG_CHAIN": _refused("the host serves another chain", "use the host's chain", 400),
    "JOB_MISMATCH": _refused(
        "inside and outside, or authorization and session, name different jobs or hosts",
        "name one job at one host",
        400,
    ),
    "SESSION_NOT_FOUND": _refused("no such job on chain", "open a session", 404),
    "SESSION_NOT_ACTIVE": _refused(
        "completed, timed out, or being settled", "open another session", 409
    ),
    "SESSION_EXPIRED": _refused("past its duration", "open another", 409, SESSION_IS_OVER),
    "WRONG_HOST": _refused("the job is with another host", "ask that host", 403),
    "WRONG_MODEL": _refused("the job is for another model", "open a session for this model", 400),
    "NOT_DEPOSITOR": _refused(
        "the caller does not speak for who paid",
        "sign as the depositor, its delegate, or with a key that one of them authorized",
        403,
    ),
    "AUTHORIZATION_EXPIRED": _refused(
        "the session key's authorization is over, or reaches too far ahead",
        "sign a new one, for at most 30 days",
        403,
    ),
    "SESSION_PINNED": _refused(
        "another key uses the session, or this one was proven and now is not",
        "open it as before, or as its depositor",
        403,
    ),
    "TERMS_REFUSED": _refused(
        "the session's deposit, price, interval or duration is below what the host asks",
        "open what the text says instead",
        402,
    ),
    "SESSION_EVICTED": _refused(
        "the depositor took the session over", "open another", 409, SESSION_IS_OVER
    ),
    "NOT_AUTHENTICATED": _refused(
        "this socket did not open that session", "send encrypted_session_init first", 401
    ),
    "ENCRYPTION_REQUIRED": _refused(
        "a conversation in clear", "use encrypted_session_init and encrypted_message", 400
    ),
    "UNSUPPORTED_MESSAGE": _refused(
        "a type that this host does not serve", "leave it out, or choose another host", 400
    ),
    "UNSUPPORTED_REQUEST": _of_model(
        errors.RequestRefused,
        400,
        "validation_error",
        "a request asks for what this model does not serve or this version does not know (images, "
        "tools ...), and nothing is answered or billed",
        "leave it out, or choose another host",
    ),
    "RATE_LIMITED": _refused(
        "too many handshakes or refused frames", "try again when it says", 429
    ),
    "BUSY": _refused("the session is answering", "wait for stream_end, or cancel", 409),
    "UNACKNOWLEDGED": _refused(
        "too much of the session was delivered and never acknowledged",
        "close it and open another",
        402,
        SESSION_IS_OVER,
    ),
    "DRAINING": _refused(
        "the host is shutting down; what was used is proven", "choose another host", 503
    ),
    "TOKEN_LIMIT_EXCEEDED": ErrorCode(
        meaning="the prompt does not fit the context; carries both numbers",
        fix="shorten the conversation, or choose a model with a longer context",
        status=400,
        kind="validation_error",
        error=errors.ContextLengthExceeded,
    ),
    "CONVERSATION_REFUSED": _of_model(
        errors.ConversationRefused,
        400,
        "validation_error",
        "the model's chat template does not take these roles in this order",
        "send what the text, in the template's own words, asks for",
    ),
    "DEPOSIT_EXHAUSTED": ErrorCode(
        meaning="the deposit pays for no further token",
        fix="close the session and open another, with a larger deposit",
        status=402,
        kind="session_refused",
        error=errors.DepositExhausted,
        marker=SESSION_IS_OVER,
        is_raised_by_renters=True,
    ),
    "RECEIPT_MISMATCH": ErrorCode(
        meaning="an acknowledgement fits no receipt that is due",
        fix="sign the receipt's own hash, sequence and cumulative tokens",
        status=409,
        kind="session_refused",
        error=errors.ReceiptMismatch,
    ),
    "ENGINE_UNAVAILABLE": _of_model(
        errors.EngineUnavailable,
        503,
        "service_unavailable",
        "the model is loading or gone",
        "try again soon, or choose another host",
    ),
    "ENGINE_CRASHED": _of_model(
        errors.EngineCrashed,
        503,
        "service_unavailable",
        "the model died during this request",
        "send it again",
    ),
    "CHAIN_UNAVAILABLE": ErrorCode(
        meaning="the host cannot ask the chain",
        fix="try again soon",
        status=503,
        kind="service_unavailable",
        error=errors.ChainError,
        is_our_affair=True,
    ),
    "NOT_FOUND": _storage(
        errors.NotFound, 404, "not_found", "there is no blob, path or entry of this name",
        "correct the name",
    ),
    "PATH_REFUSED": _storage(
        errors.PathRefused, 400, "path_refused", "a path that is not allowed",
        "choose one as the text says",
    ),
    "HASH_MISMATCH": _storage(
        errors.HashMismatch, 400, "hash_mismatch", "the bytes are not those of their identifier",
        "send them again",
    ),
    "BLOB_TOO_LARGE": _storage(
        errors.BlobTooLarge, 413, "too_large", "a blob is longer than the limit",
        "send it in parts",
    ),
    "QUOTA_EXCEEDED": _storage(
        errors.QuotaExceeded, 507, "quota_exceeded", "an owner may store no more",
        "unpin what is no longer needed",
    ),
    "STORAGE_FULL": _storage(
        errors.StorageFull, 507, "storage_full", "the node's disk is full", "use another node"
    ),
    "REGISTRY_FULL": _storage(
        errors.RegistryFull, 507, "registry_full", "the node takes entries of no further keys",
        "use another node",
    ),
    "WRITE_CONFLICT": _storage(
        errors.WriteConflict, 409, "conflict", "somebody else changed it meanwhile",
        "read it again, then write",
    ),
    "ACCESS_DENIED": _storage(
        errors.AccessDenied, 403, "forbidden", "the key or token does not open this",
        "show one that does",
    ),
    "TOO_MANY_REQUESTS": _storage(
        errors.Busy, 429, "too_many_requests", "too much at once", "try again when it says"
    ),
    "CORRUPT_BLOB": _storage(
        errors.CorruptBlob, 502, "corrupt_blob", "stored bytes are damaged", "use another node"
    ),
    "PORTAL_FAILED": _storage(
        errors.PortalError, 502, "bad_gateway", "a portal that the node asked failed",
        "try again later",
    ),
    "FETCH_FAILED": _storage(
        errors.FetchFailed, 502, "bad_gateway", "no source gave the whole blob",
        "try again later",
    ),
    "STORAGE_FAILED": _storage(
        errors.StorageError, 500, "storage_error", "the node could not keep or find it",
        "try again later",
    ),
    "INTERNAL_ERROR": ErrorCode(
        meaning="the host failed; what was not acknowledged is not billed",
        fix="try again, or choose another host",
        status=500,
        kind="internal_error",
        error=errors.FabstirError,
        is_our_affair=True,
    ),
}  # fmt: skip

ERROR_CODES: Final[Mapping[str, ErrorCode]] = MappingProxyType(_ROWS)

_BY_ERROR: Final = {row.error: code for code, row in _ROWS.items() if row.error}
_UNKNOWN: Final = _refused("this host refuses it", "see what the text says", 400)


def code_of(error: errors.FabstirError) -> str:
    """The code that a host gives to an error: its own, or that of the nearest kind in the table."""
    if isinstance(error, errors.RemoteProtocolError | errors.SessionRefused):
        return error.code
    return next(_BY_ERROR[kind] for kind in type(error).__mro__ if kind in _BY_ERROR)


def row_of(error: errors.FabstirError) -> ErrorCode:
    """The error's row; a code of a later version has one, too."""
    return ERROR_CODES.get(code_of(error), _UNKNOWN)


def error_told(code: str, text: str) -> errors.FabstirError:
    """What a renter raises that is told a code."""
    row = ERROR_CODES.get(code, _UNKNOWN)
    if row.is_raised_by_renters and row.error:
        return row.error(text)
    return errors.SessionRefused(code, f"{text} ({code})")


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
    return ERROR_CODES.get(code, _UNKNOWN).text


def may_reopen(text: str) -> bool:
    """Whether some existing client opens a new session when it reads this."""
    folded = text.lower()
    return any(word.lower() in folded for word in WORDS_THAT_REOPEN)
