"""Public keys as S5 writes them: a byte of key type, then the key."""

from __future__ import annotations

from typing import Final

from fabstir.primitives.errors import RemoteProtocolError

ED25519: Final = 0xED
"""The only key type that S5 uses."""

MULTIKEY_BYTES: Final = 33


def encode_multikey(public_key: bytes) -> bytes:
    """33 bytes, `ed | key`.

    Raises:
        ValueError: the key has not 32 bytes.
    """
    if len(public_key) != MULTIKEY_BYTES - 1:
        raise ValueError(f"ed25519 keys have 32 bytes, not {len(public_key)}")
    return bytes([ED25519]) + public_key


def decode_multikey(raw: bytes) -> bytes:
    """The 32 bytes of an ed25519 key.

    Raises:
        RemoteProtocolError: not 33 bytes, or of another key type.
    """
    if len(raw) != MULTIKEY_BYTES or raw[0] != ED25519:
        raise RemoteProtocolError(
            "public keys of S5 are ed25519: 33 bytes, the first of them ed, "
            f"not {len(raw)} bytes that begin with {raw[:1].hex() or 'nothing'}"
        )
    return bytes(raw[1:])
