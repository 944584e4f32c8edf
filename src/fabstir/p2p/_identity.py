"""The libp2p private key on disk: an Ed25519 key in libp2p's protobuf form, mode 0600."""

from __future__ import annotations

from pathlib import Path

from google.protobuf.message import DecodeError
from libp2p.crypto.ed25519 import Ed25519PrivateKey, create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.serialization import deserialize_private_key

from fabstir.db.files import OpenToOthers, create_private, read_secret
from fabstir.primitives.errors import KeystoreError

_MAX_KEY_BYTES = 4096
"""An Ed25519 key has 68."""


def load_or_create_identity(path: Path) -> KeyPair:
    """The key in `path`; a new one is written there if there is no file.

    Raises:
        KeystoreError: others may read the file, it cannot be read or written, or it holds no
            Ed25519 key.
    """
    try:
        if not path.exists():
            create_private(path, create_new_key_pair().private_key.serialize())
        encoded = read_secret(path, _MAX_KEY_BYTES)
    except OpenToOthers as exc:
        raise KeystoreError(f"{path} can be read by other users: chmod 600 it") from exc
    except OSError as exc:
        raise KeystoreError(
            f"cannot use the libp2p key file {path} ({exc}): correct p2p.identity"
        ) from exc
    return _decode(encoded, path)


def _decode(encoded: bytes, path: Path) -> KeyPair:
    error = KeystoreError(
        f"{path} holds no libp2p Ed25519 key: restore it, or delete it to get a new peer id"
    )
    try:
        private_key = deserialize_private_key(encoded)
    except (DecodeError, ValueError, TypeError, KeyError, AssertionError) as exc:
        raise error from exc
    if not isinstance(private_key, Ed25519PrivateKey):
        raise error
    return KeyPair(private_key, private_key.get_public_key())
