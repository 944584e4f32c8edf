"""The native primitives that the protocol needs, as plain functions.

The core imports no native crypto, so that the browser build runs the same files: the node fills
this record from `fabstir.crypto`, the browser from WebCrypto.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from fabstir.primitives.ids import Address


class DecryptionError(ValueError):
    """The ciphertext, its key, its nonce or its associated data do not belong together."""


class BadSignatureError(ValueError):
    """The signature is malformed or recovers to no public key."""


_FIELD_PRIME: Final = 2**256 - 2**32 - 977
"""secp256k1's field."""


def is_curve_point(compressed: bytes) -> bool:
    """Whether 33 bytes are a compressed point of secp256k1.

    In Python, because decoders refuse a bad key where it arrives and have no native crypto: a
    recovery key is first used when the host claims, where it is too late to refuse it.
    """
    if len(compressed) != 33 or compressed[0] not in {2, 3}:
        return False
    x = int.from_bytes(compressed[1:], "big")
    square = (x**3 + 7) % _FIELD_PRIME
    return x < _FIELD_PRIME and pow(square, (_FIELD_PRIME - 1) // 2, _FIELD_PRIME) == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Crypto:
    """Functions over bytes. Keys are 32-byte secrets or 33-byte compressed secp256k1 points, and
    for ed25519 32-byte seeds and 32-byte points."""

    keccak256: Callable[[bytes], bytes]
    blake3: Callable[[bytes], bytes]
    public_key: Callable[[bytes], bytes]
    """Secret key to its compressed public key. Raises ValueError: not a valid secret key."""
    ecdh_x: Callable[[bytes, bytes], bytes]
    """(secret key, public key) to the 32-byte x coordinate of the shared point.
    Raises ValueError: not a point of the curve."""
    sign: Callable[[bytes, bytes], bytes]
    """(secret key, 32-byte digest) to 65 bytes r | s | recovery id 0 or 1, s in the low half."""
    recover: Callable[[bytes, bytes], bytes]
    """(65-byte signature, 32-byte digest) to the compressed public key; the recovery id may be
    0, 1, 27 or 28, s must lie in the low half. Raises BadSignatureError."""
    address_of: Callable[[bytes], Address]
    """Compressed public key to its address."""
    seal: Callable[[bytes, bytes, bytes, bytes], bytes]
    """XChaCha20-Poly1305 (key 32, nonce 24, associated data, plaintext), tag appended."""
    open: Callable[[bytes, bytes, bytes, bytes], bytes]
    """The inverse of `seal`. Raises DecryptionError."""
    ed25519_public_key: Callable[[bytes], bytes]
    """32-byte seed to its 32-byte public key."""
    ed25519_sign: Callable[[bytes, bytes], bytes]
    """(32-byte seed, message) to a signature of 64 bytes."""
    ed25519_verify: Callable[[bytes, bytes, bytes], bool]
    """(32-byte public key, message, signature) to whether it is one; False for any malformed
    key or signature too."""
    xxh64: Callable[[bytes], int]
    """xxHash64 with seed 0, as an integer below 2^64. Not a cryptographic hash."""
