"""How one client's frames are sealed: era-C's way, or the extension's.

Both are real peers today; an answer is produced once and does not know which one it talks to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from fabstir.primitives.errors import RemoteProtocolError
from fabstir.protocol.client_messages import EncryptedAck, EncryptedClose, EncryptedMessage
from fabstir.protocol.crypto import Crypto
from fabstir.protocol.envelope import (
    NONCE_BYTES,
    SealedPayload,
    SecureChannel,
    frame_binding,
    open_payload,
    seal_payload,
)
from fabstir.protocol.era_c import EraCRequest
from fabstir.protocol.exchange.answers import End, Piece
from fabstir.protocol.frames import Frame, SealedFrame
from fabstir.protocol.host_messages import (
    EncryptedChunk,
    EncryptedReceipt,
    EncryptedResponse,
    SessionClosed,
)
from fabstir.protocol.payloads import ClosedPlaintext, ReceiptPlaintext
from fabstir.protocol.receipts import SignedAcknowledgement
from fabstir.protocol.request import RequestPlaintext

_MAX_SEEN_NONCES: Final = 100_000
"""Requests under one era-C session key (its SDK makes a new key for each): 24 bytes each."""

_COUNTER_BYTES: Final = 8


class SessionDialect(Protocol):
    """One client's encryption of one session, from its init to the next.

    Attributes:
        has_receipts: its client checks receipts and acknowledges them.
    """

    has_receipts: bool

    def open_request(self, message: EncryptedMessage) -> EraCRequest | RequestPlaintext:
        """Raises RemoteProtocolError: undecryptable, replayed or malformed."""
        ...

    def is_meant(self, message: EncryptedMessage) -> bool:
        """Whether a message under another session's name is for this one."""
        ...

    def open_acknowledgement(self, message: EncryptedAck) -> SignedAcknowledgement:
        """Raises RemoteProtocolError; also where its client knows none."""
        ...

    def open_close(self, message: EncryptedClose) -> None:
        """Raises RemoteProtocolError; also where its client knows none."""
        ...

    def piece(self, request_id: str | None, piece: Piece) -> list[Frame]:
        """A piece of an answer."""
        ...

    def receipt(self, request_id: str | None, receipt: ReceiptPlaintext) -> list[Frame]:
        """A receipt for the pieces before it; nothing for a client that knows none."""
        ...

    def end(self, request_id: str | None, end: End) -> list[Frame]:
        """What comes between the last piece and stream_end."""
        ...

    def closed(self, request_id: str | None, closed: ClosedPlaintext) -> list[Frame]:
        """The last word on a session, to an encrypted_close."""
        ...


