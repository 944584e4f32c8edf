"""Checkpoints in era-C's exact forms: the conversation's delta, and the index of all of them.

A delta is published only encrypted, to the renter's recovery key. When a client gave none, the
host publishes a delta without content, so that nobody's conversation lies open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self, cast

from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import Address, Hash32, JobId
from fabstir.protocol.content import ROLES, Message
from fabstir.protocol.crypto import BadSignatureError, Crypto, DecryptionError
from fabstir.protocol.eip712 import personal_digest
from fabstir.protocol.envelope import hkdf_sha256
from fabstir.protocol.fields import Fields

_DELTA_INFO = b"checkpoint-delta-encryption-v1"

_MOST_ITEMS: Final = 100_000
"""Checkpoints of an index, and messages of a delta: more do not fit into what is parsed at all."""

_EXACT: Final = 1 << 53
"""Numbers above are not the same in every client."""


def index_path(host: Address, job_id: JobId) -> str:
    """Where the index lies in the host's file system of S5."""
    return f"home/checkpoints/{host.lower()}/{job_id}/index.json"


def _personal_sign(secret_key: bytes, message: bytes, crypto: Crypto) -> str:
    signature = crypto.sign(secret_key, personal_digest(message, crypto))
    return "0x" + signature[:64].hex() + f"{signature[64] + 27:02x}"


def _signer(message: bytes, signature: bytes, where: str, crypto: Crypto) -> Address:
    try:
        return crypto.address_of(crypto.recover(signature, personal_digest(message, crypto)))
    except (BadSignatureError, ValueError) as exc:
        raise RemoteProtocolError(f"{where} has no valid signature ({exc})") from exc


def _require_host(
    message: bytes, fields: Fields, names: tuple[str, ...], host: Address, crypto: Crypto
) -> None:
    signer = _signer(message, fields.hex(*names, size=65), fields.where, crypto)
    if signer != host.lower():
        raise RemoteProtocolError(f"{fields.where} is signed by {signer}, not by the host {host}")


def _canonical(fields: Fields, name: str) -> bytes:
    """The signed form of a field as it came."""
    try:
        return canonical_json(cast("Json", fields.get(name)))
    except ValueError as exc:
        raise RemoteProtocolError(f"{fields.where}: {name} cannot be signed ({exc})") from exc


