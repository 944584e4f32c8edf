"""Checkpoints in era-C's exact forms: the conversation's delta, and the index of all of them.

A delta is published only encrypted, to the renter's recovery key. When a client gave none, the
host publishes a delta without content, so that nobody's conversation lies open.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import Address, Hash32, JobId
from fabstir.protocol.chat import ChatMessage
from fabstir.protocol.crypto import Crypto, DecryptionError
from fabstir.protocol.eip712 import personal_digest
from fabstir.protocol.envelope import hkdf_sha256
from fabstir.protocol.fields import Fields

_DELTA_INFO = b"checkpoint-delta-encryption-v1"


def _personal_sign(secret_key: bytes, message: bytes, crypto: Crypto) -> str:
    signature = crypto.sign(secret_key, personal_digest(message, crypto))
    return "0x" + signature[:64].hex() + f"{signature[64] + 27:02x}"


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedMessage:
    """A message of the conversation; `timestamp` in milliseconds of Unix time."""

    message: ChatMessage
    timestamp: int
    is_partial: bool = False

    def to_json(self) -> Json:
        out: dict[str, Json] = {
            "role": self.message.role,
            "content": self.message.content,
            "timestamp": self.timestamp,
        }
        if self.is_partial:
            out["metadata"] = {"partial": True}
        return out


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
