"""End-to-end encryption of a session, in the form existing clients speak, and our extension.

The handshake is era-C's: an ephemeral secp256k1 key, ECDH with the host's published key (x
coordinate), HKDF-SHA256, XChaCha20-Poly1305, and a signature over the transcript. Era-C messages
use the session key in both directions. The extension derives one key a direction from a second,
ephemeral-ephemeral exchange (forward secret) with counters as nonces, so that nothing can be
replayed, reflected or reordered.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from typing import Self

from fabstir.primitives.encoding import Json, canonical_json
from fabstir.primitives.errors import RemoteProtocolError
from fabstir.primitives.ids import Address, ChainId, JobId
from fabstir.protocol.crypto import BadSignatureError, Crypto, DecryptionError
from fabstir.protocol.fields import Fields

ALG = "secp256k1-ecdh(ephemeral→static)+hkdf(sha256)+xchacha20-poly1305"
"""Era-C's name of the suite; informative, never checked."""

KEY_BYTES = 32
NONCE_BYTES = 24
_NO_SALT = bytes(32)
_TRANSCRIPT = b"E2EEv1"
_EXTENSION_INFO = b"fabstir/2 directions"


def hkdf_sha256(secret: bytes, *, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869."""
    key = hmac.new(salt or bytes(32), secret, hashlib.sha256).digest()
    out, block = b"", b""
    for counter in range(1, -(-length // 32) + 1):
        block = hmac.new(key, block + info + bytes([counter]), hashlib.sha256).digest()
        out += block
    return out[:length]


def _require(fields: Fields, *names: str) -> None:
    for name in names:
        if fields.get(name) is None:
            raise RemoteProtocolError(f"{fields.where} lacks {name}", code="MISSING_PAYLOAD_FIELDS")


@dataclass(frozen=True, slots=True)
class SealedPayload:
    """One encrypted message: ciphertext with its tag, a 24-byte nonce, associated data."""

    ciphertext: bytes
    nonce: bytes
    aad: bytes

    def to_json(self) -> dict[str, Json]:
        return {
            "ciphertextHex": self.ciphertext.hex(),
            "nonceHex": self.nonce.hex(),
            "aadHex": self.aad.hex(),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError with the codes era-C clients know."""
        _require(fields, "ciphertextHex", "nonceHex")
        return cls(
            fields.hex("ciphertextHex"),
            fields.hex("nonceHex", size=NONCE_BYTES, code="INVALID_NONCE_SIZE"),
            b"" if fields.get("aadHex") is None else fields.hex("aadHex"),
        )


def seal_payload(
    key: bytes, nonce: bytes, aad: bytes, plaintext: bytes, crypto: Crypto
) -> SealedPayload:
    """Encrypt one message under a session key; `nonce` is 24 bytes, once only."""
    return SealedPayload(crypto.seal(key, nonce, aad, plaintext), nonce, aad)


def open_payload(key: bytes, payload: SealedPayload, crypto: Crypto) -> bytes:
    """Raises RemoteProtocolError (DECRYPTION_FAILED)."""
    try:
        return crypto.open(key, payload.nonce, payload.aad, payload.ciphertext)
    except DecryptionError as exc:
        raise RemoteProtocolError(
            "the message does not decrypt under the session's key: send encrypted_session_init "
            "again, and encrypt with the session key given there",
            code="DECRYPTION_FAILED",
        ) from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class InitEnvelope:
    """The payload of encrypted_session_init."""

    ephemeral_public_key: bytes
    salt: bytes
    sealed: SealedPayload
    info: bytes
    signature: bytes

    def transcript(self, host_public_key: bytes) -> bytes:
        """sha256 over what the client signs."""
        parts = [
            _TRANSCRIPT,
            self.ephemeral_public_key,
            host_public_key,
            self.salt,
            self.sealed.nonce,
            self.info,
        ]
        if self.sealed.aad:
            parts.append(self.sealed.aad)
        return hashlib.sha256(b"|".join(parts)).digest()

    def to_json(self) -> dict[str, Json]:
        return {
            "ephPubHex": self.ephemeral_public_key.hex(),
            "saltHex": self.salt.hex(),
            **self.sealed.to_json(),
            "signatureHex": self.signature.hex(),
            "recid": self.signature[64],
            "alg": ALG,
            "info": self.info.decode(),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> Self:
        """Raises RemoteProtocolError."""
        _require(fields, "ephPubHex", "signatureHex")
        signature = fields.hex("signatureHex")
        if len(signature) == 64:
            signature += bytes([fields.integer("recid", limit=32)])
        if len(signature) != 65:
            raise RemoteProtocolError(f"{fields.where}: signatureHex must be 65 bytes")
        salt = _NO_SALT if fields.get("saltHex") is None else fields.hex("saltHex")
        if len(salt) not in {0, 32}:  # a free length would blur where the transcript's salt ends
            raise RemoteProtocolError(f"{fields.where}: saltHex must be 32 bytes or empty")
        return cls(
            ephemeral_public_key=fields.hex("ephPubHex", size=33),
            salt=salt,
            sealed=SealedPayload.from_fields(fields),
            info=(fields.optional_text("info", limit=256) or "").encode(),
            signature=signature,
        )


@dataclass(frozen=True, slots=True)
class OpenedInit:
    """What a host learns from an init: its plaintext, and the address that signed it."""

    plaintext: bytes
    signer: Address


def _init_key(shared_x: bytes, salt: bytes, info: bytes) -> bytes:
    return hkdf_sha256(shared_x, salt=salt, info=info, length=KEY_BYTES)


def seal_init(
    plaintext: bytes,
    *,
    host_public_key: bytes,
    ephemeral_secret: bytes,
    signing_secret: bytes,
    nonce: bytes,
    aad: bytes,
    crypto: Crypto,
) -> InitEnvelope:
    """Make an init. `ephemeral_secret` and `nonce` are random and used once."""
    shared = crypto.ecdh_x(ephemeral_secret, host_public_key)
    key = _init_key(shared, _NO_SALT, b"")
    unsigned = InitEnvelope(
        ephemeral_public_key=crypto.public_key(ephemeral_secret),
        salt=_NO_SALT,
        sealed=seal_payload(key, nonce, aad, plaintext, crypto),
        info=b"",
        signature=bytes(65),
    )
    signature = crypto.sign(signing_secret, unsigned.transcript(host_public_key))
    return InitEnvelope(
        ephemeral_public_key=unsigned.ephemeral_public_key,
        salt=unsigned.salt,
        sealed=unsigned.sealed,
        info=unsigned.info,
        signature=signature,
    )


def open_init(envelope: InitEnvelope, host_secret: bytes, crypto: Crypto) -> OpenedInit:
    """Decrypt an init and recover its signer over the real transcript.

    Raises:
        RemoteProtocolError: not a curve point, not for this host's key, or badly signed.
    """
    try:
        shared = crypto.ecdh_x(host_secret, envelope.ephemeral_public_key)
    except ValueError as exc:
        raise RemoteProtocolError("ephPubHex is not a secp256k1 point") from exc
    key = _init_key(shared, envelope.salt, envelope.info)
    sealed = envelope.sealed
    try:
        plaintext = crypto.open(key, sealed.nonce, sealed.aad, sealed.ciphertext)
        digest = envelope.transcript(crypto.public_key(host_secret))
        signer = crypto.address_of(crypto.recover(envelope.signature, digest))
    except DecryptionError as exc:
        raise RemoteProtocolError(
            "the init does not decrypt: encrypt it to the publicKey in this host's metadata",
            code="DECRYPTION_FAILED",
        ) from exc
    except BadSignatureError as exc:
        raise RemoteProtocolError("the init's signature recovers to no key") from exc
    return OpenedInit(plaintext, signer)


def init_aad(chain_id: ChainId, contract: Address, job_id: JobId, host: Address) -> bytes:
    """The extension's associated data: binds the handshake to one job on one chain."""
    return f"fabstir/2|{chain_id}|{contract}|{job_id}|{host}".encode()


@dataclass(slots=True)
class _Direction:
    key: bytes
    counter: int = 0

    def next_nonce(self) -> bytes:
        nonce = self.counter.to_bytes(NONCE_BYTES, "big")
        self.counter += 1
        return nonce


class SecureChannel:
    """The extension's message encryption: one key and one counter a direction.

    Not safe for concurrent use of one direction: seal in the order in which frames are sent.
    """

    def __init__(self, send: _Direction, receive: _Direction, crypto: Crypto) -> None:
        self._send = send
        self._receive = receive
        self._crypto = crypto

    @classmethod
    def derive(
        cls,
        *,
        is_host: bool,
        session_key: bytes,
        ephemeral_secret: bytes,
        peer_ephemeral_public_key: bytes,
        context: bytes,
        crypto: Crypto,
    ) -> Self:
        """Derive both directions.

        Args:
            session_key: from the init; only the true host can know it, which authenticates it.
            ephemeral_secret: our key of this handshake; forget it afterwards.
            context: the init's associated data; both sides must agree on it.

        Raises:
            RemoteProtocolError: the peer's ephemeral key is not a point.
        """
        try:
            shared = crypto.ecdh_x(ephemeral_secret, peer_ephemeral_public_key)
        except ValueError as exc:
            raise RemoteProtocolError("the peer's ephemeral key is not a curve point") from exc
        ours = crypto.public_key(ephemeral_secret)
        client, host = (
            (peer_ephemeral_public_key, ours) if is_host else (ours, peer_ephemeral_public_key)
        )
        keys = hkdf_sha256(
            shared + session_key,
            salt=hashlib.sha256(context).digest(),
            # Both keys as sent: a point and its negative share their x coordinate, so without
            # this an altered ephPubHex would go unseen.
            info=_EXTENSION_INFO + client + host,
            length=2 * KEY_BYTES,
        )
        to_host, to_client = _Direction(keys[:KEY_BYTES]), _Direction(keys[KEY_BYTES:])
        send, receive = (to_client, to_host) if is_host else (to_host, to_client)
        return cls(send, receive, crypto)

    def seal(self, plaintext: bytes, binding: str) -> SealedPayload:
        """Encrypt the next message; `binding` is the frame's type, session id and request id."""
        nonce = self._send.next_nonce()
        return seal_payload(self._send.key, nonce, binding.encode(), plaintext, self._crypto)

    def open(self, payload: SealedPayload, binding: str) -> bytes:
        """Decrypt the peer's next message.

        Raises:
            RemoteProtocolError: replayed, reordered, of another frame, or not decryptable.
        """
        expected = self._receive.counter.to_bytes(NONCE_BYTES, "big")
        if payload.nonce != expected:
            raise RemoteProtocolError(
                "a message was replayed, lost or reordered: open the session anew",
                code="REPLAYED_MESSAGE",
            )
        if payload.aad != binding.encode():
            raise RemoteProtocolError("a message's frame was altered", code="DECRYPTION_FAILED")
        plaintext = open_payload(self._receive.key, payload, self._crypto)
        self._receive.counter += 1
        return plaintext


def frame_binding(kind: str, session_id: str, request_id: str) -> str:
    """What an extension frame's associated data says of the frame around it.

    JSON, because ids are the client's and may hold any separator.
    """
    return canonical_json([kind, session_id, request_id]).decode()
