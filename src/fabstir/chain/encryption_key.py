"""The host's session-encryption key: 64 hex digits in a file of mode 0600.

It opens what renters seal for this host, and signs no money, so it has no password: a host that
restarts unattended must still read its sessions.
"""

from __future__ import annotations

import secrets
from pathlib import Path

from fabstir.chain.keystore import read_secret_file, write_secret_file
from fabstir.crypto import NATIVE
from fabstir.primitives.errors import KeystoreError


def load_or_create_encryption_key(path: Path) -> bytes:
    """The 32-byte secret in `path`; a new one is written there if there is no file.

    Raises:
        KeystoreError: others may read the file, it cannot be read or written, or it holds no key.
    """
    if not path.exists():
        write_secret_file(path, secrets.token_hex(32))
    error = KeystoreError(
        f"{path} holds no encryption key (64 hex digits): restore it, or delete it to get a new "
        "one, which must then be published with `fabstir register`"
    )
    try:
        key = bytes.fromhex(read_secret_file(path))
        NATIVE.public_key(key)
    except ValueError as exc:
        raise error from exc
    return key