RECOVERED_ROLES: Final = ROLES | {"function"}
"""Who speaks in a recovered conversation; its host wrote the word."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedMessage:
    """The text of a message of the conversation; `timestamp` in milliseconds of Unix time.

    Read back, its role is one of RECOVERED_ROLES, or UNKNOWN.
    """

    message: Message
    timestamp: int
    is_partial: bool = False

    def to_json(self) -> Json:
        out: dict[str, Json] = {
            "role": self.message.role,
            "content": self.message.text,
            "timestamp": self.timestamp,
        }
        if self.is_partial:
            out["metadata"] = {"partial": True}
        return out

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError."""
        metadata = fields.optional_child("metadata")
        return cls(
            message=Message(fields.word("role", known=RECOVERED_ROLES), fields.text("content")),
            timestamp=fields.integer("timestamp", limit=_EXACT),
            is_partial=metadata is not None and metadata.flag("partial"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDelta:
    """What happened between two claims."""

    session_id: str
    checkpoint_index: int
    proof_hash: Hash32
    start_token: int
    end_token: int
    messages: tuple[TimedMessage, ...]

    def encode(self, host_secret: bytes, crypto: Crypto) -> bytes:
        """JSON; `hostSignature` is a personal_sign of the canonical JSON of `messages`."""
        messages: Json = [message.to_json() for message in self.messages]
        return canonical_json(
            {
                "sessionId": self.session_id,
                "checkpointIndex": self.checkpoint_index,
                "proofHash": self.proof_hash,
                "startToken": self.start_token,
                "endToken": self.end_token,
                "messages": messages,
                "hostSignature": _personal_sign(host_secret, canonical_json(messages), crypto),
            }
        )

    @classmethod
    def decode(cls, data: bytes, host: Address, crypto: Crypto) -> Self:
        """Read the clear form.

        Raises:
            RemoteProtocolError: it is malformed, or its messages are not signed by `host`.
        """
        fields = Fields.parse(data, "checkpoint delta")
        signature = ("hostSignature", "messagesSignature")
        _require_host(_canonical(fields, "messages"), fields, signature, host, crypto)
        messages = fields.children("messages", limit=_MOST_ITEMS)
        return cls(
            session_id=fields.identifier("sessionId"),
            checkpoint_index=fields.integer("checkpointIndex", limit=_EXACT),
            proof_hash=fields.hash32("proofHash"),
            start_token=fields.integer("startToken", limit=_EXACT),
            end_token=fields.integer("endToken", limit=_EXACT),
            messages=tuple(TimedMessage.from_fields(message) for message in messages),
        )


def _delta_key(shared_x: bytes) -> bytes:
    # Era-C hashes the shared x once more here, unlike in the session's handshake.
    digest = hashlib.sha256(shared_x).digest()
    return hkdf_sha256(digest, salt=b"", info=_DELTA_INFO, length=32)


def encrypt_delta(
    delta: bytes,
    *,
    recovery_public_key: bytes,
    ephemeral_secret: bytes,
    nonce: bytes,
    host_secret: bytes,
    crypto: Crypto,
) -> bytes:
    """The encrypted form that is published; only the recovery key opens it.

    Raises:
        ValueError: the recovery key is not a point.
    """
    key = _delta_key(crypto.ecdh_x(ephemeral_secret, recovery_public_key))
    ciphertext = crypto.seal(key, nonce, b"", delta)
    return canonical_json(
        {
            "encrypted": True,
            "version": 1,
            "userRecoveryPubKey": "0x" + recovery_public_key.hex(),
            "ephemeralPublicKey": "0x" + crypto.public_key(ephemeral_secret).hex(),
            "nonce": nonce.hex(),
            "ciphertext": ciphertext.hex(),
            "hostSignature": _personal_sign(host_secret, crypto.keccak256(ciphertext), crypto),
        }
    )


def decrypt_delta(encrypted: bytes, recovery_secret: bytes, crypto: Crypto) -> bytes:
    """The renter's side. Raises RemoteProtocolError."""
    fields = Fields.parse(encrypted, "checkpoint delta")
    try:
        shared = crypto.ecdh_x(recovery_secret, fields.hex("ephemeralPublicKey", size=33))
        return crypto.open(
            _delta_key(shared), fields.hex("nonce", size=24), b"", fields.hex("ciphertext")
        )
    except (DecryptionError, ValueError) as exc:
        raise RemoteProtocolError(
            "the checkpoint does not open with this recovery key", code="DECRYPTION_FAILED"
        ) from exc


def open_delta(
    published: bytes, host: Address, recovery_secret: bytes, crypto: Crypto
) -> CheckpointDelta:
    """A published delta, encrypted or in clear, as its renter reads it.

    Raises:
        RemoteProtocolError: it is malformed, not signed by `host`, or does not open with this key.
    """
    fields = Fields.parse(published, "checkpoint delta")
    if not fields.flag("encrypted"):
        return CheckpointDelta.decode(published, host, crypto)
    digest = crypto.keccak256(fields.hex("ciphertext"))
    _require_host(digest, fields, ("hostSignature",), host, crypto)
    return CheckpointDelta.decode(decrypt_delta(published, recovery_secret, crypto), host, crypto)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointEntry:
    """One claim in the index; token range is [start, end). Times in milliseconds."""

    index: int
    proof_hash: Hash32
    proof_cid: str
    delta_cid: str
    start_token: int
    end_token: int
    timestamp: int
    is_encrypted: bool

    def to_json(self) -> Json:
        return {
            "index": self.index,
            "proofHash": self.proof_hash,
            "proofCid": self.proof_cid,
            "deltaCid": self.delta_cid,
            "tokenRange": [self.start_token, self.end_token],
            "timestamp": self.timestamp,
            "encrypted": self.is_encrypted,
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Every spelling that era-C writes. Raises RemoteProtocolError."""
        range_ = fields.items("tokenRange", limit=2)
        ends = Fields({str(i): end for i, end in enumerate(range_)}, f"{fields.where}.tokenRange")
        start, end = ends.integer("0", limit=_EXACT), ends.integer("1", limit=_EXACT)
        if end < start:
            raise RemoteProtocolError(f"{fields.where}: the token range ends before it starts")
        return cls(
            index=fields.integer("index", limit=_EXACT),
            proof_hash=fields.hash32("proofHash"),
            proof_cid=fields.optional_text("proofCid", "proofCID", limit=128) or "",
            delta_cid=fields.text("deltaCid", "deltaCID", limit=128),
            start_token=start,
            end_token=end,
            timestamp=fields.integer("timestamp", limit=_EXACT),
            is_encrypted=fields.flag("encrypted"),
        )


def encode_index(
    job_id: JobId,
    host: Address,
    entries: Sequence[CheckpointEntry],
    host_secret: bytes,
    crypto: Crypto,
) -> bytes:
    """What GET /v1/checkpoints/{session_id} answers."""
    checkpoints: Json = [entry.to_json() for entry in entries]
    return canonical_json(
        {
            "sessionId": str(job_id),
            "hostAddress": host,
            "checkpoints": checkpoints,
            "hostSignature": _personal_sign(host_secret, canonical_json(checkpoints), crypto),
        }
    )


def decode_index(
    data: bytes, job_id: JobId, host: Address, crypto: Crypto
) -> tuple[CheckpointEntry, ...]:
    """The claims of a session, as its host signed them.

    Raises:
        RemoteProtocolError: it is malformed, of another session, or not signed by `host`.
    """
    fields = Fields.parse(data, "checkpoint index")
    if (
        fields.identifier("sessionId") != str(job_id)
        or fields.address("hostAddress") != host.lower()
    ):
        raise RemoteProtocolError("the checkpoint index is another session's")
    signature = ("hostSignature", "checkpointsSignature")
    _require_host(_canonical(fields, "checkpoints"), fields, signature, host, crypto)
    entries = fields.children("checkpoints", limit=_MOST_ITEMS)
    return tuple(CheckpointEntry.from_fields(entry) for entry in entries)