class EraCDialect:
    """Existing clients: one key for both directions, random nonces, plain text inside."""

    has_receipts = False

    def __init__(
        self, session_id: str, session_key: bytes, crypto: Crypto, random: Callable[[int], bytes]
    ) -> None:
        self._session_id = session_id
        self._key = session_key
        self._crypto = crypto
        self._seen: set[bytes] = set()
        # One key both ways: our own nonces are recognisable, so that a frame of ours that is sent
        # back to us as a request is refused as the replay that it is.
        self._nonce_prefix = random(NONCE_BYTES - _COUNTER_BYTES)
        self._counter = 0

    def open_request(self, message: EncryptedMessage) -> EraCRequest:
        nonce = message.payload.nonce
        if nonce in self._seen or nonce.startswith(self._nonce_prefix):
            raise RemoteProtocolError(
                "this message was seen before: encrypt each message with a fresh nonce",
                code="REPLAYED_MESSAGE",
            )
        if len(self._seen) >= _MAX_SEEN_NONCES:
            raise RemoteProtocolError(
                "too many messages under one session key: send encrypted_session_init again",
                code="SESSION_KEY_NOT_FOUND",
            )
        plaintext = open_payload(self._key, message.payload, self._crypto)
        self._seen.add(nonce)
        return EraCRequest.decode(plaintext)

    def is_meant(self, message: EncryptedMessage) -> bool:
        try:
            open_payload(self._key, message.payload, self._crypto)
        except RemoteProtocolError:
            return False
        return True

    def open_acknowledgement(self, message: EncryptedAck) -> SignedAcknowledgement:
        raise RemoteProtocolError("this session knows no acknowledgements: open it with them")

    def open_close(self, message: EncryptedClose) -> None:
        raise RemoteProtocolError("this session knows no close: close the socket")

    def piece(self, request_id: str | None, piece: Piece) -> list[Frame]:
        chunk = piece.chunk
        tokens = len(chunk.token_ids)
        return [self._chunk(request_id, piece.index, chunk.text, tokens, is_final=False)]

    def receipt(self, request_id: str | None, receipt: ReceiptPlaintext) -> list[Frame]:
        return []

    def end(self, request_id: str | None, end: End) -> list[Frame]:
        reason = end.plaintext.finish_reason.encode()
        payload = self._seal(b"encrypted_response_final", reason)
        return [
            self._chunk(request_id, end.num_pieces, "", 0, is_final=True),
            EncryptedResponse(session_id=self._session_id, id=request_id, payload=payload),
        ]

    def closed(self, request_id: str | None, closed: ClosedPlaintext) -> list[Frame]:
        return []

    def _chunk(
        self, request_id: str | None, index: int, text: str, tokens: int, *, is_final: bool
    ) -> Frame:
        return EncryptedChunk(
            session_id=self._session_id,
            id=request_id,
            tokens=tokens,
            index=index,
            payload=self._seal(f"chunk_{index}".encode(), text.encode()),
            final=is_final,
        )

    def _seal(self, aad: bytes, plaintext: bytes) -> SealedPayload:
        nonce = self._nonce_prefix + self._counter.to_bytes(_COUNTER_BYTES, "big")
        self._counter += 1
        return seal_payload(self._key, nonce, aad, plaintext, self._crypto)


class ExtensionDialect:
    """Our renters: one key a direction, counters, receipts."""

    has_receipts = True

    def __init__(self, session_id: str, channel: SecureChannel) -> None:
        self._session_id = session_id
        self._channel = channel

    def open_request(self, message: EncryptedMessage) -> RequestPlaintext:
        return RequestPlaintext.decode(self._open("encrypted_message", message))

    def is_meant(self, message: EncryptedMessage) -> bool:
        return False  # the frame's binding holds the session's name

    def open_acknowledgement(self, message: EncryptedAck) -> SignedAcknowledgement:
        return SignedAcknowledgement.decode(self._open("encrypted_ack", message))

    def open_close(self, message: EncryptedClose) -> None:
        self._open("encrypted_close", message)

    def piece(self, request_id: str | None, piece: Piece) -> list[Frame]:
        return [
            EncryptedChunk(
                session_id=self._session_id,
                id=request_id,
                tokens=len(piece.chunk.token_ids),
                index=piece.index,
                payload=self._seal("encrypted_chunk", request_id, piece.chunk.encode()),
            )
        ]

    def receipt(self, request_id: str | None, receipt: ReceiptPlaintext) -> list[Frame]:
        payload = self._seal("encrypted_receipt", request_id, receipt.encode())
        return [EncryptedReceipt(session_id=self._session_id, id=request_id, payload=payload)]

    def end(self, request_id: str | None, end: End) -> list[Frame]:
        payload = self._seal("encrypted_response", request_id, end.plaintext.encode())
        return [EncryptedResponse(session_id=self._session_id, id=request_id, payload=payload)]

    def closed(self, request_id: str | None, closed: ClosedPlaintext) -> list[Frame]:
        payload = self._seal("session_closed", request_id, closed.encode())
        return [SessionClosed(session_id=self._session_id, id=request_id, payload=payload)]

    def _open(self, kind: str, message: SealedFrame) -> bytes:
        binding = frame_binding(kind, message.session_id, message.id or "")
        return self._channel.open(message.payload, binding)

    def _seal(self, kind: str, request_id: str | None, plaintext: bytes) -> SealedPayload:
        binding = frame_binding(kind, self._session_id, request_id or "")
        return self._channel.seal(plaintext, binding)
