"""The hidden DB: small files that only their owner can find, write and read.

A path's key is `int(str(...str(root, segment)..., segment), 1)`; below it `int(key, 2)` signs the
registry entry and `int(key, 3)` encrypts the blob that the entry points at. Nothing links two
paths, nor a path to its owner.
"""

from __future__ import annotations

from typing import Final

from fabstir.protocol.crypto import Crypto
from fabstir.s5.formats.derivation import DirectoryKeys, derive_int, derive_str

ACCOUNTS_PATH: Final = "accounts.json"
"""Where S5.js keeps the seeds of a user's accounts at portals."""

_PATH = 1
_WRITE = 2
_ENCRYPTION = 3


def hidden_db_keys(root: bytes, path: str, crypto: Crypto) -> DirectoryKeys:
    """The keys of one path.

    Args:
        root: `Identity.hidden_db_root()`.
        path: segments between slashes; spaces around a segment and empty segments count for
            nothing, as in S5.js.

    Raises:
        ValueError: the root has not 32 bytes, or the path has lone surrogates.
    """
    key = root
    for segment in filter(None, (part.strip() for part in path.split("/"))):
        key = derive_str(key, segment, crypto)
    key = derive_int(key, _PATH, crypto)
    write_key = derive_int(key, _WRITE, crypto)
    encryption_key = derive_int(key, _ENCRYPTION, crypto)
    return DirectoryKeys(write_key, encryption_key, crypto.ed25519_public_key(write_key))
